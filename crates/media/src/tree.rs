//! The copy on disk: private files, complete when they have their final name, written without following links.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use ess_cli::{Exit, Stop};
use ess_files::Lock;
use rustix::fs::{AtFlags, Dir, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid};

use crate::frame::{Owner, Time};
use crate::walk::OURS;

/// Flags to open a directory, but not a link to one.
const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

const PRIVATE: Mode = Mode::RWXU;

/// A media store that is written to, by one run at a time.
pub(crate) struct Tree {
    pub(crate) path: PathBuf,
    root: OwnedFd,
    /// The directory of incomplete files.
    staging: OwnedFd,
    owner: Owner,
    _lock: Lock,
}

impl Tree {
    /// Creates the directory or opens an existing one, and removes the incomplete files of a killed run.
    pub(crate) fn open(path: &Path, owner: Owner) -> anyhow::Result<Self> {
        let failed = || format!("cannot use {}", path.display());
        let path = std::path::absolute(path).with_context(failed)?;
        let made = rustix::fs::mkdir(&path, PRIVATE);
        let root = rustix::fs::open(&path, DIRECTORY, Mode::empty())
            .map_err(io::Error::from)
            .with_context(failed)?;
        set_owner(&root, owner).with_context(failed)?;
        if made.is_err() {
            let found = rustix::fs::fstat(&root).map_err(io::Error::from).with_context(failed)?;
            // Only others, not the group: Kubernetes itself gives a volume's group access (`fsGroup`).
            if found.st_mode & 0o007 != 0 {
                let refused = format!("refusing to write into {}: other users can access it", path.display());
                let chmod = format!("chmod o-rwx {}", path.display());
                let hint = ess_files::hint_for_open(found.st_mode, &path.join("media"), &chmod);
                return Err(Stop::new(Exit::Permission, refused).hint(hint).into());
            }
        }
        let staging = make(&root, OURS, None).with_context(failed)?;
        let lock = Lock::take(&path.join(OURS).join("lock"), "media-sync")?;
        let tree = Self {
            path,
            root,
            staging,
            owner,
            _lock: lock,
        };
        tree.sweep();
        Ok(tree)
    }

    /// Removes incomplete files.
    fn sweep(&self) {
        let Ok(entries) = Dir::read_from(&self.staging) else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            if name.to_bytes().first().is_some_and(u8::is_ascii_digit) {
                let _ = rustix::fs::unlinkat(&self.staging, name, AtFlags::empty());
            }
        }
    }

    /// Creates a lane's file, without its final name.
    pub(crate) fn create(&self, lane: u8) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.staging, lane.to_string(), flags, Mode::RUSR | Mode::WUSR)?;
        Ok(File::from(file))
    }

    /// Gives a lane's file its final name.
    pub(crate) fn place(&self, lane: u8, file: &File, path: &str, time: Time) -> io::Result<()> {
        let times = Timestamps {
            last_access: Timespec {
                tv_sec: 0,
                tv_nsec: UTIME_OMIT,
            },
            last_modification: Timespec {
                tv_sec: time.seconds,
                tv_nsec: time.nanoseconds.into(),
            },
        };
        rustix::fs::futimens(file, &times)?;
        set_owner(file, self.owner)?;
        let (directory, name) = self.parent(path, true)?;
        Ok(rustix::fs::renameat(&self.staging, lane.to_string(), directory, name)?)
    }

    /// Removes a lane's incomplete file.
    pub(crate) fn discard(&self, lane: u8) {
        let _ = rustix::fs::unlinkat(&self.staging, lane.to_string(), AtFlags::empty());
    }

    /// Opens a file of the store.
    pub(crate) fn read(&self, path: &str) -> io::Result<File> {
        let (directory, name) = self.parent(path, false)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(File::from(rustix::fs::openat(directory, name, flags, Mode::empty())?))
    }

    /// Removes a file, and the directories that it leaves empty, except the kind's own.
    pub(crate) fn remove(&self, path: &str) -> io::Result<()> {
        let (directory, name) = self.parent(path, false)?;
        rustix::fs::unlinkat(directory, name, AtFlags::empty())?;
        let mut path = path;
        while let Some((above, _)) = path.rsplit_once('/').filter(|(above, _)| above.contains('/')) {
            path = above;
            let (directory, name) = self.parent(path, false)?;
            if rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR).is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Removes the permissions of other users from an existing file or directory, and changes its owner to `--owner`.
    pub(crate) fn keep(&self, path: &str, metadata: &Metadata) -> io::Result<()> {
        let is_loose = metadata.mode() & 0o007 != 0;
        let is_anothers = self
            .owner
            .is_some_and(|owner| owner != (metadata.uid(), metadata.gid()));
        if !is_loose && !is_anothers {
            return Ok(());
        }
        let opened = if path.contains('/') {
            self.read(path).map(OwnedFd::from)
        } else {
            rustix::fs::openat(&self.root, path, DIRECTORY, Mode::empty()).map_err(io::Error::from)
        };
        // Replaced meanwhile, for example by a link: a file that is sent to this place is refused.
        let Ok(file) = opened else { return Ok(()) };
        if is_anothers {
            set_owner(&file, self.owner)?;
        }
        if is_loose {
            let mode = Mode::from_raw_mode(metadata.mode());
            // Errors are ignored: in a store that another program serves, its files may belong to that program.
            let _ = rustix::fs::fchmod(file, mode.intersection(Mode::RWXU | Mode::RWXG | Mode::SGID));
        }
        Ok(())
    }

    /// Flushes everything so far to disk, so that it survives a power failure.
    ///
    /// Once for all files, rather than for each of them: a power failure before that may truncate files, and because
    /// of their size the next run sends them again.
    pub(crate) fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.root)?)
    }

    /// Opens the directory of a path, component by component, so that no link is followed. Returns the file's name too.
    fn parent<'a>(&self, path: &'a str, may_make: bool) -> io::Result<(OwnedFd, &'a str)> {
        let (above, name) = path.rsplit_once('/').ok_or(io::ErrorKind::InvalidInput)?;
        let mut directory: Option<OwnedFd> = None;
        for part in above.split('/') {
            let at = directory.as_ref().unwrap_or(&self.root);
            let opened = match rustix::fs::openat(at, part, DIRECTORY, Mode::empty()) {
                Err(rustix::io::Errno::NOENT) if may_make => make(at, part, self.owner)?,
                opened => opened?,
            };
            directory = Some(opened);
        }
        Ok((directory.ok_or(io::ErrorKind::InvalidInput)?, name))
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        self.sweep();
    }
}

/// Creates a directory that only its owner can enter, unless it exists: another lane may have created it.
fn make(at: &OwnedFd, name: &str, owner: Owner) -> io::Result<OwnedFd> {
    let made = match rustix::fs::mkdirat(at, name, PRIVATE) {
        Err(rustix::io::Errno::EXIST) => false,
        made => made.map(|()| true)?,
    };
    let directory = rustix::fs::openat(at, name, DIRECTORY, Mode::empty())?;
    if made {
        set_owner(&directory, owner)?;
    }
    Ok(directory)
}

fn set_owner(what: impl std::os::fd::AsFd, owner: Owner) -> io::Result<()> {
    let Some((user, group)) = owner else { return Ok(()) };
    Ok(rustix::fs::fchown(
        what,
        Some(Uid::from_raw(user)),
        Some(Gid::from_raw(group)),
    )?)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::fs;
    use std::io::Write as _;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    const TIME: Time = Time {
        seconds: 1_000_000_000,
        nanoseconds: 5,
    };

    fn put(tree: &Tree, path: &str) -> io::Result<()> {
        let mut file = tree.create(0)?;
        file.write_all(b"12345")?;
        let placed = tree.place(0, &file, path, TIME);
        if placed.is_err() {
            tree.discard(0);
        }
        placed
    }

    #[test]
    fn a_file_is_private_and_as_old_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::open(&dir.path().join("store"), None).unwrap();
        put(&tree, "local_content/Ab/Cd/x").unwrap();
        let of = |path: &str| fs::metadata(dir.path().join("store").join(path)).unwrap();
        let file = of("local_content/Ab/Cd/x");
        assert_eq!(
            (file.mode() & 0o7777, file.mtime(), file.mtime_nsec()),
            (0o600, 1_000_000_000, 5)
        );
        assert_eq!(of("local_content/Ab").mode() & 0o7777, 0o700);
        assert_eq!(of("").mode() & 0o7777, 0o700);

        tree.remove("local_content/Ab/Cd/x").unwrap();
        assert!(!dir.path().join("store/local_content/Ab").exists());
        assert!(dir.path().join("store/local_content").exists());
    }

    #[test]
    fn no_link_leads_out_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        let tree = Tree::open(&store, None).unwrap();
        fs::create_dir(store.join("local_content")).unwrap();
        symlink(elsewhere.path(), store.join("local_content/Ab")).unwrap();
        symlink(elsewhere.path(), store.join("remote_content")).unwrap();
        fs::write(elsewhere.path().join("x"), "").unwrap();

        assert!(put(&tree, "local_content/Ab/Cd/x").is_err());
        assert!(put(&tree, "remote_content/a.example/Ab/Cd/x").is_err());
        assert!(tree.remove("local_content/Ab/x").is_err());
        assert!(tree.read("local_content/Ab/x").is_err());
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 1);

        // A link in the place of a file is replaced, not followed.
        fs::create_dir_all(store.join("local_content/Zz/Cd")).unwrap();
        symlink(elsewhere.path().join("x"), store.join("local_content/Zz/Cd/x")).unwrap();
        put(&tree, "local_content/Zz/Cd/x").unwrap();
        assert_eq!(fs::read_to_string(elsewhere.path().join("x")).unwrap(), "");
        assert_eq!(
            fs::read_to_string(store.join("local_content/Zz/Cd/x")).unwrap(),
            "12345"
        );
    }

    #[test]
    fn one_run_at_a_time_and_its_leftovers_go() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let tree = Tree::open(dir.path(), None).unwrap();
        drop(tree.create(3).unwrap());
        let error = Tree::open(dir.path(), None).map(drop).unwrap_err();
        assert_eq!(ess_cli::exit_of(&error), Exit::Busy);
        std::mem::forget(tree.create(4).unwrap());
        drop(tree);
        let tree = Tree::open(dir.path(), None).unwrap();
        let names: Vec<_> = fs::read_dir(dir.path().join(OURS)).unwrap().flatten().collect();
        assert_eq!(names.len(), 1, "{names:?}");
        drop(tree);

        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o705)).unwrap();
        let error = Tree::open(dir.path(), None).map(drop).unwrap_err();
        assert_eq!(ess_cli::exit_of(&error), Exit::Permission);
    }
}
