//! Findings as a table for people (`--report`).

use ess_document::{Finding, Preflight, Severity};

/// A row of the table: the severity, in a colour, then the finding, and the hint below it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Row {
    /// The colour, as a parameter of the escape sequence SGR.
    pub(crate) colour: u8,
    pub(crate) word: String,
    /// Lines after the first are indented to the column of messages.
    pub(crate) rest: String,
}

/// One row per finding; lines are wrapped at `columns`, if given.
pub(crate) fn table(preflight: &Preflight, columns: Option<usize>) -> Vec<Row> {
    let ids = preflight.findings.iter().map(|finding| finding.id.len());
    let width = ids.max().unwrap_or(0);
    let indent = 8 + 2 + width + 2;
    // A column narrower than 30 is harder to read than long lines.
    let room = columns
        .and_then(|all| all.checked_sub(indent))
        .filter(|room| *room >= 30);
    let row = |finding: &Finding| {
        let (word, colour) = match finding.severity {
            Severity::Blocker if preflight.accepted.contains(&finding.id) => ("accepted", 36),
            Severity::Blocker => ("BLOCKER", 31),
            Severity::Warning => ("warning", 33),
            Severity::Info => ("info", 32),
        };
        let hint = finding.hint.as_ref().map(|hint| format!("-> {hint}"));
        let mut lines = wrapped(&finding.message, room);
        lines.extend(hint.iter().flat_map(|hint| wrapped(hint, room)));
        Row {
            colour,
            word: format!("{word:8}"),
            rest: format!("  {:width$}  {}", finding.id, lines.join(&format!("\n{:indent$}", ""))),
        }
    };
    preflight.findings.iter().map(row).collect()
}

/// Wraps the text at `room` characters, if given; a longer word has a line of its own.
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
    use crate::finding::{Detail, blocker, info};
    use crate::ids::{DNS, TARGET_USED};

    #[test]
    fn columns_line_up() {
        let preflight = Preflight {
            version: String::new(),
            started_at: String::new(),
            finished_at: String::new(),
            findings: vec![blocker(&TARGET_USED, "it is used").hint("look"), info(&DNS, "well")],
            accepted: Vec::new(),
            next: ess_document::Next::default(),
        };
        let rows = table(&preflight, None);
        let lines: Vec<String> = rows.iter().map(|row| format!("{}{}", row.word, row.rest)).collect();
        assert_eq!(
            lines.join("\n"),
            "BLOCKER   target-used  it is used\n                       -> look\ninfo      dns          well"
        );
        assert_eq!(rows[0].colour, 31);
    }

    #[test]
    fn long_lines_are_broken_between_words() {
        let broken = |room| wrapped("one two three fourteen", room);
        assert_eq!(broken(None), ["one two three fourteen"]);
        assert_eq!(broken(Some(7)), ["one two", "three", "fourteen"]);
        assert_eq!(broken(Some(8)), ["one two", "three", "fourteen"]);
    }
}
