//! The tables of a database and their columns.

use crate::{Error, Session, qualified};

/// A table that holds rows of its own.
#[derive(Debug, Clone)]
pub struct Table {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Whether it is unlogged, so that a crash empties it.
    pub unlogged: bool,
    /// The size in bytes, with indexes and TOAST.
    pub bytes: i64,
    /// Its columns, sorted by name, because their order in the table can differ between two servers.
    pub columns: Vec<Column>,
}

/// A column, and how it is hashed in a digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// How its values are hashed.
    pub kind: ColumnKind,
    /// Whether a value may be NULL.
    pub nullable: bool,
}

/// How a digest treats the values of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnKind {
    /// `boolean`.
    Boolean,
    /// An integer of at most 64 bits.
    Integer,
    /// Anything else, by its text, so that 1.0 differs from 1.00.
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

/// Lists every ordinary table outside the system's schemas and extensions, largest first.
pub fn database_tables(session: &Session) -> Result<Vec<Table>, Error> {
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
                            "boolean" => ColumnKind::Boolean,
                            "integer" => ColumnKind::Integer,
                            _ => ColumnKind::Other,
                        },
                    })
                    .collect(),
            }
        })
        .collect())
}
