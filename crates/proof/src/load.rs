//! Loading: the structure in one transaction with the fence, then rows, indexes and constraints.

use std::path::{Path, PathBuf};
use std::thread;

use ess_archive::{Entry, Found, Kind, Manifest, PlainOutcome, Restoring, Toc, check_schema};
use ess_cli::{Console, Stop};
use ess_document::{Dropped, Identity};
use ess_postgres::{Conninfo, SchemaRows, drop_statements, escape_identifier, objects};
use ess_run::{Installation, Report};
use ess_synapse::schema::FENCE_TABLES;

use crate::{Fence, Target};

/// What was loaded.
pub struct Loaded {
    /// What was left out of it.
    pub dropped: Vec<Dropped>,
    /// The version rows that the dump itself holds.
    pub schema: SchemaRows,
    /// The fence that stands before it now.
    pub fence: Fence,
}

/// A load about to begin.
pub struct Loading<'a> {
    /// The target.
    pub conninfo: &'a Conninfo,
    /// The target under our lock.
    pub target: &'a Target,
    /// The client programs.
    pub programs: &'a Installation,
    /// How many sessions load.
    pub jobs: usize,
    /// Memory for each index that is built, in MiB.
    pub maintenance_mib: u64,
    /// The migration.
    pub id: String,
    /// Who is to come to the target: the fence says so until it is lifted.
    pub source: Option<Identity>,
    /// Our name on the server.
    pub application_name: String,
    /// Who is told.
    pub console: &'a Console,
}

impl Loading<'_> {
    /// Loads the whole dump. From its first statement on the target is fenced.
    pub fn load(&self, found: &Found) -> anyhow::Result<Loaded> {
        let restoring = Restoring {
            conninfo: self.conninfo,
            application_name: &self.application_name,
            programs: self.programs,
            role: self.target.other_role(),
            jobs: self.jobs,
            maintenance_mib: self.maintenance_mib,
            report: self.console,
        };
        let (archive, manifest) = match found {
            Found::Ours { dump, manifest, .. } => (dump.join(&manifest.data), Some((dump, manifest))),
            Found::Archive(path) => (path.clone(), None),
            Found::Plain(path) => {
                self.console.stage("loading", None);
                let outcome = restoring.load_plain(path, &self.before()?, &self.fence().raise())?;
                self.console.done();
                return Ok(self.loaded_plain(outcome));
            }
        };
        let (toc, schema) = thread::scope(|scope| {
            let check = |(dump, manifest): (&PathBuf, &Manifest)| manifest.check_files(dump, self.console);
            let mut check = manifest.map(|(dump, manifest)| scope.spawn(move || check((dump, manifest))));
            let mut checked = || match check.take() {
                Some(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                None => Ok(()),
            };
            let manifest = manifest.map(|(_, manifest)| &**manifest);
            let structure = self.load_structure(&restoring, &archive, manifest, &mut checked);
            // A damaged file explains best what could not be done with it.
            checked()?;
            structure
        })?;
        let (entries, dropped) = toc.divide();
        let fence = fence_numbers(&toc);
        let rows: Vec<&Entry> = entries
            .into_iter()
            .filter(|entry| !fence.contains(&entry.number()))
            .collect();
        self.console.stage("loading", None);
        restoring.load_data_and_post_data(&archive, &rows)?;
        self.console.done();
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

    /// Loads the structure if, in the end, `checked` finds nothing wrong with the dump.
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
                    "the archive {} has another schema version than its manifest",
                    archive.display()
                );
                return Err(Stop::data(what)
                    .hint("copy the dump again from where it was made")
                    .into());
            }
            // What was there before a wipe comes back as it was.
            Some(manifest) if manifest.kind == Kind::Backup => {}
            _ => check_schema(&schema, archive)?,
        }
        restoring.check_post_data(archive, &rest)?;
        restoring.load_pre_data(archive, &rest, &self.before()?, &self.fence().raise(), checked)?;
        Ok((toc, schema))
    }

    /// What goes first in the transaction of the structure: whatever is behind the fence goes.
    fn before(&self) -> anyhow::Result<String> {
        let role = self
            .target
            .other_role()
            .map_or_else(String::new, |role| format!("SET ROLE {};\n", escape_identifier(role)));
        let objects = objects(&self.target.session)?;
        let fence = match &self.target.fence {
            Some(fence) => fence.require(),
            // Only what is behind a fence is dropped.
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

/// A target that holds what these tools did not put there.
pub fn not_empty() -> Stop {
    Stop::no("the target is not empty").hint("empty it with ess-wipe, which takes a backup first")
}

/// The entries of the rows that the fence stands for.
fn fence_numbers(toc: &Toc) -> Vec<&str> {
    let data = FENCE_TABLES.iter().filter_map(|table| toc.data_of("public", table));
    data.map(Entry::number).collect()
}
