//! The older ESS: its operator would scale everything back up, so it is stopped first; then Synapse's custom resource
//! is deleted, and with it everything of Synapse. This is how Element's own page on stopping ESS does it.

use std::collections::BTreeMap;

use ess_cli::{Context, Stop};
use ess_document::{Scale, ScaledWorkload};
use ess_kube::k8s_openapi::api::core::v1::ConfigMap;
use ess_kube::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use ess_kube::{Custom, ErrorKind, OPERATOR, Workload, WorkloadKind};
use ess_run::Report;
use ess_servers::OnKube;
use serde_json::{Value, json};

use crate::{Args, all, community, known, scaled, waiting};

/// The ConfigMap that contains the deleted custom resource.
const RECORD: &str = "ess-migrate-scale";
const RECORD_KEY: &str = "synapse.json";

/// The namespace in which an earlier run found the operator.
pub(crate) fn noted(scale: &Scale) -> Option<String> {
    let is_controller =
        |workload: &&ScaledWorkload| workload.kind == WorkloadKind::Deployment.to_string() && workload.name == OPERATOR;
    Some(scale.workloads.iter().find(is_controller)?.namespace.clone())
}

/// Stops the operator, saves the custom resource in a ConfigMap, deletes it, and waits until no pod is left.
pub(crate) fn down(
    args: &Args,
    context: &Context,
    on: &OnKube,
    warnings: &[String],
) -> anyhow::Result<Vec<ScaledWorkload>> {
    can_be_found_again(args, on)?;
    let controller = controller(args, on)?;
    let noted = known(context, &controller);
    let now = on.cluster.scale_down(&controller)?;
    let pods = || running(on, &controller);
    waiting::until_none(args, context, on, "waiting for the operator to terminate", pods)?;
    let mut workloads = vec![scaled(&now, noted)];
    let synapse = on.ess.operator.as_ref().and_then(|operator| operator.synapse.as_ref());
    if let Some(synapse) = synapse {
        // Save it before it is deleted: the updater creates it again, but `up` must not depend on that.
        record(on, synapse)?;
        on.cluster.delete_custom(synapse)?;
    }
    workloads.push(ScaledWorkload {
        kind: "Synapse".to_owned(),
        namespace: on.ess.namespace.clone(),
        name: on.ess.release.clone(),
        replicas: None,
    });
    waiting::until_none(args, context, on, "waiting for Synapse's pods to terminate", || {
        waiting::left(on)
    })?;
    // The updater may create the custom resource again, which has no effect while the operator is stopped.
    community::check_is_down(&self::controller(args, on)?, warnings)?;
    community::check_stayed_down(on, warnings)?;
    Ok(workloads)
}

/// Whether the operator is running; `None` if that cannot be determined.
pub(crate) fn is_running(args: &Args, on: &OnKube) -> Option<bool> {
    controller(args, on).ok().map(|controller| controller.replicas > 0)
}

/// Refuses if there is no ElementDeployment: once Synapse's custom resource is deleted, only the ElementDeployment
/// identifies this ESS.
fn can_be_found_again(args: &Args, on: &OnKube) -> Result<(), Stop> {
    let operator = on.ess.operator.as_ref();
    if operator.is_some_and(|operator| operator.deployment.is_some()) {
        return Ok(());
    }
    let (namespace, name) = (&on.ess.namespace, &on.ess.release);
    Err(Stop::no(format!(
        "there is no ElementDeployment {name} in namespace {namespace}, so this ESS would no longer be found once its \
         Synapse is deleted"
    ))
    .hint(format!(
        "stop it by hand, and note the numbers of replicas: kubectl scale deploy/{OPERATOR} -n {} --replicas 0, then \
         kubectl scale sts -n {namespace} -l app.kubernetes.io/component=matrix-server --replicas 0",
        args.operator_namespace()
    )))
}

/// Creates the custom resource again unless the updater did, then starts the operator, which creates the rest.
pub(crate) fn up(args: &Args, context: &Context, on: &OnKube) -> anyhow::Result<Vec<ScaledWorkload>> {
    let operator = on.ess.operator.as_ref();
    if operator.is_none_or(|operator| operator.synapse.is_none()) {
        match recorded(on)? {
            Some(definition) => on.cluster.create_custom(&definition)?,
            None if operator.is_some_and(|operator| operator.deployment.is_some()) => context.console.note(&format!(
                "there is no ConfigMap {RECORD} with the custom resource of Synapse; the updater has to create it"
            )),
            None => {
                return Err(Stop::no(format!(
                    "there is no custom resource of Synapse, and no ConfigMap {RECORD} that contains it"
                ))
                .hint("apply the installer's deployment.yml again")
                .into());
            }
        }
    }
    let controller = controller(args, on)?;
    let noted = known(context, &controller);
    let wanted = noted
        .and_then(|count| i32::try_from(count).ok())
        .unwrap_or(controller.replicas.max(1));
    let now = on.cluster.scale_up(&controller, wanted)?;
    let unready = || waiting::unready(on, &on.ess.release);
    waiting::until_none(args, context, on, "waiting for Synapse to be ready", unready)?;
    on.cluster.delete::<ConfigMap>(&on.ess.namespace, RECORD)?;
    Ok(vec![scaled(&now, noted)])
}

/// Prints the state of the operator and of its custom resource.
pub(crate) fn status(args: &Args, context: &Context, on: &OnKube) {
    let line = match controller(args, on) {
        Ok(controller) => format!("{controller}: {} of {} ready", controller.ready, controller.replicas),
        Err(error) => format!("the operator: {error:#}"),
    };
    context.console.line(&line);
    let synapse = on.ess.operator.as_ref().and_then(|operator| operator.synapse.as_ref());
    let there = if synapse.is_some() { "exists" } else { "deleted" };
    context.console.line(&format!("Synapse {}: {there}", on.ess.release));
    if all(&on.ess).next().is_none() {
        context.console.line("StatefulSets of Synapse: none");
    }
}

pub(crate) fn controller(args: &Args, on: &OnKube) -> anyhow::Result<Workload> {
    let namespace = args.operator_namespace();
    let found = on.cluster.workload(WorkloadKind::Deployment, namespace, OPERATOR)?;
    found.ok_or_else(|| {
        Stop::no(format!("there is no Deployment {OPERATOR} in namespace {namespace}"))
            .hint("give the operator's namespace with --operator-namespace")
            .into()
    })
}

fn running(on: &OnKube, controller: &Workload) -> anyhow::Result<Vec<String>> {
    Ok(waiting::running(on.cluster.pods_of(controller)?.iter()))
}

/// Saves the definition in the cluster. That of an earlier run is replaced: the current one counts.
fn record(on: &OnKube, synapse: &Custom) -> anyhow::Result<()> {
    let text = synapse.definition().to_string();
    let data = BTreeMap::from([(RECORD_KEY.to_owned(), text.clone())]);
    let record = ConfigMap {
        metadata: ObjectMeta {
            name: Some(RECORD.to_owned()),
            namespace: Some(on.ess.namespace.clone()),
            ..ObjectMeta::default()
        },
        data: Some(data.clone()),
        ..ConfigMap::default()
    };
    match on.cluster.create(&on.ess.namespace, &record) {
        Err(error) if error.kind() == ErrorKind::Conflict => {
            on.cluster.change::<ConfigMap>(&on.ess.namespace, RECORD, |now| {
                (now.data.as_ref() != Some(&data)).then(|| patch(&text))
            })?;
        }
        outcome => drop(outcome?),
    }
    Ok(())
}

fn patch(text: &str) -> Value {
    json!({"data": {RECORD_KEY: text}})
}

fn recorded(on: &OnKube) -> anyhow::Result<Option<Value>> {
    let Some(record) = on.cluster.get::<ConfigMap>(&on.ess.namespace, RECORD)? else {
        return Ok(None);
    };
    let data = record.data.unwrap_or_default();
    let parsed = data.get(RECORD_KEY).and_then(|text| text.parse().ok());
    parsed.map(Some).ok_or_else(|| {
        Stop::data(format!(
            "ConfigMap {RECORD} is damaged: its {RECORD_KEY} is missing or is not JSON"
        ))
        .into()
    })
}
