//! Synapse's configuration, read from the files and directories that its command line names.
//!
//! Follows `synapse/config/_base.py` (read at 1.163): `find_config_files` lists the files, `read_config_files` merges
//! them, and relative paths count from the working directory of Synapse's process (`Config.abspath`).

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Component, Path, PathBuf};

use secrecy::SecretString;

use crate::signing_key::SigningKeyError;
use crate::yaml::{self, Map, Scalar, ScalarKind, Value};

/// How Synapse's process finds its configuration, and where the same files are on this machine.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// `-c`, in order: files, or directories whose `*.yaml` files are read in sorted order.
    pub configs: Vec<PathBuf>,
    /// The working directory of Synapse's process, against which it resolves relative paths.
    pub working_directory: Option<PathBuf>,
    /// Unused: Synapse needs its `--data-directory` only when it generates a first configuration. Accepted so that
    /// Synapse's command line can be given unchanged.
    pub data_directory: Option<PathBuf>,
    /// Directory of the default signing key; without it, the directory of the last configuration file.
    pub keys_directory: Option<PathBuf>,
    /// Pairs of a path as Synapse's process has it and the same place on this machine: `/data` in a container is
    /// `/srv/synapse` outside.
    pub path_map: Vec<(PathBuf, PathBuf)>,
}

/// How the working directory was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirectoryChoice {
    /// Given with `--working-directory`.
    Given,
    /// The configuration is in `/etc/matrix-synapse`: `/var/lib/matrix-synapse`, as in Debian's systemd unit.
    Debian,
    /// The configuration is in `/data`: `/`, as in Synapse's container image.
    Docker,
    /// Neither: the working directory of this process.
    Here,
}

/// A configuration as Synapse has it after merging all files.
#[derive(Debug)]
pub struct Config {
    /// Each top-level key with its value and the index of the file that set it.
    options: BTreeMap<String, (Value, usize)>,
    server_name: String,
    files: Vec<PathBuf>,
    skipped: Vec<PathBuf>,
    layout: DirectoryChoice,
    working_directory: PathBuf,
    keys_directory: PathBuf,
    path_map: Vec<(PathBuf, PathBuf)>,
}

/// The address to connect to for a listener's address: loopback for an unspecified one (`::`, `0.0.0.0`).
pub fn reachable(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(any) if any.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(any) if any.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        other => other,
    }
}

/// A plain HTTP listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// The addresses that it is bound to; connect to them through [`reachable`].
    pub addresses: Vec<IpAddr>,
    /// Its port.
    pub port: u16,
}

/// Where Synapse keeps its data.
#[derive(Debug)]
pub enum Database {
    /// `PostgreSQL`.
    Postgres {
        /// Connection parameters by their libpq names, without the password and without `cp_*`, which are Synapse's.
        args: BTreeMap<String, String>,
        /// The password, if the configuration contains one.
        password: Option<SecretString>,
        /// Whether Synapse accepts a collation other than `C`.
        allow_unsafe_locale: bool,
    },
    /// A SQLite file.
    Sqlite {
        /// Its path on this machine.
        path: PathBuf,
    },
    /// Several databases, which these tools do not support.
    Split {
        /// Their names in `databases`.
        names: Vec<String>,
    },
}

impl Config {
    /// Reads and merges the files that the options name.
    ///
    /// Every file is read, so that the error names all that are unreadable. Unlike `read_config_files`, a missing
    /// `report_stats` is not an error: nothing here needs it.
    pub fn load(options: &Options) -> Result<Self, ConfigError> {
        let files = find_files(&options.configs)?;
        let last = absolute(files.last().ok_or(ConfigError::NoFiles)?)?;
        let directory = last.parent().unwrap_or(Path::new("/")).to_owned();

        let (mut merged, mut skipped, mut errors) = (BTreeMap::new(), Vec::new(), Vec::new());
        for (index, path) in files.iter().enumerate() {
            match read_file(path) {
                Ok(Some(map)) => {
                    for (key, value) in map.into_pairs().filter(|(key, _)| key.kind == ScalarKind::Text) {
                        merged.insert(key.text.to_string(), (value, index));
                    }
                }
                Ok(None) => skipped.push(path.clone()),
                Err(error) => errors.push(error),
            }
        }
        if errors.len() > 1 {
            return Err(ConfigError::Several(errors));
        }
        errors.pop().map_or(Ok(()), Err)?;

        let (layout, working_directory) = match &options.working_directory {
            Some(given) => (DirectoryChoice::Given, absolute(given)?),
            None => match unmap(&directory, &options.path_map) {
                seen if seen.starts_with("/etc/matrix-synapse") => {
                    (DirectoryChoice::Debian, "/var/lib/matrix-synapse".into())
                }
                seen if seen.starts_with("/data") => (DirectoryChoice::Docker, "/".into()),
                _ => (DirectoryChoice::Here, absolute(Path::new("."))?),
            },
        };
        let mut config = Self {
            options: merged,
            server_name: String::new(),
            files,
            skipped,
            layout,
            working_directory,
            keys_directory: directory,
            path_map: options.path_map.clone(),
        };
        if let Some(given) = &options.keys_directory {
            config.keys_directory = config.resolve(given);
        }
        config.server_name = match config.get("server_name") {
            None => {
                return Err(ConfigError::NoServerName { files: config.files });
            }
            Some(value) => value
                .as_str()
                .ok_or_else(|| config.not_a("a string", "server_name", value))?
                .to_owned(),
        };
        Ok(config)
    }

    /// The value of a dotted option: `database.args.host`, `oidc_providers.0.client_id`.
    pub fn get(&self, option: &str) -> Option<&Value> {
        let mut names = option.split('.');
        let (value, _) = self.options.get(names.next()?)?;
        names.try_fold(value, |value, name| match value {
            Value::Map(map) => map.get(name),
            Value::List(list) => list.get(name.parse::<usize>().ok()?),
            Value::Scalar(_) => None,
        })
    }

    /// Every top-level option and its value, sorted by name.
    pub fn options(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.options.iter().map(|(name, (value, _))| (name.as_str(), value))
    }

    /// The file that sets a dotted option's top-level key.
    pub fn file_of(&self, option: &str) -> Option<&Path> {
        let (_, index) = self.options.get(option.split('.').next()?)?;
        self.files.get(*index).map(PathBuf::as_path)
    }

    /// `server_name`: the domain of the homeserver's users.
    pub fn server_name(&self) -> &str {
        &self.server_name
    }

    /// Every file that was read, in order.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Those of the files that contain no mapping; Synapse ignores them with a message.
    pub fn skipped(&self) -> &[PathBuf] {
        &self.skipped
    }

    /// The directory against which Synapse resolves relative paths, as a path of its process.
    pub fn working_directory(&self) -> &Path {
        &self.working_directory
    }

    /// How the working directory was chosen.
    pub fn layout(&self) -> DirectoryChoice {
        self.layout
    }

    /// Translates a path of the configuration to a path on this machine.
    pub fn resolve_path(&self, path: &str) -> PathBuf {
        self.resolve(Path::new(path))
    }

    fn resolve(&self, path: &Path) -> PathBuf {
        let path = normal(&self.working_directory.join(path));
        let nearest = self
            .path_map
            .iter()
            .filter_map(|(original, here)| path.strip_prefix(original).ok().map(|rest| (here, rest)))
            .min_by_key(|(_, rest)| rest.components().count());
        match nearest {
            // Joining an empty path would append a slash, which the path of a file must not end with.
            Some((here, rest)) if rest.as_os_str().is_empty() => here.clone(),
            Some((here, rest)) => here.join(rest),
            None => path,
        }
    }

    /// The media store, on this machine.
    pub fn media_store_path(&self) -> Result<PathBuf, ConfigError> {
        let option = "media_store_path";
        let path = match self.get(option) {
            None => "media_store",
            Some(value) => value.as_str().ok_or_else(|| self.not_a("a string", option, value))?,
        };
        Ok(self.resolve_path(path))
    }

    /// The signing key file, on this machine. It is used unless `signing_key` contains the key itself.
    ///
    /// The default is that of `KeyConfig.read_config` (`synapse/config/key.py`).
    pub fn signing_key_path(&self) -> Result<PathBuf, ConfigError> {
        Ok(match self.string("signing_key_path")? {
            Some(path) => self.resolve_path(path),
            None => self.keys_directory.join(format!("{}.signing.key", self.server_name)),
        })
    }

    /// The HTTP listeners without TLS. Each of them answers `/health`.
    pub fn listeners(&self) -> Vec<Listener> {
        self.listener_maps().filter_map(plain_http).collect()
    }

    /// Whether any listener serves TLS itself.
    pub fn has_tls_listener(&self) -> bool {
        self.listener_maps()
            .any(|listener| listener.get("tls").is_some_and(Value::is_true))
    }

    fn listener_maps(&self) -> impl Iterator<Item = &Map> {
        let listeners = self.get("listeners").and_then(Value::as_list).unwrap_or_default();
        listeners.iter().filter_map(Value::as_map)
    }

    /// Where Synapse keeps its data.
    ///
    /// Follows `DatabaseConfig.read_config` (`synapse/config/database.py`).
    pub fn database(&self) -> Result<Database, ConfigError> {
        let path = self.string("database_path")?.filter(|path| !path.is_empty());
        let (option, database) = match (self.set("databases"), self.set("database")) {
            (Some(_), Some(_)) => return Err(self.wrong("databases", "`database` is set too")),
            (Some(_), None) if path.is_some() => {
                return Err(self.wrong("databases", "`database_path` is set too"));
            }
            (Some(databases), None) => {
                let databases = self.map("databases", databases)?;
                let mut all = databases.iter();
                if let (Some((name, one)), None) = (all.next(), all.next()) {
                    (format!("databases.{}", *name.text), one)
                } else {
                    let names = databases.iter().map(|(name, _)| name.text.to_string()).collect();
                    return Ok(Database::Split { names });
                }
            }
            (None, Some(database)) => ("database".to_owned(), database),
            (None, None) => {
                let path = path.ok_or_else(|| self.wrong("database", "it is missing"))?;
                return Ok(Database::Sqlite {
                    path: self.resolve_path(path),
                });
            }
        };
        let database = self.map(&option, database)?;
        let args_option = format!("{option}.args");
        let args = match database.get("args").filter(|args| args.is_true()) {
            Some(args) => Some(self.map(&args_option, args)?),
            None => None,
        };
        match database.get("name").map_or(Some("sqlite3"), Value::as_str) {
            Some("psycopg2") => {
                let (args, password) = self.connection(args, &args_option)?;
                let allow_unsafe_locale = database.get("allow_unsafe_locale").is_some_and(Value::is_true);
                Ok(Database::Postgres {
                    args,
                    password,
                    allow_unsafe_locale,
                })
            }
            Some("sqlite3") => {
                // `DatabaseConfig.read_config` is meant to prefer `database_path` here, but it compares the label of
                // the connection (`master`) with `sqlite3`, so it ignores the option.
                let path = args.and_then(|args| args.get("database")?.as_str());
                let option = format!("{args_option}.database");
                let path = path.ok_or_else(|| self.wrong(&option, "it is missing"))?;
                Ok(Database::Sqlite {
                    path: self.resolve_path(path),
                })
            }
            _ => Err(self.wrong(&format!("{option}.name"), "it is neither `psycopg2` nor `sqlite3`")),
        }
    }

    /// The arguments that Synapse passes to psycopg2, by their libpq names, and the password.
    fn connection(
        &self,
        args: Option<&Map>,
        option: &str,
    ) -> Result<(BTreeMap<String, String>, Option<SecretString>), ConfigError> {
        let (mut connection, mut password) = (BTreeMap::new(), None);
        for (key, value) in args.into_iter().flat_map(Map::iter) {
            let name = key.text.as_str();
            let option = format!("{option}.{name}");
            if name.starts_with("cp_") || value.is_null() {
                continue;
            }
            if name == "dsn" {
                let message = "a connection string is not supported; write it as `host`, `port`, `dbname` and so on";
                return Err(self.wrong(&option, message));
            }
            let text = value
                .as_scalar()
                .and_then(python_str)
                .ok_or_else(|| self.not_a("a string", &option, value))?;
            match name {
                "password" => password = Some(SecretString::from(text)),
                "database" | "dbname" if connection.contains_key("dbname") => {
                    return Err(self.wrong(&option, "both `database` and `dbname` are set"));
                }
                "database" => drop(connection.insert("dbname".to_owned(), text)),
                _ => drop(connection.insert(name.to_owned(), text)),
            }
        }
        Ok((connection, password))
    }

    /// The value of an option that is true to Python, which is how Synapse tests whether an option is set.
    pub(crate) fn set(&self, option: &str) -> Option<&Value> {
        self.get(option).filter(|value| value.is_true())
    }

    /// The value of an option that must be a string if it is set and not null.
    pub(crate) fn string(&self, option: &str) -> Result<Option<&str>, ConfigError> {
        match self.get(option) {
            Some(value) if !value.is_null() => value
                .as_str()
                .map(Some)
                .ok_or_else(|| self.not_a("a string", option, value)),
            _ => Ok(None),
        }
    }

    fn map<'a>(&self, option: &str, value: &'a Value) -> Result<&'a Map, ConfigError> {
        value.as_map().ok_or_else(|| self.not_a("a mapping", option, value))
    }

    pub(crate) fn not_a(&self, wanted: &str, option: &str, value: &Value) -> ConfigError {
        let quote = match value.as_scalar() {
            Some(_) if wanted == "a string" && !value.is_null() => "; put it in quotes",
            _ => "",
        };
        let kind = value.kind_name();
        self.wrong(option, &format!("it is {kind} to Synapse, not {wanted}{quote}"))
    }

    pub(crate) fn wrong(&self, option: &str, message: &str) -> ConfigError {
        ConfigError::Option {
            option: option.into(),
            file: self.file_of(option).map(Path::to_owned),
            message: message.into(),
        }
    }
}

/// Python's `str()` of a string, number or boolean; `None` for any other scalar. A float keeps its source text.
pub(crate) fn python_str(scalar: &Scalar) -> Option<String> {
    match scalar.kind {
        ScalarKind::Bool(true) => Some("True".into()),
        ScalarKind::Bool(false) => Some("False".into()),
        ScalarKind::Int(Some(value)) => Some(value.to_string()),
        ScalarKind::Int(None) | ScalarKind::Float(_) | ScalarKind::Text => Some(scalar.text.to_string()),
        ScalarKind::Null | ScalarKind::Timestamp | ScalarKind::Binary => None,
    }
}

/// The addresses are chosen as in `parse_listener_def` (`synapse/config/server.py`).
fn plain_http(listener: &Map) -> Option<Listener> {
    let set = |key| listener.get(key).filter(|value| value.is_true());
    if listener.get("type").and_then(Value::as_str) != Some("http") || set("tls").is_some() {
        return None;
    }
    let port = u16::try_from(set("port")?.as_int()?).ok()?;
    let several = set("bind_addresses").and_then(Value::as_list).unwrap_or_default();
    let mut addresses: Vec<IpAddr> = several
        .iter()
        .chain(set("bind_address"))
        .filter_map(|address| address.as_str()?.parse().ok())
        .collect();
    if addresses.is_empty() {
        addresses = vec![IpAddr::from([0u16; 8]), IpAddr::from([0u8; 4])];
    }
    Some(Listener { addresses, port })
}

/// `find_config_files` of `synapse/config/_base.py`: directories are not searched recursively.
fn find_files(configs: &[PathBuf]) -> Result<Vec<PathBuf>, ConfigError> {
    let mut files = Vec::new();
    for path in configs {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let failed = |source| ConfigError::Read {
            path: path.clone(),
            source,
        };
        let mut found = Vec::new();
        for entry in path.read_dir().map_err(failed)? {
            let file = entry.map_err(failed)?.path();
            if file.is_file() && file.as_os_str().as_encoded_bytes().ends_with(b".yaml") {
                found.push(file);
            }
        }
        found.sort();
        files.append(&mut found);
    }
    Ok(files)
}

/// The mapping in a file; `None` if it contains anything else.
fn read_file(path: &Path) -> Result<Option<Map>, ConfigError> {
    let source = ess_files::read(path, ess_files::CONFIGURATION).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    match yaml::load(&source) {
        Ok(Value::Map(map)) => Ok(Some(map)),
        Ok(_) => Ok(None),
        Err(source) => Err(ConfigError::Yaml {
            path: path.to_owned(),
            source,
        }),
    }
}

fn absolute(path: &Path) -> Result<PathBuf, ConfigError> {
    std::path::absolute(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })
}

/// Translates a path on this machine to a path of Synapse's process.
fn unmap(path: &Path, path_map: &[(PathBuf, PathBuf)]) -> PathBuf {
    path_map
        .iter()
        .find_map(|(original, here)| path.strip_prefix(here).ok().map(|rest| original.join(rest)))
        .unwrap_or_else(|| path.to_owned())
}

/// Removes `.` and `..` from the text of a path, as Python's `os.path.abspath` does, without resolving links.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => drop(normal.pop()),
            other => normal.push(other),
        }
    }
    normal
}

/// Why a configuration cannot be read, or why Synapse would not accept it. Never quotes a value.
#[derive(Debug)]
pub enum ConfigError {
    /// No file was named, and no directory with a `*.yaml` file.
    NoFiles,
    /// A configuration file or directory could not be read.
    Read {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file is not YAML that Synapse accepts.
    Yaml {
        /// The file.
        path: PathBuf,
        /// The place in it, and the cause.
        source: yaml::Error,
    },
    /// More than one file is wrong.
    Several(Vec<ConfigError>),
    /// No file sets `server_name`.
    NoServerName {
        /// All files that were read.
        files: Vec<PathBuf>,
    },
    /// An option has a value that Synapse would refuse.
    Option {
        /// The dotted option.
        option: String,
        /// The file that sets it.
        file: Option<PathBuf>,
        /// What is wrong.
        message: String,
    },
    /// An option names a file that could not be read.
    File {
        /// The dotted option.
        option: String,
        /// Where it should be on this machine.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// There is no valid signing key where it should be.
    SigningKey {
        /// The dotted option.
        option: String,
        /// The key file; none if the key is in the configuration itself.
        path: Option<PathBuf>,
        /// The cause.
        source: SigningKeyError,
    },
}

impl ConfigError {
    /// Whether the cause was a missing permission.
    pub fn is_permission(&self) -> bool {
        match self {
            Self::Read { source, .. } | Self::File { source, .. } => source.kind() == io::ErrorKind::PermissionDenied,
            Self::Several(all) => all.iter().all(Self::is_permission),
            _ => false,
        }
    }

    /// The next step, if there is an obvious one.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoFiles => {
                Some("name the files that Synapse is started with: -c /etc/matrix-synapse/homeserver.yaml")
            }
            Self::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => Some(
                "check -c; Synapse's own command line names the files: systemctl cat matrix-synapse, or ps -fC python3",
            ),
            Self::Read { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("run as the user that Synapse runs as, or as root")
            }
            Self::NoServerName { .. } => Some("on Debian it is in another file: add -c /etc/matrix-synapse/conf.d"),
            Self::File { source, .. } if source.kind() == io::ErrorKind::NotFound => Some(
                "give the working directory of Synapse's process with --working-directory DIR, or for a container \
                 --path-map /data=/srv/synapse",
            ),
            Self::SigningKey { source, .. } => source.hint(),
            Self::Several(all) => all.iter().find_map(Self::hint),
            _ => None,
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFiles => {
                write!(
                    f,
                    "no configuration file: -c names neither a file nor a directory with *.yaml files"
                )
            }
            Self::Several(all) => {
                let all: Vec<String> = all.iter().map(ToString::to_string).collect();
                f.write_str(&all.join("; "))
            }
            Self::Read { path, source } => write!(f, "cannot read {}: {source}", path.display()),
            Self::Yaml { path, source } => write!(f, "cannot read {}: {source}", path.display()),
            Self::NoServerName { files } => {
                write!(f, "`server_name` is not set in")?;
                files.iter().try_for_each(|file| write!(f, " {}", file.display()))
            }
            Self::Option {
                option,
                file: Some(file),
                message,
            } => {
                write!(f, "`{option}` in {}: {message}", file.display())
            }
            Self::Option {
                option,
                file: None,
                message,
            } => write!(f, "`{option}`: {message}"),
            Self::File { option, path, source } => {
                write!(f, "cannot read {}, which `{option}` names: {source}", path.display())
            }
            Self::SigningKey {
                option,
                path: Some(path),
                source,
            } => {
                write!(
                    f,
                    "no valid signing key in {}, which `{option}` names: {source}",
                    path.display()
                )
            }
            Self::SigningKey {
                option,
                path: None,
                source,
            } => {
                write!(f, "no valid signing key in `{option}`: {source}")
            }
        }
    }
}

/// No `source`: the cause is part of the message.
impl std::error::Error for ConfigError {}

#[cfg(test)]
mod tests;
