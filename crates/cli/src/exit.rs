//! The table of exit statuses, and which error has which status.

use std::error::Error;
use std::process::ExitCode;
use std::{fmt, io};

/// A tool's exit status. From 64 on they are those of `sysexits(3)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done, possibly with warnings.
    Done = 0,
    /// The answer is no, or a safety check refuses to continue.
    No = 1,
    /// An option is wrong or contradicts the document.
    Usage = 64,
    /// The document or the dump is invalid.
    Data = 65,
    /// A server or a program is missing or failed.
    Unavailable = 69,
    /// A bug in these tools.
    Software = 70,
    /// Reading or writing a file failed.
    Io = 74,
    /// Another run holds the lock.
    Busy = 75,
    /// Permission was denied.
    Permission = 77,
    /// Synapse's configuration cannot be used.
    Config = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl Exit {
    /// The status for an error: that of the first error in its chain that has one.
    pub fn of(error: &anyhow::Error) -> Self {
        error.chain().find_map(Self::of_cause).unwrap_or(Self::Software)
    }

    fn of_cause(cause: &(dyn Error + 'static)) -> Option<Self> {
        if let Some(stop) = cause.downcast_ref::<Stop>() {
            return Some(stop.exit);
        }
        if cause.is::<ess_document::ReadError>() {
            return Some(Self::Data);
        }
        if let Some(error) = cause.downcast_ref::<ess_postgres::Error>() {
            return match error {
                ess_postgres::Error::Conninfo(error) => Some(Self::of_conninfo(error)),
                ess_postgres::Error::Pooler { .. } | ess_postgres::Error::Setting { .. } => Some(Self::No),
                ess_postgres::Error::Io(_) => None,
                _ if error.is_permission() => Some(Self::Permission),
                _ => Some(Self::Unavailable),
            };
        }
        if let Some(error) = cause.downcast_ref::<ess_postgres::ConninfoError>() {
            return Some(Self::of_conninfo(error));
        }
        if let Some(error) = cause.downcast_ref::<ess_synapse::ConfigError>() {
            return Some(if error.is_permission() {
                Self::Permission
            } else {
                Self::Config
            });
        }
        if let Some(error) = cause.downcast_ref::<ess_run::Error>() {
            // If the pipe to a child failed, the status is that of the io::Error next in the chain.
            return (!matches!(error, ess_run::Error::Stream { .. })).then_some(Self::Unavailable);
        }
        cause.downcast_ref::<io::Error>().map(Self::of_io)
    }

    fn of_conninfo(error: &ess_postgres::ConninfoError) -> Self {
        error.of_file().map_or(Self::Usage, Self::of_io)
    }

    fn of_io(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::PermissionDenied => Self::Permission,
            _ => Self::Io,
        }
    }
}

/// An error of these tools themselves, with its exit status.
#[derive(Debug)]
pub struct Stop {
    exit: Exit,
    message: String,
    hint: Option<String>,
}

impl Stop {
    /// The answer is no, or a safety check refuses to continue.
    pub fn no(message: impl Into<String>) -> Self {
        Self::new(Exit::No, message)
    }

    /// The command line is wrong, or contradicts the document.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// A document or a dump is invalid.
    pub fn data(message: impl Into<String>) -> Self {
        Self::new(Exit::Data, message)
    }

    /// An error with any exit status.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            hint: None,
        }
    }

    /// Adds the next step, which is printed as a `hint:`.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The hint, if there is one.
    pub fn remedy(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Stop {}

/// The hint of the first error in the chain that has one.
pub(crate) fn hint_of(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(|cause| {
        if let Some(stop) = cause.downcast_ref::<Stop>() {
            return stop.hint.clone();
        }
        if let Some(error) = cause.downcast_ref::<ess_document::ReadError>() {
            return error.hint().map(str::to_owned);
        }
        if let Some(error) = cause.downcast_ref::<ess_postgres::ConninfoError>() {
            return error.hint().map(str::to_owned);
        }
        if let Some(error) = cause.downcast_ref::<ess_postgres::Error>() {
            return error.hint().map(str::to_owned);
        }
        if let Some(error) = cause.downcast_ref::<ess_synapse::ConfigError>() {
            return error.hint().map(str::to_owned);
        }
        match cause.downcast_ref::<ess_run::Error>() {
            Some(ess_run::Error::Missing { hint, .. }) => Some(hint.clone()),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn context_does_not_hide_the_reason() {
        let refused = Err::<(), _>(Stop::no("no").hint("do this")).context("cannot wipe");
        let error = refused.expect_err("it was refused");
        assert_eq!(Exit::of(&error), Exit::No);
        assert_eq!(hint_of(&error).as_deref(), Some("do this"));
        assert_eq!(format!("{error:#}"), "cannot wipe: no");
    }

    #[test]
    fn files_that_fail_are_told_from_files_that_are_forbidden() {
        let of = |kind| Exit::of(&anyhow::Error::from(io::Error::from(kind)));
        assert_eq!(of(io::ErrorKind::StorageFull), Exit::Io);
        assert_eq!(of(io::ErrorKind::PermissionDenied), Exit::Permission);
        assert_eq!(Exit::of(&anyhow::anyhow!("an unclassified error")), Exit::Software);
    }
}
