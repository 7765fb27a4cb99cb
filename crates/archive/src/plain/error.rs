//! Why the SQL of a dump is refused.

use std::fmt;
use std::io;

use ess_postgres::Error;
use ess_run::Interrupted;

/// Why the SQL of a dump is refused, with the line.
#[derive(Debug)]
pub enum PlainError {
    /// It could not be read.
    Io(io::Error),
    /// We were told to stop.
    Interrupted(Interrupted),
    /// The server did not take it.
    Server {
        /// Where.
        line: u64,
        /// The statement, shortened.
        what: String,
        /// What the server said.
        source: Error,
    },
    /// Its compression is broken.
    Damaged {
        /// How far it could be read.
        line: u64,
        /// What the decoder said.
        source: io::Error,
    },
    /// It ends too early.
    Truncated {
        /// The last line.
        line: u64,
        /// What it ends in.
        inside: &'static str,
    },
    /// A command to `psql` itself, which could run programs.
    Backslash {
        /// Where.
        line: u64,
        /// The command's name.
        command: String,
    },
    /// It names a second database.
    OtherDatabase {
        /// Where.
        line: u64,
        /// The second one.
        name: String,
    },
    /// It is of `pg_dumpall`.
    Cluster {
        /// Where that shows.
        line: u64,
    },
    /// Something that `pg_dump` does not write for one database.
    Unexpected {
        /// Where.
        line: u64,
        /// What.
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
                write!(f, "line {line}: psql command {command} in a dump: not run")
            }
            Self::OtherDatabase { line, name } => write!(f, "line {line}: a second database, {name:?}"),
            Self::Cluster { line } => write!(
                f,
                "line {line}: a dump of a whole server by pg_dumpall, with roles and several databases"
            ),
            Self::Unexpected { line, what } | Self::Server { line, what, .. } => write!(f, "line {line}: {what}"),
        }
    }
}

impl PlainError {
    /// The one thing to do, when there is one.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Cluster { .. } | Self::OtherDatabase { .. } => Some("dump Synapse's database alone, with pg_dump"),
            Self::Truncated { .. } | Self::Damaged { .. } => Some("take the dump again, or copy it again"),
            _ => None,
        }
    }
}

impl std::error::Error for PlainError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Damaged { source, .. } => Some(source),
            Self::Server { source, .. } => Some(source),
            // Its message is ours already.
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
