//! What a database holds: the digest of every table, read by several sessions in one snapshot.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use ess_document::Carried;
use ess_run::Report;
use serde::{Deserialize, Serialize};

use crate::{Access, Algorithm, Conninfo, Digest, Error, Mark, SchemaRows, Session, Table, digest};

/// What a database holds, enough to tell whether another holds the same.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inventory {
    /// How rows are hashed.
    pub algorithm: Algorithm,
    /// Every table.
    pub tables: Vec<TableRecord>,
    /// Where it stood.
    pub mark: Mark,
    /// The rows that let Synapse start.
    pub schema: SchemaRows,
    /// Everything but rows.
    pub catalogue: Vec<String>,
}

/// A table and what is carried of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableRecord {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// What of it is carried.
    pub carried: Carried,
    /// Of its rows, where they are carried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
}

impl Inventory {
    /// How many tables are carried with their rows.
    pub fn table_count(&self) -> u64 {
        self.tables.iter().filter(|t| t.digest.is_some()).count() as u64
    }

    /// How many rows those tables hold.
    pub fn row_count(&self) -> u64 {
        self.tables
            .iter()
            .filter_map(|t| t.digest.as_ref())
            .map(|d| d.rows)
            .sum()
    }
}

/// What is done with a table after its digest.
pub type Then<'a> = dyn Fn(&Session, &Table) -> Result<(), Error> + Sync + 'a;

/// Where and how digests are read.
pub struct Reading<'a> {
    /// The database.
    pub conninfo: &'a Conninfo,
    /// Our name there.
    pub application_name: &'a str,
    /// A snapshot that another session exported.
    pub snapshot: Option<&'a str>,
    /// How rows are hashed.
    pub algorithm: Algorithm,
    /// How many sessions.
    pub jobs: usize,
    /// Asked for a place before each table, and given it back after.
    pub gate: &'a (dyn Gate + 'a),
    /// Statements run for each table after its digest, such as `ANALYZE`.
    pub then: Option<&'a Then<'a>>,
    /// Who is told.
    pub report: &'a dyn Report,
}

/// Keeps digests from crowding out other work.
pub trait Gate: Sync {
    /// Returns when a table may be read, or with the reason to stop.
    fn enter(&self) -> Result<(), Error>;
    /// The table has been read.
    fn leave(&self);
}

/// Nothing else is going on.
pub struct Open;

impl Gate for Open {
    fn enter(&self) -> Result<(), Error> {
        Ok(())
    }

    fn leave(&self) {}
}

/// Digests of `tables`, in their order; the largest should come first.
pub fn digests(reading: &Reading<'_>, tables: &[&Table]) -> Result<Vec<Digest>, Error> {
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let found: Mutex<Vec<Option<Digest>>> = Mutex::new(vec![None; tables.len()]);
    let work = || -> Result<(), Error> {
        let session = open(reading)?;
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(table) = tables.get(index) else { return Ok(()) };
            if failed.load(Ordering::Relaxed) {
                return Ok(());
            }
            reading.gate.enter()?;
            let outcome = digest(&session, table, reading.algorithm).and_then(|digest| {
                reading.then.map_or(Ok(()), |then| then(&session, table))?;
                Ok(digest)
            });
            reading.gate.leave();
            found.lock().unwrap_or_else(PoisonError::into_inner)[index] = Some(outcome?);
            reading.report.advance(u64::try_from(table.bytes).unwrap_or(0));
        }
    };
    let outcomes: Vec<Result<(), Error>> = thread::scope(|scope| {
        let jobs = reading.jobs.clamp(1, tables.len().max(1));
        let workers: Vec<_> = (0..jobs)
            .map(|_| {
                scope.spawn(|| {
                    let outcome = work();
                    failed.fetch_or(outcome.is_err(), Ordering::Relaxed);
                    outcome
                })
            })
            .collect();
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    outcomes.into_iter().collect::<Result<(), Error>>()?;
    // Every worker succeeded, so every table has its digest.
    Ok(found
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
        .into_iter()
        .flatten()
        .collect())
}

fn open(reading: &Reading<'_>) -> Result<Session, Error> {
    let access = if reading.then.is_some() {
        Access::ReadWrite
    } else {
        Access::ReadOnly
    };
    let session = Session::connect(reading.conninfo, reading.application_name, access)?;
    if let Some(snapshot) = reading.snapshot {
        session.batch(
            "use the exported snapshot",
            &format!(
                "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}",
                crate::escape_literal(snapshot).trim_start()
            ),
        )?;
    }
    Ok(session)
}
