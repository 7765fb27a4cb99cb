//! Settings that our own sessions and those of child programs override, whatever the role, database or server has.
//!
//! `ALTER ROLE ... SET`, `ALTER DATABASE ... SET` and `postgresql.conf` apply to every session that does not override
//! them: a timeout aborts a dump, `default_transaction_read_only` a restore, and `array_nulls` changes what is loaded.
//! `pg_dump` itself overrides only some of them (`setup_connection` in `pg_dump.c`).

use crate::Access;

/// Which sessions get a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// Our own sessions and those of `pg_dump`, `pg_restore` and `psql`.
    All,
    /// Only our own sessions. A child program sets its own value.
    Ours,
}
use Whose::{All, Ours};

/// A setting, its value as the server shows it, the version that introduced it, and which sessions get it.
type Pin = (&'static str, &'static str, i32, Whose);

const PINS: &[Pin] = &[
    // No timeouts. statement_timeout is missing here, because it is set first, in a statement of its own.
    ("lock_timeout", "0", 0, All),
    ("idle_in_transaction_session_timeout", "0", 0, All),
    ("idle_session_timeout", "0", 140_000, All),
    ("transaction_timeout", "0", 170_000, All),
    // Locks of a client host that has vanished are released within two minutes, whether the server is waiting for
    // data from it or sending to it.
    ("tcp_keepalives_idle", "60", 0, All),
    ("tcp_keepalives_interval", "10", 0, All),
    ("tcp_keepalives_count", "6", 0, All),
    ("tcp_user_timeout", "120000", 120_000, All),
    // Formats of values and definitions.
    ("client_encoding", "UTF8", 0, All),
    ("standard_conforming_strings", "on", 0, All),
    ("bytea_output", "hex", 0, All),
    ("extra_float_digits", "3", 0, All),
    ("DateStyle", "ISO, YMD", 0, All),
    ("IntervalStyle", "postgres", 0, All),
    ("TimeZone", "UTC", 0, All),
    ("xmloption", "content", 0, All),
    ("lc_monetary", "C", 0, All),
    ("array_nulls", "on", 0, All),
    ("transform_null_equals", "off", 0, All),
    ("quote_all_identifiers", "off", 0, All),
    // Transactions and role. With row_security off, rows that a policy would hide are an error.
    ("default_transaction_isolation", "read committed", 0, All),
    ("default_transaction_deferrable", "off", 0, All),
    ("role", "none", 0, All),
    ("row_security", "off", 0, All),
    ("exit_on_error", "off", 0, All),
    // Defaults of new tables.
    ("default_tablespace", "", 0, All),
    ("default_table_access_method", "heap", 120_000, All),
    // Messages and logging.
    ("client_min_messages", "warning", 0, All),
    ("log_parameter_max_length_on_error", "0", 130_000, All),
    // Not for child programs: pg_dump and pg_restore set their own, and an SQL dump may rely on that of the role.
    ("search_path", "", 0, Ours),
    ("jit", "off", 110_000, Ours),
    ("max_parallel_workers_per_gather", "0", 0, Ours),
];

/// Settings that a child program needs, but cannot be given through a pooler, which drops or refuses settings at
/// connection start.
///
/// Without those that `pg_dump` and the archives set themselves.
const NEEDED: &[&str] = &[
    "idle_session_timeout",
    "client_encoding",
    "array_nulls",
    "role",
    "default_transaction_read_only",
];

/// The settings of our own sessions on a server of this version, with their values.
pub(crate) fn of_session(version: i32, access: Access) -> impl Iterator<Item = (&'static str, &'static str)> {
    known(version)
        .chain([read_only(access)])
        .map(|(name, value, ..)| (name, value))
}

/// The settings that must already have the right values on the server, because a child program cannot be given them.
pub(crate) fn needed(version: i32, access: Access) -> impl Iterator<Item = (&'static str, &'static str)> {
    // Not needed for reading: pg_dump makes its transaction read-only itself.
    of_session(version, access)
        .filter(move |(name, _)| NEEDED.contains(name))
        .filter(move |(name, _)| access == Access::ReadWrite || *name != "default_transaction_read_only")
}

/// `PGOPTIONS` for a child program: the settings for all sessions, then `more`, which override them.
pub(crate) fn options(version: i32, access: Access, more: &[(&str, &str)]) -> String {
    let pinned = known(version).chain([read_only(access)]);
    let pinned = pinned
        .filter(|(.., whose)| *whose == All)
        .map(|(name, value, ..)| (name, value));
    let limit = [("statement_timeout", "0")];
    let all = limit.into_iter().chain(pinned).chain(more.iter().copied());
    let words: Vec<String> = all
        .map(|(name, value)| format!("-c {name}={}", value.replace('\\', r"\\").replace(' ', r"\ ")))
        .collect();
    words.join(" ")
}

fn known(version: i32) -> impl Iterator<Item = Pin> {
    PINS.iter().copied().filter(move |(_, _, since, _)| *since <= version)
}

fn read_only(access: Access) -> Pin {
    let value = if access == Access::ReadOnly { "on" } else { "off" };
    ("default_transaction_read_only", value, 0, All)
}

/// Whether the value `read` from the server is the one that was set. On a Unix socket, the TCP settings are always 0.
pub(crate) fn holds(name: &str, value: &str, read: &str) -> bool {
    value == read || name.starts_with("tcp_") && read == "0" || name == "search_path" && read == "\"\""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_given_what_its_server_knows() {
        let old = options(130_000, Access::ReadOnly, &[]);
        assert!(old.starts_with("-c statement_timeout=0 -c lock_timeout=0 "), "{old}");
        assert!(old.contains(r"-c DateStyle=ISO,\ YMD "), "{old}");
        assert!(old.ends_with("-c default_transaction_read_only=on"), "{old}");
        for newer in ["idle_session_timeout", "transaction_timeout", "search_path", "jit"] {
            assert!(!old.contains(newer), "{newer}");
        }
        let new = options(170_000, Access::ReadWrite, &[("synchronous_commit", "off")]);
        assert!(
            new.contains("-c idle_session_timeout=0 -c transaction_timeout=0 "),
            "{new}"
        );
        assert!(
            new.ends_with("-c default_transaction_read_only=off -c synchronous_commit=off"),
            "{new}"
        );
    }
}
