//! The target: a database that is named by its address.

use std::collections::BTreeMap;

use ess_cli::{Context, Stop};
use ess_document::Target;
use ess_postgres::{Conninfo, ConninfoError};

use crate::args::TargetArgs;
use crate::contradiction;
use crate::password::password;
use crate::source::PgVariables;

/// The target database, if it is named by its address; recorded in the document.
pub(crate) fn by_address(context: &mut Context, args: &TargetArgs) -> anyhow::Result<Option<Conninfo>> {
    if args.kube_context.is_some() {
        return Err(Stop::usage("--kube-context requires --target kube:NAMESPACE").into());
    }
    let known = context.document.target.clone().unwrap_or_default();
    let parsed = match &args.target {
        Some(text) => by_flag("--target", text)?,
        None if !known.connection.is_empty() => Conninfo::from_params(known.connection.clone(), None)?,
        None if names_a_server() => Conninfo::from_params(BTreeMap::new(), None)?,
        None => return Ok(None),
    };
    let mut conninfo = resolved(parsed, PgVariables::ForThisServer)?;
    same_server("--target", &conninfo, "target.connection", &known.connection)?;
    same_role(args, &known)?;
    let file = args.target_password_file.as_deref();
    let password = password(
        context,
        &mut conninfo,
        file,
        known.password.as_ref(),
        None,
        PgVariables::ForThisServer,
    )?;
    let target = context.document.target.get_or_insert_default();
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

/// Connects to the target and locks it; records its identity and version in the document.
pub fn lock_target(context: &mut Context, conninfo: &Conninfo) -> anyhow::Result<ess_proof::Target> {
    let name = context.application_name();
    let known = context.document.target.get_or_insert_default();
    let target = ess_proof::Target::open(
        conninfo,
        &name,
        known.role.as_deref(),
        known.identity.as_ref(),
        &context.console,
    )?;
    known.identity = Some(target.facts.identity.clone());
    known.server_version = Some(target.facts.version_text.clone());
    Ok(target)
}

pub(crate) fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Whether libpq's environment variables name a server.
pub fn names_a_server() -> bool {
    ["PGHOST", "PGHOSTADDR", "PGDATABASE", "PGSERVICE"]
        .iter()
        .any(|name| std::env::var_os(name).is_some())
}

pub(crate) fn resolved(conninfo: Conninfo, variables: PgVariables) -> anyhow::Result<Conninfo> {
    Ok(conninfo.resolve(&env, variables == PgVariables::ForThisServer)?)
}

/// A server that an option names. Only parameters that the document can contain are allowed, since later tools read
/// them from there.
pub(crate) fn by_flag(flag: &str, text: &str) -> anyhow::Result<Conninfo> {
    if text.trim().is_empty() {
        return Err(Stop::usage(format!("{flag} is empty"))
            .hint("check that the variable that the command line names is set and exported")
            .into());
    }
    let conninfo = Conninfo::parse(text).map_err(|error| {
        let stop = Stop::usage(format!("{flag}: {error}"));
        match &error {
            ConninfoError::PasswordInText => {
                stop.hint(format!("give the password with {flag}-password-file or PGPASSFILE"))
            }
            _ => error.hint().into_iter().fold(stop, Stop::hint),
        }
    })?;
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

/// Refuses an option that names another server than the document.
pub(crate) fn same_server(
    flag: &str,
    given: &Conninfo,
    field: &str,
    known: &BTreeMap<String, String>,
) -> Result<(), Stop> {
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
pub(crate) fn same_role(args: &TargetArgs, known: &Target) -> Result<(), Stop> {
    match (&args.role, &known.role) {
        (Some(given), Some(known)) if given != known => Err(contradiction("--role", given, "target.role", known)),
        _ => Ok(()),
    }
}
