//! Has a database been written to since we looked?
//!
//! What is asked is whether the database holds exactly what it held at a mark, which was taken no later than the
//! snapshot in which its rows were counted and hashed. Each answer rests on what PostgreSQL cannot get wrong, and
//! whatever it leaves open is answered by the contents themselves. Statistics decide nothing.
//!
//! **No transaction has ended.** A transaction that writes has an id. Its end either removes the id from the list of
//! those that are running or, if it was not in there, raises the end of the snapshot, so of a snapshot that is the
//! same to the letter each transaction that was over is over still, and no other is. The ids are 64 bits wide and do
//! not come again, except after a recovery to a point in the past, which begins a new timeline. So an equal snapshot
//! on an equal timeline means that nothing was written in the whole cluster.
//!
//! **No row is newer, and there are as many.** Let `first` be the oldest transaction that was not over at the mark.
//! A row that is visible now and whose `xmin` is older than `first` was committed at the mark; it had not been
//! deleted then, or it would not be visible now. So if no visible row is of `first` or a later transaction, what is
//! visible now was visible then, and if it is as many rows, it is the same ones: a row is never changed in its place.
//!
//! - INSERT, COPY and UPDATE (HOT or not) make a row with a new `xmin`; DELETE and TRUNCATE make fewer rows.
//! - What was rolled back is not visible. What was running or prepared at the mark is not older than `first`.
//! - Hint bits, row locks, VACUUM, FREEZE (which since 9.4 keeps `xmin`), and HOT pruning leave both alone. VACUUM FULL
//!   and CLUSTER move a row, and keep its `xmin`.
//! - Rows have only the lower 32 bits of `xmin`. As long as fewer than 2^32 ids were given out since `first`, each of
//!   these has other lower bits, and a row is taken for new if it has any of them. An old, frozen row may be taken for
//!   new, never the reverse.
//! - Tables, columns and schemas may have exchanged their names, or a column got values without a row being written:
//!   then its entry in the catalogue is new. What else there is beside rows is compared line by line.
//!
//! **The contents are the same.** Where a table has new rows or a new entry in the catalogue, and for all tables where
//! ids tell nothing (another timeline, a counter that went backwards or on by 2^32, a manifest without a snapshot), the
//! count and digest of its rows decide.
//!
//! **It is this database.** Its object id tells a copy under the same name apart, and a position in the WAL that went
//! back a server that was put back.
//!
//! All tables are looked at in one snapshot. What is open at that moment, or prepared, counts as a change; sequences,
//! which are in no snapshot, are read once more afterwards.
//!
//! Three things are taken for granted: that the server's files are not put back to an earlier state behind its back;
//! that of two standbys that were promoted apart, to timelines of one number, the one that was marked is asked; and
//! that a crash takes no commit back, which with `synchronous_commit = off` PostgreSQL promises after three times
//! `wal_writer_delay`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};

use ess_document::Carried;
use serde::{Deserialize, Serialize};

use crate::mark::Later;
use crate::{Digest, Error, Inventory, Mark, Reading, Session, Table, catalogue, digest, each_table, mark, tables};

/// The rows by which Synapse decides whether it may use a database.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaRows {
    /// `schema_version.version`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<i32>,
    /// `schema_version.upgraded`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgraded: Option<bool>,
    /// `schema_compat_version.compat_version`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compat_version: Option<i32>,
}

/// What shows that the database was written to after `then`, in a sentence; `None` if it holds the same.
///
/// What is quickly read comes first. Tables are gone through by the sessions of `beside`, or by this one alone where
/// it holds locks that would keep others out. The caller knows that this is the database of `then`.
pub fn moved(session: &Session, beside: Option<&Reading<'_>>, then: &Inventory) -> Result<Option<String>, Error> {
    let standby: bool = session
        .one("ask whether it is a standby", "SELECT pg_is_in_recovery()", &[])?
        .get(0);
    if standby {
        return Ok(Some(
            "it is a standby now, and what is written to its primary cannot be seen".to_owned(),
        ));
    }
    if beside.is_some()
        && let Some(writer) = writer(session)?
    {
        return Ok(Some(writer));
    }
    let now = mark(session)?;
    if let Some(change) = change(&then.mark, &now) {
        return Ok(Some(change));
    }
    if then.mark.is_same_moment(&now) {
        return Ok(None);
    }
    let Some(beside) = beside else {
        return look(session, None, then, &now);
    };
    // All tables at one moment.
    session.batch(
        "begin to look for changes",
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
    )?;
    let snapshot: String = session
        .one("export the snapshot", "SELECT pg_export_snapshot()", &[])?
        .get(0);
    let beside = Reading {
        snapshot: Some(&snapshot),
        ..*beside
    };
    let found = look(session, Some(&beside), then, &now)?;
    session.batch("end the look for changes", "COMMIT")?;
    if found.is_some() {
        return Ok(found);
    }
    // Sequences are in no snapshot, and what is open yet was not in this one.
    Ok(match writer(session)? {
        Some(writer) => Some(writer),
        None => change(&then.mark, &mark(session)?),
    })
}

/// The rest of [`moved`], for a database that has come from `then.mark` to `now` without an obvious change.
fn look(
    session: &Session,
    beside: Option<&Reading<'_>>,
    then: &Inventory,
    now: &Mark,
) -> Result<Option<String>, Error> {
    if schema_rows(session)? != then.schema {
        return Ok(Some("it has another schema version".to_owned()));
    }
    if let Some(line) = other_line(&then.catalogue, &catalogue(session)?) {
        return Ok(Some(format!("its structure has changed: {line}")));
    }
    let later = then.mark.later(now);
    let question = Question {
        then: then
            .tables
            .iter()
            .filter(|table| table.carried == Carried::Rows)
            .map(|table| ((table.schema.as_str(), table.name.as_str()), table.digest.as_ref()))
            .collect(),
        later,
        altered: match later {
            Some(later) => altered(session, later)?,
            None => BTreeSet::new(),
        },
    };
    let all = tables(session)?;
    let asked: Vec<&Table> = all.iter().filter(|table| question.is_about(table)).collect();
    let Some(beside) = beside else {
        for table in asked {
            if let Some(change) = question.answer(session, table)? {
                return Ok(Some(change));
            }
        }
        return Ok(None);
    };
    let bytes = u64::try_from(asked.iter().map(|table| table.bytes).sum::<i64>()).ok();
    beside.report.stage("looking for what was written since", bytes);
    // One change is enough.
    let found = AtomicBool::new(false);
    let answers = each_table(beside, &asked, &|session, table| {
        if found.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let answer = question.answer(session, table)?;
        found.fetch_or(answer.is_some(), Ordering::Relaxed);
        Ok(answer)
    })?;
    beside.report.done();
    Ok(answers.into_iter().flatten().next())
}

/// A transaction of others that has written and not ended, in words: what it wrote is seen by nobody yet.
fn writer(session: &Session) -> Result<Option<String>, Error> {
    let rows = session.rows("look for open transactions", include_str!("../sql/writers.sql"), &[])?;
    Ok(rows.first().map(|row| row.get(0)))
}

/// Whether the rows of a table are those that it had.
struct Question<'a> {
    /// Tables that were carried with their rows, and what they held.
    then: BTreeMap<(&'a str, &'a str), Option<&'a Digest>>,
    /// Transactions that may have written since; none when their ids tell nothing.
    later: Option<Later>,
    /// Tables whose place in the catalogue is new, by schema and name.
    altered: BTreeSet<(String, String)>,
}

impl Question<'_> {
    /// What was left behind is not looked at.
    fn is_about(&self, table: &Table) -> bool {
        self.then.contains_key(&(table.schema.as_str(), table.name.as_str()))
    }

    fn answer(&self, session: &Session, table: &Table) -> Result<Option<String>, Error> {
        let name = table.qualified();
        let Some(Some(then)) = self.then.get(&(table.schema.as_str(), table.name.as_str())) else {
            return Ok(Some(format!("nothing says what {name} held")));
        };
        let is_altered = self.altered.contains(&(table.schema.clone(), table.name.clone()));
        if let Some(later) = self.later.filter(|_| !is_altered) {
            let (rows, newer) = rows_since(session, table, later)?;
            if rows != then.rows {
                return Ok(Some(format!("{name} has {rows} rows, not {}", then.rows)));
            }
            if newer == 0 {
                return Ok(None);
            }
        }
        let now = digest(session, table)?;
        Ok(if now.rows != then.rows {
            Some(format!("{name} has {} rows, not {}", now.rows, then.rows))
        } else if now != **then {
            Some(format!("{name} has other contents in its {} rows", now.rows))
        } else {
            None
        })
    }
}

/// How many rows a table has, and how many of them a later transaction may have written.
///
/// From the difference of two ages the transaction from which they are counted drops out.
fn rows_since(session: &Session, table: &Table, later: Later) -> Result<(u64, u64), Error> {
    let sql = format!(
        "SELECT count(*), count(*) FILTER (WHERE ((SELECT age($1::text::xid)::int8) - age(xmin) & 4294967295) \
         < (SELECT txid_snapshot_xmax(txid_current_snapshot()) - $2::int8)) FROM ONLY {}",
        table.qualified()
    );
    let what = format!("look for newer rows in {}", table.qualified());
    let row = session.one(&what, &sql, &[&later.xid(), &later.number()])?;
    let number = |index| u64::try_from(row.get::<_, i64>(index)).unwrap_or(0);
    Ok((number(0), number(1)))
}

fn altered(session: &Session, later: Later) -> Result<BTreeSet<(String, String)>, Error> {
    let sql = include_str!("../sql/altered.sql");
    let rows = session.rows("look for altered tables", sql, &[&later.xid(), &later.number()])?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// The beginning of a line that only one of two catalogues has.
fn other_line(then: &[String], now: &[String]) -> Option<String> {
    let mut counts: BTreeMap<&str, i64> = BTreeMap::new();
    for (lines, step) in [(then, 1), (now, -1)] {
        for line in lines {
            *counts.entry(line.as_str()).or_default() += step;
        }
    }
    let line = counts.into_iter().find(|(_, count)| *count != 0)?.0;
    Some(line.lines().next().unwrap_or_default().to_owned())
}

fn change(then: &Mark, now: &Mark) -> Option<String> {
    for sequence in &then.sequences {
        let found = now
            .sequences
            .iter()
            .find(|s| (&s.schema, &s.name) == (&sequence.schema, &sequence.name));
        match found {
            None => return Some(format!("sequence {} is gone", sequence.name)),
            Some(s) if s != sequence => {
                return Some(format!(
                    "sequence {} went from {} to {}",
                    sequence.name, sequence.last_value, s.last_value
                ));
            }
            Some(_) => {}
        }
    }
    if now.sequences.len() > then.sequences.len() {
        return Some("it has a new sequence".to_owned());
    }
    (then.stream_positions != now.stream_positions).then(|| {
        let stream = now
            .stream_positions
            .iter()
            .find(|p| !then.stream_positions.contains(p))
            .or_else(|| then.stream_positions.iter().find(|p| !now.stream_positions.contains(p)))
            .map_or("?", |p| p.stream.as_str());
        format!("stream {stream} moved")
    })
}

/// Reads the rows by which Synapse decides whether it may use the database.
///
/// What is not one row, or not a number, is nothing here; [`plausible_schema_rows`] names it.
pub fn schema_rows(session: &Session) -> Result<SchemaRows, Error> {
    Ok(SchemaRows::of(&version_rows(session)?, &compat_rows(session)?))
}

/// The same rows, or why Synapse would not start on the database, or would found a new server there: in a sentence.
pub fn plausible_schema_rows(session: &Session) -> Result<Result<SchemaRows, String>, Error> {
    let (versions, compats) = (version_rows(session)?, compat_rows(session)?);
    for (table, rows) in [("schema_version", &versions), ("schema_compat_version", &compats)] {
        if rows.len() > 1 {
            return Ok(Err(format!("{table} holds more than one row")));
        }
        let unreadable = rows.iter().find(|row| row.number().is_none());
        if let Some(row) = unreadable {
            let text = row.version.as_deref().unwrap_or("NULL");
            return Ok(Err(never_written(table, &text.escape_debug().to_string())));
        }
    }
    if let Some(why) = not_plain(session)? {
        return Ok(Err(why));
    }
    let rows = SchemaRows::of(&versions, &compats);
    Ok(match rows.implausible() {
        Some(why) => Err(why),
        None => Ok(rows),
    })
}

/// Why a backup could not put back what the tables of the schema version hold, such as rows of another program; none
/// if it could.
pub fn unkept_version(session: &Session) -> Result<Option<String>, Error> {
    for (table, rows) in [
        ("schema_version", version_rows(session)?),
        ("schema_compat_version", compat_rows(session)?),
    ] {
        if rows.len() > 1 || rows.iter().any(|row| row.number().is_none()) {
            return Ok(Some(format!("public.{table} holds what Synapse never writes there")));
        }
    }
    not_plain(session)
}

/// What would make something else of the rows that Synapse or the fence writes into the tables of the schema version.
fn not_plain(session: &Session) -> Result<Option<String>, Error> {
    let sql = "SELECT c.relname::text FROM pg_class c
         WHERE c.oid IN (to_regclass('public.schema_version'), to_regclass('public.schema_compat_version'))
           AND (c.relkind <> 'r' OR c.relhasrules OR c.relrowsecurity OR c.relhassubclass OR c.relispartition
                OR EXISTS (SELECT FROM pg_trigger WHERE tgrelid = c.oid AND NOT tgisinternal)
                OR EXISTS (SELECT FROM pg_policy WHERE polrelid = c.oid))";
    let rows = session.rows("look at the tables of the schema version", sql, &[])?;
    let table: Option<String> = rows.first().map(|row| row.get(0));
    Ok(table.map(|table| format!("public.{table} {NOT_PLAIN}")))
}

/// Of `schema_version`, more than which Synapse makes no database refuse it.
pub const FENCE_VERSION: i32 = i32::MAX;

/// What the tables of the schema version may not be.
pub const NOT_PLAIN: &str = "is not a plain table, or has a rule, trigger or policy";

/// The last version of the schema without a row in `schema_compat_version`: Synapse 1.36.
const LAST_WITHOUT_COMPAT: i32 = 59;

fn never_written(table: &str, version: &str) -> String {
    format!("{table} holds version {version}, which Synapse never writes")
}

impl SchemaRows {
    fn of(versions: &[VersionRow], compats: &[VersionRow]) -> Self {
        let one = |rows: &[VersionRow]| match rows {
            [row] => row.clone(),
            _ => VersionRow::default(),
        };
        let (version, compat) = (one(versions), one(compats));
        Self {
            version: version.number(),
            upgraded: version.upgraded(),
            compat_version: compat.number(),
        }
    }

    /// Why Synapse would not start on a database with these rows, or would found a new server there: in a sentence.
    pub fn implausible(&self) -> Option<String> {
        let real = |version: &i32| (1..FENCE_VERSION).contains(version);
        let Some(version) = self.version else {
            return Some("schema_version holds no row, and Synapse would found a new server there".to_owned());
        };
        if !real(&version) {
            return Some(never_written("schema_version", &version.to_string()));
        }
        if self.upgraded.is_none() {
            return Some("schema_version does not say whether the schema was upgraded".to_owned());
        }
        match self.compat_version {
            Some(compat) if !real(&compat) => Some(never_written("schema_compat_version", &compat.to_string())),
            None if version > LAST_WITHOUT_COMPAT => Some(format!(
                "schema_compat_version holds no row, although Synapse writes one from version {} on",
                LAST_WITHOUT_COMPAT + 1
            )),
            _ => None,
        }
    }
}

/// A row of either table, whatever somebody made of its columns.
#[derive(Debug, Clone, Default)]
struct VersionRow {
    version: Option<String>,
    upgraded: Option<String>,
}

impl VersionRow {
    fn number(&self) -> Option<i32> {
        self.version.as_ref()?.parse().ok()
    }

    fn upgraded(&self) -> Option<bool> {
        self.upgraded.as_ref()?.parse().ok()
    }
}

fn version_rows(session: &Session) -> Result<Vec<VersionRow>, Error> {
    rows_of(session, "public.schema_version", "version")
}

fn compat_rows(session: &Session) -> Result<Vec<VersionRow>, Error> {
    rows_of(session, "public.schema_compat_version", "compat_version")
}

/// The first rows of one of the tables; none where it does not exist.
fn rows_of(session: &Session, table: &str, column: &str) -> Result<Vec<VersionRow>, Error> {
    if !exists(session, table)? {
        return Ok(Vec::new());
    }
    // Through JSON: a table of this name may be another program's.
    let sql = format!(
        "SELECT row ->> '{column}', row ->> 'upgraded' FROM (SELECT to_jsonb(t) AS row FROM {table} t LIMIT 2) rows"
    );
    let rows = session.rows("read the schema version", &sql, &[])?;
    Ok(rows
        .iter()
        .map(|row| VersionRow {
            version: row.get(0),
            upgraded: row.get(1),
        })
        .collect())
}

/// Whether there is a table (`schema.name`).
pub fn exists(session: &Session, table: &str) -> Result<bool, Error> {
    let row = session.one("look for a table", "SELECT to_regclass($1) IS NOT NULL", &[&table])?;
    Ok(row.get(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_versions_on_which_a_synapse_starts_are_plausible() {
        let rows = |version, upgraded, compat_version| SchemaRows {
            version,
            upgraded,
            compat_version,
        };
        for good in [rows(Some(94), Some(true), Some(84)), rows(Some(58), Some(false), None)] {
            assert_eq!(good.implausible(), None, "{good:?}");
        }
        for bad in [
            rows(None, None, None),
            rows(None, None, Some(84)),
            rows(Some(94), None, Some(84)),
            rows(Some(94), Some(true), None),
            rows(Some(0), Some(true), Some(84)),
            rows(Some(FENCE_VERSION), Some(true), Some(84)),
            rows(Some(94), Some(true), Some(FENCE_VERSION)),
        ] {
            assert!(bad.implausible().is_some(), "{bad:?}");
        }
    }
}
