//! Is a homeserver in use, or was it only tried out? And what is it called?

use crate::movement::exists;
use crate::{Error, Session};

/// What a login, a test room and a few uploads stay below.
const USERS: i64 = 5;
const EVENTS: i64 = 1_000;
const SENDERS: i64 = 1;
const MEDIA: i64 = 100;

/// How much a database holds of what people make, counted no further than one above what a trial leaves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Users that are no guests.
    pub users: i64,
    /// Events in rooms.
    pub events: i64,
    /// Users of this server who sent a message; not counted where the events alone say enough.
    pub senders: i64,
    /// Media uploaded here.
    pub media: i64,
}

impl Usage {
    /// A sentence that says by which measure it is used; `None` when it was only tried out.
    pub fn used(&self) -> Option<String> {
        let more =
            |found: i64, limit: i64, of: &str| (found > limit).then(|| format!("it holds more than {limit} {of}"));
        more(self.users, USERS, "users")
            .or_else(|| more(self.events, EVENTS, "events"))
            .or_else(|| (self.senders > SENDERS).then(|| "it holds messages from several of its users".to_owned()))
            .or_else(|| more(self.media, MEDIA, "uploaded media"))
    }
}

/// Measures a database; a table that it lacks counts as empty.
pub fn usage(session: &Session) -> Result<Usage, Error> {
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
        // Only now is the search as short as the table.
        found.senders = count(
            session,
            &["events", "users"],
            include_str!("../sql/usage_senders.sql"),
            SENDERS,
        )?;
    }
    Ok(found)
}

/// The domains of the users that a database holds: one on a homeserver, none before its first user.
///
/// No more than ten.
pub fn server_names(session: &Session) -> Result<Vec<String>, Error> {
    if !exists(session, "public.users")? {
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
        if !exists(session, &format!("public.{table}"))? {
            return Ok(0);
        }
    }
    Ok(session.one("see how much it is used", sql, &[&limit])?.get(0))
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
        assert_eq!(used(Usage { users: 6, ..trial }), "it holds more than 5 users");
        assert_eq!(used(Usage { events: 1_001, ..trial }), "it holds more than 1000 events");
        assert_eq!(
            used(Usage { senders: 2, ..trial }),
            "it holds messages from several of its users"
        );
        assert_eq!(
            used(Usage { media: 101, ..trial }),
            "it holds more than 100 uploaded media"
        );
    }
}
