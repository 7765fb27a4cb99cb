//! `pg_dump`, `pg_restore` and `psql`.

use std::path::Path;

use ess_document::Finding;
use ess_run::{Error, choose};

use crate::finding::{Blocker, Detail, blocker, info};

/// Whether the programs of this machine fit the newest server that they will meet.
pub(crate) fn check(only: Option<&Path>, major: Option<u32>) -> Vec<Finding> {
    vec![match choose(only, major.unwrap_or(0), "this source") {
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
