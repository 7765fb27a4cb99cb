//! How many sessions may work at the same time.

use ess_postgres::{Session, free_connections};
use ess_run::text::count;
use ess_run::{Report, processors};
use ess_stop::Stop;

/// How many connections a dump with this many jobs needs: our own, the snapshot's, the one that watches `pg_dump`, those
/// of `pg_dump` and of its workers, and those that compute digests meanwhile.
pub fn connections_for(jobs: usize) -> usize {
    // With one job, pg_dump has no workers.
    if jobs <= 1 { 5 } else { 4 + 2 * jobs }
}

/// The number of jobs of a dump: the wanted one, or else that of the processors, but only as many as there are
/// connections for; half of these, if Synapse uses the database meanwhile (`in_use`).
///
/// # Errors
///
/// There are too few connections for a single job.
pub fn jobs_of_dump(
    session: &Session,
    wanted: Option<u16>,
    in_use: bool,
    report: &dyn Report,
) -> anyhow::Result<usize> {
    let wanted = wanted.map_or_else(processors, usize::from);
    let free = usize::try_from(free_connections(session, false)?).unwrap_or(0);
    let ours = if in_use {
        connections_for(1).max(free / 2).min(free)
    } else {
        free
    };
    let Some(jobs) = (1..=wanted).rev().find(|jobs| connections_for(*jobs) <= ours) else {
        return Err(Stop::no(format!(
            "{} accepts only {}, but {} are needed",
            session.server(),
            count(free, "connection"),
            connections_for(1)
        ))
        .hint(RAISE)
        .into());
    };
    note(session, jobs, wanted, free, report);
    Ok(jobs)
}

/// The number of jobs of a load or a comparison, which need fewer connections and, after a wipe, have to be tried in any
/// case.
pub fn jobs(session: &Session, wanted: Option<u16>, report: &dyn Report) -> usize {
    let wanted = wanted.map_or_else(processors, usize::from);
    // Without the number, the server itself will refuse what is too many.
    let free = free_connections(session, false).unwrap_or(i64::MAX);
    let free = usize::try_from(free).unwrap_or(0);
    // Our own session, and the leader of pg_restore.
    let jobs = wanted.min(free.saturating_sub(2)).max(1);
    note(session, jobs, wanted, free, report);
    jobs
}

fn note(session: &Session, jobs: usize, wanted: usize, free: usize, report: &dyn Report) {
    if jobs < wanted {
        report.note(&format!(
            "working with {} instead of {wanted}: {} accepts only {}",
            count(jobs, "job"),
            session.server(),
            count(free, "connection")
        ));
    }
}

/// How to get more connections.
pub const RAISE: &str = "end other sessions, or raise the limit: ALTER DATABASE ... CONNECTION LIMIT -1, ALTER ROLE ... \
                         CONNECTION LIMIT -1, or max_connections";
