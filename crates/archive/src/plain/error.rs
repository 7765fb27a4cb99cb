//! Errors of the scanner for SQL dumps.

use std::fmt;
use std::io;

use ess_postgres::Error;
use ess_run::Interrupted;

/// Why an SQL dump was refused, with the line number.
#[derive(Debug)]
pub enum PlainError {
    /// The dump could not be read.
    Io(io::Error),
    /// This process received a signal to stop.
    Interrupted(Interrupted),
    /// The server rejected a statement.
    Server {
        /// The line of the statement.
        line: u64,
        /// The statement, shortened.
        what: String,
        /// The server's error.
        source: Error,
    },
    /// The compressed data is damaged.
    Damaged {
        /// The last line that could be read.
        line: u64,
        /// The decoder's error.
        source: io::Error,
    },
    /// The dump ends too early.
    Truncated {
        /// The last line.
        line: u64,
        /// Where it ends, such as `inside a statement`.
        inside: &'static str,
    },
    /// A backslash command for `psql`, which could run programs.
    Backslash {
        /// The line of the command.
        line: u64,
        /// The command's name.
        command: String,
    },
    /// The dump names a second database.
    OtherDatabase {
        /// The line that names it.
        line: u64,
        /// The name of the second database.
        name: String,
    },
    /// The dump was made by `pg_dumpall`.
    Cluster {
        /// The line that shows it.
        line: u64,
    },
    /// Text that `pg_dump` does not write for one database.
    Unexpected {
        /// The line of the text.
        line: u64,
        /// A description of it.
        what: String,
    },
}

impl fmt::Display for PlainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Interrupted(interrupted) => interrupted.fmt(f),
            Self::Damaged { line, source } => write!(f, "damaged after line {line}: {source}"),
            Self::Truncated { line, inside } => write!(f, "truncated: it ends in line {line}, {inside}"),
            Self::Backslash { line, command } => {
                write!(f, "line {line}: psql command {command} in a dump; it was not run")
            }
            Self::OtherDatabase { line, name } => write!(f, "line {line}: a second database, {name:?}"),
            Self::Cluster { line } => write!(
                f,
                "line {line}: a dump of all databases and roles of a server, made by pg_dumpall"
            ),
            Self::Unexpected { line, what } | Self::Server { line, what, .. } => write!(f, "line {line}: {what}"),
        }
    }
}

impl PlainError {
    /// The next step for the user, if there is an obvious one.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Cluster { .. } | Self::OtherDatabase { .. } => Some("dump Synapse's database alone, with pg_dump"),
            Self::Truncated { .. } | Self::Damaged { .. } => Some("copy the dump again, or dump again"),
            _ => None,
        }
    }
}

impl std::error::Error for PlainError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Damaged { source, .. } => Some(source),
            Self::Server { source, .. } => Some(source),
            // Display prints the message of this error already.
            Self::Io(error) => error.source(),
            _ => None,
        }
    }
}

impl From<io::Error> for PlainError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}
