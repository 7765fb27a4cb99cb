//! The state of a database at one moment: its transactions, sequences and streams.

use serde::{Deserialize, Serialize};

use crate::{Error, Sequence, Session, sequences, table_exists};

/// The state of a database at the moment when it was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseState {
    /// `txid_current_snapshot()`, which shows the transactions of the cluster that had ended: `xmin:xmax:xip_list`,
    /// with 64-bit ids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// The timeline, as in the first part of the name of a WAL file; `None` on a standby, or if our role is not allowed
    /// to read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<String>,
    /// The WAL position, in bytes since the cluster was initialised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written: Option<String>,
    /// The OID of the database. A copy with the same name has another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oid: Option<i64>,
    /// Every sequence.
    pub sequences: Vec<Sequence>,
    /// The rows of Synapse's `stream_positions`.
    pub stream_positions: Vec<StreamPosition>,
}

/// A row of Synapse's `stream_positions`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamPosition {
    /// The name of the stream.
    pub stream: String,
    /// The Synapse process that writes to it.
    pub instance: String,
    /// A string, because it may exceed 2^53.
    pub position: String,
}

/// The 64-bit id of the oldest transaction that was not visible in one snapshot and may be in a later one.
///
/// Fewer than 2^32 ids have been assigned since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Later(u64);

impl DatabaseState {
    /// Whether no transaction of the cluster has ended between this mark and the later mark `now`.
    pub(crate) fn is_same_moment(&self, now: &Self) -> bool {
        self.comes_before(now) && self.snapshot.is_some() && self.snapshot == now.snapshot
    }

    /// Whether both marks are of one database, on one timeline whose WAL position has not gone backwards. False if the
    /// server does not let us read them.
    fn comes_before(&self, now: &Self) -> bool {
        let written = |mark: &Self| mark.written.as_ref()?.parse::<u64>().ok();
        let went_on = written(self).zip(written(now)).is_some_and(|(then, now)| then <= now);
        went_on && self.timeline.is_some() && (self.oid, &self.timeline) == (now.oid, &now.timeline)
    }

    /// The oldest transaction whose changes `now` may contain and this mark does not; `None` if transaction ids prove
    /// nothing.
    pub(crate) fn later(&self, now: &Self) -> Option<Later> {
        if !self.comes_before(now) {
            return None;
        }
        let (first, then) = bounds(self.snapshot.as_deref()?)?;
        let (_, now) = bounds(now.snapshot.as_deref()?)?;
        let count = now.checked_sub(first)?;
        (now >= then && count < 1 << 32).then_some(Later(first))
    }
}

impl Later {
    /// The id with its epoch, in 64 bits.
    pub(crate) fn number(self) -> i64 {
        // Ids never come close to this limit.
        i64::try_from(self.0).unwrap_or(i64::MAX)
    }

    /// The id as in `xmin` of a row: the lower 32 bits, but none of the three special ids that are never assigned
    /// (`FirstNormalTransactionId` is 3).
    pub(crate) fn xid(self) -> String {
        (self.0 % (1 << 32)).max(3).to_string()
    }
}

/// `xmin` and `xmax` of a snapshot: the oldest transaction that had not ended, and the first id that was not assigned
/// to any ended one.
fn bounds(snapshot: &str) -> Option<(u64, u64)> {
    let mut parts = snapshot.split(':');
    let mut number = || parts.next()?.parse().ok();
    Some((number()?, number()?))
}

/// Reads the present state of the database.
pub fn database_state(session: &Session) -> Result<DatabaseState, Error> {
    let row = session.one("read the transaction counter", include_str!("../sql/mark.sql"), &[])?;
    let is_writable = !row.get::<_, bool>(1);
    let (timeline, written) = if is_writable && row.get(3) {
        let row = session.one("read the timeline", include_str!("../sql/timeline.sql"), &[])?;
        (row.get(0), row.get(1))
    } else {
        // Without them, transaction ids prove nothing.
        (None, None)
    };
    Ok(DatabaseState {
        snapshot: Some(row.get(0)),
        timeline,
        written,
        oid: Some(row.get(2)),
        sequences: sequences(session)?,
        stream_positions: stream_positions(session)?,
    })
}

/// Reads Synapse's `stream_positions`; empty if there is no such table.
pub fn stream_positions(session: &Session) -> Result<Vec<StreamPosition>, Error> {
    if !table_exists(session, "public.stream_positions")? {
        return Ok(Vec::new());
    }
    let rows = session.rows(
        "read the stream positions",
        // Sorted by bytes, so that the order does not depend on the server's collation.
        "SELECT coalesce(stream_name::text, '') COLLATE \"C\", coalesce(instance_name::text, '') COLLATE \"C\",
                coalesce(stream_id::text, '') COLLATE \"C\" FROM public.stream_positions ORDER BY 1, 2, 3",
        &[],
    )?;
    Ok(rows
        .iter()
        .map(|row| StreamPosition {
            stream: row.get(0),
            instance: row.get(1),
            position: row.get(2),
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(snapshot: &str, timeline: Option<&str>) -> DatabaseState {
        DatabaseState {
            snapshot: Some(snapshot.to_owned()),
            timeline: timeline.map(str::to_owned),
            written: Some("1000".to_owned()),
            oid: Some(16_385),
            sequences: Vec::new(),
            stream_positions: Vec::new(),
        }
    }

    #[test]
    fn a_transaction_that_ends_is_seen_even_when_the_counter_stands_still() {
        let then = at("700:705:700,702", Some("1"));
        assert!(then.is_same_moment(&then.clone()));
        assert!(!then.is_same_moment(&at("702:705:702", Some("1"))));
        assert!(!then.is_same_moment(&at("700:705:700,702", Some("2"))));
        let unknown = at("700:705:700,702", None);
        assert!(!unknown.is_same_moment(&unknown.clone()));
    }

    #[test]
    fn later_transactions_are_those_that_were_not_over() {
        let later = |then: &str, now: &str| at(then, Some("1")).later(&at(now, Some("1")));
        assert_eq!(later("700:705:700,702", "710:710:"), Some(Later(700)));
        assert_eq!(later("700:700:", "700:700:"), Some(Later(700)));
        // Restored from a backup.
        assert_eq!(later("700:705:700", "702:704:702"), None);
        // With 2^32 ids or more, the lower 32 bits are no longer unique.
        assert_eq!(later("700:700:", "4294967995:4294967995:"), Some(Later(700)));
        assert_eq!(later("700:700:", "4294967996:4294967996:"), None);
        assert_eq!(at("1:1:", Some("1")).later(&at("2:2:", Some("2"))), None);
        assert_eq!(at("1:1:", None).later(&at("2:2:", None)), None);
    }

    #[test]
    fn a_copy_and_a_server_that_was_put_back_are_not_the_database_that_was_marked() {
        let then = at("700:700:", Some("1"));
        let with = |oid, written: Option<&str>| DatabaseState {
            oid: Some(oid),
            written: written.map(str::to_owned),
            ..then.clone()
        };
        assert!(then.is_same_moment(&with(16_385, Some("1001"))));
        for other in [
            with(16_386, Some("1001")),
            with(16_385, Some("999")),
            with(16_385, None),
        ] {
            assert!(!then.is_same_moment(&other), "{other:?}");
            assert_eq!(then.later(&other), None, "{other:?}");
        }
    }

    #[test]
    fn rows_know_a_transaction_without_its_epoch() {
        assert_eq!(Later(700).xid(), "700");
        assert_eq!(Later((1 << 32) + 700).xid(), "700");
        assert_eq!(Later(1 << 32).xid(), "3");
    }
}
