//! The proof: everything compared, and only then the fence lifted.

use ess_document::Carried;
use ess_postgres::{
    Access, Conninfo, Error, Inventory, Mark, Reading, Session, Table, TableRecord, catalogue, digest, each_table,
    exists, invalid_indexes, mark, not_owned_by, tables,
};
use ess_run::Report;
use ess_synapse::schema::{HOUSEKEEPING_TABLES, ONE_TIME_KEYS_TABLE};

use crate::compare::{self, differences};
use crate::fence::{Standing, standing};

/// A target about to be held against what it should be.
pub struct Proving<'a> {
    /// The target.
    pub conninfo: &'a Conninfo,
    /// Our tool there.
    pub application_name: &'a str,
    /// The role that must own everything.
    pub role: &'a str,
    /// How many sessions read.
    pub jobs: usize,
    /// Who is told.
    pub report: &'a dyn Report,
}

/// What came of it.
#[derive(Debug)]
pub struct Proof {
    /// Each difference, a sentence; none when the proof holds.
    pub differences: Vec<String>,
    /// Tables compared.
    pub tables: u64,
    /// Rows compared.
    pub rows: u64,
    /// Where the target stood before its rows were read.
    pub mark: Mark,
}

impl Proof {
    /// Whether the target is what it should be.
    pub fn holds(&self) -> bool {
        self.differences.is_empty()
    }
}

impl Proving<'_> {
    /// Reads the whole target and lists every difference from `expected`.
    ///
    /// `analyze` gathers the planner's statistics in the same pass.
    pub fn prove(&self, session: &Session, expected: &Inventory, analyze: bool) -> anyhow::Result<Proof> {
        let found = self.read(session, expected, analyze)?;
        let mut differences = differences(expected, &found);
        differences.extend(
            invalid_indexes(session)?
                .into_iter()
                .map(|name| format!("index {name} is not valid")),
        );
        differences.extend(
            not_owned_by(session, self.role)?
                .into_iter()
                .map(|object| format!("{object} is not owned by {}", self.role)),
        );
        differences.extend(behind_their_streams(&found));
        if leaves_keys_behind(expected) && holds_keys(session)? {
            differences.push(format!(
                "table public.{ONE_TIME_KEYS_TABLE} has rows, and one-time keys were left behind"
            ));
        }
        if standing(session)? == Standing::Nothing && found.schema != expected.schema {
            differences.push("the schema version is not that of the source".to_owned());
        }
        Ok(Proof {
            differences,
            tables: found.table_count(),
            rows: found.row_count(),
            mark: found.mark,
        })
    }

    /// What the target holds, and what shows that people used it since it held `before`, in a sentence; none if
    /// nothing does.
    ///
    /// What a Synapse writes by itself when it starts is not use, nor is where its sequences stand. The inventory
    /// leaves out the rows that it writes then.
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

    /// What the target holds of what is expected.
    fn read(&self, session: &Session, expected: &Inventory, analyze: bool) -> anyhow::Result<Inventory> {
        let all = tables(session)?;
        let to_read: Vec<&Table> = all
            .iter()
            .filter(|table| expected.carried(table) == Carried::Rows)
            .collect();
        let bytes = u64::try_from(to_read.iter().map(|t| t.bytes).sum::<i64>()).ok();
        let before = mark(session)?;
        self.report.stage("proving every table", bytes);
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

/// Whether a load came to its end, as far as is quickly seen: rows are not read, but nothing of the structure is
/// missing, of which a load makes indexes and constraints last.
pub(crate) fn is_loaded(session: &Session, expected: &Inventory) -> Result<bool, Error> {
    let now = mark(session)?;
    let mut structure = Vec::new();
    compare::catalogue(expected, &catalogue(session)?, &mut structure);
    Ok(now.sequences == expected.mark.sequences
        && now.stream_positions == expected.mark.stream_positions
        && structure.is_empty())
}

/// Whether one-time keys are not to be on the target: what is left out must not come some other way.
fn leaves_keys_behind(expected: &Inventory) -> bool {
    expected
        .tables
        .iter()
        .any(|t| t.schema == "public" && t.name == ONE_TIME_KEYS_TABLE && t.carried == Carried::Structure)
}

fn holds_keys(session: &Session) -> Result<bool, Error> {
    let table = format!("public.{ONE_TIME_KEYS_TABLE}");
    if !exists(session, &table)? {
        return Ok(false);
    }
    let sql = format!("SELECT EXISTS (SELECT FROM {table})");
    Ok(session.one("look for one-time keys", &sql, &[])?.get(0))
}

/// Sequences that make Synapse refuse to start: behind the stream position that it recorded.
fn behind_their_streams(found: &Inventory) -> Vec<String> {
    let number = |text: &str| text.parse::<i64>().unwrap_or(0);
    ess_synapse::schema::SEQUENCES
        .iter()
        .filter_map(|rule| {
            let stream = rule.stream?;
            let sequence = found
                .mark
                .sequences
                .iter()
                .find(|s| s.schema == "public" && s.name == rule.name)?;
            let last = number(&sequence.last_value) - i64::from(!sequence.is_called);
            let position = found
                .mark
                .stream_positions
                .iter()
                .filter(|p| p.stream == stream)
                .map(|p| number(&p.position))
                .max()?;
            (position > last).then(|| {
                format!(
                    "sequence {} stands at {last}, behind position {position} of stream {stream}: Synapse would not start",
                    rule.name
                )
            })
        })
        .collect()
}
