//! What the receiver answers: noted as it comes, for whoever waits for it.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ess_cli::{Exit, Stop};
use ess_document::Amount;
use ess_synapse::media::Kind;

use super::{GO_ON, Job, Pass, Task, gone};
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

/// Files of one lane that are sent and not yet answered: a receiver that answers nothing does not fill our memory.
const UNANSWERED: usize = 1024;

/// Bytes of lists that wait here to be compared. A receiver lists ahead by as many directories as it was asked for,
/// and a directory of a large store has some thousand files of about fifty bytes.
const LISTED: usize = 128 << 20;

/// As much of another's sentence as is shown, in characters.
const SENTENCE: usize = 1000;

/// What a receiver may say because it was asked.
#[derive(Default)]
pub(super) struct Asked {
    pub(super) ready: u32,
    pub(super) lists: u32,
    pub(super) units: u64,
    pub(super) syncs: u32,
    /// Bytes of lists that came and were not yet compared.
    listed: usize,
}

/// What lanes, listener and merger share.
pub(super) struct Shared {
    /// For each lane, in the order of the answers.
    pending: Vec<Mutex<VecDeque<Pending>>>,
    /// One of them has become shorter, or the receiver has ended.
    answered: Condvar,
    pub(super) asked: Mutex<Asked>,
    pub(super) results: Mutex<Results>,
    /// The first thing that the receiver could not do.
    pub(super) failed: Mutex<Option<Stop>>,
    /// Nothing more is heard.
    over: Mutex<bool>,
}

impl Shared {
    pub(super) fn new(lanes: u8) -> Self {
        Self {
            pending: (0..lanes).map(|_| Mutex::default()).collect(),
            answered: Condvar::new(),
            asked: Mutex::default(),
            results: Mutex::default(),
            failed: Mutex::default(),
            over: Mutex::default(),
        }
    }

    /// Notes what a lane is about to ask, once there are few enough questions.
    pub(super) fn expect(&self, lane: u8, pending: Pending) -> anyhow::Result<()> {
        let mut queue = lock(&self.pending[usize::from(lane)]);
        while queue.len() >= UNANSWERED {
            ess_run::check()?;
            if *lock(&self.over) {
                return Err(gone().into());
            }
            let waited = self.answered.wait_timeout(queue, Duration::from_millis(100));
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        queue.push_back(pending);
        Ok(())
    }

    /// A unit of so many bytes is compared.
    pub(super) fn compared(&self, bytes: usize) {
        lock(&self.asked).listed -= bytes;
    }
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
        /// What it takes here, to be given back by [`Shared::compared`].
        bytes: usize,
    },
    Listed,
    Synced,
}

/// Takes everything that comes, at once: nothing here waits for anything. What was not asked for ends the run, so that
/// no more waits here than was asked for.
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
                *lock(&shared.failed) = Some(stop);
                break;
            }
        }
    }
    *lock(&shared.over) = true;
    shared.answered.notify_all();
}

/// What a frame means to the run.
fn judge(frame: Frame, shared: &Shared) -> Result<Option<Event>, Stop> {
    let mut asked = lock(&shared.asked);
    Ok(match frame {
        Frame::Ready { magic } if magic != MAGIC => {
            return Err(strange(&format!("speaks {}, this sender {MAGIC}", sentence(&magic)))
                .hint("use the same release at both ends"));
        }
        Frame::Ready { .. } => {
            asked.ready = asked.ready.checked_sub(1).ok_or_else(|| unasked("Ready"))?;
            Some(Event::Ready)
        }
        Frame::Unit { path, files, last } => {
            if asked.lists == 0 || asked.units == 0 {
                return Err(unasked("Unit"));
            }
            asked.units -= u64::from(last);
            // As they lie in memory, more or less.
            let bytes = files
                .iter()
                .map(|file| file.path.len() + size_of::<Entry>())
                .sum::<usize>()
                + path.len();
            asked.listed += bytes;
            if asked.listed > LISTED {
                let message = format!("lists more than {} MiB of names at a time", LISTED >> 20);
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
            asked.lists = asked.lists.checked_sub(1).ok_or_else(|| unasked("Listed"))?;
            Some(Event::Listed)
        }
        Frame::Synced => {
            asked.syncs = asked.syncs.checked_sub(1).ok_or_else(|| unasked("Synced"))?;
            Some(Event::Synced)
        }
        Frame::Stored { lane, size, sha256 } => {
            let pending = answered(shared, lane).ok_or_else(|| unasked("Stored"))?;
            stored(shared, pending, size, sha256);
            None
        }
        Frame::Refused { lane, why } => {
            let pending = answered(shared, lane).ok_or_else(|| unasked("Refused"))?;
            refused(shared, pending, &sentence(&why));
            None
        }
        Frame::Alive => None,
        Frame::Failed { exit, why } => {
            let exit = exit_of(exit);
            let stop = Stop::new(exit, sentence(&why));
            return Err(match exit {
                Exit::Unavailable => stop.hint(GO_ON),
                _ => stop,
            });
        }
        other => return Err(strange(&format!("said what a sender says: {}", other.name()))),
    })
}

/// The program at the other end is not one of ours, or not well.
fn strange(what: &str) -> Stop {
    Stop::new(Exit::Unavailable, format!("the receiver {what}"))
}

fn unasked(what: &str) -> Stop {
    strange(&format!("answers what it was not asked: {what}"))
        .hint("see whether the program at the other end is media-sync -n --receive of the same release")
}

/// A sentence of another, not longer than one.
fn sentence(text: &str) -> String {
    text.chars().take(SENTENCE).collect()
}

fn answered(shared: &Shared, lane: u8) -> Option<Pending> {
    let pending = lock(shared.pending.get(usize::from(lane))?).pop_front();
    shared.answered.notify_all();
    pending
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

/// What the receiver's exit status means here. Only what is true of files, locks and permissions on its host is our own
/// status too: its command line and its bugs are those of a program that failed.
fn exit_of(number: u8) -> Exit {
    [Exit::Data, Exit::Io, Exit::Busy, Exit::Permission]
        .into_iter()
        .find(|exit| *exit as u8 == number)
        .unwrap_or(Exit::Unavailable)
}
