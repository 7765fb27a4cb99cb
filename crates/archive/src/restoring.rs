//! Loading a dump with `pg_restore` and `psql`.

use std::ffi::OsStr;
use std::io::{ErrorKind, Write};
use std::path::Path;

use anyhow::Context;
use ess_cli::Stop;
use ess_postgres::{ChildEnvironment, Conninfo, SchemaRows};
use ess_run::{Installation, MemoryFile, Program, Report};

use crate::dumping::child_name;
use crate::manifest::Manifest;
use crate::plain::{self, Format, Outcome, PlainError};
use crate::toc::{Entry, Toc};

/// Where and how a dump is loaded.
pub struct Restoring<'a> {
    /// The target.
    pub conninfo: &'a Conninfo,
    /// Our tool there.
    pub application_name: &'a str,
    /// The client programs.
    pub programs: &'a Installation,
    /// The role that will own everything, when it is not the one that connects.
    pub role: Option<&'a str>,
    /// How many sessions load data and build indexes.
    pub jobs: usize,
    /// Memory for each index build, in MiB.
    pub maintenance_mib: u64,
    /// Who is told.
    pub report: &'a dyn Report,
}

/// Never: they differ between servers or need rights that the role lacks.
const LEFT_TO_THE_TARGET: [&str; 5] = [
    "--no-owner",
    "--no-acl",
    "--no-publications",
    "--no-subscriptions",
    "--no-security-labels",
];

impl Restoring<'_> {
    /// The table of contents of an archive.
    pub fn contents(&self, archive: &Path) -> anyhow::Result<Toc> {
        let listing = self
            .programs
            .program("pg_restore")
            .arg("--list")
            .arg(archive)
            .capture(self.report)
            .with_context(|| format!("cannot read the archive {}", archive.display()))?;
        Ok(Toc::parse(&String::from_utf8_lossy(&listing)))
    }

    /// The rows by which Synapse decides whether it may use the database, from their entries.
    pub fn schema_rows(&self, archive: &Path, entries: &[&Entry]) -> anyhow::Result<SchemaRows> {
        if entries.is_empty() {
            return Ok(SchemaRows::default());
        }
        let list = list_file(entries)?;
        let text = self
            .pg_restore(&list.path())
            .args(["--data-only", "--file=-"])
            .arg(archive)
            .capture(self.report)
            .with_context(|| format!("cannot read the schema version in {}", archive.display()))?;
        let outcome = plain::scan(&mut text.as_slice(), &mut std::io::sink())
            .map_err(|error| refused(&error))
            .with_context(|| format!("cannot read the schema version in {}", archive.display()))?;
        Ok(outcome.schema)
    }

    /// Runs `before`, all of pre-data and `after` as one transaction, and commits it if `may_commit`.
    pub fn load_pre_data(
        &self,
        archive: &Path,
        entries: &[&Entry],
        before: &str,
        after: &str,
        may_commit: &mut (dyn FnMut() -> anyhow::Result<()> + Send),
    ) -> anyhow::Result<()> {
        let list = list_file(entries)?;
        // Whole before psql sees a byte: what pg_restore cannot read should not reach the target.
        let sql = self
            .as_owner(self.pg_restore(&list.path()))
            .args(["--section=pre-data", "--file=-"])
            .arg(archive)
            .capture(self.report)
            .with_context(|| format!("cannot read the structure in {}", archive.display()))?;
        let mut may = Ok(());
        let loaded = self.psql(&mut |psql| {
            psql.write_all(before.as_bytes())?;
            psql.write_all(&sql)?;
            psql.write_all(after.as_bytes())?;
            psql.flush()?;
            may = may_commit();
            let refused = |_: &anyhow::Error| std::io::Error::other("the structure may not stay");
            may.as_ref().map_err(refused).copied()
        });
        may?;
        loaded.context("cannot load the structure")
    }

    /// Loads data, then indexes, constraints and triggers.
    pub fn load_data_and_post_data(&self, archive: &Path, entries: &[&Entry]) -> anyhow::Result<()> {
        let list = list_file(entries)?;
        let child = self.child("pg_restore")?;
        // pg_restore reads a tar archive from front to back, in one session.
        let jobs = if plain::detect(archive)? == Format::Tar {
            1
        } else {
            self.jobs
        };
        self.as_owner(self.pg_restore(&list.path()))
            .args(["--section=data", "--section=post-data", "--no-password"])
            .args(["--jobs", &jobs.to_string()])
            .args(["--dbname", &self.conninfo.dbname_argument()])
            .arg(archive)
            .envs(&self.variables(&child))
            .finish(self.report)
            .with_context(|| format!("cannot load {}", archive.display()))
    }

    /// Runs `before`, an SQL dump without what is the target's own, and `after` as one transaction.
    pub fn load_plain(&self, path: &Path, before: &str, after: &str) -> anyhow::Result<Outcome> {
        let mut scanned: Result<Outcome, PlainError> = Ok(Outcome::default());
        let loaded = self.psql(&mut |psql| {
            psql.write_all(before.as_bytes())?;
            scanned = plain::open_plain(path)
                .map_err(PlainError::from)
                .and_then(|mut reader| plain::scan(&mut reader, psql));
            match scanned {
                Ok(_) => psql.write_all(after.as_bytes()),
                // Without our COMMIT psql undoes it all, even what went before a dump that cannot be opened.
                Err(_) => Err(std::io::Error::other("the dump was not read to its end")),
            }
        });
        let failed = || format!("cannot load {}", path.display());
        match (scanned, loaded) {
            (Ok(outcome), Ok(())) => Ok(outcome),
            (Ok(_), Err(error)) => Err(error.context(failed())),
            // psql went first: its words explain the broken pipe.
            (Err(PlainError::Io(pipe)), Err(error)) if pipe.kind() == ErrorKind::BrokenPipe => {
                Err(error.context(failed()))
            }
            (Err(PlainError::Io(error)), _) => Err(error).with_context(failed),
            (Err(error), _) => Err(refused(&error)).with_context(failed),
        }
    }

    /// Runs SQL as one transaction.
    ///
    /// The COMMIT is ours to say: `psql --single-transaction` says it wherever its input ends, which
    /// is in the middle when we are killed.
    fn psql(
        &self,
        source: &mut (dyn FnMut(&mut dyn Write) -> std::io::Result<()> + Send),
    ) -> Result<(), anyhow::Error> {
        let child = self.child("psql")?;
        self.programs
            .program("psql")
            .args([
                "--no-psqlrc",
                "--quiet",
                "--no-password",
                "--set",
                "ON_ERROR_STOP=1",
                "--file=-",
            ])
            .envs(&self.variables(&child))
            .feed(self.report, &mut |psql| {
                psql.write_all(b"BEGIN;\n")?;
                source(psql)?;
                psql.write_all(b"\nCOMMIT;\n")
            })?;
        Ok(())
    }

    fn pg_restore(&self, list: &OsStr) -> Program {
        self.programs
            .program("pg_restore")
            .args(["--exit-on-error"])
            .args(LEFT_TO_THE_TARGET)
            .arg("--use-list")
            .arg(list)
    }

    fn as_owner(&self, program: Program) -> Program {
        match self.role {
            Some(role) => program.args(["--role", role]),
            None => program,
        }
    }

    fn child(&self, program: &str) -> anyhow::Result<ChildEnvironment> {
        Ok(self
            .conninfo
            .child_environment(&child_name(self.application_name, program))?)
    }

    /// A crash of the server during a restore loses nothing: the fence stands and the dump is there.
    fn variables(&self, child: &ChildEnvironment) -> Vec<(String, std::ffi::OsString)> {
        let options = format!(
            "-c synchronous_commit=off -c maintenance_work_mem={}MB -c max_parallel_maintenance_workers=0 -c idle_in_transaction_session_timeout=0",
            self.maintenance_mib
        );
        let mut vars = child.vars.clone();
        vars.push(("PGOPTIONS".to_owned(), options.into()));
        vars
    }
}

/// Reads a whole dump as a restore would, without a server: every file matches, everything unpacks.
pub fn read_back(dump: &Path, manifest: &Manifest, programs: &Installation, report: &dyn Report) -> anyhow::Result<()> {
    manifest.check_files(dump, report)?;
    programs
        .program("pg_restore")
        .args(["--exit-on-error", "--file=/dev/null"])
        .arg(dump.join(&manifest.data))
        .finish(report)
        .with_context(|| format!("cannot read back {}", dump.display()))
}

/// A dump that is not what these tools load.
fn refused(error: &PlainError) -> Stop {
    let stop = Stop::data(error.to_string());
    match error.hint() {
        Some(hint) => stop.hint(hint),
        None => stop,
    }
}

/// Which entries to load, for `--use-list`.
pub(crate) fn list_file(entries: &[&Entry]) -> anyhow::Result<MemoryFile> {
    let lines: Vec<&str> = entries.iter().flat_map(|entry| [entry.line.as_str(), "\n"]).collect();
    MemoryFile::new(lines.concat().as_bytes()).context("cannot make a file in memory")
}
