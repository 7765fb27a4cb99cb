//! Locks, so that only one run at a time works on an export or a dump.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::Path;

use anyhow::Context;
use rustix::fs::{FlockOperation, Mode, OFlags};

use ess_stop::{Exit, Stop};

/// A lock file, held until dropped. The kernel releases it when the process dies.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock, or returns an error that names its holder.
    pub fn take(path: &Path, tool: &str) -> anyhow::Result<Self> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = rustix::fs::open(path, flags, Mode::from_raw_mode(0o600))
            .map_err(std::io::Error::from)
            .with_context(|| format!("cannot open {}", path.display()))?;
        let mut file = File::from(opened);
        let kind = file
            .metadata()
            .with_context(|| format!("cannot inspect {}", path.display()))?
            .file_type();
        if !kind.is_file() {
            let message = format!(
                "cannot lock {}: it is {}, not a regular file",
                path.display(),
                crate::noun(kind)
            );
            return Err(Stop::new(Exit::Io, message).into());
        }
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                let _ = file.take(200).read_to_string(&mut holder);
                let holder = if holder.is_empty() {
                    "another run"
                } else {
                    holder.trim_end()
                };
                let message = format!("{holder} holds the lock {}", path.display());
                return Err(Stop::new(Exit::Busy, message)
                    .hint("wait for that run, or stop it")
                    .into());
            }
            Err(error) => {
                return Err(std::io::Error::from(error)).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
        let _ = file.set_len(0);
        let _ = file.rewind();
        // Names the holder in other runs' messages only; the lock itself is the kernel's.
        let _ = writeln!(file, "{tool} (process {})", std::process::id());
        Ok(Self { _file: file })
    }
}
