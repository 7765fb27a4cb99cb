//! What Synapse's schema asks for beyond rows: sequences and the tables with a rule of their own.

/// Where a sequence must not lag behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequence {
    /// The sequence.
    pub name: &'static str,
    /// Table and column of the values that it has given out.
    pub columns: &'static [(&'static str, &'static str)],
    /// Its `stream_positions.stream_name`.
    pub stream: Option<&'static str>,
    /// The columns hold its values negated; so does `stream_positions`.
    pub negative: bool,
}

const fn stream(
    name: &'static str,
    columns: &'static [(&'static str, &'static str)],
    stream: &'static str,
) -> Sequence {
    Sequence {
        name,
        columns,
        stream: Some(stream),
        negative: false,
    }
}

const fn counter(name: &'static str, columns: &'static [(&'static str, &'static str)]) -> Sequence {
    Sequence {
        name,
        columns,
        stream: None,
        negative: false,
    }
}

/// Every sequence that Synapse checks when it starts. An older schema lacks some, and some of their tables.
pub const SEQUENCES: &[Sequence] = &[
    stream(
        "account_data_sequence",
        &[
            ("room_account_data", "stream_id"),
            ("room_tags_revisions", "stream_id"),
            ("account_data", "stream_id"),
        ],
        "account_data",
    ),
    counter(
        "application_services_txn_id_seq",
        &[("application_services_txns", "txn_id")],
    ),
    stream(
        "cache_invalidation_stream_seq",
        &[("cache_invalidation_stream_by_instance", "stream_id")],
        "caches",
    ),
    stream(
        "device_inbox_sequence",
        &[("device_inbox", "stream_id"), ("device_federation_outbox", "stream_id")],
        "to_device",
    ),
    stream(
        "device_lists_sequence",
        &[
            ("device_lists_stream", "stream_id"),
            ("user_signature_stream", "stream_id"),
            ("device_lists_outbound_pokes", "stream_id"),
            ("device_lists_changes_in_room", "stream_id"),
            ("device_lists_remote_pending", "stream_id"),
            ("device_lists_changes_converted_stream_position", "stream_id"),
        ],
        "device_lists_stream",
    ),
    stream(
        "e2e_cross_signing_keys_sequence",
        &[("e2e_cross_signing_keys", "stream_id")],
        "e2e_cross_signing_keys",
    ),
    counter("event_auth_chain_id", &[("event_auth_chains", "chain_id")]),
    stream(
        "events_stream_seq",
        &[
            ("events", "stream_ordering"),
            ("current_state_delta_stream", "stream_id"),
            ("ex_outlier_stream", "event_stream_ordering"),
        ],
        "events",
    ),
    Sequence {
        name: "events_backfill_stream_seq",
        columns: &[
            ("events", "stream_ordering"),
            ("ex_outlier_stream", "event_stream_ordering"),
        ],
        stream: Some("backfill"),
        negative: true,
    },
    stream(
        "presence_stream_sequence",
        &[("presence_stream", "stream_id")],
        "presence_stream",
    ),
    stream(
        "push_rules_stream_sequence",
        &[("push_rules_stream", "stream_id")],
        "push_rules_stream",
    ),
    stream(
        "pushers_sequence",
        &[("pushers", "id"), ("deleted_pushers", "stream_id")],
        "pushers",
    ),
    stream(
        "quarantined_media_id_seq",
        &[("quarantined_media_changes", "stream_id")],
        "quarantined_media",
    ),
    stream("receipts_sequence", &[("receipts_linearized", "stream_id")], "receipts"),
    counter("state_group_id_seq", &[("state_groups", "id")]),
    stream(
        "sticky_events_sequence",
        &[("sticky_events", "stream_id")],
        "sticky_events",
    ),
    stream(
        "thread_subscriptions_sequence",
        &[("thread_subscriptions", "stream_id")],
        "thread_subscriptions",
    ),
    stream(
        "un_partial_stated_event_stream_sequence",
        &[("un_partial_stated_event_stream", "stream_id")],
        "un_partial_stated_event_stream",
    ),
    stream(
        "un_partial_stated_room_stream_sequence",
        &[("un_partial_stated_room_stream", "stream_id")],
        "un_partial_stated_room_stream",
    ),
];

/// Locks of running workers, which mean nothing elsewhere. UNLOGGED: a crash empties them.
pub const UNLOGGED_TABLES: &[&str] = &["worker_read_write_locks", "worker_read_write_locks_mode"];

/// One-time keys. Clients take them while Synapse runs: handing out one twice breaks encrypted messages.
pub const ONE_TIME_KEYS_TABLE: &str = "e2e_one_time_keys_json";

/// What a Synapse writes by itself, without a user: a server on which only these changed was not used.
///
/// Positions and locks of its own processes, tasks that it plans, counters that it derives from other tables
/// (`synapse/storage/databases/main/`), and what it learns of other servers.
pub const HOUSEKEEPING_TABLES: &[&str] = &[
    "background_updates",
    "cache_invalidation_stream_by_instance",
    "destination_rooms",
    "destinations",
    "device_lists_changes_converted_stream_position",
    "event_push_summary",
    "event_push_summary_last_receipt_stream_id",
    "event_push_summary_stream_ordering",
    "federation_stream_position",
    "instance_map",
    "presence_stream",
    "scheduled_tasks",
    "server_keys_json",
    "server_signature_keys",
    "stats_incremental_position",
    "stream_positions",
    "user_daily_visits",
    "user_directory_stream_pos",
    "worker_locks",
];

/// The two tables that Synapse reads first; the fence stands in them.
pub const FENCE_TABLES: &[&str] = &["schema_version", "schema_compat_version"];
