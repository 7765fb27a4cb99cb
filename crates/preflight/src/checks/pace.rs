//! How long each step will take, reckoned from a short sample of the largest table.

use std::time::{Duration, Instant};

use ess_document::Finding;
use ess_postgres::{Error, Session, Table, tables};

use super::source::{Source, dump_size};
use super::{Found, number_of};
use crate::finding::{Detail, info, size};

/// The sample grows until it takes this long, or is this large.
const LONG_ENOUGH: Duration = Duration::from_millis(300);
const LARGE_ENOUGH: u64 = 4 << 20;

/// Loading takes about as long as reading, and building the indexes as long again.
const RESTORE: f64 = 2.0;

/// Bytes each second.
#[derive(Debug, Clone, Copy)]
struct Rates {
    read: f64,
    digest: f64,
    sample: u64,
}

/// The steps while Synapse stands still.
pub(crate) fn check(source: &Source) -> Found {
    let session = &source.session;
    let all = tables(session)?;
    let bytes = number_of(session, "measure the tables", include_str!("../../sql/data_size.sql"))?;
    let Some(largest) = all.iter().find(|table| !table.columns.is_empty()) else {
        return Ok(Vec::new());
    };
    session.batch("set up the sample", "SET statement_timeout = '5s'")?;
    let rates = sample(session, largest);
    session.batch("end the sample", "SET statement_timeout = '30s'")?;
    Ok(vec![finding(
        u64::try_from(bytes).unwrap_or(0),
        dump_size(&source.facts),
        rates?,
    )])
}

/// Rows as a dump reads them, then hashed as the proof does.
fn sample(session: &Session, table: &Table) -> Result<Rates, Error> {
    let name = table.qualified();
    let mut rows = 100;
    loop {
        let started = Instant::now();
        let sql = format!("SELECT (r.*)::text FROM ONLY {name} AS r LIMIT {rows}");
        let read = session.rows(&format!("read a sample of {name}"), &sql, &[])?;
        let took = started.elapsed();
        let bytes: u64 = read.iter().map(|row| row.get::<_, &str>(0).len() as u64).sum();
        let is_all = read.len() < rows;
        drop(read);
        if !is_all && took < LONG_ENOUGH && bytes < LARGE_ENOUGH {
            rows *= 2;
            continue;
        }
        let started = Instant::now();
        let sql = format!(
            "SELECT count(hashtextextended((r.*)::text, 0)) FROM (SELECT * FROM ONLY {name} LIMIT {rows}) AS r"
        );
        session.one(&format!("hash a sample of {name}"), &sql, &[])?;
        return Ok(Rates {
            read: rate(bytes, took),
            digest: rate(bytes, started.elapsed()),
            sample: bytes,
        });
    }
}

#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn rate(bytes: u64, took: Duration) -> f64 {
    // A sample of nothing must not divide by it.
    (bytes.max(1 << 20)) as f64 / took.as_secs_f64().max(0.001)
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an estimate, and never negative"
)]
fn finding(bytes: u64, dump: u64, rates: Rates) -> Finding {
    let seconds = |factor: f64, rate: f64| (factor * bytes as f64 / rate).ceil() as u64;
    let steps = [
        ("dump", seconds(1.0, rates.read)),
        ("restore", seconds(RESTORE, rates.read)),
        ("proof", seconds(1.0, rates.digest)),
    ];
    let all = steps.iter().map(|(_, seconds)| seconds).sum();
    let shown: Vec<String> = steps
        .iter()
        .map(|(step, seconds)| format!("{step} {}", time(*seconds)))
        .collect();
    info(
        "downtime",
        format!("Synapse will stand still for {}, by a short sample: {}", time(all), shown.join(", ")),
    )
    .hint("an estimate: ESS's own disks and processors were not measured; copy media beforehand, so that only what is new remains")
    .with("seconds", all)
    .with("steps", steps.iter().map(|(step, seconds)| ((*step).to_owned(), (*seconds).into())).collect::<serde_json::Map<_, _>>())
    .with("data_bytes", bytes)
    .with("dump_bytes", dump)
    .with("sample_bytes", rates.sample)
    .with("sample_rate", format!("{}/s", size(rates.read as u64)))
}

/// For people who plan a night.
fn time(seconds: u64) -> String {
    match seconds {
        0..60 => "less than a minute".to_owned(),
        60..5_400 => format!("about {} minutes", seconds.div_ceil(60)),
        _ => format!("about {} hours", seconds.div_ceil(3_600)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_reckoned_from_the_sample() {
        let rates = Rates {
            read: 10e6,
            digest: 50e6,
            sample: 1,
        };
        let found = finding(1_000_000_000, 0, rates);
        assert_eq!(
            found.data["steps"],
            serde_json::json!({"dump": 100, "restore": 200, "proof": 20})
        );
        assert_eq!(
            found.message,
            "Synapse will stand still for about 6 minutes, by a short sample: dump about 2 minutes, restore about 4 minutes, proof less than a minute"
        );
        assert_eq!(time(7_300), "about 3 hours");
    }
}
