//! The versions of PostgreSQL and `pg_dump` that made a dump, and the client programs that can load it.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use ess_run::{Installation, LAST_WITHOUT_TRANSACTION_TIMEOUT, Need, choose};
use ess_stop::Stop;

use crate::found::FoundDump;
use crate::manifest::{DumpKind, Manifest, major};
use crate::plain::{DumpFormat, detect};

/// The versions that made a dump. A field is empty if the dump does not record it, as SQL text does not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// The version of the dumped server, such as `15.18`.
    server: Option<String>,
    /// The version of the `pg_dump` that wrote it.
    pg_dump: Option<String>,
    /// The compression method, if it is one that not every build of `pg_restore` supports.
    compression: Option<&'static str>,
    /// A hint: what to do if no client program can load it.
    way_out: String,
}

impl Origin {
    /// The versions that a dump records.
    pub fn of(found: &FoundDump) -> io::Result<Self> {
        match found {
            FoundDump::WithManifest { dump, manifest, .. } => Ok(Self::of_manifest(dump, manifest)),
            FoundDump::Archive(path) => Ok(Self {
                way_out: format!(
                    "dump again with pg_dump {LAST_WITHOUT_TRANSACTION_TIMEOUT} or older, or {}",
                    as_sql(path)
                ),
                ..head(path)?.unwrap_or_default()
            }),
            FoundDump::Plain(_) => Ok(Self::default()),
        }
    }

    /// The versions that the manifest of the dump in this directory records.
    pub fn of_manifest(dump: &Path, manifest: &Manifest) -> Self {
        let data = dump.join(&manifest.data);
        // Ignore missing or damaged data here: the check of the dump's files reports it.
        let head = head(&data).ok().flatten().unwrap_or_default();
        Self {
            server: Some(manifest.server_version.clone()),
            pg_dump: Some(manifest.pg_dump_version.clone()),
            compression: head.compression,
            way_out: match manifest.kind {
                DumpKind::Migration => {
                    "install the PostgreSQL client of the target's version, then run pgdump-wrap --replace".to_owned()
                }
                DumpKind::Backup => as_sql(&data),
            },
        }
    }

    /// Refuses a dump that no client program can load into a server of this version, such as `16.4`.
    pub fn may_go_to(&self, target: &str) -> Result<(), Stop> {
        if let Some(server) = &self.server
            && major(server) > major(target)
        {
            return Err(Stop::no(format!(
                "the dump is of PostgreSQL {server}, and the target is {target}"
            ))
            .hint("use a target of at least that version"));
        }
        let last = LAST_WITHOUT_TRANSACTION_TIMEOUT;
        if let Some(pg_dump) = &self.pg_dump
            && major(pg_dump) > last
            && major(target) <= last
        {
            return Err(Stop::no(format!(
                "the dump was written by pg_dump {pg_dump}, and the target is PostgreSQL {target}: every pg_restore \
                 that can read this dump sends SET transaction_timeout, which servers up to {last} refuse"
            ))
            .hint(self.way_out.clone()));
        }
        Ok(())
    }

    /// The client programs that can load it into a server of this version. `only` is the directory chosen by the user.
    pub fn programs(&self, only: Option<&Path>, target: &str) -> anyhow::Result<Installation> {
        self.may_go_to(target)?;
        let need = Need::Load {
            written_by: self.pg_dump.as_deref().map(major),
            compression: self.compression,
            target: major(target),
        };
        Ok(choose(only, need)?)
    }
}

/// The workaround for an unsuitable `pg_restore`: convert to SQL text, from which our scanner drops
/// `SET transaction_timeout`.
fn as_sql(archive: &Path) -> String {
    format!(
        "write it as SQL with pg_restore --file=FILE.sql {} and load that with restore -n --from FILE.sql",
        archive.display()
    )
}

/// How many bytes of an archive are read, more than the longest header.
const HEAD: u64 = 1 << 16;

/// Reads the header of an archive. `None` if the archive is damaged, or older than PostgreSQL 8.0.
fn head(archive: &Path) -> io::Result<Option<Origin>> {
    let format = detect(archive)?;
    let file = match format {
        DumpFormat::Directory => archive.join("toc.dat"),
        _ => PathBuf::from(archive),
    };
    let mut bytes = Vec::new();
    File::open(file)?.take(HEAD).read_to_end(&mut bytes)?;
    // A tar archive begins with the header of its first member, which is toc.dat.
    let start = if format == DumpFormat::Tar { 512 } else { 0 };
    Ok(bytes.get(start..).and_then(|bytes| Head { bytes, integer: 4 }.read()))
}

/// A header of an archive, read like `ReadHead` in PostgreSQL's `pg_backup_archiver.c`.
struct Head<'a> {
    bytes: &'a [u8],
    /// The size of an integer in bytes, without its sign byte.
    integer: usize,
}

impl Head<'_> {
    fn read(mut self) -> Option<Origin> {
        self.bytes = self.bytes.strip_prefix(b"PGDMP")?;
        let version = (self.byte()?, self.byte()?);
        let _revision = self.byte()?;
        self.integer = usize::from(self.byte()?);
        if version < (1, 10) || self.integer > 8 {
            return None;
        }
        let (_offset, _format) = (self.byte()?, self.byte()?);
        // Up to format 1.14, this is the level of gzip.
        let compression = if version < (1, 15) {
            self.integer()?;
            None
        } else {
            match self.byte()? {
                2 => Some("lz4"),
                3 => Some("zstd"),
                _ => None,
            }
        };
        for _part_of_the_date in 0..7 {
            self.integer()?;
        }
        let _database = self.text()?;
        Some(Origin {
            server: Some(self.text()?).filter(|text| !text.is_empty()),
            pg_dump: Some(self.text()?).filter(|text| !text.is_empty()),
            compression,
            way_out: String::new(),
        })
    }

    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        Some(*first)
    }

    /// A sign byte, then the digits, least significant first (`ReadInt`).
    fn integer(&mut self) -> Option<i64> {
        let is_negative = self.byte()? != 0;
        let (digits, rest) = self.bytes.split_at_checked(self.integer)?;
        self.bytes = rest;
        let value = digits.iter().rev().try_fold(0_i64, |value, digit| {
            value.checked_mul(256)?.checked_add(i64::from(*digit))
        })?;
        Some(if is_negative { -value } else { value })
    }

    /// A length, then that many bytes (`ReadStr`). A negative length means no string, which is empty here.
    fn text(&mut self) -> Option<String> {
        let length = usize::try_from(self.integer()?).unwrap_or(0);
        let (text, rest) = self.bytes.split_at_checked(length)?;
        self.bytes = rest;
        Some(String::from_utf8_lossy(text).into_owned())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    /// The header of an archive of format 1.`minor`. `compression` is a method from 1.15 on, and a level before.
    fn archive(minor: u8, compression: u8, texts: [Option<&str>; 3]) -> Vec<u8> {
        let integer = |value: usize| [vec![0], u32::try_from(value).unwrap().to_le_bytes().to_vec()].concat();
        let mut bytes = [b"PGDMP".as_slice(), &[1, minor, 0, 4, 8, 1]].concat();
        if minor < 15 {
            bytes.extend(integer(compression.into()));
        } else {
            bytes.push(compression);
        }
        bytes.extend([40, 3, 2, 28, 10, 126, 0].into_iter().flat_map(integer));
        for text in texts {
            match text {
                Some(text) => bytes.extend([integer(text.len()), text.as_bytes().to_vec()].concat()),
                None => bytes.extend([1, 1, 0, 0, 0]),
            }
        }
        bytes
    }

    fn of(bytes: &[u8]) -> Option<Origin> {
        Head { bytes, integer: 4 }.read()
    }

    #[test]
    fn an_archive_names_the_versions_behind_it() {
        let texts = [Some("synapse"), Some("16.4"), Some("17.6 (Debian 17.6-1)")];
        for (minor, method, compression) in [
            (14, 3, None),
            (15, 1, None),
            (16, 0, None),
            (16, 2, Some("lz4")),
            (16, 3, Some("zstd")),
        ] {
            let origin = of(&archive(minor, method, texts)).unwrap();
            assert_eq!(origin.server.as_deref(), Some("16.4"), "1.{minor}");
            assert_eq!(origin.pg_dump.as_deref(), Some("17.6 (Debian 17.6-1)"));
            assert_eq!(origin.compression, compression, "1.{minor}");
        }
        let without = of(&archive(14, 0, [None, None, None])).unwrap();
        assert_eq!((without.server, without.pg_dump), (None, None));
    }

    #[test]
    fn a_beginning_that_is_cut_or_damaged_names_nothing() {
        let complete = archive(16, 1, [Some("synapse"), Some("16.4"), Some("16.4")]);
        for length in 0..complete.len() {
            assert_eq!(of(&complete[..length]), None, "{length} bytes");
        }
        for at in 0..complete.len() {
            let mut damaged = complete.clone();
            damaged[at] = 0xff;
            // The result does not matter, only that it returns without a panic.
            let _ = of(&damaged);
        }
        assert_eq!(of(&archive(9, 0, [None, None, None])), None);
    }

    #[test]
    fn what_no_program_loads_is_refused_with_the_way_out() {
        let origin = |server: &str, pg_dump: &str| Origin {
            server: Some(server.to_owned()),
            pg_dump: Some(pg_dump.to_owned()),
            compression: None,
            way_out: "the way out".to_owned(),
        };
        for (server, pg_dump, target, refused) in [
            ("15.18", "16.4", "15.18", None),
            ("15.18", "17.6", "17.2", None),
            ("13.4", "18.1", "18beta1", None),
            (
                "16.4",
                "17.6",
                "16.9 (Debian 16.9-1)",
                Some("every pg_restore that can read this dump sends"),
            ),
            (
                "13.4",
                "18.1",
                "13.4",
                Some("every pg_restore that can read this dump sends"),
            ),
            (
                "17.6",
                "17.6",
                "16.9",
                Some("the dump is of PostgreSQL 17.6, and the target is 16.9"),
            ),
            ("19devel", "19devel", "18.1", Some("the dump is of PostgreSQL 19devel")),
        ] {
            let answer = origin(server, pg_dump).may_go_to(target);
            match (&answer, refused) {
                (Ok(()), None) => {}
                (Err(stop), Some(why)) => assert!(stop.to_string().contains(why), "{stop}"),
                _ => panic!("{server} by {pg_dump} to {target}: {answer:?}"),
            }
        }
        // SQL text passes: the scanner drops what older servers do not support.
        assert!(Origin::default().may_go_to("13.4").is_ok());
    }
}
