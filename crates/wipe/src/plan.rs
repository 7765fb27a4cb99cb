//! The plan of a wipe: shown, checked, carried out in one transaction.

use anyhow::Context as _;
use ess_cli::{Console, Exit, Stop};
use ess_postgres::{
    LOCKS_PER_TABLE, Object, Session, count_by_kind, drop_statements, escape_identifier, free_locks, keepsakes, objects,
};
use ess_proof::{Fence, Target};

/// Refuses a plan that would fail half-way or leave something behind.
pub(crate) fn can_be_dropped(session: &Session, plan: &[Object]) -> anyhow::Result<()> {
    let foreign: Vec<String> = plan
        .iter()
        .filter(|object| !object.ours)
        .take(5)
        .map(|object| format!("{} {} of {}", object.kind, object.name, object.owner))
        .collect();
    if !foreign.is_empty() {
        return Err(Stop::new(
            Exit::Permission,
            format!("the target holds what our role may not drop: {}", foreign.join(", ")),
        )
        .hint("connect as the owner, or as a superuser with --role")
        .into());
    }
    let tables = plan.iter().filter(|object| object.kind == "table").count();
    let needed = i64::try_from(tables)
        .unwrap_or(i64::MAX)
        .saturating_mul(LOCKS_PER_TABLE);
    let free = free_locks(session)?;
    if free < needed {
        return Err(Stop::no(format!(
            "the server has room for {free} locks, and dropping {tables} tables at once needs about {needed}"
        ))
        .hint("raise max_locks_per_transaction on the target and restart it")
        .into());
    }
    Ok(())
}

/// Tells what would go, from where.
pub(crate) fn show(console: &Console, target: &Target, plan: &[Object], confirmation: &str) {
    let counts: Vec<String> = count_by_kind(plan)
        .into_iter()
        .map(|(kind, count)| format!("{count} {kind}{}", if count == 1 { "" } else { "s" }))
        .collect();
    let what = if counts.is_empty() {
        "nothing".to_owned()
    } else {
        counts.join(", ")
    };
    console.line(&format!(
        "target: {confirmation} at {} (cluster {}, {} bytes)",
        target.session.server(),
        target.facts.identity.system_identifier,
        target.facts.bytes
    ));
    console.line(&format!("to be erased: {what}"));
}

/// Drops everything and puts the fence up, in one transaction that proves itself before it commits.
pub(crate) fn execute(target: &Target, plan: &[Object], fence: Option<&Fence>) -> anyhow::Result<()> {
    let session = &target.session;
    session.batch(
        "begin the wipe",
        "BEGIN; SET LOCAL lock_timeout = '5s'; SET LOCAL synchronous_commit = on",
    )?;
    let outcome = erase(target, plan, fence);
    if outcome.is_err() {
        // A lost connection has rolled back already.
        let _ = session.batch("undo the wipe", "ROLLBACK");
    }
    outcome
}

fn erase(target: &Target, plan: &[Object], fence: Option<&Fence>) -> anyhow::Result<()> {
    let session = &target.session;
    if objects(session)? != plan {
        return Err(Stop::no("the target changed after the plan was made")
            .hint("see who else works on it, then run the same line again")
            .into());
    }
    let stays = keepsakes(session)?;
    session
        .batch("drop everything", &drop_statements(plan))
        .context("dropping failed")?;
    let left = objects(session)?;
    if let Some(object) = left.first() {
        return Err(Stop::new(
            Exit::Software,
            format!("{} {} was not dropped", object.kind, object.name),
        )
        .into());
    }
    if keepsakes(session)? != stays {
        return Err(Stop::new(Exit::Software, "dropping changed an extension or the schema public").into());
    }
    if let Some(fence) = fence {
        if let Some(role) = target.other_role() {
            session.batch(
                "become the owner",
                &format!("SET LOCAL ROLE {}", escape_identifier(role)),
            )?;
        }
        session.batch("put up the fence", &fence.raise())?;
    }
    session.batch("commit the wipe", "COMMIT")?;
    Ok(())
}
