//! What a check finds: how bad it is, what to do, the figures behind it.

use std::collections::BTreeMap;

use clap::ValueEnum;
use ess_document::{Finding, Severity};
use serde_json::Value;

use crate::ids::IDS;

/// Everything that stops a migration, by the id that scripts and `--accept` know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Blocker {
    /// A check could not be made.
    NotChecked,
    /// Synapse's data is no `PostgreSQL` database.
    Sqlite,
    /// Synapse's data is several databases.
    SplitDatabases,
    /// Source and target are one database.
    SameDatabase,
    /// No connection to the source.
    SourceUnreachable,
    /// The source holds no homeserver.
    SourceEmpty,
    /// The source is a target whose migration has not ended.
    SourceFenced,
    /// The source's text is not UTF-8.
    SourceEncoding,
    /// The source cannot be dumped as a whole.
    SourceLocks,
    /// A dump would hold what needs something that it does not hold.
    SourceParts,
    /// Restore cannot build a unique index.
    Duplicates,
    /// Restore cannot add a foreign key.
    Orphans,
    /// The dump could not read everything.
    SourceUnreadable,
    /// The programs that dump and restore are missing or too old.
    ClientPrograms,
    /// The target's Synapse is too old for the source's schema.
    SchemaIncompatible,
    /// Synapse would not start: it compares sequences with streams.
    SequenceBehindStream,
    /// Synapse would not start: it looks at a user's server name.
    ForeignUsers,
    /// No good signing key.
    SigningKey,
    /// An option that Synapse does not take as it is.
    Configuration,
    /// A secret that the configuration names is not there.
    Secrets,
    /// Media are in another program's store.
    MatrixMediaRepo,
    /// An option with which newer Synapses do not start.
    Msc3861,
    /// Users uploaded media, and they are not where the configuration says.
    MediaMissing,
    /// Media that we may not read.
    MediaUnreadable,
    /// The export cannot be written where it should be.
    ExportDirectory,
    /// The export would fill its file system.
    ExportSpace,
    /// No connection to the target's cluster.
    ClusterUnreachable,
    /// No ESS in the cluster that we know.
    ClusterLayout,
    /// We may not do in the cluster what is to be done.
    ClusterRights,
    /// The target's volume is too small for the database.
    ClusterDatabaseSpace,
    /// The target's volume is too small for the media.
    ClusterMediaSpace,
    /// ESS leaves logins to MAS, and the source does not.
    ClusterMas,
    /// No connection to the target.
    TargetUnreachable,
    /// The target is older than the source.
    TargetVersion,
    /// The target takes no writes.
    TargetStandby,
    /// The target cannot drop or load everything at once.
    TargetLocks,
    /// The target lacks what the source's data need.
    TargetLacks,
    /// Encoding or collation that Synapse refuses.
    TargetLocale,
    /// The target serves another homeserver.
    TargetServerName,
    /// The target is in use.
    TargetUsed,
    /// The target is in the middle of another migration.
    TargetFenced,
    /// Our role may not do there what is to be done.
    TargetRights,
    /// Rows that a constraint would refuse.
    UnsoundRows,
}

impl Blocker {
    /// No person's judgement makes these right.
    const NEVER_ACCEPTED: [Self; 3] = [Self::Sqlite, Self::SplitDatabases, Self::SameDatabase];

    /// The stable id.
    pub(crate) fn id(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// The argument of `--accept`.
    pub(crate) fn acceptable(id: &str) -> Result<Self, String> {
        let blocker = Self::from_str(id, false).map_err(|_| {
            let all: Vec<String> = Self::value_variants()
                .iter()
                .filter(|blocker| !Self::NEVER_ACCEPTED.contains(blocker))
                .map(|blocker| blocker.id())
                .collect();
            format!("no blocker has this id; there are {}", all.join(", "))
        })?;
        if Self::NEVER_ACCEPTED.contains(&blocker) {
            return Err("this is never accepted".to_owned());
        }
        Ok(blocker)
    }
}

/// The migration would fail or lose something.
pub(crate) fn blocker(blocker: Blocker, message: impl Into<String>) -> Finding {
    finding(blocker.id(), Severity::Blocker, message)
}

/// Something needs an action or a decision.
pub(crate) fn warning(id: &str, message: impl Into<String>) -> Finding {
    finding(id.to_owned(), Severity::Warning, message)
}

/// Good to know.
pub(crate) fn info(id: &str, message: impl Into<String>) -> Finding {
    finding(id.to_owned(), Severity::Info, message)
}

fn finding(id: String, severity: Severity, message: impl Into<String>) -> Finding {
    // Severities are ordered from the worst.
    debug_assert!(
        IDS.iter().any(|known| known.0 == id && known.1 <= severity),
        "{id} is not in the list of ids"
    );
    Finding {
        id,
        severity,
        message: message.into(),
        hint: None,
        data: BTreeMap::new(),
    }
}

/// What to do, and the figures.
pub(crate) trait Detail {
    /// What to do about it.
    fn hint(self, hint: impl Into<String>) -> Self;
    /// A figure behind it, unless it is null.
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

/// A number as JSON carries it through any program: a string when it exceeds 2^53.
pub(crate) fn number(n: i64) -> Value {
    const EXACT: u64 = 1 << 53;
    if n.unsigned_abs() <= EXACT {
        n.into()
    } else {
        n.to_string().into()
    }
}

/// The first few of a list, in a sentence.
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
            Err("this is never accepted".to_owned())
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
