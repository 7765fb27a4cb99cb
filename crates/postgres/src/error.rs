//! What can go wrong with a server.

use std::fmt;
use std::time::Duration;

use ess_run::Interrupted;
use tokio_postgres::error::{DbError, SqlState};

use crate::{ConnectError, ConninfoError};

/// A connection or a query that failed.
#[derive(Debug)]
pub enum Error {
    /// The connection parameters make no sense.
    Conninfo(ConninfoError),
    /// No connection could be made.
    Connect {
        /// `user@host:port/dbname`.
        server: String,
        /// What each attempt met.
        source: ConnectError,
    },
    /// A query failed, or the connection was lost during it.
    Query {
        /// What was tried.
        what: String,
        /// `user@host:port/dbname`.
        server: String,
        /// What the driver said.
        source: tokio_postgres::Error,
    },
    /// Nothing came within the session's limit.
    NoAnswer {
        /// What was tried.
        what: String,
        /// `user@host:port/dbname`.
        server: String,
        /// How long it was waited for.
        limit: Duration,
    },
    /// The system refused something that a connection needs.
    Io(std::io::Error),
    /// We were told to stop.
    Interrupted(Interrupted),
}

impl Error {
    /// The server's own report, if it made one.
    pub fn db(&self) -> Option<&DbError> {
        match self {
            Self::Connect { source, .. } => source.db(),
            Self::Query { source, .. } => source.as_db_error(),
            _ => None,
        }
    }

    /// Whether the server said that we may not.
    pub fn is_permission(&self) -> bool {
        self.db().is_some_and(|db| {
            [
                SqlState::INSUFFICIENT_PRIVILEGE,
                SqlState::INVALID_PASSWORD,
                SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
            ]
            .contains(db.code())
        })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conninfo(error) => error.fmt(f),
            Self::Connect { server, source } => {
                write!(f, "cannot connect to {server}: {source}")
            }
            Self::Query { what, server, source } => {
                write!(f, "cannot {what} on {server}: {}", Said(source))
            }
            Self::NoAnswer { what, server, limit } => {
                write!(f, "cannot {what} on {server}: no answer within {limit:?}")
            }
            Self::Io(_) => f.write_str("cannot prepare a connection"),
            Self::Interrupted(interrupted) => interrupted.fmt(f),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            // The message holds the whole chain already.
            _ => None,
        }
    }
}

impl From<ConninfoError> for Error {
    fn from(error: ConninfoError) -> Self {
        Self::Conninfo(error)
    }
}

/// The server's words rather than the driver's "db error".
struct Said<'a>(&'a tokio_postgres::Error);

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(db) = self.0.as_db_error() {
            write!(f, "{}", db.message())?;
            if let Some(detail) = db.detail() {
                write!(f, " ({detail})")?;
            }
            return Ok(());
        }
        write!(f, "{}", self.0)?;
        let mut source = std::error::Error::source(self.0);
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}
