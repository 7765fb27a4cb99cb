//! How frames get across: by channels within a process, by two byte streams to another.

use std::io::{self, BufReader, BufWriter, Read, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::time::Duration;

use ess_cli::Exit;

use crate::frame::{CHUNK, Frame};

/// Frames that wait for the other half: a few megabytes at most.
const WAITING: usize = 16;

/// One half's end.
pub(crate) struct Link {
    pub(crate) out: SyncSender<Frame>,
    pub(crate) incoming: Receiver<Frame>,
}

/// Both ends, without a stream between them.
pub(crate) fn pair() -> (Link, Link) {
    let (to_receiver, from_sender) = sync_channel(WAITING);
    let (to_sender, from_receiver) = sync_channel(WAITING);
    let end = |out, incoming| Link { out, incoming };
    (end(to_receiver, from_receiver), end(to_sender, from_sender))
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
pub(crate) fn keep_alive(out: &SyncSender<Frame>, idle: Duration, over: &Receiver<()>) {
    // One may be late.
    while over.recv_timeout(idle / 4) == Err(RecvTimeoutError::Timeout) {
        // Where no more fits there is enough to hear.
        if let Err(TrySendError::Disconnected(_)) = out.try_send(Frame::Alive) {
            return;
        }
    }
}

/// Reads frames until the stream ends, or nobody takes them any more. A broken stream is a frame too.
pub(crate) fn read_all(from: &mut dyn Read, to: &SyncSender<Frame>) {
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
