//! Errors of TLS, without values of parameters.

use std::fmt;
use std::path::PathBuf;

/// Why TLS cannot be used, or why a handshake failed.
#[derive(Debug)]
pub enum TlsError {
    /// The server's certificate must be verified, but the file with root certificates does not exist.
    NoRootFile(PathBuf),
    /// A file with certificates or keys cannot be used.
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The system has no list of certificate authorities.
    NoSystemRoots,
    /// The server's name must be verified, but only its address is given.
    NoHostName,
    /// The handshake failed; contains the complete message.
    Handshake(String),
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRootFile(path) => write!(
                f,
                "root certificate file {}: it does not exist, but sslmode requires the server to be verified",
                path.display()
            ),
            Self::File { path, what } => write!(f, "{}: {what}", path.display()),
            Self::NoSystemRoots => f.write_str("sslrootcert=system: this system has no certificate authorities"),
            Self::NoHostName => f.write_str("sslmode=verify-full: needs the host's name in addition to its address"),
            Self::Handshake(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for TlsError {}
