//! Constructors of findings: severity, message, hint, and the figures behind them.

use std::collections::BTreeMap;

use clap::ValueEnum;
use ess_document::{Finding, Severity};
use serde_json::Value;

use crate::ids::IDS;

/// Everything that can stop a migration. The names of the variants are the ids that scripts and `--accept` use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Blocker {
    /// A check could not be completed.
    NotChecked,
    /// Synapse uses SQLite.
    Sqlite,
    /// Synapse's data is split across several databases.
    SplitDatabases,
    /// Source and target are the same database.
    SameDatabase,
    /// Connecting to the source failed.
    SourceUnreachable,
    /// The source contains no homeserver.
    SourceEmpty,
    /// The source is the target of an unfinished migration.
    SourceFenced,
    /// The source's encoding is not UTF-8.
    SourceEncoding,
    /// The source's lock table is too small for a dump.
    SourceLocks,
    /// Something in a dump depends on something that a dump does not contain.
    SourceParts,
    /// Restore could not build a unique index.
    Duplicates,
    /// Restore could not add a foreign key.
    Orphans,
    /// The role that connects to the source cannot read everything.
    SourceUnreadable,
    /// pg_dump or pg_restore is missing, or no installed version serves both servers.
    ClientPrograms,
    /// The target's Synapse is too old for the source's schema.
    SchemaIncompatible,
    /// A sequence is behind its stream, with which Synapse does not start.
    SequenceBehindStream,
    /// Users belong to another server name, with which Synapse may not start.
    ForeignUsers,
    /// The signing key is missing, invalid, or not the one that Synapse publishes.
    SigningKey,
    /// An option in Synapse's configuration is invalid.
    Configuration,
    /// A secret that the configuration refers to is missing or unreadable.
    Secrets,
    /// Media are in the store of a Matrix Media Repo.
    MatrixMediaRepo,
    /// `experimental_features.msc3861` is set, with which newer versions of Synapse do not start.
    Msc3861,
    /// The media store is missing, or contains none of the uploads.
    MediaMissing,
    /// Media cannot be read.
    MediaUnreadable,
    /// The export directory cannot be created or used.
    ExportDirectory,
    /// The file system of the export is too small.
    ExportSpace,
    /// The API server of the target's cluster cannot be reached.
    ClusterUnreachable,
    /// The namespace contains no ESS that these tools support, or more than one.
    ClusterLayout,
    /// The account lacks permissions in the cluster.
    ClusterRights,
    /// The volume of ESS's database is too small for the source's database.
    ClusterDatabaseSpace,
    /// The media volume is too small for the media store.
    ClusterMediaSpace,
    /// ESS delegates logins to MAS, and the source does not.
    ClusterMas,
    /// Connecting to the target failed.
    TargetUnreachable,
    /// The target's PostgreSQL is older than the source's.
    TargetVersion,
    /// The target is a standby, which is read-only.
    TargetStandby,
    /// The target's lock table is too small to drop or load everything at once.
    TargetLocks,
    /// The target lacks something that the source's data need.
    TargetLacks,
    /// The target has an encoding or collation that Synapse refuses.
    TargetLocale,
    /// The target serves another homeserver.
    TargetServerName,
    /// The target is in use.
    TargetUsed,
    /// The target is fenced by another migration, or its fence is incomplete.
    TargetFenced,
    /// The role that connects to the target lacks permissions.
    TargetRights,
    /// Rows violate a constraint, or cannot be evaluated by a constraint, index or generated column.
    UnsoundRows,
}

impl Blocker {
    /// No review can make a migration with these succeed.
    const NEVER_ACCEPTED: [Self; 3] = [Self::Sqlite, Self::SplitDatabases, Self::SameDatabase];

    /// The id, which never changes.
    pub(crate) fn id(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Parses the argument of `--accept`.
    pub(crate) fn acceptable(id: &str) -> Result<Self, String> {
        let blocker = Self::from_str(id, false).map_err(|_| {
            let all: Vec<String> = Self::value_variants()
                .iter()
                .filter(|blocker| !Self::NEVER_ACCEPTED.contains(blocker))
                .map(|blocker| blocker.id())
                .collect();
            format!("not the id of a blocker; the ids are {}", all.join(", "))
        })?;
        if Self::NEVER_ACCEPTED.contains(&blocker) {
            return Err("this blocker cannot be accepted".to_owned());
        }
        Ok(blocker)
    }
}

/// A finding that would make the migration fail or lose something.
pub(crate) fn blocker(blocker: Blocker, message: impl Into<String>) -> Finding {
    finding(blocker.id(), Severity::Blocker, message)
}

/// A finding that needs an action or a decision.
pub(crate) fn warning(id: &str, message: impl Into<String>) -> Finding {
    finding(id.to_owned(), Severity::Warning, message)
}

/// A finding for information only.
pub(crate) fn info(id: &str, message: impl Into<String>) -> Finding {
    finding(id.to_owned(), Severity::Info, message)
}

fn finding(id: String, severity: Severity, message: impl Into<String>) -> Finding {
    // Severities are ordered from the worst: a finding is at most as bad as the list states.
    debug_assert!(
        IDS.iter().any(|known| known.0 == id && known.1 <= severity),
        "{id} is not in ids.rs with this severity"
    );
    Finding {
        id,
        severity,
        message: message.into(),
        hint: None,
        data: BTreeMap::new(),
    }
}

/// Adds the hint and the figures to a finding.
pub(crate) trait Detail {
    /// Sets the hint: what to do about it.
    fn hint(self, hint: impl Into<String>) -> Self;
    /// Adds a figure to `data`, unless it is null.
    fn with(self, name: &str, value: impl Into<Value>) -> Self;
}

impl Detail for Finding {
    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        let value = value.into();
        if !value.is_null() {
            self.data.insert(name.to_owned(), value);
        }
        self
    }
}

/// A number as JSON: a string if it exceeds 2^53, because programs such as jq read numbers as doubles.
pub(crate) fn number(n: i64) -> Value {
    const EXACT: u64 = 1 << 53;
    if n.unsigned_abs() <= EXACT {
        n.into()
    } else {
        n.to_string().into()
    }
}

/// The first five names, and how many more there are, for use in a sentence.
pub(crate) fn some_of(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown = names
        .iter()
        .take(SHOWN)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_person_can_judge_is_accepted() {
        assert_eq!(Blocker::acceptable("target-used"), Ok(Blocker::TargetUsed));
        assert_eq!(
            Blocker::acceptable("same-database"),
            Err("this blocker cannot be accepted".to_owned())
        );
        let unknown = Blocker::acceptable("everything").expect_err("there is none");
        assert!(
            unknown.contains("target-used") && !unknown.contains("sqlite"),
            "{unknown}"
        );
    }

    #[test]
    fn numbers_survive_any_json_program() {
        assert_eq!(number(-5), Value::from(-5));
        assert_eq!(number(i64::MIN), Value::from("-9223372036854775808"));
        assert_eq!(number((1 << 53) + 1), Value::from("9007199254740993"));
    }

    #[test]
    fn figures_are_readable() {
        let names: Vec<String> = (1..=7).map(|n| n.to_string()).collect();
        assert_eq!(some_of(&names), "1, 2, 3, 4, 5 and 2 more");
    }
}
