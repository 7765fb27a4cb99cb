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
mod mark;
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
mod tables;
mod tls;
mod uploads;
mod usage;

pub use activity::{Other, end_leftovers, lock, others, owners_among, prepared_transactions, subscriptions};
pub use catalogue::{
    LockTable, catalogue, dump_locks, invalid_indexes, is_need, lacking, lock_table, needs, not_owned_by, unreadable,
};
pub use conninfo::{ChildEnvironment, Conninfo, ConninfoError, Env, PasswordOrigin};
pub use digest::{Algorithm, Digest, digest};
pub use error::Error;
pub use facts::{Facts, facts};
pub use inventory::{Inventory, Queue, Reading, TableRecord, digests, each_table};
pub use mark::{Mark, StreamPosition, mark, stream_positions};
pub use movement::{
    FENCE_VERSION, NOT_PLAIN, SchemaRows, exists, moved, plausible_schema_rows, schema_rows, unkept_version,
};
pub use objects::{
    LOCKS_PER_TABLE, NotInADump, Object, count_by_kind, drop_statements, keepsakes, not_in_a_dump, objects, row_counts,
};
pub use pooler::Sign;
pub use postgres_protocol::escape::{escape_identifier, escape_literal};
pub use rights::{Rights, rights};
pub use search_path::{Elsewhere, elsewhere};
pub use sequences::{Sequence, relation_names, sequences};
pub use session::{Access, CopyIn, Session};
pub use signatures::{newest_own_event, server_signature_keys};
pub use soundness::{
    Condition, ForeignKey, Held, PAST_INDEXES, UniqueKey, conditions, extension_rows, foreign_keys, foreign_tables,
    not_utf8, unique_keys, without_support,
};
pub use tables::{Column, Kind, Table, tables};
pub use tls::{ConnectError, Connection, Tls, TlsError};
pub use uploads::{UPLOADS_PAGE, Upload, has_media_repo, not_uploads, upload_digests, uploads};
pub use usage::{Usage, server_names, usage};

/// `"schema"."name"`, quoted for the server.
pub fn qualified(schema: &str, name: &str) -> String {
    format!("{}.{}", escape_identifier(schema), escape_identifier(name))
}
