//! The sections of the document, one for each tool.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The commands that continue from here, and the one that undoes what was done.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Next {
    /// Commands that continue the migration.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub go_on: Vec<String>,
    /// The command that undoes what was done, if something was changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub go_back: Option<String>,
}

/// Written by `preflight`: all findings of one run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Preflight {
    /// The tool's version.
    pub version: String,
    /// RFC 3339, UTC.
    pub started_at: String,
    /// RFC 3339, UTC.
    pub finished_at: String,
    /// The findings, sorted by severity, then by id.
    pub findings: Vec<Finding>,
    /// The ids of blockers that the user has accepted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accepted: Vec<String>,
    /// The commands to run next.
    #[serde(default)]
    pub next: Next,
}

impl Preflight {
    /// The ids of the blockers that the user has not accepted.
    pub fn open_blockers(&self) -> Vec<String> {
        self.findings
            .iter()
            .filter(|f| f.severity == Severity::Blocker && !self.accepted.contains(&f.id))
            .map(|f| f.id.clone())
            .collect()
    }
}

/// One finding.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Finding {
    /// The id, for scripts; it never changes.
    pub id: String,
    /// What it means for the migration.
    pub severity: Severity,
    /// One sentence for people; its wording may change.
    pub message: String,
    /// The next step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The data behind the message.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub data: BTreeMap<String, serde_json::Value>,
}

/// What a finding means for the migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The migration would fail or lose something.
    Blocker,
    /// Something requires an action or a decision.
    Warning,
    /// A note.
    Info,
}

/// Written by `extract-secrets`: where each secret is, never its value.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Secrets {
    /// The tool's version.
    pub version: String,
    /// RFC 3339, UTC.
    pub started_at: String,
    /// RFC 3339, UTC.
    pub finished_at: String,
    /// The directory of the secret files, relative to the export; absent if they are only in the bundle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<PathBuf>,
    /// The encrypted bundle of that directory and of the other files with secrets, relative to the export.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<PathBuf>,
    /// One entry for each secret.
    pub entries: Vec<SecretEntry>,
    /// The signing keys in the order of the key file; the first one signs events.
    pub signing_keys: Vec<SigningKey>,
    /// Secret manifests and Helm values for ESS, relative to the export.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub emitted: Vec<PathBuf>,
    /// True if an identical extraction already existed and nothing was written.
    pub kept: bool,
    /// The commands to run next.
    #[serde(default)]
    pub next: Next,
}

/// One secret: what it is and where it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SecretEntry {
    /// Synapse's option, with dots between its parts.
    pub option: String,
    /// Its file, relative to the directory; absent if Synapse derives the value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Where the value was found.
    pub origin: String,
    /// What it is for.
    pub purpose: String,
    /// Where to put it in ESS.
    pub destination: String,
    /// What becomes of it: `kept`, `needed by ESS as ...`, `replaced by ESS` or `no longer needed`.
    #[serde(default)]
    pub becomes: String,
    /// What users would notice if it were lost.
    #[serde(default)]
    pub if_lost: String,
}

/// The public part of a signing key.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SigningKey {
    /// `ed25519:VERSION`.
    pub id: String,
    /// Unpadded base64, as published at `/_matrix/key/v2/server`.
    pub public_key: String,
}

/// Written by `pgdump-wrap`: where the dump is and what it contains.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Dump {
    /// The tool's version.
    pub version: String,
    /// RFC 3339, UTC.
    pub started_at: String,
    /// RFC 3339, UTC.
    pub finished_at: String,
    /// The dump's directory, relative to the export if inside it.
    pub path: PathBuf,
    /// SHA-256 of its `manifest.json`, which contains the SHA-256 of every other file.
    pub manifest_sha256: String,
    /// Size of the dump on disk, in bytes.
    pub bytes: u64,
    /// How many tables are carried with their rows.
    pub tables: u64,
    /// How many rows they have in total.
    pub rows: u64,
    /// True if a complete dump of the unchanged source already existed and was kept.
    pub kept: bool,
    /// True if other sessions were allowed to use the source during the dump.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub source_was_running: bool,
    /// What is in the source but not in the dump, each with the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped: Vec<Dropped>,
    /// Whether one-time keys are carried; absent if the source has no table of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub one_time_keys: Option<OneTimeKeys>,
    /// The commands to run next.
    #[serde(default)]
    pub next: Next,
}

/// Whether the one-time keys that clients have uploaded are carried, and why.
///
/// A key that is handed out twice makes messages unreadable; clients replace keys that are lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct OneTimeKeys {
    /// Whether they are carried.
    pub kept: bool,
    /// The reason, for people.
    pub reason: String,
}

impl std::fmt::Display for OneTimeKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = if self.kept { "kept" } else { "left out" };
        write!(f, "one-time keys {what}: {}", self.reason)
    }
}

/// Written by `media-sync`: what of the media store is in the copy.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Media {
    /// The tool's version.
    pub version: String,
    /// RFC 3339, UTC.
    pub started_at: String,
    /// RFC 3339, UTC.
    pub finished_at: String,
    /// The media store, as an absolute path.
    pub store: PathBuf,
    /// Where the copy is: a directory, relative to the export if inside it, or the name of the program that writes it.
    pub copy: String,
    /// The kinds of media that were left out by `--without`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub without: Vec<String>,
    /// What is in the store, by the name of the directory.
    pub kinds: BTreeMap<String, Amount>,
    /// How much of the store could be fetched again from elsewhere.
    pub refetchable: Amount,
    /// What this run sent.
    pub sent: Amount,
    /// What was already in the copy.
    pub unchanged: Amount,
    /// Whether both sides were read completely and compared.
    pub verified: bool,
    /// How many rows of the database were compared with the store; absent if the database was not queried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_compared: Option<u64>,
    /// How many uploads appear to be only in a storage provider.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub elsewhere: u64,
    /// Files that are not carried, each with the reason.
    #[serde(default, skip_serializing_if = "Named::is_empty")]
    pub left: Named,
    /// Uploads in the database whose file is missing.
    #[serde(default, skip_serializing_if = "Named::is_empty")]
    pub missing: Named,
    /// Uploads whose file does not match the database.
    #[serde(default, skip_serializing_if = "Named::is_empty")]
    pub wrong: Named,
    /// Files of uploads that are not in the database; they are carried.
    #[serde(default, skip_serializing_if = "Named::is_empty")]
    pub unknown: Named,
    /// Files of the copy whose contents differed when they were read; they were sent again.
    #[serde(default, skip_serializing_if = "Named::is_empty")]
    pub damaged: Named,
    /// Files in the copy that are not in the store.
    #[serde(default, skip_serializing_if = "Named::is_empty")]
    pub surplus: Named,
    /// How many of these files were removed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub removed: u64,
    /// True if other sessions were using the source: files that were stored meanwhile may be missing from the copy.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub source_was_running: bool,
    /// The result: whether everything that should be in the copy is in it.
    pub complete: bool,
    /// The commands to run next.
    #[serde(default)]
    pub next: Next,
}

/// Written by `well-known`: what announces to clients and other servers where the homeserver is.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct WellKnown {
    /// The tool's version.
    pub version: String,
    /// RFC 3339, UTC.
    pub started_at: String,
    /// RFC 3339, UTC.
    pub finished_at: String,
    /// The homeserver's name.
    pub server_name: String,
    /// Synapse's host in ESS.
    pub host: String,
    /// MatrixRTC's host in ESS, if it was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtc_host: Option<String>,
    /// The addresses of ESS's ingress, if they were given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// The directory of the files, relative to the export if inside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<PathBuf>,
    /// The documents to serve, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub documents: BTreeMap<String, serde_json::Value>,
    /// DNS records that must change, or may have to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub records: Vec<RecordChange>,
    /// What was not yet publicly visible as required at the last check, a sentence each; absent if nothing was checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lagging: Option<Vec<String>>,
    /// The commands to run next.
    #[serde(default)]
    pub next: Next,
}

/// A DNS record: its current and its required contents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RecordChange {
    /// The name of the record.
    pub name: String,
    /// The type of the record: `A`, `AAAA`, `CNAME` or `SRV`.
    pub kind: String,
    /// The TTL of the old record, for which resolvers may cache it, in seconds; absent if there is no old record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u32>,
    /// The current contents.
    pub old: Vec<String>,
    /// The required contents; empty if they are unknown, or if the record is to be removed.
    pub new: Vec<String>,
    /// The reason.
    pub reason: String,
}

/// A number of files and their total size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Amount {
    /// The number of files.
    pub files: u64,
    /// Their total size in bytes.
    pub bytes: u64,
}

/// A list of names of one kind, possibly truncated.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// How many there are.
    pub count: u64,
    /// The first thousand names.
    pub names: Vec<String>,
}

impl Named {
    fn is_empty(&self) -> bool {
        self.count == 0
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// What of a table a dump carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Carried {
    /// Structure and rows.
    Rows,
    /// Structure only: its rows have no meaning on another server.
    Structure,
    /// Structure only: the proof writes the rows last, which lets Synapse start.
    Fence,
}

/// Written by `ess-scale`: what was stopped or started, and how many replicas each workload has when it is up.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Scale {
    /// The tool's version.
    pub version: String,
    /// RFC 3339, UTC.
    pub started_at: String,
    /// RFC 3339, UTC.
    pub finished_at: String,
    /// The state of Synapse now.
    pub state: ScaleState,
    /// Each workload that is scaled.
    pub workloads: Vec<ScaledWorkload>,
    /// What could scale Synapse up again in the meantime, a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// The commands to run next.
    #[serde(default)]
    pub next: Next,
}

/// The state of Synapse and the workloads that belong to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum ScaleState {
    /// Every workload has its replicas.
    Up,
    /// No workload has any, and no pod is left.
    Down,
    /// Something in between.
    #[default]
    Partly,
}

/// A workload that is scaled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ScaledWorkload {
    /// `StatefulSet`, `Deployment`, or the operator's `Synapse`, which is deleted and created again.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// How many replicas it has when it is up; absent if these tools do not set them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
}

/// Written by `ess-wipe`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Wipe {
    /// The tool's version.
    pub version: String,
    /// RFC 3339, UTC.
    pub started_at: String,
    /// RFC 3339, UTC.
    pub finished_at: String,
    /// Whether the wipe was carried out; false for a plan.
    pub executed: bool,
    /// The plan's hash, for `--plan`; absent if nothing had to be erased.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// For a plan that was not carried out: every line that its hash covers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub planned: Vec<String>,
    /// How many objects of each kind are in the plan.
    pub objects: BTreeMap<String, u64>,
    /// True if the target already held the dump and nothing was erased.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub kept: bool,
    /// True if the wipe was undone with `--undo`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub undone: bool,
    /// The backup of what was erased; absent with `--no-backup` or if the target was empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<PathBuf>,
    /// Whether Synapse can start on the target now.
    pub fence: FenceState,
    /// The options by which the user overrode safety checks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<String>,
    /// The commands to run next.
    #[serde(default)]
    pub next: Next,
}

/// Whether Synapse can start on the target.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum FenceState {
    /// The fence is in place: Synapse refuses to start.
    Standing,
    /// The proof held, and the fence was lifted: Synapse can start.
    Lifted,
    /// There is no fence.
    #[default]
    Absent,
}

/// Written by `restore`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Restore {
    /// The tool's version.
    pub version: String,
    /// RFC 3339, UTC.
    pub started_at: String,
    /// RFC 3339, UTC.
    pub finished_at: String,
    /// What was loaded.
    pub from: PathBuf,
    /// What the contents were compared with.
    pub proven_against: Against,
    /// Tables compared.
    pub tables: u64,
    /// Rows compared.
    pub rows: u64,
    /// Entries of the dump that were left out, and what is in the source but not in the dump, each with the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped: Vec<Dropped>,
    /// Whether one-time keys are carried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub one_time_keys: Option<OneTimeKeys>,
    /// Whether Synapse can start on the target now.
    pub fence: FenceState,
    /// Whether the source has changed since the dump; absent if there is no source to check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceCheck>,
    /// The options by which the user overrode safety checks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<String>,
    /// True if the target already held this dump, proven, and nothing was loaded.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub kept: bool,
    /// The commands to run next.
    #[serde(default)]
    pub next: Next,
}

/// Whether the source has changed since the dump, checked just before the fence was lifted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "state", rename_all = "kebab-case", deny_unknown_fields)]
pub enum SourceCheck {
    /// It has not changed.
    Unchanged,
    /// Neither an option nor the document names the source, as on a host without a route to it.
    NotNamed,
    /// The source is named, but could not be checked.
    Unchecked {
        /// The reason, for people.
        reason: String,
    },
    /// The source was in use while it was dumped, so later writes are not in the dump.
    InUse,
}

impl std::fmt::Display for SourceCheck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unchanged => f.write_str("the source has not changed since the dump"),
            Self::NotNamed => f.write_str("no source was named, so it was not checked for changes since the dump"),
            Self::Unchecked { reason } => {
                write!(f, "the source was not checked for changes since the dump: {reason}")
            }
            Self::InUse => {
                f.write_str("the source was in use while it was dumped, so later writes are not in the dump")
            }
        }
    }
}

/// What the contents of a target were compared with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Against {
    /// The dump's manifest.
    Manifest,
    /// The stopped source itself.
    Source,
    /// Nothing, which the user accepted.
    #[default]
    Nothing,
}

/// Something that was left out of a dump or a load.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Dropped {
    /// The entry, as `pg_restore -l` prints it.
    pub entry: String,
    /// The reason.
    pub reason: String,
}

/// Written by `rehearse`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Rehearse {
    /// The tool's version.
    pub version: String,
    /// RFC 3339, UTC.
    pub started_at: String,
    /// RFC 3339, UTC.
    pub finished_at: String,
    /// What the dump was loaded into.
    pub on: String,
    /// The major version of that server.
    pub major: u32,
    /// The result: whether everything arrived, on a server of the target's version.
    pub proven: bool,
    /// The size of the source's database.
    pub source_bytes: u64,
    /// The size of the dump.
    pub dump_bytes: u64,
    /// The size of the database after the load.
    pub target_bytes: u64,
    /// How long the dump took.
    pub dump_seconds: u64,
    /// How long the load took.
    pub load_seconds: u64,
    /// How long the proof took.
    pub proof_seconds: u64,
    /// Tables compared.
    pub tables: u64,
    /// Rows compared.
    pub rows: u64,
    /// SHA-256 of everything in the source except rows: another one shows that its schema has changed since.
    pub catalogue_sha256: String,
    /// What is in the source but was left out of the dump or of the load, each with the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped: Vec<Dropped>,
    /// The differences, a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub differences: Vec<String>,
    /// The error of the step that failed, at which the migration would stop too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// The commands to run next.
    #[serde(default)]
    pub next: Next,
}

impl Rehearse {
    /// Whether everything was loaded and is equal, whatever the version of the server.
    pub fn holds(&self) -> bool {
        self.failure.is_none() && self.differences.is_empty()
    }

    /// The result in a sentence, for a migration to a server of this major version.
    pub fn shown(&self, target: Option<u32>) -> String {
        let date = self.finished_at.get(..10).unwrap_or_default();
        let result = if let Some(failure) = &self.failure {
            let first = failure.message.lines().next().unwrap_or_default();
            format!("and failed: {first}")
        } else if !self.differences.is_empty() {
            "and not everything was equal".to_owned()
        } else if let Some(target) = target.filter(|target| *target != self.major) {
            format!("on PostgreSQL {}, but the target is PostgreSQL {target}", self.major)
        } else if self.proven || target.is_some() {
            format!("and proven, in {} s", self.seconds())
        } else {
            format!("on PostgreSQL {}, which may not be the target's version", self.major)
        };
        format!("rehearsed on {date}, {result}")
    }

    /// Whether the result can be relied on for a target of this major version; that of the rehearsal if it is unknown.
    pub fn counts_for(&self, target: Option<u32>) -> bool {
        self.holds() && target.map_or(self.proven, |target| target == self.major)
    }

    /// How long all steps took together.
    pub fn seconds(&self) -> u64 {
        self.dump_seconds + self.load_seconds + self.proof_seconds
    }
}

/// The error of a step.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// The message.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// Written by `verify`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Verify {
    /// The tool's version.
    pub version: String,
    /// RFC 3339, UTC.
    pub started_at: String,
    /// RFC 3339, UTC.
    pub finished_at: String,
    /// The result: whether everything is equal.
    pub equal: bool,
    /// What the contents were compared with.
    pub against: Against,
    /// Tables compared.
    pub tables: u64,
    /// Rows compared.
    pub rows: u64,
    /// The differences, a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub differences: Vec<String>,
    /// Whether one-time keys are carried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub one_time_keys: Option<OneTimeKeys>,
    /// Whether Synapse can start on the target now.
    pub fence: FenceState,
    /// Whether the source has changed since the dump; absent if there is no source to check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceCheck>,
    /// The options by which the user overrode safety checks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<String>,
    /// The commands to run next.
    #[serde(default)]
    pub next: Next,
}
