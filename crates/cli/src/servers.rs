//! Which servers a tool works on: options first, then the document, then the environment.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use ess_document::{Config, PasswordAt, Source, Target};
use ess_postgres::{Conninfo, PasswordOrigin};
use ess_run::Report;
use ess_synapse::config::{self, Database};

use crate::{Context, PasswordFile, Stop};

// No doc comments on these structs: clap would use them as the tool's description.

#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Source")]
pub struct SourceArgs {
    /// Synapse's configuration: a file, or a directory of *.yaml; repeatable
    #[arg(short, long, value_name = "PATH")]
    pub config: Vec<PathBuf>,
    /// Working directory of Synapse, to which its relative paths are relative
    #[arg(long, value_name = "DIR")]
    pub working_directory: Option<PathBuf>,
    /// Synapse's --data-directory
    #[arg(long, value_name = "DIR")]
    pub data_directory: Option<PathBuf>,
    /// Synapse's --keys-directory
    #[arg(long, value_name = "DIR")]
    pub keys_directory: Option<PathBuf>,
    /// Map a path in Synapse's container to this host; repeatable
    #[arg(long, value_name = "FROM=TO")]
    pub path_map: Vec<String>,
    /// Source database: a libpq URL or key=value string without password
    #[arg(long, value_name = "URL", conflicts_with = "config")]
    pub source: Option<String>,
    /// File whose first line is the source's password
    #[arg(long, value_name = "FILE")]
    pub source_password_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Target")]
pub struct TargetArgs {
    /// Target: a libpq URL or key=value string without password, or kube:NAMESPACE[/RELEASE]
    #[arg(long, value_name = "URL")]
    pub target: Option<String>,
    /// Context of the kubeconfig, with --target kube: (default: its current context)
    #[arg(long, value_name = "NAME")]
    pub kube_context: Option<String>,
    /// File whose first line is the target's password
    #[arg(long, value_name = "FILE")]
    pub target_password_file: Option<PathBuf>,
    /// Role that will own everything (default: the database's owner)
    #[arg(long, value_name = "ROLE")]
    pub role: Option<String>,
}

/// Whether libpq's `PG*` environment variables apply to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PgVariables {
    /// They do: it is the only server, or the target.
    Serve,
    /// They do not: the tool works on two servers, and they apply to the other one.
    BelongToTheOther,
}

/// The source, for a tool that works on the target and only checks whether the source has changed.
#[derive(Debug)]
pub enum SourceBeside {
    /// Neither an option nor the document names one.
    NotNamed,
    /// How to connect to it.
    Known(Conninfo),
    /// The document names it, but it cannot be used from here, for this reason.
    Unusable(String),
}

impl SourceBeside {
    /// How to connect to it, if that is known.
    pub fn conninfo(&self) -> Option<&Conninfo> {
        match self {
            Self::Known(conninfo) => Some(conninfo),
            Self::NotNamed | Self::Unusable(_) => None,
        }
    }
}

// No doc comment: clap would use it as the tool's description.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
#[command(next_help_heading = "Source")]
pub struct LiftArgs {
    /// Let Synapse start although the source cannot be checked for changes since the dump
    #[arg(long)]
    pub allow_unchecked_source: bool,
    /// Let Synapse start on a dump of a source that was in use
    #[arg(long)]
    pub allow_running_source: bool,
}

impl LiftArgs {
    /// The options that were given.
    pub fn overrides(self) -> Vec<String> {
        [
            (self.allow_unchecked_source, "--allow-unchecked-source"),
            (self.allow_running_source, "--allow-running-source"),
        ]
        .into_iter()
        .filter(|(given, _)| *given)
        .map(|(_, flag)| flag.to_owned())
        .collect()
    }
}

impl Context {
    /// Records the homeserver's name that an option gives; refuses one that contradicts the document's.
    pub fn name_server(&mut self, given: Option<&str>) -> Result<(), Stop> {
        let Some(given) = given else { return Ok(()) };
        let known = &mut self.source_section().server_name;
        match known {
            Some(known) if known != given => Err(contradiction("--server-name", given, "source.server_name", known)),
            _ => {
                *known = Some(given.to_owned());
                Ok(())
            }
        }
    }

    /// Synapse's configuration, if the options or the document name one; recorded in the document.
    pub fn config(&mut self, args: &SourceArgs) -> anyhow::Result<Option<config::Config>> {
        let known = self.document.source.as_ref().and_then(|source| source.config.clone());
        let Some(mut config) = config_of(args, known)? else {
            return Ok(None);
        };
        let loaded = config::Config::load(&options(&config)?)?;
        // Record the directory: the next tool may be started in a different one.
        config
            .working_directory
            .get_or_insert_with(|| loaded.working_directory().to_owned());
        let joined = joined(&config.paths);
        let source = self.document.source.get_or_insert_default();
        source.config = Some(config);
        if let Some(known) = source.server_name.as_deref()
            && known != loaded.server_name()
        {
            let given = format!("server_name in {joined}");
            return Err(contradiction(&given, loaded.server_name(), "source.server_name", known).into());
        }
        source.server_name = Some(loaded.server_name().to_owned());
        Ok(Some(loaded))
    }

    /// The source database, if the options, the document or the configuration name one; recorded in the document.
    pub fn source(&mut self, args: &SourceArgs, variables: PgVariables) -> anyhow::Result<Option<Conninfo>> {
        let known = self.document.source.clone().unwrap_or_default();
        let mut conninfo = if let Some(text) = &args.source {
            resolved(by_flag("--source", text)?, variables)?
        } else if !args.config.is_empty() || (known.connection.is_empty() && known.config.is_some()) {
            let Some(config) = self.config(args)? else {
                return Ok(None);
            };
            resolved(of_config(&config)?, variables)?
        } else if !known.connection.is_empty() {
            let mut params = known.connection.clone();
            // Parameters that may be secret are not in the document. Read them from the configuration again; on a host
            // without it they are not needed.
            if let Some(config) = config_of(args, known.config.clone())?
                && let Ok(config) = config::Config::load(&options(&config)?)
                && let Ok(conninfo) = of_config(&config)
            {
                params.extend(conninfo.other_params());
            }
            resolved(Conninfo::from_params(params, None)?, variables)?
        } else if variables == PgVariables::Serve && names_a_server() {
            resolved(Conninfo::from_params(BTreeMap::new(), None)?, variables)?
        } else {
            return Ok(None);
        };
        same_server("--source", &conninfo, "source.connection", &known.connection)?;
        let known = self.document.source.clone().unwrap_or_default();
        let password = if conninfo.password().is_some() && known.config.is_some() && args.source.is_none() {
            Some(PasswordAt::Config)
        } else {
            let file = args.source_password_file.as_deref();
            self.password(
                &mut conninfo,
                file,
                known.password.as_ref(),
                known.config.as_ref(),
                variables,
            )?
        };
        let source = self.document.source.get_or_insert_default();
        source.connection = conninfo.harmless_params();
        source.password = password;
        Ok(Some(conninfo))
    }

    /// The source, for a tool that works on the target and only checks whether the source has changed.
    ///
    /// On the host of the target, the source's configuration and password may be missing. That is an error only if an
    /// option names the source.
    pub fn source_beside(&mut self, args: &SourceArgs) -> anyhow::Result<SourceBeside> {
        let named = args.source.is_some() || !args.config.is_empty();
        match self.source(args, PgVariables::BelongToTheOther) {
            Err(error) if !named => Ok(SourceBeside::Unusable(format!("{error:#}"))),
            Ok(None) => Ok(SourceBeside::NotNamed),
            Ok(Some(conninfo)) => Ok(SourceBeside::Known(conninfo)),
            Err(error) => Err(error),
        }
    }

    /// The target database, if it is named by its address; recorded in the document.
    pub fn target(&mut self, args: &TargetArgs) -> anyhow::Result<Option<Conninfo>> {
        if args.kube_context.is_some() {
            return Err(Stop::usage("--kube-context requires --target kube:NAMESPACE").into());
        }
        let known = self.document.target.clone().unwrap_or_default();
        let parsed = match &args.target {
            Some(text) => by_flag("--target", text)?,
            None if !known.connection.is_empty() => Conninfo::from_params(known.connection.clone(), None)?,
            None if names_a_server() => Conninfo::from_params(BTreeMap::new(), None)?,
            None => return Ok(None),
        };
        let mut conninfo = resolved(parsed, PgVariables::Serve)?;
        same_server("--target", &conninfo, "target.connection", &known.connection)?;
        same_role(args, &known)?;
        let file = args.target_password_file.as_deref();
        let password = self.password(&mut conninfo, file, known.password.as_ref(), None, PgVariables::Serve)?;
        let target = self.document.target.get_or_insert_default();
        *target = Target {
            connection: conninfo.harmless_params(),
            password,
            role: args.role.clone().or(known.role),
            kube: None,
            identity: known.identity,
            server_version: known.server_version,
        };
        Ok(Some(conninfo))
    }

    /// Finds the password by an option, by the document's reference, or as libpq does; returns where it was found.
    fn password(
        &self,
        conninfo: &mut Conninfo,
        file: Option<&Path>,
        known: Option<&PasswordAt>,
        config: Option<&Config>,
        variables: PgVariables,
    ) -> anyhow::Result<Option<PasswordAt>> {
        if let Some(path) = file {
            let path = std::path::absolute(path).with_context(|| format!("cannot use {}", path.display()))?;
            let read = PasswordFile::read(&path, &self.console)?;
            conninfo.set_password(read.password);
            return Ok((!read.is_spent).then_some(PasswordAt::File { path }));
        }
        match (known, config) {
            (Some(PasswordAt::File { path }), _) => {
                conninfo.set_password(PasswordFile::read(path, &self.console)?.password);
                return Ok(known.cloned());
            }
            (Some(PasswordAt::Config), Some(config)) => {
                let loaded = config::Config::load(&options(config)?)?;
                if let Some(password) = of_config(&loaded)?.password() {
                    conninfo.set_password(password.clone());
                }
                return Ok(known.cloned());
            }
            (Some(PasswordAt::Environment { name }), _) if conninfo.password().is_none() => {
                let why = if variables == PgVariables::Serve {
                    "is not set"
                } else {
                    "applies to the target here"
                };
                return Err(Stop::usage(format!(
                    "according to the document the password is in the environment variable {name}, which {why}"
                ))
                .into());
            }
            _ => {}
        }
        Ok(match conninfo.find_password(&env)? {
            PasswordOrigin::Environment => Some(PasswordAt::Environment {
                name: "PGPASSWORD".to_owned(),
            }),
            PasswordOrigin::Passfile(_) | PasswordOrigin::Service(_) => Some(PasswordAt::Passfile),
            PasswordOrigin::None(Some((path, why))) => {
                self.console.note(&format!("ignoring {}: {why}", path.display()));
                None
            }
            PasswordOrigin::Given | PasswordOrigin::None(None) => None,
        })
    }

    /// The document's source section, created if it is missing.
    pub fn source_section(&mut self) -> &mut Source {
        self.document.source.get_or_insert_default()
    }
}

fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Whether libpq's environment variables name a server.
fn names_a_server() -> bool {
    ["PGHOST", "PGHOSTADDR", "PGDATABASE", "PGSERVICE"]
        .iter()
        .any(|name| std::env::var_os(name).is_some())
}

fn resolved(conninfo: Conninfo, variables: PgVariables) -> anyhow::Result<Conninfo> {
    Ok(conninfo.resolve(&env, variables == PgVariables::Serve)?)
}

/// A server that an option names. Only parameters that the document can contain are allowed, since later tools read
/// them from there.
fn by_flag(flag: &str, text: &str) -> anyhow::Result<Conninfo> {
    let conninfo = Conninfo::parse(text)?;
    match conninfo
        .other_params()
        .keys()
        .find(|name| *name != "service" && *name != "servicefile")
    {
        None => Ok(conninfo),
        Some(name) => Err(Stop::usage(format!(
            "{flag}: connection parameter {name} is not allowed: it may contain a secret, so the document cannot pass \
             it on to later tools"
        ))
        .hint("put it into a connection service file, and use service=NAME")
        .into()),
    }
}

/// The database in Synapse's configuration.
fn of_config(config: &config::Config) -> anyhow::Result<Conninfo> {
    match config.database()? {
        Database::Postgres { args, password, .. } => Ok(Conninfo::from_params(args, password)?),
        Database::Sqlite { path } => Err(Stop::no(format!(
            "Synapse uses SQLite ({}), which these tools do not support",
            path.display()
        ))
        .hint("migrate it to PostgreSQL first, with synapse_port_db")
        .into()),
        Database::Split { names } => Err(Stop::no(format!(
            "Synapse's data is split over several databases ({}), which these tools do not support",
            names.join(", ")
        ))
        .into()),
    }
}

/// The configuration that the options and the document name. Options take precedence, but `-c` cannot contradict the
/// document.
fn config_of(args: &SourceArgs, known: Option<Config>) -> anyhow::Result<Option<Config>> {
    let absolute = |path: &PathBuf| std::path::absolute(path).with_context(|| format!("cannot use {}", path.display()));
    let given: Vec<PathBuf> = args.config.iter().map(absolute).collect::<Result<_, _>>()?;
    let mut config = match known {
        Some(known) if !given.is_empty() && known.paths != given => {
            let error = contradiction("-c", &joined(&given), "source.config.paths", &joined(&known.paths));
            return Err(error.into());
        }
        Some(known) => known,
        None if given.is_empty() => return Ok(None),
        None => Config {
            paths: given,
            ..Config::default()
        },
    };
    let directories = [
        (&args.working_directory, &mut config.working_directory),
        (&args.data_directory, &mut config.data_directory),
        (&args.keys_directory, &mut config.keys_directory),
    ];
    for (flag, field) in directories {
        if let Some(directory) = flag {
            *field = Some(absolute(directory)?);
        }
    }
    if !args.path_map.is_empty() {
        config.path_map.clone_from(&args.path_map);
    }
    Ok(Some(config))
}

/// The options for loading a configuration that the document names.
pub fn options(config: &Config) -> anyhow::Result<config::Options> {
    let path_map = config.path_map.iter().map(|pair| {
        pair.split_once('=')
            .map(|(from, to)| (PathBuf::from(from), PathBuf::from(to)))
            .ok_or_else(|| Stop::usage(format!("--path-map {pair} is not of the form FROM=TO")))
    });
    Ok(config::Options {
        configs: config.paths.clone(),
        working_directory: config.working_directory.clone(),
        data_directory: config.data_directory.clone(),
        keys_directory: config.keys_directory.clone(),
        path_map: path_map.collect::<Result<_, _>>()?,
    })
}

/// Refuses an option that names another server than the document.
fn same_server(flag: &str, given: &Conninfo, field: &str, known: &BTreeMap<String, String>) -> Result<(), Stop> {
    for keyword in ["host", "hostaddr", "port", "dbname"] {
        if let (Some(given), Some(known)) = (given.get(keyword), known.get(keyword))
            && given != known
        {
            return Err(contradiction(
                &format!("{flag} ({keyword})"),
                given,
                &format!("{field}.{keyword}"),
                known,
            ));
        }
    }
    Ok(())
}

/// Refuses a `--role` that contradicts the document.
pub fn same_role(args: &TargetArgs, known: &Target) -> Result<(), Stop> {
    match (&args.role, &known.role) {
        (Some(given), Some(known)) if given != known => Err(contradiction("--role", given, "target.role", known)),
        _ => Ok(()),
    }
}

/// The error for an option that contradicts the document.
pub fn contradiction(flag: &str, given: &str, field: &str, known: &str) -> Stop {
    Stop::usage(format!("{flag} is {given}, but the document's `{field}` is {known}"))
        .hint("omit the option, or start with a document for that server")
}

fn joined(paths: &[PathBuf]) -> String {
    paths
        .iter()
        .map(|path| path.display().to_string())
        .collect::<Vec<_>>()
        .join(" ")
}
