//! Determines what kind of dump a path contains.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Context;
use ess_document::{Document, Dump};
use ess_stop::{Exit, Stop};
use serde_json::Value;

use crate::manifest::{MANIFEST, Manifest, read_small, regular};
use crate::plain::{DumpFormat, detect};

/// What kind of dump a path contains.
#[derive(Debug)]
pub enum FoundDump {
    /// A dump with a manifest, made by these tools.
    WithManifest {
        /// The directory that contains the manifest.
        dump: PathBuf,
        /// The manifest.
        manifest: Box<Manifest>,
        /// The SHA-256 of the manifest file.
        sha256: String,
    },
    /// An archive that `pg_restore` can read.
    Archive(PathBuf),
    /// SQL text, possibly compressed with gzip.
    Plain(PathBuf),
}

/// Examines a path: a dump by these tools, the export that contains one, the data of one, or any other dump.
pub fn find(path: &Path) -> anyhow::Result<FoundDump> {
    let failed = || format!("cannot read the dump at {}", path.display());
    let looked = match std::fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(Stop::new(Exit::Io, format!("{}: {error}", failed()))
                .hint("give a dump made by pgdump-wrap, an archive made by pg_dump, or an .sql file")
                .into());
        }
        looked => looked.with_context(failed)?,
    };
    if !looked.is_dir() {
        regular(path, &looked)?;
    }
    for dump in [path.to_owned(), path.join("dump")] {
        if std::fs::symlink_metadata(dump.join(MANIFEST)).is_ok() && (dump != path || !is_of_others(&dump, None)?) {
            return with_manifest(dump);
        }
    }
    if let Some(dump) = path.parent()
        && let Some(name) = path.file_name()
        && dump.join(MANIFEST).is_file()
        && !is_of_others(dump, Some(&name.to_string_lossy()))?
    {
        return with_manifest(dump.to_owned());
    }
    let unknown = || {
        Stop::data(format!("{} is not a dump", path.display())).hint(
            "give a dump made by pgdump-wrap, an archive made by pg_dump (directory, custom or tar), or an .sql or \
             .sql.gz file",
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
        DumpFormat::Custom | DumpFormat::Directory | DumpFormat::Tar => FoundDump::Archive(path.to_owned()),
        DumpFormat::Plain | DumpFormat::PlainGzip => FoundDump::Plain(path.to_owned()),
        DumpFormat::Unknown => return Err(unknown().into()),
    })
}

fn with_manifest(dump: PathBuf) -> anyhow::Result<FoundDump> {
    let (manifest, sha256) = Manifest::read(&dump)?;
    Ok(FoundDump::WithManifest {
        dump,
        manifest: Box::new(manifest),
        sha256,
    })
}

/// Whether the `manifest.json` in a directory is of another program, or does not describe the data called `name`.
///
/// Many programs use this file name. A manifest of these tools is recognised by its format, even if it is damaged.
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

/// The prefix of the `format` of every manifest of these tools.
const FORMATS: &str = "ess-dump/";

/// The path of the dump, from `--from` or the document. Both may be given if they agree.
pub fn place_of(from: Option<&Path>, document: &Document) -> anyhow::Result<Option<PathBuf>> {
    let known = document.dump.as_ref().map(|dump| document.locate(&dump.path));
    let Some(from) = from else { return Ok(known) };
    let from = ess_files::absolute(from)?;
    match known {
        Some(known) if known != from => {
            Err(
                Stop::contradiction("--from", from.display(), "dump.path", known.display())
                    .hint("to use another dump than the document's, give -n and --target")
                    .into(),
            )
        }
        _ => Ok(Some(from)),
    }
}

/// Refuses a dump whose manifest is not the one that the document's section names by its SHA-256.
pub fn check_is_of(found: &FoundDump, section: Option<&Dump>) -> Result<(), Stop> {
    match (found, section) {
        (FoundDump::WithManifest { dump, sha256, .. }, Some(section)) if section.manifest_sha256 != *sha256 => Err(
            Stop::data(format!("the dump at {} is not the one in the document", dump.display()))
                .hint("the SHA-256 of its manifest differs; give the dump that pgdump-wrap made in this migration"),
        ),
        _ => Ok(()),
    }
}
