//! Everything in a database that its users made, and the statements that drop it.

use std::collections::BTreeMap;

use crate::{Error, Session};

/// Locks that a dropped table takes in all: itself, its TOAST, indexes, constraints, sequences.
pub const LOCKS_PER_TABLE: i64 = 10;

/// An object that a wipe drops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// As `DROP` names it, such as `table`.
    pub kind: String,
    /// Qualified and quoted.
    pub name: String,
    /// Its owner.
    pub owner: String,
    /// Whether our role may drop it.
    pub ours: bool,
}

/// Every object, in the order in which it can be dropped.
pub fn objects(session: &Session) -> Result<Vec<Object>, Error> {
    let rows = session.rows("list what is in the database", include_str!("../sql/objects.sql"), &[])?;
    Ok(rows
        .iter()
        .map(|row| Object {
            kind: row.get("kind"),
            name: row.get("name"),
            owner: row.get("owner"),
            ours: row.get("ours"),
        })
        .collect())
}

/// How many rows each table holds, counted no further than one above `limit`.
///
/// Tables are named as [`Object::name`] names them.
pub fn row_counts(session: &Session, tables: &[&str], limit: i64) -> Result<Vec<i64>, Error> {
    let mut counts = Vec::with_capacity(tables.len());
    // Not all in one: the parser's stack is finite.
    for some in tables.chunks(200) {
        let count = |name: &&str| format!("(SELECT count(*) FROM (SELECT FROM ONLY {name} LIMIT $1::int8 + 1) AS r)");
        let sql = format!(
            "SELECT ARRAY[{}]",
            some.iter().map(count).collect::<Vec<_>>().join(", ")
        );
        let row = session.one("count rows", &sql, &[&limit])?;
        counts.extend(row.get::<_, Vec<i64>>(0));
    }
    Ok(counts)
}

/// What dropping every object must leave as it is.
pub fn keepsakes(session: &Session) -> Result<Vec<String>, Error> {
    let rows = session.rows("read what stays", include_str!("../sql/keepsakes.sql"), &[])?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Something in a database that no dump of ours brings back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotInADump {
    /// As `pg_restore --list` names it, such as `PUBLICATION - all postgres`; privileges by role and kind of object.
    pub entry: String,
    /// Why.
    pub reason: String,
    /// Whether dropping everything takes it away: what stays on a target is not lost with it.
    pub erased: bool,
}

/// What a dump of the database leaves out, by name: extensions, replication, privileges, settings and the like.
pub fn not_in_a_dump(session: &Session) -> Result<Vec<NotInADump>, Error> {
    let rows = session.rows("list what no dump holds", include_str!("../sql/not_in_a_dump.sql"), &[])?;
    Ok(rows
        .iter()
        .map(|row| NotInADump {
            entry: row.get("entry"),
            reason: row.get("reason"),
            erased: row.get("erased"),
        })
        .collect())
}

/// How many of each kind.
pub fn count_by_kind(objects: &[Object]) -> BTreeMap<String, u64> {
    objects.iter().fold(BTreeMap::new(), |mut counts, object| {
        *counts.entry(object.kind.clone()).or_default() += 1;
        counts
    })
}

/// The statements that drop them, to be run in one transaction.
///
/// One statement a kind: tables may refer to each other in a circle.
/// `IF EXISTS`, because what depends on a table goes with it.
pub fn drop_statements(objects: &[Object]) -> String {
    let mut sql = String::new();
    for group in objects.chunk_by(|a, b| a.kind == b.kind) {
        let kind = group[0].kind.as_str();
        let names: Vec<&str> = group.iter().map(|object| object.name.as_str()).collect();
        let statements = match kind {
            "large object" => each(&names, |oid| format!("SELECT lo_unlink({oid});\n")),
            // These take one name a statement.
            "operator class"
            | "operator family"
            | "conversion"
            | "event trigger"
            | "collation"
            | "text search configuration"
            | "text search dictionary" => each(&names, |name| {
                format!("DROP {} IF EXISTS {name} CASCADE;\n", kind.to_uppercase())
            }),
            _ => format!("DROP {} IF EXISTS {} CASCADE;\n", kind.to_uppercase(), names.join(", ")),
        };
        sql.push_str(&statements);
    }
    sql
}

fn each(names: &[&str], statement: impl Fn(&str) -> String) -> String {
    names.iter().map(|name| statement(name)).collect::<Vec<_>>().concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_that_refer_to_each_other_go_in_one_statement() {
        let object = |kind: &str, name: &str| Object {
            kind: kind.to_owned(),
            name: name.to_owned(),
            owner: "o".to_owned(),
            ours: true,
        };
        let all = [
            object("table", "a"),
            object("table", "b"),
            object("function", "f(integer)"),
            object("large object", "7"),
        ];
        assert_eq!(
            drop_statements(&all),
            "DROP TABLE IF EXISTS a, b CASCADE;\nDROP FUNCTION IF EXISTS f(integer) CASCADE;\nSELECT lo_unlink(7);\n"
        );
    }
}
