//! Sequences and their values.

use serde::{Deserialize, Serialize};

use crate::{Error, Session, qualified};

/// A sequence and its value. Sequences are not transactional: a value is reliable only while no session writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sequence {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// The last value; a string, because it can exceed 2^53.
    pub last_value: String,
    /// Whether `last_value` has already been returned by `nextval`.
    pub is_called: bool,
}

/// How many sequences one statement reads. It holds a lock on each until it ends.
const TOGETHER: usize = 500;

/// Reads every sequence outside the system's schemas and extensions, sorted by name.
pub fn sequences(session: &Session) -> Result<Vec<Sequence>, Error> {
    let names = session.rows("list the sequences", include_str!("../sql/sequences.sql"), &[])?;
    let mut all = Vec::with_capacity(names.len());
    for names in names.chunks(TOGETHER) {
        let parts: Vec<String> = names
            .iter()
            .enumerate()
            .map(|(i, row)| {
                let from = qualified(row.get(0), row.get(1));
                format!("SELECT {i}::int4, last_value::text, is_called FROM {from}")
            })
            .collect();
        let sql = format!("{} ORDER BY 1", parts.join(" UNION ALL "));
        let values = session.rows("read the sequences", &sql, &[])?;
        all.extend(names.iter().zip(&values).map(|(name, value)| Sequence {
            schema: name.get(0),
            name: name.get(1),
            last_value: value.get(1),
            is_called: value.get(2),
        }));
    }
    Ok(all)
}

/// Schema and name of each relation, from qualified names as written in SQL.
pub fn relation_names(session: &Session, written: &[&str]) -> Result<Vec<(String, String)>, Error> {
    let sql = include_str!("../sql/relation_names.sql");
    let rows = session.rows("look up relations", sql, &[&written])?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}
