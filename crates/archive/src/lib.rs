//! A dump on disk: made by `pg_dump`, described by a manifest, loaded by `pg_restore`.

mod compression;
mod dumping;
mod found;
mod manifest;
mod origin;
mod plain;
mod restoring;
mod sealing;
mod sequences;
mod slots;
mod toc;

pub use compression::Compression;
pub use dumping::{DumpLayout, Dumping, Taken, carried, child_name, finish_rename, take};
pub use found::{FoundDump, check_is_of, find, place_of};
pub use manifest::{DumpKind, FileRecord, MANIFEST, Manifest, major};
pub use origin::Origin;
pub use plain::{DumpFormat, Nowhere, Outcome as PlainOutcome, PlainError, Taker, detect, open_plain, scan};
pub use restoring::{Restoring, check_schema, read_back};
pub use toc::{Entry, Toc};
