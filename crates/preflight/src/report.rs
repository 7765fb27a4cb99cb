//! Findings as a table for people.

use std::fmt::Write as _;

use ess_document::{Preflight, Severity};

/// One finding a row, what to do about it below.
pub(crate) fn table(preflight: &Preflight, colours: bool) -> String {
    let width = preflight
        .findings
        .iter()
        .map(|finding| finding.id.len())
        .max()
        .unwrap_or(0);
    let mut table = String::new();
    for finding in &preflight.findings {
        let (word, colour) = match finding.severity {
            Severity::Blocker if preflight.accepted.contains(&finding.id) => ("accepted", 36),
            Severity::Blocker => ("BLOCKER", 31),
            Severity::Warning => ("warning", 33),
            Severity::Info => ("info", 32),
        };
        let word = format!("{word:8}");
        let word = if colours {
            format!("\x1b[{colour}m{word}\x1b[0m")
        } else {
            word
        };
        let _ = writeln!(table, "{word}  {:width$}  {}", finding.id, finding.message);
        if let Some(hint) = &finding.hint {
            let _ = writeln!(table, "{:8}  {:width$}  -> {hint}", "", "");
        }
    }
    table.truncate(table.trim_end().len());
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::{Blocker, Detail, blocker, info};

    #[test]
    fn columns_line_up() {
        let preflight = Preflight {
            version: String::new(),
            started_at: String::new(),
            finished_at: String::new(),
            findings: vec![
                blocker(Blocker::TargetUsed, "it is used").hint("look"),
                info("dns", "well"),
            ],
            accepted: Vec::new(),
            next: ess_document::Next::default(),
        };
        assert_eq!(
            table(&preflight, false),
            "BLOCKER   target-used  it is used\n                       -> look\ninfo      dns          well"
        );
        assert!(table(&preflight, true).starts_with("\x1b[31mBLOCKER"));
    }
}
