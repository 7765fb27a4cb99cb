//! The password of a database: where it is, and how to find it.

use std::path::Path;

use ess_cli::{Context, PasswordFile, Stop};
use ess_document::{Config, PasswordAt};
use ess_postgres::{Conninfo, PasswordOrigin};
use ess_run::Report;

use crate::source::{PgVariables, conninfo_from_config, options};
use crate::target::env;

/// Finds the password by an option, by the document's reference, or as libpq does; returns where it was found.
pub(crate) fn password(
    context: &Context,
    conninfo: &mut Conninfo,
    file: Option<&Path>,
    known: Option<&PasswordAt>,
    config: Option<&Config>,
    variables: PgVariables,
) -> anyhow::Result<Option<PasswordAt>> {
    if let Some(path) = file {
        let path = ess_files::absolute(path)?;
        let read = PasswordFile::read(&path, &context.console)?;
        conninfo.set_password(read.password);
        return Ok((!read.is_spent).then_some(PasswordAt::File { path }));
    }
    match (known, config) {
        (Some(PasswordAt::File { path }), _) => {
            conninfo.set_password(PasswordFile::read(path, &context.console)?.password);
            return Ok(known.cloned());
        }
        (Some(PasswordAt::Config), Some(config)) => {
            let loaded = ess_synapse::Config::load(&options(config)?)?;
            if let Some(password) = conninfo_from_config(&loaded)?.password() {
                conninfo.set_password(password.clone());
            }
            return Ok(known.cloned());
        }
        (Some(PasswordAt::Environment { name }), _) if conninfo.password().is_none() => {
            let why = if variables == PgVariables::ForThisServer {
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
            context.console.note(&format!("ignoring {}: {why}", path.display()));
            None
        }
        PasswordOrigin::Given | PasswordOrigin::None(None) => None,
    })
}
