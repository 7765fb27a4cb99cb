//! A file for a child program that exists only in memory and ends with this process, even if it is killed.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;

use rustix::fs::{MemfdFlags, Mode};

/// A file in memory (memfd_create(2)), which a child of the same user can open by its path while this value lives.
#[derive(Debug)]
pub struct MemoryFile(File);

impl MemoryFile {
    /// Creates the file with mode 0600: libpq (`passwordFromFile` in fe-connect.c) ignores a password file that others
    /// can access.
    pub fn new(content: &[u8]) -> io::Result<Self> {
        let mut file = File::from(rustix::fs::memfd_create("ess-migrate", MemfdFlags::CLOEXEC)?);
        rustix::fs::fchmod(&file, Mode::RUSR | Mode::WUSR)?;
        file.write_all(content)?;
        Ok(Self(file))
    }

    /// The path for a child: among the open files of this process in /proc, so that the child need not inherit it.
    pub fn path(&self) -> OsString {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()).into()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::MemoryFile;
    use crate::{Program, Silent};

    #[test]
    fn a_child_reads_it_from_its_start_and_others_may_not() {
        let file = MemoryFile::new(b"a secret\n").unwrap();
        let script = r#"cat "$0" "$0"; stat -L -c %a "$0""#;

        let output = Program::new("sh")
            .args(["-c", script])
            .arg(file.path())
            .capture(&Silent)
            .unwrap();

        assert_eq!(String::from_utf8(output).unwrap(), "a secret\na secret\n600\n");
    }
}
