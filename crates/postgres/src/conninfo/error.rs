//! Why connection parameters cannot be used.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::tls::error::TlsError;

/// Why connection parameters cannot be used. No message contains a value, which could be a password.
#[derive(Debug)]
pub enum ConninfoError {
    /// A connection string contains a password, which other users could see in the list of processes.
    PasswordInText,
    /// A parameter, which this names, has a connection string with a password as its value.
    PasswordInValue(String),
    /// The text is neither a URL nor `keyword=value` words; it may be a bare database name.
    NotConninfo,
    /// A syntax error; this is the rule that the text violates.
    Syntax(&'static str),
    /// libpq has no such parameter.
    UnknownKeyword(String),
    /// The value of a parameter is invalid.
    Value {
        /// The parameter.
        keyword: String,
        /// The values that are allowed.
        expected: &'static str,
    },
    /// libpq supports the parameter, but these tools do not, and ignoring it would weaken the connection.
    NotSupported {
        /// The parameter.
        keyword: String,
        /// The reason, or what to use instead.
        why: &'static str,
    },
    /// No service file defines this service.
    NoSuchService(String),
    /// A service file cannot be used.
    ServiceFile {
        /// The file.
        path: PathBuf,
        /// The number of the line.
        line: usize,
        /// What is wrong with it.
        what: &'static str,
    },
    /// No user is given, and the account of this process has no name.
    NoUser,
    /// A certificate or key cannot be used.
    Tls(TlsError),
    /// A file could not be read or written.
    Io {
        /// The file.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
}

impl ConninfoError {
    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io {
            path: path.to_owned(),
            source,
        }
    }

    /// The operating system's error, if it concerns a file.
    pub fn of_file(&self) -> Option<&io::Error> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }

    /// The next step for the user, if there is an obvious one.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::PasswordInText => Some("give the password with --target-password-file or PGPASSFILE"),
            Self::PasswordInValue(_) => Some("give only the parameter's own value, and the password separately"),
            Self::NotConninfo => Some("write postgresql://USER@HOST/DBNAME or 'host=HOST user=USER dbname=DBNAME'"),
            _ => None,
        }
    }
}

impl fmt::Display for ConninfoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PasswordInText => f.write_str("connection string: it must not contain a password"),
            Self::PasswordInValue(keyword) => {
                write!(
                    f,
                    "connection parameter {keyword}: it must not contain a connection string with a password"
                )
            }
            Self::NotConninfo => f.write_str("connection string: neither a postgresql:// URL nor keyword=value words"),
            Self::Syntax(rule) => write!(f, "connection string: {rule}"),
            Self::UnknownKeyword(keyword) => {
                write!(f, "unknown connection parameter {keyword:?}")
            }
            Self::Value { keyword, expected } => {
                write!(f, "connection parameter {keyword}: expected {expected}")
            }
            Self::NotSupported { keyword, why } => {
                write!(f, "connection parameter {keyword}: not supported: {why}")
            }
            Self::NoSuchService(name) => write!(f, "connection service {name:?}: not defined in any service file"),
            Self::ServiceFile { path, line, what } => {
                write!(f, "service file {}: line {line}: {what}", path.display())
            }
            Self::NoUser => f.write_str("no user to connect as: none is given, and this process's account has no name"),
            Self::Tls(error) => error.fmt(f),
            Self::Io { path, source } => write!(f, "{}: {source}", path.display()),
        }
    }
}

impl std::error::Error for ConninfoError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            // The message already contains it.
            Self::Tls(error) => error.source(),
            _ => None,
        }
    }
}

/// The error for a value that is not one of its parameter.
pub(crate) fn value(keyword: &str, expected: &'static str) -> ConninfoError {
    ConninfoError::Value {
        keyword: keyword.to_owned(),
        expected,
    }
}
