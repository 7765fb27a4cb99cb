//! An order of text that may have changed beneath the indexes, and what that can hide.

use std::time::{Duration, Instant};

use ess_document::Finding;
use ess_postgres::{Error, Facts, Session};

use super::source::Source;
use super::{Found, is_canceled, not_checked};
use crate::finding::{Blocker, Detail, blocker, info, some_of, warning};

/// Together, and one alone: the server is in use.
const ALL: Duration = Duration::from_secs(5);
const LARGEST: i64 = 64 << 20;

/// By whom and how the source sorts; where that may have changed, some unique keys are tried.
pub(crate) fn check(source: &Source) -> Found {
    let sql = include_str!("../../sql/locale_provider.sql");
    let row = source.session.one("read who sorts", sql, &[])?;
    let (provider, locale): (String, String) = (row.get("provider"), row.get("locale"));
    let mut found = order(&source.facts, &provider, &locale);
    if found
        .iter()
        .any(|found| found.severity == ess_document::Severity::Warning)
    {
        let tried = try_keys(&source.session);
        // It must be ended however it went.
        source.session.batch("end the search for duplicates", "ROLLBACK")?;
        match tried {
            Ok(tried) => found.extend(tried.findings()),
            Err(error) => found.push(not_checked("duplicates under unique keys", &error)),
        }
    }
    Ok(found)
}

fn order(facts: &Facts, provider: &str, locale: &str) -> Vec<Finding> {
    let of_bytes = |locale: &str| matches!(locale, "C" | "POSIX" | "C.UTF-8" | "C.utf8");
    let data = |found: Finding| {
        found
            .with("collate", facts.collate.as_str())
            .with("ctype", facts.ctype.as_str())
            .with("provider", if provider == "i" { "ICU" } else { "the system" })
    };
    let shown = if provider == "i" {
        format!("{locale} of ICU")
    } else {
        format!("{}/{}", facts.collate, facts.ctype)
    };
    if provider == "i" || !of_bytes(&facts.collate) {
        vec![data(
            warning(
                "source-collation",
                format!("the source sorts by {shown}: an update of the system may have left indexes with duplicates, which would stop restore"),
            )
            .hint(format!(
                "the target's C is the cure; to see beforehand, as superuser: pg_amcheck --install-missing --heapallindexed -d {}",
                facts.identity.database
            )),
        )]
    } else if facts.collate != "C" || facts.ctype != "C" {
        vec![data(info(
            "source-collation",
            format!("the source sorts by {shown}, which is the order of C"),
        ))]
    } else {
        Vec::new()
    }
}

#[derive(Default)]
struct Tried {
    keys: usize,
    looked_at: usize,
    with_duplicates: Vec<String>,
}

/// Reads small tables past their indexes, as building them anew does.
fn try_keys(session: &Session) -> Result<Tried, Error> {
    let (started, mut tried) = (Instant::now(), Tried::default());
    session.batch(
        "begin the search for duplicates",
        "BEGIN READ ONLY; SET LOCAL statement_timeout = '3s'; SET LOCAL enable_indexscan = off; \
         SET LOCAL enable_indexonlyscan = off; SET LOCAL enable_bitmapscan = off",
    )?;
    let sql = include_str!("../../sql/unique_text_indexes.sql");
    let keys = session.rows("list the unique keys", sql, &[])?;
    tried.keys = keys.len();
    for key in &keys {
        let (table, columns, bytes): (String, Vec<String>, i64) =
            (key.get("table"), key.get("columns"), key.get("bytes"));
        if bytes > LARGEST || started.elapsed() >= ALL {
            break;
        }
        // An empty key is equal to no other.
        let there: Vec<String> = columns.iter().map(|column| format!("{column} IS NOT NULL")).collect();
        let sql = format!(
            "SELECT EXISTS (SELECT FROM ONLY {table} WHERE {} GROUP BY {} HAVING count(*) > 1)",
            there.join(" AND "),
            columns.join(", ")
        );
        match session.one(&format!("look for duplicates in {table}"), &sql, &[]) {
            Ok(row) if row.get(0) => tried.with_duplicates.push(key.get("index")),
            Ok(_) => {}
            // The server has better things to do, and nothing more is possible in this transaction.
            Err(error) if is_canceled(&error) => break,
            Err(error) => return Err(error),
        }
        tried.looked_at += 1;
    }
    Ok(tried)
}

impl Tried {
    fn findings(self) -> Vec<Finding> {
        let (looked_at, keys) = (self.looked_at, self.keys);
        let mut found = vec![
            info(
                "duplicates-tried",
                format!("{looked_at} of {keys} unique keys that sort text were tried for duplicates"),
            )
            .with("keys", keys)
            .with("tried", looked_at),
        ];
        if !self.with_duplicates.is_empty() {
            let indexes = self.with_duplicates;
            found.push(
                blocker(
                    Blocker::Duplicates,
                    format!(
                        "restore cannot build a unique index where there are duplicates: {}",
                        some_of(&indexes)
                    ),
                )
                .hint("remove the rows that are too many while Synapse is stopped, then REINDEX")
                .with("indexes", indexes),
            );
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_a_warning_only_when_it_can_have_changed() {
        let ids = |collate: &str, ctype: &str, provider: &str| -> Vec<String> {
            let facts = super::super::tests::facts(collate, ctype);
            let found = order(&facts, provider, "en-US");
            found
                .into_iter()
                .map(|f| format!("{:?} {}", f.severity, f.id))
                .collect()
        };
        assert!(ids("C", "C", "c").is_empty());
        assert_eq!(ids("C.UTF-8", "C.UTF-8", "c"), ["Info source-collation"]);
        assert_eq!(ids("de_DE.UTF-8", "C", "c"), ["Warning source-collation"]);
        assert_eq!(ids("C", "C", "i"), ["Warning source-collation"]);
        let ids = |tried: Tried| tried.findings().into_iter().map(|found| found.id).collect::<Vec<_>>();
        assert_eq!(ids(Tried::default()), ["duplicates-tried"]);
        let tried = Tried {
            with_duplicates: vec!["a".to_owned()],
            ..Tried::default()
        };
        assert_eq!(ids(tried), ["duplicates-tried", "duplicates"]);
    }
}
