//! SIGINT and SIGTERM: children end, loops stop, destructors clean up.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

static SIGNAL: AtomicI32 = AtomicI32::new(0);
static CHILDREN: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// Work stopped because a signal said so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interrupted {
    /// The signal's number.
    pub signal: i32,
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.signal {
            1 => "SIGHUP",
            2 => "SIGINT",
            15 => "SIGTERM",
            other => return write!(f, "interrupted by signal {other}"),
        };
        write!(f, "interrupted by {name}")
    }
}

impl std::error::Error for Interrupted {}

/// What a child has to end by itself. pg_dump asks its server to cancel first, which may never answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// Records the signal and ends every child's process group.
pub fn interrupt(signal: i32) {
    SIGNAL.store(signal, Ordering::SeqCst);
    end_all(Signal::TERM);
    let later = thread::Builder::new().spawn(|| {
        thread::sleep(PATIENCE);
        end_all(Signal::KILL);
    });
    if later.is_err() {
        end_all(Signal::KILL);
    }
}

/// The signal that interrupted this process, if one did.
pub fn interrupted() -> Option<Interrupted> {
    match SIGNAL.load(Ordering::SeqCst) {
        0 => None,
        signal => Some(Interrupted { signal }),
    }
}

/// For loops: stop when interrupted.
pub fn check() -> Result<(), Interrupted> {
    interrupted().map_or(Ok(()), Err)
}

/// A child under our wing until this is dropped.
pub(crate) struct Watched(i32);

impl Watched {
    pub(crate) fn new(pid: u32) -> Self {
        let pid = i32::try_from(pid).unwrap_or(0);
        CHILDREN.lock().unwrap_or_else(PoisonError::into_inner).insert(pid);
        // A signal may have come between the fork and this line.
        if interrupted().is_some() {
            end(pid, Signal::TERM);
        }
        Self(pid)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        CHILDREN.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

/// Ends a child's process group, a stopped one too.
pub(crate) fn kill(pid: u32) {
    end(i32::try_from(pid).unwrap_or(0), Signal::KILL);
}

fn end_all(signal: Signal) {
    for pid in CHILDREN.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        end(*pid, signal);
    }
}

fn end(pid: i32, signal: Signal) {
    if let Some(group) = Pid::from_raw(pid) {
        // It may have ended by itself meanwhile, which is just as well.
        let _ = kill_process_group(group, signal);
    }
}
