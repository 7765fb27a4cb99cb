//! Who else uses a database, and keeping a second run of ours out.

use crate::{Error, Session};

/// Another session on the same database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Other {
    /// The role it connected as.
    pub user: String,
    /// Its `application_name`.
    pub application: String,
    /// Where it came from; empty for a Unix socket, or when we may not see it.
    pub address: String,
    /// Its server process.
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

/// Sessions of others on this database. Ours are left out: locks keep them apart. So are idle ones of a pooler in
/// session mode, by the `DISCARD ALL` that it reset them with, where our role may see what they did last.
///
/// Not by `backend_type`: for other roles' sessions an ordinary role sees it as null.
pub fn others(session: &Session, ignored_roles: &[String]) -> Result<Vec<Other>, Error> {
    let rows = session.rows(
        "see who else is connected",
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

/// Transactions of this database that were prepared and neither committed nor rolled back, by name.
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

/// Those of `roles` that own the database or a table in it: Synapse's own, not a monitor's.
pub fn owners_among(session: &Session, roles: &[String]) -> Result<Vec<String>, Error> {
    let rows = session.rows(
        "read who owns the database",
        include_str!("../sql/owners_among.sql"),
        &[&roles],
    )?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Ends what earlier, killed runs of `tools` left connected; returns how many sessions that were.
///
/// To be called with a lock that keeps living runs out, and before this run opens a second session.
pub fn end_leftovers(session: &Session, tools: &[&str]) -> Result<usize, Error> {
    let leftovers = include_str!("../sql/leftovers.sql");
    let prefixes: Vec<String> = tools.iter().map(|tool| format!("ess-migrate/{tool}/")).collect();
    let ended = session.rows(
        "end sessions of an earlier run",
        &format!("SELECT pg_terminate_backend(pid) FROM ({leftovers}) AS leftover"),
        &[&prefixes],
    )?;
    // Their locks are released only when they are gone.
    for _ in 0..200 {
        if ended.is_empty() || session.rows("wait for them", leftovers, &[&prefixes])?.is_empty() {
            break;
        }
        session.batch("wait for them", "SELECT pg_sleep(0.05)")?;
    }
    Ok(ended.len())
}

/// Takes the lock that one run at a time holds on a target, until the session ends.
///
/// Returns whether we have it.
pub fn lock(session: &Session) -> Result<bool, Error> {
    // "ess-migr" as a number; the lock is per database.
    let sql = "SELECT pg_try_advisory_lock(7310309011223338354)";
    Ok(session.one("lock the target", sql, &[])?.get(0))
}
