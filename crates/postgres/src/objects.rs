//! The objects in a database that users created, and the statements that drop them.

use std::collections::BTreeMap;

use crate::{Error, Session};

/// How many locks are needed to drop a table: its own and those of its TOAST table, indexes, constraints and sequences.
pub const LOCKS_PER_TABLE: i64 = 10;

/// An object that a wipe drops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its kind as in `DROP`, such as `table`.
    pub kind: String,
    /// Its name, qualified and quoted.
    pub name: String,
    /// Its owner.
    pub owner: String,
    /// Whether our role is allowed to drop it.
    pub ours: bool,
}

/// Lists every object, in an order in which they can be dropped.
pub fn database_objects(session: &Session) -> Result<Vec<Object>, Error> {
    let rows = session.rows(
        "list the objects in the database",
        include_str!("../sql/objects.sql"),
        &[],
    )?;
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

/// Counts the rows of each table, up to `limit` + 1.
///
/// `tables` contains names like [`Object::name`].
pub fn row_counts(session: &Session, tables: &[&str], limit: i64) -> Result<Vec<i64>, Error> {
    let mut counts = Vec::with_capacity(tables.len());
    // In batches, because the depth of PostgreSQL's parser stack is limited.
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

/// What a wipe must leave unchanged, one line each.
pub fn preserved_by_wipe(session: &Session) -> Result<Vec<String>, Error> {
    let rows = session.rows(
        "list what a wipe must not change",
        include_str!("../sql/keepsakes.sql"),
        &[],
    )?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Something in a database that these tools' dumps do not contain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotInADump {
    /// Its entry as in `pg_restore --list`, such as `PUBLICATION - all postgres`. Privileges are grouped by role and
    /// kind of object.
    pub entry: String,
    /// Why dumps do not contain it.
    pub reason: String,
    /// Whether a wipe erases it.
    pub erased: bool,
}

/// Lists what a dump of the database does not contain: extensions, replication, privileges, settings and the like.
pub fn not_in_a_dump(session: &Session) -> Result<Vec<NotInADump>, Error> {
    let rows = session.rows(
        "list what a dump does not contain",
        include_str!("../sql/not_in_a_dump.sql"),
        &[],
    )?;
    Ok(rows
        .iter()
        .map(|row| NotInADump {
            entry: row.get("entry"),
            reason: row.get("reason"),
            erased: row.get("erased"),
        })
        .collect())
}

/// The number of objects of each kind.
pub fn count_by_kind(objects: &[Object]) -> BTreeMap<String, u64> {
    objects.iter().fold(BTreeMap::new(), |mut counts, object| {
        *counts.entry(object.kind.clone()).or_default() += 1;
        counts
    })
}

/// The statements that drop these objects, to be run in one transaction.
///
/// There is one statement for all objects of a kind where possible, because tables can refer to each other in a circle.
/// With `IF EXISTS`, because an earlier `CASCADE` may already have dropped an object.
pub fn drop_statements(objects: &[Object]) -> String {
    let mut sql = String::new();
    for group in objects.chunk_by(|a, b| a.kind == b.kind) {
        let kind = group[0].kind.as_str();
        let names: Vec<&str> = group.iter().map(|object| object.name.as_str()).collect();
        let statements = match kind {
            "large object" => each(&names, |oid| format!("SELECT lo_unlink({oid});\n")),
            // DROP accepts only one name for these kinds.
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
