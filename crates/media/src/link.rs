//! Transport of frames: through channels within a process, over two byte streams to another process.

use std::io::{self, BufReader, BufWriter, Read, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

use ess_cli::Exit;

use crate::frame::{CHUNK, Frame};

/// Capacity of a channel, in frames: a few megabytes at most.
const WAITING: usize = 16;

/// How long to wait before a full channel is tried again: a disk or a network accepts many frames in that time.
const STEP: Duration = Duration::from_millis(2);

/// One side's end of the connection.
pub(crate) struct Link {
    pub(crate) out: Out,
    pub(crate) incoming: Receiver<Frame>,
}

/// Sends frames into a channel, waiting for a limited time only. The standard library's stable [`SyncSender`] has no
/// such method.
#[derive(Clone)]
pub(crate) struct Out {
    to: SyncSender<Frame>,
    /// How long the other side may accept nothing.
    limit: Duration,
}

/// The other side did not accept a frame.
#[derive(Debug)]
pub(crate) struct Untaken;

impl Out {
    /// Waits until there is room.
    ///
    /// # Errors
    ///
    /// If the other side has ended or has accepted nothing for the limit, or if a signal was received.
    pub(crate) fn send(&self, frame: Frame) -> Result<(), Untaken> {
        let mut frame = frame;
        let mut waited = Duration::ZERO;
        loop {
            match self.to.try_send(frame) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Disconnected(_)) => return Err(Untaken),
                Err(TrySendError::Full(back)) => frame = back,
            }
            // Count steps rather than measure time: time during which this process itself is stopped does not count.
            if waited >= self.limit || ess_run::interrupted().is_some() {
                return Err(Untaken);
            }
            thread::sleep(STEP);
            waited += STEP;
        }
    }

    /// Sends the frame if there is room for it now; returns whether the other side still exists.
    pub(crate) fn offer(&self, frame: Frame) -> bool {
        !matches!(self.to.try_send(frame), Err(TrySendError::Disconnected(_)))
    }
}

/// Both ends, without a stream between them. The first stops waiting when the second accepts nothing for `limit`; the
/// second waits for the first without limit, because it is in the same process.
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

/// Writes frames until every sending end of the channel is dropped.
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

/// Sends keep-alives, whatever else takes long, until the other end of `over` is dropped.
pub(crate) fn keep_alive(out: &Out, idle: Duration, over: &Receiver<()>) {
    // More often than necessary, so that one may be late.
    while over.recv_timeout(idle / 4) == Err(RecvTimeoutError::Timeout) {
        // In a full channel other frames serve as keep-alives.
        if !out.offer(Frame::Alive) {
            return;
        }
    }
}

/// Reads frames until the stream ends or `to` fails. A broken stream is passed on as a `Failed` frame.
pub(crate) fn read_all(from: &mut dyn Read, to: &Out) {
    let mut from = BufReader::with_capacity(CHUNK, from);
    loop {
        let frame = match Frame::read(&mut from) {
            Ok(Some(frame)) => frame,
            Ok(None) => return,
            Err(error) => {
                let (exit, why) = match error.kind() {
                    io::ErrorKind::TimedOut => (Exit::Unavailable, format!("the receiver is unresponsive: {error}")),
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
