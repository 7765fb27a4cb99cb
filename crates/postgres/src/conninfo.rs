//! Where a server is and how it is reached, with libpq's meaning.
//!
//! Our own connections and the child programs (`pg_dump`, `pg_restore`, `psql`) are configured
//! from the same [`Conninfo`]. It is resolved once; a child inherits none of libpq's variables, so that both
//! meet the same server on the same terms. What we cannot honour ourselves is an error rather than
//! a silently weaker connection; see [`NOT_SUPPORTED`].

mod child;
mod keyword;
mod parse;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tokio_postgres::config::{ChannelBinding, SslNegotiation, TargetSessionAttrs};

pub use child::ChildEnvironment;
pub(crate) use keyword::{KEYWORDS, OTHER_VARIABLES};

use crate::passfile::{self, Passfile};
use crate::pooler::Met;
use crate::service;
use crate::tls::{Endpoint, Tls, TlsError};

/// Connection parameters by libpq keyword, without the password.
#[derive(Clone, Debug)]
pub struct Conninfo {
    params: BTreeMap<String, String>,
    password: Option<(SecretString, PasswordOrigin)>,
    /// What people know the server by, when the parameters lead through something on the way.
    shown_as: Option<String>,
    /// What was found where these lead; shared by all copies.
    met: Arc<Mutex<Option<Met>>>,
}

/// Where a password was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PasswordOrigin {
    /// The caller gave it.
    Given,
    /// `PGPASSWORD`.
    Environment,
    /// A connection service file.
    Service(PathBuf),
    /// A password file.
    Passfile(PathBuf),
    /// None was found. A password file that libpq would ignore, with the reason, is named.
    None(Option<(PathBuf, &'static str)>),
}

/// Why connection parameters cannot be used. No message holds a value.
#[derive(Debug)]
pub enum ConninfoError {
    /// A password stands in a connection string, which others can see.
    PasswordInText,
    /// A connection string with a password stands where one parameter should.
    PasswordInValue(String),
    /// Neither a URL nor `keyword=value` words, perhaps a bare database name.
    NotConninfo,
    /// The rule that the text breaks.
    Syntax(&'static str),
    /// libpq has no such parameter.
    UnknownKeyword(String),
    /// The value is none of those allowed.
    Value {
        /// Which parameter.
        keyword: String,
        /// What it can be.
        expected: &'static str,
    },
    /// libpq can, we cannot, and leaving it out would weaken the connection.
    NotSupported {
        /// Which parameter.
        keyword: String,
        /// Why not, or what to do instead.
        why: &'static str,
    },
    /// No service file defines this service.
    NoSuchService(String),
    /// A service file cannot be used.
    ServiceFile {
        /// The file.
        path: PathBuf,
        /// The line, if one is to blame.
        line: usize,
        /// What is wrong there.
        what: &'static str,
    },
    /// The account of this process has no name.
    NoUser,
    /// Certificates or keys.
    Tls(TlsError),
    /// A file could not be read or written.
    Io {
        /// The file.
        path: PathBuf,
        /// What happened.
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

    /// What the system said of a file, if it was about one.
    pub fn of_file(&self) -> Option<&io::Error> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }

    /// The one thing to do, when there is one.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::PasswordInText => Some("give the password by --target-password-file or PGPASSFILE"),
            Self::PasswordInValue(_) => Some("write its value alone, and give the password by itself"),
            Self::NotConninfo => Some("write postgresql://USER@HOST/DBNAME or 'host=HOST user=USER dbname=DBNAME'"),
            _ => None,
        }
    }
}

impl fmt::Display for ConninfoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PasswordInText => f.write_str("connection string: a password in it is not accepted"),
            Self::PasswordInValue(keyword) => {
                write!(
                    f,
                    "connection parameter {keyword}: a connection string with a password in it is not accepted there"
                )
            }
            Self::NotConninfo => f.write_str("connection string: neither a postgresql:// URL nor keyword=value words"),
            Self::Syntax(rule) => write!(f, "connection string: {rule}"),
            Self::UnknownKeyword(keyword) => {
                write!(f, "connection parameter {keyword:?}: libpq knows none of this name")
            }
            Self::Value { keyword, expected } => {
                write!(f, "connection parameter {keyword}: expected {expected}")
            }
            Self::NotSupported { keyword, why } => {
                write!(f, "connection parameter {keyword}: not supported: {why}")
            }
            Self::NoSuchService(name) => write!(f, "connection service {name:?}: no service file defines it"),
            Self::ServiceFile { path, line, what } => {
                write!(f, "service file {}: line {line}: {what}", path.display())
            }
            Self::NoUser => f.write_str("user to connect as: none is given, and this process's account has no name"),
            Self::Tls(error) => error.fmt(f),
            Self::Io { path, source } => write!(f, "{}: {source}", path.display()),
        }
    }
}

impl std::error::Error for ConninfoError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            // The message holds it already.
            Self::Tls(error) => error.source(),
            _ => None,
        }
    }
}

/// Parameters that change whom we trust or what we reach, and that we cannot honour.
///
/// `sslcompression`, `krbsrvname`, `gsslib`, `gssdelegation`, `load_balance_hosts`,
/// `min_protocol_version`, `max_protocol_version`, `client_encoding` and `sslkeylogfile` are not
/// here: without them a connection is no weaker. `gssencmode` is passed to children only.
const NOT_SUPPORTED: &[(&str, &str)] = &[
    ("sslcrl", "revocation lists are not read"),
    ("sslcrldir", "revocation lists are not read"),
    ("sslpassword", "use a key file without a passphrase"),
    ("requirepeer", "the owner of the server process cannot be checked"),
    ("require_auth", "use channel_binding=require or sslmode=verify-full"),
    ("replication", "this is no replication client"),
    ("scram_client_key", "use a password"),
    ("scram_server_key", "use a password"),
    ("oauth_issuer", "use a password"),
    ("oauth_client_id", "use a password"),
    ("oauth_client_secret", "use a password"),
    ("oauth_scope", "use a password"),
];

/// Where libpq would wait for a connection for ever, and two hours until it sees that a host is gone.
const PATIENCE: [(&str, &str); 4] = [
    ("connect_timeout", "30"),
    ("keepalives_idle", "60"),
    ("keepalives_interval", "10"),
    ("keepalives_count", "6"),
];

/// Where a server's Unix sockets are when no host is given: Debian's place, then upstream's.
const SOCKET_DIRS: [&str; 2] = ["/var/run/postgresql", "/tmp"];

/// The environment, as a parameter.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

pub(crate) fn check(keyword: &str, value: &str) -> Result<(), ConninfoError> {
    if !keyword::is_known(keyword) {
        return Err(ConninfoError::UnknownKeyword(keyword.to_owned()));
    }
    if keyword != "options" && keyword::holds_password(value) {
        return Err(ConninfoError::PasswordInValue(keyword.to_owned()));
    }
    if value.contains('\0') {
        return Err(ConninfoError::Value {
            keyword: keyword.to_owned(),
            expected: "text without a NUL",
        });
    }
    Ok(())
}

impl Conninfo {
    /// Reads a libpq URL or a `keyword=value` string, as libpq does, but for a password in it.
    pub fn parse(text: &str) -> Result<Self, ConninfoError> {
        Ok(Self {
            params: parse::parse(text)?,
            password: None,
            shown_as: None,
            met: Arc::default(),
        })
    }

    /// Takes parameters that a program would hand to libpq. A `password` among them is the password.
    pub fn from_params(
        mut params: BTreeMap<String, String>,
        password: Option<SecretString>,
    ) -> Result<Self, ConninfoError> {
        let inside = params.remove("password").map(SecretString::from);
        for (keyword, value) in &params {
            check(keyword, value)?;
        }
        let password = password
            .or(inside)
            .filter(|password| !password.expose_secret().is_empty());
        let mut conninfo = Self {
            params,
            password: None,
            shown_as: None,
            met: Arc::default(),
        };
        if let Some(password) = password {
            conninfo.set_password(password);
        }
        Ok(conninfo)
    }

    /// Fills what is absent as libpq does: a service, `PG*` variables, files under `~/.postgresql`,
    /// defaults.
    ///
    /// With `allow_env` false the variables that say *which* server and how stay unread; those that
    /// only say where per-server files are (`PGPASSFILE`, `PGSERVICEFILE`, `PGSYSCONFDIR`, `HOME`)
    /// serve any number of servers, and do here too.
    pub fn resolve(mut self, env: Env<'_>, allow_env: bool) -> Result<Self, ConninfoError> {
        let variable = |name: &str| if allow_env { env(name) } else { None };

        let service = self.params.remove("service").or_else(|| variable("PGSERVICE"));
        let servicefile = self.params.remove("servicefile").or_else(|| env("PGSERVICEFILE"));
        if let Some(service) = service {
            let (path, found) = service::find(&service, servicefile.as_deref(), env)?;
            for (keyword, value) in found {
                if keyword == "password" {
                    self.password
                        .get_or_insert((value.into(), PasswordOrigin::Service(path.clone())));
                } else {
                    self.params.entry(keyword).or_insert(value);
                }
            }
        }

        for keyword in KEYWORDS {
            let Some(value) = keyword.variable.and_then(variable) else {
                continue;
            };
            check(keyword.name, &value)?;
            match keyword.name {
                "service" | "servicefile" => {}
                "password" if value.is_empty() => {}
                "password" => {
                    self.password.get_or_insert((value.into(), PasswordOrigin::Environment));
                }
                // An empty variable says as much as none, but for these two where libpq refuses it.
                name if value.is_empty() && !matches!(name, "sslmode" | "channel_binding") => {}
                name => {
                    self.params.entry(name.to_owned()).or_insert(value);
                }
            }
        }
        if let Some(path) = env("PGPASSFILE").filter(|path| !path.is_empty()) {
            self.params.entry("passfile".to_owned()).or_insert(path);
        }
        if variable("PGREQUIRESSL").is_some_and(|value| value.starts_with('1')) {
            self.default("sslmode", || "require".to_owned());
        }

        self.default("port", || "5432".to_owned());
        if self.get("host").is_none_or(str::is_empty) && self.get("hostaddr").is_none_or(str::is_empty) {
            let host = default_socket_dir(self.port()).to_owned();
            self.params.insert("host".to_owned(), host);
        }
        if self.user().is_empty() {
            self.params.insert("user".to_owned(), account_name(env)?);
        }
        if self.dbname().is_empty() {
            self.params.insert("dbname".to_owned(), self.user().to_owned());
        }
        let home = home(env);
        crate::tls::resolve(&mut self.params, home.as_deref());
        if let Some(home) = home {
            self.default("passfile", || home.join(".pgpass").to_string_lossy().into_owned());
        }
        self.params
            .retain(|keyword, value| !value.is_empty() || keyword == "sslmode");
        self.check_values()?;
        Ok(self)
    }

    /// Shows the server to people as `host:port`, wherever the parameters lead.
    pub fn show_as(&mut self, server: impl Into<String>) {
        self.shown_as = Some(server.into());
    }

    /// Sets a parameter that is not given.
    pub fn default(&mut self, keyword: &str, value: impl FnOnce() -> String) {
        if self
            .get(keyword)
            .is_none_or(|value| value.is_empty() && keyword != "sslmode")
        {
            self.params.insert(keyword.to_owned(), value());
        }
    }

    /// Everything our side would stumble over, before a first connection or child.
    fn check_values(&self) -> Result<(), ConninfoError> {
        for (keyword, why) in NOT_SUPPORTED {
            if self.get(keyword).is_some() {
                return Err(ConninfoError::NotSupported {
                    keyword: (*keyword).to_owned(),
                    why,
                });
            }
        }
        if self.get("gssencmode") == Some("require") {
            let why = "GSSAPI encryption is not spoken; use TLS";
            return Err(ConninfoError::NotSupported {
                keyword: "gssencmode".to_owned(),
                why,
            });
        }
        self.endpoints()?;
        self.template("")?;
        crate::tls::check(&self.params)
    }

    /// Looks the password up in the password file, by libpq's rules, when none is known.
    pub fn find_password(&mut self, env: Env<'_>) -> Result<PasswordOrigin, ConninfoError> {
        if let Some((_, origin)) = &self.password {
            return Ok(origin.clone());
        }
        let default = || home(env).map(|home| home.join(".pgpass"));
        let Some(path) = self.get("passfile").map(PathBuf::from).or_else(default) else {
            return Ok(PasswordOrigin::None(None));
        };
        let mut text = match passfile::read(&path)? {
            Passfile::Text(text) => text,
            Passfile::Absent => return Ok(PasswordOrigin::None(None)),
            Passfile::Ignored(why) => return Ok(PasswordOrigin::None(Some((path, why)))),
        };
        let found = self.endpoints()?.iter().find_map(|endpoint| {
            let host = endpoint.passfile_host(&SOCKET_DIRS);
            passfile::find(&text, [&host, &endpoint.port.to_string(), self.dbname(), self.user()])
        });
        zeroize::Zeroize::zeroize(&mut text);
        let Some(password) = found else {
            return Ok(PasswordOrigin::None(None));
        };
        let origin = PasswordOrigin::Passfile(path);
        self.password = Some((password, origin.clone()));
        Ok(origin)
    }

    /// The value of a parameter.
    pub fn get(&self, keyword: &str) -> Option<&str> {
        self.params.get(keyword).map(String::as_str)
    }

    /// The same, with our own patience where nothing is said.
    fn get_patiently(&self, keyword: &str) -> Option<&str> {
        let ours = PATIENCE.iter().find(|(name, _)| *name == keyword);
        self.get(keyword).or(ours.map(|(_, value)| *value))
    }

    /// The parameters that anybody may read, by keyword: what a document may hold.
    pub fn harmless_params(&self) -> BTreeMap<String, String> {
        self.split_params(true)
    }

    /// The others, which may hold secrets.
    pub fn other_params(&self) -> BTreeMap<String, String> {
        self.split_params(false)
    }

    fn split_params(&self, harmless: bool) -> BTreeMap<String, String> {
        let wanted = |(name, value): &(&String, &String)| keyword::is_harmless(name, value) == harmless;
        let cloned = |(name, value): (&String, &String)| (name.clone(), value.clone());
        self.params.iter().filter(wanted).map(cloned).collect()
    }

    /// The database; empty before [`Conninfo::resolve`] if none was named.
    pub fn dbname(&self) -> &str {
        self.get("dbname").unwrap_or_default()
    }

    /// The host or hosts, or their addresses if only these are known; a socket directory starts with `/`.
    pub fn host(&self) -> &str {
        self.get("host").or_else(|| self.get("hostaddr")).unwrap_or_default()
    }

    /// The port or ports.
    pub fn port(&self) -> &str {
        self.get("port").unwrap_or("5432")
    }

    /// The role to connect as.
    pub fn user(&self) -> &str {
        self.get("user").unwrap_or_default()
    }

    /// The password, once known.
    pub fn password(&self) -> Option<&SecretString> {
        self.password.as_ref().map(|(password, _)| password)
    }

    /// Replaces whatever password is known.
    pub fn set_password(&mut self, password: SecretString) {
        self.password = Some((password, PasswordOrigin::Given));
    }

    /// The database for a program that wants it as an argument (`pg_restore -d`), quoted so that a
    /// database called `a=b` or `postgres://c` is not taken for a connection string.
    pub fn dbname_argument(&self) -> String {
        parse::word("dbname", self.dbname())
    }

    /// What is known of the server; to be locked by whoever goes to see.
    pub(crate) fn met(&self) -> &Mutex<Option<Met>> {
        &self.met
    }

    /// For our own connections.
    pub fn connector(&self, application_name: &str) -> Result<Tls, ConninfoError> {
        let template = self.template(application_name)?;
        Tls::new(&self.params, template, self.endpoints()?).map_err(ConninfoError::Tls)
    }

    fn template(&self, application_name: &str) -> Result<tokio_postgres::Config, ConninfoError> {
        let mut config = tokio_postgres::Config::new();
        config.user(self.user()).dbname(self.dbname());
        if !application_name.is_empty() {
            config.application_name(application_name);
        }
        if let Some(password) = self.password() {
            config.password(password.expose_secret());
        }
        if let Some(options) = self.get("options") {
            config.options(options);
        }
        if let Some(seconds) = self.number("connect_timeout")?.filter(|&seconds| seconds > 0) {
            // libpq's own minimum.
            config.connect_timeout(Duration::from_secs(seconds.max(2)));
        }
        if let Some(on) = self.number("keepalives")? {
            config.keepalives(on != 0);
        }
        if let Some(seconds) = self.number("keepalives_idle")?.filter(|&seconds| seconds > 0) {
            config.keepalives_idle(Duration::from_secs(seconds));
        }
        if let Some(seconds) = self.number("keepalives_interval")?.filter(|&seconds| seconds > 0) {
            config.keepalives_interval(Duration::from_secs(seconds));
        }
        if let Some(count) = self.number("keepalives_count")?.filter(|&count| count > 0) {
            config.keepalives_retries(u32::try_from(count).unwrap_or(u32::MAX));
        }
        if let Some(millis) = self.number("tcp_user_timeout")?.filter(|&millis| millis > 0) {
            config.tcp_user_timeout(Duration::from_millis(millis));
        }
        config.channel_binding(match self.get("channel_binding").unwrap_or("prefer") {
            "disable" => ChannelBinding::Disable,
            "prefer" => ChannelBinding::Prefer,
            "require" => ChannelBinding::Require,
            _ => return Err(value("channel_binding", "disable, prefer or require")),
        });
        config.ssl_negotiation(match self.get("sslnegotiation").unwrap_or("postgres") {
            "postgres" => SslNegotiation::Postgres,
            "direct" => SslNegotiation::Direct,
            _ => return Err(value("sslnegotiation", "postgres or direct")),
        });
        config.target_session_attrs(match self.get("target_session_attrs").unwrap_or("any") {
            "any" => TargetSessionAttrs::Any,
            "read-write" | "primary" => TargetSessionAttrs::ReadWrite,
            "read-only" | "standby" => TargetSessionAttrs::ReadOnly,
            "prefer-standby" => {
                return Err(ConninfoError::NotSupported {
                    keyword: "target_session_attrs".to_owned(),
                    why: "two connections could meet two servers; use primary or standby",
                });
            }
            _ => {
                return Err(value(
                    "target_session_attrs",
                    "any, read-write, primary, read-only or standby",
                ));
            }
        });
        Ok(config)
    }

    fn number(&self, keyword: &str) -> Result<Option<u64>, ConninfoError> {
        let number = |text: &str| text.trim().parse::<i64>().map(|number| number.try_into().unwrap_or(0));
        self.get_patiently(keyword)
            .map(number)
            .transpose()
            .map_err(|_| value(keyword, "a whole number"))
    }

    /// One for each element of the host list.
    fn endpoints(&self) -> Result<Vec<Endpoint>, ConninfoError> {
        let list = |keyword| {
            self.get(keyword)
                .filter(|text| !text.is_empty())
                .map(|text| text.split(','))
        };
        let hosts: Vec<_> = list("host").into_iter().flatten().collect();
        let addrs: Vec<_> = list("hostaddr").into_iter().flatten().collect();
        let ports: Vec<_> = list("port").into_iter().flatten().collect();
        let count = hosts.len().max(addrs.len());
        if !hosts.is_empty() && !addrs.is_empty() && hosts.len() != addrs.len() {
            return Err(value("hostaddr", "as many addresses as there are hosts"));
        }
        if ports.len() > 1 && ports.len() != count {
            return Err(value("port", "one port, or as many as there are hosts"));
        }
        let endpoint = |at: usize| {
            let port = match ports.get(at).or(ports.first()).copied().unwrap_or_default() {
                "" => 5432,
                text => match text.trim().parse() {
                    Ok(port) if port > 0 => port,
                    _ => return Err(value("port", "a number from 1 to 65535")),
                },
            };
            let hostaddr = match addrs.get(at).copied().unwrap_or_default() {
                "" => None,
                text => Some(text.parse().map_err(|_| value("hostaddr", "an IPv4 or IPv6 address"))?),
            };
            let host = match hosts.get(at).copied().unwrap_or_default() {
                "" if hostaddr.is_none() => default_socket_dir(&port.to_string()),
                host => host,
            };
            if host.starts_with('@') {
                let why = "abstract Unix sockets cannot be reached";
                return Err(ConninfoError::NotSupported {
                    keyword: "host".to_owned(),
                    why,
                });
            }
            Ok(Endpoint {
                host: host.to_owned(),
                hostaddr,
                port,
            })
        };
        (0..count).map(endpoint).collect()
    }
}

/// Safe to show: `user@host:port/dbname`.
impl fmt::Display for Conninfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.shown_as {
            Some(server) => write!(f, "{}@{server}/{}", self.user(), self.dbname()),
            None => write!(f, "{}@{}:{}/{}", self.user(), self.host(), self.port(), self.dbname()),
        }
    }
}

pub(crate) fn value(keyword: &str, expected: &'static str) -> ConninfoError {
    ConninfoError::Value {
        keyword: keyword.to_owned(),
        expected,
    }
}

fn default_socket_dir(port: &str) -> &'static str {
    let listens = |dir: &&&str| Path::new(dir).join(format!(".s.PGSQL.{port}")).exists();
    SOCKET_DIRS.iter().find(listens).unwrap_or(&SOCKET_DIRS[0])
}

/// As libpq since 15: `HOME`, else what the system says.
pub(crate) fn home(env: Env<'_>) -> Option<PathBuf> {
    env("HOME")
        .filter(|home| !home.is_empty())
        .map(PathBuf::from)
        .or_else(std::env::home_dir)
}

/// The account this process runs as: libpq asks the system, not `USER`.
fn account_name(env: Env<'_>) -> Result<String, ConninfoError> {
    let asked = std::process::Command::new("id")
        .arg("-un")
        .output()
        .ok()
        .filter(|output| output.status.success());
    let name = asked.and_then(|output| String::from_utf8(output.stdout).ok());
    // A system without id(1), as a minimal container is, still may say.
    let name = name.or_else(|| env("USER")).unwrap_or_default();
    match name.trim_end_matches('\n') {
        "" => Err(ConninfoError::NoUser),
        name => Ok(name.to_owned()),
    }
}
