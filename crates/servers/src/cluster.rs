//! Resolves `--target` to a database, and connects to it directly or through a cluster's API server.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use ess_cli::{Context, PasswordFile, Stop};
use ess_document::{Kube, PasswordAt, Profile, Target};
use ess_kube::{Cluster, Database, Error, ErrorKind, Ess, Forward, Missing, Place, PodPort, Right};
use ess_postgres::Conninfo;

use crate::args::TargetArgs;
use crate::contradiction;
use crate::target::{by_address, same_role};

/// A target that can be connected to as long as this value lives.
pub struct Reached {
    /// How to connect to it.
    pub conninfo: Conninfo,
    _forward: Option<Forward>,
}

/// An ESS in a cluster.
pub struct OnKube {
    /// The cluster.
    pub cluster: Cluster,
    /// The ESS that was found there.
    pub ess: Ess,
}

/// The target database, if the options, the document or the environment name one; recorded in the document.
pub fn target(context: &mut Context, args: &TargetArgs) -> anyhow::Result<Option<Reached>> {
    let Some(named) = named(context, args.target.as_deref(), args.kube_context.as_deref())? else {
        return Ok(by_address(context, args)?.map(|conninfo| Reached {
            conninfo,
            _forward: None,
        }));
    };
    let cluster = connect(&named)?;
    let missing = cluster.missing(&rights(&cluster)?)?;
    let missing = missing.as_ref();
    if let Some(missing) = missing.filter(|missing| missing.lacks(Right::FIND) || missing.lacks(Right::DATABASE)) {
        return Err(missing.error().into());
    }
    let is_refused = |error: &anyhow::Error| kind(error) == Some(ErrorKind::Forbidden);
    let on = match (find(context, cluster, &named), missing) {
        (Err(error), Some(missing)) if is_refused(&error) => return Err(missing.error().into()),
        (found, _) => found?,
    };
    reach(context, args, &on, missing).map(Some)
}

/// The kind of error, if it is one of a cluster.
pub fn kind(error: &anyhow::Error) -> Option<ErrorKind> {
    error.downcast_ref().map(ess_kube::Error::kind)
}

/// The permissions needed to find an ESS and reach its database; some only in some cases.
pub fn rights(cluster: &Cluster) -> anyhow::Result<Vec<Right>> {
    let custom = if cluster.has_operator_api()? {
        Right::CUSTOM
    } else {
        &[]
    };
    let forward = if cluster.is_around_us() { &[] } else { Right::FORWARD };
    Ok([Right::FIND, custom, Right::DATABASE, Right::PASSWORD, forward].concat())
}

/// The target database; an error with the option to use if none is named.
pub fn needed(context: &mut Context, args: &TargetArgs) -> anyhow::Result<Reached> {
    target(context, args)?.ok_or_else(|| {
        Stop::usage("there is no target: neither --target nor the document's `target` names one")
            .hint(
                "specify --target kube:NAMESPACE, or --target postgresql://USER@HOST/DBNAME and \
                 --target-password-file FILE",
            )
            .into()
    })
}

/// A cluster and a place in it, as the options and the document name them.
pub struct Named {
    /// The place.
    pub place: Place,
    /// The kubeconfig's context.
    pub context: Option<String>,
}

/// The ESS that the options and the document name, if any. An option can add to the document, but not contradict it.
pub fn named(context: &Context, target: Option<&str>, kube_context: Option<&str>) -> anyhow::Result<Option<Named>> {
    let known = context.document.target.as_ref();
    let known_kube = known.and_then(|target| target.kube.as_ref());
    let place = match target {
        Some(text) => Place::parse(text)?,
        None => known_kube.map(|kube| Place {
            namespace: kube.namespace.clone(),
            release: Some(kube.release.clone()),
        }),
    };
    let given = target.unwrap_or_default();
    match (&place, known_kube) {
        (Some(place), Some(known))
            if place.namespace != known.namespace
                || place.release.as_ref().is_some_and(|release| *release != known.release) =>
        {
            return Err(contradiction("--target", given, "target.kube", &known.to_string()).into());
        }
        (None, Some(known)) => {
            return Err(contradiction("--target", "a database's address", "target.kube", &known.to_string()).into());
        }
        (Some(_), None) if known.is_some_and(|target| !target.connection.is_empty()) => {
            return Err(contradiction("--target", given, "target.connection", "a database's address").into());
        }
        _ => {}
    }
    let Some(place) = place else { return Ok(None) };
    let known_context = known_kube.and_then(|kube| kube.context.as_ref());
    if let (Some(given), Some(known)) = (kube_context, known_context)
        && given != known
    {
        return Err(contradiction("--kube-context", given, "target.kube.context", known).into());
    }
    // A context that the document records from another host does not exist in a pod of this cluster.
    let noted = known_context.filter(|_| !Cluster::is_of_our_pod());
    let context = kube_context.or(noted.map(String::as_str)).map(str::to_owned);
    Ok(Some(Named { place, context }))
}

/// Connects to the cluster of a named ESS.
pub fn connect(named: &Named) -> anyhow::Result<Cluster> {
    Ok(Cluster::connect(&named.place.namespace, named.context.as_deref())?)
}

/// Finds the ESS in the cluster, and records it in the document.
pub fn find(context: &mut Context, cluster: Cluster, named: &Named) -> anyhow::Result<OnKube> {
    let ess = cluster.find(named.place.release.as_deref())?;
    let profile = match ess.distribution {
        ess_kube::Distribution::Community => Profile::Community,
        ess_kube::Distribution::Operator => Profile::Operator,
    };
    let target = context.document.target.get_or_insert_default();
    // Keep the recorded context when running in the cluster: the next program may run outside of it.
    let noted = target.kube.take().and_then(|kube| kube.context);
    target.kube = Some(Kube {
        context: cluster.context().map(str::to_owned).or(noted),
        namespace: ess.namespace.clone(),
        release: ess.release.clone(),
        profile,
    });
    Ok(OnKube { cluster, ess })
}

/// Opens a connection path to the database of an ESS. The database is recorded in the document; the forwarded port,
/// which ends with this run, is not.
///
/// `missing` are missing permissions that are needed only in some cases.
pub fn reach(
    context: &mut Context,
    args: &TargetArgs,
    on: &OnKube,
    missing: Option<&Missing>,
) -> anyhow::Result<Reached> {
    let known = context.document.target.clone().unwrap_or_default();
    same_role(args, &known)?;
    // A permission for this one Secret is enough, so a missing general permission is reported only if the read fails.
    let or_listed = |error: ess_kube::Error| match missing {
        Some(missing) if error.kind() == ErrorKind::Forbidden && missing.lacks(Right::PASSWORD) => missing.error(),
        _ => error,
    };
    let database = on.cluster.database(&on.ess)?;
    let pod = through(on, &database);
    if let Some(missing) = missing.filter(|missing| pod.is_some() && missing.lacks(Right::FORWARD)) {
        return Err(missing.error().into());
    }
    let file = match (&args.target_password_file, &known.password) {
        (Some(path), _) => Some(ess_files::absolute(path)?),
        (None, Some(PasswordAt::File { path })) => Some(path.clone()),
        _ => None,
    };
    let (password, at) = if let Some(path) = file {
        let read = PasswordFile::read(&path, &context.console)?;
        (read.password, (!read.is_spent).then_some(PasswordAt::File { path }))
    } else {
        let at = &database.password;
        let secret = PasswordAt::Secret {
            namespace: at.namespace.clone(),
            name: at.name.clone(),
            key: at.key.clone(),
        };
        (on.cluster.password(at).map_err(or_listed)?, Some(secret))
    };
    let (params, forward) = route(context, on, &database)?;
    // The cluster supplies all parameters, so libpq's environment variables are ignored.
    let mut conninfo =
        Conninfo::from_params(params, Some(password))?.resolve(&|name| std::env::var(name).ok(), false)?;
    conninfo.show_as(format!("{}:{}", database.params["host"], database.params["port"]));
    let target = context.document.target.get_or_insert_default();
    *target = Target {
        connection: database.params,
        password: at,
        role: args.role.clone().or(known.role),
        ..target.clone()
    };
    Ok(Reached {
        conninfo,
        _forward: forward,
    })
}

/// The pod to forward to through the API server. None is needed for a database outside the cluster, nor when this
/// process runs inside the cluster, where the API server would only be slower.
fn through<'a>(on: &OnKube, database: &'a Database) -> Option<&'a PodPort> {
    database.pod.as_ref().filter(|_| !on.cluster.is_around_us())
}

/// The parameters to reach the database with from here, and the forwarded port that must live meanwhile.
fn route(
    context: &Context,
    on: &OnKube,
    database: &Database,
) -> anyhow::Result<(BTreeMap<String, String>, Option<Forward>)> {
    let mut params = database.params.clone();
    // `system` is no file, but the authorities of whichever host connects; ESS's chart sets it with verify-full.
    let file = params.get("sslrootcert").filter(|file| *file != "system");
    if let Some(file) = file.filter(|file| !Path::new(file).exists()) {
        let why = format!("Synapse verifies it by the certificates in {file}, a file of its pod that is missing here");
        let hint = "copy it to that path, or use --target postgresql://... with sslrootcert and --target-password-file";
        return Err(Error::new(ErrorKind::Unrecognised, "cannot reach the database", why)
            .hint(hint)
            .into());
    }
    let Some(pod) = through(on, database) else {
        return Ok((params, None));
    };
    let report = Arc::new(context.console.clone());
    // The connection to the API server is encrypted; if the database itself requires TLS, that is used in addition.
    let sslmode = params.get("sslmode").map(String::as_str);
    let forward = if matches!(sslmode, Some("require" | "verify-ca" | "verify-full")) {
        let forward = on.cluster.forward_loopback(pod, report)?;
        params.insert("hostaddr".to_owned(), forward.host());
        forward
    } else {
        let forward = on.cluster.forward(pod, report)?;
        params.insert("host".to_owned(), forward.host());
        params.remove("sslmode");
        params.remove("sslrootcert");
        forward
    };
    params.insert("port".to_owned(), forward.port().to_string());
    Ok((params, Some(forward)))
}
