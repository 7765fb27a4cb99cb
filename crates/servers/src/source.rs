//! The source: Synapse's configuration, and the database that it names.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ess_archive::Manifest;
use ess_cli::{Context, Stop};
use ess_document::{Config, PasswordAt};
use ess_postgres::Conninfo;
use ess_proof::SourceToCheck;
use ess_synapse::config::{self, Database};

use crate::args::{ConfigArgs, SourceArgs};
use crate::contradiction;
use crate::password::password;
use crate::target::{by_flag, names_a_server, resolved, same_server};

/// Whether libpq's `PG*` environment variables apply to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PgVariables {
    /// They do: it is the only server, or the target.
    ForThisServer,
    /// They do not: the tool works on two servers, and they apply to the other one.
    ForTheOther,
}

/// Synapse's configuration, if the options or the document name one; recorded in the document.
pub fn config(context: &mut Context, args: &ConfigArgs) -> anyhow::Result<Option<config::Config>> {
    let known = context
        .document
        .source
        .as_ref()
        .and_then(|source| source.config.clone());
    let Some(mut config) = merge_config_args(args, known)? else {
        return Ok(None);
    };
    let loaded = config::Config::load(&options(&config)?)?;
    // Record the directory: the next tool may be started in a different one.
    config
        .working_directory
        .get_or_insert_with(|| loaded.working_directory().to_owned());
    let joined = joined(&config.paths);
    let source = context.document.source.get_or_insert_default();
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
pub fn source(context: &mut Context, args: &SourceArgs, variables: PgVariables) -> anyhow::Result<Option<Conninfo>> {
    let known = context.document.source.clone().unwrap_or_default();
    let mut conninfo = if let Some(text) = &args.source {
        resolved(by_flag("--source", text)?, variables)?
    } else if !args.configuration.config.is_empty() || (known.connection.is_empty() && known.config.is_some()) {
        let Some(config) = config(context, &args.configuration)? else {
            return Ok(None);
        };
        resolved(conninfo_from_config(&config)?, variables)?
    } else if !known.connection.is_empty() {
        let mut params = known.connection.clone();
        // Parameters that may be secret are not in the document. Read them from the configuration again; on a host
        // without it they are not needed.
        if let Some(config) = merge_config_args(&args.configuration, known.config.clone())?
            && let Ok(config) = config::Config::load(&options(&config)?)
            && let Ok(conninfo) = conninfo_from_config(&config)
        {
            params.extend(conninfo.other_params());
        }
        resolved(Conninfo::from_params(params, None)?, variables)?
    } else if variables == PgVariables::ForThisServer && names_a_server() {
        resolved(Conninfo::from_params(BTreeMap::new(), None)?, variables)?
    } else {
        return Ok(None);
    };
    same_server("--source", &conninfo, "source.connection", &known.connection)?;
    let known = context.document.source.clone().unwrap_or_default();
    let password = if conninfo.password().is_some() && known.config.is_some() && args.source.is_none() {
        Some(PasswordAt::Config)
    } else {
        let file = args.source_password_file.as_deref();
        password(
            context,
            &mut conninfo,
            file,
            known.password.as_ref(),
            known.config.as_ref(),
            variables,
        )?
    };
    let source = context.document.source.get_or_insert_default();
    source.connection = conninfo.harmless_params();
    source.password = password;
    Ok(Some(conninfo))
}

/// The source, for a tool that works on the target and only checks whether the source has changed.
///
/// On the host of the target, the source's configuration and password may be missing. That is an error only if an
/// option names the source.
pub fn source_to_check(context: &mut Context, args: &SourceArgs) -> anyhow::Result<SourceToCheck> {
    let named = args.source.is_some() || !args.configuration.config.is_empty();
    match source(context, args, PgVariables::ForTheOther) {
        Err(error) if !named => Ok(SourceToCheck::Unusable(format!("{error:#}"))),
        Ok(None) => Ok(SourceToCheck::NotNamed),
        Ok(Some(conninfo)) => Ok(SourceToCheck::Known(conninfo)),
        Err(error) => Err(error),
    }
}

/// Records in the document which database a dump is of; refuses a dump of a database other than the document's source.
pub fn adopt_source(context: &mut Context, manifest: &Manifest) -> Result<(), Stop> {
    let known = context
        .document
        .source
        .as_ref()
        .and_then(|source| source.identity.clone());
    if let Some(identity) = ess_proof::source_of(manifest, known)? {
        context.source_section().identity = Some(identity);
    }
    Ok(())
}

/// Records in the document which database the source is, unless an earlier program did.
///
/// If the source cannot be reached, it stays unidentified, with a note.
pub fn identify_source(context: &mut Context, source: &SourceToCheck) -> anyhow::Result<()> {
    let known = context.document.source.as_ref();
    if known.is_some_and(|source| source.identity.is_some()) {
        return Ok(());
    }
    if let Some(identity) = ess_proof::identify(source, &context.application_name(), &context.console)? {
        context.source_section().identity = Some(identity);
    }
    Ok(())
}

/// The database in Synapse's configuration.
pub(crate) fn conninfo_from_config(config: &config::Config) -> anyhow::Result<Conninfo> {
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
fn merge_config_args(args: &ConfigArgs, known: Option<Config>) -> anyhow::Result<Option<Config>> {
    let absolute = |path: &PathBuf| ess_files::absolute(path);
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

fn joined(paths: &[PathBuf]) -> String {
    paths
        .iter()
        .map(|path| path.display().to_string())
        .collect::<Vec<_>>()
        .join(" ")
}
