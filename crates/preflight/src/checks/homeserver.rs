//! The homeserver in the source: what Synapse itself looks at when it starts.

use std::collections::BTreeMap;

use ess_document::Finding;
use ess_postgres::{Error, SchemaRows, Session, escape_identifier, qualified, sequences};
use ess_synapse::schema::{SEQUENCES, Sequence};
use serde_json::{Map, Value, json};

use super::versions::of_schema;
use super::{Check, Found, all, texts};
use crate::finding::{Blocker, Detail, blocker, info, number, some_of, warning};

/// A source with a homeserver in it.
pub(crate) struct Homeserver<'a> {
    /// The connection to the source.
    pub(crate) session: &'a Session,
    /// Its name, when the configuration says it.
    pub(crate) server_name: Option<&'a str>,
}

/// Makes all of them.
pub(crate) fn check(homeserver: &Homeserver<'_>) -> Vec<Finding> {
    let checks: &[Check<Homeserver<'_>>] = &[
        ("background updates", background_updates),
        ("server names of users", foreign_users),
        ("sequences", lagging_sequences),
    ];
    all(homeserver, checks)
}

/// What its version rows say, alone and beside the target's.
pub(crate) fn schema(source: &SchemaRows, target: Option<&SchemaRows>) -> Vec<Finding> {
    // Whoever read them has said so.
    let Some(version) = source.version else {
        return Vec::new();
    };
    let data = |found: Finding| {
        found
            .with("version", version)
            .with("compat_version", source.compat_version)
            .with("target_version", target.and_then(|rows| rows.version))
    };
    let mut found = vec![data(info(
        "schema",
        format!("the source's schema is version {version}, {}", of_schema(version)),
    ))];
    let Some(theirs) = target.and_then(|rows| rows.version) else {
        return found;
    };
    if let Some(compat) = source.compat_version.filter(|compat| *compat > theirs) {
        found.push(data(
            blocker(
                Blocker::SchemaIncompatible,
                format!(
                    "the source asks for schema {compat} at least, {}, and the target's is {theirs}, {}",
                    of_schema(compat),
                    of_schema(theirs)
                ),
            )
            .hint("update the target's Synapse first"),
        ));
    } else if version > theirs {
        found.push(data(
            warning(
                "schema-newer",
                format!(
                    "the source's schema {version}, {}, is newer than the target's {theirs}, {}: its Synapse would go back a version",
                    of_schema(version),
                    of_schema(theirs)
                ),
            )
            .hint("update the target's Synapse first"),
        ));
    } else if version < theirs {
        let message = format!(
            "the target's Synapse will upgrade the schema from {version}, {}, to {theirs}, {}, when it starts",
            of_schema(version),
            of_schema(theirs)
        );
        found.push(data(info("schema-upgrade", message)).hint(
            "a long upgrade needs more time than ESS's probe gives: raise synapse.startupProbe.failureThreshold",
        ));
    }
    found
}

/// Whether users of this server uploaded anything.
pub(crate) fn has_media(session: &Session) -> Result<bool, Error> {
    if !relations(session)?.iter().any(|name| name == "local_media_repository") {
        return Ok(false);
    }
    Ok(session
        .one("look for media", include_str!("../../sql/local_media.sql"), &[])?
        .get(0))
}

fn relations(session: &Session) -> Result<Vec<String>, Error> {
    texts(session, "list the tables", include_str!("../../sql/relations.sql"))
}

fn background_updates(homeserver: &Homeserver<'_>) -> Found {
    let sql = include_str!("../../sql/background_updates.sql");
    let names = texts(homeserver.session, "read the background updates", sql)?;
    if names.is_empty() {
        return Ok(Vec::new());
    }
    Ok(vec![
        warning("background-updates", format!("Synapse has not finished its background updates: {}", some_of(&names)))
            .hint("let Synapse run until /_synapse/admin/v1/background_updates/status shows none; they slow down the start on the target")
            .with("names", names),
    ])
}

fn foreign_users(homeserver: &Homeserver<'_>) -> Found {
    let Some(server_name) = homeserver.server_name else {
        return Ok(Vec::new());
    };
    let sql = include_str!("../../sql/foreign_users.sql");
    let row = homeserver
        .session
        .one("read the users' server names", sql, &[&server_name])?;
    let (users, example): (i64, Option<String>) = (row.get(0), row.get(1));
    Ok(example
        .map(|example| {
            blocker(
                Blocker::ForeignUsers,
                format!("{users} users do not belong to {server_name}, such as {example}: Synapse may refuse to start"),
            )
            .hint("see whether the configuration's server_name and database belong together")
            .with("users", number(users))
            .with("example", example)
        })
        .into_iter()
        .collect())
}

/// What is held against a sequence.
struct Held {
    rule: &'static Sequence,
    tables: i64,
    stream: Option<i64>,
}

/// On a running server all of it grows: what must not be ahead is read before the sequences.
fn lagging_sequences(homeserver: &Homeserver<'_>) -> Found {
    let session = homeserver.session;
    let relations = relations(session)?;
    let streams = streams(session, &relations)?;
    let there = sequences(session)?;
    let mut all_held = Vec::new();
    for rule in SEQUENCES
        .iter()
        .filter(|rule| there.iter().any(|s| s.schema == "public" && s.name == rule.name))
    {
        let mut held = Held {
            rule,
            tables: 0,
            stream: rule.stream.and_then(|stream| streams.get(stream).copied()),
        };
        for (table, column) in rule
            .columns
            .iter()
            .filter(|(table, _)| relations.iter().any(|name| name == table))
        {
            held.tables = held.tables.max(furthest(session, table, column, rule.negative)?);
        }
        all_held.push(held);
    }
    let now: BTreeMap<String, i64> = sequences(session)?
        .into_iter()
        .filter(|sequence| sequence.schema == "public")
        .filter_map(|sequence| {
            let last: i64 = sequence.last_value.parse().ok()?;
            Some((sequence.name, last - i64::from(!sequence.is_called)))
        })
        .collect();
    Ok(judge(&all_held, &now))
}

fn streams(session: &Session, relations: &[String]) -> Result<BTreeMap<String, i64>, Error> {
    if !relations.iter().any(|name| name == "stream_positions") {
        return Ok(BTreeMap::new());
    }
    let negative: Vec<&str> = SEQUENCES
        .iter()
        .filter(|rule| rule.negative)
        .filter_map(|rule| rule.stream)
        .collect();
    let sql = include_str!("../../sql/stream_positions.sql");
    let rows = session.rows("read the stream positions", sql, &[&negative])?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

fn furthest(session: &Session, table: &str, column: &str, negative: bool) -> Result<i64, Error> {
    let (of, column) = (if negative { "-min" } else { "max" }, escape_identifier(column));
    let sql = format!(
        "SELECT coalesce({of}({column}), 0)::int8 FROM {}",
        qualified("public", table)
    );
    Ok(session.one(&format!("read how far {table} is"), &sql, &[])?.get(0))
}

/// By Synapse's rule: behind its stream it refuses to start, behind its tables it moves the sequence.
fn judge(all_held: &[Held], sequences: &BTreeMap<String, i64>) -> Vec<Finding> {
    let (mut refused, mut healed, mut cure) = (Map::new(), Map::new(), Vec::new());
    for Held { rule, tables, stream } in all_held {
        let Some(last) = sequences.get(rule.name) else { continue };
        let data = || json!({"sequence": number(*last), "tables": number(*tables), "stream": stream.map(number)});
        match stream {
            // A stream that counts down never stands above zero to Synapse.
            Some(stream) if !rule.negative && stream > last => {
                refused.insert(rule.name.to_owned(), data());
                cure.push(format!(
                    "SELECT setval('public.{}', {});",
                    rule.name,
                    stream.max(tables)
                ));
            }
            _ if tables > last => drop(healed.insert(rule.name.to_owned(), data())),
            _ => {}
        }
    }
    let names = |of: &Map<String, Value>| some_of(&of.keys().cloned().collect::<Vec<_>>());
    let mut found = Vec::new();
    if !refused.is_empty() {
        found.push(
            blocker(
                Blocker::SequenceBehindStream,
                format!(
                    "sequences are behind their streams, and Synapse will refuse to start: {}",
                    names(&refused)
                ),
            )
            .hint(format!("while Synapse is stopped, in psql: {}", cure.join(" ")))
            .with("sequences", refused),
        );
    }
    if !healed.is_empty() {
        found.push(
            info(
                "sequence-behind-table",
                format!(
                    "sequences are behind their tables, which Synapse repairs when it starts: {}",
                    names(&healed)
                ),
            )
            .with("sequences", healed),
        );
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(version: i32, compat: i32) -> SchemaRows {
        SchemaRows {
            version: Some(version),
            upgraded: Some(false),
            compat_version: Some(compat),
        }
    }

    fn ids(found: &[Finding]) -> Vec<&str> {
        found.iter().map(|f| f.id.as_str()).collect()
    }

    #[test]
    fn a_schema_goes_where_synapse_takes_it() {
        let with = |target: Option<SchemaRows>| schema(&rows(94, 84), target.as_ref());
        assert_eq!(ids(&with(None)), ["schema"]);
        assert_eq!(ids(&with(Some(rows(94, 84)))), ["schema"]);
        assert_eq!(ids(&with(Some(rows(95, 84)))), ["schema", "schema-upgrade"]);
        assert_eq!(ids(&with(Some(rows(84, 84)))), ["schema", "schema-newer"]);
        assert_eq!(ids(&with(Some(rows(83, 83)))), ["schema", "schema-incompatible"]);
    }

    #[test]
    fn sequences_are_judged_by_synapses_rule() {
        let rule = |name| SEQUENCES.iter().find(|rule| rule.name == name).expect("Synapse has it");
        let judge = |name: &'static str, last, tables, stream| {
            let held = Held {
                rule: rule(name),
                tables,
                stream,
            };
            let found = judge(&[held], &BTreeMap::from([(name.to_owned(), last)]));
            ids(&found).join(" ")
        };
        assert_eq!(judge("events_stream_seq", 10, 10, Some(10)), "");
        assert_eq!(judge("events_stream_seq", 10, 11, Some(10)), "sequence-behind-table");
        assert_eq!(judge("events_stream_seq", 10, 12, Some(11)), "sequence-behind-stream");
        assert_eq!(judge("events_backfill_stream_seq", 10, 0, Some(11)), "");
        assert_eq!(
            judge("events_backfill_stream_seq", 10, 11, Some(11)),
            "sequence-behind-table"
        );
        assert_eq!(judge("state_group_id_seq", 10, 10, None), "");
    }
}
