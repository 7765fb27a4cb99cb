//! Whether a homeserver is in use or was only tried out, and its name.

use crate::{Error, Session, table_exists};

/// The largest counts that still look like a trial: a login, a test room and a few uploads.
const USERS: i64 = 5;
const EVENTS: i64 = 1_000;
const SENDERS: i64 = 1;
const MEDIA: i64 = 100;

/// How much users have created in a database. Each count stops at one above the limit of a trial.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Users that are not guests.
    pub users: i64,
    /// Events in rooms.
    pub events: i64,
    /// Local users that have sent a message; 0 if the number of events alone exceeds its limit.
    pub senders: i64,
    /// Media uploaded by local users.
    pub media: i64,
}

impl Usage {
    /// Describes the count that shows use, for a message; `None` if the database was only tried out.
    pub fn used(&self) -> Option<String> {
        let more =
            |found: i64, limit: i64, of: &str| (found > limit).then(|| format!("it contains more than {limit} {of}"));
        more(self.users, USERS, "users")
            .or_else(|| more(self.events, EVENTS, "events"))
            .or_else(|| (self.senders > SENDERS).then(|| "it contains messages from several of its users".to_owned()))
            .or_else(|| more(self.media, MEDIA, "uploaded media"))
    }
}

/// Counts what a database contains. A missing table counts as empty.
pub fn database_usage(session: &Session) -> Result<Usage, Error> {
    let mut found = Usage {
        users: count(session, &["users"], include_str!("../sql/usage_users.sql"), USERS)?,
        events: count(session, &["events"], include_str!("../sql/usage_events.sql"), EVENTS)?,
        senders: 0,
        media: count(
            session,
            &["local_media_repository"],
            include_str!("../sql/usage_media.sql"),
            MEDIA,
        )?,
    };
    if found.events <= EVENTS {
        // Only with few events: the query reads the complete table.
        found.senders = count(
            session,
            &["events", "users"],
            include_str!("../sql/usage_senders.sql"),
            SENDERS,
        )?;
    }
    Ok(found)
}

/// The server names of all users in a database, at most ten: exactly one on a homeserver, and none before its first
/// user.
pub fn server_names(session: &Session) -> Result<Vec<String>, Error> {
    if !table_exists(session, "public.users")? {
        return Ok(Vec::new());
    }
    let rows = session.rows(
        "read the users' server name",
        include_str!("../sql/server_names.sql"),
        &[],
    )?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

fn count(session: &Session, tables: &[&str], sql: &str, limit: i64) -> Result<i64, Error> {
    for table in tables {
        if !table_exists(session, &format!("public.{table}"))? {
            return Ok(0);
        }
    }
    Ok(session.one("check whether it is in use", sql, &[&limit])?.get(0))
}

#[cfg(test)]
mod tests {
    use super::Usage;

    #[test]
    fn a_trial_is_not_use() {
        let trial = Usage {
            users: 5,
            events: 1_000,
            senders: 1,
            media: 100,
        };
        assert_eq!(trial.used(), None);
        let used = |usage: Usage| usage.used().unwrap_or_default();
        assert_eq!(used(Usage { users: 6, ..trial }), "it contains more than 5 users");
        assert_eq!(
            used(Usage { events: 1_001, ..trial }),
            "it contains more than 1000 events"
        );
        assert_eq!(
            used(Usage { senders: 2, ..trial }),
            "it contains messages from several of its users"
        );
        assert_eq!(
            used(Usage { media: 101, ..trial }),
            "it contains more than 100 uploaded media"
        );
    }
}
