//! Writing to standard output and standard error, such that a signal ends the wait for an unresponsive reader.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;

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

/// Whether a standard stream was closed when the program started.
///
/// Rust's runtime then replaces it by /dev/null, opened for reading and writing (`sanitize_standard_fds` in
/// `library/std/src/sys/pal/unix/mod.rs`), while a shell's `> /dev/null` opens it for writing only.
pub(crate) fn discards(stream: &impl AsFd) -> bool {
    let null = std::fs::metadata("/dev/null").map(|null| null.rdev());
    let is_null = rustix::fs::fstat(stream).is_ok_and(|stat| null.is_ok_and(|null| stat.st_rdev == null));
    is_null && rustix::fs::fcntl_getfl(stream).is_ok_and(|flags| flags.contains(OFlags::RDWR))
}
