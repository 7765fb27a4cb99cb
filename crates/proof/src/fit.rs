//! Whether a target can take a dump, asked before anything is erased and again before anything is loaded.

use ess_cli::Stop;
use ess_postgres::{Error, Facts, Inventory, LOCKS_PER_TABLE, Session, lacking, lock_table, objects};

use ess_run::in_quotes;
use ess_synapse::tables::TABLES;

use crate::Target;

/// Locks that a table takes in the one transaction of a load's structure: itself, its TOAST, its sequence.
const LOCKS_PER_LOADED_TABLE: i64 = 5;

/// How many locks a target needs at once to drop one number of tables and to load another.
pub fn locks_needed(dropped: usize, loaded: usize) -> i64 {
    let times = |tables: usize, locks: i64| i64::try_from(tables).unwrap_or(i64::MAX).saturating_mul(locks);
    times(dropped, LOCKS_PER_TABLE).saturating_add(times(loaded, LOCKS_PER_LOADED_TABLE))
}

/// Refused: a database whose encoding or order Synapse does not take.
pub fn is_for_synapse(facts: &Facts) -> Result<(), Stop> {
    if facts.is_for_synapse() {
        return Ok(());
    }
    Err(Stop::no(format!(
        "the target database is {}, and Synapse needs UTF8/C/C",
        facts.locale()
    ))
    .hint(facts.remedy()))
}

/// Refused: a target that lacks what a dump of `inventory` needs there, or the locks to load it.
pub fn can_take(target: &Target, inventory: &Inventory) -> anyhow::Result<()> {
    if let Some((need, remedy)) = lacking(&target.session, &target.role, &inventory.catalogue)?
        .into_iter()
        .next()
    {
        return Err(Stop::no(format!(
            "the target lacks what the dump needs: {need}; it could not be loaded"
        ))
        .hint(remedy)
        .into());
    }
    has_locks(&target.session, inventory.tables.len())
}

/// Refused: a lock table too small to drop what is there and then load so many tables, each in one transaction.
fn has_locks(session: &Session, loaded: usize) -> anyhow::Result<()> {
    let dropped = tables(session)?;
    let needed = locks_needed(dropped, loaded);
    let table = lock_table(session)?;
    let Some(wanted) = table.wanted(needed) else {
        return Ok(());
    };
    Err(Stop::no(format!(
        "the target has room for {} locks, and to drop {dropped} tables and load {loaded} takes about {needed}",
        table.free
    ))
    .hint(format!(
        "on the target, set max_locks_per_transaction to {wanted} and restart it"
    ))
    .into())
}

fn tables(session: &Session) -> Result<usize, Error> {
    Ok(objects(session)?.iter().filter(|object| object.kind == "table").count())
}

/// Tables on a target that are neither Synapse's nor of dumps that were loaded there, and whether it has Synapse's.
///
/// A bridge's beside Synapse's, or somebody's own database: not ours to drop unseen.
pub fn strangers(session: &Session, dumps: &[&Inventory]) -> Result<(Vec<String>, bool), Error> {
    let is_synapses = |name: &str| name.strip_prefix("public.").is_some_and(|name| TABLES.contains(&name));
    let is_dumped = |name: &str| {
        let lines = dumps.iter().flat_map(|inventory| &inventory.catalogue);
        let relations = lines.filter_map(|line| line.strip_prefix("relation ")?.strip_prefix(name));
        relations.into_iter().any(|rest| rest.starts_with(" kind "))
    };
    let mut names: Vec<String> = objects(session)?
        .into_iter()
        .filter(|object| object.kind == "table")
        .map(|object| object.name)
        .collect();
    let has_synapses = names.iter().any(|name| is_synapses(name));
    names.retain(|name| !is_synapses(name) && !is_dumped(name));
    Ok((names, has_synapses))
}

/// Refused: to drop behind the fence what neither Synapse nor the dump has put there.
pub fn is_ours_behind_the_fence(target: &Target, dump: &Inventory) -> anyhow::Result<()> {
    let (strangers, _) = strangers(&target.session, &[dump])?;
    let Some(first) = strangers.first() else { return Ok(()) };
    let some: Vec<&str> = strangers.iter().take(5).map(String::as_str).collect();
    Err(Stop::no(format!(
        "the target holds what is neither Synapse's nor of the dump: {}",
        some.join(", ")
    ))
    .hint(format!(
        "bring it away, or, if it may go, run ess-wipe again with --also-erase {}",
        in_quotes(first)
    ))
    .into())
}
