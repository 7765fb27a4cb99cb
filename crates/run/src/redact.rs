//! Removes values of rows from messages of `PostgreSQL` and its programs.
//!
//! A server quotes the data that causes an error: `invalid input syntax for type integer: "secret"`,
//! `Key (token)=(secret) already exists.`, `COPY users, line 3: "..."`. The error and the names of tables,
//! columns and constraints are kept, as are line numbers; what may be a value is not.

/// Replaces what was removed.
const LEFT_OUT: &str = "...";

/// After one of these words, quotation marks enclose a name rather than a value.
const NAMED: &[&str] = &[
    "argument",
    "at",
    "collation",
    "column",
    "configuration",
    "constraint",
    "conversion",
    "database",
    "dictionary",
    "directory",
    "domain",
    "encoding",
    "extension",
    "file",
    "format",
    "function",
    "host",
    "index",
    "language",
    "library",
    "method",
    "name",
    "operator",
    "option",
    "parameter",
    "parser",
    "plugin",
    "policy",
    "procedure",
    "publication",
    "relation",
    "role",
    "rule",
    "schema",
    "sequence",
    "server",
    "service",
    "setting",
    "slot",
    "snapshot",
    "socket",
    "statistics",
    "subscription",
    "table",
    "tablespace",
    "transform",
    "trigger",
    "type",
    "user",
    "variable",
    "version",
    "view",
    "wrapper",
];

/// Redacts the primary message of a server or a program.
pub fn message(text: &str) -> String {
    match without_values(text) {
        (kept, true) => kept,
        (kept, false) => kept + "\"",
    }
}

/// Redacts the `DETAIL` of a server's message.
pub fn detail(text: &str) -> String {
    // Values in parentheses are not quoted by the server.
    let starts = [")=(", " contains ("];
    let Some(at) = starts
        .iter()
        .filter_map(|start| Some(text.find(start)? + start.len()))
        .min()
    else {
        return message(text);
    };
    let (kept, values) = text.split_at(at);
    let ends = [
        ") already exists.",
        ") is duplicated.",
        ") is not present in table ",
        ") is still referenced from table ",
    ];
    // Search from the end, since a value may contain the same text.
    let after = ends.iter().filter_map(|end| values.rfind(end)).max();
    let after = after.map_or_else(|| ")".to_owned(), |at| message(&values[at..]));
    format!("{}{LEFT_OUT}{after}", message(kept))
}

/// Redacts the `CONTEXT` of a server's message: the place in the data is kept, the data are not.
fn context(text: &str) -> String {
    // `COPY users, line 3, column name: "..."`; `JSON data, line 1: ...`
    message(text.split_once(": ").map_or(text, |(place, _)| place))
}

/// Redacts a statement: the first words are kept, up to what may be data.
fn statement(text: &str) -> String {
    let end = text.find(['(', '\'', '$', '=', ';']).unwrap_or(text.len());
    let head = text[..end].split(" VALUES").next().unwrap_or_default();
    let words: Vec<&str> = head.split_whitespace().take(8).collect();
    format!("{} {LEFT_OUT}", words.join(" "))
}

/// The text with `...` for each quotation that is not a name, and whether the last quotation was closed.
fn without_values(text: &str) -> (String, bool) {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['"', '\'']) {
        let quote = &rest[at..=at];
        let before = &rest[..at];
        kept.push_str(before);
        // An apostrophe within a word.
        if quote == "'" && before.ends_with(char::is_alphanumeric) {
            kept.push_str(quote);
            rest = &rest[at + 1..];
            continue;
        }
        let inside = &rest[at + 1..];
        // A value may contain quotation marks: a name ends at the first one, a value at the last one of the line.
        let word = before.trim_end().rsplit([' ', '(', '\t']).next().unwrap_or_default();
        let names = NAMED.iter().any(|name| name.eq_ignore_ascii_case(word));
        let end = if names { inside.find(quote) } else { inside.rfind(quote) };
        let Some(end) = end else {
            kept.push_str(quote);
            kept.push_str(LEFT_OUT);
            return (kept, false);
        };
        kept.push_str(quote);
        kept.push_str(if names { &inside[..end] } else { LEFT_OUT });
        kept.push_str(quote);
        rest = &inside[end + 1..];
    }
    kept.push_str(rest);
    (kept, true)
}

/// Redacts a program's standard error, line by line.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    /// What a line without a recognized beginning continues.
    within: Within,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Within {
    /// A message, or nothing.
    #[default]
    Message,
    /// A value, a statement or a place in data that began on an earlier line.
    Values,
}

impl Lines {
    /// What can be shown of the next line, including its line break; `None` if the line continues a value.
    pub(crate) fn next(&mut self, line: &str) -> Option<String> {
        let text = line.trim_end_matches(['\r', '\n']);
        let end = &line[text.len()..];
        let (prefix, rest) = beginning(text);
        let (shown, within) = if let Some((field, rest)) = field(rest) {
            let shown = match field {
                "DETAIL:  " => detail(rest),
                "HINT:  " => message(rest),
                "CONTEXT:  " => context(rest),
                "LINE " | "LOCATION:  " => LEFT_OUT.to_owned(),
                _ => statement(rest),
            };
            (format!("{field}{shown}"), Within::Values)
        } else if prefix.is_empty() && self.within == Within::Values {
            return None;
        } else {
            let (shown, is_complete) = without_values(rest);
            (shown, if is_complete { Within::Message } else { Within::Values })
        };
        self.within = within;
        Some(format!("{prefix}{shown}{end}"))
    }
}

/// Splits off `pg_restore: error: ` and the like, `psql:FILE:LINE: `, `ERROR:  ` and the name of a field.
fn beginning(text: &str) -> (&str, &str) {
    let mut at = 0;
    loop {
        let rest = &text[at..];
        let program = ["pg_dump: ", "pg_restore: ", "psql: "]
            .iter()
            .find(|name| rest.starts_with(**name));
        let word = [
            "error: ",
            "warning: ",
            "detail: ",
            "hint: ",
            "ERROR:  ",
            "FATAL:  ",
            "PANIC:  ",
            "WARNING:  ",
            "NOTICE:  ",
        ];
        // A server's severities are at the beginning of a line, a program's after its name.
        let may = |word: &&&str| at > 0 || word.ends_with("  ");
        let word = word.iter().filter(may).find(|word| rest.starts_with(**word));
        let length = match (program, word) {
            (Some(name), _) => name.len(),
            (None, Some(word)) => word.len(),
            // `psql:<stdin>:3: `
            (None, None) if rest.starts_with("psql:") => rest.find(": ").map_or(0, |end| end + 2),
            (None, None) => 0,
        };
        if length == 0 {
            return text.split_at(at);
        }
        at += length;
    }
}

/// The name of a field of a message, and the text after it.
fn field(text: &str) -> Option<(&'static str, &str)> {
    const FIELDS: [&str; 10] = [
        "DETAIL:  ",
        "HINT:  ",
        "CONTEXT:  ",
        "QUERY:  ",
        "STATEMENT:  ",
        "LINE ",
        "LOCATION:  ",
        "Command was: ",
        "Query was: ",
        "query was: ",
    ];
    FIELDS
        .iter()
        .find_map(|field| Some((*field, text.strip_prefix(field)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is shown of what a program wrote.
    fn shown(text: &str) -> String {
        let mut lines = Lines::default();
        text.split_inclusive('\n').filter_map(|line| lines.next(line)).collect()
    }

    #[test]
    fn a_message_keeps_names_and_loses_values() {
        for (printed, redacted) in [
            (
                "invalid input syntax for type integer: \"s\"",
                "invalid input syntax for type integer: \"...\"",
            ),
            (
                "value \"s\" is out of range for type integer",
                "value \"...\" is out of range for type integer",
            ),
            (
                "invalid input value for enum mood: \"s\"",
                "invalid input value for enum mood: \"...\"",
            ),
            (
                "invalid input syntax for type integer: \"a\" \"s\"",
                "invalid input syntax for type integer: \"...\"",
            ),
            (
                "invalid input syntax for type integer: \"1\ns",
                "invalid input syntax for type integer: \"...\"",
            ),
            (
                "duplicate key value violates unique constraint \"users_name_key\"",
                "duplicate key value violates unique constraint \"users_name_key\"",
            ),
            (
                "new row for relation \"t\" violates check constraint \"c\"",
                "new row for relation \"t\" violates check constraint \"c\"",
            ),
            (
                "connection to server at \"127.0.0.1\", port 5 failed: FATAL:  role \"x\" does not exist",
                "connection to server at \"127.0.0.1\", port 5 failed: FATAL:  role \"x\" does not exist",
            ),
            (
                "invalid byte sequence for encoding \"UTF8\": 0xff",
                "invalid byte sequence for encoding \"UTF8\": 0xff",
            ),
            ("a server's word, and 's'", "a server's word, and '...'"),
        ] {
            assert_eq!(message(printed), redacted);
        }
    }

    #[test]
    fn a_detail_keeps_columns_and_loses_values() {
        for (printed, redacted) in [
            ("Key (token)=(s) already exists.", "Key (token)=(...) already exists."),
            ("Key (a, b)=(s, s) is duplicated.", "Key (a, b)=(...) is duplicated."),
            (
                "Key (a)=(s) already exists.) is not present in table \"u\".",
                "Key (a)=(...) is not present in table \"u\".",
            ),
            ("Key (a)=(s) conflicts with existing key (a)=(s).", "Key (a)=(...)"),
            ("Failing row contains (1, s)=(s, \"s\").", "Failing row contains (...)"),
            ("Token \"s\" is invalid.", "Token \"...\" is invalid."),
        ] {
            assert_eq!(detail(printed), redacted);
        }
    }

    #[test]
    fn a_programs_lines_lose_rows_and_statements() {
        let printed = "pg_restore: while PROCESSING TOC:\n\
            pg_restore: from TOC entry 3512; 0 16410 TABLE DATA users synapse\n\
            pg_restore: error: COPY failed for table \"users\": ERROR:  duplicate key value violates unique constraint \"k\"\n\
            DETAIL:  Key (token)=(s\n\
            s) already exists.\n\
            CONTEXT:  COPY users, line 3, column token: \"s\n\
            s\"\n\
            Command was: INSERT INTO public.t VALUES ('s',\n\
            's');\n\
            pg_dump: error: query failed: ERROR:  invalid input syntax for type integer: \"s\n\
            s\"\n\
            LINE 1: SELECT 's'\n\
            \x20              ^\n\
            pg_dump: detail: Query was: COPY public.users (name) TO stdout;\n\
            psql:<stdin>:7: ERROR:  invalid input syntax for type json\n\
            DETAIL:  Token \"s\" is invalid.\n\
            CONTEXT:  JSON data, line 1: s\n\
            \ts\n\
            psql: error: connection to server at \"h\", port 1 failed: Connection refused\n\
            \tIs the server running on that host and accepting TCP/IP connections?\n";
        let redacted = "pg_restore: while PROCESSING TOC:\n\
            pg_restore: from TOC entry 3512; 0 16410 TABLE DATA users synapse\n\
            pg_restore: error: COPY failed for table \"users\": ERROR:  duplicate key value violates unique constraint \"k\"\n\
            DETAIL:  Key (token)=(...)\n\
            CONTEXT:  COPY users, line 3, column token\n\
            Command was: INSERT INTO public.t ...\n\
            pg_dump: error: query failed: ERROR:  invalid input syntax for type integer: \"...\n\
            LINE ...\n\
            pg_dump: detail: Query was: COPY public.users ...\n\
            psql:<stdin>:7: ERROR:  invalid input syntax for type json\n\
            DETAIL:  Token \"...\" is invalid.\n\
            CONTEXT:  JSON data, line 1\n\
            psql: error: connection to server at \"h\", port 1 failed: Connection refused\n\
            \tIs the server running on that host and accepting TCP/IP connections?\n";
        assert_eq!(shown(printed), redacted);
    }
}
