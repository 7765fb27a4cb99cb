//! What can go wrong with a server.

use std::fmt;
use std::time::Duration;

use ess_run::{Interrupted, redact};
use tokio_postgres::error::{DbError, SqlState};

use crate::{ConnectError, ConninfoError, Sign};

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
    /// A connection pooler answers there, which gives our session to others between our transactions. Nothing was set.
    Pooler {
        /// `user@host:port/dbname`.
        server: String,
        /// How it gave itself away.
        sign: Sign,
    },
    /// A setting is not what we set, or not what a child needs and cannot be given through a pooler.
    Setting {
        /// `user@host:port/dbname`.
        server: String,
        /// Its name.
        name: String,
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

    /// The one thing to do, when there is one.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Conninfo(error) => error.hint(),
            Self::Pooler { .. } => {
                Some("connect to the PostgreSQL server itself: by its own host and port, not by the pooler's")
            }
            Self::Setting { .. } => Some(
                "connect to the PostgreSQL server itself and not through a pooler, or end what ALTER ROLE or ALTER DATABASE sets",
            ),
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
            Self::Pooler { server, sign } => {
                let sign = match sign {
                    Sign::Shared => "two connections shared one session",
                    Sign::Moved => "one connection had two sessions",
                    Sign::Waited => "one connection waited for the transaction of another",
                    Sign::NoTransaction => "no transaction can be begun",
                };
                write!(
                    f,
                    "{server} is a connection pooler that gives sessions to others between transactions ({sign}); \
                     nothing was set or changed there"
                )
            }
            Self::Setting { server, name } => {
                write!(
                    f,
                    "cannot work on {server}: {name} is not as these tools need it, and cannot be set"
                )
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

/// The server's words rather than the driver's "db error", without the values of rows.
struct Said<'a>(&'a tokio_postgres::Error);

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(db) = self.0.as_db_error() {
            f.write_str(&redact::message(db.message()))?;
            if let Some(detail) = db.detail() {
                write!(f, " ({})", redact::detail(detail))?;
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
