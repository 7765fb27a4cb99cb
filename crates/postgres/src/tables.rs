//! The tables of a database and their columns.

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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// How its values are read.
    pub kind: Kind,
    /// Whether a value may be NULL.
    pub nullable: bool,
}

/// What a digest takes a column's values for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `boolean`.
    Boolean,
    /// A whole number that fits into 64 bits.
    Integer,
    /// Whatever else: its text, in which 1.0 is not 1.00.
    Other,
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
            let kinds: Vec<String> = row.get("kinds");
            let nullable: Vec<bool> = row.get("nullable");
            Table {
                schema: row.get("schema"),
                name: row.get("name"),
                unlogged: row.get("unlogged"),
                bytes: row.get("bytes"),
                columns: names
                    .into_iter()
                    .zip(kinds)
                    .zip(nullable)
                    .map(|((name, kind), nullable)| Column {
                        name,
                        nullable,
                        kind: match kind.as_str() {
                            "boolean" => Kind::Boolean,
                            "integer" => Kind::Integer,
                            _ => Kind::Other,
                        },
                    })
                    .collect(),
            }
        })
        .collect())
}
