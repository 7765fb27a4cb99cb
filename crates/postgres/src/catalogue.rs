//! Everything in a database except its rows, as lines that can be compared.

use crate::{Error, Session};

/// The prefix of the lines of a catalogue that name what a server must already have.
const NEEDS: &str = "needs ";

/// Returns a sorted line for each object and property that a dump carries, and one for the contents of all large
/// objects.
///
/// Not included are owners, which [`not_owned_by`] checks; privileges and the like, which are not carried and which
/// [`crate::not_in_a_dump`] lists; and the rows of materialised views, which a restore computes again.
pub fn catalogue(session: &Session) -> Result<Vec<String>, Error> {
    let mut lines = objects(session)?;
    lines.extend(names(
        session,
        "read the large objects",
        include_str!("../sql/large_objects.sql"),
        &[],
    )?);
    lines.sort_unstable();
    Ok(lines)
}

/// The lines of the catalogue that name what a server must already have.
pub fn catalogue_needs(session: &Session) -> Result<Vec<String>, Error> {
    let mut lines = objects(session)?;
    lines.retain(|line| is_need(line));
    Ok(lines)
}

/// Whether a line of a catalogue names what a server must already have.
pub fn is_need(line: &str) -> bool {
    line.starts_with(NEEDS)
}

fn objects(session: &Session) -> Result<Vec<String>, Error> {
    names(session, "read the catalogue", include_str!("../sql/catalogue.sql"), &[])
}

/// Indexes that a failed build left unusable.
pub fn invalid_indexes(session: &Session) -> Result<Vec<String>, Error> {
    names(
        session,
        "list invalid indexes",
        include_str!("../sql/invalid_indexes.sql"),
        &[],
    )
}

/// The size of a server's lock table, which all its transactions share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockTable {
    /// How many more locks certainly fit.
    pub free: i64,
    /// `max_locks_per_transaction`.
    pub each: i64,
    /// The number of transactions for which it is sized: `max_connections` and `max_prepared_transactions`.
    pub transactions: i64,
}

impl LockTable {
    /// The `max_locks_per_transaction` that is needed for this many more locks; `None` if the present value is enough.
    pub fn wanted(&self, needed: i64) -> Option<i64> {
        let lacking = needed.saturating_sub(self.free);
        let transactions = self.transactions.max(1);
        (lacking > 0).then(|| self.each.saturating_add((lacking + transactions - 1) / transactions))
    }
}

/// Reads the size of the server's lock table.
pub fn lock_table(session: &Session) -> Result<LockTable, Error> {
    let sql = include_str!("../sql/lock_table.sql");
    let row = session.one("read the size of the lock table", sql, &[])?;
    Ok(LockTable {
        free: row.get("free"),
        each: row.get("each"),
        transactions: row.get("transactions"),
    })
}

/// How many connections this run can have to the database, by the limits of the server, the database and the role; with
/// `without_own_role`, when other sessions of our role have ended, which Synapse has while it runs.
pub fn free_connections(session: &Session, without_own_role: bool) -> Result<i64, Error> {
    let sql = include_str!("../sql/free_connections.sql");
    let row = session.one("count the free connections", sql, &[&without_own_role])?;
    Ok(row.get(0))
}

/// How many locks a dump needs, together with the digests that are computed meanwhile.
pub fn dump_locks(session: &Session) -> Result<i64, Error> {
    let sql = include_str!("../sql/dump_locks.sql");
    Ok(session.one("count the locks of a dump", sql, &[])?.get(0))
}

/// What a catalogue needs and the session's server lacks, such as `role grafana`, each with a remedy.
///
/// `role` is the role that is to own everything there.
pub fn missing_needs(session: &Session, role: &str, catalogue: &[String]) -> Result<Vec<(String, String)>, Error> {
    let needs: Vec<&str> = catalogue.iter().filter_map(|line| line.strip_prefix(NEEDS)).collect();
    let lacks = names(
        session,
        "check what the dump needs",
        include_str!("../sql/lacks.sql"),
        &[&needs, &role],
    )?;
    Ok(lacks
        .into_iter()
        .map(|need| {
            let remedy = remedy(&need);
            (need, remedy)
        })
        .collect())
}

/// The remedy for something that a server lacks.
fn remedy(need: &str) -> String {
    let words: Vec<&str> = need.splitn(2, ' ').collect();
    let name = words.get(1).copied().unwrap_or_default();
    match words.first().copied().unwrap_or_default() {
        "extension" => {
            let (name, schema) = name.split_once(" in schema ").unwrap_or((name, "public"));
            format!(
                "on the target, as a superuser: CREATE EXTENSION {} SCHEMA {}; or drop what uses it on the source",
                crate::escape_identifier(name),
                crate::escape_identifier(schema)
            )
        }
        "role" => format!(
            "on the target: CREATE ROLE {}; or drop the policies that name it on the source",
            crate::escape_identifier(name)
        ),
        "right" if name.starts_with("SUPERUSER") => {
            "drop it on the source, or make the role that is to own everything on the target a superuser".to_owned()
        }
        "right" => {
            "on the source: ALTER TABLE ... NO FORCE ROW LEVEL SECURITY; or connect to the target as a superuser, \
                    with --role"
                .to_owned()
        }
        "compression" => "on the source: ALTER TABLE ... ALTER COLUMN ... SET COMPRESSION pglz".to_owned(),
        _ => "use a target that has it, or drop what uses it on the source".to_owned(),
    }
}

/// Tables, sequences and large objects that the session's role is not allowed to read completely.
pub fn unreadable_objects(session: &Session) -> Result<Vec<String>, Error> {
    names(
        session,
        "check our read permissions",
        include_str!("../sql/unreadable.sql"),
        &[],
    )
}

/// Objects that are not owned by `role`, with their owner, such as `table public.users (postgres)`.
pub fn not_owned_by(session: &Session, role: &str) -> Result<Vec<String>, Error> {
    names(
        session,
        "list the owners of objects",
        include_str!("../sql/not_owned_by.sql"),
        &[&role],
    )
}

fn names(
    session: &Session,
    what: &str,
    sql: &str,
    params: &[&(dyn tokio_postgres::types::ToSql + Sync)],
) -> Result<Vec<String>, Error> {
    let rows = session.rows(what, sql, params)?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wanted_setting_holds_the_locks() {
        let table = LockTable {
            free: 6_400,
            each: 64,
            transactions: 100,
        };
        assert_eq!(table.wanted(6_400), None);
        assert_eq!(table.wanted(6_401), Some(65));
        assert_eq!(table.wanted(60_000), Some(600));
    }

    #[test]
    fn names_in_a_remedy_are_quoted() {
        let remedy = remedy("extension a b in schema x\"y");
        assert!(remedy.contains(r#"CREATE EXTENSION "a b" SCHEMA "x""y""#), "{remedy}");
    }
}
