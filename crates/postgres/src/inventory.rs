//! What a database contains, with a digest of every table, computed by several sessions in one snapshot.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use ess_document::Carried;
use ess_run::{Report, joined, locked, unpoisoned};
use serde::{Deserialize, Serialize};

use crate::{
    Access, Algorithm, Conninfo, DatabaseState, Digest, Error, SchemaRows, Session, Table, catalogue, digest,
    schema_rows,
};

/// What a database contains, in enough detail to verify that another contains the same.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inventory {
    /// How rows are hashed.
    pub algorithm: Algorithm,
    /// Every table.
    pub tables: Vec<TableRecord>,
    /// Its transactions, sequences and streams at that moment.
    pub mark: DatabaseState,
    /// The rows of Synapse's schema version.
    pub schema: SchemaRows,
    /// Everything except rows, one line each.
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
    /// What is carried of it.
    pub carried: Carried,
    /// The digest of its rows, if they are carried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
}

impl Inventory {
    /// Completes an inventory after the digests of the tables were computed.
    ///
    /// `digests` are those of the tables whose rows are `carried`, in the same order.
    pub fn read(
        session: &Session,
        tables: &[Table],
        carried: impl Fn(&Table) -> Carried,
        digests: Vec<Digest>,
        mark: DatabaseState,
    ) -> Result<Self, Error> {
        let mut digests = digests.into_iter();
        let record = |table: &Table| {
            let carried = carried(table);
            TableRecord {
                schema: table.schema.clone(),
                name: table.name.clone(),
                carried,
                digest: (carried == Carried::Rows).then(|| digests.next()).flatten(),
            }
        };
        Ok(Self {
            algorithm: Algorithm::default(),
            tables: tables.iter().map(record).collect(),
            mark,
            schema: schema_rows(session)?,
            catalogue: catalogue(session)?,
        })
    }

    /// What is carried of a table; [`Carried::Fence`] if the inventory does not contain it.
    pub fn carried(&self, table: &Table) -> Carried {
        self.tables
            .iter()
            .find(|t| (&t.schema, &t.name) == (&table.schema, &table.name))
            .map_or(Carried::Fence, |t| t.carried)
    }

    /// How many tables are carried with their rows.
    pub fn table_count(&self) -> u64 {
        self.tables.iter().filter(|t| t.digest.is_some()).count() as u64
    }

    /// How many rows these tables contain.
    pub fn row_count(&self) -> u64 {
        self.tables
            .iter()
            .filter_map(|t| t.digest.as_ref())
            .map(|d| d.rows)
            .sum()
    }
}

/// Parameters for reading tables in several sessions.
pub struct Reading<'a> {
    /// The database.
    pub conninfo: &'a Conninfo,
    /// The `application_name` of the sessions.
    pub application_name: &'a str,
    /// A snapshot that another session has exported.
    pub snapshot: Option<&'a str>,
    /// The number of sessions.
    pub jobs: usize,
    /// Decides when each table is read; by default, all in order and without waiting.
    pub queue: Option<&'a dyn Queue>,
    /// Whether the sessions can write.
    pub access: Access,
    /// Receives progress and notes.
    pub report: &'a dyn Report,
}

impl<'a> Reading<'a> {
    /// Read-only sessions without a common snapshot, which read the tables in the given order.
    pub fn now(conninfo: &'a Conninfo, application_name: &'a str, jobs: usize, report: &'a dyn Report) -> Self {
        Self {
            conninfo,
            application_name,
            snapshot: None,
            jobs,
            queue: None,
            access: Access::ReadOnly,
            report,
        }
    }
}

/// Decides which table is read next, and when.
pub trait Queue: Sync {
    /// Waits until a table may be read, and returns its index; `None` if no tables are left.
    fn next(&self) -> Result<Option<usize>, Error>;
    /// Reports that a table has been read.
    fn done(&self);
}

/// All tables in order, without waiting.
#[derive(Default)]
struct InOrder {
    next: AtomicUsize,
    tables: usize,
}

impl Queue for InOrder {
    fn next(&self) -> Result<Option<usize>, Error> {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        Ok((next < self.tables).then_some(next))
    }

    fn done(&self) {}
}

/// Computes the digests of `tables` and returns them in the same order. The largest table should come first.
pub fn digests(reading: &Reading<'_>, tables: &[&Table]) -> Result<Vec<Digest>, Error> {
    each_table(reading, tables, &digest)
}

/// Applies `work` to each of `tables` and returns the results in the same order.
pub fn each_table<T: Send>(
    reading: &Reading<'_>,
    tables: &[&Table],
    work: &(dyn Fn(&Session, &Table) -> Result<T, Error> + Sync),
) -> Result<Vec<T>, Error> {
    let in_order = InOrder {
        tables: tables.len(),
        ..InOrder::default()
    };
    let queue = reading.queue.unwrap_or(&in_order);
    let failed = AtomicBool::new(false);
    let done: Mutex<BTreeMap<usize, T>> = Mutex::default();
    let go_through = || -> Result<(), Error> {
        let session = open(reading)?;
        while !failed.load(Ordering::Relaxed) {
            let Some(index) = queue.next()? else { break };
            let table = tables[index];
            let outcome = work(&session, table);
            queue.done();
            locked(&done).insert(index, outcome?);
            reading.report.advance(u64::try_from(table.bytes).unwrap_or(0));
        }
        Ok(())
    };
    let outcomes: Vec<Result<(), Error>> = thread::scope(|scope| {
        let jobs = reading.jobs.clamp(1, tables.len().max(1));
        let workers: Vec<_> = (0..jobs)
            .map(|_| {
                scope.spawn(|| {
                    let outcome = go_through();
                    failed.fetch_or(outcome.is_err(), Ordering::Relaxed);
                    outcome
                })
            })
            .collect();
        workers.into_iter().map(|worker| joined(worker.join())).collect()
    });
    outcomes.into_iter().collect::<Result<(), Error>>()?;
    // Every worker succeeded, so there is a result for each table.
    Ok(unpoisoned(done.into_inner()).into_values().collect())
}

fn open(reading: &Reading<'_>) -> Result<Session, Error> {
    let session = Session::connect(reading.conninfo, reading.application_name, reading.access)?;
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
