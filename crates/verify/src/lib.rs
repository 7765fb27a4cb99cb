//! verify: the proof alone, at any time.

use std::path::PathBuf;

use anyhow::Context as _;
use ess_archive::{Found, find};
use ess_cli::{Context, Exit, SourceArgs, Stop, TargetArgs, now, processors};
use ess_document::{Against, FenceState, Next, OneTimeKeys, Verify};
use ess_postgres::Inventory;
use ess_proof::{Proving, Target};

/// Prove that the target holds what the source held
///
/// Compares every table, sequence, index and owner of the target with a dump's manifest, or with
/// the stopped source itself, and lists each difference. Lifts a fence left standing when all is
/// equal; writes nothing otherwise.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The dump whose manifest is compared; by default the document's, or the source itself
    #[arg(long, value_name = "PATH")]
    from: Option<PathBuf>,
    /// How many sessions read; the number of processors by default
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    source: SourceArgs,
}

/// Does the job of verify.
pub fn run(args: &Args, context: &mut Context) -> anyhow::Result<Exit> {
    let reached = ess_target::needed(context, &args.target)?;
    let conninfo = &reached.conninfo;
    let jobs = args.jobs.map_or_else(processors, usize::from);
    let (against, expected, one_time_keys) = expected(args, context, jobs)?;
    let target = Target::open(context, conninfo)?;
    let name = context.application_name();
    let proving = Proving {
        conninfo,
        application_name: &name,
        role: &target.role,
        jobs,
        report: &context.console,
    };
    let proof = proving.prove(&target.session, &expected, false)?;
    let fence = match (&target.fence, proof.holds()) {
        (Some(_), true) => {
            proving.lift_fence(&target.session, &expected)?;
            FenceState::Lifted
        }
        (Some(_), false) => FenceState::Standing,
        (None, _) => FenceState::Absent,
    };
    let console = &context.console;
    for difference in &proof.differences {
        console.line(&format!("  {difference}"));
    }
    let verdict = if proof.holds() {
        "all equal".to_owned()
    } else {
        format!("{} differences", proof.differences.len())
    };
    let fence_says = match fence {
        FenceState::Lifted => "; the fence is lifted, Synapse can start",
        FenceState::Standing => "; the fence stands, Synapse cannot start",
        FenceState::Absent => "",
    };
    console.line(&format!(
        "verify: {} tables, {} rows, {verdict}{fence_says}",
        proof.tables, proof.rows
    ));
    if let Some(keys) = one_time_keys.as_ref().filter(|_| proof.holds()) {
        console.line(&format!("verify: {keys}"));
    }
    let equal = proof.holds();
    context.document.verify = Some(Verify {
        version: context.version(),
        started_at: context.started_at.clone(),
        finished_at: now(),
        equal,
        against,
        tables: proof.tables,
        rows: proof.rows,
        differences: proof.differences,
        one_time_keys,
        fence,
        next: Next::default(),
    });
    drop(target);
    context.finish()?;
    Ok(if equal { Exit::Done } else { Exit::No })
}

fn expected(
    args: &Args,
    context: &mut Context,
    jobs: usize,
) -> anyhow::Result<(Against, Inventory, Option<OneTimeKeys>)> {
    let dump = context
        .document
        .dump
        .as_ref()
        .map(|dump| context.document.locate(&dump.path));
    let wants_source = args.source.source.is_some() || !args.source.config.is_empty();
    let path = match (&args.from, dump) {
        (Some(from), _) => Some(std::path::absolute(from).with_context(|| format!("cannot use {}", from.display()))?),
        (None, dump) if !wants_source => dump,
        _ => None,
    };
    let source = context.source_beside(&args.source)?;
    let name = context.application_name();
    if let Some(path) = path {
        let Found::Ours { manifest, .. } = find(&path)? else {
            return Err(
                Stop::data(format!("{} has no manifest to compare with", path.display()))
                    .hint("give -c or --source of the stopped source instead")
                    .into(),
            );
        };
        if let Some(source) = source
            && manifest.kind == ess_archive::Kind::Migration
            && !manifest.source_was_running
        {
            let inventory = &manifest.inventory;
            ess_proof::source_moved(&source, &name, &manifest.source, inventory, jobs, &context.console)?;
        }
        let keys = manifest.one_time_keys();
        return Ok((Against::Manifest, manifest.inventory, keys));
    }
    let source = source.ok_or_else(|| {
        Stop::usage("there is nothing to compare with: no --from, no document with a dump, and no source")
            .hint("give --from DUMP, or -c or --source of the stopped source")
    })?;
    let session = ess_postgres::Session::connect(&source, &name, ess_postgres::Access::ReadOnly)?;
    ess_proof::is_whole(&session, ess_postgres::facts(&session)?.standby)?;
    ess_proof::is_no_subscriber(&session)?;
    ess_proof::nobody_else(&session, &[], "source")?;
    Ok((
        Against::Source,
        ess_proof::live_inventory(&source, &name, jobs, &context.console)?,
        None,
    ))
}
