//! Why a program stops: the table of exit statuses, and an error with one of them and the next step for the user.

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

/// A tool's exit status. From 64 on they are those of `sysexits(3)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done, possibly with warnings.
    Done = 0,
    /// A check failed, or a safety check refuses to continue.
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

impl Exit {
    /// All of them, in ascending order.
    pub const ALL: [Self; 10] = [
        Self::Done,
        Self::No,
        Self::Usage,
        Self::Data,
        Self::Unavailable,
        Self::Software,
        Self::Io,
        Self::Busy,
        Self::Permission,
        Self::Config,
    ];

    /// The meaning in a few words, for `--help`.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::No => "refused or negative result",
            Self::Usage => "wrong options",
            Self::Data => "invalid document or dump",
            Self::Unavailable => "server or program failed",
            Self::Software => "bug",
            Self::Io => "file error",
            Self::Busy => "locked",
            Self::Permission => "no permission",
            Self::Config => "invalid configuration",
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
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
    /// A check failed, or a safety check refuses to continue.
    pub fn no(message: impl Into<String>) -> Self {
        Self::new(Exit::No, message)
    }

    /// The command line is wrong, or contradicts the document.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// An option contradicts the document's `field`, whose value is `known`.
    pub fn contradiction(option: &str, given: impl fmt::Display, field: &str, known: impl fmt::Display) -> Self {
        Self::usage(format!("{option} is {given}, but the document's `{field}` is {known}"))
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

    /// The exit status.
    pub fn exit(&self) -> Exit {
        self.exit
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
