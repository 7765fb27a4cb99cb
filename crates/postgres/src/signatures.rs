//! What Synapse's database contains about the signing keys of its server.

use crate::{Error, Session, table_exists};

/// Ids and bytes of a server's verify keys, as Synapse received them over federation.
///
/// Synapse reads its own keys from its configuration. It stores them here only if it was queried for them as a notary,
/// or if it had to verify a signature of its own with a key that its configuration no longer contains. So usually
/// there are none.
pub fn server_signature_keys(session: &Session, server_name: &str) -> Result<Vec<(String, Vec<u8>)>, Error> {
    if !table_exists(session, "public.server_signature_keys")? {
        return Ok(Vec::new());
    }
    let rows = session.rows(
        "read server_signature_keys",
        include_str!("../sql/server_signature_keys.sql"),
        &[&server_name],
    )?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// The newest event of a server's users, in JSON with its signatures; `None` if the last 10 000 events contain none.
pub fn newest_own_event(session: &Session, server_name: &str) -> Result<Option<String>, Error> {
    if !table_exists(session, "public.events")? || !table_exists(session, "public.event_json")? {
        return Ok(None);
    }
    let rows = session.rows(
        "read the newest event",
        include_str!("../sql/newest_own_event.sql"),
        &[&server_name],
    )?;
    Ok(rows.first().map(|row| row.get(0)))
}
