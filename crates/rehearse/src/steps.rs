//! The steps of a rehearsal: dump, load, proof. They are those of the migration itself.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use ess_archive::{Compression, DumpKind, DumpLayout, Dumping, Manifest, find, take};
use ess_cli::exit_of;
use ess_document::{Identity, Rehearse};
use ess_postgres::{Conninfo, Facts, Session, database_objects, drop_statements, end_leftovers, server_facts};
use ess_proof::{Expected, Fence, Loading, Proving, Standing, Target, standing};
use ess_run::{Installation, Report, interrupted};
use ess_stop::{Exit, Stop};

use crate::scratch::Scratch;

/// Memory for each index that is built, in MiB; the default of restore.
const MAINTENANCE_MIB: u64 = 256;

/// How long erasing what was loaded may take. After a signal, the process ends earlier.
const CLEANING: Duration = Duration::from_secs(600);

/// The id of a fence begins with this if a rehearsal has raised it: what is behind any other fence is a migration's.
const FENCE_ID: &str = "rehearsal ";

/// What PostgreSQL, its programs and the system report when a disk is full (`ENOSPC` in English).
const DISK_FULL: &str = "No space left on device";

/// A rehearsal of one source.
pub(crate) struct Rehearsal<'a> {
    pub(crate) source: &'a Conninfo,
    /// Holds the source's lock.
    pub(crate) session: &'a Session,
    pub(crate) facts: &'a Facts,
    pub(crate) application_name: &'a str,
    /// The migration's id.
    pub(crate) id: String,
    pub(crate) jobs: usize,
    pub(crate) pg_bin: Option<&'a Path>,
    /// The programs that dump the source.
    pub(crate) programs: &'a Installation,
    /// Where the dump goes.
    pub(crate) dump: PathBuf,
    pub(crate) keep: bool,
    pub(crate) report: &'a dyn Report,
}

/// An empty database, locked. The session is dropped before the server.
pub(crate) struct Ready {
    pub(crate) target: Target,
    pub(crate) conninfo: Conninfo,
    /// The throwaway server; `None` if the user has named the database.
    pub(crate) scratch: Option<Scratch>,
}

impl Rehearsal<'_> {
    /// Connects to a database; refuses one that is not empty, that Synapse could not use, or other than `known`.
    ///
    /// What an earlier rehearsal left behind its fence is accepted, since the load erases it.
    pub(crate) fn open(&self, conninfo: &Conninfo, known: Option<&Identity>) -> anyhow::Result<Target> {
        let target = Target::open(conninfo, self.application_name, None, known, self.report)?;
        target.require_role()?;
        ess_proof::require_locale(&target.facts)?;
        let why = match &target.fence {
            Some(fence) if is_of_a_rehearsal(fence) => return Ok(target),
            Some(_) => "is fenced: it is the target of a migration",
            None if database_objects(&target.session)?.is_empty() => return Ok(target),
            None => "is not empty",
        };
        Err(Stop::no(format!("the database of --on, {conninfo}, {why}"))
            .hint(
                "create an empty one for the rehearsal: createdb --encoding=UTF8 --locale=C --template=template0 NAME",
            )
            .into())
    }

    /// Runs all steps. Returns the error of one at which the migration would stop too, if there is one.
    ///
    /// # Errors
    ///
    /// An error that the migration would not meet, such as a signal or a full disk.
    pub(crate) fn run(&self, ready: &mut Ready, record: &mut Rehearse) -> anyhow::Result<Option<anyhow::Error>> {
        let manifest = match self.dump(record) {
            Ok(manifest) => manifest,
            Err(error) => return judged(ready, error),
        };
        let outcome = self.load_and_prove(ready, &manifest, record);
        if ready.scratch.is_none() && !self.keep {
            let emptied = empty(&mut ready.target, &manifest)
                .with_context(|| format!("{} still contains the rehearsal", ready.conninfo));
            match (&outcome, emptied) {
                (_, Ok(())) => {}
                (Ok(()), Err(error)) => return Err(error),
                (Err(_), Err(error)) => self.report.note(&format!("{error:#}")),
            }
        }
        match outcome {
            Ok(()) => Ok(None),
            Err(error) => judged(ready, error),
        }
    }

    /// Dumps the source, which Synapse may use.
    fn dump(&self, record: &mut Rehearse) -> anyhow::Result<Manifest> {
        let start = Instant::now();
        ess_proof::require_loadable(self.session, self.facts, self.report)?;
        let taken = take(
            &Dumping {
                conninfo: self.source,
                facts: self.facts,
                application_name: self.application_name,
                programs: self.programs,
                jobs: self.jobs,
                layout: DumpLayout::Directory,
                compression: Compression(None),
                kind: DumpKind::Migration,
                id: &self.id,
                server_name: None,
                source_is_running: true,
                report: self.report,
            },
            &self.dump,
            None,
        )
        .context("the dump failed")?;
        record.dump_seconds = start.elapsed().as_secs();
        record.dump_bytes = taken.manifest.bytes();
        record.catalogue_sha256 = ess_proof::catalogue_sha256(&taken.manifest.inventory.catalogue);
        record.dropped.clone_from(&taken.manifest.left_out);
        Ok(taken.manifest)
    }

    /// Loads the dump into the database, and compares every table.
    fn load_and_prove(&self, ready: &mut Ready, manifest: &Manifest, record: &mut Rehearse) -> anyhow::Result<()> {
        let Ready { target, conninfo, .. } = ready;
        ess_proof::require_compatible(target, &manifest.inventory)?;
        if target.fence.is_some() {
            ess_proof::require_own_tables(target, &manifest.inventory)?;
        }
        let found = find(&self.dump)?;
        let origin = ess_archive::Origin::of(&found)
            .with_context(|| format!("cannot read the dump at {}", self.dump.display()))?;
        let programs = origin.programs(self.pg_bin, &target.facts.version_text)?;
        let start = Instant::now();
        let loading = Loading {
            conninfo,
            target,
            programs: &programs,
            jobs: self.jobs,
            maintenance_mib: MAINTENANCE_MIB,
            id: format!("{FENCE_ID}{}", self.id),
            source: Some(self.facts.identity.clone()),
            application_name: self.application_name.to_owned(),
            report: self.report,
        };
        let loaded = loading.load(&found).context("the load failed")?;
        target.fence = Some(loaded.fence);
        record.load_seconds = start.elapsed().as_secs();
        let known: BTreeSet<String> = record.dropped.iter().map(|left| left.entry.clone()).collect();
        let more = loaded.dropped.into_iter().filter(|left| !known.contains(&left.entry));
        record.dropped.extend(more);
        let start = Instant::now();
        let proving = Proving {
            conninfo,
            application_name: self.application_name,
            role: &target.role,
            jobs: self.jobs,
            report: self.report,
        };
        let expected = Expected::of_dump(manifest);
        let proof = proving.prove(&target.session, &expected.inventory, true)?;
        record.proof_seconds = start.elapsed().as_secs();
        record.tables = proof.tables;
        record.rows = proof.rows;
        record.differences = proof.differences;
        record.target_bytes = u64::try_from(server_facts(&target.session)?.bytes).unwrap_or_default();
        Ok(())
    }
}

/// The error of a step: a result if the migration would stop at it too.
fn judged(ready: &Ready, error: anyhow::Error) -> anyhow::Result<Option<anyhow::Error>> {
    if let Some(scratch) = &ready.scratch {
        // Explains why the server is gone.
        scratch.require_room()?;
    }
    if would_stop_the_migration(&error) {
        Ok(Some(error))
    } else {
        Err(error)
    }
}

fn is_of_a_rehearsal(fence: &Fence) -> bool {
    fence.id.starts_with(FENCE_ID) && fence.backup.is_none()
}

/// Erases what was loaded, also after a signal.
///
/// # Errors
///
/// It is not behind the fence of a rehearsal, or tables of another program are among it: then nothing is erased.
fn empty(target: &mut Target, manifest: &Manifest) -> anyhow::Result<()> {
    target.session.ignore_signals(CLEANING);
    // Sessions of a load that failed may not have ended yet.
    end_leftovers(&target.session, &["rehearse", "pg_restore"])?;
    let objects = database_objects(&target.session)?;
    if objects.is_empty() {
        // The load of the structure was rolled back.
        return Ok(());
    }
    let fence = match standing(&target.session)? {
        Standing::Complete(fence) if is_of_a_rehearsal(&fence) => fence,
        _ => return Err(Stop::no("it contains objects that this rehearsal did not load").into()),
    };
    ess_proof::require_own_tables(target, &manifest.inventory)?;
    let statements = format!(
        "BEGIN; SET LOCAL lock_timeout = '5s'; {}{}COMMIT",
        fence.require(),
        drop_statements(&objects)
    );
    target.session.batch("erase the rehearsal", &statements)?;
    target.fence = None;
    Ok(())
}

/// Whether the migration would meet this error too, in contrast to a trouble of this host or of this run.
fn would_stop_the_migration(error: &anyhow::Error) -> bool {
    let is_of_this_run = matches!(exit_of(error), Exit::Usage | Exit::Software | Exit::Io | Exit::Busy);
    interrupted().is_none() && !is_of_this_run && !format!("{error:#}").contains(DISK_FULL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_not_a_result() {
        let failed = |why: &str| anyhow::Error::from(Stop::new(Exit::Unavailable, why)).context("the load failed");
        assert!(would_stop_the_migration(&failed(
            "pg_restore failed: invalid byte sequence"
        )));
        assert!(!would_stop_the_migration(&failed(
            "pg_restore failed\n  | ERROR:  could not extend file: No space left on device"
        )));
        let busy = Stop::new(Exit::Busy, "another run holds the lock");
        assert!(!would_stop_the_migration(&busy.into()));
    }

    #[test]
    fn only_the_fence_of_a_rehearsal_is_dropped() {
        let fence = |id: &str, backup: Option<&str>| Fence::new(id.to_owned(), None, backup.map(str::to_owned));
        assert!(is_of_a_rehearsal(&fence("rehearsal 0b1f", None)));
        assert!(!is_of_a_rehearsal(&fence("0b1f", None)));
        assert!(!is_of_a_rehearsal(&fence("rehearsal 0b1f", Some("/backup"))));
    }
}
