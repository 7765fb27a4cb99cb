//! What can go wrong with a cluster.

use std::fmt;

use ess_cli::{Exit, Stop};
use ess_run::Interrupted;
use kube::client::AuthError;

/// What was tried, and why it did not work.
#[derive(Debug)]
pub struct Error {
    what: String,
    kind: Kind,
    stop: Stop,
}

/// What a caller can tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The command line is wrong.
    Usage,
    /// There is no such thing.
    NotFound,
    /// Somebody else changed it meanwhile, or it is there already.
    Conflict,
    /// We may not.
    Forbidden,
    /// What a watch stood on is too old.
    Gone,
    /// The layout is none that we know, or more than one fits.
    Unrecognised,
    /// A stream ended before its end.
    Dropped,
    /// We were told to stop.
    Interrupted,
    /// The API server cannot be reached, or failed.
    Unavailable,
}

impl Error {
    /// `what` was tried.
    pub fn new(kind: Kind, what: impl Into<String>, why: impl Into<String>) -> Self {
        let exit = match kind {
            Kind::Usage => Exit::Usage,
            Kind::Forbidden => Exit::Permission,
            Kind::Unrecognised => Exit::No,
            _ => Exit::Unavailable,
        };
        Self {
            what: what.into(),
            kind,
            stop: Stop::new(exit, why),
        }
    }

    /// Adds the one thing to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.stop = self.stop.hint(hint);
        self
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The cause without what was tried.
    pub fn why(&self) -> String {
        self.stop.to_string()
    }

    /// The one thing to do about it, where it is known.
    pub fn remedy(&self) -> Option<&str> {
        self.stop.remedy()
    }

    pub(crate) fn interrupted(what: &str, interrupted: Interrupted) -> Self {
        Self::new(Kind::Interrupted, what, interrupted.to_string())
    }

    /// What the client library says, in people's words.
    pub(crate) fn api(what: &str, cause: &kube::Error) -> Self {
        let (kind, why) = match cause {
            kube::Error::Api(status) => (of_code(status.code), said(status)),
            kube::Error::UpgradeConnection(kube::client::UpgradeConnectionError::ProtocolSwitch(code)) => (
                of_code(code.as_u16()),
                format!("the API server answered {code} instead of opening the stream"),
            ),
            kube::Error::Service(cause) => (Kind::Unavailable, chain(&**cause)),
            other => (Kind::Unavailable, chain(other)),
        };
        let error = Self::new(kind, what, why);
        match kind {
            Kind::Unavailable if matches!(cause, kube::Error::Service(_)) => {
                error.hint("see whether `kubectl get pods` works from here")
            }
            Kind::Forbidden => error.hint("ask who runs the cluster for that right, or log in to it again"),
            _ => error,
        }
    }
}

fn of_code(code: u16) -> Kind {
    match code {
        401 | 403 => Kind::Forbidden,
        404 => Kind::NotFound,
        409 => Kind::Conflict,
        410 => Kind::Gone,
        _ => Kind::Unavailable,
    }
}

/// The API server's own words.
fn said(status: &kube::core::Status) -> String {
    if status.message.is_empty() {
        format!("the API server answered {} {}", status.code, status.reason)
    } else {
        format!("the API server answered {}: {}", status.code, status.message)
    }
}

/// Why a plugin of the kubeconfig did not log in. The library would show what it printed, and that may be a token.
fn of_plugin(error: &AuthError) -> String {
    match error {
        AuthError::AuthExecRun { status, out, .. } => {
            let said = String::from_utf8_lossy(&out.stderr);
            match said.lines().rfind(|line| !line.trim().is_empty()) {
                Some(last) => format!("the plugin failed ({status}): {last}"),
                None => format!("the plugin failed ({status})"),
            }
        }
        AuthError::AuthExecParse(_) => "what the plugin printed is no ExecCredential".to_owned(),
        AuthError::ParseTokenKey(_) => "what the plugin printed has no such token".to_owned(),
        other => other.to_string(),
    }
}

/// Each cause once: the library's messages often hold the next one.
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
