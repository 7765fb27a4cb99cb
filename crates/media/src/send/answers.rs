//! What the receiver answers: noted as it comes, for whoever waits for it.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ess_cli::{Exit, Stop};
use ess_document::Amount;
use ess_synapse::media::Kind;

use super::{GO_ON, Job, Pass, Task};
use crate::found::add;
use crate::frame::{Entry, Frame, MAGIC, Sha256 as Digest};
use crate::walk::kind_of;

/// What a lane waits to hear of.
pub(super) struct Pending {
    pub(super) job: Job,
    pub(super) size: u64,
    /// By our own reading.
    pub(super) sha256: Option<Digest>,
}

/// What lanes, listener and merger share.
pub(super) struct Shared {
    /// For each lane, in the order of the answers.
    pub(super) pending: Vec<Mutex<VecDeque<Pending>>>,
    pub(super) results: Mutex<Results>,
    /// The first thing that the receiver could not do.
    pub(super) failed: Mutex<Option<Stop>>,
}

#[derive(Default)]
pub(super) struct Results {
    pub(super) sent: Amount,
    /// Of uploads that were read.
    pub(super) digests: Vec<(String, Digest)>,
    pub(super) left: Vec<String>,
    pub(super) damaged: Vec<String>,
    /// What was sent when all else was read.
    pub(super) unread: Vec<Job>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the receiver says to all.
pub(super) enum Event {
    Ready,
    Unit {
        path: String,
        files: Vec<Entry>,
        last: bool,
    },
    Listed,
    Synced,
}

/// Takes everything that comes, at once: nothing here waits for anything.
pub(super) fn listen(incoming: &Receiver<Frame>, shared: &Shared, events: &Sender<Event>) {
    for frame in incoming {
        let event = match frame {
            Frame::Ready { magic } if magic == MAGIC => Event::Ready,
            Frame::Unit { path, files, last } => Event::Unit { path, files, last },
            Frame::Listed => Event::Listed,
            Frame::Synced => Event::Synced,
            Frame::Stored { lane, size, sha256 } => {
                if let Some(pending) = answered(shared, lane) {
                    stored(shared, pending, size, sha256);
                }
                continue;
            }
            Frame::Refused { lane, why } => {
                if let Some(pending) = answered(shared, lane) {
                    refused(shared, pending, &why);
                }
                continue;
            }
            Frame::Alive => continue,
            Frame::Failed { exit, why } => {
                let (exit, stop) = (exit_of(exit), Stop::new(exit_of(exit), why));
                *lock(&shared.failed) = Some(match exit {
                    Exit::Unavailable => stop.hint(GO_ON),
                    _ => stop,
                });
                return;
            }
            other => {
                *lock(&shared.failed) = Some(Stop::data(format!("the receiver said what a sender says: {other:?}")));
                return;
            }
        };
        if events.send(event).is_err() {
            return;
        }
    }
}

fn answered(shared: &Shared, lane: u8) -> Option<Pending> {
    lock(shared.pending.get(usize::from(lane))?).pop_front()
}

fn stored(shared: &Shared, pending: Pending, size: u64, sha256: Digest) {
    let mut results = lock(&shared.results);
    let path = pending.job.path;
    if size != pending.size || pending.sha256.is_some_and(|ours| ours != sha256) {
        results.damaged.push(path);
        return;
    }
    if let Task::Send(pass) = pending.job.task {
        add(&mut results.sent, size);
        if pass == Pass::Verify {
            let task = Task::ReadBack(size, sha256);
            results.unread.push(Job {
                path: path.clone(),
                task,
            });
        }
    }
    if kind_of(&path) == Kind::Local {
        results.digests.push((path, sha256));
    }
}

fn refused(shared: &Shared, pending: Pending, why: &str) {
    let mut results = lock(&shared.results);
    let path = pending.job.path;
    match pending.job.task {
        Task::Send(_) => results.left.push(format!("{path}: it cannot be written: {why}")),
        // It was there a moment ago.
        Task::Read | Task::ReadBack(..) => results.damaged.push(path),
    }
}

fn exit_of(number: u8) -> Exit {
    [
        Exit::No,
        Exit::Usage,
        Exit::Data,
        Exit::Unavailable,
        Exit::Software,
        Exit::Io,
        Exit::Busy,
        Exit::Permission,
        Exit::Config,
    ]
    .into_iter()
    .find(|exit| *exit as u8 == number)
    .unwrap_or(Exit::Unavailable)
}
