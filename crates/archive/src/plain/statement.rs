//! One statement: what it is, and what becomes of it.

use std::io::{self, Write};

use super::PlainError;
use super::token::Token;

/// How much of a statement is held back until it is known what it is.
const HEAD: usize = 1 << 16;

/// How many of its tokens are kept.
const TOKENS: usize = 256;

/// What becomes of a statement.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Pass,
    Drop,
    /// Left out; it is about this database as a whole.
    Database(String),
    /// Left out; it is a row of the schema's version, if it can be read.
    Schema(Option<Row>),
    /// Rows follow.
    Copy {
        table: String,
        columns: Vec<String>,
    },
}

/// A row of the tables that the fence stands on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Row {
    Version { version: i32, upgraded: bool },
    Compat(i32),
}

const VERSION: [&str; 3] = ["lock", "upgraded", "version"];
const COMPAT: [&str; 2] = ["compat_version", "lock"];

impl Row {
    pub(super) fn new<'a>(values: impl Iterator<Item = (&'a str, &'a str)>) -> Option<Self> {
        let (mut version, mut upgraded, mut compat) = (None, None, None);
        for (column, value) in values {
            match column {
                "version" => version = Some(value.parse().ok()?),
                "compat_version" => compat = Some(value.parse().ok()?),
                "upgraded" => upgraded = Some(matches!(value, "t" | "true")),
                _ => {}
            }
        }
        match (version, upgraded, compat) {
            (Some(version), Some(upgraded), None) => Some(Self::Version { version, upgraded }),
            (None, None, Some(version)) => Some(Self::Compat(version)),
            _ => None,
        }
    }
}

/// Whether a table is one of Synapse's two, and not another program's of the same name.
pub(super) fn is_schema_table(table: &str, columns: &[String]) -> bool {
    let mut columns: Vec<_> = columns.iter().map(String::as_str).collect();
    columns.sort_unstable();
    match unqualified(table) {
        "schema_version" => columns == VERSION,
        "schema_compat_version" => columns == COMPAT,
        _ => false,
    }
}

fn unqualified(table: &str) -> &str {
    table.rsplit('.').next().unwrap_or(table)
}

#[derive(Debug)]
pub(super) struct Statement {
    /// Where it begins.
    pub(super) line: u64,
    /// What has not been passed on.
    head: Vec<u8>,
    streaming: bool,
    tokens: Vec<Token>,
    parens: u32,
    /// It makes a function or a procedure.
    is_routine: bool,
    /// How many words of `OWNER TO name` were last.
    owner: u8,
    after_escapes: bool,
    /// Of an INSERT, past VALUES: its rows so far.
    rows: Option<u64>,
}

impl Statement {
    pub(super) fn new(line: u64) -> Self {
        Self {
            line,
            head: Vec::new(),
            streaming: false,
            tokens: Vec::new(),
            parens: 0,
            is_routine: false,
            owner: 0,
            after_escapes: false,
            rows: None,
        }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.head.extend_from_slice(bytes);
    }

    pub(super) fn is_long(&self) -> bool {
        self.head.len() > HEAD
    }

    pub(super) fn is_streaming(&self) -> bool {
        self.streaming
    }

    /// Whether the last token was an `E''` string.
    pub(super) fn after_escapes(&self) -> bool {
        self.after_escapes
    }

    /// Passes on what was held back.
    pub(super) fn flush(&mut self, output: &mut dyn Write) -> io::Result<()> {
        output.write_all(&self.head)?;
        self.head.clear();
        self.streaming = true;
        Ok(())
    }

    pub(super) fn in_parentheses(&self) -> bool {
        self.parens > 0
    }

    /// Its beginning on one line, without any string: one could be a password.
    pub(super) fn summary(&self) -> String {
        let text = String::from_utf8_lossy(&self.head);
        let text = text.split(['\'', ';']).next().unwrap_or_default();
        let words: Vec<_> = text.split_whitespace().collect();
        words.join(" ").chars().take(120).collect()
    }

    fn add(&mut self, token: Token) {
        self.after_escapes = false;
        self.owner = match (self.owner, token.key()) {
            (_, "owner") => 1,
            (1, "to") => 2,
            (2, _) if token.name().is_some() => 3,
            _ => 0,
        };
        if self.tokens.len() < TOKENS {
            self.tokens.push(token);
        }
    }

    pub(super) fn number(&mut self, text: &[u8]) {
        self.add(Token::Number(lossy(text)));
    }

    pub(super) fn quoted(&mut self, quote: u8, escapes: bool, text: &[u8]) {
        let text = lossy(text);
        self.add(if quote == b'"' {
            Token::Name(text)
        } else {
            Token::Text(text)
        });
        self.after_escapes = escapes;
    }

    /// True for a body of SQL statements, whose semicolons end nothing for a newer `psql`.
    pub(super) fn word(&mut self, text: &[u8]) -> bool {
        let word = lossy(text).to_ascii_lowercase();
        self.is_routine |= matches!(word.as_str(), "function" | "procedure");
        if word == "values" && self.parens == 0 {
            self.rows.get_or_insert(0);
        }
        let is_body = word == "begin" && self.is_routine;
        self.add(Token::Word(word));
        is_body
    }

    /// Any other byte.
    pub(super) fn symbol(&mut self, byte: u8) {
        match byte {
            b'(' => {
                if let (Some(rows), 0) = (&mut self.rows, self.parens) {
                    *rows += 1;
                }
                self.parens += 1;
            }
            b')' => self.parens = self.parens.saturating_sub(1),
            _ => {}
        }
        self.add(Token::Symbol(char::from(byte)));
    }

    /// The table and how many rows an INSERT adds to it.
    pub(super) fn inserted(&self) -> Option<(String, u64)> {
        let (table, _) = match self.tokens.as_slice() {
            [insert, into, rest @ ..] if insert.key() == "insert" && into.key() == "into" => table(rest)?,
            _ => return None,
        };
        // INSERT INTO t DEFAULT VALUES
        Some((table, self.rows.unwrap_or(0).max(1)))
    }

    /// What becomes of it; `ended` is false while more is to come.
    pub(super) fn verdict(&self, ended: bool) -> Result<Verdict, PlainError> {
        if self.streaming {
            return Ok(Verdict::Pass);
        }
        let keys: Vec<&str> = self.tokens.iter().map(Token::key).take(8).collect();
        Ok(match keys.as_slice() {
            ["copy", ..] => return self.copy(),
            ["insert", "into", ..] => self.insert(),
            ["set", ..] => return self.set(),
            ["select", ..] => return self.select(&keys),
            ["create" | "alter", "user", "mapping", ..] => Verdict::Pass,
            ["alter", "role" | "user", _, "in", "database", ..] => Verdict::Drop,
            [
                "create" | "alter" | "drop",
                "role" | "user" | "group" | "tablespace",
                ..,
            ] => {
                return Err(PlainError::Cluster { line: self.line });
            }
            ["drop", "database", "if", "exists", ..] => self.database(4),
            ["create" | "alter" | "drop", "database", ..] => self.database(2),
            ["comment", "on", "database", ..] => self.database(3),
            ["alter", "default", "privileges", ..]
            | ["alter", "large", "object", ..]
            | ["create" | "alter", "publication" | "subscription", ..]
            | ["create" | "alter", "event", "trigger", ..]
            | [
                "comment",
                "on",
                "extension" | "publication" | "subscription" | "event" | "schema",
                ..,
            ]
            | ["grant" | "revoke" | "drop", ..]
            | ["security", "label", ..] => Verdict::Drop,
            ["alter", "system", ..] => return Err(self.unexpected()),
            ["alter", ..] if self.owner == 3 && ended => Verdict::Drop,
            // pg_dump --clean; nothing is there to be dropped.
            ["alter", ..] if self.drops() => Verdict::Drop,
            ["create", "schema", ..] if self.is_named("public", 2) => Verdict::Drop,
            ["create", "schema", "if", "not", "exists", ..] if self.is_named("public", 5) => Verdict::Drop,
            ["create", "extension", ..] if self.is_named("plpgsql", 2) => Verdict::Drop,
            ["create", "extension", "if", "not", "exists", ..] if self.is_named("plpgsql", 5) => Verdict::Drop,
            ["create" | "alter" | "comment", ..] | ["refresh", "materialized", "view", ..] => Verdict::Pass,
            _ => return Err(self.unexpected()),
        })
    }

    fn unexpected(&self) -> PlainError {
        PlainError::Unexpected {
            line: self.line,
            what: format!("pg_dump writes no such statement for one database: {}", self.summary()),
        }
    }

    fn is_named(&self, name: &str, at: usize) -> bool {
        self.tokens.get(at).and_then(Token::name) == Some(name)
    }

    fn database(&self, at: usize) -> Verdict {
        let name = self.tokens.get(at).and_then(Token::name);
        name.map_or(Verdict::Drop, |name| Verdict::Database(name.to_owned()))
    }

    /// `ALTER TABLE ... DROP CONSTRAINT c` and `... ALTER COLUMN c DROP DEFAULT`.
    fn drops(&self) -> bool {
        let keys: Vec<_> = self.tokens.iter().map(Token::key).collect();
        keys.windows(2)
            .any(|pair| matches!(pair, ["drop", "constraint" | "default"]))
    }

    fn copy(&self) -> Result<Verdict, PlainError> {
        let found = table(&self.tokens[1..]).and_then(|(table, rest)| {
            let (columns, rest) = columns(rest);
            let keys: Vec<_> = rest.iter().map(Token::key).collect();
            (keys == ["from", "stdin"]).then_some(Verdict::Copy { table, columns })
        });
        found.ok_or_else(|| self.unexpected())
    }

    fn insert(&self) -> Verdict {
        let Some((table, rest)) = table(&self.tokens[2..]) else {
            return Verdict::Pass;
        };
        let (given, rest) = columns(rest);
        let names: Vec<String> = match (given.is_empty(), unqualified(&table)) {
            // In the order of Synapse's own CREATE TABLE.
            (true, "schema_version") => ["lock", "version", "upgraded"].map(str::to_owned).into(),
            (true, "schema_compat_version") => ["lock", "compat_version"].map(str::to_owned).into(),
            (true, _) => return Verdict::Pass,
            (false, _) => given.clone(),
        };
        if !is_schema_table(&table, &names) {
            return Verdict::Pass;
        }
        let open = rest
            .iter()
            .position(|token| token.key() == "(")
            .map_or(rest.len(), |at| at + 1);
        let values = rest[open..].iter().filter_map(|token| match token {
            Token::Word(text) | Token::Text(text) | Token::Number(text) => Some(text.as_str()),
            _ => None,
        });
        match Row::new(names.iter().map(String::as_str).zip(values)) {
            // Another program's table of this name.
            None if given.is_empty() => Verdict::Pass,
            row => Verdict::Schema(row.filter(|_| self.rows == Some(1))),
        }
    }

    fn set(&self) -> Result<Verdict, PlainError> {
        let refused = |what: &str| {
            let what = what.to_owned();
            Err(PlainError::Unexpected { line: self.line, what })
        };
        match self.tokens[1..]
            .iter()
            .map(|token| token.name().unwrap_or(token.key()))
            .collect::<Vec<_>>()[..]
        {
            ["session", "authorization", ..] | ["transaction_timeout" | "default_with_oids", ..] => Ok(Verdict::Drop),
            ["standard_conforming_strings", "=", "on"] => Ok(Verdict::Pass),
            ["standard_conforming_strings", ..] => {
                refused("standard_conforming_strings is off in this database; switch it on there and dump again")
            }
            ["client_encoding", "=", _] => match &self.tokens[3] {
                Token::Text(name) if ["UTF8", "SQL_ASCII"].contains(&name.as_str()) => Ok(Verdict::Pass),
                _ => refused("a dump in another encoding than UTF8; dump again with --encoding=UTF8"),
            },
            // Tablespaces are the server's.
            ["default_tablespace", "=", _] if self.tokens[3] != Token::Text(String::new()) => Ok(Verdict::Drop),
            [
                "statement_timeout"
                | "lock_timeout"
                | "idle_in_transaction_session_timeout"
                | "check_function_bodies"
                | "xmloption"
                | "client_min_messages"
                | "row_security"
                | "escape_string_warning"
                | "search_path"
                | "default_tablespace"
                | "default_table_access_method",
                "=",
                ..,
            ] => Ok(Verdict::Pass),
            _ => Err(self.unexpected()),
        }
    }

    fn select(&self, keys: &[&str]) -> Result<Verdict, PlainError> {
        match keys {
            ["select", "pg_catalog", ".", "setval", "(", ..] => Ok(Verdict::Pass),
            ["select", "pg_catalog", ".", "set_config", "(", ..]
                if self.tokens.get(5) == Some(&Token::Text("search_path".to_owned())) =>
            {
                Ok(Verdict::Pass)
            }
            // Statistics: the target gathers its own.
            ["select", "*", "from", "pg_catalog", ".", function, ..]
                if function.starts_with("pg_restore_") && function.ends_with("_stats") =>
            {
                Ok(Verdict::Drop)
            }
            _ => Err(self.unexpected()),
        }
    }
}

fn lossy(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

/// `schema.name` or `name`, and what follows.
fn table(tokens: &[Token]) -> Option<(String, &[Token])> {
    match tokens {
        [schema, Token::Symbol('.'), name, rest @ ..] => Some((format!("{}.{}", schema.name()?, name.name()?), rest)),
        [name, rest @ ..] => Some((name.name()?.to_owned(), rest)),
        [] => None,
    }
}

/// The names in parentheses, if there are any, and what follows.
fn columns(tokens: &[Token]) -> (Vec<String>, &[Token]) {
    match tokens {
        [Token::Symbol('('), rest @ ..] => {
            let end = rest.iter().position(|token| token.key() == ")").unwrap_or(rest.len());
            let names = rest[..end].iter().filter_map(Token::name).map(str::to_owned).collect();
            (names, rest.get(end + 1..).unwrap_or_default())
        }
        _ => (Vec::new(), tokens),
    }
}
