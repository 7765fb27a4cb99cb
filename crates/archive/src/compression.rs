//! How a dump is compressed.

use std::path::Path;

use ess_run::{Error, Installation, Report};

/// `METHOD[:LEVEL]` of `pg_dump -Z`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compression(pub Option<String>);

/// What takes no more time than none does, on a disk or over a link (`just bench-link`); each can be left out of a
/// build of `pg_dump`.
const METHODS: [&str; 2] = ["zstd:1", "lz4"];

impl Compression {
    /// As pg_dump takes it. `has_room` says whether the disk holds the dump uncompressed.
    pub(crate) fn argument(
        &self,
        pg_dump: &Installation,
        has_room: bool,
        report: &dyn Report,
    ) -> Result<String, Error> {
        // Before 16 there was only gzip, and only its level was said.
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
                // gzip is slower than none, whatever the level.
                if has_room { "0" } else { "1" }.to_owned()
            }
        })
    }
}

/// Whether `bytes` of tables and indexes surely fit uncompressed: as text they take less than twice
/// that, and as much again stays free.
pub(crate) fn has_room(place: &Path, bytes: u64) -> bool {
    rustix::fs::statvfs(place).is_ok_and(|stat| stat.f_bavail.saturating_mul(stat.f_frsize) / 4 >= bytes)
}
