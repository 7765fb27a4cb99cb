//! Directories that a rehearsal fills with the source's data: private, marked as its own, and removed at its end.

use std::fs::{self, DirEntry, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use ess_files::Lock;
use ess_stop::{Exit, Stop};

/// The file that shows that a rehearsal uses a directory. While it runs, it holds its lock.
const MARK: &str = ".ess-rehearsal";

/// A directory of this run. When it is dropped, it is removed, unless it is to be kept.
pub(crate) struct Directory {
    path: PathBuf,
    keep: bool,
    _lock: Lock,
}

impl Directory {
    /// Creates a directory, or empties one that an earlier rehearsal left. An empty directory of this user can be used
    /// too.
    ///
    /// # Errors
    ///
    /// It is of another program or user, or of a rehearsal that still runs; or the file system reports an error.
    pub(crate) fn claim(path: &Path, keep: bool) -> anyhow::Result<Self> {
        match fs::DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => require_own(path)?,
            created => created.with_context(|| format!("cannot create {}", path.display()))?,
        }
        let mark = path.join(MARK);
        let lock = Lock::take(&mark, "rehearse")?;
        if fs::symlink_metadata(&mark).is_err() {
            // The run that held the lock has just ended, and removed the directory.
            return Err(
                Stop::new(Exit::Busy, format!("another rehearsal was using {}", path.display()))
                    .hint("re-run the same command")
                    .into(),
            );
        }
        let directory = Self {
            path: path.to_owned(),
            keep,
            _lock: lock,
        };
        fs::set_permissions(path, Permissions::from_mode(0o700))
            .and_then(|()| directory.empty())
            .with_context(|| format!("cannot empty {}", path.display()))?;
        Ok(directory)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes everything except the mark. Symbolic links are removed, not followed.
    fn empty(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_name() != MARK {
                remove(&entry)?;
            }
        }
        Ok(())
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        // The mark goes last, so that the next rehearsal removes what this one cannot.
        let removed = self.empty().and_then(|()| fs::remove_file(self.path.join(MARK)));
        let _ = removed.and_then(|()| fs::remove_dir(&self.path));
    }
}

fn remove(entry: &DirEntry) -> io::Result<()> {
    if entry.file_type()?.is_dir() {
        fs::remove_dir_all(entry.path())
    } else {
        fs::remove_file(entry.path())
    }
}

/// Refuses what is there unless it is a directory of this user that is empty or marked.
fn require_own(path: &Path) -> anyhow::Result<()> {
    let failed = || format!("cannot inspect {}", path.display());
    let found = fs::symlink_metadata(path).with_context(failed)?;
    let why = if !found.is_dir() {
        "it is not a directory"
    } else if found.uid() != rustix::process::geteuid().as_raw() {
        "it belongs to another user"
    } else if fs::symlink_metadata(path.join(MARK)).is_ok_and(|mark| mark.is_file())
        || fs::read_dir(path).with_context(failed)?.next().is_none()
    {
        return Ok(());
    } else {
        "it contains files, and no rehearsal created it"
    };
    Err(Stop::no(format!("will not use {}: {why}", path.display()))
        .hint("move it away, or name another directory (--export, --scratch)")
        .into())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::os::unix::fs::symlink;

    use super::*;

    fn why(path: &Path) -> String {
        let refused = Directory::claim(path, false).map(drop).unwrap_err();
        refused.to_string()
    }

    #[test]
    fn a_directory_is_removed_with_all_that_is_in_it_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let (path, other) = (root.path().join("own"), root.path().join("other"));
        fs::create_dir(&other).unwrap();
        fs::write(other.join("file"), "precious").unwrap();

        let directory = Directory::claim(&path, false).unwrap();
        let mode = fs::metadata(directory.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        fs::create_dir_all(path.join("data/base")).unwrap();
        symlink(&other, path.join("data/link")).unwrap();
        symlink(&other, path.join("link")).unwrap();
        assert!(why(&path).contains("holds the lock"));
        drop(directory);

        assert!(!path.exists());
        assert_eq!(fs::read_to_string(other.join("file")).unwrap(), "precious");
    }

    #[test]
    fn what_a_rehearsal_left_is_removed_by_the_next_one() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("own");
        drop(Directory::claim(&path, true).unwrap());
        fs::write(path.join("kept"), "").unwrap();

        let next = Directory::claim(&path, false).unwrap();

        assert!(!path.join("kept").exists());
        drop(next);
        assert!(!path.exists());
    }

    #[test]
    fn what_no_rehearsal_created_is_refused_and_left() {
        let root = tempfile::tempdir().unwrap();
        let full = root.path().join("full");
        fs::create_dir(&full).unwrap();
        fs::write(full.join("file"), "precious").unwrap();
        let link = root.path().join("link");
        symlink(&full, &link).unwrap();

        assert!(why(&full).contains("no rehearsal created it"));
        assert!(why(&link).contains("it is not a directory"));
        assert!(why(&full.join("file")).contains("it is not a directory"));
        assert_eq!(fs::read_to_string(full.join("file")).unwrap(), "precious");

        let empty = root.path().join("empty");
        fs::create_dir(&empty).unwrap();
        drop(Directory::claim(&empty, false).unwrap());
        assert!(!empty.exists());
    }
}
