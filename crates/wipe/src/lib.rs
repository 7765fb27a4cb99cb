//! ess-wipe: erase the target database, with a backup to undo it.

mod guards;
mod plan;
mod undo;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use ess_archive::{
    Compression, DumpKind, DumpLayout, Dumping, FoundDump, Manifest, Origin, check_is_of, find, finish_rename,
    read_back, take,
};
use ess_cli::{Context, Exit, Stop};
use ess_document::{FenceState, Identity, Next, SourceCheck, Wipe, now};
use ess_files::make_directory;
use ess_postgres::{Conninfo, Inventory, Reading, change_since, count_by_kind};
use ess_proof::{Expected, Fence, Proving, SourceToCheck, State, Target, undo_command, wait_until_unused};
use ess_run::text::count;
use ess_run::{Installation, Need, Report, Silent, choose, in_quotes};
use ess_servers::{LiftArgs, SourceArgs, TargetArgs};

use plan::Plan;

/// Commands that `--help` shows.
const EXAMPLES: &str = "\
# Print the plan, and change nothing
ess-wipe < dumped.json > plan.json
# Carry it out
ess-wipe --execute --confirm example.org/synapse < dumped.json > wiped.json
# Print what an undo would bring back, and change nothing
ess-wipe -n --undo --export export";

/// Erase the target database, with a backup to undo it
///
/// Prints what it would erase and changes nothing, unless --execute and --confirm are given. Backs up
/// the target and reads the backup back first, then drops everything in one transaction and leaves
/// a fence that keeps Synapse from starting until `restore` has proven what it loaded.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct Args {
    #[command(flatten)]
    target: TargetArgs,
    /// Carry out the plan; without this option it is printed and nothing is changed
    #[arg(long, requires = "confirm")]
    execute: bool,
    /// Confirm what to erase, as SERVER_NAME/DBNAME
    #[arg(long, value_name = "NAME")]
    confirm: Option<String>,
    /// Hash of the printed plan; refuse if the plan has changed since
    #[arg(long, value_name = "HASH")]
    plan: Option<String>,
    /// Bring back what a wipe erased, from its backup
    #[arg(long, conflicts_with = "no_fence")]
    undo: bool,
    /// Name of the homeserver, if no document contains it
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    /// The source's SYSTEM_IDENTIFIER/DBNAME, if no document contains it
    #[arg(long, value_name = "ID")]
    source_identity: Option<String>,
    /// Directory of the backup, which is written, or with --undo read (default: EXPORT/ess-before-wipe)
    #[arg(long, value_name = "DIR", conflicts_with = "no_backup")]
    backup: Option<PathBuf>,
    /// With --undo, the dump that was restored, to compare the target with (default: EXPORT/dump)
    #[arg(long, value_name = "DIR", requires = "undo")]
    dump: Option<PathBuf>,
    /// Make no backup, so that the wipe cannot be undone
    #[arg(long)]
    no_backup: bool,
    /// Erase a database that people have used
    #[arg(long)]
    allow_used: bool,
    /// Also erase this table that is not Synapse's, as SCHEMA.TABLE; repeatable
    #[arg(long, value_name = "NAME")]
    also_erase: Vec<String>,
    /// Erase what another migration has loaded behind its fence
    #[arg(long)]
    allow_other_migration: bool,
    /// Role that can stay connected, such as a monitor's; repeatable
    #[arg(long, value_name = "ROLE")]
    ignore_role: Vec<String>,
    /// Leave the database completely empty, for your own pg_restore
    #[arg(long)]
    no_fence: bool,
    /// Number of sessions that make the backup (default: the number of processors)
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// Directory of pg_dump and pg_restore
    #[arg(long, value_name = "DIR")]
    pg_bin: Option<PathBuf>,
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    lift: LiftArgs,
}

/// Runs ess-wipe.
pub fn run(args: &Args, context: &mut Context) -> anyhow::Result<Exit> {
    if args.undo {
        // The export alone is enough to undo a wipe: it contains the saved documents.
        context.adopt_saved();
    }
    let reached = ess_servers::needed(context, &args.target)?;
    let conninfo = &reached.conninfo;
    ess_servers::name_server(context, args.server_name.as_deref())?;
    if args.undo {
        return undo::run(args, context, conninfo);
    }
    let source = ess_servers::source_to_check(context, &args.source)?;
    context.lock_export()?;
    let dump = dump(context)?;
    if let Some(dump) = &dump {
        ess_servers::adopt_source(context, dump)?;
    }
    ess_servers::identify_source(context, &source)?;
    let target = ess_servers::lock_target(context, conninfo)?;
    let identity = source_identity(args, context)?;
    target.refuse_if_source(identity.as_ref())?;
    target.require_role()?;
    if !args.no_fence {
        ess_proof::require_locale(&target.facts)?;
    }
    if let Some(dump) = &dump
        && let Some(fence) = already_loaded(args, context, conninfo, &target, dump, &source)?
    {
        return keep_loaded(args, context, target, fence);
    }
    let resumed = guards::check(args, context, &target, identity.as_ref(), dump.as_ref())?;
    erase(args, context, conninfo, target, identity, resumed)
}

/// Prints the plan; if it is confirmed, backs up the target and erases it.
fn erase(
    args: &Args,
    context: &mut Context,
    conninfo: &Conninfo,
    target: Target,
    identity: Option<Identity>,
    resumed: bool,
) -> anyhow::Result<Exit> {
    let server_name = guards::server_name(context, &target, None)?;
    let plan = Plan::of(&target, vec![format!("homeserver {server_name}")])?;
    let needs_backup = !args.no_backup && !resumed && !plan.objects.is_empty();
    let programs = needs_backup.then(|| backup_programs(args, &target)).transpose()?;
    if needs_backup {
        guards::require_restorable(&target)?;
    }
    if let Some(source) = &identity {
        show_rehearsal(context, source, &target);
    }
    if !agreed(args, context, &target, &plan, &server_name, resumed)? {
        drop(target);
        context.finish()?;
        return Ok(Exit::Done);
    }

    wait_until_unused(&target.session, &args.ignore_role, "target")?;
    let backup = if let Some(programs) = programs {
        let place = backup_place(args, context)?;
        let mark = back_up(args, context, conninfo, &target, &server_name, &place, &programs)?;
        Some((place, Some(mark)))
    } else {
        // Keep the first backup for the undo, however often the command is re-run.
        let first = target.fence.as_ref().and_then(|fence| fence.backup.clone());
        first.map(|path| (PathBuf::from(path), None))
    };
    let (backup, held) = backup.unzip();
    let fence = Fence::new(
        context.document.id.clone().unwrap_or_default(),
        identity,
        backup.as_ref().map(|path| path.to_string_lossy().into_owned()),
    );
    let undo = backup
        .as_deref()
        .map(|backup| undo_command(&context.document, backup, Some(&server_name)));
    // Save the document before anything is erased, so that it shows how to undo the wipe even if this run is killed.
    let planned = Done {
        plan: Some(&plan),
        backup: backup.clone(),
        undo: undo.clone(),
        ..Done::default()
    };
    context.document.wipe = Some(section(context, args, planned));
    context.save()?;
    plan.execute(&target, (!args.no_fence).then_some(&fence), held.flatten().as_ref())?;
    let (fence, end) = if args.no_fence {
        (FenceState::Absent, "no fence was left")
    } else {
        (
            FenceState::Standing,
            "Synapse cannot start on the target until a restore is proven",
        )
    };
    let erased = count(plan.objects.len(), "object");
    context.console.line(&format!("ess-wipe: erased {erased}; {end}"));
    let done = Done {
        plan: Some(&plan),
        backup,
        fence,
        undo,
        undone: false,
    };
    record(context, args, done);
    drop(target);
    context.finish()?;
    Ok(Exit::Done)
}

/// The state of the fence, if the target already holds the dump; `None` if the target has to be erased.
///
/// # Errors
///
/// The dump could not be loaded into the target, or its source has changed since.
fn already_loaded(
    args: &Args,
    context: &Context,
    conninfo: &Conninfo,
    target: &Target,
    dump: &Manifest,
    source: &SourceToCheck,
) -> anyhow::Result<Option<FenceState>> {
    let expected = Expected::of_dump(dump);
    ess_proof::require_compatible(target, &dump.inventory)?;
    let name = context.application_name();
    let proving = proving(args, context, conninfo, target, &name);
    check_source(args, &proving, source, &expected)?;
    if args.no_fence {
        return Ok(None);
    }
    match proving.state(target, Some(&expected))? {
        State::Loaded => return Ok(Some(FenceState::Standing)),
        State::Proven(_) => return Ok(Some(FenceState::Lifted)),
        State::Empty | State::Foreign | State::Fenced => {}
    }
    can_be_loaded(args, context, target, dump)?;
    Ok(None)
}

/// Ends a run on a target that already holds the dump: nothing is erased, and the first backup stays the undo.
fn keep_loaded(args: &Args, context: &mut Context, target: Target, fence: FenceState) -> anyhow::Result<Exit> {
    context.console.line(match fence {
        FenceState::Standing => "ess-wipe: the dump is already loaded behind the fence; restore will prove it",
        _ => "ess-wipe: the target already holds the dump, proven; there is nothing to erase",
    });
    let first = target.fence.as_ref().and_then(|fence| fence.backup.clone());
    let export = context.document.export.as_ref();
    let backup = args
        .backup
        .clone()
        .or(first.map(PathBuf::from))
        .or(export.map(|export| export.join("ess-before-wipe")));
    let backup = backup.filter(|place| is_backup_of(place, &target));
    let server_name = guards::server_name(context, &target, None)?;
    let undo = backup
        .as_deref()
        .map(|backup| undo_command(&context.document, backup, Some(&server_name)));
    record(
        context,
        args,
        Done {
            backup,
            fence,
            undo,
            ..Done::default()
        },
    );
    drop(target);
    context.finish()?;
    Ok(Exit::Done)
}

/// Prints the plan, and returns whether the options confirm that it is carried out now.
///
/// If not, it is recorded in the document as a plan.
fn agreed(
    args: &Args,
    context: &mut Context,
    target: &Target,
    plan: &Plan,
    server_name: &str,
    resumed: bool,
) -> anyhow::Result<bool> {
    let confirmation = format!("{server_name}/{}", target.facts.identity.database);
    plan.show(&context.console, target, &confirmation);
    match &args.plan {
        // The plan described what an earlier run of the same command has erased since.
        Some(_) if resumed => context
            .console
            .note("--plan is not compared: the target was erased before, and is fenced"),
        Some(hash) => plan.is(hash, context)?,
        None => {}
    }
    if !args.execute {
        context.console.line(&format!(
            "nothing was changed; to carry out the plan, add: --execute --confirm {} --plan {}",
            in_quotes(&confirmation),
            plan.hash()
        ));
        let fence = if target.fence.is_some() {
            FenceState::Standing
        } else {
            FenceState::Absent
        };
        record(
            context,
            args,
            Done {
                plan: Some(plan),
                fence,
                ..Done::default()
            },
        );
        return Ok(false);
    }
    if args.confirm.as_deref() != Some(confirmation.as_str()) {
        let given = args.confirm.as_deref().unwrap_or_default();
        return Err(
            Stop::no(format!("--confirm is {given}, but this target is {confirmation}"))
                .hint("check --target before you change --confirm")
                .into(),
        );
    }
    Ok(true)
}

/// Prints whether the migration of this source to a server of that version was rehearsed.
fn show_rehearsal(context: &Context, source: &Identity, target: &Target) {
    let shown = context.rehearsal(source).map_or_else(
        || "not rehearsed".to_owned(),
        |latest| latest.shown(Some(target.facts.major())),
    );
    context.console.line(&format!("source: {source}, {shown}"));
}

/// The dump to be loaded later, if the document names one. It must be here, complete, and the document's.
fn dump(context: &Context) -> anyhow::Result<Option<Manifest>> {
    let Some(section) = &context.document.dump else {
        return Ok(None);
    };
    let place = context.document.locate(&section.path);
    let complete = || -> anyhow::Result<Manifest> {
        let found = find(&place)?;
        check_is_of(&found, Some(section))?;
        let FoundDump::WithManifest { manifest, .. } = found else {
            return Err(Stop::data(format!("{} has no manifest", place.display()))
                .hint("use the dump that pgdump-wrap made in this migration")
                .into());
        };
        manifest.check_unchanged(&place, &context.console)?;
        Ok(*manifest)
    };
    complete().map(Some).context("nothing was erased")
}

/// Refuses to erase anything if no client program on this host can load the dump into the target.
fn can_be_loaded(args: &Args, context: &Context, target: &Target, dump: &Manifest) -> anyhow::Result<()> {
    if let Some(section) = &context.document.dump {
        let place = context.document.locate(&section.path);
        Origin::of_manifest(&place, dump).programs(args.pg_bin.as_deref(), &target.facts.version_text)?;
    }
    Ok(())
}

/// Client programs that can back up the target and load the backup again.
fn backup_programs(args: &Args, target: &Target) -> anyhow::Result<Installation> {
    let target = target.facts.major();
    Ok(choose(args.pg_bin.as_deref(), Need::BackUp { target })?)
}

fn proving<'a>(
    args: &Args,
    context: &'a Context,
    conninfo: &'a Conninfo,
    target: &'a Target,
    application_name: &'a str,
) -> Proving<'a> {
    Proving {
        conninfo,
        application_name,
        role: &target.role,
        jobs: ess_proof::jobs(&target.session, args.jobs, &Silent),
        report: &context.console,
    }
}

fn source_identity(args: &Args, context: &Context) -> anyhow::Result<Option<Identity>> {
    let known = context
        .document
        .source
        .as_ref()
        .and_then(|source| source.identity.clone());
    let Some(text) = &args.source_identity else {
        return Ok(known);
    };
    let given = text
        .split_once('/')
        .map(|(system_identifier, database)| Identity {
            system_identifier: system_identifier.to_owned(),
            database: database.to_owned(),
        })
        .ok_or_else(|| {
            Stop::usage(format!(
                "--source-identity {text} is not of the form SYSTEM_IDENTIFIER/DBNAME"
            ))
        })?;
    if let Some(known) = known
        && known != given
    {
        return Err(Stop::contradiction("--source-identity", given, "source.identity", known).into());
    }
    Ok(Some(given))
}

/// Refuses a wipe for a dump that is out of date or whose fence could not be lifted in the end: it would be futile.
fn check_source(args: &Args, proving: &Proving<'_>, source: &SourceToCheck, expected: &Expected) -> anyhow::Result<()> {
    match proving.require_source(expected, source, args.lift.allow())? {
        Some(SourceCheck::InUse) if !args.lift.allow_running_source => Err(Stop::no(
            "the dump was taken while the source was in use, so what people wrote later is not in it",
        )
        .hint(
            "stop the old Synapse and repeat the dump: pgdump-wrap --replace; or use --allow-running-source if what \
             was written after the dump can be lost",
        )
        .into()),
        Some(check @ (SourceCheck::Unchecked { .. } | SourceCheck::InUse)) => {
            proving.report.note(&check.to_string());
            Ok(())
        }
        _ => Ok(()),
    }
}

/// The directory to write the backup to.
fn backup_place(args: &Args, context: &Context) -> anyhow::Result<PathBuf> {
    match (&args.backup, &context.document.export) {
        (Some(backup), _) => ess_files::absolute(backup),
        (None, Some(export)) => {
            make_directory(export)?;
            Ok(export.join("ess-before-wipe"))
        }
        (None, None) => Err(
            Stop::usage("no directory is known for the backup of what will be erased")
                .hint("use --backup DIR, or --no-backup if the wipe never has to be undone")
                .into(),
        ),
    }
}

/// Whether `place` is a backup of this target.
fn is_backup_of(place: &Path, target: &Target) -> bool {
    matches!(find(place), Ok(FoundDump::WithManifest { manifest, .. })
        if manifest.kind == DumpKind::Backup && manifest.source == target.facts.identity)
}

/// Backs up what is about to be erased and reads the backup back; returns what the target held.
fn back_up(
    args: &Args,
    context: &mut Context,
    conninfo: &Conninfo,
    target: &Target,
    server_name: &str,
    place: &Path,
    programs: &Installation,
) -> anyhow::Result<Inventory> {
    if context
        .document
        .export
        .as_ref()
        .is_none_or(|export| !place.starts_with(export))
    {
        context.lock_around(place)?;
    }
    if finish_rename(place)? {
        let refuse = |why: String| {
            Stop::no(format!("{} already exists: {why}", place.display())).hint(if args.undo {
                "move it elsewhere; it contains what an earlier --undo erased"
            } else {
                "move it elsewhere, or use another --backup DIR; it may be the backup that you need for an undo"
            })
        };
        let FoundDump::WithManifest { manifest, .. } = find(place).map_err(|error| refuse(format!("{error:#}")))?
        else {
            return Err(refuse("it is not a backup made by ess-wipe".to_owned()).into());
        };
        if manifest.kind != DumpKind::Backup {
            return Err(refuse("it is a dump made by pgdump-wrap, which --undo cannot load".to_owned()).into());
        }
        if manifest.source != target.facts.identity {
            return Err(refuse(format!("it is a backup of {}", manifest.source)).into());
        }
        let name = context.application_name();
        let jobs = ess_proof::jobs(&target.session, args.jobs, &Silent);
        let reading = Reading::now(conninfo, &name, jobs, &context.console);
        if let Some(change) = change_since(&target.session, Some(&reading), &manifest.inventory)? {
            return Err(refuse(format!("the target has changed since: {change}")).into());
        }
        read_back(place, &manifest, programs, &context.console).map_err(|error| refuse(format!("{error:#}")))?;
        context
            .console
            .note("kept the existing backup: the target has not changed since");
        return Ok(manifest.inventory);
    }
    let taken = take(
        &Dumping {
            conninfo,
            facts: &target.facts,
            application_name: &context.application_name(),
            programs,
            jobs: ess_proof::jobs_of_dump(&target.session, args.jobs, false, &context.console)?,
            layout: DumpLayout::Directory,
            compression: Compression(None),
            kind: DumpKind::Backup,
            id: context.document.id.as_deref().unwrap_or("-"),
            server_name: Some(server_name),
            source_is_running: false,
            report: &context.console,
        },
        place,
        None,
    )
    .context("cannot back up the target; nothing was erased")?;
    read_back(place, &taken.manifest, programs, &context.console)
        .context("the backup cannot be read; nothing was erased")?;
    context
        .console
        .note(&format!("backed up the target to {}", place.display()));
    Ok(taken.manifest.inventory)
}

/// The result of a run.
#[derive(Default)]
struct Done<'a> {
    /// What was to be erased; `None` if the target already held the dump.
    plan: Option<&'a Plan>,
    backup: Option<PathBuf>,
    fence: FenceState,
    /// The command that undoes the wipe.
    undo: Option<String>,
    undone: bool,
}

/// Records the result in the document, and prints the command that undoes it.
fn record(context: &mut Context, args: &Args, done: Done<'_>) {
    if let Some(line) = &done.undo {
        context.console.line(&format!("to undo the wipe: {line}"));
    }
    let mut section = section(context, args, done);
    section.executed = args.execute;
    context.document.wipe = Some(section);
}

/// The document's section, with `executed` false until the wipe is done.
fn section(context: &Context, args: &Args, done: Done<'_>) -> Wipe {
    let mut overrides = args.lift.overrides();
    let flags = [
        (args.allow_used, "--allow-used"),
        (!args.also_erase.is_empty(), "--also-erase"),
        (args.allow_other_migration, "--allow-other-migration"),
        (args.no_backup, "--no-backup"),
        (args.no_fence, "--no-fence"),
        (!args.ignore_role.is_empty(), "--ignore-role"),
    ];
    let given = flags.iter().filter(|(given, _)| *given);
    overrides.extend(given.map(|(_, flag)| (*flag).to_owned()));
    let planned = done.plan.filter(|_| !args.execute).map(|plan| plan.lines.clone());
    Wipe {
        version: context.version(),
        started_at: context.started_at.clone(),
        finished_at: now(),
        executed: false,
        plan: done.plan.map(Plan::hash),
        planned: planned.unwrap_or_default(),
        objects: done.plan.map(|plan| count_by_kind(&plan.objects)).unwrap_or_default(),
        kept: done.plan.is_none() && !done.undone,
        undone: done.undone,
        backup: done
            .backup
            .map(|path| ess_document::Document::relative(context.document.export.as_deref(), &path)),
        fence: done.fence,
        overrides,
        next: Next {
            go_on: if done.undone {
                Vec::new()
            } else {
                vec!["restore".to_owned()]
            },
            go_back: done.undo,
        },
    }
}
