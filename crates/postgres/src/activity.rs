//! Other sessions on a database, and the lock against a second run of these tools.

use crate::{Error, Session};

/// Another session on the same database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Other {
    /// The role that it connected as.
    pub user: String,
    /// Its `application_name`.
    pub application: String,
    /// The client's address; empty for a Unix socket, or if our role is not allowed to see it.
    pub address: String,
    /// The process ID of its server process.
    pub pid: i32,
}

impl std::fmt::Display for Other {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (process {}", self.user, self.pid)?;
        if !self.application.is_empty() {
            write!(f, ", {}", self.application)?;
        }
        if !self.address.is_empty() {
            write!(f, ", from {}", self.address)?;
        }
        f.write_str(")")
    }
}

/// The sessions of other programs on this database, without those of `ignored_roles`.
///
/// Sessions of these tools are left out, because locks keep two runs apart. So are sessions that a pooler in session
/// mode keeps idle, which are recognised by the `DISCARD ALL` with which it reset them, if our role is allowed to see
/// their last query. `backend_type` cannot be used instead: for sessions of other roles, an ordinary role sees null.
pub fn other_sessions(session: &Session, ignored_roles: &[String]) -> Result<Vec<Other>, Error> {
    let rows = session.rows(
        "list other sessions",
        include_str!("../sql/others.sql"),
        &[&ignored_roles],
    )?;
    Ok(rows
        .iter()
        .map(|row| Other {
            user: row.get(0),
            application: row.get(1),
            address: row.get(2),
            pid: row.get(3),
        })
        .collect())
}

/// The names of transactions of this database that are prepared, and neither committed nor rolled back.
pub fn prepared_transactions(session: &Session) -> Result<Vec<String>, Error> {
    let sql = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database() ORDER BY prepared, gid";
    let rows = session.rows("list prepared transactions", sql, &[])?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The enabled subscriptions of this database.
pub fn subscriptions(session: &Session) -> Result<Vec<String>, Error> {
    let rows = session.rows("list subscriptions", include_str!("../sql/subscriptions.sql"), &[])?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Those of `roles` that own the database or a table in it. Such a role is Synapse's own, not a monitoring role.
pub fn owners_among(session: &Session, roles: &[String]) -> Result<Vec<String>, Error> {
    let rows = session.rows(
        "check the owners of the database",
        include_str!("../sql/owners_among.sql"),
        &[&roles],
    )?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Terminates the sessions that earlier, killed runs of `tools` left behind; returns their number.
///
/// Call it while holding a lock that excludes other runs, and before this run opens a second session, which would be
/// terminated too.
pub fn end_leftovers(session: &Session, tools: &[&str]) -> Result<usize, Error> {
    let leftovers = include_str!("../sql/leftovers.sql");
    let prefixes: Vec<String> = tools.iter().map(|tool| format!("ess-migrate/{tool}/")).collect();
    let ended = session.rows(
        "terminate sessions of an earlier run",
        &format!("SELECT pg_terminate_backend(pid) FROM ({leftovers}) AS leftover"),
        &[&prefixes],
    )?;
    // Their locks are released only when they have ended.
    for _ in 0..200 {
        if ended.is_empty()
            || session
                .rows("wait for terminated sessions", leftovers, &[&prefixes])?
                .is_empty()
        {
            break;
        }
        session.batch("wait for terminated sessions", "SELECT pg_sleep(0.05)")?;
    }
    Ok(ended.len())
}

/// Tries to take the lock that only one run at a time can hold on a database, until the session ends.
///
/// Returns whether it was taken.
pub fn lock_database(session: &Session) -> Result<bool, Error> {
    // "ess-migr" as a number; the lock is per database.
    let sql = "SELECT pg_try_advisory_lock(7310309011223338354)";
    Ok(session.one("lock the database", sql, &[])?.get(0))
}
