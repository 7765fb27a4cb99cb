//! Loading a dump: the structure through a session of our own, everything else with `pg_restore`.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::{self, BufReader};
use std::path::Path;

use anyhow::Context;
use ess_postgres::{Access, ChildEnvironment, Conninfo, CopyIn, Error, SchemaRows, Session};
use ess_run::{Installation, MemoryFile, Program, Report};
use ess_stop::Stop;

use crate::dumping::child_name;
use crate::manifest::Manifest;
use crate::plain::{self, DumpFormat, Nowhere, Outcome, PlainError, Taker};
use crate::toc::{Entry, Toc};

/// Where and how a dump is loaded.
pub struct Restoring<'a> {
    /// The target database.
    pub conninfo: &'a Conninfo,
    /// The `application_name` of this tool's sessions.
    pub application_name: &'a str,
    /// The client programs.
    pub programs: &'a Installation,
    /// The role that is to own everything, if it is not the role that connects.
    pub role: Option<&'a str>,
    /// The number of sessions that load data and build indexes.
    pub jobs: usize,
    /// `maintenance_work_mem` for each index build, in MiB.
    pub maintenance_mib: u64,
    /// Receives progress and notes.
    pub report: &'a dyn Report,
}

/// Options for what is never loaded, since it is specific to a server or needs permissions that the role lacks.
const LEFT_TO_THE_TARGET: [&str; 6] = [
    "--no-owner",
    "--no-acl",
    "--no-publications",
    "--no-subscriptions",
    "--no-security-labels",
    "--no-tablespaces",
];

impl Restoring<'_> {
    /// The table of contents of an archive.
    pub fn contents(&self, archive: &Path) -> anyhow::Result<Toc> {
        contents(self.programs, archive, self.report)
    }

    /// The rows of Synapse's schema version, read from these entries of an archive.
    pub fn schema_rows(&self, archive: &Path, entries: &[&Entry]) -> anyhow::Result<SchemaRows> {
        if entries.is_empty() {
            return Ok(SchemaRows::default());
        }
        let list = list_file(entries)?;
        let what = "the schema version";
        let outcome = self.sql(archive, &list, "--data-only").read(what, &mut Nowhere)?;
        Ok(outcome.schema)
    }

    /// Fails if the indexes and constraints of an archive contain SQL that `pg_dump` does not write. Runs none of it.
    pub fn check_post_data(&self, archive: &Path, entries: &[&Entry]) -> anyhow::Result<()> {
        let list = list_file(entries)?;
        let sql = self.sql(archive, &list, "--section=post-data");
        sql.read("the indexes and constraints", &mut Nowhere).map(drop)
    }

    /// Runs `before`, the pre-data section and `after` in one transaction, and commits it unless `may_commit` fails.
    pub fn load_pre_data(
        &self,
        archive: &Path,
        entries: &[&Entry],
        before: &str,
        after: &str,
        may_commit: &mut (dyn FnMut() -> anyhow::Result<()> + Send),
    ) -> anyhow::Result<()> {
        let list = list_file(entries)?;
        let load = |session: &Session| {
            session.batch("clear the target", before)?;
            let mut target = Target::new(session);
            let sql = self.sql(archive, &list, "--section=pre-data");
            sql.read("the structure", &mut target)?;
            session.batch("set up the fence", &in_empty_search_path(after))?;
            may_commit()
        };
        self.transaction(load)
    }

    /// Loads data, then indexes, constraints and triggers.
    pub fn load_data_and_post_data(&self, archive: &Path, entries: &[&Entry]) -> anyhow::Result<()> {
        let list = list_file(entries)?;
        let child = self.child("pg_restore")?;
        // pg_restore does not support parallel restore from a tar archive.
        let jobs = if plain::detect(archive)? == DumpFormat::Tar {
            1
        } else {
            self.jobs
        };
        self.as_owner(self.pg_restore(&list.path()))
            .args(["--section=data", "--section=post-data", "--no-password"])
            .args(["--jobs", &jobs.to_string()])
            .args(["--dbname", &self.conninfo.dbname_argument()])
            .arg(archive)
            .envs(&child.vars)
            .finish(self.report)
            .with_context(|| format!("cannot load {}", archive.display()))
    }

    /// Runs `before`, an SQL dump and `after` in one transaction. Statements about the source's server are left out.
    pub fn load_plain(&self, path: &Path, before: &str, after: &str) -> anyhow::Result<Outcome> {
        let failed = || format!("cannot load {}", path.display());
        let mut reader = plain::open_plain(path).with_context(failed)?;
        let load = |session: &Session| {
            session.batch("clear the target", before)?;
            let scanned = plain::scan(&mut reader, &mut Target::new(session));
            let outcome = scanned.map_err(refused).with_context(failed)?;
            check_schema(&outcome.schema, path)?;
            session.batch("set up the fence", &in_empty_search_path(after))?;
            Ok(outcome)
        };
        self.transaction(load)
    }

    /// Does `work` in one transaction, in a session of its own.
    ///
    /// Commits asynchronously: a crash of the server during a restore loses nothing, because the fence is still in
    /// place and the dump still exists.
    fn transaction<T>(&self, work: impl FnOnce(&Session) -> anyhow::Result<T>) -> anyhow::Result<T> {
        let session = Session::connect(self.conninfo, self.application_name, Access::ReadWrite)?;
        session.batch("begin the load", "SET synchronous_commit = off; BEGIN")?;
        let done = work(&session);
        if done.is_ok() {
            session.batch("end the load", "COMMIT")?;
        } else {
            // Report the first error. If the session has ended, the server has rolled back by itself.
            let _ = session.batch("undo the load", "ROLLBACK");
        }
        done
    }

    fn pg_restore(&self, list: &OsStr) -> Program {
        pg_restore(self.programs, list)
    }

    fn sql<'b>(&'b self, archive: &'b Path, list: &'b MemoryFile, section: &'b str) -> Sql<'b> {
        Sql {
            programs: self.programs,
            archive,
            list,
            section,
            report: self.report,
        }
    }

    fn as_owner(&self, program: Program) -> Program {
        match self.role {
            Some(role) => program.args(["--role", role]),
            None => program,
        }
    }

    /// The environment of a child program, with settings for a fast load.
    ///
    /// Commits asynchronously, for the same reason as `transaction`.
    fn child(&self, program: &str) -> anyhow::Result<ChildEnvironment> {
        let memory = format!("{}MB", self.maintenance_mib);
        let settings = [
            ("synchronous_commit", "off"),
            ("maintenance_work_mem", &memory),
            ("max_parallel_maintenance_workers", "0"),
        ];
        let name = child_name(self.application_name, program);
        Ok(self.conninfo.child_environment(&name, Access::ReadWrite, &settings)?)
    }
}

fn pg_restore(programs: &Installation, list: &OsStr) -> Program {
    programs
        .program("pg_restore")
        .args(["--exit-on-error"])
        .args(LEFT_TO_THE_TARGET)
        .arg("--use-list")
        .arg(list)
}

fn contents(programs: &Installation, archive: &Path, report: &dyn Report) -> anyhow::Result<Toc> {
    let listing = programs
        .program("pg_restore")
        .arg("--list")
        .arg(archive)
        .capture(report)
        .with_context(|| format!("cannot read the archive {}", archive.display()))?;
    let toc = Toc::parse(&String::from_utf8_lossy(&listing));
    // pg_restore -L selects entries by number, and could not distinguish two entries with the same number.
    let mut numbers = BTreeSet::new();
    if let Some(twice) = toc.entries.iter().find(|entry| !numbers.insert(entry.number())) {
        let what = format!(
            "the archive {} has two entries with the number {}",
            archive.display(),
            twice.number()
        );
        return Err(Stop::data(what).hint("copy the dump again, or dump again").into());
    }
    Ok(toc)
}

/// The SQL that `pg_restore` writes for some entries of an archive.
struct Sql<'a> {
    programs: &'a Installation,
    archive: &'a Path,
    list: &'a MemoryFile,
    section: &'a str,
    report: &'a dyn Report,
}

impl Sql<'_> {
    /// Runs `pg_restore`, scans its output and passes it to `taker`.
    fn read(&self, what: &str, taker: &mut (dyn Taker + Send)) -> anyhow::Result<Outcome> {
        let failed = || format!("cannot load {what} in {}", self.archive.display());
        let mut scanned = Ok(Outcome::default());
        let program = pg_restore(self.programs, &self.list.path()).args([self.section, "--file=-"]);
        let ended = program.arg(self.archive).read(self.report, &mut |stdout| {
            scanned = plain::scan(&mut BufReader::with_capacity(1 << 16, stdout), taker);
            let stopped = |_: &PlainError| io::Error::other("its output was not read to the end");
            scanned.as_ref().map(|_| ()).map_err(stopped)
        });
        match (scanned, ended) {
            (Ok(outcome), Ok(())) => Ok(outcome),
            // If pg_restore failed, its own message explains why the SQL is truncated.
            (Ok(_) | Err(PlainError::Truncated { .. }), Err(error)) => Err(error).with_context(failed),
            (Err(error), _) => Err(refused(error)).with_context(failed),
        }
    }
}

/// Fails if a restore would refuse the SQL of this dump, so that this is found before anything is erased.
pub(crate) fn check_sql(archive: &Path, programs: &Installation, report: &dyn Report) -> anyhow::Result<()> {
    let toc = contents(programs, archive, report)?;
    let list = &list_file(&toc.divide().0)?;
    for section in ["--section=pre-data", "--section=post-data"] {
        let sql = Sql {
            programs,
            archive,
            list,
            section,
            report,
        };
        sql.read("the structure", &mut Nowhere)?;
    }
    Ok(())
}

/// Reads a complete dump like a restore, but without a server: verifies every file, and that `pg_restore` can read it
/// to the end.
pub fn read_back(dump: &Path, manifest: &Manifest, programs: &Installation, report: &dyn Report) -> anyhow::Result<()> {
    manifest.check_files(dump, report)?;
    programs
        .program("pg_restore")
        .args(["--exit-on-error", "--file=/dev/null"])
        .arg(dump.join(&manifest.data))
        .finish(report)
        .with_context(|| format!("cannot read back {}", dump.display()))
}

/// Our own statements, for a session in which a dump may have changed the `search_path`.
fn in_empty_search_path(statements: &str) -> String {
    format!("SET search_path = ''; {statements}")
}

/// Refuses a dump on which Synapse would not start, or would initialise a new, empty homeserver.
pub fn check_schema(schema: &SchemaRows, dump: &Path) -> Result<(), Stop> {
    match schema.implausible() {
        None => Ok(()),
        Some(why) => Err(Stop::data(format!("the dump at {}: {why}", dump.display()))
            .hint("dump again: the database that Synapse uses, with all its tables")),
    }
}

/// Converts the scanner's error: a dump that these tools refuse, or a statement that the server rejected.
fn refused(error: PlainError) -> anyhow::Error {
    match error {
        PlainError::Io(error) => error.into(),
        PlainError::Interrupted(interrupted) => interrupted.into(),
        PlainError::Server { line, what, source } => anyhow::Error::new(source).context(format!("line {line}: {what}")),
        error => {
            let stop = Stop::data(error.to_string());
            match error.hint() {
                Some(hint) => stop.hint(hint),
                None => stop,
            }
            .into()
        }
    }
}

/// How many bytes of rows are buffered before they are sent to the server.
const ROWS: usize = 128 << 10;

/// Sends what the scanner passes on to a transaction on the target.
struct Target<'a> {
    session: &'a Session,
    copy: Option<CopyIn<'a>>,
    rows: Vec<u8>,
}

impl<'a> Target<'a> {
    fn new(session: &'a Session) -> Self {
        Self {
            session,
            copy: None,
            rows: Vec::new(),
        }
    }

    fn send(&mut self) -> Result<(), Error> {
        let rows = std::mem::replace(&mut self.rows, Vec::with_capacity(2 * ROWS));
        self.copy.as_mut().map_or(Ok(()), |copy| copy.send(rows))
    }
}

impl Taker for Target<'_> {
    fn statement(&mut self, sql: &str) -> Result<Option<u64>, Error> {
        self.session.statement("run a statement of the dump", sql).map(Some)
    }

    fn copy(&mut self, sql: &str) -> Result<(), Error> {
        self.copy = Some(self.session.copy_in("load rows of the dump", sql)?);
        Ok(())
    }

    fn rows(&mut self, part: &[u8]) -> Result<(), Error> {
        self.rows.extend_from_slice(part);
        if self.rows.len() < ROWS {
            return Ok(());
        }
        self.send()
    }

    fn end_of_rows(&mut self) -> Result<Option<u64>, Error> {
        self.send()?;
        self.copy.take().map(CopyIn::finish).transpose()
    }
}

/// A list of the entries to load, for `pg_restore --use-list`.
pub(crate) fn list_file(entries: &[&Entry]) -> anyhow::Result<MemoryFile> {
    let lines: Vec<&str> = entries.iter().flat_map(|entry| [entry.line.as_str(), "\n"]).collect();
    MemoryFile::new(lines.concat().as_bytes()).context("cannot make a file in memory")
}
