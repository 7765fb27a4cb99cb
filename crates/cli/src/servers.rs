//! Which servers a tool works on: flags first, then the document, then the environment.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use ess_document::{Config, PasswordAt, Source, Target};
use ess_postgres::{Conninfo, PasswordOrigin};
use ess_run::Report;
use ess_synapse::config::{self, Database};

use crate::{Context, PasswordFile, Stop};

// No doc comment on these three: clap would take it for the tool's own description.

#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Source")]
pub struct SourceArgs {
    /// Synapse's configuration: a file, or a directory of *.yaml; repeatable
    #[arg(short, long, value_name = "PATH")]
    pub config: Vec<PathBuf>,
    /// What Synapse's relative paths are relative to
    #[arg(long, value_name = "DIR")]
    pub working_directory: Option<PathBuf>,
    /// Synapse's --data-directory
    #[arg(long, value_name = "DIR")]
    pub data_directory: Option<PathBuf>,
    /// Synapse's --keys-directory
    #[arg(long, value_name = "DIR")]
    pub keys_directory: Option<PathBuf>,
    /// Where a container's path lies on this host; repeatable
    #[arg(long, value_name = "FROM=TO")]
    pub path_map: Vec<String>,
    /// The source database, a libpq URL or key=value string without password
    #[arg(long, value_name = "URL", conflicts_with = "config")]
    pub source: Option<String>,
    /// A file whose first line is the source's password
    #[arg(long, value_name = "FILE")]
    pub source_password_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Target")]
pub struct TargetArgs {
    /// The target: a libpq URL or key=value string without password, or kube:NAMESPACE[/RELEASE]
    #[arg(long, value_name = "URL")]
    pub target: Option<String>,
    /// The kubeconfig's context, with --target kube:; its current one by default
    #[arg(long, value_name = "NAME")]
    pub kube_context: Option<String>,
    /// A file whose first line is the target's password
    #[arg(long, value_name = "FILE")]
    pub target_password_file: Option<PathBuf>,
    /// The role that will own everything; the database's owner by default
    #[arg(long, value_name = "ROLE")]
    pub role: Option<String>,
}

/// Whether libpq's `PG*` variables say where a server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PgVariables {
    /// The one server that the tool works on.
    Serve,
    /// Two servers: the variables are the other one's.
    BelongToTheOther,
}

/// The source, for a tool that works on the target and only asks whether the source has changed.
#[derive(Debug)]
pub enum SourceBeside {
    /// Neither a flag nor the document names one.
    NotNamed,
    /// It can be asked.
    Known(Conninfo),
    /// The document names it, and why it cannot be asked from here.
    Unusable(String),
}

impl SourceBeside {
    /// Where it is, if it can be asked.
    pub fn conninfo(&self) -> Option<&Conninfo> {
        match self {
            Self::Known(conninfo) => Some(conninfo),
            Self::NotNamed | Self::Unusable(_) => None,
        }
    }
}

// No doc comment: clap would take it for the tool's own description.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
#[command(next_help_heading = "Source")]
pub struct LiftArgs {
    /// Let Synapse start although the source cannot be asked whether it has changed since the dump
    #[arg(long)]
    pub allow_unchecked_source: bool,
    /// Let Synapse start on a dump of a source that was in use
    #[arg(long)]
    pub allow_running_source: bool,
}

impl LiftArgs {
    /// The flags that were given.
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
    /// Notes the homeserver's name that a flag gives, which may repeat the document's, not contradict it.
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

    /// Synapse's configuration, if flags or document name one.
    pub fn config(&mut self, args: &SourceArgs) -> anyhow::Result<Option<config::Config>> {
        let known = self.document.source.as_ref().and_then(|source| source.config.clone());
        let Some(mut config) = config_of(args, known)? else {
            return Ok(None);
        };
        let loaded = config::Config::load(&options(&config)?)?;
        // Our own directory is another one in the next tool, perhaps.
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

    /// The source database, if flags, document or configuration name one; noted in the document.
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
            // What may be a secret is read where it was found; where that is elsewhere, it is not needed here.
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

    /// The source, for a tool that works on the target and only asks whether the source has changed.
    ///
    /// On the other host of a migration neither configuration nor password of the source may be there, which is an
    /// error only where a flag names them.
    pub fn source_beside(&mut self, args: &SourceArgs) -> anyhow::Result<SourceBeside> {
        let named = args.source.is_some() || !args.config.is_empty();
        match self.source(args, PgVariables::BelongToTheOther) {
            Err(error) if !named => Ok(SourceBeside::Unusable(format!("{error:#}"))),
            Ok(None) => Ok(SourceBeside::NotNamed),
            Ok(Some(conninfo)) => Ok(SourceBeside::Known(conninfo)),
            Err(error) => Err(error),
        }
    }

    /// A target database that is named by its address; noted in the document.
    pub fn target(&mut self, args: &TargetArgs) -> anyhow::Result<Option<Conninfo>> {
        if args.kube_context.is_some() {
            return Err(Stop::usage("--kube-context is for --target kube:NAMESPACE").into());
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

    /// Finds the password by flag, by the document's reference, or as libpq does; says where it was.
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
                let whose = if variables == PgVariables::Serve {
                    "is not set"
                } else {
                    "serves the target here"
                };
                return Err(Stop::usage(format!(
                    "the document says that the password is in the environment variable {name}, which {whose}"
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
                self.console.note(&format!("{} is not used: {why}", path.display()));
                None
            }
            PasswordOrigin::Given | PasswordOrigin::None(None) => None,
        })
    }

    /// The document's source section, made when absent.
    pub fn source_section(&mut self) -> &mut Source {
        self.document.source.get_or_insert_default()
    }
}

fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Whether the environment says where a server is.
fn names_a_server() -> bool {
    ["PGHOST", "PGHOSTADDR", "PGDATABASE", "PGSERVICE"]
        .iter()
        .any(|name| std::env::var_os(name).is_some())
}

fn resolved(conninfo: Conninfo, variables: PgVariables) -> anyhow::Result<Conninfo> {
    Ok(conninfo.resolve(&env, variables == PgVariables::Serve)?)
}

/// A server that a flag names, by parameters that the document can hold: later tools have them from there.
fn by_flag(flag: &str, text: &str) -> anyhow::Result<Conninfo> {
    let conninfo = Conninfo::parse(text)?;
    match conninfo.other_params().keys().find(|name| *name != "service" && *name != "servicefile") {
        None => Ok(conninfo),
        Some(name) => Err(Stop::usage(format!(
            "{flag}: connection parameter {name}: it may hold a secret, and would not be in the document for later tools"
        ))
        .hint("give it in a connection service file, and name that: service=NAME")
        .into()),
    }
}

/// Where Synapse's configuration says its database is.
fn of_config(config: &config::Config) -> anyhow::Result<Conninfo> {
    match config.database()? {
        Database::Postgres { args, password, .. } => Ok(Conninfo::from_params(args, password)?),
        Database::Sqlite { path } => Err(Stop::no(format!(
            "Synapse uses SQLite ({}), which these tools do not move",
            path.display()
        ))
        .hint("port it to PostgreSQL first, with synapse_port_db")
        .into()),
        Database::Split { names } => Err(Stop::no(format!(
            "Synapse's data is split over several databases ({}), which these tools do not move",
            names.join(", ")
        ))
        .into()),
    }
}

/// The configuration that flags and document name together; a flag outranks, but `-c` may not contradict.
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

/// What the configuration's reader needs, from what the document says.
pub fn options(config: &Config) -> anyhow::Result<config::Options> {
    let path_map = config.path_map.iter().map(|pair| {
        pair.split_once('=')
            .map(|(from, to)| (PathBuf::from(from), PathBuf::from(to)))
            .ok_or_else(|| Stop::usage(format!("--path-map {pair} is not FROM=TO")))
    });
    Ok(config::Options {
        configs: config.paths.clone(),
        working_directory: config.working_directory.clone(),
        data_directory: config.data_directory.clone(),
        keys_directory: config.keys_directory.clone(),
        path_map: path_map.collect::<Result<_, _>>()?,
    })
}

/// A flag may repeat what the document says, not contradict it.
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

/// The role may be repeated, not contradicted.
pub fn same_role(args: &TargetArgs, known: &Target) -> Result<(), Stop> {
    match (&args.role, &known.role) {
        (Some(given), Some(known)) if given != known => Err(contradiction("--role", given, "target.role", known)),
        _ => Ok(()),
    }
}

/// A flag that the document does not agree with.
pub fn contradiction(flag: &str, given: &str, field: &str, known: &str) -> Stop {
    Stop::usage(format!("{flag} says {given}, the document's `{field}` says {known}"))
        .hint("drop the flag, or start with a document for that server")
}

fn joined(paths: &[PathBuf]) -> String {
    paths
        .iter()
        .map(|path| path.display().to_string())
        .collect::<Vec<_>>()
        .join(" ")
}
