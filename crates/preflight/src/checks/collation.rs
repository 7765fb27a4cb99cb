//! A collation that may have changed under existing indexes, and keys and constraints that no longer hold.

use std::time::{Duration, Instant};

use ess_document::Finding;
use ess_postgres::{
    Condition, Error, Facts, ForeignKey, PAST_INDEXES, Session, UniqueKey, Violation, conditions, foreign_keys,
    unique_keys,
};

use super::{Findings, OpenSource, is_canceled, not_checked};
use crate::finding::{Detail, blocker, info, number, warning};
use crate::ids::{DUPLICATES, DUPLICATES_TRIED, ORPHANS, SOURCE_COLLATION, UNSOUND_ROWS};
use ess_run::text::count;

/// Limits, because the server is in use: for all keys together, and the size in bytes of the largest table to read.
const ALL: Duration = Duration::from_secs(15);
const LARGEST: i64 = 64 << 20;

/// Reports the source's collation, and checks some of its keys; pgdump-wrap checks all that may not hold.
pub(crate) fn check(source: &OpenSource) -> Findings {
    let sql = include_str!("../../sql/locale_provider.sql");
    let row = source.session.one("read the collation provider", sql, &[])?;
    let (provider, locale): (String, String) = (row.get("provider"), row.get("locale"));
    let mut found = order(&source.facts, &provider, &locale);
    let may_have_changed = !source.facts.sorts_by_bytes();
    let tried = try_keys(&source.session);
    // End the transaction, also after an error.
    source.session.batch("end the search for duplicates", "ROLLBACK")?;
    match tried {
        // Another session has locked a table.
        Err(error) if is_canceled(&error) => {}
        Ok(tried) => found.extend(tried.findings(may_have_changed)),
        Err(error) => found.push(not_checked("unique and foreign keys", &error)),
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
                &SOURCE_COLLATION,
                format!(
                    "the source sorts text by {shown}: an update of the operating system may have left duplicates in \
                     unique indexes, which would stop restore"
                ),
            )
            .hint(format!(
                "to check beforehand, as a superuser: pg_amcheck --install-missing --heapallindexed -d {}; the target \
                 sorts by C, which no update changes",
                facts.identity.database
            )),
        )]
    } else if facts.collate != "C" || facts.ctype != "C" {
        vec![data(info(
            &SOURCE_COLLATION,
            format!("the source sorts text by {shown}, which is the same order as that of C"),
        ))]
    } else {
        Vec::new()
    }
}

#[derive(Default)]
struct Tried {
    keys: usize,
    looked_at: usize,
    duplicates: Vec<(UniqueKey, i64)>,
    orphans: Vec<(ForeignKey, i64)>,
    unsound: Vec<(Condition, Violation)>,
}

/// Reads small tables without their indexes, as restore does when it builds them again.
fn try_keys(session: &Session) -> Result<Tried, Error> {
    let (started, mut tried) = (Instant::now(), Tried::default());
    let is_over = |bytes: i64| bytes > LARGEST || started.elapsed() >= ALL;
    session.batch(
        "begin the search for duplicates",
        &format!("BEGIN READ ONLY; SET LOCAL statement_timeout = '3s'; {PAST_INDEXES}"),
    )?;
    // Keys with text first: an update of the operating system leaves duplicates only there.
    let (of_text, others): (Vec<UniqueKey>, Vec<UniqueKey>) =
        unique_keys(session)?.into_iter().partition(|key| key.sorts_text);
    tried.keys = of_text.len();
    for key in of_text.into_iter().chain(others) {
        if is_over(key.bytes) {
            continue;
        }
        match key.duplicates(session) {
            Ok(duplicates) => {
                tried.looked_at += usize::from(key.sorts_text);
                if duplicates > 0 {
                    tried.duplicates.push((key, duplicates));
                }
            }
            // The server is busy, and the transaction is aborted: stop here.
            Err(error) if is_canceled(&error) => return Ok(tried),
            Err(error) => return Err(error),
        }
    }
    for key in foreign_keys(session)? {
        if is_over(key.bytes) {
            continue;
        }
        match key.orphans(session) {
            Ok(0) => {}
            Ok(orphans) => tried.orphans.push((key, orphans)),
            Err(error) if is_canceled(&error) => return Ok(tried),
            Err(error) => return Err(error),
        }
    }
    for condition in conditions(session)? {
        if is_over(0) {
            break;
        }
        match condition.violation(session) {
            Ok(violation) => tried.unsound.extend(violation.map(|violation| (condition, violation))),
            Err(error) if is_canceled(&error) => return Ok(tried),
            Err(error) => return Err(error),
        }
    }
    Ok(tried)
}

impl Tried {
    fn findings(self, may_have_changed: bool) -> Vec<Finding> {
        let (looked_at, keys) = (self.looked_at, self.keys);
        let mut found = Vec::new();
        if may_have_changed {
            found.push(
                info(
                    &DUPLICATES_TRIED,
                    format!("{looked_at} of the source's {keys} unique keys with text were checked for duplicates"),
                )
                .with("keys", keys)
                .with("tried", looked_at),
            );
        }
        found.extend(self.duplicates.into_iter().map(|(key, duplicates)| {
            blocker(
                &DUPLICATES,
                format!(
                    "restore cannot build unique index {} of table {}: duplicate rows exist for {}",
                    key.index,
                    key.table,
                    count(duplicates, "key")
                ),
            )
            .hint(format!(
                "list the rows with: {}; stop Synapse, delete the surplus rows, then REINDEX INDEX {}",
                key.shown(),
                key.index
            ))
            .with("index", key.index)
            .with("table", key.table)
            .with("keys", number(duplicates))
        }));
        found.extend(self.orphans.into_iter().map(|(key, orphans)| {
            blocker(
                &ORPHANS,
                format!(
                    "restore cannot add foreign key {} of table {}: {} without a matching row in {}",
                    key.name,
                    key.table,
                    count(orphans, "row"),
                    key.other
                ),
            )
            .hint(format!(
                "list the rows with: {}; stop Synapse, then delete or correct them",
                key.shown()
            ))
            .with("key", key.name)
            .with("table", key.table)
            .with("rows", number(orphans))
        }));
        found.extend(self.unsound.into_iter().map(|(condition, violation)| {
            blocker(&UNSOUND_ROWS, format!("restore cannot load {}", violation.what))
                .hint(violation.remedy)
                .with("name", condition.name)
                .with("table", condition.table)
        }));
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
        let ids = |changed| -> Vec<String> {
            let found = Tried::default().findings(changed);
            found.into_iter().map(|found| found.id).collect()
        };
        assert_eq!(ids(true), ["duplicates-tried"]);
        assert!(ids(false).is_empty());
    }
}
