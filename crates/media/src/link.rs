//! How frames get across: by channels within a process, by two byte streams to another.

use std::io::{self, BufReader, BufWriter, Read, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

use ess_cli::Exit;

use crate::frame::{CHUNK, Frame};

/// Frames that wait for the other half: a few megabytes at most.
const WAITING: usize = 16;

/// How often it is seen whether there is room for a frame: a disk or a network takes many in that time.
const STEP: Duration = Duration::from_millis(2);

/// One half's end.
pub(crate) struct Link {
    pub(crate) out: Out,
    pub(crate) incoming: Receiver<Frame>,
}

/// Where frames go: a channel that does not wait for ever. The standard library's has no such wait.
#[derive(Clone)]
pub(crate) struct Out {
    to: SyncSender<Frame>,
    /// How long the other half may take nothing.
    limit: Duration,
}

/// A frame that the other half did not take.
#[derive(Debug)]
pub(crate) struct Untaken;

impl Out {
    /// Waits until there is room.
    ///
    /// # Errors
    ///
    /// The other half has ended, has taken nothing for the limit, or a signal has come.
    pub(crate) fn send(&self, frame: Frame) -> Result<(), Untaken> {
        let mut frame = frame;
        let mut waited = Duration::ZERO;
        loop {
            match self.to.try_send(frame) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Disconnected(_)) => return Err(Untaken),
                Err(TrySendError::Full(back)) => frame = back,
            }
            // Counted, not measured: while we ourselves are stopped nobody is late.
            if waited >= self.limit || ess_run::interrupted().is_some() {
                return Err(Untaken);
            }
            thread::sleep(STEP);
            waited += STEP;
        }
    }

    /// Sends it where there is room now; says whether the other half is there.
    pub(crate) fn offer(&self, frame: Frame) -> bool {
        !matches!(self.to.try_send(frame), Err(TrySendError::Disconnected(_)))
    }
}

/// Both ends, without a stream between them. The first gives the second up when that takes nothing for `limit`; the
/// second waits for the first, which is of the same process.
pub(crate) fn pair(limit: Duration) -> (Link, Link) {
    let (to_second, from_first) = sync_channel(WAITING);
    let (to_first, from_second) = sync_channel(WAITING);
    let end = |to, incoming, limit| Link {
        out: Out { to, limit },
        incoming,
    };
    (
        end(to_second, from_second, limit),
        end(to_first, from_first, Duration::MAX),
    )
}

/// Writes frames until nobody sends any more.
pub(crate) fn write_all(frames: &Receiver<Frame>, to: &mut dyn Write) -> io::Result<()> {
    let mut to = BufWriter::with_capacity(CHUNK, to);
    loop {
        let frame = match frames.try_recv() {
            Ok(frame) => frame,
            Err(TryRecvError::Disconnected) => return to.flush(),
            Err(TryRecvError::Empty) => {
                to.flush()?;
                let Ok(frame) = frames.recv() else { return Ok(()) };
                frame
            }
        };
        frame.write(&mut to)?;
    }
}

/// Lets the other half know that this one is there, whatever else takes long, until the other end of `over` is dropped.
pub(crate) fn keep_alive(out: &Out, idle: Duration, over: &Receiver<()>) {
    // One may be late.
    while over.recv_timeout(idle / 4) == Err(RecvTimeoutError::Timeout) {
        // Where no more fits there is enough to hear.
        if !out.offer(Frame::Alive) {
            return;
        }
    }
}

/// Reads frames until the stream ends, or nobody takes them any more. A broken stream is a frame too.
pub(crate) fn read_all(from: &mut dyn Read, to: &Out) {
    let mut from = BufReader::with_capacity(CHUNK, from);
    loop {
        let frame = match Frame::read(&mut from) {
            Ok(Some(frame)) => frame,
            Ok(None) => return,
            Err(error) => {
                let (exit, why) = match error.kind() {
                    io::ErrorKind::TimedOut => (Exit::Unavailable, format!("the receiver has fallen silent: {error}")),
                    _ => (Exit::Io, error.to_string()),
                };
                let exit = exit as u8;
                let _ = to.send(Frame::Failed { exit, why });
                return;
            }
        };
        if to.send(frame).is_err() {
            return;
        }
    }
}
