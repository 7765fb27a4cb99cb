//! Checks that a source can be read completely, by a dump or for a proof.

use ess_postgres::{Session, prepared_transactions, subscriptions};
use ess_stop::Stop;

/// Refuses a source with writes that cannot be detected (a standby) or that no dump contains (prepared transactions).
pub fn require_primary(session: &Session, standby: bool) -> anyhow::Result<()> {
    if standby {
        return Err(Stop::no(format!(
            "{} is a standby: writes to its primary in the meantime cannot be detected and would be lost",
            session.server()
        ))
        .hint("use the primary; if it is permanently lost, promote this server first: SELECT pg_promote()")
        .into());
    }
    let prepared = prepared_transactions(session)?;
    if !prepared.is_empty() {
        return Err(Stop::no(format!(
            "the source has prepared transactions, whose changes are not in any dump: {}",
            some(&prepared)
        ))
        .hint("end each with COMMIT PREPARED or ROLLBACK PREPARED")
        .into());
    }
    Ok(())
}

/// Refuses a source with enabled subscriptions, whether or not a logical replication worker is connected at the moment.
pub fn refuse_subscriber(session: &Session) -> anyhow::Result<()> {
    let subscriptions = subscriptions(session)?;
    if subscriptions.is_empty() {
        return Ok(());
    }
    Err(Stop::no(format!(
        "logical replication writes to the source, by these subscriptions: {}",
        some(&subscriptions)
    ))
    .hint("disable each with ALTER SUBSCRIPTION ... DISABLE")
    .into())
}

/// The first few names.
fn some(names: &[String]) -> String {
    let shown: Vec<&str> = names.iter().take(5).map(String::as_str).collect();
    shown.join(", ")
}
