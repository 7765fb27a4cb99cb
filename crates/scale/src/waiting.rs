//! Waits for pods to terminate, and for workloads to become ready.

use std::time::{Duration, Instant};

use ess_cli::{Context, Exit, Stop};
use ess_kube::k8s_openapi::api::core::v1::Pod;
use ess_kube::{Ess, Workload};
use ess_run::Report;
use ess_servers::OnKube;

use crate::{Args, all};

/// The longest time between two checks, if no pod changes meanwhile.
const STEP: Duration = Duration::from_secs(1);

/// Selects the pods of Synapse and MAS of all releases in a namespace, and those of the configuration check's Job.
const LABELS: &str =
    "app.kubernetes.io/part-of=matrix-stack,app.kubernetes.io/component in (matrix-server,matrix-authentication)";

/// The pods of Synapse and MAS that are running, or may be.
pub(crate) fn left(on: &OnKube) -> anyhow::Result<Vec<String>> {
    let pods = on.cluster.list::<Pod>(&on.ess.namespace, LABELS)?;
    Ok(running(pods.iter().filter(|pod| is_of(&on.ess, pod))))
}

/// Those of the pods that are running, or may be.
pub(crate) fn running<'a>(pods: impl Iterator<Item = &'a Pod>) -> Vec<String> {
    let running = pods.filter_map(|pod| {
        let phase = pod
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref())
            .unwrap_or("Unknown");
        // The pod of a completed Job, or a pod that has ended for good, such as one that was evicted.
        let ended = matches!(phase, "Succeeded" | "Failed");
        (!ended).then(|| format!("{} ({phase})", pod.metadata.name.as_deref().unwrap_or_default()))
    });
    running.collect()
}

fn is_of(ess: &Ess, pod: &Pod) -> bool {
    let labels = pod.metadata.labels.as_ref();
    let instance = labels.and_then(|labels| labels.get("app.kubernetes.io/instance"));
    instance.is_some_and(|instance| {
        instance.starts_with(&format!("{}-synapse-", ess.release))
            || *instance == format!("{}-matrix-authentication-service", ess.release)
    })
}

/// Waits until `left` is empty.
pub(crate) fn until_none(
    args: &Args,
    context: &Context,
    on: &OnKube,
    what: &str,
    left: impl Fn() -> anyhow::Result<Vec<String>>,
) -> anyhow::Result<()> {
    let start = Instant::now();
    context.console.stage(what, None);
    loop {
        let moment = on.cluster.moment::<Pod>(&on.ess.namespace, LABELS)?;
        let names = left()?;
        if names.is_empty() {
            context.console.done();
            return Ok(());
        }
        if start.elapsed().as_secs() >= args.timeout {
            context.console.done();
            return Err(Stop::new(
                Exit::Unavailable,
                format!("{what}: timed out after {} s, left: {}", args.timeout, names.join(", ")),
            )
            .hint("see `kubectl describe pod`, fix the cause, and re-run the same command")
            .into());
        }
        // Lets the console print its progress line every ten seconds.
        context.console.advance(0);
        let rest = Duration::from_secs(args.timeout).saturating_sub(start.elapsed());
        on.cluster
            .wait_for_change::<Pod>(&on.ess.namespace, LABELS, &moment, STEP.min(rest))?;
    }
}

/// The workloads that currently have fewer ready pods than replicas.
pub(crate) fn unready(on: &OnKube, release: &str) -> anyhow::Result<Vec<String>> {
    let now = on.cluster.find(Some(release))?;
    let describe = |workload: &Workload| format!("{workload} ({} of {} ready)", workload.ready, workload.replicas);
    let unready = all(&now)
        .filter(|workload| workload.ready < workload.replicas)
        .map(describe);
    let mut unready: Vec<String> = unready.collect();
    if now.main().is_none() {
        unready.push("no synapse-main yet".to_owned());
    }
    Ok(unready)
}
