//! ESS Community: what the Helm chart matrix-stack installs, and how its Synapse connects to the database.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Container, PodSpec};
use serde_yaml::Value;

use crate::Cluster;
use crate::error::{Error, ErrorKind};
use crate::ess::{COMPONENT, Candidate, Distribution, Ess, MAS, PART_OF, SYNAPSE, SecretKey, Wanted};
use crate::workload::{Workload, WorkloadKind};

/// A label of each of Synapse's workloads, with the value `RELEASE-synapse`.
const INSTANCE: &str = "k8s.element.io/synapse-instance";

fn is_of_chart(workload: &Workload) -> bool {
    workload.label(PART_OF.0) == PART_OF.1 && !workload.label("app.kubernetes.io/managed-by").is_empty()
}

fn release_of(workload: &Workload) -> Option<&str> {
    workload.label(INSTANCE).strip_suffix("-synapse")
}

/// A release for each `RELEASE-synapse-main` that has the chart's labels.
pub(crate) fn candidates(workloads: &[Workload]) -> Vec<Candidate> {
    let mains = workloads.iter().filter(|workload| {
        workload.kind == WorkloadKind::StatefulSet
            && is_of_chart(workload)
            && workload.label(COMPONENT) == SYNAPSE
            && release_of(workload).is_some_and(|release| workload.name == format!("{release}-synapse-main"))
    });
    let candidate = |workload| {
        Some(Candidate {
            distribution: Distribution::Community,
            release: release_of(workload)?.to_owned(),
        })
    };
    mains.filter_map(candidate).collect()
}

/// The release's workloads.
pub(crate) fn ess(namespace: &str, release: &str, workloads: Vec<Workload>) -> Ess {
    let (mut synapse, mut mas) = (Vec::new(), Vec::new());
    // By its name: Argo CD may overwrite the label `app.kubernetes.io/instance`.
    let mas_name = format!("{release}-matrix-authentication-service");
    for workload in workloads.into_iter().filter(is_of_chart) {
        match workload.label(COMPONENT) {
            SYNAPSE if release_of(&workload) == Some(release) => synapse.push(workload),
            MAS if workload.name == mas_name => mas.push(workload),
            _ => {}
        }
    }
    Ess {
        distribution: Distribution::Community,
        namespace: namespace.to_owned(),
        release: release.to_owned(),
        synapse,
        mas,
        operator: None,
    }
}

/// The container that assembles Synapse's configuration.
const RENDER: &str = "render-config";
/// The parts of the configuration that contain the database's address; the later one takes precedence.
const PARTS: [&str; 2] = ["01-homeserver-underrides.yaml", "04-homeserver-overrides.yaml"];
/// The variable that replaces the password in them.
const PASSWORD: &str = "SYNAPSE_POSTGRES_PASSWORD";

/// The database as Synapse's own configuration names it.
pub(crate) fn database(cluster: &Cluster, ess: &Ess) -> Result<Wanted, Error> {
    let what = format!("cannot find the database of {}", ess.place());
    let missing = |why: String| {
        Error::new(ErrorKind::Unrecognised, &what, why)
            .hint("the chart may be newer than this tool: give --target postgresql://..., and report it as a bug")
    };
    let main = ess.main().ok_or_else(|| missing("it has no synapse-main".to_owned()))?;
    let pod = main.template.spec.as_ref();
    let render = pod.and_then(|pod| container(pod, RENDER));
    let (Some(pod), Some(render)) = (pod, render) else {
        return Err(missing(format!("{main} has no container {RENDER}")));
    };
    let maps = pod
        .volumes
        .iter()
        .flatten()
        .filter_map(|volume| volume.config_map.as_ref());
    let mut args = BTreeMap::new();
    for map in maps {
        let Some(map) = cluster.get::<ConfigMap>(&ess.namespace, &map.name)? else {
            continue;
        };
        let data = map.data.unwrap_or_default();
        for part in PARTS.iter().filter_map(|part| data.get(*part)) {
            let part: Value = serde_yaml::from_str(part)
                .map_err(|error| missing(format!("Synapse's configuration is not valid YAML: {error}")))?;
            for (name, value) in part["database"]["args"].as_mapping().into_iter().flatten() {
                args.extend(name.as_str().map(str::to_owned).zip(text(value)));
            }
        }
    }
    if args.is_empty() {
        return Err(missing(format!(
            "no ConfigMap of {main} has database.args in {}",
            PARTS.join(" or ")
        )));
    }
    let password = password(render, &ess.namespace).ok_or_else(|| {
        missing(format!(
            "container {RENDER} does not name the file from which it reads {PASSWORD}"
        ))
    })?;
    Ok(Wanted {
        args,
        password,
        otherwise: None,
    })
}

fn container<'a>(pod: &'a PodSpec, name: &str) -> Option<&'a Container> {
    let all = pod.init_containers.iter().flatten().chain(&pod.containers);
    all.into_iter().find(|container| container.name == name)
}

/// The Secret behind `{{ readfile "/secrets/SECRET/KEY" | quote }}`.
fn password(render: &Container, namespace: &str) -> Option<SecretKey> {
    let variable = render.env.iter().flatten().find(|variable| variable.name == PASSWORD)?;
    let (_, path) = variable.value.as_ref()?.split_once("\"/secrets/")?;
    let (name, key) = path.split_once('"')?.0.split_once('/')?;
    Some(SecretKey {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        key: key.to_owned(),
    })
}

/// A YAML scalar as the value of a libpq parameter.
fn text(value: &serde_yaml::Value) -> Option<String> {
    match value {
        serde_yaml::Value::String(text) => Some(text.clone()),
        serde_yaml::Value::Number(number) => Some(number.to_string()),
        serde_yaml::Value::Bool(value) => Some(value.to_string()),
        _ => None,
    }
}
