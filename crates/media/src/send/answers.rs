//! The receiver's answers: recorded as they arrive, for the threads that wait for them.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use ess_cli::{Exit, Stop};
use ess_document::Amount;
use ess_run::{locked, unpoisoned};
use ess_synapse::media::MediaKind;

use super::{Job, Pass, RESUME_HINT, Task, gone};
use crate::frame::{Entry, Frame, MAGIC, Sha256 as Digest};
use crate::tally::add;
use crate::walk::kind_of;

/// A request of a lane that is not answered yet.
pub(super) struct Pending {
    pub(super) job: Job,
    pub(super) size: u64,
    /// The digest of the file in the store, if it was computed.
    pub(super) sha256: Option<Digest>,
}

/// Maximum number of requests of a lane that are not answered yet, so that a receiver that does not answer cannot fill
/// the memory.
const UNANSWERED: usize = 1024;

/// Maximum size of the lists that wait to be compared, in bytes. A receiver lists as many units ahead as it was allowed
/// to, and a unit of a large store has some thousand files of about fifty bytes.
const LISTED: usize = 128 << 20;

/// Maximum length of a message of the receiver that is shown, in characters.
const SENTENCE: usize = 1000;

/// Answers that were requested and have not arrived yet. No others are accepted.
#[derive(Default)]
pub(super) struct Requested {
    pub(super) ready: u32,
    pub(super) lists: u32,
    pub(super) units: u64,
    pub(super) syncs: u32,
    /// Size of the lists that have arrived and are not compared yet, in bytes.
    listed: usize,
}

/// What lanes, listener and merger share.
pub(super) struct Shared {
    /// For each lane, in the order of the answers.
    pending: Vec<Mutex<VecDeque<Pending>>>,
    /// Signals that one of the queues has become shorter, or that the receiver has ended.
    answered: Condvar,
    pub(super) requested: Mutex<Requested>,
    pub(super) results: Mutex<Results>,
    /// The error that ended the run, as reported by the receiver or found in its answers.
    pub(super) failed: Mutex<Option<Stop>>,
    /// Whether no more answers will arrive.
    over: Mutex<bool>,
}

impl Shared {
    pub(super) fn new(lanes: u8) -> Self {
        Self {
            pending: (0..lanes).map(|_| Mutex::default()).collect(),
            answered: Condvar::new(),
            requested: Mutex::default(),
            results: Mutex::default(),
            failed: Mutex::default(),
            over: Mutex::default(),
        }
    }

    /// Records a request that a lane is about to send; waits while too many are unanswered.
    pub(super) fn expect(&self, lane: u8, pending: Pending) -> anyhow::Result<()> {
        let mut queue = locked(&self.pending[usize::from(lane)]);
        while queue.len() >= UNANSWERED {
            ess_run::stop_if_interrupted()?;
            if *locked(&self.over) {
                return Err(gone().into());
            }
            let waited = self.answered.wait_timeout(queue, Duration::from_millis(100));
            queue = unpoisoned(waited).0;
        }
        queue.push_back(pending);
        Ok(())
    }

    /// Records that `bytes` of the lists were compared.
    pub(super) fn compared(&self, bytes: usize) {
        locked(&self.requested).listed -= bytes;
    }
}

#[derive(Default)]
pub(super) struct Results {
    pub(super) sent: Amount,
    /// Of the uploads that were read.
    pub(super) digests: Vec<(String, Digest)>,
    pub(super) left: Vec<String>,
    pub(super) damaged: Vec<String>,
    /// Files that were sent while both sides were being read, and that the receiver has yet to read.
    pub(super) unread: Vec<Job>,
}

/// An answer that does not belong to a lane.
pub(super) enum Event {
    Ready,
    Unit {
        path: String,
        files: Vec<Entry>,
        last: bool,
        /// Its size in memory, to be passed to [`Shared::compared`].
        bytes: usize,
    },
    Listed,
    Synced,
}

/// Accepts every frame at once, without ever waiting. An answer that was not requested ends the run, so that no more
/// than what was requested can accumulate here.
pub(super) fn listen(incoming: &Receiver<Frame>, shared: &Shared, events: &Sender<Event>) {
    for frame in incoming {
        match judge(frame, shared) {
            Ok(None) => {}
            Ok(Some(event)) => {
                if events.send(event).is_err() {
                    break;
                }
            }
            Err(stop) => {
                *locked(&shared.failed) = Some(stop);
                break;
            }
        }
    }
    *locked(&shared.over) = true;
    shared.answered.notify_all();
}

/// What a frame means to the run.
fn judge(frame: Frame, shared: &Shared) -> Result<Option<Event>, Stop> {
    let mut requested = locked(&shared.requested);
    Ok(match frame {
        Frame::Ready { magic } if magic != MAGIC => {
            return Err(
                strange(&format!("uses protocol {}, this sender {MAGIC}", sentence(&magic)))
                    .hint("use the same release on both sides"),
            );
        }
        Frame::Ready { .. } => {
            requested.ready = requested.ready.checked_sub(1).ok_or_else(|| unrequested("Ready"))?;
            Some(Event::Ready)
        }
        Frame::Unit { path, files, last } => {
            if requested.lists == 0 || requested.units == 0 {
                return Err(unrequested("Unit"));
            }
            requested.units -= u64::from(last);
            // Their approximate size in memory.
            let bytes = files
                .iter()
                .map(|file| file.path.len() + size_of::<Entry>())
                .sum::<usize>()
                + path.len();
            requested.listed += bytes;
            if requested.listed > LISTED {
                let message = format!("listed more than {} MiB of names at a time", LISTED >> 20);
                return Err(strange(&message));
            }
            Some(Event::Unit {
                path,
                files,
                last,
                bytes,
            })
        }
        Frame::Listed => {
            requested.lists = requested.lists.checked_sub(1).ok_or_else(|| unrequested("Listed"))?;
            Some(Event::Listed)
        }
        Frame::Synced => {
            requested.syncs = requested.syncs.checked_sub(1).ok_or_else(|| unrequested("Synced"))?;
            Some(Event::Synced)
        }
        Frame::Stored { lane, size, sha256 } => {
            let pending = answered(shared, lane).ok_or_else(|| unrequested("Stored"))?;
            stored(shared, pending, size, sha256);
            None
        }
        Frame::Refused { lane, why } => {
            let pending = answered(shared, lane).ok_or_else(|| unrequested("Refused"))?;
            refused(shared, pending, &sentence(&why));
            None
        }
        Frame::Alive => None,
        Frame::Failed { exit, why } => {
            let exit = exit_of(exit);
            let stop = Stop::new(exit, sentence(&why));
            return Err(match exit {
                Exit::Unavailable => stop.hint(RESUME_HINT),
                _ => stop,
            });
        }
        other => return Err(strange(&format!("sent an unexpected frame: {}", other.name()))),
    })
}

/// The error if the receiver does not follow the protocol: it is another program, or damaged.
fn strange(what: &str) -> Stop {
    Stop::new(Exit::Unavailable, format!("the receiver {what}"))
}

fn unrequested(what: &str) -> Stop {
    strange(&format!("answered something that was not requested: {what}"))
        .hint("check that the receiver is media-sync -n --receive of the same release")
}

/// A message of the receiver, cut off after `SENTENCE` characters.
fn sentence(text: &str) -> String {
    text.chars().take(SENTENCE).collect()
}

fn answered(shared: &Shared, lane: u8) -> Option<Pending> {
    let pending = locked(shared.pending.get(usize::from(lane))?).pop_front();
    shared.answered.notify_all();
    pending
}

fn stored(shared: &Shared, pending: Pending, size: u64, sha256: Digest) {
    let mut results = locked(&shared.results);
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
    if kind_of(&path) == MediaKind::Local {
        results.digests.push((path, sha256));
    }
}

fn refused(shared: &Shared, pending: Pending, why: &str) {
    let mut results = locked(&shared.results);
    let path = pending.job.path;
    match pending.job.task {
        Task::Send(_) => results.left.push(format!("{path}: it cannot be written: {why}")),
        // The receiver had listed or written it before, so its copy is damaged.
        Task::Read | Task::ReadBack(..) => results.damaged.push(path),
    }
}

/// Maps the receiver's exit status to that of the sender. Those about data, files, locks and permissions are kept; any
/// other, such as that of a wrong command line or a bug, counts as the failure of another program.
fn exit_of(number: u8) -> Exit {
    [Exit::Data, Exit::Io, Exit::Busy, Exit::Permission]
        .into_iter()
        .find(|exit| *exit as u8 == number)
        .unwrap_or(Exit::Unavailable)
}
