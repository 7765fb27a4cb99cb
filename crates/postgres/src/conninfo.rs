//! Connection parameters, with the same meaning as in libpq.
//!
//! Our own connections and the child programs (`pg_dump`, `pg_restore`, `psql`) are configured from the same
//! [`Conninfo`]. It is resolved once, and a child inherits none of libpq's environment variables, so that both reach
//! the same server in the same way. A parameter that our own connections do not support is an error, rather than a
//! connection that is silently weaker; see [`NOT_SUPPORTED`].

mod child;
pub(crate) mod environment;
pub(crate) mod error;
pub(crate) mod keyword;
mod parse;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tokio_postgres::config::{ChannelBinding, SslNegotiation, TargetSessionAttrs};

pub use child::ChildEnvironment;
pub use environment::Env;
pub use error::ConninfoError;
pub(crate) use keyword::{KEYWORDS, OTHER_VARIABLES};

use environment::home;
use error::value;
use keyword::check;

use crate::passfile::{self, Passfile};
use crate::pooler::Met;
use crate::service;
use crate::tls::{Endpoint, Tls};

/// Connection parameters by libpq keyword, without the password.
#[derive(Clone, Debug)]
pub struct Conninfo {
    params: BTreeMap<String, String>,
    password: Option<(SecretString, PasswordOrigin)>,
    /// The server's name for messages, if the parameters are those of a forwarded port.
    shown_as: Option<String>,
    /// What was found out about this server at the first connection; shared by all clones.
    met: Arc<Mutex<Option<Met>>>,
}

/// Where a password was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PasswordOrigin {
    /// It was given by the caller.
    Given,
    /// `PGPASSWORD`.
    Environment,
    /// A connection service file.
    Service(PathBuf),
    /// A password file.
    Passfile(PathBuf),
    /// No password was found. Contains the password file that was ignored, as libpq would, and the reason.
    None(Option<(PathBuf, &'static str)>),
}

/// Parameters that our own connections do not support, and that affect which server is reached or trusted. Each with
/// the reason, or what to use instead.
///
/// `sslcompression`, `krbsrvname`, `gsslib`, `gssdelegation`, `load_balance_hosts`,
/// `min_protocol_version`, `max_protocol_version`, `client_encoding` and `sslkeylogfile` are ignored instead:
/// a connection without them is not weaker. `gssencmode` is passed to child programs only.
const NOT_SUPPORTED: &[(&str, &str)] = &[
    ("sslcrl", "revocation lists are not read"),
    ("sslcrldir", "revocation lists are not read"),
    ("sslpassword", "use a key file without a passphrase"),
    ("requirepeer", "the owner of the server process cannot be checked"),
    ("require_auth", "use channel_binding=require or sslmode=verify-full"),
    ("replication", "these tools are not replication clients"),
    ("scram_client_key", "use a password"),
    ("scram_server_key", "use a password"),
    ("oauth_issuer", "use a password"),
    ("oauth_client_id", "use a password"),
    ("oauth_client_secret", "use a password"),
    ("oauth_scope", "use a password"),
];

/// Our defaults for timeouts. By default libpq waits for a connection for ever, and detects after two hours that a host
/// has vanished.
const PATIENCE: [(&str, &str); 4] = [
    ("connect_timeout", "30"),
    ("keepalives_idle", "60"),
    ("keepalives_interval", "10"),
    ("keepalives_count", "6"),
];

/// Directories of Unix sockets, if no host is given: Debian's default, then upstream's `DEFAULT_PGSOCKET_DIR`.
const SOCKET_DIRS: [&str; 2] = ["/var/run/postgresql", "/tmp"];

impl Conninfo {
    /// Parses a URL or a `keyword=value` string like libpq, except that a password in it is an error.
    pub fn parse(text: &str) -> Result<Self, ConninfoError> {
        Ok(Self {
            params: parse::parse(text)?,
            password: None,
            shown_as: None,
            met: Arc::default(),
        })
    }

    /// Accepts parameters as a program passes them to libpq, possibly with a `password` among them.
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

    /// Fills in missing parameters like libpq: from a service, `PG*` variables, files in `~/.postgresql` and defaults
    /// (`conninfo_add_defaults` in `fe-connect.c`).
    ///
    /// If `allow_env` is false, the variables that choose a server and the way to connect to it are ignored. Those
    /// that only name files for any number of servers (`PGPASSFILE`, `PGSERVICEFILE`, `PGSYSCONFDIR`, `HOME`) are
    /// always used.
    ///
    /// Fails if a value is invalid or not supported, or if a service or its file cannot be found.
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
                // An empty variable counts as unset, except for these two, for which libpq refuses an empty value.
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

    /// Sets the `host:port` by which messages name the server, whatever host and port the parameters have.
    pub fn show_as(&mut self, server: impl Into<String>) {
        self.shown_as = Some(server.into());
    }

    /// Sets a parameter if it has no value yet.
    pub fn default(&mut self, keyword: &str, value: impl FnOnce() -> String) {
        if self
            .get(keyword)
            .is_none_or(|value| value.is_empty() && keyword != "sslmode")
        {
            self.params.insert(keyword.to_owned(), value());
        }
    }

    /// Checks all values before the first connection or child program.
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
            let why = "GSSAPI encryption is not implemented; use TLS";
            return Err(ConninfoError::NotSupported {
                keyword: "gssencmode".to_owned(),
                why,
            });
        }
        self.endpoints()?;
        self.template("")?;
        crate::tls::check(&self.params)
    }

    /// Looks up the password in the password file by libpq's rules, if it is not known yet. Returns its origin.
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

    /// The value of a parameter, or our default for a timeout.
    fn get_patiently(&self, keyword: &str) -> Option<&str> {
        let ours = PATIENCE.iter().find(|(name, _)| *name == keyword);
        self.get(keyword).or(ours.map(|(_, value)| *value))
    }

    /// The parameters that are not secret and can be stored in the document, by keyword.
    pub fn harmless_params(&self) -> BTreeMap<String, String> {
        self.split_params(true)
    }

    /// The other parameters, which may contain secrets.
    pub fn other_params(&self) -> BTreeMap<String, String> {
        self.split_params(false)
    }

    fn split_params(&self, harmless: bool) -> BTreeMap<String, String> {
        let wanted = |(name, value): &(&String, &String)| keyword::is_harmless(name, value) == harmless;
        let cloned = |(name, value): (&String, &String)| (name.clone(), value.clone());
        self.params.iter().filter(wanted).map(cloned).collect()
    }

    /// The database; empty before [`Conninfo::resolve`] if none was given.
    pub fn dbname(&self) -> &str {
        self.get("dbname").unwrap_or_default()
    }

    /// The host or hosts, or their addresses if only these are given. A socket directory starts with `/`.
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

    /// The password, if it is known.
    pub fn password(&self) -> Option<&SecretString> {
        self.password.as_ref().map(|(password, _)| password)
    }

    /// Sets the password, and replaces one that is already known.
    pub fn set_password(&mut self, password: SecretString) {
        self.password = Some((password, PasswordOrigin::Given));
    }

    /// The database as an argument for a program (`pg_restore -d`), quoted so that a database called `a=b` or
    /// `postgres://c` is not taken for a connection string.
    pub fn dbname_argument(&self) -> String {
        parse::word("dbname", self.dbname())
    }

    /// What is known about the server. Hold the lock while finding it out.
    pub(crate) fn met(&self) -> &Mutex<Option<Met>> {
        &self.met
    }

    /// The connector for our own connections.
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
            // libpq has the same minimum.
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
                    why: "two connections could reach two different servers; use primary or standby",
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
            .map_err(|_| value(keyword, "an integer"))
    }

    /// One endpoint for each element of the host list.
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
                let why = "abstract Unix sockets are not implemented";
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

/// `user@host:port/dbname`, which contains no secret.
impl fmt::Display for Conninfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.shown_as {
            Some(server) => write!(f, "{}@{server}/{}", self.user(), self.dbname()),
            None => write!(f, "{}@{}:{}/{}", self.user(), self.host(), self.port(), self.dbname()),
        }
    }
}

fn default_socket_dir(port: &str) -> &'static str {
    let listens = |dir: &&&str| Path::new(dir).join(format!(".s.PGSQL.{port}")).exists();
    SOCKET_DIRS.iter().find(listens).unwrap_or(&SOCKET_DIRS[0])
}

/// The name of the account that this process runs as. Like libpq, queries the system and not `USER`.
fn account_name(env: Env<'_>) -> Result<String, ConninfoError> {
    let asked = std::process::Command::new("id")
        .arg("-un")
        .output()
        .ok()
        .filter(|output| output.status.success());
    let name = asked.and_then(|output| String::from_utf8(output.stdout).ok());
    // A minimal container without id(1) may still have USER.
    let name = name.or_else(|| env("USER")).unwrap_or_default();
    match name.trim_end_matches('\n') {
        "" => Err(ConninfoError::NoUser),
        name => Ok(name.to_owned()),
    }
}
