//! Files: read those that a user or a configuration names, write private ones, hash, lock.
//!
//! Only regular files of limited size are read, and in a consistent state.
//! A named pipe instead of a file would block the reader forever, a device would fill its memory, and a file that is
//! being written would be read partly in its old and partly in its new version.

mod lock;
mod private;
mod sha256;

use std::fs::{File, FileType, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use zeroize::Zeroizing;

pub use lock::Lock;
pub use private::{absolute, create_file, hint_for_open, make_directory, sync_directory, write_file};
pub use sha256::{Hashing, hash_file, hex};

/// The largest configuration, registration, service file or document that is read, in bytes.
pub const CONFIGURATION: u64 = 16 << 20;

/// The largest file of certificates, in bytes. For comparison, a distribution's bundle of all CAs has a quarter of a
/// megabyte.
pub const CERTIFICATES: u64 = 16 << 20;

/// The largest file with a single key, password or other secret, in bytes.
pub const SECRET: u64 = 64 << 10;

/// The free space of the file system at this path, in bytes, without what is reserved for root.
pub fn free_space(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Opens a regular file, or a link to one, for reading.
///
/// # Errors
///
/// The system's error; for a directory, a pipe, a device or a socket an error that names the kind of file.
pub fn open(path: &Path) -> io::Result<File> {
    // Check by name first: merely opening a device can have an effect, such as rewinding a tape.
    only_regular(std::fs::metadata(path)?.file_type())?;
    // NONBLOCK: do not wait for a writer if the file has been replaced by a pipe in the meantime.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    only_regular(file.metadata()?.file_type())?;
    Ok(file)
}

/// Reads a regular file of at most `limit` bytes.
///
/// # Errors
///
/// Those of [`open`]; the file is larger, or it changes while it is read.
pub fn read(path: &Path, limit: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    let file = open(path)?;
    let before = file.metadata()?;
    read_all(&file, &before, limit)
}

/// Reads a regular file of at most `limit` bytes of UTF-8.
///
/// # Errors
///
/// Those of [`read`]; the contents are not UTF-8.
pub fn read_text(path: &Path, limit: u64) -> io::Result<Zeroizing<String>> {
    let bytes = read(path, limit)?;
    let text = str::from_utf8(&bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// A noun for a kind of file other than a regular one.
pub fn noun(kind: FileType) -> &'static str {
    if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a named pipe"
    } else if kind.is_socket() {
        "a socket"
    } else if kind.is_char_device() || kind.is_block_device() {
        "a device"
    } else {
        "a special file"
    }
}

fn only_regular(kind: FileType) -> io::Result<()> {
    if kind.is_file() {
        return Ok(());
    }
    let error = if kind.is_dir() {
        io::ErrorKind::IsADirectory
    } else {
        io::ErrorKind::InvalidInput
    };
    let message = format!("it is {}, not a regular file", noun(kind));
    Err(io::Error::new(error, message))
}

/// Reads a file to its end; `before` is its metadata when it was opened.
fn read_all(file: &File, before: &Metadata, limit: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    let too_large = || {
        let message = format!("it is larger than {}", shown(limit));
        io::Error::new(io::ErrorKind::FileTooLarge, message)
    };
    if before.len() > limit {
        return Err(too_large());
    }
    // Allocate the full size at once: a buffer that grows leaves copies of a secret in freed memory. Files in /proc
    // report a size of 0.
    let room = usize::try_from(before.len().max(4096)).map_err(io::Error::other)?;
    let mut content = Zeroizing::new(Vec::with_capacity(room + 1));
    file.take(limit + 1).read_to_end(&mut content)?;
    if content.len() as u64 > limit {
        return Err(too_large());
    }
    let after = file.metadata()?;
    let state = |of: &Metadata| (of.len(), of.mtime(), of.mtime_nsec());
    let is_complete = before.len() == 0 || before.len() == content.len() as u64;
    if state(before) != state(&after) || !is_complete {
        let message = "it changed while it was read; try again";
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, message));
    }
    Ok(content)
}

fn shown(bytes: u64) -> String {
    match bytes >> 20 {
        0 => format!("{} KiB", bytes >> 10),
        mebibytes => format!("{mebibytes} MiB"),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::fs;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn why(path: &Path, limit: u64) -> String {
        read(path, limit).map(drop).unwrap_err().to_string()
    }

    #[test]
    fn a_file_is_read_through_a_link_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "content").unwrap();
        symlink("file", dir.path().join("link")).unwrap();
        assert_eq!(*read(&dir.path().join("link"), 7).unwrap(), b"content");
        assert_eq!(**read_text(&path, 7).unwrap(), *"content");
        fs::write(&path, "").unwrap();
        assert!(read(&path, 7).unwrap().is_empty());
        fs::write(&path, b"\0\xff").unwrap();
        assert_eq!(*read(&path, 7).unwrap(), b"\0\xff");
        assert_eq!(read_text(&path, 7).unwrap_err().to_string(), "it is not UTF-8");
    }

    #[test]
    fn what_is_not_a_regular_file_is_named_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
        let socket = dir.path().join("socket");
        let _listener = UnixListener::bind(&socket).unwrap();
        symlink("pipe", dir.path().join("link")).unwrap();
        for (path, noun) in [
            (pipe.as_path(), "a named pipe"),
            (&dir.path().join("link"), "a named pipe"),
            (&socket, "a socket"),
            (dir.path(), "a directory"),
            (Path::new("/dev/zero"), "a device"),
            (Path::new("/dev/null"), "a device"),
        ] {
            assert_eq!(why(path, 10), format!("it is {noun}, not a regular file"));
        }
        assert_eq!(
            read(&dir.path().join("absent"), 10).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }

    #[test]
    fn no_more_than_the_limit_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(why(&path, CONFIGURATION), "it is larger than 16 MiB");
        assert_eq!(why(&path, SECRET), "it is larger than 64 KiB");
        // Its size is reported as 0, so the limit is enforced while reading.
        assert!(!read(Path::new("/proc/self/status"), SECRET).unwrap().is_empty());
        assert_eq!(why(Path::new("/proc/self/status"), 10), "it is larger than 0 KiB");
    }

    #[test]
    fn a_file_that_changes_meanwhile_is_not_taken_for_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        for size in [0, 3, 9] {
            fs::write(&path, "12345").unwrap();
            let file = open(&path).unwrap();
            let before = file.metadata().unwrap();
            File::options().write(true).open(&path).unwrap().set_len(size).unwrap();
            let error = read_all(&file, &before, SECRET).unwrap_err();
            assert_eq!(error.to_string(), "it changed while it was read; try again", "{size}");
        }
    }
}
