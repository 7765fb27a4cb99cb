//! Interruption by a signal: children are ended, loops stop, and destructors clean up.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use crate::locked;

static SIGNAL: AtomicI32 = AtomicI32::new(0);
static CHILDREN: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// The error of work that a signal interrupted.
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
            3 => "SIGQUIT",
            15 => "SIGTERM",
            other => return write!(f, "interrupted by signal {other}"),
        };
        write!(f, "interrupted by {name}")
    }
}

impl std::error::Error for Interrupted {}

/// How long a child may take to end after SIGTERM. pg_dump first sends its server a cancel request, which may never be
/// answered.
const PATIENCE: Duration = Duration::from_secs(3);

/// Records the signal and ends the process group of every child: by SIGTERM, and three seconds later by SIGKILL.
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

/// An error once a signal has come; loops call this to stop early.
pub fn stop_if_interrupted() -> Result<(), Interrupted> {
    interrupted().map_or(Ok(()), Err)
}

/// A child that is ended on a signal, for as long as this value lives.
pub(crate) struct Watched(i32);

impl Watched {
    pub(crate) fn new(pid: u32) -> Self {
        let pid = i32::try_from(pid).unwrap_or(0);
        locked(&CHILDREN).insert(pid);
        // A signal may have come after the child was started and before it was registered.
        if interrupted().is_some() {
            end(pid, Signal::TERM);
        }
        Self(pid)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        locked(&CHILDREN).remove(&self.0);
    }
}

/// Ends a child's process group by SIGKILL, which also ends stopped processes.
pub(crate) fn kill(pid: u32) {
    end(i32::try_from(pid).unwrap_or(0), Signal::KILL);
}

fn end_all(signal: Signal) {
    for pid in locked(&CHILDREN).iter() {
        end(*pid, signal);
    }
}

fn end(pid: i32, signal: Signal) {
    if let Some(group) = Pid::from_raw(pid) {
        // An error means that it has already ended.
        let _ = kill_process_group(group, signal);
    }
}
