//! The proof: reads a target and compares it with what it must hold.

use ess_document::Carried;
use ess_postgres::{
    Access, Conninfo, DatabaseState, Error, Inventory, Reading, Session, Table, TableRecord, catalogue, database_state,
    database_tables, digest, each_table, invalid_indexes, not_owned_by, table_exists,
};
use ess_run::Report;
use ess_synapse::schema::{HOUSEKEEPING_TABLES, ONE_TIME_KEYS_TABLE};

use crate::compare::{self, differences};
use crate::fence::{Standing, standing};
use crate::streams::behind_their_streams;

/// How to read and compare a target.
pub struct Proving<'a> {
    /// How to connect to the target.
    pub conninfo: &'a Conninfo,
    /// `application_name` of the connections.
    pub application_name: &'a str,
    /// The role that must own everything.
    pub role: &'a str,
    /// How many sessions read.
    pub jobs: usize,
    /// Receives progress and notes.
    pub report: &'a dyn Report,
}

/// The result of a comparison.
#[derive(Debug)]
pub struct Proof {
    /// Each difference as a sentence; empty if the proof holds.
    pub differences: Vec<String>,
    /// Tables compared.
    pub tables: u64,
    /// Rows compared.
    pub rows: u64,
    /// The target's sequences and stream positions before its rows were read.
    pub mark: DatabaseState,
}

impl Proof {
    /// Whether the target equals what was expected.
    pub fn holds(&self) -> bool {
        self.differences.is_empty()
    }
}

impl Proving<'_> {
    /// Reads the complete target and lists every difference from `expected`.
    ///
    /// `analyze` gathers the planner's statistics in the same pass.
    pub fn prove(&self, session: &Session, expected: &Inventory, analyze: bool) -> anyhow::Result<Proof> {
        let found = self.read(session, expected, analyze)?;
        let mut differences = differences(expected, &found);
        differences.extend(
            invalid_indexes(session)?
                .into_iter()
                .map(|name| format!("index {name} is invalid")),
        );
        differences.extend(
            not_owned_by(session, self.role)?
                .into_iter()
                .map(|object| format!("{object} is not owned by {}", self.role)),
        );
        differences.extend(
            behind_their_streams(&found.mark, &found.mark)
                .iter()
                .map(ToString::to_string),
        );
        if leaves_keys_behind(expected) && holds_keys(session)? {
            differences.push(format!(
                "table public.{ONE_TIME_KEYS_TABLE} contains rows, although one-time keys are not carried"
            ));
        }
        if standing(session)? == Standing::Nothing && found.schema != expected.schema {
            differences.push("the schema version is not the expected one".to_owned());
        }
        Ok(Proof {
            differences,
            tables: found.table_count(),
            rows: found.row_count(),
            mark: found.mark,
        })
    }

    /// Reads the target, and returns with it a sentence that shows that people have used it since it held `before`;
    /// `None` if nothing shows that.
    ///
    /// What Synapse writes by itself when it starts, and the positions of sequences, do not count as use. The returned
    /// inventory leaves out the rows of those tables (`HOUSEKEEPING_TABLES`).
    pub fn used_since(&self, session: &Session, before: &Inventory) -> anyhow::Result<(Inventory, Option<String>)> {
        let mut expected = before.clone();
        let own =
            |table: &&mut TableRecord| table.schema == "public" && HOUSEKEEPING_TABLES.contains(&table.name.as_str());
        expected
            .tables
            .iter_mut()
            .filter(own)
            .for_each(|table| table.carried = Carried::Structure);
        let found = self.read(session, &expected, false)?;
        expected.mark = found.mark.clone();
        let first = differences(&expected, &found).into_iter().next();
        Ok((found, first))
    }

    /// Reads the target, with the rows of those tables whose rows are expected.
    fn read(&self, session: &Session, expected: &Inventory, analyze: bool) -> anyhow::Result<Inventory> {
        let all = database_tables(session)?;
        let to_read: Vec<&Table> = all
            .iter()
            .filter(|table| expected.carried(table) == Carried::Rows)
            .collect();
        let bytes = u64::try_from(to_read.iter().map(|t| t.bytes).sum::<i64>()).ok();
        let before = database_state(session)?;
        self.report.stage("comparing every table", bytes);
        let reading = Reading {
            access: if analyze { Access::ReadWrite } else { Access::ReadOnly },
            ..Reading::now(self.conninfo, self.application_name, self.jobs, self.report)
        };
        let digests = each_table(&reading, &to_read, &|session, table| {
            let sum = digest(session, table)?;
            if analyze {
                let statement = format!("ANALYZE {}", table.qualified());
                session.batch(&format!("analyze {}", table.qualified()), &statement)?;
            }
            Ok(sum)
        })?;
        self.report.done();
        let carried = |table: &Table| expected.carried(table);
        Ok(Inventory::read(session, &all, carried, digests, before)?)
    }
}

/// Whether a load was completed, by a cheap check: rows are not read, but sequences, stream positions and the structure
/// must be equal, and a load creates indexes and constraints last.
pub(crate) fn is_loaded(session: &Session, expected: &Inventory) -> Result<bool, Error> {
    let now = database_state(session)?;
    let mut structure = Vec::new();
    compare::catalogue(expected, &catalogue(session)?, &mut structure);
    Ok(now.sequences == expected.mark.sequences
        && now.stream_positions == expected.mark.stream_positions
        && structure.is_empty())
}

/// Whether one-time keys are not carried, so that the target must not contain any from elsewhere.
fn leaves_keys_behind(expected: &Inventory) -> bool {
    expected
        .tables
        .iter()
        .any(|t| t.schema == "public" && t.name == ONE_TIME_KEYS_TABLE && t.carried == Carried::Structure)
}

fn holds_keys(session: &Session) -> Result<bool, Error> {
    let table = format!("public.{ONE_TIME_KEYS_TABLE}");
    if !table_exists(session, &table)? {
        return Ok(false);
    }
    let sql = format!("SELECT EXISTS (SELECT FROM {table})");
    Ok(session.one("check for one-time keys", &sql, &[])?.get(0))
}
