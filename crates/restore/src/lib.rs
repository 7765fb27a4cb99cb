//! restore: load a dump, prove that it is complete, and let Synapse start.

mod expected;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use ess_archive::{DumpKind, FoundDump, Origin, check_is_of, find, place_of};
use ess_cli::{Context, Exit, Stop};
use ess_document::{Against, Document, Dropped, FenceState, Identity, Next, OneTimeKeys, Restore, now};
use ess_postgres::{Session, table_exists};
use ess_proof::{
    Conclusion, Expected, Loaded, Loading, Proving, State, Target, Way, not_empty, undo_command, wait_until_unused,
};
use ess_run::text::count;
use ess_run::{Installation, Report};
use ess_servers::{LiftArgs, SourceArgs, TargetArgs};
use ess_synapse::schema::ONE_TIME_KEYS_TABLE;

/// Commands that `--help` shows.
const EXAMPLES: &str = r#"# Load the dump that the document names
restore < wiped.json > migration.json
# Load a dump without a document
restore -n --target "$TARGET" --target-password-file target.pw --from dump
# Load an archive of pg_dump, and compare it with the stopped source
restore -n --target kube:ess --from synapse.dump -c homeserver.yaml"#;

/// Load a dump, prove that it is complete, and let Synapse start
///
/// Loads only into an empty or fenced database, and only a dump whose files are all unchanged. Then
/// compares every table, sequence, index and owner with what the source held, and lifts the fence
/// only if everything is equal.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    target: TargetArgs,
    /// Dump to load: of pgdump-wrap, an archive of pg_dump, or .sql(.gz) (default: the document's dump)
    #[arg(long, value_name = "PATH")]
    from: Option<PathBuf>,
    /// Let Synapse start although nothing shows what the dump should contain
    #[arg(long)]
    accept_unproven: bool,
    /// Role that can stay connected, such as a monitor's; repeatable
    #[arg(long, value_name = "ROLE")]
    ignore_role: Vec<String>,
    /// Number of sessions that load and read (default: the number of processors)
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// Memory for each index that is built, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65536))]
    maintenance_work_mem: u32,
    /// Directory of pg_restore
    #[arg(long, value_name = "DIR")]
    pg_bin: Option<PathBuf>,
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    lift: LiftArgs,
}

/// Runs restore. If it ends with a fenced target, for whatever reason, it prints the command that undoes the wipe.
pub fn run(args: &Args, context: &mut Context) -> anyhow::Result<Exit> {
    let mut undo = None;
    let outcome = load_and_prove(args, context, &mut undo);
    if let (Some(line), Err(_) | Ok(Exit::No)) = (undo, &outcome) {
        context.console.line(&format!("to undo the wipe: {line}"));
    }
    outcome
}

const STILL_FENCED: &str =
    "the target is fenced, so Synapse cannot start on it; fix the cause, then re-run the same command";

fn load_and_prove(args: &Args, context: &mut Context, undo: &mut Option<String>) -> anyhow::Result<Exit> {
    let reached = ess_servers::needed(context, &args.target)?;
    let conninfo = &reached.conninfo;
    let source = ess_servers::source_to_check(context, &args.source)?;
    context.lock_export()?;
    let (from, found) = the_dump(args, context)?;
    ess_servers::identify_source(context, &source)?;
    let mut target = ess_servers::lock_target(context, conninfo)?;
    *undo = undo_command_of(context, &target);
    let origin = Origin::of(&found).with_context(|| format!("cannot read the dump at {}", from.display()))?;
    check_target(context, &target, &found, &origin)?;
    wait_until_unused(&target.session, &args.ignore_role, "target")?;
    let jobs = ess_proof::jobs(&target.session, args.jobs, &context.console);
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
        allow: args.lift.allow(),
        ignored_roles: &args.ignore_role,
        analyze: true,
    };
    let dumped = match &found {
        FoundDump::WithManifest { manifest, .. } => Some(Expected::of_dump(manifest)),
        _ => None,
    };
    // An earlier run may have been killed after its load: before its proof (the target is fenced) or before it wrote
    // its document (the fence is lifted).
    let state = proving.state(&target, dumped.as_ref())?;
    if let State::Foreign = state {
        return Err(not_empty().into());
    }
    let expected = expected::choose(context, args, &proving, &source, &found)?;
    require_awaited(context, &target, expected.as_ref())?;
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
    let mut loaded = load(args, context, &proving, &mut target, &programs, &found)?;
    let (keys, expected) = match expected {
        Some(expected) if expected.against == Against::Manifest => (keys(&found), expected),
        Some(expected) => (Some(keys_of_the_source()), expected),
        None => accept(&proving, &target, &mut loaded)?,
    };
    let conclusion = proving.conclude(&target, &expected, &way).context(STILL_FENCED)?;
    if let Some(differences) = conclusion.differences() {
        return Err(Stop::no(format!(
            "the target does not hold what the source held: {differences}; it stays fenced"
        ))
        .hint("re-run the same command (ess-wipe makes no second backup); if that fails too, keep the old server")
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

/// Loads the dump into the target, which is fenced from the first transaction on.
fn load(
    args: &Args,
    context: &Context,
    proving: &Proving<'_>,
    target: &mut Target,
    programs: &Installation,
    found: &FoundDump,
) -> anyhow::Result<Loaded> {
    let loading = Loading {
        conninfo: proving.conninfo,
        target,
        programs,
        jobs: proving.jobs,
        maintenance_mib: args.maintenance_work_mem.into(),
        id: context.document.id.clone().unwrap_or_default(),
        source: identity(context, found),
        application_name: context.application_name(),
        report: &context.console,
    };
    let mut loaded = loading.load(found).context(
        "the target is fenced or unchanged, and Synapse cannot start on a partial load; fix the cause, then re-run \
             the same command",
    )?;
    target.fence = Some(loaded.fence.clone());
    list_left_out(found, &mut loaded);
    Ok(loaded)
}

/// What to expect of a dump whose contents nothing shows: what was loaded, without its one-time keys.
fn accept(
    proving: &Proving<'_>,
    target: &Target,
    loaded: &mut Loaded,
) -> anyhow::Result<(Option<OneTimeKeys>, Expected)> {
    let keys = delete_one_time_keys(&target.session, loaded)?;
    let Proving {
        conninfo,
        application_name,
        jobs,
        report,
        ..
    } = *proving;
    let mut inventory = ess_proof::live_inventory(conninfo, application_name, jobs, report).context(STILL_FENCED)?;
    inventory.schema = loaded.schema.clone();
    Ok((keys, Expected::accepted(inventory)))
}

/// The dump to load, and its path. Its files are checked later, while the structure is loaded.
fn the_dump(args: &Args, context: &mut Context) -> anyhow::Result<(PathBuf, FoundDump)> {
    let from = place_of(args.from.as_deref(), &context.document)?.ok_or_else(|| {
        Stop::usage("there is no dump: neither --from nor the document's `dump` names one")
            .hint("specify --from PATH (and --export DIR if the export was copied to this host)")
    })?;
    let found = find(&from)?;
    check_is_of(&found, context.document.dump.as_ref())?;
    if let FoundDump::WithManifest { manifest, .. } = &found {
        ess_servers::adopt_source(context, manifest)?;
    }
    Ok((from, found))
}

/// Adds what pgdump-wrap left out to what the load left out.
fn list_left_out(found: &FoundDump, loaded: &mut Loaded) {
    if let FoundDump::WithManifest { manifest, .. } = found {
        let known: BTreeSet<String> = loaded.dropped.iter().map(|left| left.entry.clone()).collect();
        let more = manifest.left_out.iter().filter(|left| !known.contains(&left.entry));
        loaded.dropped.extend(more.cloned());
    }
}

/// The conclusion for a target that already holds the dump; `None` if the dump has to be loaded.
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

/// The command that undoes the wipe, if the fence names a backup.
fn undo_command_of(context: &Context, target: &Target) -> Option<String> {
    let backup = target.fence.as_ref()?.backup.as_ref()?;
    let name = context.document.source.as_ref().and_then(|s| s.server_name.as_deref());
    Some(undo_command(&context.document, Path::new(backup), name))
}

/// Refuses a target that is the source, that Synapse could not use, that cannot hold the dump, or that is fenced for
/// another source.
fn check_target(context: &Context, target: &Target, found: &FoundDump, origin: &Origin) -> anyhow::Result<()> {
    let facts = &target.facts;
    let manifest = match found {
        FoundDump::WithManifest { manifest, .. } => Some(manifest),
        _ => None,
    };
    let source = context.document.source.as_ref().and_then(|s| s.identity.as_ref());
    target.refuse_if_source(source)?;
    target.require_role()?;
    ess_proof::require_locale(facts)?;
    if let Some(manifest) = manifest {
        ess_proof::require_compatible(target, &manifest.inventory)?;
    }
    origin.may_go_to(&facts.version_text)?;
    if let (Some(fence), Some(manifest)) = (&target.fence, manifest) {
        if manifest.kind == DumpKind::Migration {
            fence.awaits(&manifest.source)?;
        }
        ess_proof::require_own_tables(target, &manifest.inventory)?;
    }
    Ok(())
}

/// Refuses contents of a database other than the one that the fence names. For contents that the user accepted without
/// proof this is unknown, so it is only a note.
fn require_awaited(context: &Context, target: &Target, expected: Option<&Expected>) -> Result<(), Stop> {
    let Some(fence) = &target.fence else { return Ok(()) };
    if let Some(expected) = expected {
        return expected.source().map_or(Ok(()), |source| fence.awaits(source));
    }
    let known = context.document.source.as_ref().and_then(|s| s.identity.as_ref());
    if let Some(awaited) = fence.source.as_ref().filter(|awaited| known != Some(awaited)) {
        context.console.note(&format!(
            "the target is fenced for source {awaited}, and nothing shows that this dump is of it"
        ));
    }
    Ok(())
}

/// One-time keys of a stopped source, which was compared with what was loaded.
fn keys_of_the_source() -> OneTimeKeys {
    OneTimeKeys {
        kept: true,
        reason: "the dump contains the keys of the stopped source".to_owned(),
    }
}

/// What a dump with a manifest records about one-time keys.
fn keys(found: &FoundDump) -> Option<OneTimeKeys> {
    match found {
        FoundDump::WithManifest { manifest, .. } => manifest.one_time_keys(),
        _ => None,
    }
}

/// Deletes one-time keys that were loaded from a dump without a manifest: the source may have been in use and have
/// handed them out.
fn delete_one_time_keys(session: &Session, loaded: &mut Loaded) -> anyhow::Result<Option<OneTimeKeys>> {
    let table = format!("public.{ONE_TIME_KEYS_TABLE}");
    if !table_exists(session, &table)? {
        return Ok(None);
    }
    session.batch("delete one-time keys", &format!("DELETE FROM {table}"))?;
    let reason = "it is unknown whether the source was in use, and a key that is handed out twice makes messages \
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

/// The source whose contents are loaded, which the fence names until it is lifted.
fn identity(context: &Context, found: &FoundDump) -> Option<Identity> {
    match found {
        FoundDump::WithManifest { manifest, .. } => Some(manifest.source.clone()),
        _ => context
            .document
            .source
            .as_ref()
            .and_then(|source| source.identity.clone()),
    }
}

/// The result of a run.
struct Done {
    against: Against,
    /// What was left out of the load; `None` if nothing was loaded because the target already held the dump.
    dropped: Option<Vec<Dropped>>,
    keys: Option<OneTimeKeys>,
    conclusion: Conclusion,
}

/// Prints the result, and writes the section and the document.
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
        Against::Nothing => "accepted without proof: nothing shows what the dump should contain",
    };
    let already = if kept { "already loaded: " } else { "" };
    let stands = conclusion.fence == FenceState::Standing;
    let end = if stands {
        "the fence is in place, so Synapse cannot start"
    } else {
        "Synapse can start"
    };
    context.console.line(&format!(
        "restore: {already}{}, {}, {equal}{}; {end}",
        count(conclusion.proof.tables, "table"),
        count(conclusion.proof.rows, "row"),
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
