//! Reads a password from the first line of a regular file, or of a pipe such as a shell's `<(pass show synapse)`.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use ess_run::Report;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use secrecy::SecretString;
use zeroize::Zeroizing;

use crate::{Console, Exit, Stop};

/// How long to wait for data in a pipe: a person may have to unlock a password store first.
const PATIENCE: Duration = Duration::from_secs(120);

/// How often to check for a signal.
const STEP: Duration = Duration::from_millis(100);

/// The first line of a password file, without its line break.
pub struct PasswordFile {
    /// The password.
    pub password: SecretString,
    /// Whether it came from a pipe, from which another program can no longer read it.
    pub is_spent: bool,
}

impl PasswordFile {
    /// Reads a regular file, or a pipe up to the end of its first line.
    pub fn read(path: &Path, console: &Console) -> anyhow::Result<Self> {
        let failed = || format!("cannot read the password file {}", path.display());
        let found = std::fs::metadata(path).with_context(failed)?;
        let is_spent = found.file_type().is_fifo();
        // Only others, not the group: Kubernetes gives the group access to a mounted Secret (`fsGroup`). libpq itself
        // ignores a password file that the group can access (passwordFromFile in fe-connect.c).
        if found.is_file() && found.mode() & 0o007 != 0 {
            console.note(&format!(
                "other users can access the password file {} (mode {:o}); chmod 600 prevents that",
                path.display(),
                found.mode() & 0o777
            ));
        }
        let content = if is_spent {
            first_of_pipe(path, console).with_context(failed)?
        } else {
            ess_files::read(path, ess_files::SECRET).with_context(failed)?
        };
        let text = str::from_utf8(&content)
            .map_err(|_| Stop::usage(format!("the password file {} is not UTF-8", path.display())))?;
        let line = text.lines().next().unwrap_or_default();
        if line.is_empty() {
            return Err(Stop::usage(format!("the password file {} is empty", path.display())).into());
        }
        if line.contains('\0') {
            return Err(Stop::usage(format!("the password file {} contains a NUL character", path.display())).into());
        }
        if is_spent {
            console.note(&format!(
                "the password was read from the pipe {}, which is not recorded in the document: each program of the \
                 pipeline needs the option",
                path.display()
            ));
        }
        Ok(Self {
            password: SecretString::from(line),
            is_spent,
        })
    }
}

/// Reads a pipe up to the end of its first line or of the pipe.
fn first_of_pipe(path: &Path, console: &Console) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    // Open without waiting for a writer; wait below instead, where a signal ends the wait.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut pipe = File::from(rustix::fs::open(path, flags, Mode::empty()).map_err(std::io::Error::from)?);
    let limit = usize::try_from(ess_files::SECRET)?;
    let mut content = Zeroizing::new(Vec::with_capacity(limit + 1));
    let step = Timespec::try_from(STEP)?;
    let mut waited = Duration::ZERO;
    loop {
        ess_run::stop_if_interrupted()?;
        let ready = match poll(&mut [PollFd::new(&pipe, PollFlags::IN)], Some(&step)) {
            // Interrupted by a signal, which the next iteration handles.
            Err(rustix::io::Errno::INTR) => continue,
            ready => ready.map_err(std::io::Error::from)?,
        };
        if ready == 0 {
            waited += STEP;
            if waited == STEP * 20 {
                console.note(&format!("waiting for a password in the pipe {}", path.display()));
            }
            if waited >= PATIENCE {
                let message = format!("no data in the pipe for {} s", PATIENCE.as_secs());
                return Err(Stop::new(Exit::Io, message).into());
            }
            continue;
        }
        let mut piece = Zeroizing::new([0; 4096]);
        let n = match pipe.read(&mut *piece) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => continue,
            read => read?,
        };
        content.extend_from_slice(&piece[..n]);
        if content.len() > limit {
            return Err(Stop::new(Exit::Io, "the first line is longer than 64 KiB").into());
        }
        if n == 0 || piece[..n].contains(&b'\n') {
            return Ok(content);
        }
    }
}
