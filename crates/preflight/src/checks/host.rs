//! This machine: memory, limits, the terminal, its clock compared with the servers', and other runs on the export.

use std::env;
use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use ess_document::Finding;
use ess_postgres::{Error, Session};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Resource, getrlimit};

use crate::finding::{Detail, info, number, warning};
use crate::ids::{CLOCK, EXPORT_LOCKED, HOST, NO_TMUX, OPEN_FILES};
use ess_run::text::{count, size};

/// In bytes. The programs of this project need less than 100 MiB each; the rest is for pg_dump and pg_restore.
const MEMORY: u64 = 512 << 20;

/// Open files that a parallel pg_dump of Synapse's 180 tables needs, with its connections.
const FILES: u64 = 512;

/// In seconds. Certificates, tokens and the times in the document depend on clocks that agree.
const SKEW: f64 = 30.0;

/// The checks that need no server.
pub(crate) fn check(export: Option<&Path>) -> Vec<Finding> {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let files = getrlimit(Resource::Nofile).current;
    let mut found = machine(available(&meminfo), files);
    let is = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
    found.extend(terminal(is("SSH_CONNECTION"), is("TMUX") || is("STY")));
    found.extend(export.and_then(other_run));
    found
}

/// `MemAvailable` of /proc/meminfo, in bytes.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim()
        .strip_suffix(" kB")?
        .trim()
        .parse::<u64>()
        .ok()?
        .checked_mul(1024)
}

fn machine(memory: Option<u64>, files: Option<u64>) -> Vec<Finding> {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let shown = memory.map_or("an unknown amount".to_owned(), size);
    let mut found = vec![
        info(
            &HOST,
            format!(
                "this machine has {shown} of memory available, and {}",
                count(processors, "processor")
            ),
        )
        .with("memory", memory)
        .with("open_files", files)
        .with("processors", processors),
    ];
    if let Some(memory) = memory.filter(|memory| *memory < MEMORY) {
        found.push(
            warning(
                &crate::ids::MEMORY,
                format!("only {} of memory is available", size(memory)),
            )
            .hint("stop processes that are not needed; otherwise the kernel may kill a dump")
            .with("available", memory),
        );
    }
    if let Some(files) = files.filter(|files| *files < FILES) {
        found.push(
            warning(
                &OPEN_FILES,
                format!("a process can open no more than {}", count(files, "file")),
            )
            .hint("ulimit -n 4096")
            .with("limit", files),
        );
    }
    found
}

/// Without a terminal multiplexer, a lost SSH connection would stop the migration.
fn terminal(ssh: bool, multiplexer: bool) -> Option<Finding> {
    (ssh && !multiplexer).then(|| {
        warning(
            &NO_TMUX,
            "this is an SSH session without tmux or screen: a lost connection would stop the migration",
        )
        .hint("run everything in tmux")
    })
}

/// A finding if another run holds the lock of the export.
fn other_run(export: &Path) -> Option<Finding> {
    let path = export.join(".lock");
    let lock = ess_files::open(&path).ok()?;
    if flock(&lock, FlockOperation::NonBlockingLockShared).is_ok() {
        return None;
    }
    let holder = ess_files::read_text(&path, ess_files::SECRET).unwrap_or_default();
    let holder = if holder.trim().is_empty() {
        "another run"
    } else {
        holder.trim()
    };
    Some(
        warning(
            &EXPORT_LOCKED,
            format!("{holder} is working on the export {}", export.display()),
        )
        .hint("wait for that run, or stop it"),
    )
}

/// Compares a server's clock with this machine's.
pub(crate) fn clock(session: &Session, whose: &str) -> Result<Vec<Finding>, Error> {
    let before = now();
    let servers: f64 = session
        .one("read the clock", include_str!("../../sql/clock.sql"), &[])?
        .get(0);
    Ok(skew(servers - f64::midpoint(before, now()), whose)
        .into_iter()
        .collect())
}

fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |time| time.as_secs_f64())
}

#[expect(clippy::cast_possible_truncation, reason = "a difference of seconds")]
fn skew(seconds: f64, whose: &str) -> Option<Finding> {
    let (apart, order) = (
        seconds.abs().round() as i64,
        if seconds > 0.0 { "ahead of" } else { "behind" },
    );
    (seconds.abs() > SKEW).then(|| {
        warning(
            &CLOCK,
            format!("the clock of {whose} is {apart} seconds {order} this machine's"),
        )
        .hint("synchronise both clocks with NTP")
        .with("seconds", number(seconds.round() as i64))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(found: impl IntoIterator<Item = Finding>) -> Vec<String> {
        found.into_iter().map(|found| found.id).collect()
    }

    #[test]
    fn a_small_machine_is_a_warning() {
        assert_eq!(available("MemTotal: 9 kB\nMemAvailable:   2048 kB\n"), Some(2 << 20));
        assert_eq!(available(""), None);
        assert_eq!(ids(machine(Some(8 << 30), Some(1_024))), ["host"]);
        assert_eq!(ids(machine(Some(8 << 20), Some(256))), ["host", "memory", "open-files"]);
    }

    #[test]
    fn a_connection_that_may_be_lost_is_a_warning() {
        assert_eq!(ids(terminal(true, false)), ["no-tmux"]);
        assert!(terminal(true, true).is_none() && terminal(false, false).is_none());
    }

    #[test]
    fn a_clock_may_be_off_by_seconds() {
        assert!(skew(-29.0, "the source").is_none());
        let message = skew(-90.4, "the source").expect("it is far").message;
        assert_eq!(message, "the clock of the source is 90 seconds behind this machine's");
    }

    #[test]
    fn a_lock_that_is_held_is_reported() {
        let dir = tempfile::tempdir().expect("there is room");
        assert!(other_run(dir.path()).is_none());
        let lock = fs::File::create(dir.path().join(".lock")).expect("it is writable");
        assert!(other_run(dir.path()).is_none());
        flock(&lock, FlockOperation::NonBlockingLockExclusive).expect("it is free");
        assert!(
            other_run(dir.path())
                .expect("it is held")
                .message
                .starts_with("another run is working")
        );
    }
}
