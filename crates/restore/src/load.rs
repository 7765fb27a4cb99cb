//! Loading: the structure in one transaction with the fence, then rows, indexes and constraints.

use std::path::Path;

use ess_archive::{Entry, Found, Restoring};
use ess_cli::{Console, Stop};
use ess_document::Identity;
use ess_postgres::{Conninfo, drop_statements, escape_identifier, objects};
use ess_proof::{Fence, Target};
use ess_run::{Installation, Report};
use ess_synapse::schema::FENCE_TABLES;

use crate::Loaded;

/// A load about to begin.
pub(crate) struct Loading<'a> {
    pub(crate) conninfo: &'a Conninfo,
    pub(crate) target: &'a Target,
    pub(crate) programs: &'a Installation,
    pub(crate) jobs: usize,
    pub(crate) maintenance_mib: u64,
    pub(crate) id: String,
    pub(crate) source: Option<Identity>,
    pub(crate) application_name: String,
    pub(crate) console: &'a Console,
}

impl Loading<'_> {
    /// Loads the whole dump. From its first statement on the target is fenced.
    pub(crate) fn load(&self, found: &Found, from: &Path) -> anyhow::Result<Loaded> {
        let restoring = Restoring {
            conninfo: self.conninfo,
            application_name: &self.application_name,
            programs: self.programs,
            role: self.target.other_role(),
            jobs: self.jobs,
            maintenance_mib: self.maintenance_mib,
            report: self.console,
        };
        let before = self.before()?;
        let after = self.fence().raise();
        self.console.stage("loading", None);
        let archive = match found {
            Found::Ours { dump, manifest, .. } => dump.join(&manifest.data),
            Found::Archive(path) => path.clone(),
            Found::Plain(path) => {
                let outcome = restoring.load_plain(path, &before, &after)?;
                self.console.done();
                return Ok(outcome.into());
            }
        };
        let toc = restoring.contents(&archive)?;
        if toc.entries.is_empty() {
            return Err(Stop::data(format!("the archive {} is empty", from.display())).into());
        }
        let (entries, dropped) = toc.divide();
        let is_fence = |entry: &&Entry| FENCE_TABLES.iter().any(|table| entry.is_data_of(table));
        let (fence, rest): (Vec<&Entry>, Vec<&Entry>) = entries.into_iter().partition(is_fence);
        let schema = restoring.schema_rows(&archive, &fence)?;
        restoring.load_pre_data(&archive, &rest, &before, &after)?;
        restoring.load_data_and_post_data(&archive, &rest)?;
        self.console.done();
        Ok(Loaded { dropped, schema })
    }

    /// What goes first in the transaction of the structure: whatever is behind the fence goes.
    fn before(&self) -> anyhow::Result<String> {
        let role = self
            .target
            .other_role()
            .map_or_else(String::new, |role| format!("SET ROLE {};\n", escape_identifier(role)));
        let drops = drop_statements(&objects(&self.target.session)?);
        Ok(format!(
            "SET lock_timeout = '5s';\n{drops}SET lock_timeout = 0;\n{role}"
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
