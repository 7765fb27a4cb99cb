//! The connection to a target in a cluster, and the permissions that it needs.

use ess_cli::Context;
use ess_document::Finding;
use ess_kube::{Distribution, ErrorKind, Missing, OPERATOR_NAMESPACE, Right};
use ess_servers::{OnKube, Reached, TargetArgs};

use crate::finding::{Detail, blocker, warning};
use crate::ids::{CLUSTER_LAYOUT, CLUSTER_RIGHTS, CLUSTER_UNREACHABLE, Id, TARGET_UNREACHABLE};

/// The target, as far as it could be reached.
#[derive(Default)]
pub(crate) struct ReachedTarget {
    /// The ESS, if the target was given as `kube:...` and was found.
    pub(crate) ess: Option<OnKube>,
    /// The connection parameters of the database, with the port-forward if there is one.
    pub(crate) database: Option<Reached>,
}

/// Finds the target and makes its database reachable; a failure in a cluster becomes a finding.
pub(crate) fn open(
    context: &mut Context,
    args: &TargetArgs,
    findings: &mut Vec<Finding>,
) -> anyhow::Result<ReachedTarget> {
    let Some(named) = ess_servers::named(context, args.target.as_deref(), args.kube_context.as_deref())? else {
        let database = ess_servers::target(context, args)?;
        return Ok(ReachedTarget { ess: None, database });
    };
    let Some(cluster) = noted(ess_servers::connect(&named), &CLUSTER_UNREACHABLE, findings)? else {
        return Ok(ReachedTarget::default());
    };
    let needed = ess_servers::rights(&cluster).map(|now| [&now, Right::SCALE, Right::MEDIA, Right::HELPER].concat());
    let Some(mut needed) = noted(needed, &CLUSTER_UNREACHABLE, findings)? else {
        return Ok(ReachedTarget::default());
    };
    let outcome = cluster.missing(&needed).map_err(Into::into);
    let Some(missing) = noted(outcome, &CLUSTER_UNREACHABLE, findings)? else {
        return Ok(ReachedTarget::default());
    };
    let missing = missing.as_ref();
    let rights_finding = |blocks| missing.map(|missing| rights(missing, blocks));
    if missing.is_some_and(|missing| missing.lacks(Right::FIND) || missing.lacks(Right::DATABASE)) {
        findings.extend(rights_finding(true));
        return Ok(ReachedTarget::default());
    }
    let is_refused =
        |error: &anyhow::Error| missing.is_some() && ess_servers::kind(error) == Some(ErrorKind::Forbidden);
    let on = match ess_servers::find(context, cluster, &named) {
        Err(error) if is_refused(&error) => {
            findings.extend(rights_finding(true));
            return Ok(ReachedTarget::default());
        }
        found => noted(found, &CLUSTER_UNREACHABLE, findings)?,
    };
    let Some(on) = on else {
        return Ok(ReachedTarget::default());
    };
    // Report all missing permissions in one finding, with one Role.
    let missing = if on.ess.distribution == Distribution::Operator {
        needed.extend(Right::operator(OPERATOR_NAMESPACE));
        let outcome = on.cluster.missing(&needed).map_err(Into::into);
        noted(outcome, &CLUSTER_UNREACHABLE, findings)?.flatten()
    } else {
        missing.cloned()
    };
    let missing = missing.as_ref();
    // Permissions that are missing in another namespace are a separate finding.
    let is_listed = |error: &anyhow::Error| {
        let why = error.downcast_ref().map(ess_kube::Error::why);
        missing.is_some_and(|missing| why == Some(missing.sentence()))
    };
    let (database, blocks) = match ess_servers::reach(context, args, &on, missing) {
        Err(error) if is_listed(&error) => (None, true),
        reached => (noted(reached, &TARGET_UNREACHABLE, findings)?, false),
    };
    // The database was reached, so that the password was read from a file, or from the one Secret that contains it.
    let missing = match (missing, &database) {
        (Some(missing), Some(_)) => missing.clone().without(Right::PASSWORD),
        (missing, _) => missing.cloned(),
    };
    findings.extend(missing.map(|missing| rights(&missing, blocks)));
    Ok(ReachedTarget {
        ess: Some(on),
        database,
    })
}

/// Turns an error of the cluster into a finding; an interruption or a wrong command line remains an error.
fn noted<T>(outcome: anyhow::Result<T>, id: &'static Id, findings: &mut Vec<Finding>) -> anyhow::Result<Option<T>> {
    let error = match outcome {
        Ok(done) => return Ok(Some(done)),
        Err(error) => error,
    };
    let Some(cluster) = error.downcast_ref::<ess_kube::Error>() else {
        return Err(error);
    };
    let id = match cluster.kind() {
        ErrorKind::Usage | ErrorKind::Interrupted => return Err(error),
        ErrorKind::Forbidden => &CLUSTER_RIGHTS,
        ErrorKind::Unrecognised => &CLUSTER_LAYOUT,
        _ => id,
    };
    let hint = match *id {
        CLUSTER_UNREACHABLE => "check that `kubectl get pods` works, or choose another --kube-context",
        CLUSTER_RIGHTS => "ask the cluster's administrator for that permission, or log in to the cluster again",
        CLUSTER_LAYOUT => "check --target, or give the URL of the database: --target postgresql://...",
        _ => "check that its pods are ready: `kubectl get pods`",
    };
    let known = cluster.remedy().filter(|_| id == &CLUSTER_RIGHTS);
    findings.push(blocker(id, format!("{error:#}")).hint(known.unwrap_or(hint)));
    Ok(None)
}

fn rights(missing: &Missing, blocks: bool) -> Finding {
    let message = missing.sentence();
    let finding = if blocks {
        blocker(&CLUSTER_RIGHTS, message)
    } else {
        warning(&CLUSTER_RIGHTS, format!("{message} (later steps may need it)"))
    };
    let rights: Vec<String> = missing.rights.iter().map(ToString::to_string).collect();
    finding.hint(missing.remedy()).with("rights", rights)
}
