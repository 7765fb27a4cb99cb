//! Standard input and signals.

use std::io::{self, Read};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use ess_document::{Document, MAX_BYTES, ReadError};
use ess_run::Report;
use rustix::fs::FileType;

use crate::context::Common;
use crate::{Console, Stop};

/// Whether a pipe in which nothing comes is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EmptyPipe {
    /// The program before this one failed.
    Fails,
    /// cron's standard input is an empty pipe.
    StartsAnew,
}

/// Reads the document on standard input, if there is one.
pub(crate) fn read(common: &Common, empty_pipe: EmptyPipe, console: &Console) -> anyhow::Result<Option<Document>> {
    if common.no_input || !holds_a_document() {
        return Ok(None);
    }
    let bytes = read_all(console)?;
    match Document::parse(&bytes) {
        Err(ReadError::Empty) if empty_pipe == EmptyPipe::StartsAnew => Ok(None),
        parsed => Ok(Some(parsed.map_err(|error| {
            anyhow::Error::from(error).context("cannot read the document on standard input")
        })?)),
    }
}

/// A pipe or a file; a terminal, /dev/null, a socket or a closed descriptor holds none.
fn holds_a_document() -> bool {
    rustix::fs::fstat(io::stdin()).is_ok_and(|stat| {
        matches!(
            FileType::from_raw_mode(stat.st_mode),
            FileType::Fifo | FileType::RegularFile
        )
    })
}

/// On a thread of its own: a pipeline waits long for its first program, and a signal must still end us.
fn read_all(console: &Console) -> anyhow::Result<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let outcome = io::stdin().take(MAX_BYTES + 1).read_to_end(&mut bytes).map(|_| bytes);
        let _ = sender.send(outcome);
    });
    let mut waited = Duration::ZERO;
    let step = Duration::from_millis(100);
    loop {
        match receiver.recv_timeout(step) {
            Ok(outcome) => {
                let bytes = outcome.map_err(|error| {
                    anyhow::Error::from(error).context("cannot read the document on standard input")
                })?;
                if bytes.len() as u64 > MAX_BYTES {
                    return Err(
                        anyhow::Error::from(ReadError::TooLarge).context("cannot read the document on standard input")
                    );
                }
                return Ok(bytes);
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                return Err(anyhow::anyhow!("the reader of standard input is gone"));
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                ess_run::check()?;
                waited += step;
                if waited == step * 20 {
                    console.note("waiting for a document on standard input (-n reads none)");
                }
            }
        }
    }
}

/// How long after a signal the process may clean up: less than a container has before it is killed. What waits longer
/// waits for something that no flag ends, such as a file system that does not answer.
const GRACE: Duration = Duration::from_secs(20);

/// SIGINT, SIGTERM and SIGHUP become an interruption; a second one, or the end of [`GRACE`], ends the process at once.
pub(crate) fn listen_to_signals() {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    // Without a listener a signal still ends the process, only less tidily.
    let Ok(mut signals) = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP]) else {
        return;
    };
    let (came, first) = mpsc::channel();
    // Made now: when there is no room for one more thread is when it is needed.
    thread::spawn(move || {
        if let Ok(signal) = first.recv() {
            thread::sleep(GRACE);
            let _ = signal_hook::low_level::emulate_default_handler(signal);
        }
    });
    thread::spawn(move || {
        for signal in signals.forever() {
            if ess_run::interrupted().is_some() {
                let _ = signal_hook::low_level::emulate_default_handler(signal);
            }
            let _ = came.send(signal);
            ess_run::interrupt(signal);
        }
    });
}

/// After the clean-up, dies of the signal that interrupted us: the shell sees the truth.
pub(crate) fn die_if_interrupted() {
    if let Some(interrupted) = ess_run::interrupted() {
        let _ = signal_hook::low_level::emulate_default_handler(interrupted.signal);
    }
}

/// Refuses a document in which another tool said no.
pub(crate) fn refuse_a_no(document: &Document, own_section: &str) -> Result<(), Stop> {
    match document.refusal() {
        Some((section, answer)) if section != own_section => {
            Err(Stop::no(format!("the document says no: `{section}` {answer}")))
        }
        _ => Ok(()),
    }
}
