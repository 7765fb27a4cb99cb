//! A source of which a dump, or a proof against it, can know the whole.

use ess_cli::Stop;
use ess_postgres::{Session, prepared_transactions, subscriptions};

/// Refuses a source on which somebody may write whom we do not see, or has written what no dump has.
pub fn is_whole(session: &Session, standby: bool) -> anyhow::Result<()> {
    if standby {
        return Err(Stop::no(format!(
            "{} is a standby: what is written to its primary meanwhile cannot be seen, and is lost",
            session.server()
        ))
        .hint("name the primary; where the primary is gone for good, promote this server first: SELECT pg_promote()")
        .into());
    }
    let prepared = prepared_transactions(session)?;
    if !prepared.is_empty() {
        return Err(Stop::no(format!(
            "the source holds prepared transactions, and what they wrote is in no dump: {}",
            some(&prepared)
        ))
        .hint("end each with COMMIT PREPARED or ROLLBACK PREPARED")
        .into());
    }
    Ok(())
}

/// Refuses a source into which logical replication writes, whether or not its worker is connected just now.
pub fn is_no_subscriber(session: &Session) -> anyhow::Result<()> {
    let subscriptions = subscriptions(session)?;
    if subscriptions.is_empty() {
        return Ok(());
    }
    Err(Stop::no(format!(
        "logical replication writes into the source, by the subscriptions {}",
        some(&subscriptions)
    ))
    .hint("stop each with ALTER SUBSCRIPTION ... DISABLE")
    .into())
}

/// The first few names.
fn some(names: &[String]) -> String {
    let shown: Vec<&str> = names.iter().take(5).map(String::as_str).collect();
    shown.join(", ")
}
