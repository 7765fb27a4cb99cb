//! Detects which of `pg_dump`'s formats a path contains.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

/// One of `pg_dump`'s formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DumpFormat {
    /// `-F c`
    Custom,
    /// `-F d`
    Directory,
    /// `-F t`
    Tar,
    /// SQL text
    Plain,
    /// SQL text within gzip
    PlainGzip,
    /// Any other data
    Unknown,
}

const GZIP: &[u8] = b"\x1f\x8b";

/// Detects the format from the first bytes, or from the `toc.dat` of a directory; never from the name of a file.
pub fn detect(path: &Path) -> io::Result<DumpFormat> {
    if path.is_dir() {
        let format = if path.join("toc.dat").is_file() {
            DumpFormat::Directory
        } else {
            DumpFormat::Unknown
        };
        return Ok(format);
    }
    let mut start = Vec::new();
    File::open(path)?.take(512).read_to_end(&mut start)?;
    Ok(if start.starts_with(b"PGDMP") {
        DumpFormat::Custom
    } else if start.starts_with(GZIP) {
        DumpFormat::PlainGzip
    } else if start.get(257..262) == Some(b"ustar") && start.starts_with(b"toc.dat\0") {
        DumpFormat::Tar
    } else if start.contains(&0) {
        DumpFormat::Unknown
    } else {
        DumpFormat::Plain
    })
}

/// Opens SQL text, and decompresses it if necessary.
pub fn open_plain(path: &Path) -> io::Result<Box<dyn BufRead + Send>> {
    let mut reader = BufReader::with_capacity(1 << 16, File::open(path)?);
    if reader.fill_buf()?.starts_with(GZIP) {
        Ok(Box::new(BufReader::with_capacity(1 << 16, MultiGzDecoder::new(reader))))
    } else {
        Ok(Box::new(reader))
    }
}
