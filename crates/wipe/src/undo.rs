//! The way back: what a wipe erased, loaded from its backup and proven.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use ess_archive::{Found, Kind, Manifest, Origin, find};
use ess_cli::{Context, Exit, Stop, processors};
use ess_document::FenceState;
use ess_postgres::{Conninfo, Inventory, objects};
use ess_proof::{Fence, Loading, Target, nobody_else};
use ess_run::Report;

use crate::plan::Plan;
use crate::{Args, Done, agreed, back_up, backup_programs, guards, holds, lock_export, proving, record, shell};

/// Memory for each index that is built, in MiB.
const MAINTENANCE: u64 = 256;

/// Brings the backup back: as careful as the wipe, and behind the same fence.
pub(crate) fn run(args: &Args, context: &mut Context, conninfo: &Conninfo) -> anyhow::Result<Exit> {
    lock_export(context)?;
    let mut target = Target::open(context, conninfo)?;
    let backup = place(args, context, &target)?;
    let found = find(&backup)?;
    let (manifest, sha256) = of_this_target(&found, &backup, &target)?;
    target.may_act()?;
    let server_name = guards::server_name(context, &target, manifest.server_name.as_deref())?;
    context.source_section().server_name = Some(server_name.clone());
    if holds(args, context, conninfo, &target, manifest)? {
        context
            .console
            .line("ess-wipe: the target is as it was before the wipe, proven; there is nothing to bring back");
        return finish(args, context, target, None, backup);
    }
    let programs = Origin::of_ours(&backup, manifest).programs(args.pg_bin.as_deref(), &target.facts.version_text)?;
    let to_be_kept = is_used(args, context, conninfo, &target)? && !args.no_backup;
    let keepers = to_be_kept.then(|| backup_programs(args, &target)).transpose()?;
    let plan = Plan::of(
        &target,
        vec![format!("homeserver {server_name}"), format!("backup {sha256}")],
    )?;
    context.console.line(&format!(
        "to be brought back: {} tables, {} rows, backed up at {} to {}",
        manifest.inventory.table_count(),
        manifest.inventory.row_count(),
        manifest.taken_at,
        backup.display()
    ));
    if !agreed(args, context, &target, &plan, &server_name)? {
        drop(target);
        context.finish()?;
        return Ok(Exit::Done);
    }

    nobody_else(&target.session, &args.ignore_role, "target")?;
    manifest.check_files(&backup, &context.console)?;
    let held: Option<Inventory> = if let Some(programs) = keepers {
        let name = backup.file_name().unwrap_or_default().to_string_lossy();
        let beside = backup.with_file_name(format!("{name}.undone"));
        Some(back_up(
            args,
            context,
            conninfo,
            &target,
            &server_name,
            &beside,
            &programs,
        )?)
    } else {
        None
    };
    let fence = Fence::new(
        context.document.id.clone().unwrap_or_default(),
        Some(manifest.source.clone()),
        Some(backup.to_string_lossy().into_owned()),
    );
    plan.execute(&target, Some(&fence), held.as_ref())?;
    target.fence = Some(fence);
    let still = "the target is fenced, and Synapse cannot start on it; once this is mended, run the same line again";
    Loading {
        conninfo,
        target: &target,
        programs: &programs,
        jobs: args.jobs.map_or_else(processors, usize::from),
        maintenance_mib: MAINTENANCE,
        id: context.document.id.clone().unwrap_or_default(),
        source: Some(manifest.source.clone()),
        application_name: context.application_name(),
        console: &context.console,
    }
    .load(&found)
    .context(still)?;
    let name = context.application_name();
    let proving = proving(args, context, conninfo, &target, &name);
    let proof = proving
        .prove(&target.session, &manifest.inventory, true)
        .context(still)?;
    if !proof.holds() {
        for difference in &proof.differences {
            context.console.line(&format!("  {difference}"));
        }
        return Err(Stop::no(format!(
            "the target is not what it was: {} differences; it stays fenced",
            proof.differences.len()
        ))
        .hint("run the same line again")
        .into());
    }
    proving
        .lift_fence(&target.session, &manifest.inventory)
        .context(still)?;
    context.console.line(&format!(
        "ess-wipe: brought back {} tables, {} rows, all equal to what was there before the wipe; Synapse can start",
        proof.tables, proof.rows
    ));
    finish(args, context, target, Some(&plan), backup)
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

/// Where the backup lies: a flag, the fence, the document or the export says it.
fn place(args: &Args, context: &Context, target: &Target) -> anyhow::Result<PathBuf> {
    let document = &context.document;
    let fence = target.fence.as_ref().and_then(|fence| fence.backup.clone());
    let wipe = document.wipe.as_ref().and_then(|wipe| wipe.backup.as_ref());
    let place = args
        .backup
        .clone()
        .or(fence.map(PathBuf::from))
        .or(wipe.map(|path| document.locate(path)))
        .or(document.export.as_ref().map(|export| export.join("ess-before-wipe")))
        .ok_or_else(|| {
            Stop::usage(
                "there is no backup to bring back: neither --backup nor the document or a fence says where it is",
            )
            .hint("give --backup DIR")
        })?;
    std::path::absolute(&place).with_context(|| format!("cannot use {}", place.display()))
}

/// The backup must be one that ess-wipe took of this very database.
fn of_this_target<'a>(found: &'a Found, place: &Path, target: &Target) -> Result<(&'a Manifest, &'a str), Stop> {
    match found {
        Found::Ours { manifest, sha256, .. } if manifest.kind == Kind::Backup => {
            if manifest.source == target.facts.identity {
                return Ok((manifest, sha256));
            }
            Err(Stop::no(format!(
                "{} is a backup of {}, and the target is {}",
                place.display(),
                manifest.source,
                target.facts.identity
            ))
            .hint("check --target and --backup; restore --from loads it elsewhere"))
        }
        _ => Err(Stop::data(format!("{} is not a backup of ess-wipe", place.display())).hint("give --backup DIR")),
    }
}

/// Whether something would be erased that no dump holds; refuses that unless it was allowed.
fn is_used(args: &Args, context: &Context, conninfo: &Conninfo, target: &Target) -> anyhow::Result<bool> {
    if target.fence.is_some() {
        context
            .console
            .note("a fence of ours stands there: what is behind it was loaded by these tools");
        return Ok(false);
    }
    if objects(&target.session)?.is_empty() {
        return Ok(false);
    }
    let Some(dump) = dump(args, context)? else {
        guards::serves_no_other(context, target)?;
        guards::unused(args, target)?;
        return Ok(true);
    };
    let name = context.application_name();
    let proof = proving(args, context, conninfo, target, &name).prove(&target.session, &dump.inventory, false)?;
    match proof.differences.first() {
        None => Ok(false),
        Some(_) if args.allow_used => Ok(true),
        Some(first) => Err(Stop::no(format!("the target was used since it was restored: {first}"))
            .hint("give --allow-used only if what people did there since may go; it is backed up first")
            .into()),
    }
}

/// The manifest of what was restored after the wipe, when it can be found.
fn dump(args: &Args, context: &Context) -> anyhow::Result<Option<Manifest>> {
    let document = &context.document;
    let named = document.dump.as_ref().map(|dump| document.locate(&dump.path));
    let in_export = document.export.as_ref().map(|export| export.join("dump"));
    let Some(place) = args.dump.clone().or(named).or(in_export.filter(|place| place.is_dir())) else {
        return Ok(None);
    };
    match find(&place)? {
        Found::Ours { manifest, .. } => Ok(Some(*manifest)),
        _ => Err(Stop::data(format!("{} has no manifest to compare with", place.display())).into()),
    }
}

/// The line that brings the erased database back.
pub(crate) fn line(args: &Args, context: &Context, backup: &Path, server_name: &str) -> String {
    let document = &context.document;
    let target = document.target.clone().unwrap_or_default();
    let place: Vec<String> = ["host", "port", "user", "dbname", "sslmode", "sslrootcert"]
        .iter()
        .filter_map(|keyword| target.connection.get(*keyword).map(|value| (keyword, value)))
        .map(|(keyword, value)| format!("{keyword}='{}'", value.replace('\\', r"\\").replace('\'', r"\'")))
        .collect();
    let database = target.identity.map(|identity| identity.database).unwrap_or_default();
    let mut words = match &target.kube {
        Some(kube) => vec![("--target", kube.to_string())],
        None => vec![("--target", place.join(" "))],
    };
    if let Some(context) = target.kube.as_ref().and_then(|kube| kube.context.clone()) {
        words.push(("--kube-context", context));
    }
    if let Some(ess_document::PasswordAt::File { path }) = &target.password {
        words.push(("--target-password-file", path.display().to_string()));
    }
    if let Some(role) = args.target.role.as_ref().or(target.role.as_ref()) {
        words.push(("--role", role.clone()));
    }
    words.push(("--backup", backup.display().to_string()));
    if let Some(export) = &document.export {
        words.push(("--export", export.display().to_string()));
    }
    if let Some(dump) = &document.dump {
        words.push(("--dump", document.locate(&dump.path).display().to_string()));
    }
    words.push(("--confirm", format!("{server_name}/{database}")));
    let words: Vec<String> = words
        .iter()
        .map(|(flag, word)| format!("{flag} {}", shell(word)))
        .collect();
    format!("ess-wipe -n --undo {} --execute", words.join(" "))
}
