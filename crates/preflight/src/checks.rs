//! The checks, by what they look at. None stops another.

pub(crate) mod carry;
pub(crate) mod cluster;
pub(crate) mod collation;
pub(crate) mod config;
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
pub(crate) mod settings;
pub(crate) mod source;
pub(crate) mod target;
pub(crate) mod versions;
pub(crate) mod well_known;

use std::time::Duration;

use ess_document::Finding;
use ess_postgres::{Access, Conninfo, Error, Facts, Session, facts};

use crate::finding::{Blocker, Detail, blocker, info};

/// What a check on a server found, or why it could not be made.
pub(crate) type Found = Result<Vec<Finding>, Error>;

/// A check on `T`: what it looks at, in words, and how.
pub(crate) type Check<T> = (&'static str, fn(&T) -> Found);

/// Makes each check; one that fails is a finding itself.
pub(crate) fn all<T>(on: &T, checks: &[Check<T>]) -> Vec<Finding> {
    checks
        .iter()
        .flat_map(|(what, check)| check(on).unwrap_or_else(|error| vec![not_checked(what, &error)]))
        .collect()
}

/// `SQLSTATE`s of our own limits.
const QUERY_CANCELED: &str = "57014";
const LOCK_NOT_AVAILABLE: &str = "55P03";

/// Checks that only inform: where one cannot be made, something is unknown, and that stops nobody.
const INFORMING: [&str; 19] = [
    "background updates",
    "extensions of the source",
    "files that no row knows",
    "how fast the target is",
    "how long it takes",
    "how users log in",
    "invalid indexes",
    "large objects of the source",
    "replication slots",
    "schemas of the source",
    "sessions on the source",
    "sessions on the target",
    "the source's clock",
    "the source's tables",
    "the target's clock",
    "uploads without a file",
    "users",
    "what stays behind",
    "whether the target holds the source already",
];

/// A check that could not be made: a blocker, unless it only informs.
pub(crate) fn not_checked(what: &str, error: &Error) -> Finding {
    let message = format!("not checked: {what}: {error}");
    let found = if INFORMING.contains(&what) {
        info("unknown", message)
    } else {
        blocker(Blocker::NotChecked, message)
    };
    let found = found.with("check", what);
    if is_canceled(error) {
        found.hint("the server is busy, or the table is locked; try again when it is quiet")
    } else {
        found
    }
}

/// Whether one of our own limits ended it.
pub(crate) fn is_canceled(error: &Error) -> bool {
    error
        .db()
        .is_some_and(|db| [QUERY_CANCELED, LOCK_NOT_AVAILABLE].contains(&db.code().code()))
}

/// Longer than any statement may take: then it is the network that is gone.
const NO_ANSWER: Duration = Duration::from_secs(35);

/// A connection that disturbs nobody: preflight looks at servers that people use.
pub(crate) fn connect(conninfo: &Conninfo, name: &str) -> Result<(Session, Facts), Error> {
    let mut conninfo = conninfo.clone();
    // libpq would wait for ever for a server that does not answer.
    conninfo.default("connect_timeout", || "10".to_owned());
    let session = Session::connect(&conninfo, name, Access::ReadOnly)?.limited(NO_ANSWER);
    session.batch(
        "set up the session",
        "SET statement_timeout = '30s'; SET lock_timeout = '5s'",
    )?;
    let facts = facts(&session)?;
    Ok((session, facts))
}

/// The one text column of a query.
fn texts(session: &Session, what: &str, sql: &str) -> Result<Vec<String>, Error> {
    Ok(session.rows(what, sql, &[])?.iter().map(|row| row.get(0)).collect())
}

/// The one number of a query.
fn number_of(session: &Session, what: &str, sql: &str) -> Result<i64, Error> {
    Ok(session.one(what, sql, &[])?.get(0))
}

#[cfg(test)]
mod tests {
    use super::{Facts, INFORMING};

    /// Where checks are named.
    const SOURCES: [&str; 6] = [
        include_str!("look.rs"),
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
                "{what} is no check"
            );
        }
    }

    /// A source of that collation.
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
