//! Has a database been written to since a mark?
//!
//! Decides whether a database contains exactly what it contained at a mark, which was taken no later than the snapshot
//! in which its rows were counted and hashed. Each of the following conclusions follows from guarantees of PostgreSQL,
//! and where none of them applies, the contents are compared. Statistics are never used.
//!
//! **No transaction has ended.** A transaction that writes has an id. When it ends, its id either disappears from the
//! snapshot's list of running transactions or, if it is not in that list, `xmax` of the snapshot increases. So if two
//! snapshots are identical, the same transactions had ended at both. The ids are 64 bits wide and are not reused,
//! except after a recovery to a point in the past, which starts a new timeline. So an identical snapshot on the same
//! timeline means that nothing was written in the entire cluster.
//!
//! **No row is newer, and the number of rows is the same.** Let `first` be the oldest transaction that had not ended at
//! the mark. A row that is visible now and whose `xmin` is older than `first` was committed at the mark; it had not
//! been deleted then, or it would not be visible now. So if no visible row was written by `first` or a later
//! transaction, every row that is visible now was visible then. If their number is the same too, they are the same
//! rows, since a row is never changed in place.
//!
//! - INSERT, COPY and UPDATE (HOT or not) create a row with a new `xmin`; DELETE and TRUNCATE reduce the number of
//!   rows.
//! - Rows that were rolled back are not visible. Transactions that were running or prepared at the mark are not older
//!   than `first`.
//! - Hint bits, row locks, VACUUM, freezing (which since 9.4 keeps `xmin`) and HOT pruning change neither `xmin` nor
//!   the number of visible rows. VACUUM FULL and CLUSTER move a row, and keep its `xmin`.
//! - A row stores only the lower 32 bits of `xmin`. As long as fewer than 2^32 ids have been assigned since `first`,
//!   their lower 32 bits differ from each other, and a row counts as new if it has any of these. An old, frozen row may
//!   count as new, but never the reverse.
//! - Tables, columns or schemas may have exchanged their names, or a column may have got values without any row being
//!   written. Then a row of the system catalogue is new. Everything else except rows is compared line by line.
//!
//! **The contents are the same.** The number and the digest of its rows decide for each table that has new rows or a
//! new row in the system catalogue, and for all tables if ids prove nothing (another timeline, a counter that went
//! backwards or advanced by 2^32 or more, a manifest without a snapshot).
//!
//! **It is the same database.** Its OID distinguishes it from a copy with the same name. A WAL position that went
//! backwards reveals a server that was restored to an earlier state.
//!
//! All tables are examined in one snapshot. A transaction of another session that is open or prepared at that moment
//! counts as a change. Sequences, which are not part of a snapshot, are read again afterwards.
//!
//! Three assumptions are made: that the server's files are not restored to an earlier state without its knowledge; that
//! of two standbys that were promoted independently to timelines with the same number, the one with the mark is
//! queried; and that a crash undoes no commit, which with `synchronous_commit = off` PostgreSQL guarantees only after
//! three times `wal_writer_delay`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};

use ess_document::Carried;
use ess_run::text::count;
use serde::{Deserialize, Serialize};

use crate::state::Later;
use crate::{
    DatabaseState, Digest, Error, Inventory, Reading, Session, Table, catalogue, database_state, database_tables,
    digest, each_table,
};

/// The rows of Synapse's schema version, by which Synapse decides whether it can use a database.
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

/// Describes a change to the database since `then`, for a message; `None` if it contains the same as then.
///
/// Quick checks come first. Tables are read by the sessions of `reading`. If `reading` is `None`, this session reads
/// them alone, because it holds locks that would block other sessions. The caller has verified that this is the
/// database of `then`.
pub fn change_since(
    session: &Session,
    reading: Option<&Reading<'_>>,
    then: &Inventory,
) -> Result<Option<String>, Error> {
    let standby: bool = session
        .one("check whether it is a standby", "SELECT pg_is_in_recovery()", &[])?
        .get(0);
    if standby {
        return Ok(Some(
            "it is now a standby, which does not show what is written to its primary".to_owned(),
        ));
    }
    if reading.is_some()
        && let Some(writer) = writer(session)?
    {
        return Ok(Some(writer));
    }
    let now = database_state(session)?;
    if let Some(change) = change(&then.mark, &now) {
        return Ok(Some(change));
    }
    if then.mark.is_same_moment(&now) {
        return Ok(None);
    }
    let Some(reading) = reading else {
        return look(session, None, then, &now);
    };
    // Read all tables in one snapshot.
    session.batch(
        "begin the check for changes",
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
    )?;
    let snapshot: String = session
        .one("export the snapshot", "SELECT pg_export_snapshot()", &[])?
        .get(0);
    let reading = Reading {
        snapshot: Some(&snapshot),
        ..*reading
    };
    let found = look(session, Some(&reading), then, &now)?;
    session.batch("end the check for changes", "COMMIT")?;
    if found.is_some() {
        return Ok(found);
    }
    // Sequences are not part of a snapshot, and transactions that are still open were not visible in this one.
    Ok(match writer(session)? {
        Some(writer) => Some(writer),
        None => change(&then.mark, &database_state(session)?),
    })
}

/// The slower checks of [`change_since`], for a database that shows no obvious change between `then.mark` and `now`.
fn look(
    session: &Session,
    reading: Option<&Reading<'_>>,
    then: &Inventory,
    now: &DatabaseState,
) -> Result<Option<String>, Error> {
    if schema_rows(session)? != then.schema {
        return Ok(Some("its schema version has changed".to_owned()));
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
    let all = database_tables(session)?;
    let asked: Vec<&Table> = all.iter().filter(|table| question.is_about(table)).collect();
    let Some(reading) = reading else {
        for table in asked {
            if let Some(change) = question.answer(session, table)? {
                return Ok(Some(change));
            }
        }
        return Ok(None);
    };
    let bytes = u64::try_from(asked.iter().map(|table| table.bytes).sum::<i64>()).ok();
    reading.report.stage("checking for changes", bytes);
    // Stop at the first change.
    let found = AtomicBool::new(false);
    let answers = each_table(reading, &asked, &|session, table| {
        if found.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let answer = question.answer(session, table)?;
        found.fetch_or(answer.is_some(), Ordering::Relaxed);
        Ok(answer)
    })?;
    reading.report.done();
    Ok(answers.into_iter().flatten().next())
}

/// Describes a transaction of another session that has written and not ended: its changes are not visible yet.
fn writer(session: &Session) -> Result<Option<String>, Error> {
    let rows = session.rows("check for open transactions", include_str!("../sql/writers.sql"), &[])?;
    Ok(rows.first().map(|row| row.get(0)))
}

/// Decides for each table whether its rows have changed.
struct Question<'a> {
    /// The digests of the tables whose rows were carried, by schema and name.
    then: BTreeMap<(&'a str, &'a str), Option<&'a Digest>>,
    /// The transactions that may have written since; `None` if ids prove nothing.
    later: Option<Later>,
    /// The tables with a new row in the system catalogue, by schema and name.
    altered: BTreeSet<(String, String)>,
}

impl Question<'_> {
    /// Tables whose rows were not carried are not examined.
    fn is_about(&self, table: &Table) -> bool {
        self.then.contains_key(&(table.schema.as_str(), table.name.as_str()))
    }

    fn answer(&self, session: &Session, table: &Table) -> Result<Option<String>, Error> {
        let name = table.qualified();
        let Some(Some(then)) = self.then.get(&(table.schema.as_str(), table.name.as_str())) else {
            return Ok(Some(format!("the previous contents of {name} are unknown")));
        };
        let is_altered = self.altered.contains(&(table.schema.clone(), table.name.clone()));
        if let Some(later) = self.later.filter(|_| !is_altered) {
            let (rows, newer) = rows_since(session, table, later)?;
            if rows != then.rows {
                return Ok(Some(format!("{name} has {}, not {}", count(rows, "row"), then.rows)));
            }
            if newer == 0 {
                return Ok(None);
            }
        }
        let now = digest(session, table)?;
        Ok(if now.rows != then.rows {
            Some(format!("{name} has {}, not {}", count(now.rows, "row"), then.rows))
        } else if now != **then {
            Some(format!(
                "{name} has different contents in its {}",
                count(now.rows, "row")
            ))
        } else {
            None
        })
    }
}

/// How many rows a table has, and how many of them a later transaction may have written.
///
/// `age()` counts back from the current transaction, which cancels out in the difference of two ages.
fn rows_since(session: &Session, table: &Table, later: Later) -> Result<(u64, u64), Error> {
    let sql = format!(
        "SELECT count(*), count(*) FILTER (WHERE ((SELECT age($1::text::xid)::int8) - age(xmin) & 4294967295) \
         < (SELECT txid_snapshot_xmax(txid_current_snapshot()) - $2::int8)) FROM ONLY {}",
        table.qualified()
    );
    let what = format!("check for newer rows in {}", table.qualified());
    let row = session.one(&what, &sql, &[&later.xid(), &later.number()])?;
    let number = |index| u64::try_from(row.get::<_, i64>(index)).unwrap_or(0);
    Ok((number(0), number(1)))
}

fn altered(session: &Session, later: Later) -> Result<BTreeSet<(String, String)>, Error> {
    let sql = include_str!("../sql/altered.sql");
    let rows = session.rows("check for altered tables", sql, &[&later.xid(), &later.number()])?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// The first line of an entry that only one of two catalogues contains.
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

fn change(then: &DatabaseState, now: &DatabaseState) -> Option<String> {
    for sequence in &then.sequences {
        let found = now
            .sequences
            .iter()
            .find(|s| (&s.schema, &s.name) == (&sequence.schema, &sequence.name));
        match found {
            None => return Some(format!("sequence {} was dropped", sequence.name)),
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
        format!("the position of stream {stream} has changed")
    })
}

/// Reads the rows of Synapse's schema version.
///
/// A value is `None` if its table does not have exactly one row, or if it is not a number; [`plausible_schema_rows`]
/// reports why.
pub fn schema_rows(session: &Session) -> Result<SchemaRows, Error> {
    Ok(SchemaRows::of(&version_rows(session)?, &compat_rows(session)?))
}

/// Reads the same rows. The inner error is a message: why Synapse would not start on the database, or would initialise
/// a new, empty homeserver there.
pub fn plausible_schema_rows(session: &Session) -> Result<Result<SchemaRows, String>, Error> {
    let (versions, compats) = (version_rows(session)?, compat_rows(session)?);
    for (table, rows) in [("schema_version", &versions), ("schema_compat_version", &compats)] {
        if rows.len() > 1 {
            return Ok(Err(format!("{table} contains more than one row")));
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

/// Why a backup could not preserve the tables of the schema version, for example because they contain rows of another
/// program; `None` if it could.
pub fn version_not_kept(session: &Session) -> Result<Option<String>, Error> {
    for (table, rows) in [
        ("schema_version", version_rows(session)?),
        ("schema_compat_version", compat_rows(session)?),
    ] {
        if rows.len() > 1 || rows.iter().any(|row| row.number().is_none()) {
            return Ok(Some(format!("public.{table} contains rows that Synapse never writes")));
        }
    }
    not_plain(session)
}

/// Describes a table of the schema version in which a row could change or disappear when Synapse or the fence writes
/// it, for example because of a trigger.
fn not_plain(session: &Session) -> Result<Option<String>, Error> {
    let sql = "SELECT c.relname::text FROM pg_class c
         WHERE c.oid IN (to_regclass('public.schema_version'), to_regclass('public.schema_compat_version'))
           AND (c.relkind <> 'r' OR c.relhasrules OR c.relrowsecurity OR c.relhassubclass OR c.relispartition
                OR EXISTS (SELECT FROM pg_trigger WHERE tgrelid = c.oid AND NOT tgisinternal)
                OR EXISTS (SELECT FROM pg_policy WHERE polrelid = c.oid))";
    let rows = session.rows("check the tables of the schema version", sql, &[])?;
    let table: Option<String> = rows.first().map(|row| row.get(0));
    Ok(table.map(|table| format!("public.{table} {NOT_PLAIN}")))
}

/// The version that the fence writes to both tables: the maximum, so that every Synapse refuses the database.
pub const FENCE_VERSION: i32 = i32::MAX;

/// Why a table of the schema version is refused; follows the table's name in a message.
pub const NOT_PLAIN: &str = "is not a plain table, or has a rule, trigger or policy";

/// The last version of the schema without a row in `schema_compat_version`: Synapse 1.36.
const LAST_WITHOUT_COMPAT: i32 = 59;

fn never_written(table: &str, version: &str) -> String {
    format!("{table} contains version {version}, which Synapse never writes")
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

    /// Why Synapse would not start on a database with these rows, or would initialise a new, empty homeserver there;
    /// for a message.
    pub fn implausible(&self) -> Option<String> {
        let real = |version: &i32| (1..FENCE_VERSION).contains(version);
        let Some(version) = self.version else {
            return Some("schema_version contains no row, so Synapse would set up a new, empty homeserver".to_owned());
        };
        if !real(&version) {
            return Some(never_written("schema_version", &version.to_string()));
        }
        if self.upgraded.is_none() {
            return Some("schema_version does not record whether the schema was upgraded".to_owned());
        }
        match self.compat_version {
            Some(compat) if !real(&compat) => Some(never_written("schema_compat_version", &compat.to_string())),
            None if version > LAST_WITHOUT_COMPAT => Some(format!(
                "schema_compat_version contains no row, although Synapse writes one from version {} on",
                LAST_WITHOUT_COMPAT + 1
            )),
            _ => None,
        }
    }
}

/// A row of either table, as text: the columns may not be those that Synapse creates.
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

/// The first two rows of one of the tables; empty if it does not exist.
fn rows_of(session: &Session, table: &str, column: &str) -> Result<Vec<VersionRow>, Error> {
    if !table_exists(session, table)? {
        return Ok(Vec::new());
    }
    // As JSON, because a table of another program with this name may lack these columns.
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

/// Whether a table (`schema.name`) exists.
pub fn table_exists(session: &Session, table: &str) -> Result<bool, Error> {
    let row = session.one(
        "check whether a table exists",
        "SELECT to_regclass($1) IS NOT NULL",
        &[&table],
    )?;
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
