//! `pg_dump`, `pg_restore` and `psql`.

use std::path::Path;

use ess_document::Finding;
use ess_run::{Error, choose};

use crate::finding::{Blocker, Detail, blocker, info};

/// Whether the programs of this machine fit the newer of both servers, given by their major versions.
pub(crate) fn check(only: Option<&Path>, source: Option<u32>, target: Option<u32>) -> Vec<Finding> {
    let (major, whose) = match (source, target) {
        (source, Some(target)) if source.is_none_or(|source| source < target) => (target, "this target"),
        (source, _) => (source.unwrap_or(0), "this source"),
    };
    vec![match choose(only, major, whose) {
        Ok(programs) => info(
            "client-programs",
            format!("pg_dump, pg_restore and psql are of version {}", programs.version),
        )
        .with("version", programs.version)
        .with("directory", programs.directory.display().to_string()),
        Err(error) => {
            let found = blocker(Blocker::ClientPrograms, error.to_string());
            match error {
                Error::Missing { hint, .. } => found.hint(hint),
                _ => found,
            }
        }
    }]
}
