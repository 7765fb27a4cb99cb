//! Findings as a table for people.

use std::fmt::Write as _;

use ess_document::{Preflight, Severity};

/// How a table is drawn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    pub(crate) colours: bool,
    /// Columns that a line may have; none where nobody counts them.
    pub(crate) width: Option<usize>,
}

/// One finding a row, what to do about it below.
pub(crate) fn table(preflight: &Preflight, look: Look) -> String {
    let ids = preflight.findings.iter().map(|finding| finding.id.len());
    let width = ids.max().unwrap_or(0);
    let indent = 8 + 2 + width + 2;
    // Too narrow a column is worse than long lines.
    let room = look
        .width
        .and_then(|all| all.checked_sub(indent))
        .filter(|room| *room >= 30);
    let mut table = String::new();
    for finding in &preflight.findings {
        let (word, colour) = match finding.severity {
            Severity::Blocker if preflight.accepted.contains(&finding.id) => ("accepted", 36),
            Severity::Blocker => ("BLOCKER", 31),
            Severity::Warning => ("warning", 33),
            Severity::Info => ("info", 32),
        };
        let word = format!("{word:8}");
        let word = if look.colours {
            format!("\x1b[{colour}m{word}\x1b[0m")
        } else {
            word
        };
        let hint = finding.hint.as_ref().map(|hint| format!("-> {hint}"));
        let mut lines = wrapped(&finding.message, room);
        lines.extend(hint.iter().flat_map(|hint| wrapped(hint, room)));
        for (number, line) in lines.iter().enumerate() {
            let _ = if number == 0 {
                writeln!(table, "{word}  {:width$}  {line}", finding.id)
            } else {
                writeln!(table, "{:indent$}{line}", "")
            };
        }
    }
    table.truncate(table.trim_end().len());
    table
}

/// Lines of no more than so many characters, unless a word is longer.
fn wrapped(text: &str, room: Option<usize>) -> Vec<String> {
    let Some(room) = room else {
        return vec![text.to_owned()];
    };
    let (mut lines, mut line) = (Vec::new(), String::new());
    for word in text.split(' ') {
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > room {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    lines
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
        let plain = Look {
            colours: false,
            width: None,
        };
        assert_eq!(
            table(&preflight, plain),
            "BLOCKER   target-used  it is used\n                       -> look\ninfo      dns          well"
        );
        let colours = Look { colours: true, ..plain };
        assert!(table(&preflight, colours).starts_with("\x1b[31mBLOCKER"));
    }

    #[test]
    fn long_lines_are_broken_between_words() {
        let broken = |room| wrapped("one two three fourteen", room);
        assert_eq!(broken(None), ["one two three fourteen"]);
        assert_eq!(broken(Some(7)), ["one two", "three", "fourteen"]);
        assert_eq!(broken(Some(8)), ["one two", "three", "fourteen"]);
    }
}
