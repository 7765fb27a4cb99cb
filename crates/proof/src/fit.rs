//! Checks that a target can hold a dump, before anything is erased and again before anything is loaded.

use ess_postgres::{Error, Facts, Inventory, LOCKS_PER_TABLE, Session, database_objects, lock_table, missing_needs};
use ess_stop::Stop;

use ess_run::in_quotes;
use ess_run::text::count;
use ess_synapse::tables::TABLES;

use crate::Target;

/// Locks for each table in the one transaction that loads the structure: the table, its TOAST table, its sequence.
const LOCKS_PER_LOADED_TABLE: i64 = 5;

/// How many locks a target needs to drop `dropped` tables and to load `loaded` tables.
pub fn locks_needed(dropped: usize, loaded: usize) -> i64 {
    let times = |tables: usize, locks: i64| i64::try_from(tables).unwrap_or(i64::MAX).saturating_mul(locks);
    times(dropped, LOCKS_PER_TABLE).saturating_add(times(loaded, LOCKS_PER_LOADED_TABLE))
}

/// Refuses a database whose encoding or locale Synapse does not accept.
pub fn require_locale(facts: &Facts) -> Result<(), Stop> {
    if facts.is_for_synapse() {
        return Ok(());
    }
    Err(Stop::no(format!(
        "the target database is {}, but Synapse requires UTF8/C/C",
        facts.locale()
    ))
    .hint(facts.remedy()))
}

/// Refuses a target that lacks what a dump of `inventory` needs, or has too few locks to load it.
pub fn require_compatible(target: &Target, inventory: &Inventory) -> anyhow::Result<()> {
    if let Some((need, remedy)) = missing_needs(&target.session, &target.role, &inventory.catalogue)?
        .into_iter()
        .next()
    {
        return Err(Stop::no(format!(
            "the target lacks what the dump needs: {need}; the dump cannot be loaded"
        ))
        .hint(remedy)
        .into());
    }
    require_locks(&target.session, inventory.tables.len())
}

/// Refuses a lock table that is too small to drop the tables that exist and load `loaded` ones in one transaction.
fn require_locks(session: &Session, loaded: usize) -> anyhow::Result<()> {
    let dropped = tables(session)?;
    let needed = locks_needed(dropped, loaded);
    let table = lock_table(session)?;
    let Some(wanted) = table.wanted(needed) else {
        return Ok(());
    };
    Err(Stop::no(format!(
        "the target has room for {}, but dropping {} and loading {loaded} needs about {needed}",
        count(table.free, "lock"),
        count(dropped, "table")
    ))
    .hint(format!(
        "on the target, set max_locks_per_transaction to {wanted} and restart it"
    ))
    .into())
}

fn tables(session: &Session) -> Result<usize, Error> {
    Ok(database_objects(session)?
        .iter()
        .filter(|object| object.kind == "table")
        .count())
}

/// The tables of a target that are neither Synapse's nor in `dumps`, and whether the target has any of Synapse's.
///
/// They belong to a bridge that shares the database, or to another application, and are never dropped unannounced.
pub fn other_tables(session: &Session, dumps: &[&Inventory]) -> Result<(Vec<String>, bool), Error> {
    let is_synapses = |name: &str| name.strip_prefix("public.").is_some_and(|name| TABLES.contains(&name));
    let is_dumped = |name: &str| {
        let lines = dumps.iter().flat_map(|inventory| &inventory.catalogue);
        let relations = lines.filter_map(|line| line.strip_prefix("relation ")?.strip_prefix(name));
        relations.into_iter().any(|rest| rest.starts_with(" kind "))
    };
    let mut names: Vec<String> = database_objects(session)?
        .into_iter()
        .filter(|object| object.kind == "table")
        .map(|object| object.name)
        .collect();
    let has_synapses = names.iter().any(|name| is_synapses(name));
    names.retain(|name| !is_synapses(name) && !is_dumped(name));
    Ok((names, has_synapses))
}

/// Refuses to drop tables behind the fence that are neither Synapse's nor in the dump.
pub fn require_own_tables(target: &Target, dump: &Inventory) -> anyhow::Result<()> {
    let (other_tables, _) = other_tables(&target.session, &[dump])?;
    let Some(first) = other_tables.first() else {
        return Ok(());
    };
    let some: Vec<&str> = other_tables.iter().take(5).map(String::as_str).collect();
    Err(Stop::no(format!(
        "the target contains tables that are neither Synapse's nor in the dump: {}",
        some.join(", ")
    ))
    .hint(format!(
        "move them elsewhere, or, if they can be erased, re-run ess-wipe with --also-erase {}",
        in_quotes(first)
    ))
    .into())
}
