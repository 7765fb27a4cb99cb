//! Connections like libpq's, catalogue queries, snapshots and digests.
//!
//! Blocking functions on top of tokio-postgres. Longer queries are files in `sql/`.

mod activity;
mod catalogue;
mod conninfo;
mod digest;
mod error;
mod facts;
mod inventory;
mod movement;
mod objects;
mod passfile;
mod pinned;
mod pooler;
mod rights;
mod search_path;
mod sequences;
mod service;
mod session;
mod signatures;
mod soundness;
mod state;
mod tables;
mod tls;
mod uploads;
mod usage;

pub use activity::{
    Other, end_leftovers, lock_database, other_sessions, owners_among, prepared_transactions, subscriptions,
};
pub use catalogue::{
    LockTable, catalogue, catalogue_needs, dump_locks, free_connections, invalid_indexes, is_need, lock_table,
    missing_needs, not_owned_by, unreadable_objects,
};
pub use conninfo::{ChildEnvironment, Conninfo, ConninfoError, Env, PasswordOrigin};
pub use digest::{Algorithm, Digest, digest};
pub use error::Error;
pub use facts::{Facts, server_facts};
pub use inventory::{Inventory, Queue, Reading, TableRecord, digests, each_table};
pub use movement::{
    FENCE_VERSION, NOT_PLAIN, SchemaRows, change_since, plausible_schema_rows, schema_rows, table_exists,
    version_not_kept,
};
pub use objects::{
    LOCKS_PER_TABLE, NotInADump, Object, count_by_kind, database_objects, drop_statements, not_in_a_dump,
    preserved_by_wipe, row_counts,
};
pub use pooler::Sign;
pub use postgres_protocol::escape::{escape_identifier, escape_literal};
pub use rights::{Rights, role_rights};
pub use search_path::{Elsewhere, tables_outside_public};
pub use sequences::{Sequence, relation_names, sequences};
pub use session::{Access, CopyIn, Session};
pub use signatures::{newest_own_event, server_signature_keys};
pub use soundness::{
    Condition, ForeignKey, PAST_INDEXES, UniqueKey, Violation, conditions, extension_rows, foreign_keys,
    foreign_tables, objects_without_support, text_not_in_utf8, unique_keys,
};
pub use state::{DatabaseState, StreamPosition, database_state, stream_positions};
pub use tables::{Column, ColumnKind, Table, database_tables};
pub use tls::{ConnectError, Connection, Tls, TlsError};
pub use uploads::{UPLOADS_PAGE, Upload, has_media_repo, not_uploads, upload_digests, uploads};
pub use usage::{Usage, database_usage, server_names};

/// `"schema"."name"`, quoted for the server.
pub fn qualified(schema: &str, name: &str) -> String {
    format!("{}.{}", escape_identifier(schema), escape_identifier(name))
}
