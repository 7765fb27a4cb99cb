//! The values of sequences in an archive.
//!
//! Sequences are not transactional, so `pg_dump` does not read them in its snapshot: if other sessions use the source
//! meanwhile, only the archive itself shows which values it contains.

use std::path::Path;

use anyhow::Context;
use ess_postgres::{Sequence, Session, relation_names};
use ess_run::text::count;
use ess_run::{Installation, Report};
use ess_stop::Stop;

use crate::restoring::list_file;
use crate::toc::{Entry, Toc};

/// The sequence values that an archive sets, sorted by name. `session` must be in the dump's snapshot on the source.
///
/// Fails if `pg_restore` fails, or if the archive sets another number of sequences than it lists.
pub(crate) fn archived_sequences(
    archive: &Path,
    programs: &Installation,
    session: &Session,
    report: &dyn Report,
) -> anyhow::Result<Vec<Sequence>> {
    let failed = || format!("cannot read the sequences in {}", archive.display());
    let pg_restore = || programs.program("pg_restore");
    let listing = pg_restore()
        .arg("--list")
        .arg(archive)
        .capture(report)
        .with_context(failed)?;
    let toc = Toc::parse(&String::from_utf8_lossy(&listing));
    let entries: Vec<&Entry> = toc
        .entries
        .iter()
        .filter(|entry| entry.kind == "SEQUENCE SET")
        .collect();
    if entries.is_empty() {
        return Ok(Vec::new());
    }
    let list = list_file(&entries)?;
    let sql = pg_restore()
        .args(["--data-only", "--file=-", "--use-list"])
        .arg(list.path())
        .arg(archive)
        .capture(report)
        .with_context(failed)?;
    let values = values(&String::from_utf8_lossy(&sql));
    if values.len() != entries.len() {
        let what = format!(
            "{} lists {} but sets {}",
            archive.display(),
            count(entries.len(), "sequence"),
            values.len()
        );
        return Err(Stop::data(what).hint("dump again").into());
    }
    let written: Vec<&str> = values.iter().map(|value| value.name.as_str()).collect();
    let names = relation_names(session, &written)?;
    let mut sequences: Vec<Sequence> = names
        .into_iter()
        .zip(values)
        .map(|((schema, name), value)| Sequence {
            schema,
            name,
            last_value: value.last,
            is_called: value.is_called,
        })
        .collect();
    sequences.sort_unstable_by(|a, b| (&a.schema, &a.name).cmp(&(&b.schema, &b.name)));
    Ok(sequences)
}

/// The effect of one `setval` statement.
#[derive(Debug, PartialEq, Eq)]
struct Value {
    /// The sequence's name, qualified, and quoted where necessary.
    name: String,
    last: String,
    is_called: bool,
}

/// Extracts the statements `SELECT pg_catalog.setval('public.x', 42, true);` from the output of `pg_restore`.
fn values(sql: &str) -> Vec<Value> {
    let statements = sql.split("\nSELECT pg_catalog.setval('").skip(1);
    statements.filter_map(value).collect()
}

fn value(statement: &str) -> Option<Value> {
    let mut name = String::new();
    let mut rest = statement;
    loop {
        let (part, after) = rest.split_once('\'')?;
        name.push_str(part);
        if let Some(more) = after.strip_prefix('\'') {
            name.push('\'');
            rest = more;
        } else {
            rest = after;
            break;
        }
    }
    let (last, rest) = rest.strip_prefix(", ")?.split_once(", ")?;
    let (is_called, _) = rest.split_once(");")?;
    last.parse::<i64>().ok()?;
    Some(Value {
        name,
        last: last.to_owned(),
        is_called: is_called.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sequence_is_read_with_whatever_name_it_has() {
        let sql = "--\n-- Name: a; Type: SEQUENCE SET\n--\n\nSELECT pg_catalog.setval('public.a', 42, true);\n\n\n\
                   SELECT pg_catalog.setval('\"x y\".\"it''s, 1\"', -9223372036854775808, false);\n";
        let value = |name: &str, last: &str, is_called| Value {
            name: name.to_owned(),
            last: last.to_owned(),
            is_called,
        };
        assert_eq!(
            values(sql),
            [
                value("public.a", "42", true),
                value("\"x y\".\"it's, 1\"", "-9223372036854775808", false)
            ]
        );
        assert_eq!(values("\nSELECT pg_catalog.setval('public.a', 4"), []);
    }
}
