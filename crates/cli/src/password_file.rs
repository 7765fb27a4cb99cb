//! A file whose first line is a password: a regular file, or a pipe such as a shell's `<(pass show synapse)`.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use ess_run::Report;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use secrecy::SecretString;
use zeroize::Zeroizing;

use crate::{Console, Exit, Stop};

/// How long a pipe may hold nothing: a person may have to open a store of passwords first.
const PATIENCE: Duration = Duration::from_secs(120);

/// How often it is seen whether a signal has come.
const STEP: Duration = Duration::from_millis(100);

/// The first line of a password file, without its end.
pub struct PasswordFile {
    /// The password.
    pub password: SecretString,
    /// It came from a pipe, which holds nothing any more: another program cannot read it there.
    pub is_spent: bool,
}

impl PasswordFile {
    /// Reads a regular file, or what comes in a pipe up to the end of its first line.
    pub fn read(path: &Path, console: &Console) -> anyhow::Result<Self> {
        let failed = || format!("cannot read the password file {}", path.display());
        let is_spent = std::fs::metadata(path).with_context(failed)?.file_type().is_fifo();
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
            return Err(Stop::usage(format!("the password file {} holds a NUL character", path.display())).into());
        }
        if is_spent {
            console.note(&format!(
                "the password came through the pipe {}, and is not noted in the document: give the option to each \
                 program of the pipeline",
                path.display()
            ));
        }
        Ok(Self {
            password: SecretString::from(line),
            is_spent,
        })
    }
}

/// What comes in a pipe until a line or the pipe ends.
fn first_of_pipe(path: &Path, console: &Console) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    // Opened without waiting for a writer, and waited for below where a signal ends it.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut pipe = File::from(rustix::fs::open(path, flags, Mode::empty()).map_err(std::io::Error::from)?);
    let limit = usize::try_from(ess_files::SECRET)?;
    let mut content = Zeroizing::new(Vec::with_capacity(limit + 1));
    let step = Timespec::try_from(STEP)?;
    let mut waited = Duration::ZERO;
    loop {
        ess_run::check()?;
        let ready = match poll(&mut [PollFd::new(&pipe, PollFlags::IN)], Some(&step)) {
            // By the signal that the next round sees.
            Err(rustix::io::Errno::INTR) => continue,
            ready => ready.map_err(std::io::Error::from)?,
        };
        if ready == 0 {
            waited += STEP;
            if waited == STEP * 20 {
                console.note(&format!("waiting for a password in the pipe {}", path.display()));
            }
            if waited >= PATIENCE {
                let message = format!("nothing came in the pipe for {} s", PATIENCE.as_secs());
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
            return Err(Stop::new(Exit::Io, "more than 64 KiB came without the end of a line").into());
        }
        if n == 0 || piece[..n].contains(&b'\n') {
            return Ok(content);
        }
    }
}
