//! The tables of a database and their columns.

use serde::{Deserialize, Serialize};

use crate::{Error, Session, qualified};

/// A table that holds rows of its own.
#[derive(Debug, Clone)]
pub struct Table {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Whether it is lost in a crash.
    pub unlogged: bool,
    /// With indexes and TOAST.
    pub bytes: i64,
    /// Sorted by name: their order in the table may differ between two servers.
    pub columns: Vec<Column>,
}

/// A column, and how it enters a digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Whether equal values of its type always have equal text, so that its binary hash is exact.
    pub exact: bool,
}

impl Table {
    /// `"schema"."name"`.
    pub fn qualified(&self) -> String {
        qualified(&self.schema, &self.name)
    }

    /// Whether this is a table of Synapse's own schema with that name.
    pub fn is(&self, name: &str) -> bool {
        self.schema == "public" && self.name == name
    }
}

/// Every ordinary table outside the system's schemas and extensions, largest first.
pub fn tables(session: &Session) -> Result<Vec<Table>, Error> {
    let rows = session.rows("list the tables", include_str!("../sql/tables.sql"), &[])?;
    Ok(rows
        .iter()
        .map(|row| {
            let names: Vec<String> = row.get("columns");
            let exact: Vec<bool> = row.get("exact");
            Table {
                schema: row.get("schema"),
                name: row.get("name"),
                unlogged: row.get("unlogged"),
                bytes: row.get("bytes"),
                columns: names
                    .into_iter()
                    .zip(exact)
                    .map(|(name, exact)| Column { name, exact })
                    .collect(),
            }
        })
        .collect())
}
