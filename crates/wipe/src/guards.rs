//! What keeps a wipe from the wrong database.

use ess_cli::{Context, Stop};
use ess_document::Identity;
use ess_postgres::{server_names, usage};
use ess_proof::Target;
use ess_run::Report;

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
    unused(args, target)?;
    Ok(false)
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
