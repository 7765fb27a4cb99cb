//! What each tool writes into the document.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The commands that go on from here, and the one that goes back.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Next {
    /// What to type to go on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub go_on: Vec<String>,
    /// What to type to go back, where something was changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub go_back: Option<String>,
}

/// Written by `preflight`: everything found in one run.
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
    /// In order of severity, then of id.
    pub findings: Vec<Finding>,
    /// Blockers that a person has judged and accepted, by id.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accepted: Vec<String>,
    /// What follows.
    #[serde(default)]
    pub next: Next,
}

impl Preflight {
    /// The blockers that nobody has accepted.
    pub fn open_blockers(&self) -> Vec<String> {
        self.findings
            .iter()
            .filter(|f| f.severity == Severity::Blocker && !self.accepted.contains(&f.id))
            .map(|f| f.id.clone())
            .collect()
    }
}

/// One thing found.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Finding {
    /// For scripts, and never reworded.
    pub id: String,
    /// What it means for the migration.
    pub severity: Severity,
    /// For people: one sentence, which may be reworded.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The figures behind it.
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
    /// Something needs an action or a decision.
    Warning,
    /// Good to know.
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
    /// The directory of the secret files, relative to the export; absent when they are in the bundle only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<PathBuf>,
    /// The encrypted bundle of that directory and of the other files with secrets, relative to the export.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<PathBuf>,
    /// One entry a secret.
    pub entries: Vec<SecretEntry>,
    /// In the order of the key file; the first signs events.
    pub signing_keys: Vec<SigningKey>,
    /// Secret manifests and Helm values for ESS, relative to the export.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub emitted: Vec<PathBuf>,
    /// True when an equal extraction was already there and nothing was written.
    pub kept: bool,
    /// What follows.
    #[serde(default)]
    pub next: Next,
}

/// One secret: what it is and where it lies.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SecretEntry {
    /// Synapse's option, dotted.
    pub option: String,
    /// Its file, relative to the directory; absent when Synapse derives the value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Where it was found.
    pub origin: String,
    /// What it is for.
    pub purpose: String,
    /// Where it goes in ESS.
    pub destination: String,
    /// What becomes of it: `kept`, `needed by ESS as ...`, `replaced by ESS` or `no longer needed`.
    #[serde(default)]
    pub becomes: String,
    /// What users would notice if it were lost.
    #[serde(default)]
    pub if_lost: String,
}

/// The public half of a signing key.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SigningKey {
    /// `ed25519:VERSION`.
    pub id: String,
    /// Unpadded base64, as published at `/_matrix/key/v2/server`.
    pub public_key: String,
}

/// Written by `pgdump-wrap`: where the dump is and what it holds.
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
    /// The dump's directory, relative to the export when inside it.
    pub path: PathBuf,
    /// SHA-256 of its `manifest.json`, which holds the SHA-256 of every other file.
    pub manifest_sha256: String,
    /// Size of the dump on disk.
    pub bytes: u64,
    /// How many tables are carried with their rows.
    pub tables: u64,
    /// How many rows in all.
    pub rows: u64,
    /// True when a whole dump of the unmoved source was already there.
    pub kept: bool,
    /// True when other sessions were allowed to go on using the source.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub source_was_running: bool,
    /// What of the source is not in the dump, with the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped: Vec<Dropped>,
    /// What became of one-time keys; absent when the source has no table of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub one_time_keys: Option<OneTimeKeys>,
    /// What follows.
    #[serde(default)]
    pub next: Next,
}

/// What became of the one-time keys that clients had uploaded, and why.
///
/// One that is handed out twice makes messages unreadable; one that is lost is uploaded anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct OneTimeKeys {
    /// Whether they are carried.
    pub kept: bool,
    /// For people: why.
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
    /// The media store, absolute.
    pub store: PathBuf,
    /// Where the copy is: a directory, relative to the export when inside it, or the name of the program that writes it.
    pub copy: String,
    /// What was left out on purpose, as `--without` names it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub without: Vec<String>,
    /// What lies in the store, by the name of the directory.
    pub kinds: BTreeMap<String, Amount>,
    /// What of it could be fetched again.
    pub refetchable: Amount,
    /// What this run has sent.
    pub sent: Amount,
    /// What was in the copy already.
    pub unchanged: Amount,
    /// Whether both sides were read whole and compared.
    pub verified: bool,
    /// How many rows of the database were compared with the store; absent when the database was not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_compared: Option<u64>,
    /// Uploads that are in a storage provider only, by all that is known here.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub elsewhere: u64,
    /// Files that are not carried, each with the reason.
    #[serde(default, skip_serializing_if = "Named::is_empty")]
    pub left: Named,
    /// Uploads in the database that have no file.
    #[serde(default, skip_serializing_if = "Named::is_empty")]
    pub missing: Named,
    /// Uploads whose file is not what the database says.
    #[serde(default, skip_serializing_if = "Named::is_empty")]
    pub wrong: Named,
    /// Files of uploads that the database does not know; they are carried.
    #[serde(default, skip_serializing_if = "Named::is_empty")]
    pub unknown: Named,
    /// Files of the copy that differed when they were read, and were sent again.
    #[serde(default, skip_serializing_if = "Named::is_empty")]
    pub damaged: Named,
    /// Files of the copy that the store does not have.
    #[serde(default, skip_serializing_if = "Named::is_empty")]
    pub surplus: Named,
    /// How many of those were removed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub removed: u64,
    /// True when other sessions used the source: what they stored meanwhile may not be in the copy.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub source_was_running: bool,
    /// The answer: all that should be in the copy is in it.
    pub complete: bool,
    /// What follows.
    #[serde(default)]
    pub next: Next,
}

/// Written by `well-known`: what tells the world where the homeserver is.
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
    /// MatrixRTC's host in ESS, when it was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtc_host: Option<String>,
    /// Where ESS's ingress is, when it was said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// Where the files are, relative to the export when inside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<PathBuf>,
    /// The documents as they have to be, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub documents: BTreeMap<String, serde_json::Value>,
    /// DNS records that change, or may have to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub records: Vec<RecordChange>,
    /// What the world did not see as it should when it was last looked at, a sentence each; absent when nobody looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lagging: Option<Vec<String>>,
    /// What follows.
    #[serde(default)]
    pub next: Next,
}

/// A DNS record, as it is and as it has to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RecordChange {
    /// Whose record it is.
    pub name: String,
    /// `A`, `AAAA`, `CNAME` or `SRV`.
    pub kind: String,
    /// For how many seconds others remember the old one; absent when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u32>,
    /// What it says.
    pub old: Vec<String>,
    /// What it has to say; empty when that is not known, or when it goes.
    pub new: Vec<String>,
    /// Why.
    pub reason: String,
}

/// Files, and their sizes summed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Amount {
    /// How many.
    pub files: u64,
    /// Their sizes, summed.
    pub bytes: u64,
}

/// Things of one sort.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// How many there are.
    pub count: u64,
    /// The first thousand of them.
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
    /// Structure only: its rows mean nothing on another server.
    Structure,
    /// Rows written by the proof, last: they let Synapse start.
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
    /// How Synapse is now.
    pub state: ScaleState,
    /// Each workload that is scaled.
    pub workloads: Vec<ScaledWorkload>,
    /// What could scale Synapse back up meanwhile, a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// What follows.
    #[serde(default)]
    pub next: Next,
}

/// How Synapse and what belongs to it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum ScaleState {
    /// Every workload has its replicas.
    Up,
    /// No workload has any, and no pod is left.
    Down,
    /// Something between.
    #[default]
    Partly,
}

/// A workload that is scaled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ScaledWorkload {
    /// `StatefulSet`, `Deployment`, or the operator's `Synapse`, which is deleted and made again.
    pub kind: String,
    /// Where it is.
    pub namespace: String,
    /// What it is called.
    pub name: String,
    /// How many replicas it has when it is up; absent when they are not ours to set.
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
    /// False for a plan.
    pub executed: bool,
    /// The plan's hash, for `--plan`; absent when nothing had to be erased.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// Of a plan that was not carried out, every line that its hash covers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub planned: Vec<String>,
    /// How many objects of each kind the plan holds.
    pub objects: BTreeMap<String, u64>,
    /// True when the target already held the dump and nothing was erased.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub kept: bool,
    /// True when the backup was brought back, with `--undo`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub undone: bool,
    /// The dump of what was erased; absent with `--no-backup` or when nothing was there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<PathBuf>,
    /// Whether Synapse can start on the target now.
    pub fence: FenceState,
    /// Safety checks that a person overrode, by flag.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<String>,
    /// What follows.
    #[serde(default)]
    pub next: Next,
}

/// Whether Synapse can start on the target.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum FenceState {
    /// It refuses to start.
    Standing,
    /// The proof held; it starts.
    Lifted,
    /// No fence of ours is there.
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
    /// Entries of the dump that were left out, and what of the source is not in it, with the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped: Vec<Dropped>,
    /// What became of one-time keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub one_time_keys: Option<OneTimeKeys>,
    /// Whether Synapse can start on the target now.
    pub fence: FenceState,
    /// Whether the source has changed since the dump; absent when nothing came from one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceCheck>,
    /// Safety checks that a person overrode, by flag.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<String>,
    /// True when the target already held this dump, proven, and nothing was loaded.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub kept: bool,
    /// What follows.
    #[serde(default)]
    pub next: Next,
}

/// Whether the source has changed since the dump, as far as it could be asked just before the fence was lifted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "state", rename_all = "kebab-case", deny_unknown_fields)]
pub enum SourceCheck {
    /// It has not.
    Unchanged,
    /// Neither a flag nor the document names it, as on a host without a route to it.
    NotNamed,
    /// It is named, and could not be asked.
    Unchecked {
        /// Why, for people.
        reason: String,
    },
    /// It was in use while it was dumped: the dump holds a moment of it, not its end.
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
                f.write_str("the source was in use while it was dumped, and what it wrote later is not here")
            }
        }
    }
}

/// What contents were compared with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Against {
    /// The dump's manifest.
    Manifest,
    /// The stopped source itself.
    Source,
    /// Nothing: a person accepted that.
    #[default]
    Nothing,
}

/// Something of a dump that was left out.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Dropped {
    /// The entry, as `pg_restore -l` names it.
    pub entry: String,
    /// Why.
    pub reason: String,
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
    /// The answer.
    pub equal: bool,
    /// What the contents were compared with.
    pub against: Against,
    /// Tables compared.
    pub tables: u64,
    /// Rows compared.
    pub rows: u64,
    /// Each difference, a sentence.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub differences: Vec<String>,
    /// What became of one-time keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub one_time_keys: Option<OneTimeKeys>,
    /// Whether Synapse can start on the target now.
    pub fence: FenceState,
    /// Whether the source has changed since the dump; absent when nothing came from one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceCheck>,
    /// Safety checks that a person overrode, by flag.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<String>,
    /// What follows.
    #[serde(default)]
    pub next: Next,
}
