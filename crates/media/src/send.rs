//! The half that reads: what lies here, what lies there already, and what has to go over.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use ess_cli::{Exit, Stop};
use ess_document::Amount;
use ess_postgres::Session;
use ess_run::Report;
use ess_synapse::media::Kind;
use rustix::fs::{Mode, OFlags};
use sha2::{Digest as _, Sha256};

use crate::found::{Found, add};
use crate::frame::{CHUNK, Entry, Frame, MAGIC, Owner, Sha256 as Digest, Time};
use crate::link::{self, Link};
use crate::pace::Pace;
use crate::rows::Rows;
use crate::walk::{Odd, Unit, Walk, Why, kind_of, order, time_of};

/// Units that the receiver may be ahead.
const AHEAD: u32 = 64;

/// Files that wait for a lane.
const WAITING: usize = 256;

/// How one store is sent.
pub(crate) struct Sending<'a> {
    pub(crate) store: &'a Path,
    pub(crate) kinds: &'a [Kind],
    pub(crate) owner: Owner,
    /// How long the receiver may say nothing, in seconds.
    pub(crate) idle: u32,
    pub(crate) lanes: u8,
    pub(crate) pace: &'a Pace,
    pub(crate) delete: bool,
    pub(crate) verify: bool,
    /// Hash here too: what goes over a stream may be damaged on its way, what stays in this process cannot.
    pub(crate) hash: bool,
    pub(crate) session: Option<&'a Session>,
    pub(crate) report: &'a dyn Report,
}

impl Sending<'_> {
    /// Makes the copy equal to the store; returns what went over.
    pub(crate) fn run(&self, link: Link, found: &mut Found<'_>) -> anyhow::Result<Amount> {
        let Link { out, incoming } = link;
        let shared = Shared {
            pending: (0..self.lanes).map(|_| Mutex::default()).collect(),
            results: Mutex::default(),
            failed: Mutex::default(),
        };
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
                found,
                rows: Rows::new(self.session),
            };
            let outcome = talk.run();
            // The receiver ends when it is told or when nobody sends, and its end ends the listener.
            let _ = match &outcome {
                Ok(()) => out.send(Frame::Bye).is_ok(),
                Err(_) => out.try_send(Frame::Bye).is_ok(),
            };
            drop((out, working));
            outcome
        });
        if let Some(stop) = shared.failed.lock().unwrap_or_else(PoisonError::into_inner).take()
            && outcome.is_err()
            && ess_run::interrupted().is_none()
        {
            return Err(stop.into());
        }
        outcome?;
        Ok(lock(&shared.results).sent)
    }
}

/// What one says to the receiver, hears from it, and learns.
struct Talk<'a, 'f> {
    sending: &'a Sending<'a>,
    out: &'a SyncSender<Frame>,
    happened: &'a Receiver<Event>,
    shared: &'a Shared,
    found: &'a mut Found<'f>,
    rows: Rows<'a>,
}

impl Talk<'_, '_> {
    fn run(&mut self) -> anyhow::Result<()> {
        let Sending {
            owner, idle, report, ..
        } = *self.sending;
        self.say(Frame::Hello {
            magic: MAGIC.to_owned(),
            owner,
            idle,
        })?;
        match self.next()? {
            Event::Ready => {}
            _ => return Err(Stop::new(Exit::Unavailable, "the receiver does not say that it is one").into()),
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
        self.rows.finish(self.found)?;
        report.done();
        Ok(())
    }

    /// Once through all that lies here and there.
    fn pass(&mut self, pass: Pass) -> anyhow::Result<()> {
        self.say(Frame::List {
            kinds: self.sending.kinds.iter().map(|kind| kind.name().to_owned()).collect(),
        })?;
        self.say(Frame::More { units: AHEAD })?;
        self.with_lanes(|talk, jobs| {
            let mut merge = Merge {
                talk,
                pass,
                jobs,
                theirs: None,
                is_over: false,
                unreadable: Vec::new(),
            };
            merge.run()
        })?;
        self.sync()
    }

    /// Lets lanes work off what `give` hands out.
    fn with_lanes(
        &mut self,
        give: impl FnOnce(&mut Self, &SyncSender<Job>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let (sending, shared) = (self.sending, self.shared);
        let (jobs, todo) = sync_channel(WAITING);
        // Theirs alone: when all have ended, nobody waits for one to take more.
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
            let given = give(self, &jobs);
            drop(jobs);
            let mut outcome = Ok(());
            for lane in lanes {
                let done = lane.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                outcome = outcome.and(done);
            }
            // Why a lane ended says more than that it does.
            outcome.and(given)
        })
    }

    /// Sends once more what did not arrive as it is here.
    fn repair(&mut self, pass: Pass) -> anyhow::Result<()> {
        let again = std::mem::take(&mut lock(&self.shared.results).damaged);
        for path in &again {
            self.found.damaged(path.clone());
        }
        let task = Task::Send(pass);
        self.work_off(again.into_iter().map(|path| Job { path, task }).collect())
    }

    /// Reads there what was sent after all else had been read.
    fn read_back(&mut self) -> anyhow::Result<()> {
        let unread = std::mem::take(&mut lock(&self.shared.results).unread);
        self.work_off(unread)
    }

    /// Does jobs after which nothing more may be damaged.
    fn work_off(&mut self, work: Vec<Job>) -> anyhow::Result<()> {
        if work.is_empty() {
            return Ok(());
        }
        self.with_lanes(|_, jobs| {
            let mut work = work.into_iter();
            work.try_for_each(|job| jobs.send(job).map_err(|_| gone().into()))
        })?;
        self.sync()?;
        match lock(&self.shared.results).damaged.first() {
            Some(path) => {
                let message = format!("{path} arrives damaged again and again");
                Err(Stop::new(Exit::Unavailable, message).into())
            }
            None => Ok(()),
        }
    }

    /// What came back so far.
    fn take_results(&mut self) -> anyhow::Result<()> {
        let (digests, left) = {
            let mut results = lock(&self.shared.results);
            (std::mem::take(&mut results.digests), std::mem::take(&mut results.left))
        };
        for what in left {
            self.found.left(what);
        }
        for (path, sha256) in digests {
            self.rows.read(&path, sha256, self.found)?;
        }
        Ok(())
    }

    /// Waits until all that was sent is on disk.
    fn sync(&self) -> anyhow::Result<()> {
        self.say(Frame::Sync)?;
        while !matches!(self.next()?, Event::Synced) {}
        Ok(())
    }

    fn say(&self, frame: Frame) -> anyhow::Result<()> {
        self.out.send(frame).map_err(|_| gone().into())
    }

    fn next(&self) -> anyhow::Result<Event> {
        loop {
            ess_run::check()?;
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
    /// Send what differs by size or time.
    Copy,
    /// Read the rest too.
    Verify,
}

/// A file that a lane takes.
struct Job {
    path: String,
    task: Task,
}

/// What it is to do with it.
#[derive(Clone, Copy)]
enum Task {
    /// Send it, in that pass.
    Send(Pass),
    /// Read it on both sides.
    Read,
    /// Read there what was sent: so many bytes with that digest.
    ReadBack(u64, Digest),
}

/// What a lane waits to hear of.
struct Pending {
    job: Job,
    size: u64,
    /// By our own reading.
    sha256: Option<Digest>,
}

/// What lanes, listener and merger share.
struct Shared {
    /// For each lane, in the order of the answers.
    pending: Vec<Mutex<VecDeque<Pending>>>,
    results: Mutex<Results>,
    /// The first thing that the receiver could not do.
    failed: Mutex<Option<Stop>>,
}

#[derive(Default)]
struct Results {
    sent: Amount,
    /// Of uploads that were read.
    digests: Vec<(String, Digest)>,
    left: Vec<String>,
    damaged: Vec<String>,
    /// What was sent when all else was read.
    unread: Vec<Job>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Nothing more is known.
const EARLY: &str = "the receiver ended too early";

const GO_ON: &str = "see whether the other side is well, and run the same line again; it goes on from here";

/// Whether all that is known is that the other half has ended.
pub(crate) fn is_early(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.to_string() == EARLY)
}

fn gone() -> Stop {
    Stop::new(Exit::Unavailable, EARLY).hint(GO_ON)
}

/// What the receiver says to all.
enum Event {
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
fn listen(incoming: &Receiver<Frame>, shared: &Shared, events: &Sender<Event>) {
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

/// Two walks in the same order, side by side.
struct Merge<'m, 'a, 'f> {
    talk: &'m mut Talk<'a, 'f>,
    pass: Pass,
    jobs: &'m SyncSender<Job>,
    /// Their next unit.
    theirs: Option<Unit>,
    is_over: bool,
    /// Where something could not be read: nothing is surplus there.
    unreadable: Vec<String>,
}

impl Merge<'_, '_, '_> {
    fn run(&mut self) -> anyhow::Result<()> {
        let sending = self.talk.sending;
        let walk = Walk {
            store: sending.store,
            kinds: sending.kinds,
            keep: None,
        };
        // Told at the end of each unit: both closures need `self`.
        let odd = std::cell::RefCell::new(Vec::new());
        let mut note = |found: Odd| odd.borrow_mut().push(found);
        if self.pass == Pass::Copy {
            walk.beside(&mut note)
                .with_context(|| format!("cannot read the media store {}", sending.store.display()))?;
        }
        self.tell(odd.take());
        walk.run(&mut note, &mut |kind, unit| {
            self.tell(odd.take());
            self.unit(kind, unit)
        })?;
        self.tell(odd.take());
        while let Some(unit) = self.their_next()? {
            self.surplus(&unit)?;
        }
        Ok(())
    }

    fn tell(&mut self, odd: Vec<Odd>) {
        for odd in odd {
            if matches!(odd.why, Why::Unreadable(_)) {
                self.unreadable.push(odd.path.clone());
            }
            if self.pass == Pass::Copy {
                self.talk.found.left(odd.to_string());
            }
        }
    }

    fn unit(&mut self, kind: Kind, ours: Unit) -> anyhow::Result<()> {
        ess_run::check()?;
        let mut there = HashMap::new();
        while let Some(theirs) = self.their_next()? {
            match order(&theirs.path, &ours.path) {
                std::cmp::Ordering::Less => self.surplus(&theirs)?,
                std::cmp::Ordering::Equal => {
                    there = theirs
                        .files
                        .into_iter()
                        .map(|file| (file.path, (file.size, file.time)))
                        .collect();
                    break;
                }
                std::cmp::Ordering::Greater => {
                    self.theirs = Some(theirs);
                    break;
                }
            }
        }
        for file in ours.files {
            let path = format!("{}/{}", ours.path, file.path);
            let is_same = there
                .remove(&file.path)
                .is_some_and(|(size, time)| size == file.size && is_same_time(file.time, time));
            if self.pass == Pass::Copy {
                let Talk { found, rows, .. } = &mut *self.talk;
                found.there(kind, file.size);
                rows.there(&path, found)?;
                if is_same {
                    add(&mut found.unchanged, file.size);
                }
            }
            let task = match self.pass {
                pass if !is_same => Task::Send(pass),
                Pass::Verify => Task::Read,
                Pass::Copy => continue,
            };
            self.jobs.send(Job { path, task }).map_err(|_| gone())?;
        }
        if lock(&self.talk.shared.results).digests.len() >= 1_000 {
            self.talk.take_results()?;
        }
        if !ours.partly {
            let mut names: Vec<&String> = there.keys().collect();
            names.sort_unstable();
            for name in names {
                self.surplus_file(&format!("{}/{name}", ours.path))?;
            }
        }
        Ok(())
    }

    fn surplus(&mut self, theirs: &Unit) -> anyhow::Result<()> {
        let is_hidden = |place: &String| theirs.path == *place || theirs.path.starts_with(&format!("{place}/"));
        if self.unreadable.iter().any(is_hidden) {
            return Ok(());
        }
        for file in &theirs.files {
            self.surplus_file(&format!("{}/{}", theirs.path, file.path))?;
        }
        Ok(())
    }

    fn surplus_file(&mut self, path: &str) -> anyhow::Result<()> {
        if self.pass == Pass::Verify {
            return Ok(());
        }
        self.talk.found.surplus(path.to_owned());
        if self.talk.sending.delete {
            self.talk.found.removed += 1;
            let path = path.to_owned();
            self.talk.say(Frame::Remove { path })?;
        }
        Ok(())
    }

    fn their_next(&mut self) -> anyhow::Result<Option<Unit>> {
        if let Some(unit) = self.theirs.take() {
            return Ok(Some(unit));
        }
        let mut unit = Unit::default();
        while !self.is_over {
            match self.talk.next()? {
                Event::Unit { path, files, last } => {
                    unit.path = path;
                    unit.files.extend(files);
                    if last {
                        self.talk.say(Frame::More { units: 1 })?;
                        return Ok(Some(unit));
                    }
                }
                Event::Listed => self.is_over = true,
                Event::Ready | Event::Synced => {
                    return Err(Stop::data("the receiver answers what nobody has asked").into());
                }
            }
        }
        Ok(None)
    }
}

/// Some file systems keep times to 100 ns, to a microsecond, or to a second only.
fn is_same_time(ours: Time, theirs: Time) -> bool {
    let kept = |step: u32| ours.nanoseconds - ours.nanoseconds % step;
    ours.seconds == theirs.seconds
        && [1, 100, 1_000, 1_000_000_000]
            .into_iter()
            .any(|step| kept(step) == theirs.nanoseconds)
}

/// Reads files and sends them, one after the other.
struct Lane<'a> {
    number: u8,
    sending: &'a Sending<'a>,
    out: SyncSender<Frame>,
    shared: &'a Shared,
}

impl Lane<'_> {
    fn work(&self, todo: &Mutex<Receiver<Job>>) -> anyhow::Result<()> {
        loop {
            let job = lock(todo).recv();
            let Ok(job) = job else { return Ok(()) };
            ess_run::check()?;
            if let Task::ReadBack(size, sha256) = job.task {
                self.ask(job, size, sha256)?;
                continue;
            }
            match open(&self.sending.store.join(&job.path)) {
                Ok(Some((file, time))) if matches!(job.task, Task::Send(_)) => self.send(job, file, time)?,
                Ok(Some((file, _))) => self.read(job, file)?,
                Ok(None) => self.leave(format!("{}: neither a file nor a directory", job.path)),
                // Removed since its name was read.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => self.leave(format!("{}: {error}", job.path)),
            }
        }
    }

    fn send(&self, job: Job, mut file: File, time: Time) -> anyhow::Result<()> {
        let lane = self.number;
        let path = job.path.clone();
        self.give(Frame::File { lane, path, time })?;
        let (mut size, mut sha256) = (0, Sha256::new());
        loop {
            let mut bytes = Vec::with_capacity(CHUNK);
            let read = (&mut file).take(CHUNK as u64).read_to_end(&mut bytes);
            let n = match read {
                Ok(0) => break,
                Ok(n) => n as u64,
                Err(error) => {
                    self.leave(format!("{}: {error}", job.path));
                    return self.give(Frame::Drop { lane });
                }
            };
            self.sending.pace.wait(n)?;
            if self.sending.hash {
                sha256.update(&bytes);
            }
            size += n;
            self.sending.report.advance(n);
            self.give(Frame::Data { lane, bytes })?;
        }
        self.expect(job, size, self.sending.hash.then(|| sha256.finalize().into()));
        self.give(Frame::End { lane })
    }

    fn read(&self, job: Job, mut file: File) -> anyhow::Result<()> {
        let (mut size, mut sha256, mut chunk) = (0, Sha256::new(), vec![0; CHUNK]);
        loop {
            ess_run::check()?;
            match file.read(&mut chunk) {
                Ok(0) => break,
                Ok(n) => {
                    sha256.update(&chunk[..n]);
                    size += n as u64;
                    self.sending.report.advance(n as u64);
                }
                Err(error) => {
                    self.leave(format!("{}: {error}", job.path));
                    return Ok(());
                }
            }
        }
        self.ask(job, size, sha256.finalize().into())
    }

    /// Whether it is the same there.
    fn ask(&self, job: Job, size: u64, sha256: Digest) -> anyhow::Result<()> {
        let (lane, path) = (self.number, job.path.clone());
        self.expect(job, size, Some(sha256));
        self.give(Frame::Hash { lane, path })
    }

    /// Before the other half can have answered.
    fn expect(&self, job: Job, size: u64, sha256: Option<Digest>) {
        lock(&self.shared.pending[usize::from(self.number)]).push_back(Pending { job, size, sha256 });
    }

    fn leave(&self, what: String) {
        lock(&self.shared.results).left.push(what);
    }

    fn give(&self, frame: Frame) -> anyhow::Result<()> {
        self.out.send(frame).map_err(|_| gone().into())
    }
}

/// A file that is one, and its time; no link is followed.
fn open(path: &Path) -> io::Result<Option<(File, Time)>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let metadata = file.metadata()?;
    let time = time_of(&metadata);
    Ok(metadata.is_file().then_some((file, time)))
}
