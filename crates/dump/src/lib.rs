//! pgdump-wrap: run `pg_dump` under an exported snapshot and record what the dump contains.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::ValueEnum;
use ess_archive::{
    Compression, DumpKind, DumpLayout, Dumping, FoundDump, Manifest, Origin, find, finish_rename, major, take,
};
use ess_cli::{Context, Exit, Stop};
use ess_document::{Document, Dropped, Dump, Next, now};
use ess_files::make_directory;
use ess_postgres::{Access, Conninfo, Facts, Reading, Session, change_since, server_facts, server_names};
use ess_run::text::{count, size};
use ess_run::{Installation, LAST_WITHOUT_TRANSACTION_TIMEOUT, Need, Report, Silent, choose};
use ess_servers::{PgVariables, SourceArgs};

/// Commands that `--help` shows.
const EXAMPLES: &str = "\
# Dump into the export, after Synapse was stopped
pgdump-wrap < secrets.json > dumped.json
# Without a document
pgdump-wrap -n --source postgresql://synapse@localhost/synapse --out dump";

/// Dump Synapse's database and prove what the dump contains
///
/// Runs pg_dump under an exported snapshot and, in the same snapshot, counts and hashes the rows
/// of every table. The dump gets its final name only once it is complete. Refuses to run while any
/// other session uses the source.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,
    /// Directory to write the dump to (default: EXPORT/dump)
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Layout of the dump on disk
    #[arg(long, value_enum, default_value_t = FormatArg::Directory)]
    format: FormatArg,
    /// Compress with METHOD or METHOD:LEVEL, as for pg_dump -Z, or none
    #[arg(long, value_name = "METHOD")]
    compress: Option<String>,
    /// Number of sessions that work in parallel (default: the number of processors)
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// Move an existing dump aside and dump again, unless it still matches the source
    #[arg(long)]
    replace: bool,
    /// Allow sessions of this role, such as a monitoring role, to stay connected; repeatable
    #[arg(long, value_name = "ROLE")]
    ignore_role: Vec<String>,
    /// Dump even if other sessions use the source; what they write afterwards is not in the dump
    #[arg(long)]
    allow_running: bool,
    /// Name of the homeserver, if no configuration file contains it
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    /// Directory that contains pg_dump and pg_restore
    #[arg(long, value_name = "DIR")]
    pg_bin: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum FormatArg {
    /// A directory, which several workers dump and restore in parallel
    Directory,
    /// A single file
    Custom,
}

/// Runs pgdump-wrap.
pub fn run(args: &Args, context: &mut Context) -> anyhow::Result<Exit> {
    let conninfo = ess_servers::source(context, &args.source, PgVariables::ForThisServer)?.ok_or_else(|| {
        Stop::usage("no source: neither -c, nor --source, nor a document that names one")
            .hint("give -c /etc/matrix-synapse/homeserver.yaml, or --source postgresql://USER@HOST/DBNAME")
    })?;
    let out = lock_place(args, context)?;
    let name = context.application_name();
    let session = Session::connect(&conninfo, &name, Access::ReadOnly)?;
    let facts = identify(args, context, &session)?;
    let running = is_running(args, &session)?;
    refuse_older_target(context, &facts)?;
    let source = Source {
        session: &session,
        conninfo: &conninfo,
        facts: &facts,
        running,
    };

    let existing = match existing_dump(args, context, &out, &source) {
        Err(error) if args.replace && error.is::<Stop>() => {
            context.console.note(&format!("{error}; it will be moved aside"));
            None
        }
        existing => existing?,
    };
    let was_kept = existing.is_some();
    let (manifest, sha256) = match existing {
        Some(existing) => existing,
        None => dump(args, context, &out, &source)?,
    };
    record(context, &out, &manifest, sha256, was_kept);
    context.finish()?;
    Ok(Exit::Done)
}

/// The source, to which this run is connected.
#[derive(Clone, Copy)]
struct Source<'a> {
    session: &'a Session,
    conninfo: &'a Conninfo,
    facts: &'a Facts,
    /// Whether other sessions may use it.
    running: bool,
}

/// Locks the directory of the dump, and creates that of the export if the dump is to be in it.
fn lock_place(args: &Args, context: &mut Context) -> anyhow::Result<PathBuf> {
    let out = place(args, &context.document)?;
    if context.was_read && context.document.target.is_none() && !ess_servers::names_a_server() {
        // In a pipeline, ess-wipe would otherwise stop for it only after the dump.
        context
            .console
            .note("the document names no target; ess-wipe and restore will need --target");
    }
    if let Some(export) = context.document.export.clone()
        && out.starts_with(&export)
    {
        make_directory(&export)?;
    }
    context.lock_around(&out)?;
    Ok(out)
}

/// Takes the lock of the source, and records in the document which database and homeserver it is.
fn identify(args: &Args, context: &mut Context, session: &Session) -> anyhow::Result<Facts> {
    ess_proof::lock_source(session, &context.console)?;
    let facts = server_facts(session)?;
    ess_servers::name_server(context, args.server_name.as_deref())?;
    context.source_section().identity = Some(facts.identity.clone());
    ess_proof::require_primary(session, facts.standby)?;
    ess_proof::require_public(session, &facts.user, "source")?;
    if context.source_section().server_name.is_none() {
        // If the users have several server names, leave it unset: preflight reports that.
        let mut names = server_names(session)?;
        context.source_section().server_name = names.pop().filter(|_| names.is_empty());
    }
    Ok(facts)
}

/// Dumps the source; a previous dump at `out` is moved aside. Returns the manifest and its SHA-256.
fn dump(args: &Args, context: &Context, out: &Path, source: &Source<'_>) -> anyhow::Result<(Manifest, String)> {
    let programs = programs(args, context, source.facts)?;
    let jobs = ess_proof::jobs_of_dump(source.session, args.jobs, source.running, &context.console)?;
    ess_proof::require_loadable(source.session, source.facts, &context.console)?;
    let aside = std::fs::symlink_metadata(out).is_ok().then(|| aside(out));
    let taken = take(
        &Dumping {
            conninfo: source.conninfo,
            facts: source.facts,
            application_name: &context.application_name(),
            programs: &programs,
            jobs,
            layout: match args.format {
                FormatArg::Directory => DumpLayout::Directory,
                FormatArg::Custom => DumpLayout::Custom,
            },
            compression: Compression(args.compress.clone()),
            kind: DumpKind::Migration,
            id: context.document.id.as_deref().unwrap_or("-"),
            server_name: context.document.source.as_ref().and_then(|s| s.server_name.as_deref()),
            source_is_running: source.running,
            report: &context.console,
        },
        out,
        aside.as_deref(),
    )
    .context("the dump failed, and its partial files were removed")?;
    if let Some(aside) = aside {
        context
            .console
            .note(&format!("moved the previous {} to {}", out.display(), aside.display()));
    }
    Ok((taken.manifest, taken.sha256))
}

fn place(args: &Args, document: &Document) -> anyhow::Result<PathBuf> {
    match (&args.out, &document.export) {
        (Some(out), _) => ess_files::absolute(out),
        (None, Some(export)) => Ok(export.join("dump")),
        (None, None) => Err(
            Stop::usage("no directory for the dump: neither --out nor an export in the document")
                .hint("give --out DIR")
                .into(),
        ),
    }
}

/// Whether the source counts as in use. Without `--allow-running`, refuses a source that other sessions use.
///
/// With it, the source always counts as in use: sessions come and go, so finding none now proves nothing.
fn is_running(args: &Args, session: &Session) -> anyhow::Result<bool> {
    if args.allow_running {
        ess_proof::refuse_ignoring_synapse(session, &args.ignore_role)?;
        return Ok(true);
    }
    ess_proof::refuse_subscriber(session)?;
    ess_proof::wait_until_unused(session, &args.ignore_role, "source")?;
    Ok(false)
}

/// The version of the target's server, if an earlier program recorded it in the document.
fn target_version(context: &Context) -> Option<&str> {
    context.document.target.as_ref()?.server_version.as_deref()
}

/// Refuses a target that is older than the source: no dump of it could be loaded there.
fn refuse_older_target(context: &Context, source: &Facts) -> Result<(), Stop> {
    match target_version(context) {
        Some(target) if major(target) < source.major() => Err(Stop::no(format!(
            "the source is PostgreSQL {}, and the target is {target}, which is older",
            source.version_text
        ))
        .hint("use a target of at least the source's version")),
        _ => Ok(()),
    }
}

/// The client programs that can dump this source and, if the target's version is known, load into it.
fn programs(args: &Args, context: &Context, source: &Facts) -> anyhow::Result<Installation> {
    let target = target_version(context).map(major);
    let need = Need::Dump {
        source: source.major(),
        target,
    };
    let programs = choose(args.pg_bin.as_deref(), need)?;
    let last = LAST_WITHOUT_TRANSACTION_TIMEOUT;
    if target.is_none() && source.major() <= last && programs.major > last {
        context.console.note(&format!(
            "a dump by pg_dump {} can be loaded into PostgreSQL {} or newer only; for an older target, install \
             postgresql-client-{} and dump again",
            programs.version,
            last + 1,
            source.major()
        ));
    }
    Ok(programs)
}

/// The existing dump, if it is a complete dump of this source and the source has not changed since.
fn existing_dump(
    args: &Args,
    context: &Context,
    out: &Path,
    source: &Source<'_>,
) -> anyhow::Result<Option<(Manifest, String)>> {
    if !finish_rename(out)? {
        return Ok(None);
    }
    let Source {
        session,
        conninfo,
        facts,
        running,
    } = *source;
    let refuse = |why: String| {
        Stop::no(format!("{} already exists: {why}", out.display()))
            .hint("give --replace to move it aside and dump again")
    };
    let FoundDump::WithManifest { manifest, sha256, .. } = find(out).map_err(|error| refuse(format!("{error:#}")))?
    else {
        return Err(refuse("it is not a dump by pgdump-wrap".to_owned()).into());
    };
    if manifest.source != facts.identity {
        return Err(refuse(format!(
            "it is a dump of {}, and this source is {}",
            manifest.source, facts.identity
        ))
        .into());
    }
    if let Some(target) = target_version(context) {
        Origin::of_manifest(out, &manifest)
            .may_go_to(target)
            .map_err(|stop| refuse(stop.to_string()))?;
    }
    if running && !manifest.source_was_running {
        return Err(refuse(
            "it was taken while the source was stopped, and --allow-running means that the source is in use".to_owned(),
        )
        .into());
    }
    if args.replace && manifest.source_was_running && !running {
        return Err(
            refuse("it was taken while the source was in use, and the source is now stopped".to_owned()).into(),
        );
    }
    manifest
        .check_files(out, &context.console)
        .map_err(|error| refuse(format!("{error:#}")))?;
    let name = context.application_name();
    let jobs = ess_proof::jobs(session, args.jobs, &Silent);
    let reading = Reading::now(conninfo, &name, jobs, &context.console);
    if let Some(change) = change_since(session, Some(&reading), &manifest.inventory)? {
        return Err(refuse(format!("the source has changed since: {change}")).into());
    }
    context
        .console
        .note("kept the existing dump: the source has not changed since");
    Ok(Some((*manifest, sha256)))
}

fn aside(out: &Path) -> PathBuf {
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    out.with_file_name(format!("{name}.{}.{}", now().replace(':', ""), std::process::id()))
}

fn record(context: &mut Context, out: &Path, manifest: &Manifest, sha256: String, kept: bool) {
    let path = Document::relative(context.document.export.as_deref(), out);
    let inventory = &manifest.inventory;
    let (tables, rows, bytes) = (inventory.table_count(), inventory.row_count(), manifest.bytes());
    context.console.line(&format!(
        "pgdump-wrap: {}, {}, {} in {}",
        count(tables, "table"),
        count(rows, "row"),
        size(bytes),
        out.display()
    ));
    if !manifest.left_out.is_empty() {
        context.console.note(&format!(
            "not in the dump: {}; the document lists the reasons",
            some_of(&manifest.left_out)
        ));
    }
    let one_time_keys = manifest.one_time_keys();
    if let Some(keys) = &one_time_keys {
        context.console.note(&keys.to_string());
    }
    if manifest.source_was_running {
        context
            .console
            .note("the source was in use: what other sessions write after this dump is not in it");
    } else {
        context.console.note(
            "from now on, keep the old Synapse stopped: systemctl disable --now matrix-synapse && \
             systemctl mask matrix-synapse",
        );
    }
    context.document.dump = Some(Dump {
        version: context.version(),
        started_at: context.started_at.clone(),
        finished_at: now(),
        path,
        manifest_sha256: sha256,
        bytes,
        tables,
        rows,
        kept,
        source_was_running: manifest.source_was_running,
        dropped: manifest.left_out.clone(),
        one_time_keys,
        next: Next {
            go_on: vec!["ess-wipe".to_owned(), "restore".to_owned()],
            go_back: None,
        },
    });
}

/// The first few entries, for a message.
fn some_of(left_out: &[Dropped]) -> String {
    const SHOWN: usize = 5;
    let shown: Vec<&str> = left_out.iter().take(SHOWN).map(|left| left.entry.as_str()).collect();
    match left_out.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
