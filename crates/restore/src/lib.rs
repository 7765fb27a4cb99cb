//! restore: load a dump, prove that it is complete, and let Synapse start.

mod expected;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use ess_archive::{Found, Kind, Origin, check_is_of, find, place_of};
use ess_cli::{Context, Exit, LiftArgs, SourceArgs, Stop, TargetArgs, now, processors};
use ess_document::{Against, Document, Dropped, FenceState, Identity, Next, OneTimeKeys, Restore};
use ess_postgres::{Session, exists};
use ess_proof::{Conclusion, Expected, Loaded, Loading, Proving, State, Target, Way, nobody_else, not_empty, way_back};
use ess_run::Report;
use ess_synapse::schema::ONE_TIME_KEYS_TABLE;

/// Load a dump, prove that it is complete, and let Synapse start
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
    #[command(flatten)]
    lift: LiftArgs,
}

/// Does the job of restore. Whatever ends it behind a fence, the line that goes back is printed.
pub fn run(args: &Args, context: &mut Context) -> anyhow::Result<Exit> {
    let mut way_back = None;
    let outcome = load_and_prove(args, context, &mut way_back);
    if let (Some(line), Err(_) | Ok(Exit::No)) = (way_back, &outcome) {
        context.console.line(&format!("to go back: {line}"));
    }
    outcome
}

fn load_and_prove(args: &Args, context: &mut Context, way_back: &mut Option<String>) -> anyhow::Result<Exit> {
    let reached = ess_target::needed(context, &args.target)?;
    let conninfo = &reached.conninfo;
    let source = context.source_beside(&args.source)?;
    context.lock_export()?;
    let (from, found) = the_dump(args, context)?;
    ess_proof::identify_source(context, &source)?;
    let mut target = Target::open(context, conninfo)?;
    *way_back = way_back_of(context, &target);
    let origin = Origin::of(&found).with_context(|| format!("cannot read the dump at {}", from.display()))?;
    is_fit(context, &target, &found, &origin)?;
    nobody_else(&target.session, &args.ignore_role, "target")?;
    let jobs = args.jobs.map_or_else(processors, usize::from);
    let name = context.application_name();
    let proving = Proving {
        conninfo,
        application_name: &name,
        role: &target.role.clone(),
        jobs,
        report: &context.console.clone(),
    };
    let way = Way {
        source: &source,
        allow: args.lift,
        ignored_roles: &args.ignore_role,
        analyze: true,
        console: &context.console.clone(),
    };
    let dumped = match &found {
        Found::Ours { manifest, .. } => Some(Expected::of_dump(manifest)),
        _ => None,
    };
    // What a run leaves that was ended after its load: with a fence before it came to its proof, without one before
    // it came to its document.
    let state = proving.state(&target, dumped.as_ref())?;
    if let State::Foreign = state {
        return Err(not_empty().into());
    }
    let expected = expected::choose(context, args, &proving, &source, &found)?;
    is_awaited(context, &target, expected.as_ref())?;
    let held = match &expected {
        Some(expected) => settled(&proving, &target, state, expected, &way)?,
        None => None,
    };
    if let (Some(conclusion), Some(expected)) = (held, &expected) {
        drop(target);
        let done = Done {
            against: expected.against,
            dropped: None,
            keys: keys(&found),
            conclusion,
        };
        return finish(args, context, &from, done);
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
    target.fence = Some(loaded.fence.clone());

    list_left_out(&found, &mut loaded);
    let still = "the target is fenced, and Synapse cannot start on it; once this is mended, run the same line again";
    let (keys, expected) = match expected {
        Some(expected) if expected.against == Against::Manifest => (keys(&found), expected),
        Some(expected) => (Some(keys_of_the_source()), expected),
        None => {
            let keys = leave_keys_out(&target.session, &mut loaded)?;
            let mut inventory = ess_proof::live_inventory(conninfo, &name, jobs, &context.console).context(still)?;
            inventory.schema = loaded.schema.clone();
            (keys, Expected::accepted(inventory))
        }
    };
    let conclusion = proving.conclude(&target, &expected, &way).context(still)?;
    if let Some(differences) = conclusion.differences() {
        return Err(Stop::no(format!(
            "the target is not what the source was: {differences}; it stays fenced"
        ))
        .hint("run the same line again (ess-wipe takes no second backup); if it repeats, keep the old server")
        .into());
    }
    drop(target);
    let done = Done {
        against: expected.against,
        dropped: Some(loaded.dropped),
        keys,
        conclusion,
    };
    finish(args, context, &from, done)
}

/// The dump that is to be loaded, and where it lies. Its files are checked while the structure is loaded.
fn the_dump(args: &Args, context: &mut Context) -> anyhow::Result<(PathBuf, Found)> {
    let from = place_of(args.from.as_deref(), &context.document)?.ok_or_else(|| {
        Stop::usage("there is no dump: neither --from nor the document's `dump` says where it is")
            .hint("give --from PATH (and --export DIR if the export was carried here)")
    })?;
    let found = find(&from)?;
    check_is_of(&found, context.document.dump.as_ref())?;
    if let Found::Ours { manifest, .. } = &found {
        ess_proof::adopt_source(context, manifest)?;
    }
    Ok((from, found))
}

/// Adds what pgdump-wrap left out to what the archive's load left out.
fn list_left_out(found: &Found, loaded: &mut Loaded) {
    if let Found::Ours { manifest, .. } = found {
        let known: BTreeSet<String> = loaded.dropped.iter().map(|left| left.entry.clone()).collect();
        let more = manifest.left_out.iter().filter(|left| !known.contains(&left.entry));
        loaded.dropped.extend(more.cloned());
    }
}

/// What came of a target that holds the dump already; none where it has to be loaded.
fn settled(
    proving: &Proving<'_>,
    target: &Target,
    state: State,
    expected: &Expected,
    way: &Way<'_>,
) -> anyhow::Result<Option<Conclusion>> {
    let proof = match state {
        State::Proven(proof) => proof,
        State::Loaded => proving.prove(&target.session, &expected.inventory, true)?,
        State::Empty | State::Foreign | State::Fenced => return Ok(None),
    };
    if !proof.holds() {
        return Ok(None);
    }
    proving.settle(target, expected, proof, way).map(Some)
}

/// The line that goes back, where a wipe has left a backup.
fn way_back_of(context: &Context, target: &Target) -> Option<String> {
    let backup = target.fence.as_ref()?.backup.as_ref()?;
    let name = context.document.source.as_ref().and_then(|s| s.server_name.as_deref());
    Some(way_back(&context.document, Path::new(backup), name))
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
    ess_proof::is_for_synapse(facts)?;
    if let Some(manifest) = manifest {
        ess_proof::can_take(target, &manifest.inventory)?;
    }
    origin.may_go_to(&facts.version_text)?;
    if let (Some(fence), Some(manifest)) = (&target.fence, manifest) {
        if manifest.kind == Kind::Migration {
            fence.awaits(&manifest.source)?;
        }
        ess_proof::is_ours_behind_the_fence(target, &manifest.inventory)?;
    }
    Ok(())
}

/// Refuses what is of another database than the one for which the fence stands. What a person accepted without proof
/// may be of any.
fn is_awaited(context: &Context, target: &Target, expected: Option<&Expected>) -> Result<(), Stop> {
    let Some(fence) = &target.fence else { return Ok(()) };
    if let Some(expected) = expected {
        return expected.source().map_or(Ok(()), |source| fence.awaits(source));
    }
    let known = context.document.source.as_ref().and_then(|s| s.identity.as_ref());
    if let Some(awaited) = fence.source.as_ref().filter(|awaited| known != Some(awaited)) {
        context.console.note(&format!(
            "the target awaits {awaited}, and nothing shows that this dump is of it"
        ));
    }
    Ok(())
}

/// The keys of a source that was stopped, and compared with what was loaded.
fn keys_of_the_source() -> OneTimeKeys {
    OneTimeKeys {
        kept: true,
        reason: "the dump holds the keys of the stopped source".to_owned(),
    }
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

/// What came of a run.
struct Done {
    against: Against,
    /// What was left out, or nothing when the target held it all already.
    dropped: Option<Vec<Dropped>>,
    keys: Option<OneTimeKeys>,
    conclusion: Conclusion,
}

/// The last line, the section and the document.
fn finish(args: &Args, context: &mut Context, from: &Path, done: Done) -> anyhow::Result<Exit> {
    let Done {
        against,
        dropped,
        keys,
        conclusion,
    } = done;
    let kept = dropped.is_none();
    let equal = match against {
        Against::Manifest => "all equal to what the source held when it was dumped",
        Against::Source => "all equal to what the stopped source holds",
        Against::Nothing => "accepted without proof: nothing shows what the dump should hold",
    };
    let already = if kept { "the target held it already: " } else { "" };
    let stands = conclusion.fence == FenceState::Standing;
    let end = if stands {
        "the fence stands, Synapse cannot start"
    } else {
        "Synapse can start"
    };
    context.console.line(&format!(
        "restore: {already}{} tables, {} rows, {equal}{}; {end}",
        conclusion.proof.tables,
        conclusion.proof.rows,
        conclusion.caveat(),
    ));
    if let Some(keys) = &keys {
        context.console.note(&keys.to_string());
    }
    let go_back = context
        .document
        .wipe
        .as_ref()
        .and_then(|wipe| wipe.next.go_back.clone());
    let go_on = if stands {
        vec!["verify --allow-running-source".to_owned()]
    } else {
        vec!["verify".to_owned()]
    };
    context.document.restore = Some(Restore {
        version: context.version(),
        started_at: context.started_at.clone(),
        finished_at: now(),
        from: Document::relative(context.document.export.as_deref(), from),
        proven_against: against,
        tables: conclusion.proof.tables,
        rows: conclusion.proof.rows,
        dropped: dropped.unwrap_or_default(),
        one_time_keys: keys,
        fence: if stands {
            FenceState::Standing
        } else {
            FenceState::Lifted
        },
        source: conclusion.source,
        overrides: args.lift.overrides(),
        kept,
        next: Next { go_on, go_back },
    });
    context.finish()?;
    Ok(if stands { Exit::No } else { Exit::Done })
}
