//! Files with secrets or data: private, never written through a link, and complete once they have their final name.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use ess_stop::{Exit, Stop};
use rustix::fs::{Mode, OFlags};

/// The absolute form of a path that an option names, whether or not it exists. The document records it, so it must be
/// UTF-8.
pub fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    let absolute = std::path::absolute(path).with_context(|| format!("cannot use {}", path.display()))?;
    if absolute.to_str().is_none() {
        return Err(Stop::usage(format!(
            "cannot use {}: the path is not UTF-8, so the document cannot contain it",
            absolute.display()
        ))
        .hint("rename it, or name it through a symbolic link")
        .into());
    }
    Ok(absolute)
}

/// Makes a directory that only this user can enter, or accepts one that is already like that.
pub fn make_directory(path: &Path) -> anyhow::Result<()> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(0o700)) {
        Ok(()) => {
            if let Some(parent) = path.parent() {
                sync_directory(parent)?;
            }
            return Ok(());
        }
        Err(rustix::io::Errno::EXIST) => {}
        Err(error) => {
            return Err(io::Error::from(error)).with_context(|| format!("cannot make directory {}", path.display()));
        }
    }
    let found = fs::symlink_metadata(path).with_context(|| format!("cannot inspect {}", path.display()))?;
    let refuse = |why: &str| Stop::new(Exit::Permission, format!("will not write to {}: {why}", path.display()));
    if !found.is_dir() {
        return Err(refuse("it is not a directory").into());
    }
    if found.uid() != rustix::process::geteuid().as_raw() {
        return Err(refuse("it belongs to another user").into());
    }
    if found.permissions().mode() & 0o077 != 0 {
        let chmod = format!("chmod 700 {}", path.display());
        let hint = hint_for_open(found.mode(), &path.join("export"), &chmod);
        return Err(refuse("other users can access it").hint(hint).into());
    }
    Ok(())
}

/// The next step for a directory with this mode that other users can access: the directory `own` instead of one such as
/// /tmp, whose sticky bit shows that it is shared on purpose; otherwise a directory of its own, or `chmod`.
pub fn hint_for_open(mode: u32, own: &Path, chmod: &str) -> String {
    if mode & 0o1000 == 0 {
        format!("choose a directory of its own, or: {chmod}")
    } else {
        format!("choose a directory of its own, such as {}", own.display())
    }
}

/// Creates a new file that only this user can read; fails if the name exists, even as a dangling link.
pub fn create_file(path: &Path) -> anyhow::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::open(path, flags, Mode::from_raw_mode(0o600))
        .map_err(io::Error::from)
        .with_context(|| format!("cannot create {}", path.display()))?;
    Ok(File::from(opened))
}

/// Writes a file atomically: under a temporary name next to it, synced, then renamed.
///
/// An existing file is replaced.
pub fn write_file(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let partial = path.with_file_name(format!(".{name}.partial"));
    // Left over by a killed run: the caller holds the directory's lock, so no other run is writing it.
    let _ = fs::remove_file(&partial);
    let mut file = create_file(&partial)?;
    let written = file.write_all(content).and_then(|()| file.sync_all());
    let renamed = written.and_then(|()| fs::rename(&partial, path));
    if let Err(error) = renamed {
        let _ = fs::remove_file(&partial);
        return Err(error).with_context(|| format!("cannot write {}", path.display()));
    }
    path.parent().map_or(Ok(()), sync_directory)
}

/// Makes the names in a directory durable (fsync).
pub fn sync_directory(path: &Path) -> anyhow::Result<()> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .with_context(|| format!("cannot sync directory {}", path.display()))
}
