//! SHA-256 of files and streams.

use std::io::{self, Read, Write};
use std::path::Path;

use anyhow::Context;
use ess_run::Report;
use sha2::{Digest, Sha256};

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// Reads a file and returns its SHA-256, in hexadecimal, and its size in bytes.
pub fn hash_file(path: &Path, report: &dyn Report) -> anyhow::Result<(String, u64)> {
    let failed = || format!("cannot read {}", path.display());
    let mut file = crate::open(path).with_context(failed)?;
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; 256 << 10];
    let mut size = 0;
    loop {
        ess_run::stop_if_interrupted()?;
        let n = file.read(&mut chunk).with_context(failed)?;
        if n == 0 {
            return Ok((hex(&hasher.finalize()), size));
        }
        hasher.update(&chunk[..n]);
        size += n as u64;
        report.advance(n as u64);
    }
}

/// A writer that computes the SHA-256 of what it writes.
pub struct Hashing<W> {
    inner: W,
    hasher: Sha256,
}

impl<W: Write> Hashing<W> {
    /// Wraps a writer.
    pub fn new(inner: W) -> Self {
        Self {
            inner,
            hasher: Sha256::new(),
        }
    }

    /// The writer and the digest.
    pub fn finish(self) -> (W, String) {
        (self.inner, hex(&self.hasher.finalize()))
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
