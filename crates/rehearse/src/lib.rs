//! rehearse: the migration into a scratch database, weeks before, while Synapse runs.

mod directory;
mod room;
mod scratch;
mod steps;

use std::path::{Path, PathBuf};

use ess_cli::{Context, Exit, Stop, hint_of};
use ess_document::{Failure, Identity, Next, Rehearse, now};
use ess_postgres::{Access, Conninfo, ConninfoError, Facts, PasswordOrigin, Session, server_facts};
use ess_run::text::{count, counted, size};
use ess_run::{Installation, Need, Report as _, choose, servers};
use ess_servers::{PgVariables, SourceArgs};

use crate::directory::Directory;
use crate::scratch::Scratch;
use crate::steps::{Ready, Rehearsal};

/// Commands that `--help` shows.
const EXAMPLES: &str = r"# Rehearse with a throwaway server of the version that ESS runs
rehearse -c homeserver.yaml --export export --target-version 17
# Rehearse into an empty database on a server of that version
rehearse -c homeserver.yaml --export export --target-version 17 \
    --on postgresql://me@db/scratch";

/// Rehearse the migration into a scratch database
///
/// Dumps the source while Synapse runs, loads the dump into a throwaway database, and proves that
/// everything arrived, without touching ESS. Finds what would stop the migration after the wipe,
/// and measures how long each step takes.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,
    /// Empty database to load into, a libpq URL or key=value string without password (default: a throwaway server)
    #[arg(long, value_name = "URL")]
    on: Option<String>,
    /// Major version of the target's server (default: that of the target in the document, if it names one)
    #[arg(long, value_name = "MAJOR")]
    target_version: Option<u32>,
    /// Directory for the throwaway server's files (default: next to the export if run as root, otherwise in it)
    #[arg(long, value_name = "DIR", conflicts_with = "on")]
    scratch: Option<PathBuf>,
    /// Number of sessions that work in parallel (default: the number of processors)
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// Keep the dump and the scratch database, which contain everything that the source does
    #[arg(long)]
    keep: bool,
    /// Directory of pg_dump, pg_restore, initdb and postgres
    #[arg(long, value_name = "DIR")]
    pg_bin: Option<PathBuf>,
}

/// Runs rehearse.
pub fn run(args: &Args, context: &mut Context) -> anyhow::Result<Exit> {
    let conninfo = ess_servers::source(context, &args.source, PgVariables::ForThisServer)?.ok_or_else(|| {
        Stop::usage("no source: neither -c, nor --source, nor a document that names one")
            .hint("give -c /etc/matrix-synapse/homeserver.yaml, or --source postgresql://USER@HOST/DBNAME")
    })?;
    let export = context.document.export.clone().ok_or_else(|| {
        Stop::usage("no directory for the dump: neither --export nor an export in the document")
            .hint("give --export DIR")
    })?;
    ess_files::make_directory(&export)?;
    context.lock_export()?;
    let name = context.application_name();
    let session = Session::connect(&conninfo, &name, Access::ReadOnly)?;
    let facts = identify(context, &session)?;

    let place = Place::choose(args, context, &facts, &export)?;
    let need = Need::Dump {
        source: facts.major(),
        target: Some(place.major),
    };
    let programs = choose(args.pg_bin.as_deref(), need)?;
    let directory = Directory::claim(&export.join("rehearsal"), args.keep)?;
    let for_server = place.on.directory().map(|path| Directory::claim(path, args.keep));
    let for_server = for_server.transpose()?;
    // Now that what an earlier rehearsal left is gone.
    let server = for_server.as_ref().map(Directory::path);
    room::require(u64::try_from(facts.bytes).unwrap_or(u64::MAX), directory.path(), server)?;
    let report = context.console.clone();
    let rehearsal = Rehearsal {
        source: &conninfo,
        session: &session,
        facts: &facts,
        application_name: &name,
        id: context.document.id.clone().unwrap_or_default(),
        jobs: ess_proof::jobs_of_dump(&session, args.jobs, true, &context.console)?,
        pg_bin: args.pg_bin.as_deref(),
        programs: &programs,
        dump: directory.path().join("dump"),
        keep: args.keep,
        report: &report,
    };
    let mut record = Rehearse {
        version: context.version(),
        started_at: context.started_at.clone(),
        on: place.on.to_string(),
        major: place.major,
        source_bytes: u64::try_from(facts.bytes).unwrap_or_default(),
        ..Rehearse::default()
    };
    let mut ready = place.on.prepare(for_server, &rehearsal)?;
    let stopped = rehearsal.run(&mut ready, &mut record)?;
    if args.keep {
        let server = place.on.directory().map_or_else(String::new, |directory| {
            format!(", and the server's files in {}", directory.display())
        });
        context.console.note(&format!(
            "kept the dump in {}{server}: they contain everything that the source does",
            directory.path().display()
        ));
    }
    // The files are removed before the document reports the result.
    drop(ready);
    drop(directory);
    if let Some(error) = stopped {
        context.console.error(&error);
        record.failure = Some(Failure {
            message: format!("{error:#}"),
            remedy: hint_of(&error),
        });
    }
    finish(context, record, place.has_the_version_of_the_target)
}

/// Takes the lock of the source, and records in the document which database it is.
fn identify(context: &mut Context, session: &Session) -> anyhow::Result<Facts> {
    ess_proof::lock_source(session, &context.console)?;
    let facts = server_facts(session)?;
    context.source_section().identity = Some(facts.identity.clone());
    ess_proof::require_primary(session, facts.standby)?;
    ess_proof::require_public(session, &facts.user, "source")?;
    Ok(facts)
}

/// Where the dump is loaded.
struct Place {
    on: On,
    /// The major version of that server.
    major: u32,
    has_the_version_of_the_target: bool,
}

/// The server of the scratch database.
enum On {
    /// A throwaway server of this installation, in this directory.
    Throwaway(Installation, PathBuf),
    /// An empty database, and which it is.
    Given(Conninfo, Identity, String),
}

impl Place {
    fn choose(args: &Args, context: &Context, source: &Facts, export: &Path) -> anyhow::Result<Self> {
        let document = context.document.target.as_ref();
        let known = document.and_then(|target| target.server_version.as_deref());
        let wanted = args.target_version.or_else(|| known.map(ess_archive::major));
        let (on, major) = match &args.on {
            Some(url) => given(url, context, source)?,
            None => throwaway(args, wanted, source, export)?,
        };
        if major < source.major() {
            return Err(Stop::no(format!(
                "the source is PostgreSQL {}, and the scratch database {major}, which is older",
                source.version_text
            ))
            .hint("use a server of at least the source's version")
            .into());
        }
        Ok(Self {
            on,
            major,
            has_the_version_of_the_target: wanted == Some(major),
        })
    }
}

/// The database that `--on` names, which is only read here.
fn given(url: &str, context: &Context, source: &Facts) -> anyhow::Result<(On, u32)> {
    if url.trim().is_empty() {
        return Err(Stop::usage("--on is empty")
            .hint("check that the variable that the command line names is set and exported")
            .into());
    }
    let env = |name: &str| std::env::var(name).ok();
    let parsed = Conninfo::parse(url).map_err(|error| {
        let hint = match &error {
            ConninfoError::PasswordInText => Some("put the password into ~/.pgpass, or a file that PGPASSFILE names"),
            _ => error.hint(),
        };
        hint.into_iter().fold(Stop::usage(format!("--on: {error}")), Stop::hint)
    })?;
    // The variables of libpq name the source.
    let mut conninfo = parsed.resolve(&env, false)?;
    if let PasswordOrigin::None(Some((path, why))) = conninfo.find_password(&env)? {
        context.console.note(&format!("ignoring {}: {why}", path.display()));
    }
    // Not the name of this program's sessions, which are taken for leftovers when the database is opened to be loaded.
    let name = context.application_name().replace("/rehearse/", "/probe/");
    let facts = server_facts(&Session::connect(&conninfo, &name, Access::ReadOnly)?)?;
    if facts.identity == source.identity {
        return Err(Stop::no(format!("--on names the source itself, {}", facts.identity))
            .hint("name an empty database, best on another server")
            .into());
    }
    let major = facts.major();
    Ok((On::Given(conninfo, facts.identity, facts.version_text), major))
}

/// The installed server of the wanted version, or else the newest one.
fn throwaway(args: &Args, wanted: Option<u32>, source: &Facts, export: &Path) -> anyhow::Result<(On, u32)> {
    let all = servers(args.pg_bin.as_deref());
    let major = wanted.or_else(|| all.last().map(|newest| newest.major));
    let Some(installed) = all.iter().find(|one| Some(one.major) == major) else {
        let major = major.unwrap_or_else(|| source.major());
        let found: Vec<&str> = all.iter().map(|one| one.version.as_str()).collect();
        let found = if found.is_empty() {
            "none".to_owned()
        } else {
            found.join(", ")
        };
        return Err(Stop::new(
            Exit::Unavailable,
            format!("no PostgreSQL {major} server is installed here (found: {found})"),
        )
        .hint(format!(
            "install postgresql-{major}, name its directory with --pg-bin, or name an empty database with --on"
        ))
        .into());
    };
    let directory = match &args.scratch {
        Some(directory) => ess_files::absolute(directory)?,
        // The server's user cannot enter the export.
        None if rustix::process::geteuid().is_root() => {
            let name = export.file_name().unwrap_or_default().to_string_lossy();
            export.with_file_name(format!("{name}-rehearsal"))
        }
        None => export.join("rehearsal/server"),
    };
    Ok((On::Throwaway(installed.clone(), directory), installed.major))
}

impl On {
    /// The directory of the throwaway server.
    fn directory(&self) -> Option<&Path> {
        match self {
            Self::Throwaway(_, directory) => Some(directory),
            Self::Given(..) => None,
        }
    }

    /// Starts the server, if it is a throwaway one, in its directory, and checks the database: before the dump, which
    /// may take hours.
    fn prepare(&self, directory: Option<Directory>, rehearsal: &Rehearsal<'_>) -> anyhow::Result<Ready> {
        let (scratch, conninfo, known) = match (self, directory) {
            (Self::Throwaway(installed, _), Some(directory)) => {
                let scratch = Scratch::start(directory, installed, rehearsal)?;
                let conninfo = scratch.conninfo()?;
                (Some(scratch), conninfo, None)
            }
            (Self::Given(conninfo, identity, _), _) => (None, conninfo.clone(), Some(identity)),
            (Self::Throwaway(..), None) => anyhow::bail!("the throwaway server has no directory"),
        };
        Ok(Ready {
            target: rehearsal.open(&conninfo, known)?,
            conninfo,
            scratch,
        })
    }
}

impl std::fmt::Display for On {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Throwaway(installed, _) => write!(f, "a throwaway server, PostgreSQL {}", installed.version),
            Self::Given(conninfo, _, version) => write!(f, "{conninfo}, PostgreSQL {version}"),
        }
    }
}

/// Prints the result, and writes the section and the document.
fn finish(context: &mut Context, mut record: Rehearse, has_the_version_of_the_target: bool) -> anyhow::Result<Exit> {
    let holds = record.holds();
    let console = &context.console;
    if holds {
        console.line(&format!(
            "rehearse: {}, {}, all equal after {}: dump {}, load {}, proof {}; the dump has {}",
            count(record.tables, "table"),
            count(record.rows, "row"),
            count(record.seconds(), "second"),
            record.dump_seconds,
            record.load_seconds,
            record.proof_seconds,
            size(record.dump_bytes),
        ));
    }
    if !record.differences.is_empty() {
        let different = counted(record.differences.len(), "difference", "differences");
        console.line(&format!("rehearse: {different} after the load:"));
    }
    for difference in &record.differences {
        console.line(&format!("  {difference}"));
    }
    if holds && !has_the_version_of_the_target {
        console.note(&format!(
            "not proven for the target, whose version is not known to be that of {}: give --target-version",
            record.on
        ));
    }
    record.finished_at = now();
    record.proven = holds && has_the_version_of_the_target;
    record.next = Next {
        go_on: vec!["preflight".to_owned()],
        go_back: None,
    };
    context.document.rehearse = Some(record);
    context.finish()?;
    Ok(if holds { Exit::Done } else { Exit::No })
}
