//! How long each step will take, estimated from short samples of both servers.

use std::time::{Duration, Instant};

use ess_document::Finding;
use ess_postgres::{Error, Session, Table, database_tables};
use ess_run::text::count;
use serde_json::{Map, Value, json};

use super::source::dump_size;
use super::target::Target;
use super::{OpenSource, not_checked, number_of};
use crate::finding::{Detail, info};
use crate::ids::DOWNTIME;

/// A sample grows until it takes this long, or has this many bytes.
const LONG_ENOUGH: Duration = Duration::from_millis(300);
const LARGE_ENOUGH: u64 = 4 << 20;

/// Storing rows and building their indexes takes this many times as long as hashing them.
const STORE: f64 = 4.0;

/// Generated rows that each server hashes, to compare the speed of their processors.
const ROWS: i32 = 40_000;

/// Speed of the source, in bytes per second. `hashing` is that of generated rows, without reading a table; `sample` is
/// the size of the sample, in bytes.
#[derive(Debug, Clone, Copy)]
struct From {
    read: f64,
    digest: f64,
    hashing: f64,
    sample: u64,
}

/// Speed of the target, in bytes per second.
#[derive(Debug, Clone, Copy)]
struct To {
    send: f64,
    hashing: f64,
}

/// Sizes in bytes: of the source's tables, of its dump, and of what the target's wipe erases.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    data: u64,
    dump: u64,
    erased: u64,
}

/// Estimates the steps during which Synapse is down.
pub(crate) fn check(source: &OpenSource, target: Option<&Target>) -> Vec<Finding> {
    let mut found = Vec::new();
    let to = target.map(|target| within_limits(&target.session, measure));
    let to = to.and_then(|to| {
        to.map_err(|error| found.push(not_checked("the speed of the target", &error)))
            .ok()
    });
    let from = within_limits(&source.session, |session| {
        let all = database_tables(session)?;
        let Some(largest) = all.iter().find(|table| !table.columns.is_empty()) else {
            return Ok(None);
        };
        Ok(Some((sample(session, largest)?, bytes(session)?)))
    });
    match from {
        Ok(Some((from, data))) => {
            let sizes = Sizes {
                data,
                dump: dump_size(&source.facts),
                erased: to.map_or(0, |(_, erased)| erased),
            };
            found.push(finding(sizes, from, to.map(|(to, _)| to)));
        }
        Ok(None) => {}
        Err(error) => found.push(not_checked("the estimate of the downtime", &error)),
    }
    found
}

/// Runs `work` with a shorter `statement_timeout`, so that a sample does not hold up the server.
fn within_limits<T>(session: &Session, work: impl FnOnce(&Session) -> Result<T, Error>) -> Result<T, Error> {
    session.batch("set up the sample", "SET statement_timeout = '5s'")?;
    let outcome = work(session);
    session.batch("end the sample", "SET statement_timeout = '30s'")?;
    outcome
}

fn bytes(session: &Session) -> Result<u64, Error> {
    let bytes = number_of(session, "measure the tables", include_str!("../../sql/data_size.sql"))?;
    Ok(u64::try_from(bytes).unwrap_or(0))
}

/// Reads rows as a dump does, then hashes them as the proof does.
fn sample(session: &Session, table: &Table) -> Result<From, Error> {
    let name = table.qualified();
    // Begin with one row: a single value can already be very large.
    let mut rows = 1;
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
        return Ok(From {
            read: rate(bytes, took),
            digest: rate(bytes, started.elapsed()),
            hashing: hashing(session)?,
            sample: bytes,
        });
    }
}

/// How fast the target receives and hashes data, and the size of its tables. Nothing is stored there.
fn measure(session: &Session) -> Result<(To, u64), Error> {
    let mut text = "what people write, as long as it may be; ".repeat(1 << 12);
    loop {
        let started = Instant::now();
        session.one("send a sample", "SELECT octet_length($1::text)", &[&text])?;
        let (took, sent) = (started.elapsed(), text.len() as u64);
        if took < LONG_ENOUGH && sent < LARGE_ENOUGH {
            text = text.repeat(2);
            continue;
        }
        let to = To {
            send: rate(sent, took),
            hashing: hashing(session)?,
        };
        return Ok((to, bytes(session)?));
    }
}

/// Hashing speed, timed by the server's own clock to exclude the network.
fn hashing(session: &Session) -> Result<f64, Error> {
    let row = session.one("hash a sample", include_str!("../../sql/hashing.sql"), &[&ROWS])?;
    let (bytes, seconds): (i64, f64) = (row.get(0), row.get(1));
    let took = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    Ok(rate(u64::try_from(bytes).unwrap_or(0), took))
}

#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn rate(bytes: u64, took: Duration) -> f64 {
    // Lower bounds, so that an empty or very fast sample gives a finite rate other than zero.
    (bytes.max(1 << 20)) as f64 / took.as_secs_f64().max(0.001)
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an estimate, and never negative"
)]
fn finding(sizes: Sizes, from: From, to: Option<To>) -> Finding {
    let seconds = |bytes: u64, seconds_per_byte: f64| (bytes as f64 * seconds_per_byte).ceil() as u64;
    // Without a target, assume a machine like the source's.
    let (send, digest) = to.map_or((from.read, from.digest), |to| {
        (to.send, from.digest * to.hashing / from.hashing)
    });
    let steps = [
        ("dump", seconds(sizes.data, 1.0 / from.read + 1.0 / from.digest)),
        ("wipe", seconds(sizes.erased, 2.0 / send)),
        ("restore", seconds(sizes.data, 1.0 / send + STORE / digest)),
        ("proof", seconds(sizes.data, 1.0 / digest)),
    ];
    let all = steps.iter().map(|(_, seconds)| seconds).sum();
    let shown: Vec<String> = steps
        .iter()
        .map(|(step, seconds)| format!("{step} {}", time(*seconds)))
        .collect();
    let (of, hint) = match to {
        Some(_) => (
            "short samples of both servers",
            "this is an estimate, without writes to disk; copy media beforehand, so that only new files remain",
        ),
        None => (
            "a short sample of the source",
            "this is an estimate; give --target to measure the target too; copy media beforehand, so that only new \
             files remain",
        ),
    };
    let whole = |rates: &[(&str, f64)]| -> Value {
        let rates = rates
            .iter()
            .map(|(name, rate)| ((*name).to_owned(), json!(*rate as u64)));
        rates.collect::<Map<_, _>>().into()
    };
    info(
        &DOWNTIME,
        format!(
            "Synapse will be down for {}, estimated from {of}: {}",
            time(all),
            shown.join(", ")
        ),
    )
    .hint(hint)
    .with("seconds", all)
    .with(
        "steps",
        steps
            .iter()
            .map(|(step, seconds)| ((*step).to_owned(), (*seconds).into()))
            .collect::<Map<_, _>>(),
    )
    .with("data_bytes", sizes.data)
    .with("dump_bytes", sizes.dump)
    .with("sample_bytes", from.sample)
    .with(
        "source_bytes_per_second",
        whole(&[("read", from.read), ("digest", from.digest), ("hash", from.hashing)]),
    )
    .with(
        "target_bytes_per_second",
        to.map(|to| whole(&[("send", to.send), ("hash", to.hashing)])),
    )
}

/// A duration, rounded up to minutes or hours.
fn time(seconds: u64) -> String {
    match seconds {
        0..60 => "less than a minute".to_owned(),
        60..5_400 => format!("about {}", count(seconds.div_ceil(60), "minute")),
        _ => format!("about {} hours", seconds.div_ceil(3_600)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_reckoned_from_samples_of_both_ends() {
        let from = From {
            read: 10e6,
            digest: 50e6,
            hashing: 100e6,
            sample: 1,
        };
        let sizes = Sizes {
            data: 1_000_000_000,
            dump: 0,
            erased: 10_000_000,
        };
        let steps = |to: Option<To>| finding(sizes, from, to).data["steps"].clone();
        assert_eq!(
            steps(None),
            json!({"dump": 120, "wipe": 2, "restore": 180, "proof": 20})
        );
        let slow = To {
            send: 5e6,
            hashing: 50e6,
        };
        assert_eq!(
            steps(Some(slow)),
            json!({"dump": 120, "wipe": 4, "restore": 360, "proof": 40})
        );
        let found = finding(sizes, from, Some(slow));
        assert_eq!(
            found.message,
            "Synapse will be down for about 9 minutes, estimated from short samples of both servers: dump about \
             2 minutes, wipe less than a minute, restore about 6 minutes, proof less than a minute"
        );
        assert_eq!(found.data["seconds"], 524);
        assert_eq!(time(7_300), "about 3 hours");
    }
}
