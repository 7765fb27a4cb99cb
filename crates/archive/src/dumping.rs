//! Making a dump: runs `pg_dump` under an exported snapshot and computes digests in the same snapshot meanwhile.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use ess_document::{Carried, Dropped, now};
use ess_files::{make_directory, sync_directory};
use ess_postgres::{
    Access, Conninfo, DatabaseState, Digest, Facts, Inventory, NotInADump, Reading, Session, Table, database_state,
    database_tables, digests, escape_identifier, extension_rows, foreign_tables, not_in_a_dump, plausible_schema_rows,
    stream_positions, unreadable_objects,
};
use ess_run::{Installation, Program, Report, joined};
use ess_stop::{Exit, Stop};
use ess_synapse::schema::{FENCE_TABLES, ONE_TIME_KEYS_TABLE, UNLOGGED_TABLES};

use crate::compression::{Compression, has_room};
use crate::manifest::{DumpKind, FileRecord, MANIFEST, Manifest, ManifestFormat};
use crate::restoring::check_sql;
use crate::sealing::Sealing;
use crate::sequences::archived_sequences;
use crate::slots::SharedSlots;

/// Layout of a dump on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DumpLayout {
    /// `pg_dump -Fd`: a directory, which several workers dump and load in parallel.
    Directory,
    /// `pg_dump -Fc`: a single file.
    Custom,
}

/// Parameters of a dump.
pub struct Dumping<'a> {
    /// The database to dump.
    pub conninfo: &'a Conninfo,
    /// Facts about that database and its server.
    pub facts: &'a Facts,
    /// The `application_name` of this tool's sessions.
    pub application_name: &'a str,
    /// The client programs.
    pub programs: &'a Installation,
    /// The maximum number of sessions that work at the same time.
    pub jobs: usize,
    /// The layout on disk.
    pub layout: DumpLayout,
    /// How it is compressed.
    pub compression: Compression,
    /// The purpose of the dump.
    pub kind: DumpKind,
    /// The migration's id.
    pub id: &'a str,
    /// The homeserver's name, if it is known.
    pub server_name: Option<&'a str>,
    /// Whether other sessions may use the source during the dump.
    pub source_is_running: bool,
    /// Receives progress and notes.
    pub report: &'a dyn Report,
}

/// A finished dump.
pub struct Taken {
    /// Its manifest.
    pub manifest: Manifest,
    /// The SHA-256 of the manifest file.
    pub sha256: String,
}

/// Dumps into a partial directory and renames it to `out` once it is complete.
///
/// Whatever exists at `out` is then moved to `aside` first; if `aside` is `None`, nothing may exist at `out`.
pub fn take(dumping: &Dumping<'_>, out: &Path, aside: Option<&Path>) -> anyhow::Result<Taken> {
    let partial = partial_path(out);
    // Left by a killed run: the caller holds the lock, so no other run is using it.
    remove_partial(&partial)?;
    make_directory(&partial)?;
    let taken = fill(dumping, &partial);
    let named = taken.and_then(|taken| {
        if let Some(aside) = aside {
            std::fs::rename(out, aside).with_context(|| format!("cannot move {} aside", out.display()))?;
        }
        std::fs::rename(&partial, out).with_context(|| format!("cannot name the dump {}", out.display()))?;
        out.parent().map_or(Ok(()), sync_directory)?;
        Ok(taken)
    });
    if named.is_err() {
        // The first error is the one to report.
        let _ = remove_partial(&partial);
    }
    named
}

/// Whether something exists at `out`. Finishes the rename first, if a run was killed between completing and renaming
/// its dump.
///
/// The manifest is written last, so a partial directory that contains it is complete. The caller holds the lock.
pub fn finish_rename(out: &Path) -> anyhow::Result<bool> {
    if std::fs::symlink_metadata(out).is_ok() {
        return Ok(true);
    }
    let partial = partial_path(out);
    if !partial.join(MANIFEST).is_file() {
        return Ok(false);
    }
    std::fs::rename(&partial, out).with_context(|| format!("cannot name the dump {}", out.display()))?;
    out.parent().map_or(Ok(()), sync_directory)?;
    Ok(true)
}

fn partial_path(out: &Path) -> PathBuf {
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    out.with_file_name(format!(".{name}.partial"))
}

fn remove_partial(partial: &Path) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(partial) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove the leftover {}", partial.display()))
        }
        _ => Ok(()),
    }
}

/// Refuses, before anything is dumped, if the session's role cannot read everything.
fn refuse_unreadable(dumping: &Dumping<'_>, holder: &Session) -> anyhow::Result<()> {
    let forbidden = unreadable_objects(holder)?;
    if !forbidden.is_empty() {
        let some: Vec<&str> = forbidden.iter().take(5).map(String::as_str).collect();
        let message = format!(
            "role {} cannot read {}{}",
            dumping.facts.user,
            some.join(", "),
            if forbidden.len() > some.len() { " and more" } else { "" }
        );
        return Err(Stop::new(Exit::Permission, message)
            .hint("connect as their owner, or as a role with BYPASSRLS if row security is forced on the owner too")
            .into());
    }
    Ok(())
}

fn fill(dumping: &Dumping<'_>, partial: &Path) -> anyhow::Result<Taken> {
    let report = dumping.report;
    let holder = Session::connect(dumping.conninfo, dumping.application_name, Access::ReadOnly)?;
    refuse_unreadable(dumping, &holder)?;
    let before = database_state(&holder)?;
    holder.batch("begin the snapshot", "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")?;
    let snapshot: String = holder
        .one("export the snapshot", "SELECT pg_export_snapshot()", &[])?
        .get(0);
    let taken_at = now();
    let all = database_tables(&holder)?;
    let carried = |table: &Table| carried(table, dumping.source_is_running);
    // Only a migration must be of a Synapse database: a backup is taken of whatever a wipe erases.
    if dumping.kind == DumpKind::Migration {
        plausible_schema_rows(&holder)?.map_err(|why| not_a_homeserver(&why))?;
    }
    let left_out = not_in_a_dump(&holder)?
        .into_iter()
        .filter(|left| left.erased || dumping.kind == DumpKind::Migration)
        .map(|NotInADump { entry, reason, .. }| Dropped { entry, reason })
        .collect();

    let data = PathBuf::from(match dumping.layout {
        DumpLayout::Directory => "data",
        DumpLayout::Custom => "data.dump",
    });
    let records: Vec<(&Table, Carried)> = all.iter().map(|table| (table, carried(table))).collect();
    let to_read: Vec<&Table> = all.iter().filter(|table| carried(table) == Carried::Rows).collect();
    let heap: i64 = to_read.iter().map(|t| t.bytes).sum();
    report.stage("dumping and hashing every table", u64::try_from(heap).ok());
    let program = command(dumping, &snapshot, partial, &data, &records, &excluded(&holder)?)?;
    let sealing = Sealing::new(partial, &data);
    let (sums, files) = dump_and_read(dumping, program, &snapshot, &to_read, sealing)?;
    report.done();
    let sequences = if dumping.source_is_running {
        archived_sequences(&partial.join(&data), dumping.programs, &holder, report)?
    } else {
        before.sequences.clone()
    };
    let mark_of_dump = DatabaseState {
        sequences,
        stream_positions: stream_positions(&holder)?,
        ..before.clone()
    };
    let inventory = Inventory::read(&holder, &all, carried, sums, mark_of_dump)?;
    holder.batch("end the snapshot", "COMMIT")?;
    check_sql(&partial.join(&data), dumping.programs, report).context("restore could not load this dump")?;

    let after = database_state(&holder)?;
    if !dumping.source_is_running
        && (after.sequences != before.sequences || after.stream_positions != before.stream_positions)
    {
        return Err(Stop::no("the source was written to during the dump")
            .hint("stop every process of the old Synapse, then re-run the same command")
            .into());
    }

    let manifest = Manifest {
        format: ManifestFormat::V1,
        kind: dumping.kind,
        id: dumping.id.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        taken_at,
        source: dumping.facts.identity.clone(),
        server_name: dumping.server_name.map(str::to_owned),
        server_version: dumping.facts.version_text.clone(),
        pg_dump_version: dumping.programs.version.clone(),
        data,
        source_was_running: dumping.source_is_running,
        files,
        inventory,
        left_out,
        seal: None,
    };
    let sha256 = manifest.write(partial)?;
    Ok(Taken { manifest, sha256 })
}

/// A refusal: on a copy of this source, Synapse would not start or would initialise a new, empty homeserver.
fn not_a_homeserver(why: &str) -> Stop {
    Stop::no(format!("the source is not a database that Synapse can use: {why}"))
        .hint("check which database the old Synapse uses; undo any manual changes to its schema version first")
}

/// What is carried of a table: rows, structure only, or what the fence replaces.
pub fn carried(table: &Table, source_is_running: bool) -> Carried {
    if FENCE_TABLES.iter().any(|name| table.is(name)) {
        Carried::Fence
    } else if table.unlogged && UNLOGGED_TABLES.iter().any(|name| table.is(name))
        || source_is_running && table.is(ONE_TIME_KEYS_TABLE)
    {
        Carried::Structure
    } else {
        Carried::Rows
    }
}

/// Runs `pg_dump`, computes digests in the session slots that its workers leave idle, and seals the files that it
/// writes.
fn dump_and_read(
    dumping: &Dumping<'_>,
    program: Program,
    snapshot: &str,
    tables: &[&Table],
    sealing: Sealing<'_>,
) -> anyhow::Result<(Vec<Digest>, BTreeMap<String, FileRecord>)> {
    let name = child_name(dumping.application_name, "pg_dump");
    // Keeps the child's password file in existence until pg_dump has ended.
    let child = dumping.conninfo.child_environment(&name, Access::ReadOnly, &[])?;
    let program = program.envs(&child.vars);
    let shared = SharedSlots {
        conninfo: dumping.conninfo,
        application_name: dumping.application_name,
        child: &name,
        jobs: dumping.jobs,
    };
    thread::scope(|scope| {
        let (finish, finished) = mpsc::channel();
        let seal = scope.spawn(move || seal(sealing, dumping.layout, &finished));
        let dump = move || {
            program
                .finish(dumping.report)
                .with_context(|| format!("cannot dump {}", dumping.conninfo))?;
            // Lets the sealing thread hash the remaining files while the remaining digests are computed.
            let _ = finish.send(());
            Ok(())
        };
        let sums = shared.run(tables.len(), dump, |slots| {
            let reading = Reading {
                conninfo: dumping.conninfo,
                application_name: dumping.application_name,
                snapshot: Some(snapshot),
                jobs: dumping.jobs,
                queue: Some(slots),
                access: Access::ReadOnly,
                report: dumping.report,
            };
            digests(&reading, tables)
        });
        let files = joined(seal.join());
        Ok((sums?, files?))
    })
}

/// Seals files while `pg_dump` writes them, and the rest once `finished` reports that it has ended. Returns nothing if
/// `pg_dump` failed, which closes the channel.
fn seal(
    mut sealing: Sealing<'_>,
    layout: DumpLayout,
    finished: &Receiver<()>,
) -> anyhow::Result<BTreeMap<String, FileRecord>> {
    loop {
        match finished.recv_timeout(Duration::from_millis(200)) {
            Ok(()) => return sealing.finish(),
            Err(RecvTimeoutError::Disconnected) => return Ok(BTreeMap::new()),
            // Not for a custom archive: at its end pg_dump seeks back and rewrites the table of contents with the
            // offsets of the data (_CloseArchive in pg_backup_custom.c), so hashing early would hash stale bytes.
            Err(RecvTimeoutError::Timeout) if layout == DumpLayout::Directory => sealing.follow()?,
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// `pg_dump` options that exclude foreign tables and the rows of extensions' tables.
fn excluded(session: &Session) -> Result<Vec<String>, ess_postgres::Error> {
    let pattern =
        |(schema, name): (String, String)| format!("{}.{}", escape_identifier(&schema), escape_identifier(&name));
    let foreign = foreign_tables(session)?.into_iter();
    let rows = extension_rows(session)?.into_iter();
    Ok(foreign
        .map(|table| format!("--exclude-table={}", pattern(table)))
        .chain(rows.map(|table| format!("--exclude-table-data={}", pattern(table))))
        .collect())
}

fn command(
    dumping: &Dumping<'_>,
    snapshot: &str,
    partial: &Path,
    data: &Path,
    records: &[(&Table, Carried)],
    excluded: &[String],
) -> anyhow::Result<Program> {
    let bytes = records.iter().map(|(table, _)| table.bytes).sum::<i64>();
    let has_room = has_room(partial, u64::try_from(bytes).unwrap_or(u64::MAX));
    let compression = dumping
        .compression
        .argument(dumping.programs, has_room, dumping.report)?;
    let program = dumping
        .programs
        .program("pg_dump")
        .args(["--no-password", "--no-owner", "--no-acl", "--snapshot", snapshot])
        .args(["--compress", &compression])
        // Sealing syncs each file already, while pg_dump still runs.
        .arg("--no-sync");
    let program = match dumping.layout {
        DumpLayout::Directory => program.args(["--format", "directory", "--jobs", &dumping.jobs.to_string()]),
        DumpLayout::Custom => program.args(["--format", "custom"]),
    };
    let program = program.arg("--file").arg(partial.join(data));
    let program = excluded.iter().fold(program, Program::arg);
    let program = records
        .iter()
        .filter(|(_, carried)| *carried == Carried::Structure)
        .fold(program, |program, (table, _)| {
            let pattern = format!(
                "{}.{}",
                escape_identifier(&table.schema),
                escape_identifier(&table.name)
            );
            program.arg(format!("--exclude-table-data={pattern}"))
        });
    Ok(program)
}

/// The `application_name` of a child program: `ess-migrate/TOOL/ID` with the child's name as the tool.
pub fn child_name(application_name: &str, program: &str) -> String {
    let id = application_name.rsplit('/').next().unwrap_or("-");
    format!("ess-migrate/{program}/{id}")
}
