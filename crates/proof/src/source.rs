//! Checks that a source can be read completely, by a dump or for a proof.

use ess_postgres::{Session, end_leftovers, prepared_transactions, subscriptions};
use ess_run::Report;
use ess_run::text::count;
use ess_stop::Stop;

use crate::target::take_lock;

/// Takes the lock of the source, and terminates the sessions that earlier runs have left on it.
pub fn lock_source(session: &Session, report: &dyn Report) -> anyhow::Result<()> {
    // Leftovers are known by their application_name: without the lock, a second run on this source would terminate ours.
    take_lock(session)?;
    let ended = end_leftovers(session, &["pgdump-wrap", "rehearse", "pg_dump"])?;
    if ended > 0 {
        report.note(&format!(
            "terminated {} that an earlier run had left on the source",
            count(ended, "session")
        ));
    }
    Ok(())
}

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
