//! TLS as defined by libpq's `sslmode`, implemented with rustls.
//!
//! | sslmode | tries | verifies |
//! | --- | --- | --- |
//! | disable | plain | |
//! | allow | plain, then TLS | the certificate's chain, if there is a root file |
//! | prefer | TLS, then plain | the certificate's chain, if there is a root file |
//! | require | TLS | the certificate's chain, if there is a root file |
//! | verify-ca | TLS | the certificate's chain |
//! | verify-full | TLS | the certificate's chain and name |
//!
//! Unix sockets never use TLS. tokio-postgres has only three modes and tries each host once, so [`Tls::connect`]
//! implements the rest.

pub(crate) mod error;
mod verify;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CertificateError, ClientConfig, version};
use tokio_postgres::config::SslMode;
use tokio_postgres::error::{DbError, SqlState};
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Client, Config, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::conninfo::error::{ConninfoError, value};
pub use error::TlsError;
use verify::{Level, Verifier};

type Params = BTreeMap<String, String>;
type Stream = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;

/// The future that drives a [`Client`]; it must be polled until it ends.
pub type Connection = tokio_postgres::Connection<Socket, Stream>;

/// One server of a host list.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    /// A name, an address or a socket directory; empty if only `hostaddr` is given.
    pub(crate) host: String,
    pub(crate) hostaddr: Option<IpAddr>,
    pub(crate) port: u16,
}

impl Endpoint {
    fn is_unix(&self) -> bool {
        self.hostaddr.is_none() && self.host.starts_with('/')
    }

    /// The host to look up in a password file, where `localhost` also stands for the default socket directories.
    pub(crate) fn passfile_host(&self, socket_dirs: &[&str]) -> String {
        match (self.host.as_str(), self.hostaddr) {
            ("", Some(address)) => address.to_string(),
            (dir, _) if socket_dirs.contains(&dir) => "localhost".to_owned(),
            (host, _) => host.to_owned(),
        }
    }

    /// Adds this server to a configuration.
    pub(crate) fn add_to(&self, config: &mut Config) {
        match self.hostaddr {
            // tokio-postgres needs a host name for the handshake: without one, use the address.
            Some(address) if self.host.is_empty() => config.host(address.to_string()).hostaddr(address),
            Some(address) => config.host(&self.host).hostaddr(address),
            None => config.host(&self.host),
        };
        config.port(self.port);
    }
}

/// Connects to the servers of one [`crate::Conninfo`], with or without TLS.
#[derive(Clone)]
pub struct Tls {
    template: Config,
    endpoints: Vec<Endpoint>,
    /// The modes to try with each server, in this order.
    modes: &'static [SslMode],
    connector: MakeRustlsConnect,
}

impl Tls {
    /// `template` contains everything but the host. Fails if certificates or keys cannot be used.
    pub(crate) fn new(params: &Params, template: Config, endpoints: Vec<Endpoint>) -> Result<Self, TlsError> {
        let sslmode = params.get("sslmode").map_or("prefer", String::as_str);
        let plain_only = sslmode == "disable" || endpoints.iter().all(Endpoint::is_unix);
        if !plain_only && sslmode == "verify-full" && endpoints.iter().any(|endpoint| endpoint.host.is_empty()) {
            return Err(TlsError::NoHostName);
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let algorithms = provider.signature_verification_algorithms;
        let (level, roots) = if plain_only {
            (Level::Nothing, Vec::new())
        } else {
            trusted(params, sslmode)?
        };
        let key = if plain_only {
            None
        } else {
            client_key(params, &provider)?
        };
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions(params))
            .map_err(|error| TlsError::Handshake(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier::new(level, roots, algorithms)));
        let mut config = match key {
            Some(key) => config.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key))),
            None => config.with_no_client_auth(),
        };
        config.enable_sni = params.get("sslsni").is_none_or(|sni| sni.starts_with('1'));
        if params.get("sslnegotiation").is_some_and(|how| how == "direct") {
            config.alpn_protocols = vec![b"postgresql".to_vec()];
        }
        Ok(Self {
            template,
            endpoints,
            modes: modes(sslmode),
            connector: MakeRustlsConnect::new(config),
        })
    }

    /// `connect_timeout`, which applies to each attempt.
    pub(crate) fn limit(&self) -> Option<Duration> {
        self.template.get_connect_timeout().copied()
    }

    /// Connects to the first server that accepts, trying hosts and modes in libpq's order.
    pub async fn connect(&self) -> Result<(Client, Connection), ConnectError> {
        let mut failures = Vec::new();
        for endpoint in &self.endpoints {
            if let Some(connected) = self.connect_to(endpoint, &mut failures).await {
                return Ok(connected);
            }
            // Like libpq, try the next host only if this one was unreachable or is still starting up.
            let last = failures.last().and_then(|failure: &Failure| failure.error.as_ref());
            let starting = |error: &tokio_postgres::Error| error.code() == Some(&SqlState::CANNOT_CONNECT_NOW);
            if !last.is_none_or(|error| starting(error) || is(error, UNREACHABLE)) {
                break;
            }
        }
        Err(ConnectError { failures })
    }

    async fn connect_to(&self, endpoint: &Endpoint, failures: &mut Vec<Failure>) -> Option<(Client, Connection)> {
        let modes = if endpoint.is_unix() {
            &[SslMode::Disable]
        } else {
            self.modes
        };
        for (again, mode) in modes.iter().enumerate() {
            let mut config = self.template.clone();
            endpoint.add_to(&mut config);
            config.ssl_mode(*mode);
            // The driver applies connect_timeout only to the TCP handshake, libpq until the session is established.
            let limit = self.limit().unwrap_or(Duration::MAX);
            let error = match tokio::time::timeout(limit, config.connect(self.clone())).await {
                Ok(Ok(connected)) => return Some(connected),
                Ok(Err(error)) => Some(error),
                Err(_) => None,
            };
            let mut what = error
                .as_ref()
                .map_or_else(|| format!("no answer within {limit:?}"), message_of);
            if again > 0 {
                what = format!(
                    "{} TLS: {what}",
                    if *mode == SslMode::Disable { "without" } else { "with" }
                );
            }
            if self.endpoints.len() > 1 {
                what = format!("{}:{}: {what}", endpoint.passfile_host(&[]), endpoint.port);
            }
            // Try another mode only if the server or the TLS handshake refused this one.
            let refused = error
                .as_ref()
                .is_some_and(|error| error.as_db_error().is_some() || is(error, HANDSHAKE));
            failures.push(Failure { what, error });
            if !refused {
                break;
            }
        }
        None
    }
}

/// How the driver's messages begin, which is the only way to distinguish its kinds of errors.
const UNREACHABLE: &str = "error connecting to server";
const HANDSHAKE: &str = "error performing TLS handshake";

fn is(error: &tokio_postgres::Error, kind: &str) -> bool {
    error.to_string().starts_with(kind)
}

/// For `CancelToken`: a cancel request uses the same TLS settings as the connection.
impl MakeTlsConnect<Socket> for Tls {
    type Stream = Stream;
    type TlsConnect = Handshake;
    type Error = std::convert::Infallible;

    fn make_tls_connect(&mut self, host: &str) -> Result<Handshake, Self::Error> {
        MakeTlsConnect::<Socket>::make_tls_connect(&mut self.connector, host).map(Handshake)
    }
}

/// A handshake whose error is a complete message.
pub struct Handshake(<MakeRustlsConnect as MakeTlsConnect<Socket>>::TlsConnect);

impl TlsConnect<Socket> for Handshake {
    type Stream = Stream;
    type Error = TlsError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, TlsError>> + Send>>;

    fn connect(self, socket: Socket) -> Self::Future {
        let handshake = self.0.connect(socket);
        Box::pin(async { handshake.await.map_err(|error| TlsError::Handshake(sentence(&error))) })
    }
}

/// No server of the host list could be connected to.
#[derive(Debug)]
pub struct ConnectError {
    failures: Vec<Failure>,
}

#[derive(Debug)]
struct Failure {
    what: String,
    /// `None` if the attempt timed out.
    error: Option<tokio_postgres::Error>,
}

impl ConnectError {
    /// The server's error report, if one was sent. If both an attempt with and one without TLS failed, prefers a report
    /// other than "no `pg_hba.conf` entry" (SQLSTATE 28000).
    pub fn db(&self) -> Option<&DbError> {
        let mut reports: Vec<_> = self
            .failures
            .iter()
            .filter_map(|failure| failure.error.as_ref()?.as_db_error())
            .collect();
        reports.sort_by_key(|report| *report.code() != SqlState::INVALID_AUTHORIZATION_SPECIFICATION);
        reports.pop()
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, failure) in self.failures.iter().enumerate() {
            write!(f, "{}{}", if at > 0 { "; " } else { "" }, failure.what)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConnectError {}

/// The server's message instead of the driver's "db error", or the cause of any other error.
fn message_of(error: &tokio_postgres::Error) -> String {
    if let Some(report) = error.as_db_error() {
        return report.message().to_owned();
    }
    match std::error::Error::source(error) {
        Some(cause) => cause.to_string(),
        None => error.to_string(),
    }
}

/// A message for an error of rustls.
fn sentence(error: &io::Error) -> String {
    let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return format!("TLS handshake: {error}");
    };
    let what = match error {
        rustls::Error::InvalidCertificate(certificate) => match certificate {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has expired",
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "it is not valid yet",
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "it is not signed by an authority in sslrootcert"
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "it is for another host"
            }
            other => return format!("the server's certificate is not accepted: {other}"),
        },
        rustls::Error::AlertReceived(alert) => {
            return format!("the server ended the TLS handshake: {alert:?}");
        }
        other => return format!("TLS handshake: {other}"),
    };
    format!("the server's certificate is not accepted: {what}")
}

/// The modes in libpq's order.
fn modes(sslmode: &str) -> &'static [SslMode] {
    match sslmode {
        "disable" => &[SslMode::Disable],
        "allow" => &[SslMode::Disable, SslMode::Require],
        "prefer" => &[SslMode::Prefer, SslMode::Disable],
        _ => &[SslMode::Require],
    }
}

const MODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];

/// Fills in the default mode, and the files that libpq finds in `~/.postgresql`.
pub(crate) fn resolve(params: &mut Params, home: Option<&Path>) {
    let system = params.get("sslrootcert").is_some_and(|root| root == "system");
    params
        .entry("sslmode".to_owned())
        .or_insert_with(|| if system { "verify-full" } else { "prefer" }.to_owned());
    let Some(dir) = home.map(|home| home.join(".postgresql")) else {
        return;
    };
    for (keyword, name) in [
        ("sslrootcert", "root.crt"),
        ("sslcrl", "root.crl"),
        ("sslcert", "postgresql.crt"),
        ("sslkey", "postgresql.key"),
    ] {
        let (path, absent) = (dir.join(name), params.get(keyword).is_none_or(String::is_empty));
        if absent && path.exists() {
            params.insert(keyword.to_owned(), path.to_string_lossy().into_owned());
        }
    }
}

/// Checks the values of the parameters. Reads no file.
pub(crate) fn check(params: &Params) -> Result<(), ConninfoError> {
    let get = |keyword| params.get(keyword).map(String::as_str);
    let sslmode = get("sslmode").unwrap_or("prefer");
    if !MODES.contains(&sslmode) {
        return Err(value(
            "sslmode",
            "disable, allow, prefer, require, verify-ca or verify-full",
        ));
    }
    if get("sslrootcert") == Some("system") && sslmode != "verify-full" {
        return Err(value("sslmode", "verify-full, with sslrootcert=system"));
    }
    if get("sslnegotiation") == Some("direct") && MODES[..3].contains(&sslmode) {
        return Err(value("sslmode", "require or stronger, with sslnegotiation=direct"));
    }
    for (keyword, too_old) in [("ssl_min_protocol_version", true), ("ssl_max_protocol_version", false)] {
        match get(keyword).map(str::to_ascii_lowercase).as_deref() {
            None | Some("" | "tlsv1.2" | "tlsv1.3") => {}
            // As a minimum it excludes nothing: these tools support TLS 1.2 and 1.3.
            Some("tlsv1" | "tlsv1.1") if too_old => {}
            Some("tlsv1" | "tlsv1.1") => {
                let why = "versions before TLS 1.2 are not implemented";
                return Err(ConninfoError::NotSupported {
                    keyword: keyword.to_owned(),
                    why,
                });
            }
            Some(_) => return Err(value(keyword, "TLSv1, TLSv1.1, TLSv1.2 or TLSv1.3")),
        }
    }
    if versions(params).is_empty() {
        return Err(value(
            "ssl_min_protocol_version",
            "no more than ssl_max_protocol_version",
        ));
    }
    match get("sslcertmode") {
        None | Some("" | "allow" | "disable") => Ok(()),
        Some("require") => Err(ConninfoError::NotSupported {
            keyword: "sslcertmode".to_owned(),
            why: "it is not known whether the server requested a certificate",
        }),
        Some(_) => Err(value("sslcertmode", "disable, allow or require")),
    }
}

fn versions(params: &Params) -> Vec<&'static rustls::SupportedProtocolVersion> {
    let is = |keyword, wanted: &str| {
        params
            .get(keyword)
            .is_some_and(|version| version.eq_ignore_ascii_case(wanted))
    };
    let mut versions = Vec::new();
    if !is("ssl_max_protocol_version", "TLSv1.2") {
        versions.push(&version::TLS13);
    }
    if !is("ssl_min_protocol_version", "TLSv1.3") {
        versions.push(&version::TLS12);
    }
    versions
}

/// How much of the server's certificate is verified, and with which root certificates.
///
/// As in libpq, if the root file exists, even `prefer` verifies the chain. If it does not exist, only the `verify`
/// modes fail.
fn trusted(params: &Params, sslmode: &str) -> Result<(Level, Vec<CertificateDer<'static>>), TlsError> {
    let level = if sslmode == "verify-full" {
        Level::ChainAndName
    } else {
        Level::Chain
    };
    let root = params.get("sslrootcert").filter(|root| !root.is_empty());
    if root.is_some_and(|root| root == "system") {
        let roots = rustls_native_certs::load_native_certs().certs;
        return if roots.is_empty() {
            Err(TlsError::NoSystemRoots)
        } else {
            Ok((level, roots))
        };
    }
    let root = PathBuf::from(root.map_or("~/.postgresql/root.crt", String::as_str));
    if root.exists() {
        certificates(&root).map(|roots| (level, roots))
    } else if sslmode.starts_with("verify") {
        Err(TlsError::NoRootFile(root))
    } else {
        Ok((Level::Nothing, Vec::new()))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |what: String| TlsError::File {
        path: path.to_owned(),
        what,
    };
    let text = ess_files::read(path, ess_files::CERTIFICATES).map_err(|error| wrong(error.to_string()))?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = read.map_err(|error| wrong(error.to_string()))?;
    if found.is_empty() {
        Err(wrong("it contains no certificate".to_owned()))
    } else {
        Ok(found)
    }
}

/// The client's certificate and key. As in libpq, a certificate file that does not exist is ignored, but if it exists,
/// its key must exist too.
fn client_key(params: &Params, provider: &rustls::crypto::CryptoProvider) -> Result<Option<CertifiedKey>, TlsError> {
    let file = |keyword| params.get(keyword).filter(|path| !path.is_empty()).map(Path::new);
    let Some(certificate) = file("sslcert").filter(|path| path.exists()) else {
        return Ok(None);
    };
    if params.get("sslcertmode").is_some_and(|mode| mode == "disable") {
        return Ok(None);
    }
    let path = file("sslkey").unwrap_or(Path::new("~/.postgresql/postgresql.key"));
    let wrong = |what: String| TlsError::File {
        path: path.to_owned(),
        what,
    };
    let meta = fs::metadata(path).map_err(|error| wrong(format!("the key of {}: {error}", certificate.display())))?;
    let forbidden = if meta.uid() == 0 { 0o037 } else { 0o077 };
    if meta.mode() & forbidden != 0 {
        return Err(wrong(
            "this key is accessible by group or others; its mode should be 0600".to_owned(),
        ));
    }
    let text = ess_files::read(path, ess_files::SECRET).map_err(|error| wrong(error.to_string()))?;
    let key = PrivateKeyDer::from_pem_slice(&text).map_err(|error| wrong(error.to_string()))?;
    let key = provider
        .key_provider
        .load_private_key(key)
        .map_err(|error| wrong(error.to_string()))?;
    // Not with `with_client_auth_cert`, which refuses certificates of X.509 version 1.
    Ok(Some(CertifiedKey::new(certificates(certificate)?, key)))
}
