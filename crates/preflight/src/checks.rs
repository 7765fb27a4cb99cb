//! The checks, by subject. A check that fails does not stop the others.

pub(crate) mod carry;
pub(crate) mod certificates;
pub(crate) mod cluster;
pub(crate) mod collation;
pub(crate) mod config;
pub(crate) mod connections;
pub(crate) mod endpoint;
pub(crate) mod export;
pub(crate) mod health;
pub(crate) mod homeserver;
pub(crate) mod host;
pub(crate) mod logins;
pub(crate) mod media;
pub(crate) mod pace;
pub(crate) mod profile;
pub(crate) mod programs;
pub(crate) mod public;
pub(crate) mod rehearsal;
pub(crate) mod settings;
pub(crate) mod source;
pub(crate) mod target;
pub(crate) mod versions;
pub(crate) mod well_known;

use std::time::Duration;

use ess_document::Finding;
use ess_postgres::{Access, Conninfo, Error, Facts, Session, server_facts};

use crate::finding::{Detail, blocker, info};
use crate::ids::{NOT_CHECKED, UNKNOWN};

/// The findings of a check on a server, or why it could not be completed.
pub(crate) type Findings = Result<Vec<Finding>, Error>;

/// A source with an open connection.
pub(crate) struct OpenSource {
    /// The connection, which only reads.
    pub(crate) session: Session,
    /// Properties of the server and the database.
    pub(crate) facts: Facts,
}

/// A check on `T`: its subject, for messages, and its function.
pub(crate) type Check<T> = (&'static str, fn(&T) -> Findings);

/// Runs every check; one that fails becomes a finding.
pub(crate) fn all<T>(on: &T, checks: &[Check<T>]) -> Vec<Finding> {
    checks
        .iter()
        .flat_map(|(what, check)| check(on).unwrap_or_else(|error| vec![not_checked(what, &error)]))
        .collect()
}

/// SQLSTATEs of `statement_timeout` and `lock_timeout`, which [`connect`] sets.
const QUERY_CANCELED: &str = "57014";
const LOCK_NOT_AVAILABLE: &str = "55P03";

/// Checks that are only informational: if one of them fails, the finding is not a blocker.
const INFORMING: [&str; 20] = [
    "background updates",
    "extensions of the source",
    "invalid indexes",
    "large objects of the source",
    "media files without a row",
    "replication slots",
    "schemas of the source",
    "sessions on the source",
    "sessions on the target",
    "the estimate of the downtime",
    "the login providers",
    "the rehearsal",
    "the source's clock",
    "the source's tables",
    "the speed of the target",
    "the target's clock",
    "uploads without a file",
    "users",
    "what is not carried",
    "whether the target already contains the source",
];

/// The finding about a check that failed: a blocker, unless the check is only informational.
pub(crate) fn not_checked(what: &str, error: &Error) -> Finding {
    let message = format!("not checked: {what}: {error}");
    let found = if INFORMING.contains(&what) {
        info(&UNKNOWN, message)
    } else {
        blocker(&NOT_CHECKED, message)
    };
    let found = found.with("check", what);
    if is_canceled(error) {
        found.hint("the server is busy, or the table is locked; run preflight again when the load is lower")
    } else {
        found
    }
}

/// Whether a query ended because of `statement_timeout` or `lock_timeout`.
pub(crate) fn is_canceled(error: &Error) -> bool {
    error
        .db()
        .is_some_and(|db| [QUERY_CANCELED, LOCK_NOT_AVAILABLE].contains(&db.code().code()))
}

/// Longer than `statement_timeout`: if this expires, the connection is dead.
const NO_ANSWER: Duration = Duration::from_secs(35);

/// Opens a read-only connection with short limits for statements and locks, since the servers are in use.
pub(crate) fn connect(conninfo: &Conninfo, name: &str) -> Result<(Session, Facts), Error> {
    let mut conninfo = conninfo.clone();
    // libpq's own default is to wait indefinitely for a server that does not respond.
    conninfo.default("connect_timeout", || "10".to_owned());
    let session = Session::connect(&conninfo, name, Access::ReadOnly)?.limited(NO_ANSWER);
    session.batch(
        "set up the session",
        "SET statement_timeout = '30s'; SET lock_timeout = '5s'",
    )?;
    let facts = server_facts(&session)?;
    Ok((session, facts))
}

/// The rows of a query with a single text column.
fn texts(session: &Session, what: &str, sql: &str) -> Result<Vec<String>, Error> {
    Ok(session.rows(what, sql, &[])?.iter().map(|row| row.get(0)).collect())
}

/// The result of a query for a single number.
fn number_of(session: &Session, what: &str, sql: &str) -> Result<i64, Error> {
    Ok(session.one(what, sql, &[])?.get(0))
}

#[cfg(test)]
mod tests {
    use super::{Facts, INFORMING};

    /// The files that name the checks.
    const SOURCES: [&str; 6] = [
        include_str!("parallel.rs"),
        include_str!("checks/homeserver.rs"),
        include_str!("checks/media.rs"),
        include_str!("checks/pace.rs"),
        include_str!("checks/source.rs"),
        include_str!("checks/target.rs"),
    ];

    #[test]
    fn what_only_informs_is_named_as_its_check_is() {
        assert!(INFORMING.is_sorted());
        for what in INFORMING {
            let named = format!("\"{what}\"");
            assert!(
                SOURCES.iter().any(|source| source.contains(&named)),
                "{what} is not a check"
            );
        }
    }

    /// Facts of a source with that collation.
    pub(crate) fn facts(collate: &str, ctype: &str) -> Facts {
        Facts {
            identity: ess_document::Identity {
                system_identifier: "1".to_owned(),
                database: "synapse".to_owned(),
            },
            version: 150_020,
            version_text: "15.20".to_owned(),
            encoding: "UTF8".to_owned(),
            collate: collate.to_owned(),
            ctype: ctype.to_owned(),
            provider: "c".to_owned(),
            owner: "synapse".to_owned(),
            user: "synapse".to_owned(),
            superuser: false,
            standby: false,
            bytes: 0,
        }
    }
}
