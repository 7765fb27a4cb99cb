//! Checks that keep `ess-wipe` from erasing the wrong database.

use ess_archive::Manifest;
use ess_cli::{Context, Stop};
use ess_document::Identity;
use ess_postgres::{Inventory, catalogue_needs, database_usage, missing_needs, server_names, version_not_kept};
use ess_proof::{Target, other_tables};
use ess_run::text::counted;
use ess_run::{Report, quoted};

use crate::Args;

/// Refuses contents that must not be erased; returns whether the target is already fenced, so that no backup is made.
pub(crate) fn check(
    args: &Args,
    context: &Context,
    target: &Target,
    source: Option<&Identity>,
    dump: Option<&Manifest>,
) -> anyhow::Result<bool> {
    if let Some(fence) = &target.fence {
        if fence.source.as_ref() == Some(&target.facts.identity) && !args.allow_other_migration {
            return Err(Stop::no("an --undo of an earlier wipe has not finished on the target")
                .hint("finish it with ess-wipe --undo, or use --allow-other-migration to wipe the target again")
                .into());
        }
        if fence.source.is_some() && fence.source.as_ref() != source && !args.allow_other_migration {
            return Err(Stop::no(format!(
                "the target is fenced for another source, {} (migration {})",
                fence.source.as_ref().map(ToString::to_string).unwrap_or_default(),
                fence.id
            ))
            .hint(
                "use the document of that migration or --source-identity, or --allow-other-migration to drop what it \
                 has loaded",
            )
            .into());
        }
        let loaded: Vec<&Inventory> = dump.iter().map(|dump| &dump.inventory).collect();
        foreign_tables(args, target, &loaded)?;
        context
            .console
            .note("the target is already fenced: what is behind the fence was loaded by these tools");
        return Ok(true);
    }
    refuse_other_homeserver(context, target)?;
    foreign_tables(args, target, &[])?;
    refuse_used(args, target)?;
    Ok(false)
}

/// Refuses a target that `--undo` could not bring back from a backup.
pub(crate) fn require_restorable(target: &Target) -> anyhow::Result<()> {
    let session = &target.session;
    let refuse = |why: String, hint: String| {
        Err(
            Stop::no(format!("the target could not be brought back from a backup: {why}"))
                .hint(format!(
                    "{hint}; or use --no-backup if the contents can be lost for good"
                ))
                .into(),
        )
    };
    if let Some((need, remedy)) = missing_needs(session, &target.role, &catalogue_needs(session)?)?
        .into_iter()
        .next()
    {
        return refuse(format!("loading it would need {need}"), remedy);
    }
    match version_not_kept(session)? {
        Some(why) => refuse(why, "find out what created that table, and correct it".to_owned()),
        None => Ok(()),
    }
}

/// Refuses tables of another program, such as a bridge that shares the database, unless `--also-erase` names them.
/// Tables in `dumps` were loaded by these tools, so they are not another program's.
pub(crate) fn foreign_tables(args: &Args, target: &Target, dumps: &[&Inventory]) -> anyhow::Result<()> {
    let (mut foreign, has_synapses) = other_tables(&target.session, dumps)?;
    foreign.retain(|name| !args.also_erase.contains(name));
    let Some(first) = foreign.first() else { return Ok(()) };
    let count = counted(
        foreign.len(),
        "table that is not Synapse's",
        "tables that are not Synapse's",
    );
    let whose = if has_synapses {
        count
    } else {
        format!("none of Synapse's tables, but {count}")
    };
    let some: Vec<&str> = foreign.iter().take(5).map(String::as_str).collect();
    Err(Stop::no(format!("the target contains {whose}: {}", some.join(", ")))
        .hint(format!(
            "check --target; if these tables can be erased too, name each of them: --also-erase {}",
            quoted(first)
        ))
        .into())
}

/// Refuses a database of another homeserver; no option overrides this.
pub(crate) fn refuse_other_homeserver(context: &Context, target: &Target) -> anyhow::Result<()> {
    let expected = context.document.source.as_ref().and_then(|s| s.server_name.as_deref());
    let names = server_names(&target.session)?;
    if let Some(expected) = expected
        && let Some(other) = names.iter().find(|name| *name != expected)
    {
        return Err(Stop::no(format!("the target serves {other}, not {expected}"))
            .hint("check --target; ESS must be installed with the name of the homeserver that is migrated")
            .into());
    }
    Ok(())
}

/// Refuses a database that people have used.
pub(crate) fn refuse_used(args: &Args, target: &Target) -> anyhow::Result<()> {
    if !args.allow_used
        && let Some(measure) = database_usage(&target.session)?.used()
    {
        let hint = if args.undo {
            "use --dump DIR with the dump that was restored, or --allow-used if everything done there since can be lost"
        } else {
            "check --target; use --allow-used only if these people's messages can be erased"
        };
        return Err(Stop::no(format!("people have used the target: {measure}"))
            .hint(hint)
            .into());
    }
    Ok(())
}

/// The homeserver's name, from the document, a flag, the backup, or the target's own users.
pub(crate) fn server_name(context: &Context, target: &Target, backup: Option<&str>) -> anyhow::Result<String> {
    let documented = context.document.source.as_ref().and_then(|s| s.server_name.as_deref());
    if let Some(name) = documented.or(backup) {
        return Ok(name.to_owned());
    }
    let mut names = server_names(&target.session)?;
    match (names.pop(), names.pop()) {
        (Some(name), None) => Ok(name),
        _ => Err(
            Stop::usage("the homeserver's name is unknown: neither a document nor the target's users show it")
                .hint("specify it with --server-name NAME")
                .into(),
        ),
    }
}
