//! The content of a table as one number: the sum of a 64-bit hash of each row.
//!
//! A sum, not XOR: two equal rows would cancel each other out. It resists accidents, not forgers.
//! The hash is hashed once more: `hash_record_extended` adds up multiples of its columns' hashes, so a
//! sum of it would not see a value that moved from one row to another.

use serde::{Deserialize, Serialize};

use crate::{Error, Session, Table, escape_identifier};

/// How rows are hashed. Both sides of a comparison must use the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// `hash_record_extended`, from PostgreSQL 14 on.
    Rec64,
    /// `hashtextextended` of the row's text, from PostgreSQL 11 on.
    Text64,
}

impl Algorithm {
    /// The fastest that a server offers.
    pub fn of_server(version: i32) -> Self {
        if version >= 140_000 { Self::Rec64 } else { Self::Text64 }
    }
}

/// Count and content of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// How many rows.
    pub rows: u64,
    /// A decimal number; a string, because it exceeds 2^53.
    pub sum: String,
}

/// Counts and hashes every row of a table, in the session's snapshot.
pub fn digest(session: &Session, table: &Table, algorithm: Algorithm) -> Result<Digest, Error> {
    let what = format!("read table {}", table.qualified());
    let row = session.one(&what, &statement(table, algorithm), &[])?;
    Ok(Digest {
        rows: u64::try_from(row.get::<_, i64>(0)).unwrap_or(0),
        sum: row.get(1),
    })
}

fn statement(table: &Table, algorithm: Algorithm) -> String {
    // `ROW(r."a", ...)`: whole-row references would mean a column of that name, if there is one.
    let columns: Vec<String> = table
        .columns
        .iter()
        .map(|column| {
            let name = escape_identifier(&column.name);
            if column.exact {
                format!("r.{name}")
            } else {
                format!("(r.{name})::text COLLATE \"C\"")
            }
        })
        .collect();
    let row = format!("ROW({})", columns.join(", "));
    let hash = match algorithm {
        Algorithm::Rec64 => format!("hash_record_extended({row}, 0)"),
        Algorithm::Text64 => format!("hashtextextended({row}::text COLLATE \"C\", 0)"),
    };
    // `OFFSET 0`: otherwise every row would be hashed once for each mention of its hash.
    format!(
        "SELECT count(*), coalesce(sum(hashint8extended(h, h)), 0)::text \
         FROM (SELECT {hash} AS h FROM ONLY {} AS r OFFSET 0) AS hashed",
        table.qualified()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Column;

    #[test]
    fn columns_are_named_and_inexact_ones_enter_as_text() {
        let column = |name: &str, exact| Column {
            name: name.to_owned(),
            exact,
        };
        let table = Table {
            schema: "public".to_owned(),
            name: "r\"x".to_owned(),
            unlogged: false,
            bytes: 0,
            columns: vec![column("R", true), column("j", false)],
        };
        assert_eq!(
            statement(&table, Algorithm::Rec64),
            r#"SELECT count(*), coalesce(sum(hashint8extended(h, h)), 0)::text FROM (SELECT hash_record_extended(ROW(r."R", (r."j")::text COLLATE "C"), 0) AS h FROM ONLY "public"."r""x" AS r OFFSET 0) AS hashed"#
        );
    }
}
