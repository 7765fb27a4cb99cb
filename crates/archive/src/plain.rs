//! Plain SQL dumps that others bring, made safe to feed to `psql`.
//!
//! `psql` is a client with a shell behind it and no idea where a dump should end. So we read the text
//! as `psql` would, statement by statement, and pass on only what `pg_dump` writes for one database:
//! rows byte for byte, statements without their comments. What is the source server's own (owners,
//! grants, the database itself) is left out and listed; anything else is refused, and so is what two
//! versions of `psql` read differently.

mod error;
mod format;
mod input;
mod statement;
mod token;

use std::collections::BTreeMap;
use std::io::{BufRead, BufWriter, Write};

use ess_postgres::{Conninfo, SchemaRows};

pub use error::PlainError;
pub use format::{Format, detect, open_plain};
use input::Input;
use statement::{Row, Statement, Verdict};

/// What was found in a plain dump and not passed on, and what was.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Statements left out, shortened, in the order of the dump.
    pub dropped: Vec<String>,
    /// The rows of `schema_version` and `schema_compat_version`, which were not passed on.
    pub schema: SchemaRows,
    /// How many rows were passed on, by table (`schema.name`).
    pub copied: BTreeMap<String, u64>,
    /// The database the dump names (`pg_dump -C`).
    pub database: Option<String>,
}

/// Reads a dump and writes what may reach the target.
///
/// After an error, what was written ends in a syntax error, even in the middle of rows or of a
/// string: `psql --single-transaction --set ON_ERROR_STOP=1` undoes all of it.
pub fn scan(input: &mut dyn BufRead, output: &mut dyn Write) -> Result<Outcome, PlainError> {
    let mut scanner = Scanner {
        input: Input::new(input),
        output: BufWriter::with_capacity(1 << 16, output),
        outcome: Outcome::default(),
        unclosed: Vec::new(),
        complete: false,
    };
    // The rest is read as this says.
    match scanner
        .output
        .write_all(b"SET standard_conforming_strings = on;\n")
        .map_err(PlainError::from)
        .and_then(|()| scanner.run())
    {
        Ok(()) => Ok(scanner.outcome),
        Err(error) => {
            scanner.spoil();
            Err(error)
        }
    }
}

struct Scanner<'a> {
    input: Input<'a>,
    output: BufWriter<&'a mut dyn Write>,
    outcome: Outcome,
    /// What would end the COPY data or the quotes that the output is in.
    unclosed: Vec<u8>,
    /// The closing line was seen.
    complete: bool,
}

const COMPLETE: &[u8] = b"-- PostgreSQL database dump complete";
const CLUSTER: &[u8] = b"-- PostgreSQL database cluster dump";

/// The longest part of a comment or a command that we look at.
const LINE: usize = 4096;

impl Scanner<'_> {
    fn run(&mut self) -> Result<(), PlainError> {
        // Editors on Windows; psql skips it too.
        if self.input.starts_with(b"\xef\xbb\xbf")? {
            self.input.skip(3);
        }
        if self.input.starts_with(b"PGDMP")? {
            return Err(self.unexpected("this is an archive of pg_dump's custom format; unpack it"));
        }
        while let Some(byte) = self.input.peek(0)? {
            match byte {
                b' ' | b'\t'..=b'\r' => self.input.skip(1),
                b'-' if self.input.peek(1)? == Some(b'-') => {
                    let whole = self.input.at_line_start();
                    let comment = self.comment()?;
                    match comment.trim_ascii_end() {
                        COMPLETE if whole => self.complete = true,
                        CLUSTER if whole => {
                            return Err(PlainError::Cluster {
                                line: self.input.line(),
                            });
                        }
                        _ => {}
                    }
                }
                b'/' if self.input.peek(1)? == Some(b'*') => self.block_comment()?,
                b'\\' => self.command()?,
                _ if self.complete => return Err(self.unexpected("the file goes on after the end of a dump")),
                _ => self.statement()?,
            }
        }
        if !self.complete {
            return Err(self.truncated("before its closing line"));
        }
        self.output.flush()?;
        Ok(())
    }

    /// See [`scan`].
    fn spoil(&mut self) {
        let unclosed = std::mem::take(&mut self.unclosed);
        let _ = self.output.write_all(&unclosed);
        let _ = self.output.write_all(b"\n] this dump was refused\n;\n");
        let _ = self.output.flush();
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

    /// A comment to the end of its line. A carriage return ends it as well, for `psql` and the server.
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

    /// A backslash command between statements: those that `pg_dump` writes are left out.
    fn command(&mut self) -> Result<(), PlainError> {
        let line = self.input.line();
        let at_line_start = self.input.at_line_start();
        let mut text = Vec::new();
        while let Some(byte) = self.input.peek(0)?.filter(|&byte| byte != b'\n' && text.len() < LINE) {
            text.push(byte);
            self.input.skip(1);
        }
        let text = String::from_utf8_lossy(&text).trim_end().to_owned();
        let (name, argument) = text.split_once(' ').unwrap_or((&text, ""));
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let refused = || PlainError::Backslash {
            line,
            command: name.to_owned(),
        };
        match name {
            "\\restrict" | "\\unrestrict" | "\\encoding" if argument.bytes().all(is_plain) => {
                self.outcome.dropped.push(name.to_owned());
            }
            "\\connect" => {
                let database = connected(argument).ok_or_else(refused)?;
                self.outcome.dropped.push(format!("\\connect {database}"));
                self.same_database(line, database)?;
            }
            _ => return Err(refused()),
        }
        if at_line_start { Ok(()) } else { Err(refused()) }
    }

    /// A dump of one database names no other.
    fn same_database(&mut self, line: u64, name: String) -> Result<(), PlainError> {
        match &self.outcome.database {
            Some(known) if *known != name => Err(PlainError::OtherDatabase { line, name }),
            _ => {
                self.outcome.database = Some(name);
                Ok(())
            }
        }
    }

    fn statement(&mut self) -> Result<(), PlainError> {
        let mut statement = Statement::new(self.input.line());
        if let Err(error) = self.read_statement(&mut statement) {
            if statement.is_streaming() {
                statement.flush(&mut self.output)?;
            } else {
                // Nothing of it is written, hence nothing to be closed.
                self.unclosed.clear();
            }
            return Err(error);
        }
        let line = statement.line;
        match statement.verdict(true)? {
            Verdict::Pass => {
                self.pass(&mut statement)?;
                if let Some((table, rows)) = statement.inserted() {
                    *self.outcome.copied.entry(table).or_default() += rows;
                }
            }
            Verdict::Drop => self.outcome.dropped.push(statement.summary()),
            Verdict::Database(name) => {
                self.outcome.dropped.push(statement.summary());
                self.same_database(line, name)?;
            }
            Verdict::Schema(row) => self.schema_row(line, row.as_ref())?,
            Verdict::Copy { table, columns } => {
                self.end_of_line()?;
                if statement::is_schema_table(&table, &columns) {
                    self.schema_rows(&columns)?;
                } else {
                    self.pass(&mut statement)?;
                    let rows = self.rows()?;
                    *self.outcome.copied.entry(table).or_default() += rows;
                }
            }
        }
        Ok(())
    }

    /// Writes what is left of a statement.
    fn pass(&mut self, statement: &mut Statement) -> Result<(), PlainError> {
        statement.flush(&mut self.output)?;
        self.output.write_all(b"\n")?;
        Ok(())
    }

    /// Up to and including the semicolon that ends the statement for `psql`.
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
                    // Whether the rest takes escapes depends on what is between: not worth a guess.
                    return Err(self.unexpected("a string that goes on in a second one"));
                }
                b'\'' => self.quoted(statement, b'\'', false)?,
                b'"' => self.quoted(statement, b'"', false)?,
                b'$' => self.dollar(statement)?,
                b';' => {
                    self.take(statement, 1)?;
                    if statement.in_parentheses() {
                        return Err(self.unexpected("a semicolon in parentheses"));
                    }
                    return Ok(());
                }
                byte if token::starts_word(byte) => self.word(statement)?,
                byte if byte.is_ascii_digit() => self.number(statement)?,
                b':' => self.colon(statement)?,
                byte => {
                    self.take(statement, 1)?;
                    statement.symbol(byte);
                }
            }
        }
    }

    /// Moves bytes from the input to the statement, and from a long statement on to the output.
    fn take(&mut self, statement: &mut Statement, count: usize) -> Result<(), PlainError> {
        statement.push(self.input.ahead(count)?);
        self.input.skip(count);
        if statement.is_long() {
            match statement.verdict(false)? {
                Verdict::Pass => statement.flush(&mut self.output)?,
                _ => return Err(self.unexpected("a statement longer than any of its kind")),
            }
        }
        Ok(())
    }

    fn take_token(&mut self, statement: &mut Statement, length: usize) -> Result<Vec<u8>, PlainError> {
        let text = self.input.ahead(length)?.to_vec();
        self.take(statement, length)?;
        Ok(text)
    }

    /// How far bytes belong together, from one on.
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

    /// Digits, perhaps with a point and an exponent.
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
        // Where the number ends then depends on the version.
        if self.input.peek(length)?.is_some_and(token::in_word) {
            return Err(self.unexpected("a number that runs into a word"));
        }
        let text = self.take_token(statement, length)?;
        statement.number(&text);
        Ok(())
    }

    /// A cast, an assignment, or what `psql` takes for one of its variables and may replace: an array
    /// slice is harmless, since the variables that are set have capital letters.
    fn colon(&mut self, statement: &mut Statement) -> Result<(), PlainError> {
        let length = match self.input.peek(1)? {
            Some(b':' | b'=') => 2,
            Some(b'\'' | b'"' | b'{') => return Err(self.unexpected("a variable of psql")),
            _ => self.run_length(1, |byte| token::in_word(byte) && byte != b'$')?,
        };
        let text = self.take_token(statement, length)?;
        if text.iter().any(u8::is_ascii_uppercase) {
            return Err(self.unexpected("a variable of psql"));
        }
        statement.symbol(b':');
        Ok(())
    }

    fn word(&mut self, statement: &mut Statement) -> Result<(), PlainError> {
        let length = self.run_length(0, token::in_word)?;
        let word = self.take_token(statement, length)?;
        if word.eq_ignore_ascii_case(b"e") && self.input.peek(0)? == Some(b'\'') {
            return self.quoted(statement, b'\'', true);
        }
        if statement.word(&word) {
            return Err(self.unexpected("a function whose body is SQL between BEGIN and END"));
        }
        Ok(())
    }

    /// A string or a quoted name. A doubled quote is a quote.
    fn quoted(&mut self, statement: &mut Statement, quote: u8, escapes: bool) -> Result<(), PlainError> {
        let mut text = Vec::new();
        self.take(statement, 1)?;
        self.unclosed = vec![quote];
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
        self.unclosed.clear();
        statement.quoted(quote, escapes, &text);
        Ok(())
    }

    /// `$tag$...$tag$`, a parameter, or a lone dollar sign.
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
        self.unclosed.clone_from(&tag);
        while !self.input.starts_with(&tag)? {
            if self.input.peek(0)?.is_none() {
                return Err(self.truncated("inside a dollar-quoted string"));
            }
            // At least the dollar sign that did not end it.
            let length = self.input.run(|byte| byte != b'$')?.max(1);
            self.take(statement, length)?;
        }
        self.take(statement, tag.len())?;
        self.unclosed.clear();
        statement.quoted(b'$', false, b"");
        Ok(())
    }

    /// After `COPY ... FROM stdin;` the rows begin on the next line.
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

    /// Whether the lone `\.` that ends rows is next; gone past if so.
    fn end_of_rows(&mut self) -> Result<bool, PlainError> {
        for end in [&b"\\.\n"[..], b"\\.\r\n"] {
            if self.input.starts_with(end)? {
                self.input.skip(end.len());
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Passes rows on as they are, and counts them.
    fn rows(&mut self) -> Result<u64, PlainError> {
        let mut rows = 0;
        self.unclosed = b"\n\\.\n".to_vec();
        while !self.end_of_rows()? {
            rows += 1;
            loop {
                let part = self.input.rest_of_line()?;
                if part.is_empty() {
                    return Err(self.truncated("inside the rows of a table"));
                }
                self.output.write_all(part)?;
                let (length, ends) = (part.len(), part.ends_with(b"\n"));
                self.input.skip(length);
                if ends {
                    break;
                }
            }
        }
        self.unclosed.clear();
        self.output.write_all(b"\\.\n")?;
        Ok(rows)
    }

    /// Reads the rows of one of the tables that the fence stands on.
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
                    return Err(self.unexpected("a row of the schema's version that is none"));
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
                    what: "the schema's version is not one row of the kind that Synapse writes".to_owned(),
                });
            }
        }
        Ok(())
    }
}

/// The database of `\connect`: a name, a quoted name, or a quoted connection string.
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
