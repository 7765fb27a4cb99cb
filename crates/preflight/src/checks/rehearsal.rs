//! Whether the migration of this source was rehearsed, and whether the result still holds.

use ess_document::{Finding, Rehearse};
use ess_postgres::catalogue;
use ess_proof::catalogue_sha256;
use ess_run::text::size;

use super::{Findings, OpenSource};
use crate::finding::{Detail as _, info, warning};
use crate::ids::REHEARSAL;

/// A source and the latest rehearsal of it, if there is one.
pub(crate) struct Rehearsal<'a> {
    pub(crate) source: &'a OpenSource,
    pub(crate) latest: Option<Rehearse>,
    /// The major version of the target's server, if it is known.
    pub(crate) target: Option<u32>,
}

pub(crate) fn check(rehearsal: &Rehearsal<'_>) -> Findings {
    let Some(latest) = &rehearsal.latest else {
        let found = warning(
            &REHEARSAL,
            "no rehearsal of this source is recorded in the export, so that what stops the migration after the wipe is \
             still unknown",
        );
        return Ok(vec![found.hint(
            "days before the migration, run rehearse with the same -c and --export; Synapse can keep running",
        )]);
    };
    let detail = |found: Finding| {
        found
            .with("finished_at", latest.finished_at.as_str())
            .with("proven", latest.proven)
            .with("source_bytes", latest.source_bytes)
            .with("seconds", latest.seconds())
    };
    let shown = latest.shown(rehearsal.target);
    if !latest.counts_for(rehearsal.target) {
        let remedy = latest.failure.as_ref().and_then(|failure| failure.remedy.clone());
        let hint = remedy.unwrap_or_else(|| "run rehearse again, with --target-version MAJOR of the target".to_owned());
        return Ok(vec![detail(warning(&REHEARSAL, shown)).hint(hint)]);
    }
    let now = catalogue_sha256(&catalogue(&rehearsal.source.session)?);
    if now != latest.catalogue_sha256 {
        let message = format!("{shown}; the source's schema has changed since");
        return Ok(vec![detail(warning(&REHEARSAL, message)).hint("run rehearse again")]);
    }
    let message = format!("{shown}; the source had {}", size(latest.source_bytes));
    Ok(vec![detail(info(&REHEARSAL, message))])
}
