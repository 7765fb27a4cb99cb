//! A scanner for SQL dumps. It splits the text into statements as the server does, and passes on only what `pg_dump`
//! writes for one database.
//!
//! Rows are passed on byte for byte, statements without their comments. What belongs to the source's server (owners,
//! grants, the database itself) is left out and listed; anything else is refused. The text never reaches `psql`, whose
//! backslash commands could run programs.

mod error;
mod format;
mod input;
mod statement;
mod token;

use std::io::BufRead;

use ess_postgres::{Conninfo, Error, SchemaRows};

pub use error::PlainError;
pub use format::{DumpFormat, detect, open_plain};
use input::Input;
use statement::{Name, Row, Statement, Verdict, without_attver};

/// What a dump contains and the scanner does not pass on.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The statements that were left out, shortened, in the order of the dump.
    pub dropped: Vec<String>,
    /// The rows of `schema_version` and `schema_compat_version`.
    pub schema: SchemaRows,
    /// The database that the dump names (`pg_dump -C`).
    pub database: Option<String>,
}

/// Receives the parts of a dump that may reach the target, in the dump's order.
///
/// After an error, everything that was received must be rolled back.
pub trait Taker {
    /// Runs one statement; returns how many rows it changed, if that is known.
    fn statement(&mut self, sql: &str) -> Result<Option<u64>, Error>;
    /// Begins a `COPY ... FROM stdin`, whose rows follow.
    fn copy(&mut self, sql: &str) -> Result<(), Error>;
    /// Sends a part of the rows, which may end in the middle of one.
    fn rows(&mut self, part: &[u8]) -> Result<(), Error>;
    /// Ends the rows; returns how many the server stored, if that is known.
    fn end_of_rows(&mut self) -> Result<Option<u64>, Error>;
}

/// Discards everything, to check only whether a dump is what `pg_dump` writes.
pub struct Nowhere;

impl Taker for Nowhere {
    fn statement(&mut self, _: &str) -> Result<Option<u64>, Error> {
        Ok(None)
    }

    fn copy(&mut self, _: &str) -> Result<(), Error> {
        Ok(())
    }

    fn rows(&mut self, _: &[u8]) -> Result<(), Error> {
        Ok(())
    }

    fn end_of_rows(&mut self) -> Result<Option<u64>, Error> {
        Ok(None)
    }
}

/// Reads a dump and passes on what may reach the target.
///
/// Fails if the dump is truncated, or contains anything that `pg_dump` does not write for one database.
pub fn scan(input: &mut dyn BufRead, taker: &mut dyn Taker) -> Result<Outcome, PlainError> {
    let mut scanner = Scanner {
        input: Input::new(input),
        taker,
        outcome: Outcome::default(),
        complete: false,
    };
    scanner.run()?;
    Ok(scanner.outcome)
}

struct Scanner<'a> {
    input: Input<'a>,
    taker: &'a mut dyn Taker,
    outcome: Outcome,
    /// The dump's closing line was read.
    complete: bool,
}

const COMPLETE: &[u8] = b"-- PostgreSQL database dump complete";
const CLUSTER: &[u8] = b"-- PostgreSQL database cluster dump";

/// How many bytes of a comment, command or word are examined at most.
const LINE: usize = 4096;

/// The maximum length of a statement in bytes, without the rows of a COPY. The server's own limit is four times as
/// high.
const STATEMENT: usize = 256 << 20;

/// How many statements may be left out, more than in any dump of one database.
const DROPPED: usize = 1 << 20;

impl Scanner<'_> {
    fn run(&mut self) -> Result<(), PlainError> {
        // A byte order mark, as editors on Windows write it.
        if self.input.starts_with(b"\xef\xbb\xbf")? {
            self.input.skip(3);
        }
        if self.input.starts_with(b"PGDMP")? {
            return Err(self.unexpected("this is an archive in pg_dump's custom format; decompress the file first"));
        }
        while let Some(byte) = self.input.peek(0)? {
            match byte {
                b' ' | b'\t'..=b'\r' => self.input.skip(1),
                b'-' if self.input.peek(1)? == Some(b'-') => {
                    let at_line_start = self.input.at_line_start();
                    let comment = self.comment()?;
                    match comment.trim_ascii_end() {
                        COMPLETE if at_line_start => self.complete = true,
                        CLUSTER if at_line_start => {
                            return Err(PlainError::Cluster {
                                line: self.input.line(),
                            });
                        }
                        _ => {}
                    }
                }
                b'/' if self.input.peek(1)? == Some(b'*') => self.block_comment()?,
                b'\\' => self.command()?,
                _ if self.complete => return Err(self.unexpected("the file continues after the end of a dump")),
                _ => self.statement()?,
            }
        }
        if !self.complete {
            return Err(self.truncated("before its closing line"));
        }
        Ok(())
    }

    fn unexpected(&self, what: impl Into<String>) -> PlainError {
        PlainError::Unexpected {
            line: self.input.line(),
            what: what.into(),
        }
    }

    fn truncated(&self, inside: &'static str) -> PlainError {
        PlainError::Truncated {
            line: self.input.line(),
            inside,
        }
    }

    /// Reads a comment up to the end of its line. For the server, a carriage return ends it too.
    fn comment(&mut self) -> Result<Vec<u8>, PlainError> {
        let mut text = Vec::new();
        while let Some(byte) = self.input.peek(0)?.filter(|byte| !matches!(byte, b'\n' | b'\r')) {
            if text.len() < LINE {
                text.push(byte);
            }
            self.input.skip(1);
        }
        Ok(text)
    }

    fn block_comment(&mut self) -> Result<(), PlainError> {
        let mut depth = 0;
        loop {
            match (self.input.peek(0)?, self.input.peek(1)?) {
                (Some(b'/'), Some(b'*')) => {
                    depth += 1;
                    self.input.skip(2);
                }
                (Some(b'*'), Some(b'/')) => {
                    depth -= 1;
                    self.input.skip(2);
                    if depth == 0 {
                        return Ok(());
                    }
                }
                (Some(_), _) => self.input.skip(1),
                (None, _) => return Err(self.truncated("inside a comment")),
            }
        }
    }

    /// Reads a backslash command between statements. Those that `pg_dump` writes are left out, all others refused.
    fn command(&mut self) -> Result<(), PlainError> {
        let line = self.input.line();
        let at_line_start = self.input.at_line_start();
        let mut text = Vec::new();
        while let Some(byte) = self.input.peek(0)?.filter(|&byte| byte != b'\n' && text.len() < LINE) {
            text.push(byte);
            self.input.skip(1);
        }
        let text = printable(&String::from_utf8_lossy(&text));
        let (name, argument) = text.split_once(' ').unwrap_or((&text, ""));
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let refused = || PlainError::Backslash {
            line,
            command: name.to_owned(),
        };
        match name {
            "\\restrict" | "\\unrestrict" | "\\encoding" if argument.bytes().all(is_plain) => {
                self.drop(name.to_owned())?;
            }
            "\\connect" => {
                let database = connected(argument).ok_or_else(refused)?;
                self.drop(format!("\\connect {}", printable(&database)))?;
                self.same_database(line, database)?;
            }
            _ => return Err(refused()),
        }
        if at_line_start { Ok(()) } else { Err(refused()) }
    }

    /// Refuses a dump that names a second database.
    fn same_database(&mut self, line: u64, name: String) -> Result<(), PlainError> {
        match &self.outcome.database {
            Some(known) if *known != name => Err(PlainError::OtherDatabase { line, name }),
            _ => {
                self.outcome.database = Some(name);
                Ok(())
            }
        }
    }

    fn drop(&mut self, what: String) -> Result<(), PlainError> {
        if self.outcome.dropped.len() >= DROPPED {
            return Err(self.unexpected("more statements about the source's server than in any dump"));
        }
        self.outcome.dropped.push(what);
        Ok(())
    }

    fn statement(&mut self) -> Result<(), PlainError> {
        let mut statement = Statement::new(self.input.line());
        self.read_statement(&mut statement)?;
        let line = statement.line;
        match statement.verdict(true)? {
            Verdict::Pass => {
                let Some(sql) = without_attver(statement.sql()?) else {
                    return Ok(());
                };
                let taken = self.taker.statement(&sql);
                let taken = taken.map_err(|source| statement.failed(source))?;
                if let (Some((table, read)), Some(taken)) = (statement.inserted(), taken) {
                    all_taken(line, &table, read, taken)?;
                }
            }
            Verdict::Drop => self.drop(statement.summary())?,
            Verdict::Database(name) => {
                self.drop(statement.summary())?;
                self.same_database(line, name)?;
            }
            Verdict::Schema(row) => self.schema_row(line, row.as_ref())?,
            Verdict::Copy { table, columns } => {
                self.end_of_line()?;
                if table.is_version_table(&columns) {
                    self.schema_rows(&columns)?;
                } else {
                    self.copy(&statement, &table)?;
                }
            }
        }
        Ok(())
    }

    /// Passes a `COPY` on with its rows.
    fn copy(&mut self, statement: &Statement, table: &Name) -> Result<(), PlainError> {
        let failed = |source| statement.failed(source);
        self.taker.copy(statement.sql()?).map_err(failed)?;
        let mut read = 0;
        while !self.end_of_rows()? {
            read += 1;
            loop {
                let part = self.input.rest_of_line()?;
                if part.is_empty() {
                    return Err(self.truncated("inside the rows of a table"));
                }
                self.taker.rows(part).map_err(failed)?;
                let (length, ends) = (part.len(), part.ends_with(b"\n"));
                self.input.skip(length);
                if ends {
                    break;
                }
            }
        }
        match self.taker.end_of_rows().map_err(failed)? {
            Some(taken) => all_taken(statement.line, table, read, taken),
            None => Ok(()),
        }
    }

    /// Reads up to and including the semicolon that ends the statement.
    fn read_statement(&mut self, statement: &mut Statement) -> Result<(), PlainError> {
        loop {
            let Some(byte) = self.input.peek(0)? else {
                return Err(self.truncated("inside a statement"));
            };
            match byte {
                b' ' | b'\t'..=b'\r' => self.take(statement, 1)?,
                b'-' if self.input.peek(1)? == Some(b'-') => {
                    self.comment()?;
                }
                b'/' if self.input.peek(1)? == Some(b'*') => {
                    self.block_comment()?;
                    statement.push(b" ");
                }
                b'\\' => {
                    let line = self.input.line();
                    let length = self.run_length(0, |byte| byte.is_ascii_graphic())?.min(20);
                    let command = String::from_utf8_lossy(self.input.ahead(length)?).into_owned();
                    return Err(PlainError::Backslash { line, command });
                }
                b'\'' if statement.after_escapes() => {
                    // Whether the server interprets backslashes in the second part depends on what separates the parts.
                    // Refuse rather than guess.
                    return Err(self.unexpected("a string that continues in a second one"));
                }
                b'\'' => self.quoted(statement, b'\'', false)?,
                b'"' => self.quoted(statement, b'"', false)?,
                b'$' => self.dollar(statement)?,
                b';' => {
                    self.take(statement, 1)?;
                    // Inside parentheses or a function's body, it ends only a command of a rule or of the body.
                    if !statement.is_inside() {
                        return Ok(());
                    }
                }
                byte if token::starts_word(byte) => self.word(statement)?,
                byte if byte.is_ascii_digit() => self.number(statement)?,
                byte => {
                    self.take(statement, 1)?;
                    statement.symbol(byte);
                }
            }
        }
    }

    /// Moves bytes from the input to the statement.
    fn take(&mut self, statement: &mut Statement, count: usize) -> Result<(), PlainError> {
        statement.push(self.input.ahead(count)?);
        self.input.skip(count);
        if statement.has_grown_long() && statement.verdict(false)? != Verdict::Pass {
            return Err(self.unexpected("a statement longer than any of its kind"));
        }
        if statement.length() > STATEMENT {
            return Err(self.unexpected("a statement of more than 256 MiB; dump again without --inserts"));
        }
        Ok(())
    }

    fn take_token(&mut self, statement: &mut Statement, length: usize) -> Result<Vec<u8>, PlainError> {
        let text = self.input.ahead(length)?.to_vec();
        self.take(statement, length)?;
        Ok(text)
    }

    /// Returns where the run of bytes that begins at `from` and satisfies `belongs` ends.
    fn run_length(&mut self, from: usize, belongs: impl Fn(u8) -> bool) -> Result<usize, PlainError> {
        let mut length = from;
        while self.input.peek(length)?.is_some_and(&belongs) {
            length += 1;
            if length > LINE {
                return Err(self.unexpected("a word longer than any name"));
            }
        }
        Ok(length)
    }

    /// Reads digits, possibly with a decimal point and an exponent.
    fn number(&mut self, statement: &mut Statement) -> Result<(), PlainError> {
        let digit = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_digit());
        let mut length = self.run_length(0, |byte| byte.is_ascii_digit())?;
        if self.input.peek(length)? == Some(b'.') && self.input.peek(length + 1)? != Some(b'.') {
            length = self.run_length(length + 1, |byte| byte.is_ascii_digit())?;
        }
        if matches!(self.input.peek(length)?, Some(b'e' | b'E')) {
            let sign = usize::from(matches!(self.input.peek(length + 1)?, Some(b'+' | b'-')));
            if digit(self.input.peek(length + 1 + sign)?) {
                length = self.run_length(length + 1 + sign, |byte| byte.is_ascii_digit())?;
            }
        }
        // Which part is the number then depends on the version of PostgreSQL.
        if self.input.peek(length)?.is_some_and(token::in_word) {
            return Err(self.unexpected("a number that runs into a word"));
        }
        let text = self.take_token(statement, length)?;
        statement.number(&text);
        Ok(())
    }

    fn word(&mut self, statement: &mut Statement) -> Result<(), PlainError> {
        let length = self.run_length(0, token::in_word)?;
        let word = self.take_token(statement, length)?;
        if word.eq_ignore_ascii_case(b"e") && self.input.peek(0)? == Some(b'\'') {
            return self.quoted(statement, b'\'', true);
        }
        statement.word(&word);
        Ok(())
    }

    /// Reads a string or a quoted name, in which a doubled quote stands for one.
    fn quoted(&mut self, statement: &mut Statement, quote: u8, escapes: bool) -> Result<(), PlainError> {
        let mut text = Vec::new();
        self.take(statement, 1)?;
        loop {
            let plain = self.input.run(|byte| byte != quote && byte != b'\\')?;
            let (length, kept) = match (self.input.peek(0)?, self.input.peek(1)?) {
                _ if plain > 0 => (plain, plain.min(token::LIMIT)),
                (Some(b'\\'), Some(_)) if escapes => (2, 2),
                (Some(byte), next) if byte == quote => {
                    if next != Some(quote) {
                        break;
                    }
                    (2, 1)
                }
                (Some(_), _) => (1, 1),
                (None, _) => return Err(self.truncated("inside a quoted string or name")),
            };
            if text.len() < token::LIMIT {
                text.extend_from_slice(self.input.ahead(kept)?);
            }
            self.take(statement, length)?;
        }
        self.take(statement, 1)?;
        statement.quoted(quote, escapes, &text);
        Ok(())
    }

    /// Reads a dollar-quoted string (`$tag$...$tag$`), or a lone dollar sign, such as that of a parameter.
    fn dollar(&mut self, statement: &mut Statement) -> Result<(), PlainError> {
        let mut length = 1;
        loop {
            match self.input.peek(length)? {
                Some(b'$') => break,
                Some(byte) if token::in_tag(byte, length == 1) => length += 1,
                _ => {
                    self.take(statement, 1)?;
                    statement.symbol(b'$');
                    return Ok(());
                }
            }
            if length > LINE {
                return Err(self.unexpected("a dollar quote longer than any name"));
            }
        }
        let tag = self.input.ahead(length + 1)?.to_vec();
        self.take(statement, tag.len())?;
        while !self.input.starts_with(&tag)? {
            if self.input.peek(0)?.is_none() {
                return Err(self.truncated("inside a dollar-quoted string"));
            }
            // Skip at least the dollar sign, which did not end the string.
            let length = self.input.run(|byte| byte != b'$')?.max(1);
            self.take(statement, length)?;
        }
        self.take(statement, tag.len())?;
        statement.quoted(b'$', false, b"");
        Ok(())
    }

    /// Skips the end of the line after `COPY ... FROM stdin;`: the rows begin on the next line.
    fn end_of_line(&mut self) -> Result<(), PlainError> {
        loop {
            match self.input.peek(0)? {
                Some(b' ' | b'\t' | b'\r') => self.input.skip(1),
                Some(b'\n') => {
                    self.input.skip(1);
                    return Ok(());
                }
                Some(_) => return Err(self.unexpected("text after COPY ... FROM stdin on the same line")),
                None => return Err(self.truncated("before the rows of a table")),
            }
        }
    }

    /// Whether the next line is the `\.` that ends the rows; skips it if so.
    fn end_of_rows(&mut self) -> Result<bool, PlainError> {
        if !self.input.starts_with(b"\\.")? {
            return Ok(false);
        }
        for end in [&b"\\.\n"[..], b"\\.\r\n"] {
            if self.input.starts_with(end)? {
                self.input.skip(end.len());
                return Ok(true);
            }
        }
        if matches!(self.input.ahead(4)?, b"\\." | b"\\.\r") {
            return Err(self.truncated("inside the rows of a table"));
        }
        // pg_dump doubles each backslash of a value, and some versions of the server end the rows here.
        Err(self.unexpected("a row that begins with an end mark, \\."))
    }

    /// Reads the rows of one of the two tables of the schema version, whose rows the fence replaces.
    fn schema_rows(&mut self, columns: &[String]) -> Result<(), PlainError> {
        while !self.end_of_rows()? {
            let line = self.input.line();
            let mut row = Vec::new();
            while !row.ends_with(b"\n") {
                let part = self.input.rest_of_line()?;
                if part.is_empty() {
                    return Err(self.truncated("inside the rows of a table"));
                }
                row.extend_from_slice(part);
                let length = part.len();
                self.input.skip(length);
                if row.len() > LINE {
                    return Err(self.unexpected("an invalid row of the schema version"));
                }
            }
            let text = String::from_utf8_lossy(&row);
            let values = text.trim_end_matches(['\n', '\r']).split('\t');
            let row = Row::new(columns.iter().map(String::as_str).zip(values));
            self.schema_row(line, row.as_ref())?;
        }
        Ok(())
    }

    fn schema_row(&mut self, line: u64, row: Option<&Row>) -> Result<(), PlainError> {
        let schema = &mut self.outcome.schema;
        match row {
            Some(Row::Version { version, upgraded }) if schema.version.is_none() => {
                schema.version = Some(*version);
                schema.upgraded = Some(*upgraded);
            }
            Some(Row::Compat(version)) if schema.compat_version.is_none() => schema.compat_version = Some(*version),
            _ => {
                return Err(PlainError::Unexpected {
                    line,
                    what: "the schema version is not a single row as Synapse writes it".to_owned(),
                });
            }
        }
        Ok(())
    }
}

/// Fails if the server stored fewer or more rows than the dump contains.
fn all_taken(line: u64, table: &Name, read: u64, taken: u64) -> Result<(), PlainError> {
    if read == taken {
        return Ok(());
    }
    let what = format!("rows of table {table}: {read} read, {taken} stored by the server");
    Err(PlainError::Unexpected { line, what })
}

/// Replaces control characters, so that no text from a dump can control a terminal.
fn printable(text: &str) -> String {
    let shown = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.trim_end().chars().map(shown).collect()
}

/// The database in the argument of `\connect`: a name, a quoted name, or a quoted connection string.
fn connected(argument: &str) -> Option<String> {
    let (argument, is_conninfo) = match argument.strip_prefix("-reuse-previous=on ") {
        Some(rest) => (rest, true),
        None => (argument, false),
    };
    let name = match argument.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(inside) => inside.replace("\"\"", "\""),
        None if argument.contains(|c: char| !c.is_alphanumeric() && c != '_') => return None,
        None => argument.to_owned(),
    };
    let name = if is_conninfo {
        Conninfo::parse(&name).ok()?.dbname().to_owned()
    } else {
        name
    };
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests;
