//! Errors of connections and queries.

use std::fmt;
use std::time::Duration;

use ess_run::{Interrupted, redact};
use tokio_postgres::error::{DbError, SqlState};

use crate::{ConnectError, ConninfoError, Sign};

/// Why a connection or a query failed.
#[derive(Debug)]
pub enum Error {
    /// The connection parameters are invalid.
    Conninfo(ConninfoError),
    /// No connection could be made.
    Connect {
        /// `user@host:port/dbname`.
        server: String,
        /// The error of each attempt.
        source: ConnectError,
    },
    /// A query failed, or the connection was lost during it.
    Query {
        /// What was attempted; completes "cannot ...".
        what: String,
        /// `user@host:port/dbname`.
        server: String,
        /// The driver's error.
        source: tokio_postgres::Error,
    },
    /// The server did not answer within the session's limit.
    NoAnswer {
        /// What was attempted; completes "cannot ...".
        what: String,
        /// `user@host:port/dbname`.
        server: String,
        /// The limit.
        limit: Duration,
    },
    /// The server is a connection pooler that gives our session to other clients between transactions. No setting
    /// was changed.
    Pooler {
        /// `user@host:port/dbname`.
        server: String,
        /// How it was recognised.
        sign: Sign,
    },
    /// A setting does not have the value that these tools set, or that a child program needs and cannot be given
    /// through a pooler.
    Setting {
        /// `user@host:port/dbname`.
        server: String,
        /// Its name.
        name: String,
    },
    /// The operating system refused something that a connection needs.
    Io(std::io::Error),
    /// This process received a signal to stop.
    Interrupted(Interrupted),
}

impl Error {
    /// The server's error report, if it sent one.
    pub fn db(&self) -> Option<&DbError> {
        match self {
            Self::Connect { source, .. } => source.db(),
            Self::Query { source, .. } => source.as_db_error(),
            _ => None,
        }
    }

    /// The next step for the user, if there is an obvious one.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Conninfo(error) => error.hint(),
            // tokio-postgres has no kind of error for it (`connect_raw.rs`).
            Self::Connect { source, .. } if source.to_string().contains("password missing") => Some(
                "give the password with --source-password-file or --target-password-file, in PGPASSWORD, or in a \
                 password file (PGPASSFILE, ~/.pgpass)",
            ),
            Self::Pooler { .. } => {
                Some("connect to the PostgreSQL server itself: use its host and port, not the pooler's")
            }
            Self::Setting { .. } => Some(
                "connect to the PostgreSQL server itself, not through a pooler, or remove the setting with \
                 ALTER ROLE ... RESET or ALTER DATABASE ... RESET",
            ),
            _ => None,
        }
    }

    /// Whether the server refused it for lack of permission, or because authentication failed.
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
                write!(f, "cannot {what} on {server}: {}", ServerMessage(source))
            }
            Self::NoAnswer { what, server, limit } => {
                write!(f, "cannot {what} on {server}: no answer within {limit:?}")
            }
            Self::Pooler { server, sign } => {
                let sign = match sign {
                    Sign::Shared => "two connections shared one session",
                    Sign::Moved => "one connection had two sessions",
                    Sign::Waited => "one connection waited for the transaction of another",
                    Sign::NoTransaction => "a transaction cannot be started",
                };
                write!(
                    f,
                    "{server} is a connection pooler that gives sessions to other clients between transactions \
                     ({sign}); nothing was changed there"
                )
            }
            Self::Setting { server, name } => {
                write!(
                    f,
                    "cannot work on {server}: {name} does not have the value that these tools need, and cannot be set"
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
            // The message already contains the complete chain.
            _ => None,
        }
    }
}

impl From<ConninfoError> for Error {
    fn from(error: ConninfoError) -> Self {
        Self::Conninfo(error)
    }
}

/// The server's message instead of the driver's "db error", without values from rows.
struct ServerMessage<'a>(&'a tokio_postgres::Error);

impl fmt::Display for ServerMessage<'_> {
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
