//! What lies at a path that somebody calls a dump.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Context;
use ess_cli::{Exit, Stop};
use ess_document::{Document, Dump};
use serde_json::Value;

use crate::manifest::{MANIFEST, Manifest, read_small, regular};
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
    if !looked.is_dir() {
        regular(path, &looked)?;
    }
    for dump in [path.to_owned(), path.join("dump")] {
        if std::fs::symlink_metadata(dump.join(MANIFEST)).is_ok() && (dump != path || !is_of_others(&dump, None)?) {
            return ours(dump);
        }
    }
    if let Some(dump) = path.parent()
        && let Some(name) = path.file_name()
        && dump.join(MANIFEST).is_file()
        && !is_of_others(dump, Some(&name.to_string_lossy()))?
    {
        return ours(dump.to_owned());
    }
    let unknown = || {
        Stop::data(format!("{} is not a dump", path.display())).hint(
            "give a dump of pgdump-wrap, an archive of pg_dump (directory, custom, tar), or a .sql or .sql.gz file",
        )
    };
    if looked.is_dir() {
        if !path.join("toc.dat").is_file() {
            return Err(unknown().into());
        }
        for entry in std::fs::read_dir(path).with_context(failed)? {
            let file = entry.with_context(failed)?.path();
            let metadata = std::fs::metadata(&file).with_context(|| format!("cannot read {}", file.display()))?;
            if !metadata.is_dir() {
                regular(&file, &metadata)?;
            }
        }
    }
    Ok(match detect(path).with_context(failed)? {
        Format::Custom | Format::Directory | Format::Tar => Found::Archive(path.to_owned()),
        Format::Plain | Format::PlainGzip => Found::Plain(path.to_owned()),
        Format::Unknown => return Err(unknown().into()),
    })
}

fn ours(dump: PathBuf) -> anyhow::Result<Found> {
    let (manifest, sha256) = Manifest::read(&dump)?;
    Ok(Found::Ours {
        dump,
        manifest: Box::new(manifest),
        sha256,
    })
}

/// Whether the manifest in a directory is another program's, or does not describe the data of this `name`.
///
/// Many programs call a file so. One of ours is told by its format, damaged or not.
fn is_of_others(dump: &Path, name: Option<&str>) -> anyhow::Result<bool> {
    let text = read_small(&dump.join(MANIFEST))?;
    let described = |value: &Value| {
        let format = value.get("format").and_then(Value::as_str).unwrap_or_default();
        let data = value.get("data").and_then(Value::as_str).unwrap_or_default();
        format.starts_with(FORMATS) && name.is_none_or(|name| name == data)
    };
    if let Ok(value) = serde_json::from_slice::<Value>(&text) {
        return Ok(!described(&value));
    }
    let text = String::from_utf8_lossy(&text);
    let named = name.is_none_or(|name| text.contains(&Value::from(name).to_string()));
    Ok(!(text.contains(&format!("\"{FORMATS}")) && named))
}

/// How the format of every manifest of ours begins.
const FORMATS: &str = "ess-dump/";

/// Where the dump lies by a flag or the document; a flag may repeat the document, not contradict it.
pub fn place_of(from: Option<&Path>, document: &Document) -> anyhow::Result<Option<PathBuf>> {
    let known = document.dump.as_ref().map(|dump| document.locate(&dump.path));
    let Some(from) = from else { return Ok(known) };
    let from = std::path::absolute(from).with_context(|| format!("cannot use {}", from.display()))?;
    match known {
        Some(known) if known != from => Err(Stop::usage(format!(
            "--from says {}, the document's `dump.path` says {}",
            from.display(),
            known.display()
        ))
        .hint("give -n with --target to use another dump than the document's")
        .into()),
        _ => Ok(Some(from)),
    }
}

/// Refuses a dump of ours that is not the one of the document's section.
pub fn check_is_of(found: &Found, section: Option<&Dump>) -> Result<(), Stop> {
    match (found, section) {
        (Found::Ours { dump, sha256, .. }, Some(section)) if section.manifest_sha256 != *sha256 => Err(Stop::data(
            format!("the dump at {} is not the one in the document", dump.display()),
        )
        .hint("its manifest has another SHA-256; look for the dump that pgdump-wrap made in this migration")),
        _ => Ok(()),
    }
}
