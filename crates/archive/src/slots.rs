//! Computes digests in the session slots that `pg_dump` leaves idle, so that both together use at most `jobs` sessions.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use ess_postgres::{Access, Conninfo, Error, Queue, Session};
use ess_run::{joined, locked, unpoisoned};

/// How often the number of the child's busy sessions is polled.
const TICK: Duration = Duration::from_millis(100);

/// A child program that works in a database, and the limit that it shares with the digests.
pub(crate) struct SharedSlots<'a> {
    pub(crate) conninfo: &'a Conninfo,
    /// The `application_name` of this tool's sessions.
    pub(crate) application_name: &'a str,
    /// The `application_name` of the child's sessions.
    pub(crate) child: &'a str,
    /// The maximum number of busy sessions, those of the child and of this tool together.
    pub(crate) jobs: usize,
}

impl SharedSlots<'_> {
    /// Runs the child while `read` computes the digests of `tables` tables.
    ///
    /// If both fail, returns the error of the one that failed first, since it caused the other.
    pub(crate) fn run<T>(
        &self,
        tables: usize,
        run: impl FnOnce() -> anyhow::Result<()> + Send,
        read: impl FnOnce(&Slots) -> Result<T, Error>,
    ) -> anyhow::Result<T> {
        let watcher = Session::connect(self.conninfo, self.application_name, Access::ReadOnly)?;
        let slots = Slots::new(self.jobs, tables);
        thread::scope(|scope| {
            let child = scope.spawn(|| {
                let outcome = run();
                slots.child_ended(outcome.is_ok());
                outcome
            });
            let watch = scope.spawn(|| {
                while !slots.lock().over {
                    // If the query fails, assume that the child uses all slots.
                    let busy = watcher.one("watch the child", include_str!("../sql/busy.sql"), &[&self.child]);
                    let busy = busy.map_or(self.jobs, |row| usize::try_from(row.get::<_, i64>(0)).unwrap_or(0));
                    // Count the child as busy even between two queries, so that digests never take its last slot.
                    slots.child_uses(busy.max(1));
                    thread::sleep(TICK);
                }
            });
            let read = read(&slots);
            let digests_failed = read.is_err() && !slots.lock().over;
            if digests_failed {
                // Without the digests the dump is useless: terminate the child.
                let _ = self.end_child();
            }
            let child = joined(child.join());
            let _ = watch.join();
            match (child, read) {
                (Err(_), Err(error)) if digests_failed => Err(error.into()),
                // The digests stopped because the child failed.
                (Err(error), _) => Err(error),
                (Ok(()), read) => Ok(read?),
            }
        })
    }

    /// Terminates the child's sessions, which makes the child fail.
    fn end_child(&self) -> Result<(), Error> {
        let session = Session::connect(self.conninfo, self.application_name, Access::ReadOnly)?;
        session.rows(
            "end the child's sessions",
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1",
            &[&self.child],
        )?;
        Ok(())
    }
}

/// The session slots, and the tables that are still to be read.
pub(crate) struct Slots {
    all: usize,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// How many sessions of the child are busy.
    child: usize,
    /// How many digests are being computed.
    digests: usize,
    /// The indexes of tables that are not yet being read.
    left: VecDeque<usize>,
    /// The child has ended.
    over: bool,
    /// The child has ended with a failure.
    failed: bool,
}

impl Slots {
    fn new(all: usize, tables: usize) -> Self {
        Self {
            all,
            state: Mutex::new(State {
                child: all,
                digests: 0,
                left: (0..tables).collect(),
                over: false,
                failed: false,
            }),
            changed: Condvar::new(),
        }
    }

    fn child_uses(&self, busy: usize) {
        let mut state = self.lock();
        if !state.over {
            state.child = busy;
        }
        self.changed.notify_all();
    }

    fn child_ended(&self, well: bool) {
        // Under one lock: `run` must not see the failed digests without `over`, or it would terminate the child and
        // report the wrong cause.
        let mut state = self.lock();
        state.child = 0;
        state.over = true;
        state.failed = !well;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }
}

impl Queue for Slots {
    fn next(&self) -> Result<Option<usize>, Error> {
        let mut state = self.lock();
        loop {
            ess_run::stop_if_interrupted().map_err(Error::Interrupted)?;
            if state.failed {
                return Err(Error::Io(std::io::Error::other(
                    "the program that runs alongside failed",
                )));
            }
            if state.left.is_empty() {
                return Ok(None);
            }
            if state.child + state.digests < self.all
                && let Some(table) = state.left.pop_front()
            {
                state.digests += 1;
                return Ok(Some(table));
            }
            state = unpoisoned(self.changed.wait_timeout(state, TICK)).0;
        }
    }

    fn done(&self) {
        self.lock().digests -= 1;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn a_table_is_read_when_a_slot_is_free() {
        let slots = Slots::new(2, 3);
        slots.child_uses(1);
        assert_eq!(slots.next().unwrap(), Some(0));
        thread::scope(|scope| {
            let next = scope.spawn(|| slots.next().unwrap());
            thread::sleep(2 * TICK);
            assert!(!next.is_finished(), "both slots are in use");
            slots.done();
            assert_eq!(next.join().unwrap(), Some(1));
        });
        slots.child_ended(true);
        assert_eq!(slots.next().unwrap(), Some(2));
        assert_eq!(slots.next().unwrap(), None);
    }

    #[test]
    fn a_child_that_failed_ends_the_reading() {
        let slots = Slots::new(2, 1);
        slots.child_ended(false);
        assert!(slots.next().is_err());
    }
}
