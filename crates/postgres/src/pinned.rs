//! Settings that no session of ours, and none of a child, leaves to a role, a database or a server.
//!
//! `ALTER ROLE ... SET`, `ALTER DATABASE ... SET` and `postgresql.conf` hold for every session that does not say
//! otherwise: a time limit ends a dump, `default_transaction_read_only` a restore, `array_nulls` changes what is
//! loaded. `pg_dump` pins some of them itself (`setup_connection`), not all.

use crate::Access;

/// Whose sessions have a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// Ours and those of `pg_dump`, `pg_restore` and `psql`.
    All,
    /// Ours. A child has its own.
    Ours,
}
use Whose::{All, Ours};

/// A setting, its value as the server shows it, the version that brought it, and whose it is.
type Pin = (&'static str, &'static str, i32, Whose);

const PINS: &[Pin] = &[
    // No time limits. The first of them is set in a statement of its own.
    ("lock_timeout", "0", 0, All),
    ("idle_in_transaction_session_timeout", "0", 0, All),
    ("idle_session_timeout", "0", 140_000, All),
    ("transaction_timeout", "0", 170_000, All),
    // A host that is gone frees its locks within two minutes, whether the server waits for it or sends to it.
    ("tcp_keepalives_idle", "60", 0, All),
    ("tcp_keepalives_interval", "10", 0, All),
    ("tcp_keepalives_count", "6", 0, All),
    ("tcp_user_timeout", "120000", 120_000, All),
    // How values and definitions are written and read.
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
    // What transactions may, and as whom. Rows that a policy hides become an error.
    ("default_transaction_isolation", "read committed", 0, All),
    ("default_transaction_deferrable", "off", 0, All),
    ("role", "none", 0, All),
    ("row_security", "off", 0, All),
    ("exit_on_error", "off", 0, All),
    // Where new tables go.
    ("default_tablespace", "", 0, All),
    ("default_table_access_method", "heap", 120_000, All),
    // What is told and logged.
    ("client_min_messages", "warning", 0, All),
    ("log_parameter_max_length_on_error", "0", 130_000, All),
    // pg_dump and pg_restore have their own, and a plain dump may rely on the role's.
    ("search_path", "", 0, Ours),
    ("jit", "off", 110_000, Ours),
    ("max_parallel_workers_per_gather", "0", 0, Ours),
];

/// What a child needs and cannot be given through a pooler, which drops or refuses start-up settings.
///
/// What `pg_dump` and the archives set themselves is not among them.
const NEEDED: &[&str] = &[
    "idle_session_timeout",
    "client_encoding",
    "array_nulls",
    "role",
    "default_transaction_read_only",
];

/// The settings of a session of ours on a server of this version, with their values.
pub(crate) fn ours(version: i32, access: Access) -> impl Iterator<Item = (&'static str, &'static str)> {
    known(version)
        .chain([read_only(access)])
        .map(|(name, value, ..)| (name, value))
}

/// Those that a child must find as they are, because it cannot be given them.
pub(crate) fn needed(version: i32, access: Access) -> impl Iterator<Item = (&'static str, &'static str)> {
    // A child's dump is read-only by itself.
    ours(version, access)
        .filter(move |(name, _)| NEEDED.contains(name))
        .filter(move |(name, _)| access == Access::ReadWrite || *name != "default_transaction_read_only")
}

/// `PGOPTIONS` of a child: those settings, and `more` that outrank them.
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

/// Whether a setting that reads so is as it was set: without TCP there is nothing to keep alive.
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
