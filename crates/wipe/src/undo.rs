//! `--undo`: loads what a wipe erased from its backup, and proves it.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use ess_archive::{DumpKind, FoundDump, Manifest, Origin, find};
use ess_cli::{Context, Exit, Stop};
use ess_document::FenceState;
use ess_postgres::{Conninfo, Inventory};
use ess_proof::{Expected, Fence, Loading, SourceToCheck, State, Target, Way, wait_until_unused};
use ess_run::text::count;
use ess_run::{Installation, Report};

use crate::plan::Plan;
use crate::{Args, Done, agreed, back_up, backup_programs, guards, proving, record};

/// Memory for each index that is built, in MiB.
const MAINTENANCE: u64 = 256;

const STILL_FENCED: &str =
    "the target is fenced, so Synapse cannot start on it; fix the cause, then re-run the same command";

/// Loads the backup into the target, with the same checks as a wipe and behind the same fence.
pub(crate) fn run(args: &Args, context: &mut Context, conninfo: &Conninfo) -> anyhow::Result<Exit> {
    context.lock_export()?;
    let mut target = ess_servers::lock_target(context, conninfo)?;
    let name = context.application_name();
    let backup = place(args, context, &target)?;
    let found = find(&backup)?;
    let (manifest, sha256) = of_this_target(&found, &backup, &target)?;
    target.require_role()?;
    let server_name = guards::server_name(context, &target, manifest.server_name.as_deref())?;
    ess_servers::name_server(context, Some(&server_name))?;
    let expected = Expected::of_dump(manifest);
    let state = proving(args, context, conninfo, &target, &name).state(&target, Some(&expected))?;
    if let State::Proven(_) = state {
        context
            .console
            .line("ess-wipe: the target already holds what it held before the wipe, proven; there is nothing to undo");
        return finish(args, context, target, None, backup);
    }
    let programs =
        Origin::of_manifest(&backup, manifest).programs(args.pg_bin.as_deref(), &target.facts.version_text)?;
    let contents = contents(args, context, conninfo, &target, manifest, &state)?;
    let needs_backup = matches!(contents, Contents::Used) && !args.no_backup;
    let backup_programs = needs_backup.then(|| backup_programs(args, &target)).transpose()?;
    let plan = Plan::of(
        &target,
        vec![format!("homeserver {server_name}"), format!("backup {sha256}")],
    )?;
    context.console.line(&format!(
        "to be brought back: {}, {}, backed up at {} to {}",
        count(manifest.inventory.table_count(), "table"),
        count(manifest.inventory.row_count(), "row"),
        manifest.taken_at,
        backup.display()
    ));
    // An earlier run of this undo has erased the target, and left a fence that awaits the backup.
    let resumed = target
        .fence
        .as_ref()
        .is_some_and(|fence| fence.source.as_ref() == Some(&manifest.source));
    if !agreed(args, context, &target, &plan, &server_name, resumed)? {
        drop(target);
        context.finish()?;
        return Ok(Exit::Done);
    }

    wait_until_unused(&target.session, &args.ignore_role, "target")?;
    manifest.check_files(&backup, &context.console)?;
    let held = match contents {
        Contents::Unused(inventory) => Some(*inventory),
        Contents::Used | Contents::Nothing => {
            let place = place_of_undone(&backup);
            let keep =
                |programs: Installation| back_up(args, context, conninfo, &target, &server_name, &place, &programs);
            backup_programs.map(keep).transpose()?
        }
    };
    let fence = Fence::new(
        context.document.id.clone().unwrap_or_default(),
        Some(manifest.source.clone()),
        Some(backup.to_string_lossy().into_owned()),
    );
    plan.execute(&target, Some(&fence), held.as_ref())?;
    target.fence = Some(fence);
    load(args, context, conninfo, &mut target, &programs, &found, manifest).context(STILL_FENCED)?;
    prove(args, context, conninfo, &target, manifest)?;
    finish(args, context, target, Some(&plan), backup)
}

/// The path to which the backup of what an undo erases is written.
fn place_of_undone(backup: &Path) -> PathBuf {
    let name = backup.file_name().unwrap_or_default().to_string_lossy();
    backup.with_file_name(format!("{name}.undone"))
}

/// Loads the backup into the erased target, which stays fenced.
fn load(
    args: &Args,
    context: &Context,
    conninfo: &Conninfo,
    target: &mut Target,
    programs: &Installation,
    found: &FoundDump,
    manifest: &Manifest,
) -> anyhow::Result<()> {
    let loading = Loading {
        conninfo,
        target,
        programs,
        jobs: ess_proof::jobs(&target.session, args.jobs, &context.console),
        maintenance_mib: MAINTENANCE,
        id: context.document.id.clone().unwrap_or_default(),
        source: Some(manifest.source.clone()),
        application_name: context.application_name(),
        report: &context.console,
    };
    let loaded = loading.load(found)?;
    target.fence = Some(loaded.fence);
    Ok(())
}

/// Compares the target with what it held before the wipe, and lifts the fence; refuses if they differ.
fn prove(
    args: &Args,
    context: &Context,
    conninfo: &Conninfo,
    target: &Target,
    manifest: &Manifest,
) -> anyhow::Result<()> {
    let name = context.application_name();
    let way = Way {
        source: &SourceToCheck::NotNamed,
        allow: args.lift.allow(),
        ignored_roles: &args.ignore_role,
        analyze: true,
    };
    let conclusion = proving(args, context, conninfo, target, &name)
        .conclude(target, &Expected::of_dump(manifest), &way)
        .context(STILL_FENCED)?;
    if let Some(differences) = conclusion.differences() {
        return Err(Stop::no(format!(
            "the target is not what it was before the wipe: {differences}; it stays fenced"
        ))
        .hint("re-run the same command")
        .into());
    }
    let proof = conclusion.proof;
    context.console.line(&format!(
        "ess-wipe: brought back {}, {}, all equal to what was there before the wipe{}; Synapse can start",
        count(proof.tables, "table"),
        count(proof.rows, "row"),
        except(manifest)
    ));
    Ok(())
}

/// What the backup does not contain of the target, as an ending for "equal to what was there"; empty if it is complete.
fn except(manifest: &Manifest) -> String {
    let lost: Vec<&str> = manifest.left_out.iter().map(|left| left.entry.as_str()).collect();
    if lost.is_empty() {
        return String::new();
    }
    format!(" except for what a dump does not contain ({})", lost.join("; "))
}

fn finish(
    args: &Args,
    context: &mut Context,
    target: Target,
    plan: Option<&Plan>,
    backup: PathBuf,
) -> anyhow::Result<Exit> {
    let done = Done {
        plan,
        backup: Some(backup),
        fence: FenceState::Lifted,
        undo: None,
        undone: true,
    };
    record(context, args, done);
    drop(target);
    context.finish()?;
    Ok(Exit::Done)
}

/// The backup's directory, from the option, the fence, the document or the export.
fn place(args: &Args, context: &Context, target: &Target) -> anyhow::Result<PathBuf> {
    let document = &context.document;
    let fence = target.fence.as_ref().and_then(|fence| fence.backup.clone());
    let wipe = document.wipe.as_ref().and_then(|wipe| wipe.backup.as_ref());
    let in_export = document.export.as_ref().map(|export| export.join("ess-before-wipe"));
    let known = [
        fence.map(PathBuf::from),
        wipe.map(|path| document.locate(path)),
        in_export,
    ];
    let known: Vec<PathBuf> = known.into_iter().flatten().collect();
    // Prefer a path that exists: the export may have been moved to another host or directory since.
    let found = known.iter().find(|place| place.exists()).or(known.first()).cloned();
    let place = args.backup.clone().or(found).ok_or_else(|| {
        Stop::usage("there is no backup to bring back: neither --backup, the document nor a fence names one")
            .hint("specify --backup DIR")
    })?;
    ess_files::absolute(&place)
}

/// The manifest of a backup and its SHA-256; refuses anything but a backup that ess-wipe made of this target.
fn of_this_target<'a>(found: &'a FoundDump, place: &Path, target: &Target) -> Result<(&'a Manifest, &'a str), Stop> {
    match found {
        FoundDump::WithManifest { manifest, sha256, .. } if manifest.kind == DumpKind::Backup => {
            if manifest.source == target.facts.identity {
                return Ok((manifest, sha256));
            }
            Err(Stop::no(format!(
                "{} is a backup of {}, but the target is {}",
                place.display(),
                manifest.source,
                target.facts.identity
            ))
            .hint("check --target and --backup; to load the backup into another database, use restore --from"))
        }
        _ => Err(
            Stop::data(format!("{} is not a backup made by ess-wipe", place.display())).hint("specify --backup DIR"),
        ),
    }
}

/// What an undo would erase.
enum Contents {
    /// Contents that no dump holds, which the user allowed to erase.
    Used,
    /// The restored dump, to which people have added nothing: this inventory.
    Unused(Box<Inventory>),
    /// A partial load, or nothing at all.
    Nothing,
}

/// What the undo would erase; refuses if it must not be erased.
fn contents(
    args: &Args,
    context: &Context,
    conninfo: &Conninfo,
    target: &Target,
    backup: &Manifest,
    state: &State,
) -> anyhow::Result<Contents> {
    match state {
        State::Foreign => {
            // First exclude other sessions: what they write during the check would be erased unnoticed.
            wait_until_unused(&target.session, &args.ignore_role, "target")?;
            contents_in_use(args, context, conninfo, target)
        }
        State::Fenced | State::Loaded => {
            may_be_dropped(args, context, target, backup)?;
            Ok(Contents::Nothing)
        }
        State::Empty | State::Proven(_) => Ok(Contents::Nothing),
    }
}

/// Refuses what another migration has loaded behind its fence, and tables that neither the backup nor the dump has.
fn may_be_dropped(args: &Args, context: &Context, target: &Target, backup: &Manifest) -> anyhow::Result<()> {
    let dump = dump(args, context)?;
    let loaded: Vec<&Inventory> = dump
        .iter()
        .map(|(dump, _)| dump)
        .chain([backup])
        .map(|m| &m.inventory)
        .collect();
    guards::foreign_tables(args, target, &loaded)?;
    let Some(fence) = &target.fence else { return Ok(()) };
    let document = context.document.source.as_ref().and_then(|s| s.identity.as_ref());
    let sources = [
        Some(&target.facts.identity),
        document,
        dump.as_ref().map(|(dump, _)| &dump.source),
    ];
    if args.allow_other_migration
        || fence.id == backup.id
        || fence.source.is_none()
        || sources
            .iter()
            .flatten()
            .any(|source| fence.source.as_ref() == Some(*source))
    {
        return Ok(());
    }
    Err(Stop::no(format!(
        "the target is fenced for source {}, but this backup is of another migration",
        fence.source.as_ref().map(ToString::to_string).unwrap_or_default()
    ))
    .hint("finish that migration, or use --allow-other-migration to drop what it has loaded")
    .into())
}

/// What would be erased; refuses contents that no dump holds, unless the user allowed to erase them.
fn contents_in_use(args: &Args, context: &Context, conninfo: &Conninfo, target: &Target) -> anyhow::Result<Contents> {
    let Some((dump, place)) = dump(args, context)? else {
        guards::refuse_other_homeserver(context, target)?;
        guards::refuse_used(args, target)?;
        return Ok(Contents::Used);
    };
    let name = context.application_name();
    let (found, used) = proving(args, context, conninfo, target, &name).used_since(&target.session, &dump.inventory)?;
    match used {
        None => Ok(match dump.check_unchanged(&place, &context.console) {
            Ok(()) => Contents::Unused(Box::new(found)),
            Err(error) => {
                let then = if args.no_backup {
                    ""
                } else {
                    ", so the target is backed up first"
                };
                context.console.note(&format!(
                    "the dump of the target's contents is no longer complete{then}: {error:#}"
                ));
                Contents::Used
            }
        }),
        Some(_) if args.allow_used => Ok(Contents::Used),
        Some(first) => Err(
            Stop::no(format!("the target has been used since it was restored: {first}"))
                .hint("use --allow-used only if everything done there since can be lost; the target is backed up first")
                .into(),
        ),
    }
}

/// The manifest and directory of the dump that was restored after the wipe, if it can be found.
fn dump(args: &Args, context: &Context) -> anyhow::Result<Option<(Manifest, PathBuf)>> {
    let document = &context.document;
    let named = document.dump.as_ref().map(|dump| document.locate(&dump.path));
    let in_export = document.export.as_ref().map(|export| export.join("dump"));
    let Some(place) = args.dump.clone().or(named).or(in_export.filter(|place| place.is_dir())) else {
        return Ok(None);
    };
    match find(&place)? {
        FoundDump::WithManifest { manifest, .. } => Ok(Some((*manifest, place))),
        _ => Err(Stop::data(format!("{} has no manifest to compare with", place.display())).into()),
    }
}
