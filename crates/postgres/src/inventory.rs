//! What a database holds: the digest of every table, read by several sessions in one snapshot.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use ess_document::Carried;
use ess_run::Report;
use serde::{Deserialize, Serialize};

use crate::{
    Access, Algorithm, Conninfo, Digest, Error, Mark, SchemaRows, Session, Table, catalogue, digest, schema_rows,
};

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
    /// Reads the rest of what a database holds, where its tables have been read.
    ///
    /// `digests` are those of the tables whose rows are `carried`, in their order.
    pub fn read(
        session: &Session,
        tables: &[Table],
        carried: impl Fn(&Table) -> Carried,
        digests: Vec<Digest>,
        mark: Mark,
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

    /// What of a table is carried; nothing but the fence's if it is not in here.
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

    /// How many rows those tables hold.
    pub fn row_count(&self) -> u64 {
        self.tables
            .iter()
            .filter_map(|t| t.digest.as_ref())
            .map(|d| d.rows)
            .sum()
    }
}

/// Where and how tables are gone through by several sessions.
pub struct Reading<'a> {
    /// The database.
    pub conninfo: &'a Conninfo,
    /// Our name there.
    pub application_name: &'a str,
    /// A snapshot that another session exported.
    pub snapshot: Option<&'a str>,
    /// How many sessions.
    pub jobs: usize,
    /// Which table is read when; all in their order by default.
    pub queue: Option<&'a dyn Queue>,
    /// Whether more than reading is done.
    pub access: Access,
    /// Who is told.
    pub report: &'a dyn Report,
}

impl<'a> Reading<'a> {
    /// Reads every table as it is now, in the order given.
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

/// Says which table is read next.
pub trait Queue: Sync {
    /// The index of the next table, once it may be read; none when there are no more.
    fn next(&self) -> Result<Option<usize>, Error>;
    /// That table has been read.
    fn done(&self);
}

/// All tables in their order, at once.
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

/// Digests of `tables`, in their order; the largest should come first.
pub fn digests(reading: &Reading<'_>, tables: &[&Table]) -> Result<Vec<Digest>, Error> {
    each_table(reading, tables, &digest)
}

/// What `work` makes of each of `tables`, in their order.
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
            done.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(index, outcome?);
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
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    outcomes.into_iter().collect::<Result<(), Error>>()?;
    // Every worker succeeded, so all of them are there.
    Ok(done
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
        .into_values()
        .collect())
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
