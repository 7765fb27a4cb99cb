//! The document on standard input, and signals.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use ess_document::{Document, MAX_BYTES, ReadError};
use ess_run::Report;
use rustix::fs::FileType;
use rustix::pipe::{SpliceFlags, tee};

use crate::args::Common;
use crate::{Console, Stop};

/// Whether an empty pipe on standard input is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EmptyPipe {
    /// It is: the previous program of the pipeline failed.
    Fails,
    /// It is not, for tools that are started by cron, whose standard input is an empty pipe.
    IsNoDocument,
}

/// Reads the document on standard input, if there is one.
pub(crate) fn read(common: &Common, empty_pipe: EmptyPipe, console: &Console) -> anyhow::Result<Option<Document>> {
    if common.no_input || !is_pipe_or_file() {
        return Ok(None);
    }
    let bytes = read_all(console)?;
    match Document::parse(&bytes) {
        Err(ReadError::Empty) if empty_pipe == EmptyPipe::IsNoDocument => Ok(None),
        // Every later program of a pipeline prints this, so it is short: the first error is the one to read.
        Err(ReadError::Empty) => {
            Err(Stop::data("standard input contains no document: the previous program failed, or -n is missing").into())
        }
        parsed => Ok(Some(parsed.map_err(|error| {
            anyhow::Error::from(error).context("cannot read the document on standard input")
        })?)),
    }
}

/// Notes that a document on standard input was not read, because of `-n`.
pub(crate) fn note_ignored(common: &Common, console: &Console) {
    if common.no_input && peek().is_some_and(|start| Document::is_start_of_one(&start)) {
        console.note("the document on standard input was ignored, because of -n");
    }
}

/// The start of what waits in standard input, which stays there: with -n it belongs to the calling script.
fn peek() -> Option<Vec<u8>> {
    let mut start = vec![0; 4096];
    let file = File::from(io::stdin().as_fd().try_clone_to_owned().ok()?);
    let length = match FileType::from_raw_mode(rustix::fs::fstat(&file).ok()?.st_mode) {
        FileType::RegularFile => file.read_at(&mut start, 0).ok()?,
        FileType::Fifo => {
            let (mut reader, writer) = io::pipe().ok()?;
            tee(&file, &writer, start.len(), SpliceFlags::NONBLOCK).ok()?;
            drop(writer);
            reader.read(&mut start).ok()?
        }
        _ => return None,
    };
    start.truncate(length);
    Some(start)
}

/// Whether standard input is a pipe or a file, not a terminal, /dev/null, a socket or closed.
fn is_pipe_or_file() -> bool {
    rustix::fs::fstat(io::stdin()).is_ok_and(|stat| {
        matches!(
            FileType::from_raw_mode(stat.st_mode),
            FileType::Fifo | FileType::RegularFile
        )
    })
}

const WAITING: &str = "waiting for a document on standard input (use -n to read none)";

/// Reads in a separate thread: the first program of a pipeline may take long, and a signal must still end this one.
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
                return Err(anyhow::anyhow!("the thread that reads standard input has ended"));
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                ess_run::stop_if_interrupted()?;
                waited += step;
                // Usual in a pipeline, where a terminal shows the progress of the program that works. In a log, it could
                // be an inherited pipe in which nothing ever comes.
                if waited == step * 20 {
                    console.detail(WAITING);
                } else if waited == step * 600 && !console.is_terminal() {
                    console.note(WAITING);
                }
            }
        }
    }
}

/// How long the process can clean up after a signal: less than the 30 seconds that Kubernetes grants a container by
/// default. What takes longer cannot be interrupted, such as a call to an unresponsive file system.
const GRACE: Duration = Duration::from_secs(20);

/// SIGINT, SIGTERM, SIGHUP and SIGQUIT become an interruption; a second one, or the end of [`GRACE`], ends the process at
/// once.
///
/// SIGINT, SIGHUP and SIGQUIT that were ignored when this process started have no effect, as nohup(1) and the `&` of a
/// shell without job control promise. They are caught all the same, because a child inherits that a signal is ignored,
/// and a server that is starting must end by SIGQUIT.
pub(crate) fn listen_to_signals() {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
    let ignored: Vec<i32> = [SIGINT, SIGHUP, SIGQUIT]
        .into_iter()
        .filter(|signal| is_ignored(*signal))
        .collect();
    // Without a listener a signal still ends the process, but without cleaning up.
    let Ok(mut signals) = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP, SIGQUIT]) else {
        return;
    };
    let (came, first) = mpsc::channel();
    // Start this thread now: when it is needed, there may be no resources left to start one.
    thread::spawn(move || {
        if let Ok(signal) = first.recv() {
            thread::sleep(GRACE);
            die_by(signal);
        }
    });
    thread::spawn(move || {
        for signal in signals.forever().filter(|signal| !ignored.contains(signal)) {
            if ess_run::interrupted().is_some() {
                // A terminal that closes can send several.
                if signal == SIGHUP {
                    continue;
                }
                die_by(signal);
            }
            let _ = came.send(signal);
            ess_run::interrupt(signal);
        }
    });
}

/// Ends the process as if it had not caught the signal, but without a core file, which would contain secrets.
fn die_by(signal: i32) {
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    let _ = signal_hook::low_level::emulate_default_handler(signal);
}

/// Whether this process ignores the signal (`SigIgn` in proc(5)).
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

/// After the clean-up, ends the process by the signal that interrupted it, so that the shell sees the real cause.
pub(crate) fn die_if_interrupted() {
    if let Some(interrupted) = ess_run::interrupted() {
        die_by(interrupted.signal);
    }
}

/// Refuses a document in which the section of another tool records a negative result.
pub(crate) fn refuse_a_no(document: &Document, own_section: &str) -> Result<(), Stop> {
    match document.refusal() {
        Some((section, answer)) if section != own_section => Err(Stop::no(format!(
            "cannot continue with this document: `{section}` {answer}"
        ))),
        _ => Ok(()),
    }
}
