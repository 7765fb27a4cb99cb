//! The homeserver in the source: what Synapse itself checks when it starts.

use std::collections::BTreeMap;

use ess_document::Finding;
use ess_postgres::{Error, SchemaRows, Session, escape_identifier, qualified, sequences};
use ess_run::text::counted;
use ess_synapse::schema::{SEQUENCES, Sequence};
use serde_json::{Map, Value, json};

use super::versions::of_schema;
use super::{Check, Findings, all, texts};
use crate::finding::{Detail, blocker, info, number, some_of, warning};
use crate::ids::{
    BACKGROUND_UPDATES, FOREIGN_USERS, SCHEMA, SCHEMA_INCOMPATIBLE, SCHEMA_NEWER, SCHEMA_UPGRADE,
    SEQUENCE_BEHIND_STREAM, SEQUENCE_BEHIND_TABLE,
};

/// A source that contains a homeserver.
pub(crate) struct Homeserver<'a> {
    /// The connection to the source.
    pub(crate) session: &'a Session,
    /// Its server name, if known.
    pub(crate) server_name: Option<&'a str>,
}

/// Runs all checks of the homeserver.
pub(crate) fn check(homeserver: &Homeserver<'_>) -> Vec<Finding> {
    let checks: &[Check<Homeserver<'_>>] = &[
        ("background updates", background_updates),
        ("server names of users", foreign_users),
        ("sequences", lagging_sequences),
    ];
    all(homeserver, checks)
}

/// Findings about the source's schema version, alone and compared with the target's.
pub(crate) fn schema(source: &SchemaRows, target: Option<&SchemaRows>) -> Vec<Finding> {
    // The caller that read the rows has reported why.
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
        &SCHEMA,
        format!("the source's schema has version {version} ({})", of_schema(version)),
    ))];
    let Some(target_version) = target.and_then(|rows| rows.version) else {
        return found;
    };
    if let Some(compat) = source.compat_version.filter(|compat| *compat > target_version) {
        found.push(data(
            blocker(
                &SCHEMA_INCOMPATIBLE,
                format!(
                    "the source requires at least schema {compat} ({}), but the target's is {target_version} ({})",
                    of_schema(compat),
                    of_schema(target_version)
                ),
            )
            .hint("upgrade the target's Synapse first"),
        ));
    } else if version > target_version {
        found.push(data(
            warning(
                &SCHEMA_NEWER,
                format!(
                    "the source's schema {version} ({}) is newer than the target's {target_version} ({}): Synapse would be \
                     downgraded",
                    of_schema(version),
                    of_schema(target_version)
                ),
            )
            .hint("upgrade the target's Synapse first"),
        ));
    } else if version < target_version {
        let message = format!(
            "the target's Synapse will upgrade the schema from {version} ({}) to {target_version} ({}) when it starts",
            of_schema(version),
            of_schema(target_version)
        );
        found.push(data(info(&SCHEMA_UPGRADE, message)).hint(
            "if the upgrade takes longer than ESS's startup probe allows, raise synapse.startupProbe.failureThreshold",
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
        .one("check for uploads", include_str!("../../sql/local_media.sql"), &[])?
        .get(0))
}

fn relations(session: &Session) -> Result<Vec<String>, Error> {
    texts(session, "list the tables", include_str!("../../sql/relations.sql"))
}

fn background_updates(homeserver: &Homeserver<'_>) -> Findings {
    let sql = include_str!("../../sql/background_updates.sql");
    let names = texts(homeserver.session, "read the background updates", sql)?;
    if names.is_empty() {
        return Ok(Vec::new());
    }
    Ok(vec![
        warning(
            &BACKGROUND_UPDATES,
            format!("Synapse has not finished its background updates: {}", some_of(&names)),
        )
        .hint(
            "let Synapse run until /_synapse/admin/v1/background_updates/status shows none; otherwise they slow \
                 down the start on the target",
        )
        .with("names", names),
    ])
}

fn foreign_users(homeserver: &Homeserver<'_>) -> Findings {
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
                &FOREIGN_USERS,
                format!(
                    "{} not belong to {server_name}, for example {example}: Synapse may refuse to start",
                    counted(users, "user does", "users do")
                ),
            )
            .hint("check that the configuration's server_name and database belong together")
            .with("users", number(users))
            .with("example", example)
        })
        .into_iter()
        .collect())
}

/// The values with which a sequence is compared.
struct Held {
    rule: &'static Sequence,
    /// The furthest value in the columns that the sequence numbers.
    tables: i64,
    /// The furthest position of its stream, if it has one.
    stream: Option<i64>,
}

/// On a running server all these values grow, so tables and streams, which must not be ahead, are read before the
/// sequences.
fn lagging_sequences(homeserver: &Homeserver<'_>) -> Findings {
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
    Ok(session
        .one(&format!("read the furthest value in {table}"), &sql, &[])?
        .get(0))
}

/// By the rules of `PostgresSequenceGenerator.check_consistency` in `synapse/storage/util/sequence.py`: if a sequence
/// is behind its stream, Synapse refuses to start; if it is behind its tables, Synapse advances it.
fn judge(all_held: &[Held], sequences: &BTreeMap<String, i64>) -> Vec<Finding> {
    let (mut refused, mut healed, mut cure) = (Map::new(), Map::new(), Vec::new());
    for Held { rule, tables, stream } in all_held {
        let Some(last) = sequences.get(rule.name) else { continue };
        let data = || json!({"sequence": number(*last), "tables": number(*tables), "stream": stream.map(number)});
        match stream {
            // For a stream that counts down, Synapse compares the negative position, which is never ahead.
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
                &SEQUENCE_BEHIND_STREAM,
                format!(
                    "sequences are behind their streams, so Synapse will refuse to start: {}",
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
                &SEQUENCE_BEHIND_TABLE,
                format!(
                    "sequences are behind their tables; Synapse corrects this when it starts: {}",
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
