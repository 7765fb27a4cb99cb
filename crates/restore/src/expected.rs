//! What the target must hold when the restore is done.

use ess_archive::{Found, Kind};
use ess_cli::{Context, Stop};
use ess_postgres::{Conninfo, Inventory};
use ess_run::Report;

use crate::Args;

/// What the target must hold when the restore is done.
pub(crate) enum Expected {
    /// What the manifest says.
    Manifest(Box<Inventory>),
    /// What the stopped source holds.
    Source(Box<Inventory>),
    /// A person said that this need not be known.
    Nothing,
}

/// Decides before anything is loaded what the proof will be.
pub(crate) fn choose(
    context: &Context,
    args: &Args,
    source: Option<&Conninfo>,
    found: &Found,
) -> anyhow::Result<Expected> {
    let name = context.application_name();
    if let Found::Ours { manifest, .. } = found {
        if let (Some(source), Kind::Migration, false) = (source, manifest.kind, manifest.source_was_running) {
            let jobs = args.jobs.map_or_else(ess_cli::processors, usize::from);
            ess_proof::source_moved(
                source,
                &name,
                &manifest.source,
                &manifest.inventory,
                jobs,
                &context.console,
            )?;
        }
        return Ok(Expected::Manifest(Box::new(manifest.inventory.clone())));
    }
    if args.accept_unproven {
        return Ok(Expected::Nothing);
    }
    let unproven = |why: String| {
        Stop::no(format!("nothing says what this dump should hold: {why}"))
            .hint("give -c or --source of the stopped source, or --accept-unproven to load it without proof")
    };
    let Some(source) = source else {
        return Err(unproven("it has no manifest, and no source is named".to_owned()).into());
    };
    let jobs = args.jobs.map_or_else(ess_cli::processors, usize::from);
    let session = ess_postgres::Session::connect(source, &name, ess_postgres::Access::ReadOnly)
        .map_err(|error| unproven(format!("it has no manifest, and {error}")))?;
    ess_proof::is_whole(&session, ess_postgres::facts(&session)?.standby)?;
    ess_proof::is_no_subscriber(&session)?;
    ess_proof::nobody_else(&session, &args.ignore_role, "source")?;
    drop(session);
    context
        .console
        .note("the dump has no manifest: it will be held against the stopped source");
    let inventory = ess_proof::live_inventory(source, &name, jobs, &context.console)?;
    Ok(Expected::Source(Box::new(inventory)))
}
