//! Compares the expected inventory with the one found, and words each difference as a sentence.

use std::collections::{BTreeMap, BTreeSet};

use ess_document::Carried;
use ess_files::hex;
use ess_postgres::{Digest, Inventory, Sequence, is_need};
use ess_run::text::count;
use ess_synapse::schema::FENCE_TABLES;
use sha2::{Digest as _, Sha256};

/// How many differences are listed: an inventory has thousands of lines, and a person reads only the first few.
const SHOWN: usize = 50;

/// By schema and name: what of the table is carried, and the digest of its rows.
type Rows<'a> = BTreeMap<(&'a str, &'a str), (Carried, Option<&'a Digest>)>;

/// Lists every difference of `found` from `expected`.
///
/// Version tables that the target has only for the fence are not differences.
pub fn differences(expected: &Inventory, found: &Inventory) -> Vec<String> {
    let mut all = Vec::new();
    tables(expected, found, &mut all);
    sequences(&expected.mark.sequences, &found.mark.sequences, &mut all);
    catalogue(expected, &found.catalogue, &mut all);
    let more = all.len().saturating_sub(SHOWN);
    if more > 0 {
        all.truncate(SHOWN);
        all.push(format!("and {}", count(more, "more difference")));
    }
    all
}

fn rows(inventory: &Inventory) -> Rows<'_> {
    inventory
        .tables
        .iter()
        .map(|t| ((t.schema.as_str(), t.name.as_str()), (t.carried, t.digest.as_ref())))
        .collect()
}

fn tables(expected: &Inventory, found: &Inventory, all: &mut Vec<String>) {
    let (wanted, there) = (rows(expected), rows(found));
    for (&(schema, name), &(carried, digest)) in &wanted {
        let Some((_, actual)) = there.get(&(schema, name)) else {
            all.push(format!("table {schema}.{name} is missing"));
            continue;
        };
        match (carried, digest, actual) {
            (Carried::Rows, Some(digest), Some(actual)) if digest.rows != actual.rows => all.push(format!(
                "table {schema}.{name} has {}, not {}",
                count(actual.rows, "row"),
                digest.rows
            )),
            (Carried::Rows, Some(digest), Some(actual)) if digest != *actual => {
                all.push(format!(
                    "table {schema}.{name} has different contents in its {}",
                    count(digest.rows, "row")
                ));
            }
            (Carried::Rows, Some(_), Some(_)) | (Carried::Structure | Carried::Fence, ..) => {}
            (Carried::Rows, ..) => all.push(format!("table {schema}.{name} was not compared")),
        }
    }
    for &(schema, name) in there.keys() {
        let only_for_the_fence = schema == "public" && FENCE_TABLES.contains(&name);
        if !wanted.contains_key(&(schema, name)) && !only_for_the_fence {
            all.push(format!("unexpected table {schema}.{name}"));
        }
    }
}

fn sequences(expected: &[Sequence], found: &[Sequence], all: &mut Vec<String>) {
    let there: BTreeMap<_, _> = found.iter().map(|s| ((&s.schema, &s.name), s)).collect();
    for sequence in expected {
        let Sequence { schema, name, .. } = sequence;
        match there.get(&(schema, name)) {
            None => all.push(format!("sequence {schema}.{name} is missing")),
            Some(actual) if *actual != sequence => all.push(format!(
                "sequence {schema}.{name} is at {}{}, not {}{}",
                actual.last_value,
                called(actual),
                sequence.last_value,
                called(sequence)
            )),
            Some(_) => {}
        }
    }
    let wanted: BTreeSet<_> = expected.iter().map(|s| (&s.schema, &s.name)).collect();
    for key in there.keys().filter(|key| !wanted.contains(*key)) {
        all.push(format!("unexpected sequence {}.{}", key.0, key.1));
    }
}

fn called(sequence: &Sequence) -> &'static str {
    if sequence.is_called { "" } else { " (unused)" }
}

/// SHA-256, in hexadecimal, of everything in a database except rows, as [`ess_postgres::catalogue`] lists it.
pub fn catalogue_sha256(catalogue: &[String]) -> String {
    hex(&Sha256::digest(catalogue.join("\n")))
}

/// Appends each difference of the structure to `all`.
pub(crate) fn catalogue(expected: &Inventory, found: &[String], all: &mut Vec<String>) {
    // The fence creates its tables on the target even if the source has none, so their lines are not compared then.
    let has = |name: &str| expected.tables.iter().any(|t| t.schema == "public" && t.name == name);
    let extra: Vec<String> = FENCE_TABLES
        .iter()
        .filter(|name| !has(name))
        .map(|name| format!("public.{name}"))
        .collect();
    let mut counts: BTreeMap<&str, i64> = BTreeMap::new();
    for (lines, step) in [(expected.catalogue.as_slice(), 1), (found, -1)] {
        // Lines of what a server must provide beforehand (such as an extension) are skipped: they follow from the other
        // lines, and some belong to objects that are not carried, such as an invalid index.
        let ours = |line: &&String| !is_need(line) && !extra.iter().any(|name| line.contains(name.as_str()));
        for line in lines.iter().filter(ours) {
            *counts.entry(line.as_str()).or_default() += step;
        }
    }
    let missing: Vec<&str> = counts.iter().filter(|(_, n)| **n > 0).map(|(line, _)| *line).collect();
    let mut strange: Vec<&str> = counts.iter().filter(|(_, n)| **n < 0).map(|(line, _)| *line).collect();
    let first_line = |text: &str| text.lines().next().unwrap_or_default().to_owned();
    for line in missing {
        match strange.iter().position(|other| other_words(line, other)) {
            Some(same) => {
                strange.remove(same);
            }
            None => all.push(format!("missing: {}", first_line(line))),
        }
    }
    for line in strange {
        all.push(format!("unexpected: {}", first_line(line)));
    }
}

/// Whether two lines are the same view or rule, as PostgreSQL before 16 and from 16 on deparse it.
///
/// From 16 on, `pg_get_viewdef` and `pg_get_ruledef` omit `table.` before a column if the query has only one table.
fn other_words(one: &str, other: &str) -> bool {
    let (one, other) = (unqualified(one), unqualified(other));
    let is_query = one.0.starts_with("view ") || one.0.starts_with("rule ");
    is_query && one.0 == other.0 && one.1 != other.1
}

/// A line without its qualifiers (a name and the dot after it), and how many there were. Strings stay unchanged.
fn unqualified(line: &str) -> (String, usize) {
    let mut text = String::with_capacity(line.len());
    // The start of the latest name, the open quotation mark, and the number of qualifiers removed.
    let (mut name, mut quote, mut dots) = (0, None, 0);
    for c in line.chars() {
        match (quote, c) {
            (Some(open), _) if open == c => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => {
                quote = Some(c);
                name = text.len();
            }
            (None, '.')
                if text.len() > name && !text[name..].starts_with(|c: char| c.is_ascii_digit() || c == '\'') =>
            {
                text.truncate(name);
                dots += 1;
                continue;
            }
            (None, _) if c.is_alphanumeric() || c == '_' || c == '$' => {}
            (None, _) => name = text.len() + c.len_utf8(),
        }
        text.push(c);
    }
    (text, dots)
}

#[cfg(test)]
mod tests {
    use ess_postgres::{Algorithm, DatabaseState, SchemaRows, TableRecord};

    use super::*;

    fn inventory() -> Inventory {
        Inventory {
            algorithm: Algorithm::default(),
            tables: vec![TableRecord {
                schema: "public".to_owned(),
                name: "users".to_owned(),
                carried: Carried::Rows,
                digest: Some(Digest {
                    rows: 2,
                    sum: "7".to_owned(),
                }),
            }],
            mark: DatabaseState {
                snapshot: None,
                timeline: None,
                written: None,
                oid: None,
                sequences: vec![Sequence {
                    schema: "public".to_owned(),
                    name: "s".to_owned(),
                    last_value: "5".to_owned(),
                    is_called: true,
                }],
                stream_positions: Vec::new(),
            },
            schema: SchemaRows::default(),
            catalogue: vec!["relation public.users".to_owned(), "index a\nb".to_owned()],
        }
    }

    #[test]
    fn equal_is_equal_and_fence_tables_do_not_count() {
        let expected = inventory();
        let mut found = inventory();
        found.tables.push(TableRecord {
            schema: "public".to_owned(),
            name: "schema_version".to_owned(),
            carried: Carried::Fence,
            digest: None,
        });
        found.catalogue.push("relation public.schema_version".to_owned());
        assert_eq!(differences(&expected, &found), Vec::<String>::new());
    }

    #[test]
    fn each_difference_is_a_sentence() {
        let expected = inventory();
        let mut found = inventory();
        found.tables[0].digest = Some(Digest {
            rows: 2,
            sum: "8".to_owned(),
        });
        found.mark.sequences[0].is_called = false;
        found.catalogue[1] = "index a\nc".to_owned();
        assert_eq!(
            differences(&expected, &found),
            [
                "table public.users has different contents in its 2 rows",
                "sequence public.s is at 5 (unused), not 5",
                "missing: index a",
                "unexpected: index a",
            ]
        );
        found.tables[0].digest = None;
        assert_eq!(differences(&expected, &found)[0], "table public.users was not compared");
    }

    #[test]
    fn a_view_is_the_same_in_the_words_of_another_version() {
        let older =
            "view public.v  SELECT t.a,\n    'x.y' AS \"b.c\" FROM public.t WHERE t.n > 1.5 AND \"T\".a <> t.\"D.e\";";
        let newer = "view public.v  SELECT a,\n    'x.y' AS \"b.c\" FROM public.t WHERE n > 1.5 AND a <> \"D.e\";";
        assert!(other_words(older, newer) && other_words(newer, older));
        for other in [
            newer.replace("x.y", "y"),
            newer.replace("1.5", "2.5"),
            newer.replace("FROM public.t", "FROM public.u"),
            newer.replace("view ", "index "),
            older.replace("t.n", "u.n"),
        ] {
            assert!(!other_words(older, &other), "{other}");
        }
    }
}
