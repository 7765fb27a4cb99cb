//! What a dump holds, beside the dump: the SHA-256 of every file and what the database held.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::Context;
use ess_cli::{Stop, hash_file, hex, processors, write_file};
use ess_document::{Carried, Dropped, Identity, OneTimeKeys};
use ess_postgres::{Inventory, TableRecord};
use ess_run::Report;
use ess_synapse::schema::{FENCE_TABLES, ONE_TIME_KEYS_TABLE, UNLOGGED_TABLES};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The manifest's name in the directory of a dump.
pub const MANIFEST: &str = "manifest.json";

/// What a dump holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// A reader refuses any other format.
    pub format: Format,
    /// Why it was taken.
    pub kind: Kind,
    /// The migration that took it.
    pub id: String,
    /// The version of these tools.
    pub version: String,
    /// When the snapshot was taken, RFC 3339, UTC.
    pub taken_at: String,
    /// The database it was taken of.
    pub source: Identity,
    /// The part after the colon in every user's Matrix ID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// Such as `15.18`.
    pub server_version: String,
    /// The version of `pg_dump`, such as `15.18`.
    pub pg_dump_version: String,
    /// What `pg_restore` reads, relative to the manifest: a directory or one file.
    pub data: PathBuf,
    /// Other sessions used the source while it was dumped.
    pub source_was_running: bool,
    /// Every file of `data`, relative to the manifest.
    pub files: BTreeMap<String, FileRecord>,
    /// What the database held in the dump's snapshot.
    pub inventory: Inventory,
    /// What of the database the dump does not hold; of a backup, what a wipe takes away with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<Dropped>,
    /// SHA-256 of the whole file with zeros in this place: a flipped bit is no other inventory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seal: Option<String>,
}

/// What is hashed in the place of a seal.
const UNSEALED: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// A new name only when a reader of the old one would be misled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Format {
    /// The first format.
    #[serde(rename = "ess-dump/1")]
    V1,
}

/// Why a dump was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// To be loaded elsewhere.
    Migration,
    /// Of what a wipe erases, to go back.
    Backup,
}

/// One file of a dump.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRecord {
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256, hexadecimal.
    pub sha256: String,
    /// Inode, mtime and ctime when it was sealed: while they are the same, so are its contents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stamp: Option<String>,
}

impl Manifest {
    /// Reads the manifest of a dump and returns it with its own SHA-256.
    pub fn read(dump: &Path) -> anyhow::Result<(Self, String)> {
        let path = dump.join(MANIFEST);
        let text = read_small(&path)?;
        let manifest: Self = serde_json::from_slice(&text).map_err(|error| {
            Stop::data(format!("{} is not a dump's manifest: {error}", path.display()))
                .hint("take the dump again, or name the dump itself with --from to load it without proof")
        })?;
        if let Some(seal) = &manifest.seal
            && *seal != seal_of(&text, seal)
        {
            return Err(damaged(dump, &format!("{MANIFEST} does not match its seal")).into());
        }
        let names = manifest.files.keys().map(Path::new);
        if let Some(outside) = names.chain([manifest.data.as_path()]).find(|name| !is_inside(name)) {
            let what = format!(
                "{} names {}, which is not in the dump",
                path.display(),
                outside.display()
            );
            return Err(Stop::data(what)
                .hint("look where this dump comes from, or take it again")
                .into());
        }
        if let Some(why) = manifest.implausible() {
            return Err(Stop::data(format!("{}: {why}", path.display()))
                .hint("pgdump-wrap writes no such manifest; look where this dump comes from, or take it again")
                .into());
        }
        Ok((manifest, hex(&Sha256::digest(&text))))
    }

    /// What no manifest of ours says, in a sentence: rows that it declares away would be lost without a word.
    fn implausible(&self) -> Option<String> {
        let mut names = BTreeSet::new();
        for table in &self.inventory.tables {
            let name = format!("{}.{}", table.schema, table.name);
            if !names.insert((&table.schema, &table.name)) {
                return Some(format!("it names the table {name:?} twice"));
            }
            if !self.may_be_carried(table) {
                return Some(format!(
                    "the rows of the table {name:?} are not carried as pgdump-wrap carries them"
                ));
            }
            if (table.carried == Carried::Rows) != table.digest.is_some() {
                return Some(format!("the table {name:?} and its digest do not go together"));
            }
        }
        if self.kind == Kind::Backup {
            // What a wipe erased may have been anything.
            return None;
        }
        if self.inventory.table_count() == 0 {
            return Some("it names no table with rows".to_owned());
        }
        self.inventory.schema.implausible()
    }

    /// Whether this table is one of the few of which something else than its rows may be carried.
    fn may_be_carried(&self, table: &TableRecord) -> bool {
        let is = |name: &&str| table.schema == "public" && table.name == *name;
        match table.carried {
            Carried::Rows => !FENCE_TABLES.iter().any(is),
            Carried::Fence => FENCE_TABLES.iter().any(is),
            Carried::Structure => UNLOGGED_TABLES.iter().any(is) || self.source_was_running && is(&ONE_TIME_KEYS_TABLE),
        }
    }

    /// Writes the manifest beside its data; returns its SHA-256.
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

    /// What became of one-time keys, and why.
    pub fn one_time_keys(&self) -> Option<OneTimeKeys> {
        let is_keys = |table: &&TableRecord| table.schema == "public" && table.name == ONE_TIME_KEYS_TABLE;
        let kept = self.inventory.tables.iter().find(is_keys)?.carried == Carried::Rows;
        let reason = if kept {
            "nobody used the source while it was dumped, so none was handed out meanwhile"
        } else {
            "the source was in use, and a key that is handed out twice makes messages unreadable; clients upload new ones"
        };
        Some(OneTimeKeys {
            kept,
            reason: reason.to_owned(),
        })
    }

    /// How many bytes of data there are.
    pub fn bytes(&self) -> u64 {
        self.files.values().map(|file| file.bytes).sum()
    }

    /// Compares every file with its record; nothing may be missing, changed or added.
    pub fn check_files(&self, dump: &Path, report: &dyn Report) -> anyhow::Result<()> {
        self.check(dump, &|_, _| true, report)
    }

    /// The same, but reads only files that were touched since they were sealed, as a copy of a dump was.
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
            "checking the dump's files",
            Some(files.iter().map(|(_, record)| record.bytes).sum()),
        );
        // The largest first, so that no thread is left alone with it.
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
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })?;
        report.done();
        Ok(())
    }
}

/// What of a file cannot stay the same when its contents change: nobody can set a ctime.
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
            let message = format!("{name} has {bytes} bytes, the manifest says {}", self.bytes);
            return Err(damaged(dump, &message).into());
        }
        if sha256 != self.sha256 {
            return Err(damaged(dump, &format!("{name} does not match its SHA-256")).into());
        }
        Ok(())
    }
}

/// No manifest is larger: a table takes some hundred bytes, and a column less.
const MANIFEST_LIMIT: u64 = 256 << 20;

/// All of a manifest, which is a file and not too large.
pub(crate) fn read_small(path: &Path) -> anyhow::Result<Vec<u8>> {
    let failed = || format!("cannot read {}", path.display());
    regular(path, &std::fs::metadata(path).with_context(failed)?)?;
    let mut text = Vec::new();
    let file = std::fs::File::open(path).with_context(failed)?;
    file.take(MANIFEST_LIMIT + 1)
        .read_to_end(&mut text)
        .with_context(failed)?;
    if text.len() as u64 > MANIFEST_LIMIT {
        return Err(Stop::data(format!("{} is larger than any manifest", path.display())).into());
    }
    Ok(text)
}

/// Refuses what is not a file: a named pipe may never end, and a device has no end.
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
    Err(Stop::data(format!("{} is {what}, not a file", path.display()))
        .hint("copy the dump into files of its own first"))
}

/// As it stands in the file; quotes within a string would have backslashes.
fn sealed(seal: &str) -> String {
    format!("\"seal\":\"{seal}\"")
}

/// The seal that the text of a manifest should have.
fn seal_of(text: &[u8], seal: &str) -> String {
    let text = String::from_utf8_lossy(text).replacen(&sealed(seal), &sealed(UNSEALED), 1);
    hex(&Sha256::digest(text))
}

/// Whether a name leads nowhere but below the directory that it is relative to.
fn is_inside(name: &Path) -> bool {
    name.components().next().is_some() && name.components().all(|part| matches!(part, Component::Normal(_)))
}

/// The major version in a text such as `15.18 (Debian 15.18-1)` or `19beta1`; 0 when it says none.
pub fn major(version: &str) -> u32 {
    let digits = version.find(|other: char| !other.is_ascii_digit());
    version[..digits.unwrap_or(version.len())].parse().unwrap_or(0)
}

fn damaged(dump: &Path, what: &str) -> Stop {
    Stop::data(format!("the dump at {} is damaged: {what}", dump.display()))
        .hint("copy it again from where it was made, or take it again")
}

/// The names of all files below `dump/data`, relative to `dump`.
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
            return Err(damaged(dump, &format!("{} is not a plain file", name.display())).into());
        }
        names.push(name.to_string_lossy().into_owned());
    }
    Ok(names)
}
