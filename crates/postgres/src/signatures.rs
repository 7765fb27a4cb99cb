//! What Synapse's database tells of the keys that its server signs with.

use crate::movement::exists;
use crate::{Error, Session};

/// Ids and bytes of a server's verify keys, as Synapse has had them over federation.
///
/// Synapse takes its own keys from its configuration, and stores them here only when it was asked, as a notary, for
/// itself, or when it met a signature of its own by a key that its configuration no longer has: mostly there are none.
pub fn server_signature_keys(session: &Session, server_name: &str) -> Result<Vec<(String, Vec<u8>)>, Error> {
    if !exists(session, "public.server_signature_keys")? {
        return Ok(Vec::new());
    }
    let rows = session.rows(
        "read the keys that servers have",
        include_str!("../sql/server_signature_keys.sql"),
        &[&server_name],
    )?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// The newest event that a server made, in JSON, with its signatures; `None` when there is none among the last events.
pub fn newest_own_event(session: &Session, server_name: &str) -> Result<Option<String>, Error> {
    if !exists(session, "public.events")? || !exists(session, "public.event_json")? {
        return Ok(None);
    }
    let rows = session.rows(
        "read the newest event",
        include_str!("../sql/newest_own_event.sql"),
        &[&server_name],
    )?;
    Ok(rows.first().map(|row| row.get(0)))
}
