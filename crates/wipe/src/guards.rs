//! What keeps a wipe from the wrong database.

use ess_cli::{Context, Stop};
use ess_document::Identity;
use ess_postgres::{objects, server_names, usage};
use ess_proof::Target;
use ess_run::{Report, quoted};
use ess_synapse::tables::TABLES;

use crate::Args;

/// Refuses what is not ours to erase; returns whether a fence of this very migration stands there.
pub(crate) fn check(
    args: &Args,
    context: &Context,
    target: &Target,
    source: Option<&Identity>,
) -> anyhow::Result<bool> {
    if let Some(fence) = &target.fence {
        if fence.source.as_ref() == Some(&target.facts.identity) && !args.allow_other_migration {
            return Err(Stop::no("the target is being brought back from its backup")
                .hint("finish that with ess-wipe --undo, or give --allow-other-migration to wipe it again")
                .into());
        }
        if fence.source.is_some() && source.is_some() && fence.source.as_ref() != source && !args.allow_other_migration
        {
            return Err(Stop::no(format!(
                "the target awaits another source, {} (migration {})",
                fence.source.as_ref().map(ToString::to_string).unwrap_or_default(),
                fence.id
            ))
            .hint("finish that migration, or give --allow-other-migration to drop what it has loaded")
            .into());
        }
        context
            .console
            .note("a fence of ours stands there: what is behind it was loaded by these tools");
        return Ok(true);
    }
    serves_no_other(context, target)?;
    foreign_tables(args, target)?;
    unused(args, target)?;
    Ok(false)
}

/// Refuses tables of another program, unless they are named: a bridge's beside Synapse's, or somebody's own database.
fn foreign_tables(args: &Args, target: &Target) -> anyhow::Result<()> {
    let objects = objects(&target.session)?;
    let tables = || {
        objects
            .iter()
            .filter(|object| object.kind == "table")
            .map(|object| object.name.as_str())
    };
    let is_synapses = |name: &str| name.strip_prefix("public.").is_some_and(|name| TABLES.contains(&name));
    let foreign: Vec<&str> = tables()
        .filter(|name| !is_synapses(name) && !args.also_erase.iter().any(|named| named == name))
        .collect();
    let Some(first) = foreign.first() else { return Ok(()) };
    let count = match foreign.len() {
        1 => "1 table that is not Synapse's".to_owned(),
        n => format!("{n} tables that are not Synapse's"),
    };
    let whose = if tables().any(is_synapses) {
        count
    } else {
        format!("none of Synapse's tables, but {count}")
    };
    let some: Vec<&str> = foreign.iter().take(5).copied().collect();
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
