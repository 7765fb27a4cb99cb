//! The migration document: the JSON object that travels through the pipeline.
//!
//! Each tool reads it, adds its own section and passes it on. It never contains a secret, only where to find one.
//! `man/ess-migration.5` describes it, and `schema.json` is its JSON Schema; tests compare both with these types.

mod read;
mod sections;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

pub use read::{MAX_BYTES, ReadError};
pub use sections::{
    Against, Amount, Carried, Dropped, Dump, Failure, FenceState, Finding, Media, Named, Next, OneTimeKeys, Preflight,
    RecordChange, Rehearse, Restore, Scale, ScaleState, ScaledWorkload, SecretEntry, Secrets, Severity, SigningKey,
    SourceCheck, Verify, WellKnown, Wipe,
};

/// The format that this version reads and writes.
pub const FORMAT: &str = "ess-migration/1";

/// The current time as RFC 3339 in UTC, to the second.
pub fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

/// One migration of one homeserver, with a section for each tool that ran.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// The format of the document; a reader refuses any other.
    pub format: Format,
    /// The id of the migration: a UUID, assigned by the first tool that ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The directory of the export, as an absolute path on the host where the document was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub export: Option<PathBuf>,
    /// The homeserver that is migrated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// The database it is migrated to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
    /// Written by `rehearse`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rehearse: Option<Rehearse>,
    /// Written by `preflight`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preflight: Option<Preflight>,
    /// Written by `extract-secrets`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secrets: Option<Secrets>,
    /// Written by `pgdump-wrap`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dump: Option<Dump>,
    /// Written by `ess-scale`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<Scale>,
    /// Written by `media-sync`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media: Option<Media>,
    /// Written by `ess-wipe`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wipe: Option<Wipe>,
    /// Written by `restore`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<Restore>,
    /// Written by `verify`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<Verify>,
    /// Written by `well-known`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub well_known: Option<WellKnown>,
    /// The user's own data; no tool reads it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, serde_json::Value>,
}

/// The format of the document. It gets a new name only if a reader of the old one would be misled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum Format {
    /// The first format.
    #[default]
    #[serde(rename = "ess-migration/1")]
    V1,
}

/// The homeserver that is migrated.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Its Synapse configuration, if one was given with `-c`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Config>,
    /// The part after the colon in every user's Matrix ID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// libpq connection keywords, without the password.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub connection: BTreeMap<String, String>,
    /// Where to find the password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<PasswordAt>,
    /// The database cluster and the database, as the server itself identifies them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
}

/// Where Synapse's configuration is, and how to resolve the paths in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The arguments of `-c` as absolute paths, in order.
    pub paths: Vec<PathBuf>,
    /// The directory to which relative paths in the configuration are relative.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_directory: Option<PathBuf>,
    /// Synapse's `--data-directory`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_directory: Option<PathBuf>,
    /// Synapse's `--keys-directory`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys_directory: Option<PathBuf>,
    /// Paths in Synapse's container and where they are on this host, as `FROM=TO`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub path_map: Vec<String>,
}

/// The database that will serve the homeserver on ESS.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// libpq connection keywords, without the password.
    pub connection: BTreeMap<String, String>,
    /// Where to find the password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<PasswordAt>,
    /// The role that must own everything; if absent, the database's owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// The ESS in a Kubernetes cluster that the database belongs to. `connection` then contains the parameters used
    /// inside the cluster, and tools outside of it connect through the API server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kube: Option<Kube>,
    /// The database cluster and the database, as the server itself identifies them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// The server's version, such as `16.4`, for which the client programs are chosen before anything is dumped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_version: Option<String>,
}

/// An ESS in a Kubernetes cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Kube {
    /// The kubeconfig's context; absent when the tools run in the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// The namespace of its workloads.
    pub namespace: String,
    /// The Helm release, or the name of the operator's custom resource.
    pub release: String,
    /// How it was installed.
    pub profile: Profile,
}

impl std::fmt::Display for Kube {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "kube:{}/{}", self.namespace, self.release)
    }
}

/// How an ESS was installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// By the Helm chart matrix-stack.
    Community,
    /// By the older operator.
    Operator,
}

/// Identifies a database, regardless of the host name or tunnel used to connect to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// `pg_control_system().system_identifier`; a string, because it exceeds 2^53.
    pub system_identifier: String,
    /// The database's name.
    pub database: String,
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.system_identifier, self.database)
    }
}

/// Where to find a password; never the password itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "from", rename_all = "kebab-case", deny_unknown_fields)]
pub enum PasswordAt {
    /// The first line of a file.
    File {
        /// Absolute path.
        path: PathBuf,
    },
    /// `database.args.password` in Synapse's configuration.
    Config,
    /// libpq's password file.
    Passfile,
    /// An environment variable.
    Environment {
        /// Its name.
        name: String,
    },
    /// A Secret of the target's cluster.
    Secret {
        /// The Secret's namespace.
        namespace: String,
        /// The Secret's name.
        name: String,
        /// The key in the Secret.
        key: String,
    },
}

impl Document {
    /// Whether a text that starts like this is a document, complete or not.
    pub fn is_start_of_one(start: &[u8]) -> bool {
        let start = String::from_utf8_lossy(start);
        start.trim_start().starts_with('{') && start.contains("\"ess-migration/")
    }

    /// The migration's id, which is generated if the document has none.
    pub fn ensure_id(&mut self) -> String {
        self.id.get_or_insert_with(|| uuid::Uuid::new_v4().to_string()).clone()
    }

    /// The section with a negative result, and that result as a clause; tools refuse such a document.
    pub fn refusal(&self) -> Option<(&'static str, String)> {
        if let Some(rehearse) = &self.rehearse {
            if rehearse.failure.is_some() {
                return Some(("rehearse", "failed".to_owned()));
            }
            if !rehearse.differences.is_empty() {
                return Some(("rehearse", differences(&rehearse.differences)));
            }
        }
        if let Some(preflight) = &self.preflight {
            let open = preflight.open_blockers();
            if !open.is_empty() {
                let what = if open.len() == 1 { "a blocker" } else { "blockers" };
                return Some(("preflight", format!("found {what}: {}", open.join(", "))));
            }
        }
        if let Some(wipe) = &self.wipe
            && !wipe.executed
        {
            return Some(("wipe", "was only a plan, so nothing was erased".to_owned()));
        }
        if self.wipe.as_ref().is_some_and(|wipe| wipe.undone) {
            return Some(("wipe", "was undone".to_owned()));
        }
        if let Some(restore) = &self.restore
            && restore.fence == FenceState::Standing
        {
            return Some(("restore", "left the target fenced".to_owned()));
        }
        if let Some(verify) = &self.verify
            && !verify.equal
        {
            return Some(("verify", differences(&verify.differences)));
        }
        None
    }

    /// A path as it is written in the document: relative to the export if inside it.
    pub fn relative(export: Option<&Path>, path: &Path) -> PathBuf {
        export
            .and_then(|root| path.strip_prefix(root).ok())
            .unwrap_or(path)
            .to_owned()
    }

    /// The location on this host of a path in the document.
    pub fn locate(&self, path: &Path) -> PathBuf {
        match &self.export {
            Some(root) if path.is_relative() => root.join(path),
            _ => path.to_owned(),
        }
    }
}

/// The differences that a proof found, as a clause.
fn differences(found: &[String]) -> String {
    let plural = if found.len() == 1 { "" } else { "s" };
    format!("found {} difference{plural}", found.len())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_schema_is_the_one_of_the_types() {
        let schema = schemars::schema_for!(super::Document);
        let now = serde_json::to_string_pretty(&schema).expect("a schema is JSON") + "\n";
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/schema.json");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(path, &now).expect("schema.json is writable");
        }
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            committed == now,
            "schema.json does not match the types; run `just update`"
        );
    }
}
