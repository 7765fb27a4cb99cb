//! The receiver: writes the copy.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Condvar, Mutex};
use std::thread::{self, Builder, Scope};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use ess_cli::{Exit, Stop};
use ess_run::{locked, unpoisoned};
use ess_synapse::media::{MediaKind, is_place};
use rustix::fs::Advice;
use sha2::{Digest as _, Sha256};

use crate::frame::{CHUNK, Entry as Listed, Frame, IDLE, LANES, MAGIC, Time};
use crate::link::{self, Link, Out, Untaken};
use crate::tree::Tree;
use crate::walk::{Unit, Walk, kind_of};

/// Capacity of a lane's queue, in frames.
const WAITING: usize = 8;

/// Writes the files that the sender sends into `store`, until it is done. An error is also reported to the sender.
pub(crate) fn receive(store: &Path, link: Link) -> anyhow::Result<()> {
    let Link { out, incoming } = link;
    let outcome = work(store, &incoming, &out);
    if let Err(error) = &outcome {
        let _ = out.send(Frame::Failed {
            exit: ess_cli::exit_of(error) as u8,
            why: format!("{error:#}"),
        });
    }
    outcome
}

fn work(store: &Path, incoming: &Receiver<Frame>, out: &Out) -> anyhow::Result<()> {
    let (failed, failures) = channel();
    let (owner, idle) = match next(incoming, &failures, IDLE)? {
        Some(Frame::Hello { magic, owner, idle }) if magic == MAGIC => (owner, idle.clamp(1, 86_400)),
        Some(Frame::Hello { magic, .. }) => {
            return Err(
                Stop::data(format!("the sender uses protocol {magic}, this receiver {MAGIC}"))
                    .hint("use the same release on both sides")
                    .into(),
            );
        }
        Some(Frame::Failed { why, .. }) => return Err(io::Error::other(why).into()),
        _ => return Err(Stop::data("the other side is not a sender of media-sync").into()),
    };
    let tree = Tree::open(store, owner)?;
    let answer = |frame| out.send(frame).map_err(|_| sender_is_gone());
    answer(Frame::Ready {
        magic: MAGIC.to_owned(),
    })?;
    let credit = Credit::default();
    let is_listing = AtomicBool::new(false);
    let ended = thread::scope(|scope| {
        let (working, over) = channel();
        // On every path out of here: a list may be waiting for credit.
        let _end = EndOfCredit(&credit);
        Builder::new()
            .spawn_scoped(scope, move || {
                link::keep_alive(out, Duration::from_secs(idle.into()), &over);
            })
            .context(NO_THREAD)?;
        let ended = Router {
            scope,
            tree: &tree,
            out,
            credit: &credit,
            is_listing: &is_listing,
            lanes: HashMap::new(),
            failed,
            idle,
        }
        .run(incoming, &failures);
        drop(working);
        ended
    });
    match failures.try_recv() {
        Ok(error) => Err(error),
        Err(_) => ended,
    }
}

const NO_THREAD: &str = "cannot start a thread";

fn sender_is_gone() -> anyhow::Error {
    anyhow!(io::Error::new(io::ErrorKind::BrokenPipe, "the sender has ended"))
}

/// The next frame; `None` when the sender has ended. While no frame arrives, errors of other threads are returned: the
/// sender may be waiting for the very answer that failed.
fn next(incoming: &Receiver<Frame>, failures: &Receiver<anyhow::Error>, idle: u32) -> anyhow::Result<Option<Frame>> {
    // Count steps rather than measure time: time during which this process itself is stopped does not count.
    for _ in 0..u64::from(idle) * 10 {
        ess_run::stop_if_interrupted()?;
        match incoming.recv_timeout(Duration::from_millis(100)) {
            Ok(frame) => return Ok(Some(frame)),
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
            Err(RecvTimeoutError::Timeout) => {
                if let Ok(error) = failures.try_recv() {
                    return Err(error);
                }
            }
        }
    }
    Err(Stop::new(Exit::Unavailable, format!("the sender has sent nothing for {idle} s")).into())
}

/// Hands each frame to its lane.
struct Router<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    tree: &'env Tree,
    out: &'env Out,
    credit: &'env Credit,
    /// Whether a list is being sent: only one at a time.
    is_listing: &'env AtomicBool,
    lanes: HashMap<u8, SyncSender<Order>>,
    failed: Sender<anyhow::Error>,
    /// How long the sender may send nothing, in seconds.
    idle: u32,
}

/// Work for a lane.
enum Order {
    Frame(Frame),
    /// A marker: the lane drops it when everything before it is done.
    Done {
        _done: Sender<()>,
    },
}

impl Router<'_, '_> {
    fn run(mut self, incoming: &Receiver<Frame>, failures: &Receiver<anyhow::Error>) -> anyhow::Result<()> {
        while let Some(frame) = next(incoming, failures, self.idle)? {
            match frame {
                Frame::List { kinds } => self.list(&kinds)?,
                Frame::More { units } => self.credit.add(Some(units)),
                Frame::File { lane, .. }
                | Frame::Data { lane, .. }
                | Frame::End { lane }
                | Frame::Drop { lane }
                | Frame::Hash { lane, .. } => {
                    if self.lane(lane)?.send(Order::Frame(frame)).is_err() {
                        // The lane has ended and reported why.
                        return Ok(());
                    }
                }
                Frame::Remove { path } => {
                    check(&path)?;
                    match self.tree.remove(&path) {
                        Err(error) if error.kind() != io::ErrorKind::NotFound => {
                            return Err(error).with_context(|| format!("cannot remove {path}"));
                        }
                        _ => {}
                    }
                }
                Frame::Sync => {
                    self.wait()?;
                    self.tree
                        .sync()
                        .with_context(|| format!("cannot flush {} to disk", self.tree.path.display()))?;
                    self.out.send(Frame::Synced).map_err(|_| sender_is_gone())?;
                }
                Frame::Alive => {}
                Frame::Bye => return Ok(()),
                Frame::Failed { why, .. } => return Err(io::Error::other(why).into()),
                other => {
                    let message = format!("unexpected frame from the sender: {}", other.name());
                    return Err(Stop::data(message).into());
                }
            }
        }
        Ok(())
    }

    /// Waits until every lane has done its work so far.
    fn wait(&self) -> anyhow::Result<()> {
        let (done, all) = channel();
        for lane in self.lanes.values() {
            let _ = lane.send(Order::Done { _done: done.clone() });
        }
        drop(done);
        while all.recv_timeout(Duration::from_millis(100)) == Err(RecvTimeoutError::Timeout) {
            ess_run::stop_if_interrupted()?;
        }
        Ok(())
    }

    fn lane(&mut self, number: u8) -> anyhow::Result<&SyncSender<Order>> {
        Ok(match self.lanes.entry(number) {
            Entry::Occupied(lane) => lane.into_mut(),
            Entry::Vacant(_) if number >= LANES => {
                let message = format!("the sender uses lane {number}, but there are only {LANES}, numbered from 0");
                return Err(Stop::data(message).into());
            }
            Entry::Vacant(place) => {
                let (orders, todo) = sync_channel(WAITING);
                let (tree, out, failed) = (self.tree, self.out, self.failed.clone());
                Builder::new()
                    .spawn_scoped(self.scope, move || {
                        let mut lane = LaneWriter {
                            number,
                            tree,
                            out,
                            file: None,
                        };
                        for order in todo {
                            // A `Done` is only dropped, which is its signal.
                            if let Order::Frame(frame) = order
                                && let Err(error) = lane.carry_out(frame)
                            {
                                let _ = out.send(Frame::Failed {
                                    exit: ess_cli::exit_of(&error) as u8,
                                    why: format!("{error:#}"),
                                });
                                let _ = failed.send(error);
                                break;
                            }
                        }
                        tree.discard(number);
                    })
                    .context(NO_THREAD)?;
                place.insert(orders)
            }
        })
    }

    fn list(&self, kinds: &[String]) -> anyhow::Result<()> {
        if self.is_listing.swap(true, Ordering::SeqCst) {
            return Err(Stop::data("the sender requested a list before the last one was complete").into());
        }
        self.credit.start();
        let kinds: Vec<MediaKind> = MediaKind::ALL
            .into_iter()
            .filter(|kind| kinds.iter().any(|name| name == kind.name()))
            .collect();
        let (tree, out, credit, failed) = (self.tree, self.out, self.credit, self.failed.clone());
        let is_listing = self.is_listing;
        let list = move || {
            let walk = Walk {
                store: &tree.path,
                kinds: &kinds,
                keep: Some(&|path, metadata| {
                    if let Err(error) = tree.keep(path, metadata) {
                        let what = format!("cannot change the owner of {}", tree.path.join(path).display());
                        let _ = failed.send(anyhow::Error::from(error).context(what));
                    }
                }),
            };
            // Odd entries of the copy do no harm; a file whose place one of them occupies is refused when it arrives.
            let listed = walk.run(&mut |_| {}, &mut |_, unit| {
                if credit.take() {
                    send_unit(unit, out).map_err(|_| Unlisted::SenderGone)
                } else {
                    Err(Unlisted::RunOver)
                }
            });
            // Before `Listed` is sent: the sender may request the next list at once.
            is_listing.store(false, Ordering::SeqCst);
            match listed {
                Ok(()) => drop(out.send(Frame::Listed)),
                Err(Unlisted::SenderGone) => drop(failed.send(sender_is_gone())),
                Err(Unlisted::RunOver) => {}
            }
        };
        Builder::new().spawn_scoped(self.scope, list).context(NO_THREAD)?;
        Ok(())
    }
}

/// Why a list was not sent to its end.
enum Unlisted {
    /// The sender has ended.
    SenderGone,
    /// The run is over.
    RunOver,
}

/// Sends a unit in frames that are smaller than the limit of the protocol.
fn send_unit(unit: Unit, out: &Out) -> Result<(), Untaken> {
    let Unit { path, files, .. } = unit;
    let (mut some, mut size): (Vec<Listed>, usize) = (Vec::new(), 0);
    for file in files {
        size += file.path.len() + 24;
        some.push(file);
        if size > CHUNK {
            size = 0;
            out.send(Frame::Unit {
                path: path.clone(),
                files: std::mem::take(&mut some),
                last: false,
            })?;
        }
    }
    out.send(Frame::Unit {
        path,
        files: some,
        last: true,
    })
}

/// How many units may be sent. The sender grants only as many as it can accept at any time, whatever else it waits for.
#[derive(Default)]
struct Credit(Mutex<(u64, bool)>, Condvar);

impl Credit {
    /// Resets the credit, for a new list.
    fn start(&self) {
        locked(&self.0).0 = 0;
    }

    /// Adds units; with `None`, [`Credit::take`] returns false from now on.
    fn add(&self, units: Option<u32>) {
        let mut credit = locked(&self.0);
        match units {
            Some(units) => credit.0 = credit.0.saturating_add(units.into()),
            None => credit.1 = true,
        }
        self.1.notify_all();
    }

    /// Waits for credit for one unit; false when there will be no more.
    fn take(&self) -> bool {
        let mut credit = locked(&self.0);
        loop {
            if credit.1 {
                return false;
            }
            if credit.0 > 0 {
                credit.0 -= 1;
                return true;
            }
            credit = unpoisoned(self.1.wait(credit));
        }
    }
}

/// Ends the wait for credit, however the run ends.
struct EndOfCredit<'a>(&'a Credit);

impl Drop for EndOfCredit<'_> {
    fn drop(&mut self) {
        self.0.add(None);
    }
}

/// A file that is being received.
struct Partial {
    file: File,
    path: String,
    time: Time,
    size: u64,
    sha256: Sha256,
}

/// Writes files one after another.
struct LaneWriter<'a> {
    number: u8,
    tree: &'a Tree,
    out: &'a Out,
    file: Option<Partial>,
}

impl LaneWriter<'_> {
    fn carry_out(&mut self, frame: Frame) -> anyhow::Result<()> {
        match frame {
            Frame::File { path, time, .. } => {
                check(&path)?;
                self.tree.discard(self.number);
                let file = self
                    .tree
                    .create(self.number)
                    .with_context(|| format!("cannot write {}", self.tree.path.join(&path).display()))?;
                self.file = Some(Partial {
                    file,
                    path,
                    time,
                    size: 0,
                    sha256: Sha256::new(),
                });
            }
            Frame::Data { bytes, .. } => {
                let partial = self.file.as_mut().ok_or_else(out_of_order)?;
                partial
                    .file
                    .write_all(&bytes)
                    .with_context(|| format!("cannot write {}", self.tree.path.join(&partial.path).display()))?;
                partial.size += bytes.len() as u64;
                partial.sha256.update(&bytes);
            }
            Frame::End { .. } => {
                let partial = self.file.take().ok_or_else(out_of_order)?;
                let placed = self.tree.place(self.number, &partial.file, &partial.path, partial.time);
                let stored = Frame::Stored {
                    lane: self.number,
                    size: partial.size,
                    sha256: partial.sha256.finalize().into(),
                };
                self.answer(&partial.path, placed.map(|()| stored))?;
            }
            Frame::Drop { .. } => {
                self.file = None;
                self.tree.discard(self.number);
            }
            Frame::Hash { path, .. } => {
                check(&path)?;
                let read = self.hash(&path);
                self.answer(&path, read)?;
            }
            other => return Err(Stop::data(format!("not for a lane: {}", other.name())).into()),
        }
        Ok(())
    }

    /// Refuses a file for an error that affects only this file; any other error ends the run.
    fn answer(&self, path: &str, done: io::Result<Frame>) -> anyhow::Result<()> {
        use rustix::io::Errno;
        const IN_ITS_WAY: [Errno; 7] = [
            Errno::EXIST,
            Errno::ISDIR,
            Errno::LOOP,
            Errno::NAMETOOLONG,
            Errno::NOENT,
            Errno::NOTDIR,
            Errno::NOTEMPTY,
        ];
        let frame = match done {
            Ok(frame) => frame,
            Err(error) if Errno::from_io_error(&error).is_some_and(|errno| IN_ITS_WAY.contains(&errno)) => {
                self.tree.discard(self.number);
                Frame::Refused {
                    lane: self.number,
                    why: error.to_string(),
                }
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot write {}", self.tree.path.join(path).display()));
            }
        };
        self.out.send(frame).map_err(|_| sender_is_gone())
    }

    fn hash(&self, path: &str) -> io::Result<Frame> {
        let mut file = self.tree.read(path)?;
        // Read from the disk, not from the page cache.
        let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
        let (mut sha256, mut size) = (Sha256::new(), 0);
        let mut chunk = vec![0; CHUNK];
        loop {
            ess_run::stop_if_interrupted().map_err(io::Error::other)?;
            let n = file.read(&mut chunk)?;
            if n == 0 {
                break;
            }
            sha256.update(&chunk[..n]);
            size += n as u64;
        }
        Ok(Frame::Stored {
            lane: self.number,
            size,
            sha256: sha256.finalize().into(),
        })
    }
}

fn out_of_order() -> anyhow::Error {
    Stop::data("the sender continued a file that it had not started").into()
}

/// Refuses paths that Synapse does not use: the sender is not trusted.
fn check(path: &str) -> anyhow::Result<()> {
    let parts: Vec<&str> = path.split('/').collect();
    if is_place(kind_of(path), &parts[1..]) {
        Ok(())
    } else {
        Err(Stop::data(format!("the sender sent a path that Synapse never creates: {path:?}")).into())
    }
}
