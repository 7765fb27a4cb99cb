//! Has a database been written to since we looked?

use serde::{Deserialize, Serialize};

use crate::{Error, Sequence, Session, sequences, tables};

/// Where a database stood when it was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The first transaction id not yet given out, cluster-wide; a string, because it exceeds 2^53.
    pub next_xid: String,
    /// Every sequence.
    pub sequences: Vec<Sequence>,
    /// Synapse's own record of each stream.
    pub stream_positions: Vec<StreamPosition>,
}

/// A row of Synapse's `stream_positions`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamPosition {
    /// Which stream.
    pub stream: String,
    /// Which of Synapse's processes wrote it.
    pub instance: String,
    /// A string, because it may exceed 2^53.
    pub position: String,
}

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

/// Reads where the database stands now.
pub fn mark(session: &Session) -> Result<Mark, Error> {
    let next_xid = session
        .one(
            "read the transaction counter",
            "SELECT txid_snapshot_xmax(txid_current_snapshot())::text",
            &[],
        )?
        .get(0);
    Ok(Mark {
        next_xid,
        sequences: sequences(session)?,
        stream_positions: stream_positions(session)?,
    })
}

/// What shows that the database was written to after `then`, in a sentence; `None` if nothing does.
///
/// Sequences and stream positions first, since any use by Synapse moves them; then the newest row
/// of every table, unless the whole cluster has given out no transaction since.
/// Deletions alone are seen only through those.
pub fn moved(session: &Session, then: &Mark) -> Result<Option<String>, Error> {
    let now = mark(session)?;
    if let Some(change) = change(then, &now) {
        return Ok(Some(change));
    }
    let parse = |xid: &str| xid.parse::<i64>().unwrap_or(0);
    if now.next_xid == then.next_xid {
        return Ok(None);
    }
    // Rows know their transaction without its epoch.
    let oldest = (parse(&then.next_xid) % (1 << 32)).to_string();
    let mut all = tables(session)?;
    all.reverse(); // smallest first: the hot tables are found early
    for table in all {
        // Ages of both, since what they count back from is this transaction, once it has an id.
        let sql = format!(
            "SELECT EXISTS (SELECT FROM ONLY {} WHERE age(xmin) <= age($1::text::xid))",
            table.qualified()
        );
        let newer: bool = session.one("look for newer rows", &sql, &[&oldest])?.get(0);
        if newer {
            return Ok(Some(format!("{} holds newer rows", table.qualified())));
        }
    }
    Ok(None)
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

fn stream_positions(session: &Session) -> Result<Vec<StreamPosition>, Error> {
    if !exists(session, "public.stream_positions")? {
        return Ok(Vec::new());
    }
    let rows = session.rows(
        "read the stream positions",
        "SELECT stream_name::text, instance_name::text, stream_id::text FROM public.stream_positions ORDER BY 1, 2, 3",
        &[],
    )?;
    Ok(rows
        .iter()
        .map(|row| StreamPosition {
            stream: row.get(0),
            instance: row.get(1),
            position: row.get(2),
        })
        .collect())
}

/// Reads the rows by which Synapse decides whether it may use the database.
pub fn schema_rows(session: &Session) -> Result<SchemaRows, Error> {
    let mut found = SchemaRows::default();
    if exists(session, "public.schema_version")? {
        let sql = "SELECT version, upgraded FROM public.schema_version";
        if let Some(row) = session.rows("read the schema version", sql, &[])?.first() {
            found.version = row.get(0);
            found.upgraded = row.get(1);
        }
    }
    if exists(session, "public.schema_compat_version")? {
        let sql = "SELECT compat_version FROM public.schema_compat_version";
        if let Some(row) = session.rows("read the schema version", sql, &[])?.first() {
            found.compat_version = row.get(0);
        }
    }
    Ok(found)
}

/// Whether there is a table (`schema.name`).
pub fn exists(session: &Session, table: &str) -> Result<bool, Error> {
    let row = session.one("look for a table", "SELECT to_regclass($1) IS NOT NULL", &[&table])?;
    Ok(row.get(0))
}
