//! Whether a source can be dumped and loaded again.
//!
//! Checked before the dump, because the restore would otherwise fail over it only after the target was wiped.

use ess_postgres::{
    Facts, PAST_INDEXES, Session, conditions, database_state, dump_locks, foreign_keys, lock_table,
    objects_without_support, text_not_in_utf8, unique_keys,
};
use ess_run::Report;
use ess_run::text::count;
use ess_stop::Stop;

use crate::streams::{Behind, behind_their_streams};

/// In bytes. Unique keys whose sort order cannot have changed are checked only in tables up to this size, where the
/// check takes no noticeable time.
const SMALL: i64 = 1 << 20;

/// Refuses a source that cannot be dumped, or whose dump could not be loaded.
pub fn require_loadable(session: &Session, facts: &Facts, report: &dyn Report) -> anyhow::Result<()> {
    require_encoding(session, facts)?;
    require_locks(session)?;
    if let Some(first) = objects_without_support(session)?.into_iter().next() {
        return Err(Stop::no(format!(
            "the dump would be incomplete: {first}, which dumps do not contain"
        ))
        .hint("drop it on the source, or copy its contents into a table first")
        .into());
    }
    require_sequences(session)?;
    report.stage("checking for rows that no restore could load", None);
    session.batch("begin the check", &format!("BEGIN READ ONLY; {PAST_INDEXES}"))?;
    require_unique_keys(session, facts)?;
    require_sound_rows(session)?;
    session.batch("end the check", "ROLLBACK")?;
    report.done();
    Ok(())
}

fn require_encoding(session: &Session, facts: &Facts) -> anyhow::Result<()> {
    if facts.encoding == "UTF8" {
        return Ok(());
    }
    let wrong = match text_not_in_utf8(session)? {
        Some((table, column)) => format!("; column {column} of table {table} contains bytes that are not UTF-8"),
        None => String::new(),
    };
    Err(Stop::no(format!(
        "the source's encoding is {}, and Synapse needs UTF8{wrong}",
        facts.encoding
    ))
    .hint(
        "copy it into a UTF8 database first: createdb --encoding=UTF8 --locale=C --template=template0, \
         then pg_dump | psql",
    )
    .into())
}

fn require_locks(session: &Session) -> anyhow::Result<()> {
    let (needed, table) = (dump_locks(session)?, lock_table(session)?);
    let Some(wanted) = table.wanted(needed) else {
        return Ok(());
    };
    Err(Stop::no(format!(
        "the source's lock table has room for {}, but a dump needs about {needed}",
        count(table.free, "lock")
    ))
    .hint(format!(
        "on the source, set max_locks_per_transaction to {wanted} and restart PostgreSQL"
    ))
    .into())
}

/// Refuses sequences for which Synapse would not start, and so no proof would hold.
fn require_sequences(session: &Session) -> anyhow::Result<()> {
    let positions = match database_state(session) {
        // The dump names everything that our role cannot read.
        Err(error) if error.is_permission() => return Ok(()),
        positions => positions?,
    };
    let behind = behind_their_streams(&positions, &database_state(session)?);
    let Some(first) = behind.first() else { return Ok(()) };
    let remedies: Vec<String> = behind.iter().map(Behind::remedy).collect();
    Err(Stop::no(first.to_string())
        .hint(format!(
            "while Synapse is stopped, on the source: {}",
            remedies.join("; ")
        ))
        .into())
}

/// Refuses duplicate values under a unique index, and rows whose foreign key matches no row.
fn require_unique_keys(session: &Session, facts: &Facts) -> anyhow::Result<()> {
    for key in unique_keys(session)? {
        let may_have_changed = key.sorts_text && !facts.sorts_by_bytes();
        if !may_have_changed && key.bytes > SMALL {
            continue;
        }
        let duplicates = key.duplicates(session)?;
        if duplicates > 0 {
            return Err(Stop::no(format!(
                "no restore could build unique index {} of table {}: duplicate rows exist for {}",
                key.index,
                key.table,
                count(duplicates, "key")
            ))
            .hint(format!(
                "on the source, list the rows with: {}; delete the surplus ones, then REINDEX INDEX {}",
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
                "no restore could add foreign key {} of table {}: {} without a matching row in {}",
                key.name,
                key.table,
                count(orphans, "row"),
                key.other
            ))
            .hint(format!(
                "on the source, list the rows with: {}; then delete or correct them",
                key.shown()
            ))
            .into());
        }
    }
    Ok(())
}

/// Refuses rows over which an expression of a restore fails.
fn require_sound_rows(session: &Session) -> anyhow::Result<()> {
    for condition in conditions(session)? {
        if let Some(violation) = condition.violation(session)? {
            return Err(Stop::no(format!("no restore could load {}", violation.what))
                .hint(violation.remedy)
                .into());
        }
    }
    Ok(())
}
