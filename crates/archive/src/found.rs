//! What lies at a path that somebody calls a dump.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Context;
use ess_cli::{Exit, Stop};

use crate::manifest::{MANIFEST, Manifest};
use crate::plain::{Format, detect};

/// What lies at a path that somebody calls a dump.
#[derive(Debug)]
pub enum Found {
    /// A dump with its manifest.
    Ours {
        /// The directory of the manifest.
        dump: PathBuf,
        /// What the dump holds.
        manifest: Box<Manifest>,
        /// The manifest's own SHA-256.
        sha256: String,
    },
    /// An archive that `pg_restore` reads.
    Archive(PathBuf),
    /// SQL text, perhaps compressed.
    Plain(PathBuf),
}

/// Looks at a path: a dump of ours, the export around it, its data alone, or somebody else's dump.
pub fn find(path: &Path) -> anyhow::Result<Found> {
    let failed = || format!("cannot read the dump at {}", path.display());
    let looked = match std::fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(Stop::new(Exit::Io, format!("{}: {error}", failed()))
                .hint("check the path: a directory that pgdump-wrap made, an archive of pg_dump, or an .sql file")
                .into());
        }
        looked => looked.with_context(failed)?,
    };
    let homes = [
        Some(path.to_owned()),
        Some(path.join("dump")),
        path.parent().map(Path::to_owned),
    ];
    for dump in homes.into_iter().flatten() {
        if !dump.join(MANIFEST).is_file() {
            continue;
        }
        let (manifest, sha256) = Manifest::read(&dump)?;
        let inside = dump.join(&manifest.data);
        if path == dump || path.join("dump") == dump || path == inside {
            return Ok(Found::Ours {
                dump,
                manifest: Box::new(manifest),
                sha256,
            });
        }
    }
    let unknown = || {
        Stop::data(format!("{} is not a dump", path.display())).hint(
            "give a dump of pgdump-wrap, an archive of pg_dump (directory, custom, tar), or a .sql or .sql.gz file",
        )
    };
    if looked.is_dir() && !path.join("toc.dat").is_file() {
        return Err(unknown().into());
    }
    Ok(match detect(path).with_context(failed)? {
        Format::Custom | Format::Directory | Format::Tar => Found::Archive(path.to_owned()),
        Format::Plain | Format::PlainGzip => Found::Plain(path.to_owned()),
        Format::Unknown => return Err(unknown().into()),
    })
}
