//! How a dump is compressed.

use std::path::Path;

use ess_run::{Error, Installation, Report};

/// `METHOD[:LEVEL]` of `pg_dump -Z`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compression(pub Option<String>);

/// Methods that take no more time than no compression, on a disk or over a link (measured by `just bench-link`). A
/// build of `pg_dump` can lack either of them.
const METHODS: [&str; 2] = ["zstd:1", "lz4"];

impl Compression {
    /// The argument for `pg_dump --compress`. `has_room`: whether the uncompressed dump fits on the disk.
    pub(crate) fn argument(
        &self,
        pg_dump: &Installation,
        has_room: bool,
        report: &dyn Report,
    ) -> Result<String, Error> {
        // Before PostgreSQL 16 there was only gzip, and --compress accepted only its level.
        let knows_methods = pg_dump.major >= 16;
        Ok(match self.0.as_deref() {
            Some("none") => "0".to_owned(),
            Some(wish) if !knows_methods => wish.trim_start_matches("gzip:").to_owned(),
            Some(wish) => wish.to_owned(),
            None => {
                for method in METHODS.iter().filter(|_| knows_methods) {
                    if pg_dump.compresses(method, report)? {
                        return Ok((*method).to_owned());
                    }
                }
                // gzip takes longer than no compression at any level, so use it only if space is short.
                if has_room { "0" } else { "1" }.to_owned()
            }
        })
    }
}

/// Whether a dump of `bytes` of tables and indexes certainly fits uncompressed, and leaves space free.
///
/// Requires four times `bytes`: as text, tables and indexes need less than twice their size, and as much again is to
/// stay free.
pub(crate) fn has_room(place: &Path, bytes: u64) -> bool {
    ess_files::free_space(place).is_ok_and(|free| free / 4 >= bytes)
}
