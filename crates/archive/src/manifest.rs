//! The manifest next to a dump: the SHA-256 of every file, and what the database contained.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::Context;
use ess_document::{Carried, Dropped, Identity, OneTimeKeys};
use ess_files::{hash_file, hex, write_file};
use ess_postgres::{Inventory, TableRecord};
use ess_run::{Report, joined, processors};
use ess_stop::Stop;
use ess_synapse::schema::{FENCE_TABLES, ONE_TIME_KEYS_TABLE, UNLOGGED_TABLES};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The name of the manifest in the directory of a dump.
pub const MANIFEST: &str = "manifest.json";

/// What a dump contains.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The format of the manifest; unknown formats are refused.
    pub format: ManifestFormat,
    /// The purpose of the dump.
    pub kind: DumpKind,
    /// The id of the migration.
    pub id: String,
    /// The version of the tool that made the dump.
    pub version: String,
    /// When the snapshot was taken, in RFC 3339, UTC.
    pub taken_at: String,
    /// The database that was dumped.
    pub source: Identity,
    /// The homeserver's name: the part after the colon in every user's Matrix ID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// The version of the server, such as `15.18`.
    pub server_version: String,
    /// The version of `pg_dump`, such as `15.18`.
    pub pg_dump_version: String,
    /// The archive for `pg_restore`, a directory or a file, relative to the manifest.
    pub data: PathBuf,
    /// Whether other sessions may have used the source during the dump.
    pub source_was_running: bool,
    /// Every file of `data`, by its path relative to the manifest.
    pub files: BTreeMap<String, FileRecord>,
    /// What the database contained in the dump's snapshot.
    pub inventory: Inventory,
    /// What the dump does not contain of the database; in a backup, only what the wipe erases.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<Dropped>,
    /// SHA-256 of this file with zeros in place of the seal, so that a flipped bit is not taken for another inventory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seal: Option<String>,
}

/// The placeholder that is hashed in place of the seal.
const UNSEALED: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Format of a manifest. A new format is needed only if readers of the old one would misread the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ManifestFormat {
    /// The first format.
    #[serde(rename = "ess-dump/1")]
    V1,
}

/// The purpose of a dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DumpKind {
    /// To be loaded into the target.
    Migration,
    /// A copy of what a wipe erases, to undo the wipe.
    Backup,
}

/// One file of a dump.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRecord {
    /// Its size in bytes.
    pub bytes: u64,
    /// Its SHA-256, in hexadecimal.
    pub sha256: String,
    /// Inode, mtime and ctime when the file was sealed: if they are unchanged, so are its contents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stamp: Option<String>,
}

impl Manifest {
    /// Reads the manifest of a dump and returns it with its SHA-256.
    ///
    /// Fails if the manifest does not match its seal, names a file outside the dump, or has implausible contents.
    pub fn read(dump: &Path) -> anyhow::Result<(Self, String)> {
        let path = dump.join(MANIFEST);
        let text = read_small(&path)?;
        let manifest: Self = serde_json::from_slice(&text).map_err(|error| {
            Stop::data(format!("{} is not the manifest of a dump: {error}", path.display()))
                .hint("dump again, or give the archive itself with --from to load it without proof")
        })?;
        if let Some(seal) = &manifest.seal
            && *seal != seal_of(&text, seal)
        {
            return Err(damaged(dump, &format!("{MANIFEST} does not match its seal")).into());
        }
        let names = manifest.files.keys().map(Path::new);
        if let Some(outside) = names.chain([manifest.data.as_path()]).find(|name| !is_inside(name)) {
            let what = format!(
                "{} names {}, which is outside the dump",
                path.display(),
                outside.display()
            );
            return Err(Stop::data(what)
                .hint("check where this dump comes from, or dump again")
                .into());
        }
        if let Some(why) = manifest.implausible() {
            return Err(Stop::data(format!("{}: {why}", path.display()))
                .hint("pgdump-wrap does not write such a manifest; check where this dump comes from, or dump again")
                .into());
        }
        Ok((manifest, hex(&Sha256::digest(&text))))
    }

    /// Why these tools cannot have written this manifest, for a message.
    ///
    /// A table that a forged or damaged manifest marks as not carried would otherwise be lost without an error.
    fn implausible(&self) -> Option<String> {
        let mut names = BTreeSet::new();
        for table in &self.inventory.tables {
            let name = format!("{}.{}", table.schema, table.name);
            if !names.insert((&table.schema, &table.name)) {
                return Some(format!("it lists table {name:?} twice"));
            }
            if !self.may_be_carried(table) {
                return Some(format!(
                    "it marks the rows of table {name:?} differently from pgdump-wrap"
                ));
            }
            if (table.carried == Carried::Rows) != table.digest.is_some() {
                return Some(format!(
                    "table {name:?} lacks a digest, or has one although its rows are not carried"
                ));
            }
        }
        if self.kind == DumpKind::Backup {
            // The rest holds for Synapse's database only; a backup may be of any database.
            return None;
        }
        if self.inventory.table_count() == 0 {
            return Some("it lists no table with rows".to_owned());
        }
        self.inventory.schema.implausible()
    }

    /// Whether `carried` is possible for this table: `Rows` for all but the tables with a rule of their own.
    fn may_be_carried(&self, table: &TableRecord) -> bool {
        let is = |name: &&str| table.schema == "public" && table.name == *name;
        match table.carried {
            Carried::Rows => !FENCE_TABLES.iter().any(is),
            Carried::Fence => FENCE_TABLES.iter().any(is),
            Carried::Structure => UNLOGGED_TABLES.iter().any(is) || self.source_was_running && is(&ONE_TIME_KEYS_TABLE),
        }
    }

    /// Seals the manifest, writes it next to its data, and returns the SHA-256 of the file.
    pub fn write(&self, dump: &Path) -> anyhow::Result<String> {
        let unsealed = Self {
            seal: Some(UNSEALED.to_owned()),
            ..self.clone()
        };
        let text = serde_json::to_string(&unsealed).context("cannot write the manifest")? + "\n";
        let seal = hex(&Sha256::digest(&text));
        let text = text.replacen(&sealed(UNSEALED), &sealed(&seal), 1);
        write_file(&dump.join(MANIFEST), text.as_bytes())?;
        Ok(hex(&Sha256::digest(&text)))
    }

    /// Whether one-time keys are in the dump, and why or why not.
    pub fn one_time_keys(&self) -> Option<OneTimeKeys> {
        let is_keys = |table: &&TableRecord| table.schema == "public" && table.name == ONE_TIME_KEYS_TABLE;
        let kept = self.inventory.tables.iter().find(is_keys)?.carried == Carried::Rows;
        let reason = if kept {
            "no other session used the source during the dump, so no key was handed out meanwhile"
        } else {
            "the source was in use, and a key that is handed out twice makes messages unreadable; clients upload new \
             ones"
        };
        Some(OneTimeKeys {
            kept,
            reason: reason.to_owned(),
        })
    }

    /// The size of all files, in bytes.
    pub fn bytes(&self) -> u64 {
        self.files.values().map(|file| file.bytes).sum()
    }

    /// Compares every file with its record. Fails if a file is missing, changed or not in the manifest.
    pub fn check_files(&self, dump: &Path, report: &dyn Report) -> anyhow::Result<()> {
        self.check(dump, &|_, _| true, report)
    }

    /// Like [`Manifest::check_files`], but hashes only files whose inode or times have changed since they were sealed.
    /// In a copy of a dump, that is every file.
    pub fn check_unchanged(&self, dump: &Path, report: &dyn Report) -> anyhow::Result<()> {
        let is_touched = |name: &str, record: &FileRecord| {
            let now = std::fs::symlink_metadata(dump.join(name)).ok();
            record.stamp.is_none() || now.map(|metadata| stamp(&metadata)) != record.stamp
        };
        self.check(dump, &is_touched, report)
    }

    fn check(
        &self,
        dump: &Path,
        is_read: &dyn Fn(&str, &FileRecord) -> bool,
        report: &dyn Report,
    ) -> anyhow::Result<()> {
        let here = files_below(dump, &self.data)?;
        for name in &here {
            if !self.files.contains_key(name) {
                return Err(damaged(dump, &format!("{name} is not in the manifest")).into());
            }
        }
        for name in self.files.keys() {
            if !here.contains(name) {
                return Err(damaged(dump, &format!("{name} is missing")).into());
            }
        }
        let mut files: Vec<_> = self
            .files
            .iter()
            .filter(|(name, record)| is_read(name, record))
            .collect();
        report.stage(
            "verifying the files of the dump",
            Some(files.iter().map(|(_, record)| record.bytes).sum()),
        );
        // Largest first, so that no thread is still hashing a large file when all others have finished.
        files.sort_by_key(|(_, record)| std::cmp::Reverse(record.bytes));
        let next = AtomicUsize::new(0);
        let check = || -> anyhow::Result<()> {
            while let Some((name, record)) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                record.check(dump, name, report)?;
            }
            Ok(())
        };
        thread::scope(|scope| {
            let threads: Vec<_> = (0..processors()).map(|_| scope.spawn(check)).collect();
            threads.into_iter().try_for_each(|thread| joined(thread.join()))
        })?;
        report.done();
        Ok(())
    }
}

/// Inode and times of a file, at least one of which changes with its contents: no program can set a ctime.
pub(crate) fn stamp(metadata: &std::fs::Metadata) -> String {
    format!(
        "{} {}.{:09} {}.{:09}",
        metadata.ino(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime(),
        metadata.ctime_nsec()
    )
}

impl FileRecord {
    fn check(&self, dump: &Path, name: &str, report: &dyn Report) -> anyhow::Result<()> {
        let (sha256, bytes) = hash_file(&dump.join(name), report)?;
        if bytes != self.bytes {
            let message = format!("{name} has {bytes} bytes, the manifest records {}", self.bytes);
            return Err(damaged(dump, &message).into());
        }
        if sha256 != self.sha256 {
            return Err(damaged(dump, &format!("{name} does not match its SHA-256")).into());
        }
        Ok(())
    }
}

/// The size limit of a manifest, in bytes. Each table needs some hundred bytes, and each column fewer.
const MANIFEST_LIMIT: u64 = 256 << 20;

/// Reads a manifest. Fails if it is not a regular file or is larger than [`MANIFEST_LIMIT`].
pub(crate) fn read_small(path: &Path) -> anyhow::Result<Vec<u8>> {
    let failed = || format!("cannot read {}", path.display());
    regular(path, &std::fs::metadata(path).with_context(failed)?)?;
    let mut text = Vec::new();
    let file = std::fs::File::open(path).with_context(failed)?;
    file.take(MANIFEST_LIMIT + 1)
        .read_to_end(&mut text)
        .with_context(failed)?;
    if text.len() as u64 > MANIFEST_LIMIT {
        return Err(Stop::data(format!("{} is too large for a manifest", path.display())).into());
    }
    Ok(text)
}

/// Refuses anything but a regular file: reading a named pipe or a device might never end.
pub(crate) fn regular(path: &Path, metadata: &std::fs::Metadata) -> Result<(), Stop> {
    let kind = metadata.file_type();
    let what = if kind.is_file() {
        return Ok(());
    } else if kind.is_fifo() {
        "a named pipe"
    } else if kind.is_socket() {
        "a socket"
    } else if kind.is_dir() {
        "a directory"
    } else {
        "a device"
    };
    Err(Stop::data(format!("{} is {what}, not a file", path.display())).hint("copy the dump into regular files first"))
}

/// The seal as the file contains it. This text cannot occur inside a JSON string, where its quotes would be escaped.
fn sealed(seal: &str) -> String {
    format!("\"seal\":\"{seal}\"")
}

/// The seal that a manifest with this text should have.
fn seal_of(text: &[u8], seal: &str) -> String {
    let text = String::from_utf8_lossy(text).replacen(&sealed(seal), &sealed(UNSEALED), 1);
    hex(&Sha256::digest(text))
}

/// Whether a relative path stays below its directory: it has no `..` and no root.
fn is_inside(name: &Path) -> bool {
    name.components().next().is_some() && name.components().all(|part| matches!(part, Component::Normal(_)))
}

/// The major version in a text such as `15.18 (Debian 15.18-1)` or `19beta1`; 0 if there is none.
pub fn major(version: &str) -> u32 {
    let digits = version.find(|other: char| !other.is_ascii_digit());
    version[..digits.unwrap_or(version.len())].parse().unwrap_or(0)
}

fn damaged(dump: &Path, what: &str) -> Stop {
    Stop::data(format!("the dump at {} is damaged: {what}", dump.display()))
        .hint("copy it again from where it was made, or dump again")
}

/// The paths of all files below `dump/data`, relative to `dump`.
pub(crate) fn files_below(dump: &Path, data: &Path) -> anyhow::Result<Vec<String>> {
    let root = dump.join(data);
    let mut names = Vec::new();
    for entry in walkdir::WalkDir::new(&root).sort_by_file_name() {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error)
                if error
                    .io_error()
                    .is_some_and(|e| e.kind() == std::io::ErrorKind::NotFound) =>
            {
                return Err(damaged(dump, &format!("{} is missing", data.display())).into());
            }
            Err(error) => {
                return Err(std::io::Error::from(error))
                    .with_context(|| format!("cannot read the dump at {}", root.display()));
            }
        };
        if entry.file_type().is_dir() {
            continue;
        }
        let name = entry.path().strip_prefix(dump).unwrap_or(entry.path());
        if !entry.file_type().is_file() {
            return Err(damaged(dump, &format!("{} is not a regular file", name.display())).into());
        }
        names.push(name.to_string_lossy().into_owned());
    }
    Ok(names)
}
