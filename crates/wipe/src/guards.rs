//! What keeps a wipe from the wrong database.

use ess_archive::Manifest;
use ess_cli::{Context, Stop};
use ess_document::Identity;
use ess_postgres::{Inventory, lacking, needs, server_names, unkept_version, usage};
use ess_proof::{Target, strangers};
use ess_run::{Report, quoted};

use crate::Args;

/// Refuses what is not ours to erase; returns whether a fence of this very migration stands there.
pub(crate) fn check(
    args: &Args,
    context: &Context,
    target: &Target,
    source: Option<&Identity>,
    dump: Option<&Manifest>,
) -> anyhow::Result<bool> {
    if let Some(fence) = &target.fence {
        if fence.source.as_ref() == Some(&target.facts.identity) && !args.allow_other_migration {
            return Err(Stop::no("the target is being brought back from its backup")
                .hint("finish that with ess-wipe --undo, or give --allow-other-migration to wipe it again")
                .into());
        }
        if fence.source.is_some() && fence.source.as_ref() != source && !args.allow_other_migration {
            return Err(Stop::no(format!(
                "the target awaits another source, {} (migration {})",
                fence.source.as_ref().map(ToString::to_string).unwrap_or_default(),
                fence.id
            ))
            .hint(
                "give the document of that migration or --source-identity, or --allow-other-migration to drop what it \
                 has loaded",
            )
            .into());
        }
        let loaded: Vec<&Inventory> = dump.iter().map(|dump| &dump.inventory).collect();
        foreign_tables(args, target, &loaded)?;
        context
            .console
            .note("a fence of ours stands there: what is behind it was loaded by these tools");
        return Ok(true);
    }
    serves_no_other(context, target)?;
    foreign_tables(args, target, &[])?;
    unused(args, target)?;
    Ok(false)
}

/// Refuses a target that `--undo` could not bring back from its backup.
pub(crate) fn comes_back(target: &Target) -> anyhow::Result<()> {
    let session = &target.session;
    let refuse = |why: String, hint: String| {
        Err(Stop::no(format!("what is there could not be brought back: {why}"))
            .hint(format!("{hint}; or give --no-backup if it may go for good"))
            .into())
    };
    if let Some((need, remedy)) = lacking(session, &target.role, &needs(session)?)?.into_iter().next() {
        return refuse(format!("its backup would need {need}"), remedy);
    }
    match unkept_version(session)? {
        Some(why) => refuse(why, "see whose table that is, and correct it".to_owned()),
        None => Ok(()),
    }
}

/// Refuses tables of another program, unless they are named: a bridge's beside Synapse's, or somebody's own database.
/// Those of the dumps were loaded from them.
pub(crate) fn foreign_tables(args: &Args, target: &Target, dumps: &[&Inventory]) -> anyhow::Result<()> {
    let (mut foreign, has_synapses) = strangers(&target.session, dumps)?;
    foreign.retain(|name| !args.also_erase.contains(name));
    let Some(first) = foreign.first() else { return Ok(()) };
    let count = match foreign.len() {
        1 => "1 table that is not Synapse's".to_owned(),
        n => format!("{n} tables that are not Synapse's"),
    };
    let whose = if has_synapses {
        count
    } else {
        format!("none of Synapse's tables, but {count}")
    };
    let some: Vec<&str> = foreign.iter().take(5).map(String::as_str).collect();
    Err(Stop::no(format!("the target holds {whose}: {}", some.join(", ")))
        .hint(format!(
            "check --target; if they may be erased too, name each: --also-erase {}",
            quoted(first)
        ))
        .into())
}

/// Refuses a database of another homeserver, which nothing overrides.
pub(crate) fn serves_no_other(context: &Context, target: &Target) -> anyhow::Result<()> {
    let expected = context.document.source.as_ref().and_then(|s| s.server_name.as_deref());
    let names = server_names(&target.session)?;
    if let Some(expected) = expected
        && let Some(other) = names.iter().find(|name| *name != expected)
    {
        return Err(Stop::no(format!("the target serves {other}, not {expected}"))
            .hint("check --target; ESS must be installed with the homeserver's own name")
            .into());
    }
    Ok(())
}

/// Refuses a database that people have used.
pub(crate) fn unused(args: &Args, target: &Target) -> anyhow::Result<()> {
    if !args.allow_used
        && let Some(measure) = usage(&target.session)?.used()
    {
        let hint = if args.undo {
            "give --dump DIR, the dump that was restored, or --allow-used if what people did there since may go"
        } else {
            "check --target; give --allow-used only if those people's messages may be erased"
        };
        return Err(Stop::no(format!("people have used the target: {measure}"))
            .hint(hint)
            .into());
    }
    Ok(())
}

/// The homeserver's name, from the document, a flag, the backup, or the target's own users.
pub(crate) fn server_name(context: &Context, target: &Target, backup: Option<&str>) -> anyhow::Result<String> {
    let said = context.document.source.as_ref().and_then(|s| s.server_name.as_deref());
    if let Some(name) = said.or(backup) {
        return Ok(name.to_owned());
    }
    let mut names = server_names(&target.session)?;
    match (names.pop(), names.pop()) {
        (Some(name), None) => Ok(name),
        _ => Err(
            Stop::usage("the homeserver's name is not known: no document says it, nor does the target")
                .hint("give --server-name NAME")
                .into(),
        ),
    }
}
