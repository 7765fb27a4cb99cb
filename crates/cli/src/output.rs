//! Writing to standard output and standard error, where a signal ends the wait for somebody who reads.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// A pipe that can be written to takes as much at once (PIPE_BUF of Linux), so that the write does not wait.
const PIECE: usize = 4096;

/// How often it is seen whether a signal has come.
const STEP: Duration = Duration::from_millis(100);

/// Writes all bytes.
///
/// # Errors
///
/// What the system says; after a signal, that nobody took them for `patience`.
pub(crate) fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8], patience: Duration) -> io::Result<()> {
    let step = Timespec::try_from(STEP).map_err(io::Error::other)?;
    let mut waited = Duration::ZERO;
    while !bytes.is_empty() {
        match poll(&mut [PollFd::new(&to, PollFlags::OUT)], Some(&step)) {
            Ok(0) => {
                if let Some(interrupted) = ess_run::interrupted() {
                    waited += STEP;
                    if waited >= patience {
                        return Err(io::Error::other(interrupted));
                    }
                }
                continue;
            }
            Ok(_) => {}
            // By the signal that the next round sees: a write would wait without end.
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        match rustix::io::write(to, &bytes[..bytes.len().min(PIECE)]) {
            Ok(n) => bytes = &bytes[n..],
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
