//! What a soak draws and compares: the faults, the random numbers that choose among them, and the contents of a small
//! homeserver.

use std::fmt;
use std::time::Duration;

use super::Cluster;

/// The faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Fault {
    /// One of the programs is killed.
    Kill,
    /// All of them are killed at once, as when memory is short.
    KillAll,
    /// One of the programs receives SIGTERM.
    Terminate,
    /// A child process of a program is killed.
    KillChild,
    /// The source's server stops at once, and starts again.
    SourceStops,
    /// The same with the target's server.
    TargetStops,
    /// The first process of the source's server is killed.
    SourceKilled,
    /// The same with the target's server.
    TargetKilled,
    /// An administrator ends every session of the programs on the source, including the one with the snapshot.
    SnapshotLost,
    /// The same on the target.
    SessionsEnded,
    /// The network to the source drops all connections.
    SourceReset,
    /// The same for connections to the target.
    TargetReset,
    /// Connections to the source end in the middle of a response.
    SourceCut,
    /// The same for connections to the target.
    TargetCut,
    /// The network passes nothing for a while.
    Stall,
    /// The network passes nothing any more, and the programs receive SIGTERM.
    StallAndTerminate,
    /// The disk of the export fills.
    DiskFull,
    /// The size of files is limited.
    FilesLimited,
    /// A bit in a file of the dump is flipped once the dump is complete.
    BitFlipped,
    /// Such a file is truncated.
    FileTruncated,
    /// The pipeline is started twice at the same time.
    Twice,
}

/// The state of the target after a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    AsItWas,
    Fenced,
    Proven,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AsItWas => "as it was",
            Self::Fenced => "fenced",
            Self::Proven => "proven",
        })
    }
}

/// A generator of pseudo-random numbers (splitmix64), so that a seed repeats a round.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }

    pub(crate) fn part_of(&mut self, whole: Duration) -> Duration {
        whole * u32::try_from(self.below(1000)).unwrap() / 1000
    }
}

/// The tables of Synapse's schema that are kept: a round then takes seconds, and the others would not add faults.
const KEPT: &str = "'schema_version', 'schema_compat_version', 'applied_schema_deltas', 'users', 'events', 'event_json', \
    'event_edges', 'event_search', 'stream_positions', 'e2e_one_time_keys_json', 'local_media_repository', 'rooms', \
    'room_memberships', 'state_groups', 'state_groups_state', 'devices', 'device_inbox', 'access_tokens', 'profiles', \
    'receipts_linearized', 'background_updates', 'worker_read_write_locks', 'worker_read_write_locks_mode'";

/// SQL that adds three megabytes of rows, which take a moment to move.
pub(crate) const ROWS: &str = "INSERT INTO event_json (event_id, room_id, internal_metadata, json, format_version)
    SELECT '$soak' || n, '!soak', '{}', (SELECT string_agg(md5(n::text || m), '') FROM generate_series(1, 30) m), 3
      FROM generate_series(1, 3000) n;
    INSERT INTO state_groups_state (state_group, room_id, type, state_key, event_id)
    SELECT 1000000 + n, '!soak', 'm.room.member', '@u' || n, '$soak' || n FROM generate_series(1, 3000) n;
    ANALYZE";

/// SQL that drops the tables of Synapse that are not in `KEPT`.
pub(crate) fn reduced() -> String {
    format!(
        "DO $$ DECLARE name text; BEGIN
            FOR name IN SELECT format('%I', tablename) FROM pg_tables WHERE schemaname = 'public' AND tablename NOT IN ({KEPT})
            LOOP EXECUTE 'DROP TABLE IF EXISTS ' || name || ' CASCADE'; END LOOP;
         END $$"
    )
}

/// The contents of a database in a form that can be compared.
pub(crate) fn contents(cluster: &Cluster, database: &str) -> String {
    let queries = cluster.psql(
        database,
        "SELECT format('SELECT %L || count(*) || '' '' || coalesce(sum(hashtextextended(t::text, 0)), 0) FROM %I AS t;',
                       tablename || ' ', tablename)
           FROM pg_tables JOIN pg_class ON relname = tablename AND relnamespace = 'public'::regnamespace
          WHERE schemaname = 'public' AND relpersistence = 'p' ORDER BY tablename",
    );
    let rest = "SELECT sequencename, last_value FROM pg_sequences ORDER BY 1;
        SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1;
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
         WHERE connamespace = 'public'::regnamespace ORDER BY 1, 2;
        SELECT tgname FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1";
    cluster.psql(database, &format!("{queries}\n{rest}"))
}

/// Ends every session of the programs on a server, as an administrator does.
pub(crate) fn end_sessions(cluster: &Cluster) {
    cluster.psql(
        "postgres",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'ess-migrate/%'",
    );
}
