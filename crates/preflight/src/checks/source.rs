//! The source as a database, regardless of its contents.

use ess_document::Finding;
use ess_postgres::{
    Facts, Table, database_tables, dump_locks, invalid_indexes, lock_table, not_in_a_dump, objects_without_support,
    other_sessions, subscriptions, text_not_in_utf8, unreadable_objects,
};
use ess_run::text::{count, size};
use ess_synapse::schema::UNLOGGED_TABLES;
use serde_json::Value;

use super::{Check, Findings, OpenSource, all, is_canceled, number_of, texts};
use crate::finding::{Detail, blocker, info, number, some_of, warning};
use crate::ids::{
    EXTENSIONS, INVALID_INDEXES, LARGE_OBJECTS, LEFT_BEHIND, OTHER_SESSIONS, PREPARED_TRANSACTIONS, REPLICATION_SLOTS,
    SCHEMAS, SOURCE_ENCODING, SOURCE_LOCKS, SOURCE_PARTS, SOURCE_SERVER, SOURCE_SIZE, SOURCE_STANDBY,
    SOURCE_SUBSCRIPTIONS, SOURCE_UNREADABLE, SYNAPSE_SESSIONS,
};

/// Runs all checks of the source.
pub(crate) fn check(source: &OpenSource) -> Vec<Finding> {
    let checks: &[Check<OpenSource>] = &[
        ("the source's server", |source| Ok(server(&source.facts))),
        ("the source's encoding", encoding),
        ("the source's lock table", locks),
        ("connections to the source", |source| {
            super::connections::check(&source.session, "the source")
        }),
        ("dependencies on what is not carried", parts),
        ("what is not carried", left_behind),
        ("the source's collation", super::collation::check),
        ("the source's tables", content),
        ("permissions on the source", readable),
        ("extensions of the source", extensions),
        ("schemas of the source", schemas),
        ("large objects of the source", large_objects),
        ("prepared transactions", prepared),
        ("subscriptions of the source", subscribed),
        ("replication slots", replication_slots),
        ("invalid indexes", indexes),
        ("sessions on the source", sessions),
        ("settings of the source", |source| {
            super::settings::of_source(&source.session)
        }),
        ("the source's clock", |source| {
            super::host::clock(&source.session, "the source")
        }),
    ];
    all(source, checks)
}

/// An estimated upper bound for the size of a dump, in bytes: half of a database is indexes, and compression halves
/// the rest.
pub(crate) fn dump_size(facts: &Facts) -> u64 {
    u64::try_from(facts.bytes).unwrap_or(0) / 4
}

fn server(facts: &Facts) -> Vec<Finding> {
    let mut found = vec![
        info(
            &SOURCE_SERVER,
            format!(
                "the source is database {} of PostgreSQL {}",
                facts.identity.database, facts.version_text
            ),
        )
        .with("version", facts.version_text.as_str())
        .with("role", facts.user.as_str()),
    ];
    if facts.standby {
        found.push(
            warning(
                &SOURCE_STANDBY,
                "the source is a standby, which continues to change even if everything here is stopped",
            )
            .hint("name the primary server instead"),
        );
    }
    found
}

fn encoding(source: &OpenSource) -> Findings {
    let facts = &source.facts;
    if facts.encoding == "UTF8" {
        return Ok(Vec::new());
    }
    // This query can run into the time limit; then the column is not named.
    let wrong = match text_not_in_utf8(&source.session) {
        Err(error) if !is_canceled(&error) => return Err(error),
        wrong => wrong.ok().flatten(),
    };
    let shown = wrong.as_ref().map_or_else(String::new, |(table, column)| {
        format!("; column {column} of table {table} contains bytes that are not UTF-8")
    });
    let found = blocker(
        &SOURCE_ENCODING,
        format!(
            "the source's encoding is {}, and Synapse needs UTF8{shown}",
            facts.encoding
        ),
    );
    let (table, column) = wrong.unzip();
    Ok(vec![
        found
            .hint(
                "copy it into a UTF8 database first: createdb --encoding=UTF8 --locale=C --template=template0, then \
                 pg_dump | psql",
            )
            .with("encoding", facts.encoding.as_str())
            .with("table", table)
            .with("column", column),
    ])
}

/// Checks the size of the lock table: a dump locks every table until it ends.
fn locks(source: &OpenSource) -> Findings {
    let (needed, table) = (dump_locks(&source.session)?, lock_table(&source.session)?);
    Ok(table
        .wanted(needed)
        .map(|wanted| {
            blocker(
                &SOURCE_LOCKS,
                format!(
                    "the source's lock table has room for {}, but a dump needs about {needed}",
                    count(table.free, "lock")
                ),
            )
            .hint(format!(
                "on the source, set max_locks_per_transaction to {wanted} and restart PostgreSQL"
            ))
            .with("free", number(table.free))
            .with("needed", number(needed))
            .with("max_locks_per_transaction", number(wanted))
        })
        .into_iter()
        .collect())
}

fn subscribed(source: &OpenSource) -> Findings {
    Ok(named(subscriptions(&source.session)?, |names| {
        blocker(
            &SOURCE_SUBSCRIPTIONS,
            format!("logical replication writes to the source, by these subscriptions: {names}"),
        )
        .hint("disable each with ALTER SUBSCRIPTION ... DISABLE")
    }))
}

fn parts(source: &OpenSource) -> Findings {
    Ok(named(objects_without_support(&source.session)?, |names| {
        blocker(
            &SOURCE_PARTS,
            format!("something that is carried depends on something that is not: {names}"),
        )
        .hint("drop it on the source, or copy its contents into a table first")
    }))
}

/// Objects that a dump does not contain, without extensions, which have a separate finding.
fn left_behind(source: &OpenSource) -> Findings {
    let entries = not_in_a_dump(&source.session)?.into_iter().map(|left| left.entry);
    let entries: Vec<String> = entries.filter(|entry| !entry.starts_with("EXTENSION ")).collect();
    Ok(named(entries, |names| {
        info(
            &LEFT_BEHIND,
            format!("a dump does not contain these, so they are not carried: {names}"),
        )
        .hint("recreate on the target what you still need there")
    }))
}

fn content(source: &OpenSource) -> Findings {
    let tables = database_tables(&source.session)?;
    let largest: Vec<Value> = tables
        .iter()
        .take(10)
        .map(|table| serde_json::json!({"table": format!("{}.{}", table.schema, table.name), "bytes": number(table.bytes)}))
        .collect();
    let bytes = size(u64::try_from(source.facts.bytes).unwrap_or(0));
    let dump = dump_size(&source.facts);
    let mut found = vec![
        info(
            &SOURCE_SIZE,
            format!(
                "the source contains {bytes} in {}, and its dump needs about {}",
                count(tables.len(), "table"),
                size(dump)
            ),
        )
        .with("dump_bytes", dump)
        .with("bytes", number(source.facts.bytes))
        .with("tables", tables.len())
        .with("largest", largest),
    ];
    let unlogged = tables
        .iter()
        .filter(|table| table.unlogged && !UNLOGGED_TABLES.iter().any(|name| table.is(name)))
        .map(Table::qualified)
        .collect();
    found.extend(named(unlogged, |names| {
        info(
            &crate::ids::UNLOGGED_TABLES,
            format!("unlogged tables that are not Synapse's, which a crash empties: {names}"),
        )
    }));
    Ok(found)
}

fn readable(source: &OpenSource) -> Findings {
    let hidden = unreadable_objects(&source.session)?;
    if hidden.is_empty() {
        return Ok(Vec::new());
    }
    let user = &source.facts.user;
    Ok(vec![
        blocker(
            &SOURCE_UNREADABLE,
            format!("role {user} cannot read {}", some_of(&hidden)),
        )
        .hint("connect as the role that owns them, which is the one that Synapse uses")
        .with("relations", hidden),
    ])
}

fn extensions(source: &OpenSource) -> Findings {
    let names = texts(
        &source.session,
        "list the extensions",
        include_str!("../../sql/extensions.sql"),
    )?;
    Ok(named(names, |names| {
        info(
            &EXTENSIONS,
            format!("extensions are not carried, because Synapse needs none: {names}"),
        )
    }))
}

fn schemas(source: &OpenSource) -> Findings {
    let names = texts(
        &source.session,
        "list the schemas",
        include_str!("../../sql/schemas.sql"),
    )?;
    Ok(named(names, |names| {
        info(
            &SCHEMAS,
            format!("the source has schemas that are not Synapse's, which are carried too: {names}"),
        )
    }))
}

fn large_objects(source: &OpenSource) -> Findings {
    let sql = include_str!("../../sql/large_objects.sql");
    let objects = number_of(&source.session, "count the large objects", sql)?;
    if objects == 0 {
        return Ok(Vec::new());
    }
    let message = format!(
        "the source contains {}, which Synapse does not create",
        count(objects, "large object")
    );
    Ok(vec![info(&LARGE_OBJECTS, message).with("objects", number(objects))])
}

fn prepared(source: &OpenSource) -> Findings {
    let names = texts(
        &source.session,
        "list prepared transactions",
        include_str!("../../sql/prepared.sql"),
    )?;
    Ok(named(names, |names| {
        warning(
            &PREPARED_TRANSACTIONS,
            format!("prepared transactions hold locks, and a dump does not contain what they wrote: {names}"),
        )
        .hint("end each with COMMIT PREPARED or ROLLBACK PREPARED")
    }))
}

fn replication_slots(source: &OpenSource) -> Findings {
    let names = texts(
        &source.session,
        "list the replication slots",
        include_str!("../../sql/replication_slots.sql"),
    )?;
    Ok(named(names, |names| {
        info(
            &REPLICATION_SLOTS,
            format!("the source has replication slots, whose consumers will not follow the target: {names}"),
        )
    }))
}

fn indexes(source: &OpenSource) -> Findings {
    Ok(named(invalid_indexes(&source.session)?, |names| {
        warning(
            &INVALID_INDEXES,
            format!("indexes whose build failed are not in a dump: {names}"),
        )
        .hint("rebuild them: REINDEX INDEX CONCURRENTLY NAME")
    }))
}

/// Other sessions. Those of the connecting role and of the owner are taken for Synapse's, which may still be running;
/// the programs that need it stopped check again.
fn sessions(source: &OpenSource) -> Findings {
    let synapse = [&source.facts.user, &source.facts.owner];
    let (own, foreign): (Vec<_>, Vec<_>) = other_sessions(&source.session, &[])?
        .into_iter()
        .partition(|other| synapse.contains(&&other.user));
    let mut found = Vec::new();
    if !own.is_empty() {
        let message = format!("{} of Synapse's role on the source", count(own.len(), "session"));
        found.push(
            info(&SYNAPSE_SESSIONS, message)
                .hint("stop Synapse before running pgdump-wrap")
                .with("sessions", own.len()),
        );
    }
    let mut roles: Vec<String> = foreign.into_iter().map(|other| other.user).collect();
    roles.sort_unstable();
    roles.dedup();
    found.extend(named(roles, |names| {
        warning(
            &OTHER_SESSIONS,
            format!("roles other than Synapse's are connected to the source: {names}"),
        )
        .hint("end their sessions before pgdump-wrap, or ignore a monitor's role with --ignore-role NAME")
    }));
    Ok(found)
}

/// A finding about these names, if there are any.
fn named(names: Vec<String>, finding: impl Fn(&str) -> Finding) -> Vec<Finding> {
    if names.is_empty() {
        return Vec::new();
    }
    vec![finding(&some_of(&names)).with("names", names)]
}
