//! Writing to standard output and standard error, such that a signal ends the wait for an unresponsive reader.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// A pipe that poll(2) reports as writable accepts this many bytes without blocking (`PIPE_BUF` of Linux, pipe(7)).
const PIECE: usize = 4096;

/// How often to check for a signal.
const STEP: Duration = Duration::from_millis(100);

/// Writes all bytes.
///
/// # Errors
///
/// The system's error; after a signal, that the bytes were not read within `patience`.
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
            // Interrupted by a signal, which the next iteration handles. Writing now could block forever.
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
