//! How many sessions may work at the same time.

use ess_postgres::{Session, free_connections};
use ess_run::text::count;
use ess_run::{Report, processors};
use ess_stop::Stop;

/// How many connections a dump with this many jobs needs, the most of all steps: our own, the snapshot's, the one that
/// watches `pg_dump`, those of `pg_dump` and of its workers, and those that compute digests meanwhile.
pub fn connections_for(jobs: usize) -> usize {
    // With one job, pg_dump has no workers.
    if jobs <= 1 { 5 } else { 4 + 2 * jobs }
}

/// The number of jobs: the wanted one, or else that of the processors, but only as many as there are connections for.
///
/// # Errors
///
/// There are too few connections for a single job.
pub fn jobs(session: &Session, wanted: Option<u16>, report: &dyn Report) -> anyhow::Result<usize> {
    let wanted = wanted.map_or_else(processors, usize::from);
    let free = usize::try_from(free_connections(session)?).unwrap_or(0);
    let Some(jobs) = (1..=wanted).rev().find(|jobs| connections_for(*jobs) <= free) else {
        return Err(Stop::no(format!(
            "{} accepts only {}, but {} are needed",
            session.server(),
            count(free, "connection"),
            connections_for(1)
        ))
        .hint(RAISE)
        .into());
    };
    if jobs < wanted {
        report.note(&format!(
            "working with {} instead of {wanted}: {} accepts only {}",
            count(jobs, "job"),
            session.server(),
            count(free, "connection")
        ));
    }
    Ok(jobs)
}

/// How to get more connections.
pub const RAISE: &str = "end other sessions, or raise the limit: ALTER DATABASE ... CONNECTION LIMIT -1, ALTER ROLE ... \
                         CONNECTION LIMIT -1, or max_connections";
