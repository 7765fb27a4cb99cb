//! Errors of a cluster.

use std::fmt;

use ess_run::Interrupted;
use ess_stop::{Exit, Stop};
use kube::client::AuthError;

/// What was tried, and why it failed.
#[derive(Debug)]
pub struct Error {
    what: String,
    kind: ErrorKind,
    stop: Stop,
}

/// The kinds of errors that callers distinguish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The command line is wrong.
    Usage,
    /// The object does not exist.
    NotFound,
    /// Another client changed the object meanwhile, or it exists already.
    Conflict,
    /// A permission is missing.
    Forbidden,
    /// The layout is unknown, or there are several candidates.
    Unrecognised,
    /// A stream was cut.
    Dropped,
    /// A signal was received.
    Interrupted,
    /// The API server cannot be reached, or failed.
    Unavailable,
}

impl Error {
    /// An error whose message is `what`, and whose cause is `why`.
    pub fn new(kind: ErrorKind, what: impl Into<String>, why: impl Into<String>) -> Self {
        let exit = match kind {
            ErrorKind::Usage => Exit::Usage,
            ErrorKind::Forbidden => Exit::Permission,
            ErrorKind::Unrecognised => Exit::No,
            _ => Exit::Unavailable,
        };
        Self {
            what: what.into(),
            kind,
            stop: Stop::new(exit, why),
        }
    }

    /// Adds a hint: the next step.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.stop = self.stop.hint(hint);
        self
    }

    /// The kind of the error.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The cause, without what was tried.
    pub fn why(&self) -> String {
        self.stop.to_string()
    }

    /// The hint, if there is one.
    pub fn remedy(&self) -> Option<&str> {
        self.stop.remedy()
    }

    pub(crate) fn interrupted(what: &str, interrupted: Interrupted) -> Self {
        Self::new(ErrorKind::Interrupted, what, interrupted.to_string())
    }

    /// An error of the client library, with its causes in one line.
    pub(crate) fn api(what: &str, cause: &kube::Error) -> Self {
        let (kind, why) = match cause {
            kube::Error::Api(status) => (of_code(status.code), message_of(status)),
            kube::Error::UpgradeConnection(kube::client::UpgradeConnectionError::ProtocolSwitch(code)) => (
                of_code(code.as_u16()),
                format!("the API server answered {code} instead of opening the stream"),
            ),
            kube::Error::Service(cause) => (ErrorKind::Unavailable, chain(&**cause)),
            other => (ErrorKind::Unavailable, chain(other)),
        };
        let error = Self::new(kind, what, why);
        match kind {
            ErrorKind::Unavailable if matches!(cause, kube::Error::Service(_)) => {
                error.hint("check that `kubectl get pods` works on this host")
            }
            ErrorKind::Forbidden => error.hint("ask the cluster's administrator for this permission, or log in again"),
            _ => error,
        }
    }
}

fn of_code(code: u16) -> ErrorKind {
    match code {
        401 | 403 => ErrorKind::Forbidden,
        404 => ErrorKind::NotFound,
        409 => ErrorKind::Conflict,
        _ => ErrorKind::Unavailable,
    }
}

/// The API server's own message.
fn message_of(status: &kube::core::Status) -> String {
    if status.message.is_empty() {
        format!("the API server answered {} {}", status.code, status.reason)
    } else {
        format!("the API server answered {}: {}", status.code, status.message)
    }
}

/// Why a credential plugin failed. The library's message would contain the plugin's output, which may be a token.
fn of_plugin(error: &AuthError) -> String {
    match error {
        AuthError::AuthExecRun { status, out, .. } => {
            let output = String::from_utf8_lossy(&out.stderr);
            match output.lines().rfind(|line| !line.trim().is_empty()) {
                Some(last) => format!("the plugin failed ({status}): {last}"),
                None => format!("the plugin failed ({status})"),
            }
        }
        AuthError::AuthExecParse(_) => "the plugin's output is not an ExecCredential".to_owned(),
        AuthError::ParseTokenKey(_) => "the plugin's output does not contain the token".to_owned(),
        other => other.to_string(),
    }
}

/// The error and its causes, each once: the library's messages often include the next cause.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    if let Some(error) = causes.find_map(|error| error.downcast_ref::<AuthError>()) {
        return of_plugin(error);
    }
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        source = error.source();
    }
    text
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.stop)
    }
}
