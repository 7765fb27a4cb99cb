//! restore: load a dump, prove what was loaded, let Synapse start.

mod expected;
mod load;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use ess_archive::{Found, Kind, PlainOutcome, find};
use ess_cli::{Context, Exit, SourceArgs, Stop, TargetArgs, now, processors};
use ess_document::{Against, Document, Dropped, FenceState, Identity, Next, Restore};
use ess_postgres::{Conninfo, SchemaRows, objects};
use ess_proof::{Known, Proof, Proving, Target, nobody_else};
use ess_run::choose;

use expected::Expected;

/// Load a dump, prove what was loaded, let Synapse start
///
/// Loads only into an empty or fenced database and only a dump whose every file is as it was
/// written. Then compares every table, sequence, index and owner with what the source held, and
/// lifts the fence only when all of it is equal.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The dump: of pgdump-wrap, an archive of pg_dump, or .sql(.gz); by default the document's
    #[arg(long, value_name = "PATH")]
    from: Option<PathBuf>,
    /// Let Synapse start although nothing says what the dump should hold
    #[arg(long)]
    accept_unproven: bool,
    /// A role that may stay connected, such as a monitor's; repeatable
    #[arg(long, value_name = "ROLE")]
    ignore_role: Vec<String>,
    /// How many sessions load and read; the number of processors by default
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// Memory for each index that is built, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65536))]
    maintenance_work_mem: u32,
    /// The directory of pg_restore and psql
    #[arg(long, value_name = "DIR")]
    pg_bin: Option<PathBuf>,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    source: SourceArgs,
}

/// What was loaded.
pub(crate) struct Loaded {
    /// What was left out of it.
    pub(crate) dropped: Vec<Dropped>,
    /// The version rows that the dump itself holds.
    pub(crate) schema: SchemaRows,
    /// Digests that were read on the way.
    pub(crate) known: Known,
}

/// Does the job of restore.
pub fn run(args: &Args, context: &mut Context) -> anyhow::Result<Exit> {
    let conninfo = context.target_needed(&args.target)?;
    let source = context.source_beside(&args.source)?;
    if let Some(export) = context.document.export.clone().filter(|export| export.is_dir()) {
        context.lock(&export.join(".lock"))?;
    }
    let from = place(args, &context.document)?;
    let found = find(&from)?;
    check_dump(context, &found)?;
    if let Some(source) = &source {
        ess_proof::identify_source(context, source)?;
    }
    let target = Target::open(context, &conninfo)?;
    is_fit(context, &target, &found)?;
    nobody_else(&target.session, &args.ignore_role, "target")?;
    let expectation = expected::choose(context, args, source.as_ref(), &found)?;

    let programs = choose(args.pg_bin.as_deref(), needed_major(&target, &found), "this target")?;
    let jobs = args.jobs.map_or_else(processors, usize::from);
    let loading = load::Loading {
        conninfo: &conninfo,
        target: &target,
        programs: &programs,
        jobs,
        maintenance_mib: args.maintenance_work_mem.into(),
        id: context.document.id.clone().unwrap_or_default(),
        source: identity(context, &found),
        application_name: context.application_name(),
        console: &context.console,
    };
    let expected = match &expectation {
        Expected::Manifest(inventory) | Expected::Source(inventory) => Some(&**inventory),
        Expected::Nothing => None,
    };
    let loaded = loading
        .load(&found, expected)
        .context("the target is fenced or as it was, and Synapse cannot start on a half-loaded one; once this is mended, run the same line again")?;

    let proof = prove(context, &conninfo, &target, jobs, &expectation, &loaded)?;
    record(context, &from, &expectation, loaded.dropped, &proof);
    drop(target);
    context.finish()?;
    Ok(Exit::Done)
}

fn place(args: &Args, document: &Document) -> anyhow::Result<PathBuf> {
    let known = document.dump.as_ref().map(|dump| document.locate(&dump.path));
    match (&args.from, known) {
        (Some(from), known) => {
            let from = std::path::absolute(from).with_context(|| format!("cannot use {}", from.display()))?;
            if let Some(known) = known
                && known != from
            {
                return Err(Stop::usage(format!(
                    "--from says {}, the document's `dump.path` says {}",
                    from.display(),
                    known.display()
                ))
                .hint("give -n with --target to load another dump than the document's")
                .into());
            }
            Ok(from)
        }
        (None, Some(known)) => Ok(known),
        (None, None) => Err(
            Stop::usage("there is no dump: neither --from nor the document's `dump` says where it is")
                .hint("give --from PATH (and --export DIR if the export was carried here)")
                .into(),
        ),
    }
}

/// The dump must be the one of the document. Its files are checked while the structure is loaded.
fn check_dump(context: &Context, found: &Found) -> anyhow::Result<()> {
    let Found::Ours { dump, sha256, .. } = found else {
        return Ok(());
    };
    if let Some(section) = &context.document.dump
        && section.manifest_sha256 != *sha256
    {
        return Err(
            Stop::data(format!("the dump at {} is not the one in the document", dump.display()))
                .hint("its manifest has another SHA-256; look for the dump that pgdump-wrap made in this migration")
                .into(),
        );
    }
    Ok(())
}

/// The target must be empty or fenced by us, as ESS makes it, and not the source.
fn is_fit(context: &Context, target: &Target, found: &Found) -> anyhow::Result<()> {
    let facts = &target.facts;
    let manifest = match found {
        Found::Ours { manifest, .. } => Some(manifest),
        _ => None,
    };
    let source = context.document.source.as_ref().and_then(|s| s.identity.as_ref());
    target.is_not(source)?;
    if let Some(manifest) = manifest.filter(|m| m.kind == Kind::Migration) {
        target.is_not(Some(&manifest.source))?;
    }
    let is_c = |locale: &str| locale == "C" || locale == "POSIX";
    if facts.encoding != "UTF8" || !is_c(&facts.collate) || !is_c(&facts.ctype) {
        return Err(Stop::no(format!(
            "the target database is {} with collation {} and ctype {}, and Synapse wants UTF8, C, C",
            facts.encoding, facts.collate, facts.ctype
        ))
        .hint("make it with: createdb --encoding=UTF8 --locale=C --template=template0 --owner=ROLE DBNAME")
        .into());
    }
    if let Some(manifest) = manifest {
        let major = major(&manifest.server_version);
        if major > facts.major() {
            return Err(Stop::no(format!(
                "the dump is of PostgreSQL {}, and the target is {}",
                manifest.server_version, facts.version_text
            ))
            .hint("use a target that is at least as new")
            .into());
        }
    }
    if target.fence.is_none() && !objects(&target.session)?.is_empty() {
        return Err(Stop::no("the target is not empty")
            .hint("empty it with ess-wipe, which takes a backup first")
            .into());
    }
    if let (Some(fence), Some(manifest)) = (&target.fence, manifest)
        && let Some(awaited) = &fence.source
        && manifest.kind == Kind::Migration
        && *awaited != manifest.source
    {
        return Err(Stop::no(format!(
            "the target awaits {awaited}, and the dump is of {}",
            manifest.source
        ))
        .hint("check --target and --from")
        .into());
    }
    Ok(())
}

/// Who is to come to the target: the fence says so until it is lifted.
fn identity(context: &Context, found: &Found) -> Option<Identity> {
    match found {
        Found::Ours { manifest, .. } => Some(manifest.source.clone()),
        _ => context
            .document
            .source
            .as_ref()
            .and_then(|source| source.identity.clone()),
    }
}

fn prove(
    context: &Context,
    conninfo: &Conninfo,
    target: &Target,
    jobs: usize,
    expectation: &Expected,
    loaded: &Loaded,
) -> anyhow::Result<Proof> {
    let name = context.application_name();
    let proving = Proving {
        conninfo,
        application_name: &name,
        role: &target.role,
        jobs,
        report: &context.console,
    };
    let still = "the target is fenced; Synapse cannot start on it";
    let inventory = match expectation {
        Expected::Manifest(inventory) | Expected::Source(inventory) => (**inventory).clone(),
        Expected::Nothing => {
            let mut inventory = ess_proof::live_inventory(conninfo, &name, jobs, &context.console).context(still)?;
            inventory.schema = loaded.schema.clone();
            inventory
        }
    };
    let proof = proving
        .prove(&target.session, &inventory, &loaded.known, true)
        .context(still)?;
    if !proof.holds() {
        for difference in &proof.differences {
            context.console.line(&format!("  {difference}"));
        }
        return Err(Stop::no(format!(
            "the target is not what the source was: {} differences; it stays fenced",
            proof.differences.len()
        ))
        .hint("run the same line again (ess-wipe takes no second backup); if it repeats, keep the old server")
        .into());
    }
    proving.lift_fence(&target.session, &inventory).context(still)?;
    Ok(proof)
}

fn record(context: &mut Context, from: &Path, expectation: &Expected, dropped: Vec<Dropped>, proof: &Proof) {
    let proven_against = match expectation {
        Expected::Manifest(_) => Against::Manifest,
        Expected::Source(_) => Against::Source,
        Expected::Nothing => Against::Nothing,
    };
    let verdict = match proven_against {
        Against::Manifest => "all equal to what the source held when it was dumped",
        Against::Source => "all equal to what the stopped source holds",
        Against::Nothing => "accepted without proof: nothing says what the dump should hold",
    };
    context.console.line(&format!(
        "restore: {} tables, {} rows, {verdict}; Synapse can start",
        proof.tables, proof.rows
    ));
    let go_back = context
        .document
        .wipe
        .as_ref()
        .and_then(|wipe| wipe.next.go_back.clone());
    context.document.restore = Some(Restore {
        version: context.version(),
        started_at: context.started_at.clone(),
        finished_at: now(),
        from: Document::relative(context.document.export.as_deref(), from),
        proven_against,
        tables: proof.tables,
        rows: proof.rows,
        dropped,
        fence: FenceState::Lifted,
        next: Next {
            go_on: vec!["verify".to_owned()],
            go_back,
        },
    });
}

/// The client programs must read the dump and speak to the target.
fn needed_major(target: &Target, found: &Found) -> u32 {
    match found {
        Found::Ours { manifest, .. } => target.facts.major().max(major(&manifest.pg_dump_version)),
        _ => target.facts.major(),
    }
}

fn major(version: &str) -> u32 {
    version
        .split(['.', ' '])
        .next()
        .and_then(|n| n.parse().ok())
        .unwrap_or(0)
}

impl From<PlainOutcome> for Loaded {
    fn from(outcome: PlainOutcome) -> Self {
        Self {
            schema: outcome.schema,
            known: Known::new(),
            dropped: outcome
                .dropped
                .into_iter()
                .map(|entry| Dropped {
                    entry,
                    reason: "belongs to the source's server".to_owned(),
                })
                .collect(),
        }
    }
}
