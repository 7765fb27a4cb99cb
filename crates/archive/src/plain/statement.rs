//! One statement of a dump, and whether it is passed on, left out or refused.

use std::borrow::Cow;
use std::fmt;

use ess_postgres::{Error, NOT_PLAIN};
use ess_synapse::schema::FENCE_TABLES;

use super::token::Token;
use super::{PlainError, printable};

/// Within this many bytes, the kind of a statement must be known.
const HEAD: usize = 1 << 16;

/// How many tokens of a statement are stored.
const TOKENS: usize = 256;

/// What the scanner does with a statement.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Pass,
    Drop,
    /// Leave it out: it concerns the database itself, which has this name.
    Database(String),
    /// Leave it out: it inserts a row of the schema version. `None` if the row is invalid.
    Schema(Option<Row>),
    /// Pass it on with the rows that follow.
    Copy {
        table: Name,
        columns: Vec<String>,
    },
}

/// A table's name, with its schema if the dump contains it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Name {
    schema: Option<String>,
    name: String,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(schema) = &self.schema {
            write!(f, "{}.", printable(schema))?;
        }
        f.write_str(&printable(&self.name))
    }
}

impl Name {
    /// Whether it can be one of Synapse's two tables of the schema version.
    fn is_of_versions(&self) -> bool {
        let schema = self.schema.as_deref();
        schema.is_none_or(|schema| schema == "public") && FENCE_TABLES.contains(&self.name.as_str())
    }

    /// Whether it is one of these two tables, and not one of another program with the same name but other columns.
    pub(super) fn is_version_table(&self, columns: &[String]) -> bool {
        let mut columns: Vec<_> = columns.iter().map(String::as_str).collect();
        columns.sort_unstable();
        let wanted: &[&str] = if self.name == "schema_version" {
            &VERSION
        } else {
            &COMPAT
        };
        self.is_of_versions() && columns == wanted
    }
}

/// The statement without the column option `pg_attver`; `None` if nothing else is left to set.
///
/// Newer minor versions (15.20) maintain that option themselves. An older `pg_dump` takes it for a setting, and other
/// servers reject it.
pub(super) fn without_attver(sql: &str) -> Option<Cow<'_, str>> {
    // As `dumpTableSchema` in pg_dump.c writes it.
    let parts = || {
        let (head, options) = sql.strip_suffix(");")?.rsplit_once(" SET (")?;
        let is_of_column = head.trim_start().starts_with("ALTER ") && head.contains(" ALTER COLUMN ");
        (is_of_column && options.contains("pg_attver=")).then_some((head, options))
    };
    let Some((head, options)) = parts() else {
        return Some(Cow::Borrowed(sql));
    };
    let kept: Vec<&str> = options
        .split(", ")
        .filter(|option| !option.starts_with("pg_attver="))
        .collect();
    (!kept.is_empty()).then(|| Cow::Owned(format!("{head} SET ({});", kept.join(", "))))
}

/// A row of one of the two tables of the schema version.
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

#[derive(Debug)]
pub(super) struct Statement {
    /// The line on which it begins.
    pub(super) line: u64,
    text: Vec<u8>,
    long: bool,
    tokens: Vec<Token>,
    parens: u32,
    /// How many END are missing in a function's body (BEGIN ATOMIC): its own, and one for each open CASE.
    body: u32,
    /// The last token was the word BEGIN, outside parentheses.
    after_begin: bool,
    /// How many tokens of `OWNER TO name` the statement ends with.
    owner: u8,
    after_escapes: bool,
    /// The number of rows of an INSERT so far; `None` before VALUES.
    rows: Option<u64>,
}

impl Statement {
    pub(super) fn new(line: u64) -> Self {
        Self {
            line,
            text: Vec::new(),
            long: false,
            tokens: Vec::new(),
            parens: 0,
            body: 0,
            after_begin: false,
            owner: 0,
            after_escapes: false,
            rows: None,
        }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.text.extend_from_slice(bytes);
    }

    /// Whether it has just exceeded the length within which its kind must be known. True only once.
    pub(super) fn has_grown_long(&mut self) -> bool {
        let long = self.text.len() > HEAD;
        !std::mem::replace(&mut self.long, long) && long
    }

    pub(super) fn length(&self) -> usize {
        self.text.len()
    }

    /// The text for the server. Fails if it is not UTF-8.
    pub(super) fn sql(&self) -> Result<&str, PlainError> {
        std::str::from_utf8(&self.text).map_err(|_| PlainError::Unexpected {
            line: self.line,
            what: "bytes that are not UTF-8; dump again with --encoding=UTF8".to_owned(),
        })
    }

    /// The error that the server rejected it.
    pub(super) fn failed(&self, source: Error) -> PlainError {
        PlainError::Server {
            line: self.line,
            what: self.summary(),
            source,
        }
    }

    /// Whether the last token was an `E''` string.
    pub(super) fn after_escapes(&self) -> bool {
        self.after_escapes
    }

    /// Whether a semicolon at this point does not end it.
    pub(super) fn is_inside(&self) -> bool {
        self.parens > 0 || self.body > 0
    }

    /// Its beginning on one line, without any value, which could be a password.
    pub(super) fn summary(&self) -> String {
        let head = &self.text[..self.text.len().min(HEAD)];
        let text = String::from_utf8_lossy(head);
        let values: &[char] = if self.is(&["insert"]) {
            &['\'', ';', '(']
        } else {
            &['\'', ';']
        };
        let text = text.split(values).next().unwrap_or_default();
        let words: Vec<_> = text.split_whitespace().take(60).collect();
        printable(&words.join(" ").chars().take(120).collect::<String>())
    }

    fn is(&self, keys: &[&str]) -> bool {
        self.tokens.len() >= keys.len() && self.tokens.iter().zip(keys).all(|(token, key)| token.key() == *key)
    }

    fn add(&mut self, token: Token) {
        self.after_escapes = false;
        self.after_begin = false;
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

    pub(super) fn word(&mut self, text: &[u8]) {
        let word = lossy(text).to_ascii_lowercase();
        if self.parens == 0 {
            match word.as_str() {
                "values" => _ = self.rows.get_or_insert(0),
                "atomic" if self.after_begin => self.body = 1,
                "case" if self.body > 0 => self.body += 1,
                "end" => self.body = self.body.saturating_sub(1),
                _ => {}
            }
        }
        let begins = word == "begin" && self.parens == 0;
        self.add(Token::Word(word));
        self.after_begin = begins;
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

    /// The table of an INSERT, and how many rows it adds.
    pub(super) fn inserted(&self) -> Option<(Name, u64)> {
        let (table, _) = match self.tokens.as_slice() {
            [insert, into, rest @ ..] if insert.key() == "insert" && into.key() == "into" => table(rest)?,
            _ => return None,
        };
        // INSERT INTO t DEFAULT VALUES has no row in parentheses.
        Some((table, self.rows.unwrap_or(0).max(1)))
    }

    /// What to do with it. `ended` is false if the statement is not complete yet.
    pub(super) fn verdict(&self, ended: bool) -> Result<Verdict, PlainError> {
        let keys: Vec<&str> = self.tokens.iter().map(Token::key).take(8).collect();
        Ok(match keys.as_slice() {
            ["copy", ..] => return self.copy(),
            ["insert", "into", ..] => self.insert(),
            ["set", ..] => return self.set(),
            ["select", ..] => return self.select(),
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
                "extension" | "publication" | "subscription" | "event",
                ..,
            ]
            | ["grant" | "revoke" | "drop", ..]
            | ["security", "label", ..] => Verdict::Drop,
            ["alter", "system", ..] => return Err(self.unexpected()),
            _ if self.changes_versions() => {
                return Err(PlainError::Unexpected {
                    line: self.line,
                    what: format!("one of the tables of the schema version {NOT_PLAIN}"),
                });
            }
            ["alter", ..] if self.owner == 3 && ended => Verdict::Drop,
            // From pg_dump --clean. The target is empty, so there is nothing to drop.
            ["alter", ..] if self.drops() => Verdict::Drop,
            ["comment", "on", "schema", ..] if self.is_named("public", 3) => Verdict::Drop,
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
            what: format!(
                "not a statement that pg_dump writes for one database: {}",
                self.summary()
            ),
        }
    }

    /// Whether it creates a rule, trigger or policy on one of the tables of the schema version.
    fn changes_versions(&self) -> bool {
        let keys: Vec<&str> = self.tokens.iter().map(Token::key).take(5).collect();
        let before = match keys.as_slice() {
            ["create", "rule", ..] | ["create", "or", "replace", "rule", ..] => "to",
            ["create", "trigger" | "policy", ..]
            | ["create", "constraint", "trigger", ..]
            | ["create", "or", "replace", "trigger", ..] => "on",
            _ => return false,
        };
        let mut tokens = self.tokens.iter();
        tokens.any(|token| token.key() == before)
            && table(tokens.as_slice()).is_some_and(|(table, _)| table.is_of_versions())
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
        let names: Vec<String> = match (given.is_empty(), table.name.as_str()) {
            // In the order of the columns in Synapse's CREATE TABLE.
            (true, "schema_version") => ["lock", "version", "upgraded"].map(str::to_owned).into(),
            (true, "schema_compat_version") => ["lock", "compat_version"].map(str::to_owned).into(),
            (true, _) => return Verdict::Pass,
            (false, _) => given.clone(),
        };
        if !table.is_version_table(&names) {
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
            // Another program's table with this name.
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
            ["standard_conforming_strings", ..] => refused(
                "standard_conforming_strings is off; dump again with PGOPTIONS=-cstandard_conforming_strings=on",
            ),
            ["client_encoding", "=", _] => match &self.tokens[3] {
                Token::Text(name) if ["UTF8", "SQL_ASCII"].contains(&name.as_str()) => Ok(Verdict::Pass),
                _ => refused("a dump with an encoding other than UTF8; dump again with --encoding=UTF8"),
            },
            // Tablespaces are specific to a server.
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

    /// Accepts calls of the few functions that `pg_dump` uses, with nothing but literals as arguments.
    fn select(&self) -> Result<Verdict, PlainError> {
        let keys: Vec<&str> = self.tokens.iter().map(Token::key).take(16).collect();
        let ["select", rest @ ..] = keys.as_slice() else {
            return Err(self.unexpected());
        };
        match rest {
            [
                "pg_catalog",
                ".",
                "setval",
                "(",
                "'",
                ",",
                "0",
                ",",
                "true" | "false",
                ")",
            ]
            | [
                "pg_catalog",
                ".",
                "setval",
                "(",
                "'",
                ",",
                "-",
                "0",
                ",",
                "true" | "false",
                ")",
            ]
            | ["pg_catalog", ".", "lo_create", "(", "'" | "0", ")"] => Ok(Verdict::Pass),
            ["pg_catalog", ".", "set_config", "(", "'", ",", "'", ",", "false", ")"]
                if self.tokens[5] == Token::Text("search_path".to_owned()) =>
            {
                Ok(Verdict::Pass)
            }
            // Statistics are not carried: the target gathers its own.
            ["*", "from", "pg_catalog", ".", function, ..]
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

/// Splits off a table name, `schema.name` or `name`; returns it and the tokens that follow.
fn table(tokens: &[Token]) -> Option<(Name, &[Token])> {
    let (schema, name, rest) = match tokens {
        [schema, Token::Symbol('.'), name, rest @ ..] => (Some(schema.name()?.to_owned()), name, rest),
        [name, rest @ ..] => (None, name, rest),
        [] => return None,
    };
    let name = name.name()?.to_owned();
    Some((Name { schema, name }, rest))
}

/// Splits off a list of names in parentheses, if there is one; returns it and the tokens that follow.
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
