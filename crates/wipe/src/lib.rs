//! ess-wipe: empty the target, with a way back.

mod guards;
mod plan;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use ess_archive::{Compression, Dumping, Found, Kind, Layout, Manifest, find, read_back, take};
use ess_cli::{Context, Exit, SourceArgs, Stop, TargetArgs, make_directory, now, processors};
use ess_document::{FenceState, Identity, Next, Wipe};
use ess_postgres::{Access, Conninfo, Error, Object, Session, count_by_kind, facts, moved, objects};
use ess_proof::{Fence, Target, nobody_else};
use ess_run::{Report, choose};

/// Empty the target database, with a way back
///
/// Prints what it would erase and changes nothing, unless --execute and --confirm say so. Backs up
/// what is there and reads the backup back first, then drops everything in one transaction and
/// leaves a fence that keeps Synapse from starting until `restore` has proven what it loaded.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct Args {
    /// Erase; without it the plan is printed and nothing is changed
    #[arg(long, requires = "confirm")]
    execute: bool,
    /// What is to be erased, as SERVER_NAME/DBNAME
    #[arg(long, value_name = "NAME")]
    confirm: Option<String>,
    /// The homeserver's name, when no document says it
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    /// The source's SYSTEM_IDENTIFIER/DBNAME, when no document says it
    #[arg(long, value_name = "ID")]
    source_identity: Option<String>,
    /// Where the backup goes; EXPORT/ess-before-wipe by default
    #[arg(long, value_name = "DIR", conflicts_with = "no_backup")]
    backup: Option<PathBuf>,
    /// Take no backup: there will be no way back
    #[arg(long)]
    no_backup: bool,
    /// Erase a database that people have used
    #[arg(long)]
    allow_used: bool,
    /// A role that may stay connected, such as a monitor's; repeatable
    #[arg(long, value_name = "ROLE")]
    ignore_role: Vec<String>,
    /// Leave the database truly empty, for a pg_restore of your own
    #[arg(long)]
    no_fence: bool,
    /// How many sessions take the backup; the number of processors by default
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// The directory of pg_dump, pg_restore and psql
    #[arg(long, value_name = "DIR")]
    pg_bin: Option<PathBuf>,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    source: SourceArgs,
}

/// Does the job of ess-wipe.
pub fn run(args: &Args, context: &mut Context) -> anyhow::Result<Exit> {
    let conninfo = context.target_needed(&args.target)?;
    if let Some(server_name) = &args.server_name {
        context.source_section().server_name = Some(server_name.clone());
    }
    let source = context.source_beside(&args.source)?;
    if let Some(export) = context.document.export.clone().filter(|export| export.is_dir()) {
        context.lock(&export.join(".lock"))?;
    }
    if let Some(source) = &source {
        ess_proof::identify_source(context, source)?;
    }
    let target = Target::open(context, &conninfo)?;
    let identity = source_identity(args, context, source.as_ref())?;
    target.is_not(identity.as_ref())?;
    if let Some(source) = &source {
        source_stands_still(context, source)?;
    }

    let resumed = guards::check(args, context, &target, identity.as_ref())?;
    let plan = objects(&target.session)?;
    plan::can_be_dropped(&target.session, &plan)?;
    let server_name = guards::server_name(context, &target)?;
    let confirmation = format!("{server_name}/{}", target.facts.identity.database);
    plan::show(&context.console, &target, &plan, &confirmation);
    if !args.execute {
        context.console.line(&format!(
            "nothing was changed; to erase, add: --execute --confirm '{confirmation}'"
        ));
        record(context, args, &plan, None, target.fence.is_some(), Vec::new());
        context.finish()?;
        return Ok(Exit::Done);
    }
    if args.confirm.as_deref() != Some(confirmation.as_str()) {
        let said = args.confirm.as_deref().unwrap_or_default();
        return Err(
            Stop::no(format!("--confirm says {said}, and this target is {confirmation}"))
                .hint("check --target before you change --confirm")
                .into(),
        );
    }

    nobody_else(&target.session, &args.ignore_role, "target")?;
    let backup = if args.no_backup || resumed || plan.is_empty() {
        // The first backup stays the undo, however often the line is run.
        target
            .fence
            .as_ref()
            .and_then(|fence| fence.backup.clone())
            .map(PathBuf::from)
    } else {
        Some(back_up(args, context, &conninfo, &target)?)
    };
    let fence = Fence::new(
        context.document.id.clone().unwrap_or_default(),
        identity,
        backup.as_ref().map(|path| path.to_string_lossy().into_owned()),
    );
    plan::execute(&target, &plan, (!args.no_fence).then_some(&fence)).context("nothing was erased")?;
    let undo = undo(args, context, backup.as_deref(), &confirmation);
    record(context, args, &plan, backup, !args.no_fence, undo);
    drop(target);
    context.finish()?;
    Ok(Exit::Done)
}

fn source_identity(args: &Args, context: &Context, source: Option<&Conninfo>) -> anyhow::Result<Option<Identity>> {
    let known = context
        .document
        .source
        .as_ref()
        .and_then(|source| source.identity.clone());
    let Some(text) = &args.source_identity else {
        return match (known, source) {
            (None, Some(source)) => asked_identity(context, source),
            (known, _) => Ok(known),
        };
    };
    let given = text
        .split_once('/')
        .map(|(system_identifier, database)| Identity {
            system_identifier: system_identifier.to_owned(),
            database: database.to_owned(),
        })
        .ok_or_else(|| Stop::usage(format!("--source-identity {text} is not SYSTEM_IDENTIFIER/DBNAME")))?;
    if let Some(known) = known
        && known != given
    {
        return Err(Stop::usage(format!(
            "--source-identity says {given}, the document's `source.identity` says {known}"
        ))
        .into());
    }
    Ok(Some(given))
}

/// What a source that is only named says of itself: it may be the target by another name.
fn asked_identity(context: &Context, source: &Conninfo) -> anyhow::Result<Option<Identity>> {
    match Session::connect(source, &context.application_name(), Access::ReadOnly) {
        Ok(session) => Ok(Some(facts(&session)?.identity)),
        Err(error @ Error::Connect { .. }) => {
            context
                .console
                .note(&format!("cannot see which database the source is: {error}"));
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// A wipe for a dump that is outdated already only costs time.
fn source_stands_still(context: &Context, source: &Conninfo) -> anyhow::Result<()> {
    let Some(dump) = &context.document.dump else {
        return Ok(());
    };
    let path = context.document.locate(&dump.path);
    let (manifest, _) = Manifest::read(&path)?;
    if manifest.source_was_running {
        return Ok(());
    }
    ess_proof::source_moved(
        source,
        &context.application_name(),
        &manifest.source,
        &manifest.inventory.mark,
        &context.console,
    )
}

/// Dumps what is about to be erased and reads the dump back; returns where it is.
fn back_up(args: &Args, context: &mut Context, conninfo: &Conninfo, target: &Target) -> anyhow::Result<PathBuf> {
    let place = match (&args.backup, &context.document.export) {
        (Some(backup), _) => std::path::absolute(backup).with_context(|| format!("cannot use {}", backup.display()))?,
        (None, Some(export)) => {
            make_directory(export)?;
            export.join("ess-before-wipe")
        }
        (None, None) => {
            return Err(Stop::usage("there is no place for the backup of what will be erased")
                .hint("give --backup DIR, or --no-backup if there is nothing to go back to")
                .into());
        }
    };
    if args.backup.is_some() {
        context.lock_around(&place)?;
    }
    let programs = choose(args.pg_bin.as_deref(), target.facts.major(), "this target")?;
    if std::fs::symlink_metadata(&place).is_ok() {
        let refuse = |why: String| {
            Stop::no(format!("{} is there already: {why}", place.display()))
                .hint("give another --backup DIR; what is there may be your way back")
        };
        let Found::Ours { manifest, .. } = find(&place).map_err(|error| refuse(format!("{error:#}")))? else {
            return Err(refuse("it is not a backup of ess-wipe".to_owned()).into());
        };
        if manifest.source != target.facts.identity {
            return Err(refuse(format!("it is of {}", manifest.source)).into());
        }
        if let Some(change) = moved(&target.session, &manifest.inventory.mark)? {
            return Err(refuse(format!("the target has moved since: {change}")).into());
        }
        read_back(&place, &manifest, &programs, &context.console).map_err(|error| refuse(format!("{error:#}")))?;
        context
            .console
            .note("kept the backup that is there: the target has not moved since");
        return Ok(place);
    }
    let server_name = context.document.source.as_ref().and_then(|s| s.server_name.clone());
    let taken = take(
        &Dumping {
            conninfo,
            facts: &target.facts,
            application_name: &context.application_name(),
            programs: &programs,
            jobs: args.jobs.map_or_else(processors, usize::from),
            layout: Layout::Directory,
            compression: Compression(None),
            kind: Kind::Backup,
            id: context.document.id.as_deref().unwrap_or("-"),
            server_name: server_name.as_deref(),
            source_is_running: false,
            report: &context.console,
        },
        &place,
        None,
    )
    .context("cannot back up the target; nothing was erased")?;
    read_back(&place, &taken.manifest, &programs, &context.console)
        .context("the backup cannot be read; nothing was erased")?;
    context
        .console
        .note(&format!("backed up the target to {}", place.display()));
    Ok(place)
}

/// The line that brings the erased database back.
fn undo(args: &Args, context: &Context, backup: Option<&Path>, confirmation: &str) -> Vec<String> {
    let Some(backup) = backup else { return Vec::new() };
    let target = context.document.target.clone().unwrap_or_default();
    let place: Vec<String> = ["host", "port", "user", "dbname", "sslmode", "sslrootcert"]
        .iter()
        .filter_map(|keyword| target.connection.get(*keyword).map(|value| (keyword, value)))
        .map(|(keyword, value)| format!("{keyword}='{}'", value.replace('\\', r"\\").replace('\'', r"\'")))
        .collect();
    let mut words = vec!["--target".to_owned(), shell(&place.join(" "))];
    if let Some(ess_document::PasswordAt::File { path }) = &target.password {
        words.extend(["--target-password-file".to_owned(), shell(&path.display().to_string())]);
    }
    if let Some(role) = &args.target.role {
        words.extend(["--role".to_owned(), shell(role)]);
    }
    let words = words.join(" ");
    let server_name = confirmation.split('/').next().unwrap_or_default();
    vec![format!(
        "ess-wipe -n {words} --server-name {} --execute --confirm {} --no-backup --allow-used | restore --from {}",
        shell(server_name),
        shell(confirmation),
        shell(&backup.display().to_string())
    )]
}

fn shell(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn record(
    context: &mut Context,
    args: &Args,
    plan: &[Object],
    backup: Option<PathBuf>,
    fenced: bool,
    undo: Vec<String>,
) {
    let overrides = [
        (args.allow_used, "--allow-used"),
        (args.no_backup, "--no-backup"),
        (args.no_fence, "--no-fence"),
        (!args.ignore_role.is_empty(), "--ignore-role"),
    ];
    let go_back = undo.into_iter().next();
    if args.execute {
        let what = plan.len();
        let fence = if fenced {
            "Synapse cannot start on it until a restore is proven"
        } else {
            "no fence was left"
        };
        context
            .console
            .line(&format!("ess-wipe: erased {what} objects; {fence}"));
        if let Some(line) = &go_back {
            context.console.line(&format!("to go back: {line}"));
        }
    }
    context.document.wipe = Some(Wipe {
        version: context.version(),
        started_at: context.started_at.clone(),
        finished_at: now(),
        executed: args.execute,
        objects: count_by_kind(plan),
        backup: backup.map(|path| ess_document::Document::relative(context.document.export.as_deref(), &path)),
        fence: if fenced {
            FenceState::Standing
        } else {
            FenceState::Absent
        },
        overrides: overrides
            .iter()
            .filter(|(given, _)| *given)
            .map(|(_, flag)| (*flag).to_owned())
            .collect(),
        next: Next {
            go_on: vec!["restore".to_owned()],
            go_back,
        },
    });
}
