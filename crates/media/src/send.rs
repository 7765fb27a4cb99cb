//! The sender: compares the store with the copy, and sends what the copy does not have.

mod answers;
mod lane;
mod merge;

use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use ess_cli::{Exit, Stop};
use ess_document::Amount;
use ess_postgres::Session;
use ess_run::{Report, joined, locked};
use ess_synapse::media::MediaKind;

use crate::frame::{Frame, MAGIC, Owner, Sha256 as Digest};
use crate::link::{self, Link, Out};
use crate::pace::Pace;
use crate::rows::Rows;
use crate::tally::Tally;
use answers::{Event, Shared, listen};
use lane::Lane;
use merge::Merge;

/// How many units the receiver may list ahead.
const AHEAD: u32 = 64;

/// Capacity of the lanes' common queue, in files.
const WAITING: usize = 256;

/// How one store is sent.
pub(crate) struct Sending<'a> {
    pub(crate) store: &'a Path,
    pub(crate) kinds: &'a [MediaKind],
    pub(crate) owner: Owner,
    /// How long the receiver may send nothing, in seconds.
    pub(crate) idle: u32,
    pub(crate) lanes: u8,
    pub(crate) pace: &'a Pace,
    pub(crate) delete: bool,
    pub(crate) verify: bool,
    /// Hash here too: data can be damaged on a stream to the receiver, but not within this process.
    pub(crate) hash: bool,
    pub(crate) session: Option<&'a Session>,
    pub(crate) report: &'a dyn Report,
}

impl Sending<'_> {
    /// Sends what the copy does not have; returns the amount that was sent.
    pub(crate) fn run(&self, link: Link, tally: &mut Tally<'_>) -> anyhow::Result<Amount> {
        let Link { out, incoming } = link;
        let shared = Shared::new(self.lanes);
        let (events, happened) = channel();
        let outcome = thread::scope(|scope| {
            let shared = &shared;
            scope.spawn(move || listen(&incoming, shared, &events));
            let (working, over) = channel();
            let (alive, idle) = (out.clone(), Duration::from_secs(self.idle.into()));
            scope.spawn(move || link::keep_alive(&alive, idle, &over));
            let mut talk = Talk {
                sending: self,
                out: &out,
                happened: &happened,
                shared,
                tally,
                rows: Rows::new(self.session),
            };
            let outcome = talk.run();
            // The receiver ends on `Bye` or when every sending end is dropped, and then the listener ends too.
            let _ = match &outcome {
                Ok(()) => out.send(Frame::Bye).is_ok(),
                Err(_) => out.offer(Frame::Bye),
            };
            drop((out, working));
            outcome
        });
        if let Some(stop) = locked(&shared.failed).take()
            && outcome.is_err()
            && ess_run::interrupted().is_none()
        {
            return Err(stop.into());
        }
        outcome?;
        Ok(locked(&shared.results).sent)
    }
}

/// A conversation with a receiver, and its results.
struct Talk<'a, 'f> {
    sending: &'a Sending<'a>,
    out: &'a Out,
    happened: &'a Receiver<Event>,
    shared: &'a Shared,
    tally: &'a mut Tally<'f>,
    rows: Rows<'a>,
}

impl Talk<'_, '_> {
    fn run(&mut self) -> anyhow::Result<()> {
        let Sending {
            owner, idle, report, ..
        } = *self.sending;
        self.send_frame(Frame::Hello {
            magic: MAGIC.to_owned(),
            owner,
            idle,
        })?;
        match self.next()? {
            Event::Ready => {}
            _ => return Err(out_of_order().into()),
        }
        report.stage("copying media", None);
        self.pass(Pass::Copy)?;
        self.repair(Pass::Copy)?;
        if self.sending.verify {
            report.stage("reading both sides", None);
            self.pass(Pass::Verify)?;
            self.repair(Pass::Verify)?;
            self.read_back()?;
        }
        self.take_results()?;
        self.rows.finish(self.tally)?;
        report.done();
        Ok(())
    }

    /// Goes once through the store and the copy.
    fn pass(&mut self, pass: Pass) -> anyhow::Result<()> {
        self.send_frame(Frame::List {
            kinds: self.sending.kinds.iter().map(|kind| kind.name().to_owned()).collect(),
        })?;
        self.send_frame(Frame::More { units: AHEAD })?;
        self.with_lanes(|talk, jobs| {
            let mut merge = Merge {
                talk,
                pass,
                jobs,
                remote: None,
                is_over: false,
                before: String::new(),
                unreadable: Vec::new(),
            };
            merge.run()
        })?;
        self.sync()
    }

    /// Runs the lanes on the jobs that `feed` sends.
    fn with_lanes(
        &mut self,
        feed: impl FnOnce(&mut Self, &SyncSender<Job>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let (sending, shared) = (self.sending, self.shared);
        let (jobs, todo) = sync_channel(WAITING);
        // Only the lanes hold this receiver, so that sending a job fails once every lane has ended.
        let todo = Arc::new(Mutex::new(todo));
        thread::scope(|scope| {
            let lanes: Vec<_> = (0..sending.lanes)
                .map(|number| {
                    let (out, todo) = (self.out.clone(), Arc::clone(&todo));
                    scope.spawn(move || {
                        let lane = Lane {
                            number,
                            sending,
                            out,
                            shared,
                        };
                        lane.work(&todo)
                    })
                })
                .collect();
            drop(todo);
            let sent = feed(self, &jobs);
            drop(jobs);
            let mut outcome = Ok(());
            for lane in lanes {
                let done = joined(lane.join());
                outcome = outcome.and(done);
            }
            // Report the lane's own error rather than the closed channel that follows from it.
            outcome.and(sent)
        })
    }

    /// Sends again the files whose copy differs from the store.
    fn repair(&mut self, pass: Pass) -> anyhow::Result<()> {
        let again = std::mem::take(&mut locked(&self.shared.results).damaged);
        for path in &again {
            self.tally.damaged(path.clone());
        }
        let task = Task::Send(pass);
        self.work_off(again.into_iter().map(|path| Job { path, task }).collect())
    }

    /// Lets the receiver read the files that were sent while both sides were being read.
    fn read_back(&mut self) -> anyhow::Result<()> {
        let unread = std::mem::take(&mut locked(&self.shared.results).unread);
        self.work_off(unread)
    }

    /// Runs jobs after which a damaged file is an error.
    fn work_off(&mut self, work: Vec<Job>) -> anyhow::Result<()> {
        if work.is_empty() {
            return Ok(());
        }
        self.with_lanes(|_, jobs| {
            let mut work = work.into_iter();
            work.try_for_each(|job| jobs.send(job).map_err(|_| gone().into()))
        })?;
        self.sync()?;
        match locked(&self.shared.results).damaged.first() {
            Some(path) => {
                let message = format!("{path} was damaged repeatedly, in transit or on the receiver's disk");
                Err(Stop::new(Exit::Unavailable, message).into())
            }
            None => Ok(()),
        }
    }

    /// Takes over the results so far.
    fn take_results(&mut self) -> anyhow::Result<()> {
        let (digests, left) = {
            let mut results = locked(&self.shared.results);
            (std::mem::take(&mut results.digests), std::mem::take(&mut results.left))
        };
        for what in left {
            self.tally.left(what);
        }
        for (path, sha256) in digests {
            self.rows.read(&path, sha256, self.tally)?;
        }
        Ok(())
    }

    /// Waits until everything that was sent is on disk.
    fn sync(&self) -> anyhow::Result<()> {
        self.send_frame(Frame::Sync)?;
        match self.next()? {
            Event::Synced => Ok(()),
            _ => Err(out_of_order().into()),
        }
    }

    fn send_frame(&self, frame: Frame) -> anyhow::Result<()> {
        {
            let mut requested = locked(&self.shared.requested);
            match &frame {
                Frame::Hello { .. } => requested.ready += 1,
                Frame::List { .. } => requested.lists += 1,
                Frame::More { units } => requested.units += u64::from(*units),
                Frame::Sync => requested.syncs += 1,
                _ => {}
            }
        }
        self.out.send(frame).map_err(|_| gone().into())
    }

    fn next(&self) -> anyhow::Result<Event> {
        loop {
            ess_run::stop_if_interrupted()?;
            match self.happened.recv_timeout(Duration::from_millis(100)) {
                Ok(event) => return Ok(event),
                Err(RecvTimeoutError::Disconnected) => return Err(gone().into()),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// Send the files that differ in size or time.
    Copy,
    /// Also read and compare the others.
    Verify,
}

/// A file for a lane.
struct Job {
    path: String,
    task: Task,
}

/// What a lane does with a file.
#[derive(Clone, Copy)]
enum Task {
    /// Send it, in this pass.
    Send(Pass),
    /// Read it on both sides.
    Read,
    /// Let the receiver read what was sent, which had this size and digest.
    ReadBack(u64, Digest),
}

/// The error if nothing more is known.
const EARLY: &str = "the receiver ended unexpectedly";

const RESUME_HINT: &str = "check the receiver and its host, then re-run the same command; it resumes from here";

/// Whether nothing more is known than that the receiver has ended.
pub(crate) fn is_early(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.to_string() == EARLY)
}

fn out_of_order() -> Stop {
    Stop::new(Exit::Unavailable, "the receiver answered out of order")
}

fn gone() -> Stop {
    Stop::new(Exit::Unavailable, EARLY).hint(RESUME_HINT)
}
