//! `pg_dump` and `pg_restore`.

use std::path::Path;

use ess_document::Finding;
use ess_run::{Error, LAST_WITHOUT_TRANSACTION_TIMEOUT, Need, choose};

use crate::finding::{Detail, blocker, info};
use crate::ids::CLIENT_PROGRAMS;

/// Checks that this machine has programs for both servers, given by their major versions. `only` is `--pg-bin`.
pub(crate) fn check(only: Option<&Path>, source: Option<u32>, target: Option<u32>) -> Vec<Finding> {
    let need = match (source, target) {
        // Programs that can back up the target can also dump a source that is not newer.
        (source, Some(target)) if source.is_none_or(|source| source <= target) => Need::BackUp { target },
        (source, _) => Need::Dump {
            source: source.unwrap_or(0),
            target: None,
        },
    };
    let last = LAST_WITHOUT_TRANSACTION_TIMEOUT;
    vec![match choose(only, need) {
        Ok(programs) => {
            let version = &programs.version;
            let message = match source {
                // The target is not known yet, and may be one that these programs do not support.
                Some(source) if target.is_none() && source <= last && programs.major > last => format!(
                    "pg_dump and pg_restore are version {version}, which requires PostgreSQL {} or newer on the target",
                    last + 1
                ),
                _ => format!("pg_dump and pg_restore are version {version}"),
            };
            info(&CLIENT_PROGRAMS, message)
                .with("version", programs.version)
                .with("directory", programs.directory.display().to_string())
        }
        Err(error) => {
            let found = blocker(&CLIENT_PROGRAMS, error.to_string());
            match error {
                Error::Missing { hint, .. } => found.hint(hint),
                _ => found,
            }
        }
    }]
}
