//! Sequences and where they stand.

use serde::{Deserialize, Serialize};

use crate::{Error, Session, qualified};

/// A sequence and where it stands. Not transactional: read while nobody writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sequence {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// A string, because it may exceed 2^53.
    pub last_value: String,
    /// Whether `last_value` has been handed out.
    pub is_called: bool,
}

/// So many are read by one statement: each takes a lock until the statement is over.
const TOGETHER: usize = 500;

/// Every sequence outside the system's schemas and extensions, by name.
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

/// Schema and name of each relation, from names as SQL writes them.
pub fn relation_names(session: &Session, written: &[&str]) -> Result<Vec<(String, String)>, Error> {
    let sql = include_str!("../sql/relation_names.sql");
    let rows = session.rows("look up relations", sql, &[&written])?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}
