//! Synapse's sequences, and the tables that need special treatment.

/// A sequence, and the values that it must not lag behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequence {
    /// The name of the sequence.
    pub name: &'static str,
    /// Tables and columns that contain the values it has generated.
    pub columns: &'static [(&'static str, &'static str)],
    /// Its `stream_name` in the table `stream_positions`, if it has one.
    pub stream: Option<&'static str>,
    /// Whether the columns and `stream_positions` contain the negated values of the sequence.
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

/// Every sequence that Synapse checks when it starts, with `PostgresSequenceGenerator.check_consistency` of
/// `synapse/storage/util/sequence.py`. An older schema lacks some of them, and some of their tables.
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

/// Locks of running workers, which have no meaning in another database. They are `UNLOGGED`: a crash empties them.
pub const UNLOGGED_TABLES: &[&str] = &["worker_read_write_locks", "worker_read_write_locks_mode"];

/// One-time keys, each of which Synapse hands out once. After a restore of old rows it would hand out some of them
/// again, and clients could not decrypt the messages that use them. Synapse's `docs/usage/administration/backups.md`
/// therefore excludes the rows of this table.
pub const ONE_TIME_KEYS_TABLE: &str = "e2e_one_time_keys_json";

/// The tables that Synapse writes without any user's action: if only these changed, the server has not been used.
///
/// They contain the positions and locks of its processes, the tasks that it schedules, the counters that it derives
/// from other tables (`synapse/storage/databases/main/`), and what it learns about other servers.
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

/// The two tables that Synapse reads first when it starts; they contain the rows of the fence.
pub const FENCE_TABLES: &[&str] = &["schema_version", "schema_compat_version"];
