//! Loads a dump: the structure and the fence in one transaction, then rows, indexes and constraints.

use std::path::{Path, PathBuf};
use std::thread;

use ess_archive::{DumpKind, Entry, FoundDump, Manifest, PlainOutcome, Restoring, Toc, check_schema};
use ess_document::{Dropped, Identity};
use ess_postgres::{Conninfo, SchemaRows, database_objects, drop_statements, escape_identifier};
use ess_run::{Installation, Report, joined};
use ess_stop::Stop;
use ess_synapse::schema::FENCE_TABLES;

use crate::{Fence, Target};

/// What was loaded.
pub struct Loaded {
    /// What was left out of the load.
    pub dropped: Vec<Dropped>,
    /// The schema version rows in the dump.
    pub schema: SchemaRows,
    /// The fence that is now in place.
    pub fence: Fence,
}

/// How to load.
pub struct Loading<'a> {
    /// How to connect to the target.
    pub conninfo: &'a Conninfo,
    /// The target, locked.
    pub target: &'a Target,
    /// The client programs (`pg_restore`).
    pub programs: &'a Installation,
    /// How many sessions load.
    pub jobs: usize,
    /// Memory for each index that is built, in MiB.
    pub maintenance_mib: u64,
    /// The migration's id.
    pub id: String,
    /// The source whose contents are loaded, which the fence names until it is lifted.
    pub source: Option<Identity>,
    /// `application_name` of the connections.
    pub application_name: String,
    /// Receives progress and notes.
    pub report: &'a dyn Report,
}

impl Loading<'_> {
    /// Loads the complete dump. The target is fenced from the first transaction on.
    pub fn load(&self, found: &FoundDump) -> anyhow::Result<Loaded> {
        let restoring = Restoring {
            conninfo: self.conninfo,
            application_name: &self.application_name,
            programs: self.programs,
            role: self.target.other_role(),
            jobs: self.jobs,
            maintenance_mib: self.maintenance_mib,
            report: self.report,
        };
        let (archive, manifest) = match found {
            FoundDump::WithManifest { dump, manifest, .. } => (dump.join(&manifest.data), Some((dump, manifest))),
            FoundDump::Archive(path) => (path.clone(), None),
            FoundDump::Plain(path) => {
                self.report.stage("loading", None);
                let outcome = restoring.load_plain(path, &self.before()?, &self.fence().raise())?;
                self.report.done();
                return Ok(self.loaded_plain(outcome));
            }
        };
        let (toc, schema) = thread::scope(|scope| {
            let check = |(dump, manifest): (&PathBuf, &Manifest)| manifest.check_files(dump, self.report);
            let mut check = manifest.map(|(dump, manifest)| scope.spawn(move || check((dump, manifest))));
            let mut checked = || match check.take() {
                Some(thread) => joined(thread.join()),
                None => Ok(()),
            };
            let manifest = manifest.map(|(_, manifest)| &**manifest);
            let structure = self.load_structure(&restoring, &archive, manifest, &mut checked);
            // A damaged file explains a failed load better than the load's own error.
            checked()?;
            structure
        })?;
        let (entries, dropped) = toc.divide();
        let fence = fence_numbers(&toc);
        let rows: Vec<&Entry> = entries
            .into_iter()
            .filter(|entry| !fence.contains(&entry.number()))
            .collect();
        self.report.stage("loading", None);
        restoring.load_data_and_post_data(&archive, &rows)?;
        self.report.done();
        Ok(Loaded {
            dropped,
            schema,
            fence: self.fence(),
        })
    }

    fn loaded_plain(&self, outcome: PlainOutcome) -> Loaded {
        let dropped = outcome.dropped.into_iter().map(|entry| Dropped {
            entry,
            reason: "belongs to the source's server".to_owned(),
        });
        Loaded {
            dropped: dropped.collect(),
            schema: outcome.schema,
            fence: self.fence(),
        }
    }

    /// Loads the structure; commits only if `checked`, which is called before the end, finds the dump undamaged.
    fn load_structure(
        &self,
        restoring: &Restoring<'_>,
        archive: &Path,
        manifest: Option<&Manifest>,
        checked: &mut (dyn FnMut() -> anyhow::Result<()> + Send),
    ) -> anyhow::Result<(Toc, SchemaRows)> {
        let toc = restoring.contents(archive)?;
        if toc.entries.is_empty() {
            return Err(Stop::data(format!("the archive {} is empty", archive.display())).into());
        }
        let numbers = fence_numbers(&toc);
        let is_fence = |entry: &&Entry| numbers.contains(&entry.number());
        let (fence, rest): (Vec<&Entry>, Vec<&Entry>) = toc.divide().0.into_iter().partition(is_fence);
        let schema = restoring.schema_rows(archive, &fence)?;
        match manifest {
            Some(manifest) if manifest.inventory.schema != schema => {
                let what = format!(
                    "the schema version in the archive {} is not the one in its manifest",
                    archive.display()
                );
                return Err(Stop::data(what)
                    .hint("copy the dump again from the host where it was made")
                    .into());
            }
            // A backup is restored unchanged, even if its schema version is implausible.
            Some(manifest) if manifest.kind == DumpKind::Backup => {}
            _ => check_schema(&schema, archive)?,
        }
        restoring.check_post_data(archive, &rest)?;
        restoring.load_pre_data(archive, &rest, &self.before()?, &self.fence().raise(), checked)?;
        Ok((toc, schema))
    }

    /// SQL that begins the transaction of the structure: it requires the fence, and drops everything behind it.
    fn before(&self) -> anyhow::Result<String> {
        let role = self
            .target
            .other_role()
            .map_or_else(String::new, |role| format!("SET ROLE {};\n", escape_identifier(role)));
        let objects = database_objects(&self.target.session)?;
        let fence = match &self.target.fence {
            Some(fence) => fence.require(),
            // Nothing is dropped unless it is behind a fence.
            None if objects.is_empty() => String::new(),
            None => return Err(not_empty().into()),
        };
        let drops = drop_statements(&objects);
        Ok(format!(
            "SET lock_timeout = '5s';\n{fence}{drops}SET lock_timeout = 0;\n{role}"
        ))
    }

    fn fence(&self) -> Fence {
        let earlier = self.target.fence.as_ref();
        Fence::new(
            self.id.clone(),
            self.source
                .clone()
                .or_else(|| earlier.and_then(|fence| fence.source.clone())),
            earlier.and_then(|fence| fence.backup.clone()),
        )
    }
}

/// The refusal for a target with contents that these tools did not load.
pub fn not_empty() -> Stop {
    Stop::no("the target is not empty").hint("erase it with ess-wipe, which makes a backup first")
}

/// The archive entries with the rows of the version tables, in whose place the fence is.
fn fence_numbers(toc: &Toc) -> Vec<&str> {
    let data = FENCE_TABLES.iter().filter_map(|table| toc.data_of("public", table));
    data.map(Entry::number).collect()
}
