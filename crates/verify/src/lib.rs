//! verify: prove that the target holds what the source held.

use std::path::PathBuf;

use ess_archive::{FoundDump, Manifest, check_is_of, find, place_of};
use ess_cli::{Context, Exit, Stop};
use ess_document::{FenceState, Next, Verify, now};
use ess_postgres::{Access, Conninfo, Session, server_facts};
use ess_proof::{Conclusion, Expected, Proving, SourceToCheck, Target, Way, wait_until_unused};
use ess_run::Report;
use ess_run::text::count;
use ess_servers::{LiftArgs, SourceArgs, TargetArgs};

/// Commands that `--help` shows.
const EXAMPLES: &str = "\
# Compare the target with the dump that the document names
verify < migration.json > verified.json
# Compare it with the stopped source
verify -n --target kube:ess -c homeserver.yaml";

/// Prove that the target holds what the source held
///
/// Compares every table, sequence, index and owner of the target with a dump's manifest, or with
/// the stopped source itself, and lists each difference. If everything is equal, it lifts a fence
/// that is still in place; it writes nothing else.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    target: TargetArgs,
    /// Dump whose manifest the target is compared with (default: the document's dump, or the source itself)
    #[arg(long, value_name = "PATH")]
    from: Option<PathBuf>,
    /// Number of sessions that read (default: the number of processors)
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// Role that can stay connected, such as a monitor's; repeatable
    #[arg(long, value_name = "ROLE")]
    ignore_role: Vec<String>,
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    lift: LiftArgs,
}

/// Runs verify.
pub fn run(args: &Args, context: &mut Context) -> anyhow::Result<Exit> {
    let reached = ess_servers::needed(context, &args.target)?;
    let conninfo = &reached.conninfo;
    let source = ess_servers::source_to_check(context, &args.source)?;
    let manifest = manifest(args, context)?;
    if let Some(manifest) = &manifest {
        ess_servers::adopt_source(context, manifest)?;
    }
    let target = ess_servers::lock_target(context, conninfo)?;
    wait_until_unused(&target.session, &args.ignore_role, "target")?;
    let name = context.application_name();
    let proving = Proving {
        conninfo,
        application_name: &name,
        role: &target.role,
        jobs: ess_proof::jobs(&target.session, args.jobs, &context.console),
        report: &context.console,
    };
    let expected = match &manifest {
        Some(manifest) => Expected::of_dump(manifest),
        None => of_source(args, &proving, &target, &source)?,
    };
    target.refuse_if_source(expected.source())?;
    // Fail now rather than after a long proof whose fence could not be lifted.
    if target.fence.is_some() {
        proving.require_source(&expected, &source, args.lift.allow())?;
    }
    let way = Way {
        source: &source,
        allow: args.lift.allow(),
        ignored_roles: &args.ignore_role,
        analyze: false,
    };
    let conclusion = proving.conclude(&target, &expected, &way)?;
    drop(target);
    finish(args, context, manifest.as_ref(), &expected, conclusion)
}

/// Prints the result, and writes the section and the document.
fn finish(
    args: &Args,
    context: &mut Context,
    manifest: Option<&Manifest>,
    expected: &Expected,
    conclusion: Conclusion,
) -> anyhow::Result<Exit> {
    let differences = conclusion.differences();
    let equal = differences.is_none();
    let verdict = differences.unwrap_or_else(|| "all equal".to_owned());
    let end = match conclusion.fence {
        FenceState::Lifted => "; the fence is lifted, so Synapse can start",
        FenceState::Standing => "; the fence is in place, so Synapse cannot start",
        FenceState::Absent => "",
    };
    let console = &context.console;
    console.line(&format!(
        "verify: {}, {}, {verdict}{}{end}",
        count(conclusion.proof.tables, "table"),
        count(conclusion.proof.rows, "row"),
        conclusion.caveat(),
    ));
    let one_time_keys = manifest.and_then(Manifest::one_time_keys);
    if let Some(keys) = one_time_keys.as_ref().filter(|_| equal) {
        console.line(&format!("verify: {keys}"));
    }
    let stands = conclusion.fence == FenceState::Standing;
    context.document.verify = Some(Verify {
        version: context.version(),
        started_at: context.started_at.clone(),
        finished_at: now(),
        equal,
        against: expected.against,
        tables: conclusion.proof.tables,
        rows: conclusion.proof.rows,
        differences: conclusion.proof.differences,
        one_time_keys,
        fence: conclusion.fence,
        source: conclusion.source,
        overrides: args.lift.overrides(),
        next: Next::default(),
    });
    context.finish()?;
    Ok(if equal && !stands { Exit::Done } else { Exit::No })
}

/// The manifest of the dump to compare the target with; `None` if it is compared with the source itself.
fn manifest(args: &Args, context: &Context) -> anyhow::Result<Option<Manifest>> {
    let names_source = args.source.source.is_some() || !args.source.configuration.config.is_empty();
    if names_source && args.from.is_none() {
        return Ok(None);
    }
    let Some(path) = place_of(args.from.as_deref(), &context.document)? else {
        return Ok(None);
    };
    let found = find(&path)?;
    check_is_of(&found, context.document.dump.as_ref())?;
    match found {
        FoundDump::WithManifest { manifest, .. } => Ok(Some(*manifest)),
        _ => Err(
            Stop::data(format!("{} has no manifest to compare with", path.display()))
                .hint("name the stopped source with -c or --source instead")
                .into(),
        ),
    }
}

/// Reads what the stopped source holds; refuses a source that is in use or cannot be read completely.
fn of_source(args: &Args, proving: &Proving<'_>, target: &Target, source: &SourceToCheck) -> anyhow::Result<Expected> {
    let source: &Conninfo = match source {
        SourceToCheck::Known(source) => source,
        SourceToCheck::Unusable(reason) => return Err(Stop::usage(format!("cannot read the source: {reason}")).into()),
        SourceToCheck::NotNamed => {
            return Err(Stop::usage(
                "there is nothing to compare with: no --from, no document with a dump, and no source",
            )
            .hint("specify --from DUMP, or name the stopped source with -c or --source")
            .into());
        }
    };
    let session = Session::connect(source, proving.application_name, Access::ReadOnly)?;
    let facts = server_facts(&session)?;
    target.refuse_if_source(Some(&facts.identity))?;
    ess_proof::require_primary(&session, facts.standby)?;
    ess_proof::refuse_subscriber(&session)?;
    wait_until_unused(&session, &args.ignore_role, "source")?;
    let inventory = ess_proof::live_inventory(source, proving.application_name, proving.jobs, proving.report)?;
    Ok(Expected::of_source(facts.identity, inventory))
}
