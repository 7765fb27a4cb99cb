//! The source as a database, whatever is in it.

use ess_document::Finding;
use ess_postgres::{Facts, Session, Table, invalid_indexes, others, tables, unreadable};
use ess_synapse::schema::UNLOGGED_TABLES;
use serde_json::Value;

use super::{Check, Found, all, number_of, texts};
use crate::finding::{Blocker, Detail, blocker, count, info, number, size, some_of, warning};

/// A source that we are connected to.
pub(crate) struct Source {
    /// The connection, which only reads.
    pub(crate) session: Session,
    /// What the server says about itself.
    pub(crate) facts: Facts,
}

/// Makes all of them.
pub(crate) fn check(source: &Source) -> Vec<Finding> {
    let checks: &[Check<Source>] = &[
        ("the source's server", |source| Ok(server(&source.facts))),
        ("the source's encoding", |source| Ok(encoding(&source.facts))),
        ("the source's collation", super::collation::check),
        ("the source's tables", content),
        ("what our role may read", readable),
        ("extensions of the source", extensions),
        ("schemas of the source", schemas),
        ("large objects of the source", large_objects),
        ("prepared transactions", prepared),
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

/// An upper bound for a dump: half of a database is indexes, and compression halves the rest.
pub(crate) fn dump_size(facts: &Facts) -> u64 {
    u64::try_from(facts.bytes).unwrap_or(0) / 4
}

fn server(facts: &Facts) -> Vec<Finding> {
    let mut found = vec![
        info(
            "source-server",
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
                "source-standby",
                "the source is a standby, which goes on changing whoever stops here",
            )
            .hint("name the primary server in its place"),
        );
    }
    found
}

fn encoding(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    if facts.encoding != "UTF8" {
        found.push(
            blocker(
                Blocker::SourceEncoding,
                format!("the source's encoding is {}, and Synapse needs UTF8", facts.encoding),
            )
            .with("encoding", facts.encoding.as_str()),
        );
    }
    found
}

fn content(source: &Source) -> Found {
    let tables = tables(&source.session)?;
    let largest: Vec<Value> = tables
        .iter()
        .take(10)
        .map(|table| serde_json::json!({"table": format!("{}.{}", table.schema, table.name), "bytes": number(table.bytes)}))
        .collect();
    let bytes = size(u64::try_from(source.facts.bytes).unwrap_or(0));
    let dump = dump_size(&source.facts);
    let mut found = vec![
        info(
            "source-size",
            format!(
                "the source holds {bytes} in {}, and a dump of it takes about {}",
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
            "unlogged-tables",
            format!("tables that a crash empties, and that are not Synapse's: {names}"),
        )
    }));
    Ok(found)
}

fn readable(source: &Source) -> Found {
    let hidden = unreadable(&source.session)?;
    if hidden.is_empty() {
        return Ok(Vec::new());
    }
    let user = &source.facts.user;
    Ok(vec![
        blocker(
            Blocker::SourceUnreadable,
            format!("role {user} may not read {}", some_of(&hidden)),
        )
        .hint("connect as the role that owns them, which Synapse uses")
        .with("relations", hidden),
    ])
}

fn extensions(source: &Source) -> Found {
    let names = texts(
        &source.session,
        "list the extensions",
        include_str!("../../sql/extensions.sql"),
    )?;
    Ok(named(names, |names| {
        info(
            "extensions",
            format!("extensions stay behind, since Synapse needs none: {names}"),
        )
    }))
}

fn schemas(source: &Source) -> Found {
    let names = texts(
        &source.session,
        "list the schemas",
        include_str!("../../sql/schemas.sql"),
    )?;
    Ok(named(names, |names| {
        info(
            "schemas",
            format!("the source has schemas that are not Synapse's, which move too: {names}"),
        )
    }))
}

fn large_objects(source: &Source) -> Found {
    let sql = include_str!("../../sql/large_objects.sql");
    let objects = number_of(&source.session, "count the large objects", sql)?;
    if objects == 0 {
        return Ok(Vec::new());
    }
    let message = format!("the source has {objects} large objects, which Synapse does not make");
    Ok(vec![info("large-objects", message).with("objects", number(objects))])
}

fn prepared(source: &Source) -> Found {
    let names = texts(
        &source.session,
        "list prepared transactions",
        include_str!("../../sql/prepared.sql"),
    )?;
    Ok(named(names, |names| {
        warning(
            "prepared-transactions",
            format!("prepared transactions hold locks, and no dump has what they wrote: {names}"),
        )
        .hint("end each with COMMIT PREPARED or ROLLBACK PREPARED")
    }))
}

fn replication_slots(source: &Source) -> Found {
    let names = texts(
        &source.session,
        "list the replication slots",
        include_str!("../../sql/replication_slots.sql"),
    )?;
    Ok(named(names, |names| {
        info(
            "replication-slots",
            format!("others follow the source by replication, and will not follow the target: {names}"),
        )
    }))
}

fn indexes(source: &Source) -> Found {
    Ok(named(invalid_indexes(&source.session)?, |names| {
        warning(
            "invalid-indexes",
            format!("no dump has an index whose build failed: {names}"),
        )
        .hint("build it again: REINDEX INDEX CONCURRENTLY NAME")
    }))
}

/// Synapse is known by its role, which is ours or the owner: it may run now, and the tools that act ask again.
fn sessions(source: &Source) -> Found {
    let synapse = [&source.facts.user, &source.facts.owner];
    let (own, foreign): (Vec<_>, Vec<_>) = others(&source.session, &[])?
        .into_iter()
        .partition(|other| synapse.contains(&&other.user));
    let mut found = Vec::new();
    if !own.is_empty() {
        let message = format!("{} of Synapse's role on the source", count(own.len(), "session"));
        found.push(
            info("synapse-sessions", message)
                .hint("stop Synapse when it is the turn of pgdump-wrap")
                .with("sessions", own.len()),
        );
    }
    let mut roles: Vec<String> = foreign.into_iter().map(|other| other.user).collect();
    roles.sort_unstable();
    roles.dedup();
    found.extend(named(roles, |names| {
        warning(
            "other-sessions",
            format!("other roles than Synapse's use the source: {names}"),
        )
        .hint("end them before pgdump-wrap, or let a monitor stay with --ignore-role NAME")
    }));
    Ok(found)
}

/// A finding about names, if there are any.
fn named(names: Vec<String>, finding: impl Fn(&str) -> Finding) -> Vec<Finding> {
    if names.is_empty() {
        return Vec::new();
    }
    vec![finding(&some_of(&names)).with("names", names)]
}
