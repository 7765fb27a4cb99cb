//! Constructors of findings: severity, message, hint, and the figures behind them.

use std::collections::BTreeMap;

use ess_document::{Finding, Severity};
use serde_json::Value;

use crate::ids::Id;

/// A finding that would make the migration fail or lose something.
pub(crate) fn blocker(id: &Id, message: impl Into<String>) -> Finding {
    finding(id, Severity::Blocker, message)
}

/// A finding that needs an action or a decision.
pub(crate) fn warning(id: &Id, message: impl Into<String>) -> Finding {
    finding(id, Severity::Warning, message)
}

/// A finding for information only.
pub(crate) fn info(id: &Id, message: impl Into<String>) -> Finding {
    finding(id, Severity::Info, message)
}

fn finding(id: &Id, severity: Severity, message: impl Into<String>) -> Finding {
    // Severities are ordered from the worst.
    debug_assert!(
        id.worst <= severity,
        "{} is never this bad according to ids.rs",
        id.name
    );
    Finding {
        id: id.name.to_owned(),
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
