//! restore: load a dump, prove what was loaded, let Synapse start.

mod expected;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use ess_archive::{Found, Kind, Origin, find};
use ess_cli::{Context, Exit, SourceArgs, Stop, TargetArgs, now, processors};
use ess_document::{Against, Document, Dropped, FenceState, Identity, Next, OneTimeKeys, Restore};
use ess_postgres::{Conninfo, Session, exists, objects};
use ess_proof::{Loaded, Loading, Proof, Proving, Target, is_loaded, nobody_else};
use ess_run::Report;
use ess_synapse::schema::ONE_TIME_KEYS_TABLE;

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
    /// The directory of pg_restore
    #[arg(long, value_name = "DIR")]
    pg_bin: Option<PathBuf>,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    source: SourceArgs,
}

/// Does the job of restore.
pub fn run(args: &Args, context: &mut Context) -> anyhow::Result<Exit> {
    let reached = ess_target::needed(context, &args.target)?;
    let conninfo = &reached.conninfo;
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
    let target = Target::open(context, conninfo)?;
    let origin = Origin::of(&found).with_context(|| format!("cannot read the dump at {}", from.display()))?;
    is_fit(context, &target, &found, &origin)?;
    nobody_else(&target.session, &args.ignore_role, "target")?;
    let jobs = args.jobs.map_or_else(processors, usize::from);
    let already = held_already(context, conninfo, &target, jobs, &found)?;
    let expectation = expected::choose(context, args, source.as_ref(), &found)?;
    if let Some(proof) = already {
        record(context, &from, &expectation, None, keys(&found), &proof);
        drop(target);
        context.finish()?;
        return Ok(Exit::Done);
    }

    let programs = origin.programs(args.pg_bin.as_deref(), &target.facts.version_text)?;
    let loading = Loading {
        conninfo,
        target: &target,
        programs: &programs,
        jobs,
        maintenance_mib: args.maintenance_work_mem.into(),
        id: context.document.id.clone().unwrap_or_default(),
        source: identity(context, &found),
        application_name: context.application_name(),
        console: &context.console,
    };
    let mut loaded = loading
        .load(&found)
        .context("the target is fenced or as it was, and Synapse cannot start on a half-loaded one; once this is mended, run the same line again")?;

    let keys = match expectation {
        Expected::Manifest(_) => keys(&found),
        Expected::Source(_) => Some(OneTimeKeys {
            kept: true,
            reason: "the dump holds the keys of the stopped source".to_owned(),
        }),
        Expected::Nothing => leave_keys_out(&target.session, &mut loaded)?,
    };
    let proof = prove(context, conninfo, &target, jobs, &expectation, &loaded)?;
    record(context, &from, &expectation, Some(loaded.dropped), keys, &proof);
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
fn is_fit(context: &Context, target: &Target, found: &Found, origin: &Origin) -> anyhow::Result<()> {
    let facts = &target.facts;
    let manifest = match found {
        Found::Ours { manifest, .. } => Some(manifest),
        _ => None,
    };
    let source = context.document.source.as_ref().and_then(|s| s.identity.as_ref());
    target.is_not(source)?;
    target.may_act()?;
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
    origin.may_go_to(&facts.version_text)?;
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

/// The proof of a target that holds this very dump already; without a fence it must, or be empty.
///
/// That is what a run leaves that was ended after its load: with a fence before it came to its proof, without one
/// before it came to its document.
fn held_already(
    context: &Context,
    conninfo: &Conninfo,
    target: &Target,
    jobs: usize,
    found: &Found,
) -> anyhow::Result<Option<Proof>> {
    if target.fence.is_none() && objects(&target.session)?.is_empty() {
        return Ok(None);
    }
    if let Found::Ours { manifest, .. } = found {
        let name = context.application_name();
        let expected = &manifest.inventory;
        let proving = Proving {
            conninfo,
            application_name: &name,
            role: &target.role,
            jobs,
            report: &context.console,
        };
        if target.fence.is_none() {
            if let Some(proof) = proving.holds(&target.session, expected)? {
                return Ok(Some(proof));
            }
        } else if is_loaded(&target.session, expected)? {
            let proof = proving.prove(&target.session, expected, true)?;
            if proof.holds() {
                proving.lift_fence(&target.session, expected)?;
                return Ok(Some(proof));
            }
        }
    }
    if target.fence.is_some() {
        return Ok(None);
    }
    Err(Stop::no("the target is not empty")
        .hint("empty it with ess-wipe, which takes a backup first")
        .into())
}

/// What a dump of ours says of one-time keys.
fn keys(found: &Found) -> Option<OneTimeKeys> {
    match found {
        Found::Ours { manifest, .. } => manifest.one_time_keys(),
        _ => None,
    }
}

/// Nothing says whether the source of a dump was in use: its one-time keys may have been handed out.
fn leave_keys_out(session: &Session, loaded: &mut Loaded) -> anyhow::Result<Option<OneTimeKeys>> {
    let table = format!("public.{ONE_TIME_KEYS_TABLE}");
    if !exists(session, &table)? {
        return Ok(None);
    }
    session.batch("leave one-time keys out", &format!("DELETE FROM {table}"))?;
    let reason = "nothing shows that the source was not in use, and a key that is handed out twice makes messages \
                  unreadable; clients upload new ones";
    loaded.dropped.push(Dropped {
        entry: format!("TABLE DATA public {ONE_TIME_KEYS_TABLE}"),
        reason: reason.to_owned(),
    });
    Ok(Some(OneTimeKeys {
        kept: false,
        reason: reason.to_owned(),
    }))
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
    let still = "the target is fenced, and Synapse cannot start on it; once this is mended, run the same line again";
    let inventory = match expectation {
        Expected::Manifest(inventory) | Expected::Source(inventory) => (**inventory).clone(),
        Expected::Nothing => {
            let mut inventory = ess_proof::live_inventory(conninfo, &name, jobs, &context.console).context(still)?;
            inventory.schema = loaded.schema.clone();
            inventory
        }
    };
    let proof = proving.prove(&target.session, &inventory, true).context(still)?;
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
    proving.lift_fence(&target.session, &inventory).context(
        "the target is proven, and the answer is lost that would say whether the fence is lifted; verify tells, and lifts it",
    )?;
    Ok(proof)
}

/// `dropped` is what was left out, or nothing when the target held it all already.
fn record(
    context: &mut Context,
    from: &Path,
    expectation: &Expected,
    dropped: Option<Vec<Dropped>>,
    one_time_keys: Option<OneTimeKeys>,
    proof: &Proof,
) {
    let kept = dropped.is_none();
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
    let already = if kept { "the target held it already: " } else { "" };
    context.console.line(&format!(
        "restore: {already}{} tables, {} rows, {verdict}; Synapse can start",
        proof.tables, proof.rows
    ));
    if let Some(keys) = &one_time_keys {
        context.console.note(&keys.to_string());
    }
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
        dropped: dropped.unwrap_or_default(),
        one_time_keys,
        fence: FenceState::Lifted,
        kept,
        next: Next {
            go_on: vec!["verify".to_owned()],
            go_back,
        },
    });
}
