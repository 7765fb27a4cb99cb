//! How many connections a server accepts from our role.

use ess_postgres::{Session, free_connections};
use ess_proof::{RAISE, connections_for};
use ess_run::processors;
use ess_run::text::count;

use super::Findings;
use crate::finding::{Detail, blocker, info, number};
use crate::ids::CONNECTIONS;

pub(crate) fn check(session: &Session, which: &str) -> Findings {
    // Synapse will be stopped before the dump.
    let free = free_connections(session, true)?;
    let at_least = |jobs: usize| free >= i64::try_from(connections_for(jobs)).unwrap_or(i64::MAX);
    let accepts = format!("{which} accepts only {} from this role", count(free, "connection"));
    let found = if !at_least(1) {
        let needed = connections_for(1);
        blocker(
            &CONNECTIONS,
            format!("{accepts}, but a dump or a restore needs {needed}"),
        )
        .hint(RAISE)
    } else if !at_least(processors()) {
        info(
            &CONNECTIONS,
            format!("{accepts}, so that fewer jobs than processors will work"),
        )
    } else {
        return Ok(Vec::new());
    };
    Ok(vec![found.with("free", number(free))])
}
