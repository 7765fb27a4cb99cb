//! Everything in a database but its rows, as comparable lines.

use crate::{Error, Session};

/// One line for each object and property that a dump carries, sorted.
///
/// Comments, owners and privileges are left out: ownership has its own check, and
/// a restore under another role changes the rest on purpose.
pub fn catalogue(session: &Session) -> Result<Vec<String>, Error> {
    let rows = session.rows("read the catalogue", include_str!("../sql/catalogue.sql"), &[])?;
    let mut lines: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    lines.sort_unstable();
    Ok(lines)
}

/// Indexes that a failed build left unusable.
pub fn invalid_indexes(session: &Session) -> Result<Vec<String>, Error> {
    names(
        session,
        "look for invalid indexes",
        include_str!("../sql/invalid_indexes.sql"),
        &[],
    )
}

/// How many more locks the server's lock table is sure to hold.
pub fn free_locks(session: &Session) -> Result<i64, Error> {
    let sql = include_str!("../sql/free_locks.sql");
    Ok(session.one("read the size of the lock table", sql, &[])?.get(0))
}

/// Tables and sequences that the session's role may not read.
pub fn unreadable(session: &Session) -> Result<Vec<String>, Error> {
    names(
        session,
        "see what we may read",
        include_str!("../sql/unreadable.sql"),
        &[],
    )
}

/// Objects that another role than `role` owns, such as `table public.users (postgres)`.
pub fn not_owned_by(session: &Session, role: &str) -> Result<Vec<String>, Error> {
    names(
        session,
        "read who owns what",
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
