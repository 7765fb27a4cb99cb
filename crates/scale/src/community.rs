//! ESS Community: only a Helm upgrade sets replicas, so ess-scale can change them directly.

use ess_cli::{Context, Stop};
use ess_document::ScaledWorkload;
use ess_kube::{REPLICAS, Workload};
use ess_run::Report;
use ess_run::text::count;
use ess_servers::OnKube;

use crate::{Args, all, known, scaled, waiting};

/// Scales every workload to 0, recording its replicas in the same change, and waits until no pod is left.
pub(crate) fn down(
    args: &Args,
    context: &Context,
    on: &OnKube,
    warnings: &[String],
) -> anyhow::Result<Vec<ScaledWorkload>> {
    let mut workloads = Vec::new();
    for workload in all(&on.ess) {
        let noted = known(context, workload);
        tell_stale(context, workload);
        if workload.replicas > 0 {
            context.console.command(&format!(
                "kubectl scale -n {} {workload} --replicas=0",
                workload.namespace
            ));
        }
        let now = on.cluster.scale_down(workload)?;
        workloads.push(scaled(&now, noted));
    }
    waiting::until_none(args, context, on, "waiting for Synapse's pods to terminate", || {
        waiting::left(on)
    })?;
    check_stayed_down(on, warnings)?;
    Ok(workloads)
}

/// Prints a note if a workload that was scaled down is running again, with a number other than the recorded one.
fn tell_stale(context: &Context, workload: &Workload) {
    let Some(recorded) = workload.recorded else { return };
    if workload.replicas > 0 && recorded != workload.replicas {
        let kind = workload.kind.to_string().to_lowercase();
        let (namespace, name) = (&workload.namespace, &workload.name);
        context.console.note(&format!(
            "{workload} has {} now, and {recorded} on record from before it was stopped: the record is used; if it is \
             out of date, remove it and re-run the same command: \
             kubectl annotate {kind} -n {namespace} {name} {REPLICAS}-",
            count(workload.replicas, "replica")
        ));
    }
}

/// Fails if a workload was scaled back up meanwhile: its new pods may not have existed yet when pods were listed.
pub(crate) fn check_stayed_down(on: &OnKube, warnings: &[String]) -> anyhow::Result<()> {
    let now = on.cluster.find(Some(&on.ess.release))?;
    all(&now).try_for_each(|workload| check_is_down(workload, warnings))?;
    Ok(())
}

/// Fails if a workload has replicas, with a hint at what may have scaled it back up.
pub(crate) fn check_is_down(workload: &Workload, warnings: &[String]) -> Result<(), Stop> {
    if workload.replicas == 0 {
        return Ok(());
    }
    let stop = Stop::no(format!("{workload} was scaled back to {} meanwhile", workload.replicas));
    Err(match warnings.first() {
        Some(warning) => stop.hint(warning.clone()),
        None => stop
            .hint("find out what did that (a GitOps controller, a helm upgrade), stop it, and re-run the same command"),
    })
}

/// Restores the replicas of every workload: the number recorded in the cluster, or else that of the document.
pub(crate) fn up(args: &Args, context: &Context, on: &OnKube) -> anyhow::Result<Vec<ScaledWorkload>> {
    let mut workloads = Vec::new();
    // MAS first: Synapse sends requests to it.
    for workload in all(&on.ess).rev() {
        let noted = known(context, workload);
        tell_stale(context, workload);
        let wanted = noted
            .and_then(|count| i32::try_from(count).ok())
            .unwrap_or(workload.replicas);
        if workload.replicas == 0 && workload.recorded.is_none() && noted.is_none() {
            context.console.note(&format!(
                "{workload} stays at 0 replicas: it had none when it was stopped, or something else stopped it"
            ));
        }
        let now = on.cluster.scale_up(workload, wanted)?;
        workloads.push(scaled(&now, noted));
    }
    workloads.reverse();
    let unready = || waiting::unready(on, &on.ess.release);
    waiting::until_none(args, context, on, "waiting for Synapse to be ready", unready)?;
    Ok(workloads)
}
