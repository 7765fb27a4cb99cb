//! Whether a source can be dumped and loaded again: what would only come out after the wipe is looked for before the
//! dump.

use ess_cli::Stop;
use ess_postgres::{
    Condition, Facts, Held, PAST_INDEXES, Session, conditions, dump_locks, foreign_keys, lock_table, not_utf8,
    unique_keys, without_support,
};
use ess_run::Report;
use ess_run::text::count;

/// Where the order of text cannot have changed, keys of tables up to this size are tried, which takes no time.
const SMALL: i64 = 1 << 20;

/// Refuses a source whose dump could not be taken or not be loaded.
pub(crate) fn check(session: &Session, facts: &Facts, report: &dyn Report) -> anyhow::Result<()> {
    has_encoding(session, facts)?;
    has_locks(session)?;
    if let Some(first) = without_support(session)?.into_iter().next() {
        return Err(Stop::no(format!(
            "a dump cannot hold all that belongs together: {first}, which is left out"
        ))
        .hint("drop it on the source, or move what it shows into a table first")
        .into());
    }
    report.stage("looking for rows that no restore could load", None);
    session.batch("begin the search", &format!("BEGIN READ ONLY; {PAST_INDEXES}"))?;
    has_whole_keys(session, facts)?;
    has_sound_rows(session)?;
    session.batch("end the search", "ROLLBACK")?;
    report.done();
    Ok(())
}

fn has_encoding(session: &Session, facts: &Facts) -> anyhow::Result<()> {
    if facts.encoding == "UTF8" {
        return Ok(());
    }
    let wrong = match not_utf8(session)? {
        Some((table, column)) => format!("; column {column} of table {table} holds bytes that are not UTF-8"),
        None => String::new(),
    };
    Err(Stop::no(format!(
        "the source's encoding is {}, and Synapse needs UTF8{wrong}",
        facts.encoding
    ))
    .hint("bring it into a UTF8 database first: createdb --encoding=UTF8 --locale=C --template=template0, then pg_dump | psql")
    .into())
}

fn has_locks(session: &Session) -> anyhow::Result<()> {
    let (needed, table) = (dump_locks(session)?, lock_table(session)?);
    let Some(wanted) = table.wanted(needed) else {
        return Ok(());
    };
    Err(Stop::no(format!(
        "the source's server has room for {} locks, and a dump takes about {needed}",
        table.free
    ))
    .hint(format!(
        "on the source, set max_locks_per_transaction to {wanted} and restart it"
    ))
    .into())
}

/// Neither duplicates under unique keys nor rows that refer to nothing.
fn has_whole_keys(session: &Session, facts: &Facts) -> anyhow::Result<()> {
    for key in unique_keys(session)? {
        let may_have_changed = key.sorts_text && !facts.sorts_by_bytes();
        if !may_have_changed && key.bytes > SMALL {
            continue;
        }
        let duplicates = key.duplicates(session)?;
        if duplicates > 0 {
            return Err(Stop::no(format!(
                "no restore could build unique index {} of table {}: there are duplicates of {}",
                key.index,
                key.table,
                count(duplicates, "key")
            ))
            .hint(format!(
                "on the source, look at the rows with: {}; delete those that are too many, then REINDEX INDEX {}",
                key.shown(),
                key.index
            ))
            .into());
        }
    }
    for key in foreign_keys(session)? {
        let orphans = key.orphans(session)?;
        if orphans > 0 {
            return Err(Stop::no(format!(
                "no restore could add foreign key {} of table {}: no row of {} matches {} of it",
                key.name,
                key.table,
                key.other,
                count(orphans, "row")
            ))
            .hint(format!(
                "on the source, look at the rows with: {}; then delete or correct them",
                key.shown()
            ))
            .into());
        }
    }
    Ok(())
}

/// What each row has to satisfy is satisfied, with nothing but qualified names.
fn has_sound_rows(session: &Session) -> anyhow::Result<()> {
    for condition in conditions(session)? {
        let Condition { kind, name, table, .. } = &condition;
        match condition.holds(session)? {
            Held::All => {}
            Held::Not(rows) => {
                return Err(Stop::no(format!(
                    "no restore could load table {table}: {kind} {name}, which the source counts as valid, is violated by {}",
                    count(rows, "row")
                ))
                .hint(format!(
                    "on the source, correct the rows, or drop {name} and add it again as NOT VALID"
                ))
                .into());
            }
            Held::Fails(why) => {
                return Err(Stop::no(format!(
                    "no restore could load table {table}: {kind} {name} cannot be evaluated with an empty search_path: {why}"
                ))
                .hint("on the source, name the schema in the functions that it calls, or set their search_path: ALTER FUNCTION ... SET search_path = public")
                .into());
            }
        }
    }
    Ok(())
}
