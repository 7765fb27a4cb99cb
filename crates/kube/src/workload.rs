//! Workloads: StatefulSets and Deployments.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use serde_json::{Value, json};

use crate::Cluster;
use crate::error::{Error, ErrorKind};

/// The annotation with the number of replicas that a workload had before it was scaled down.
pub const REPLICAS: &str = "ess-migrate/replicas";

/// The kind of a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkloadKind {
    /// Pods with stable names and volumes of their own.
    StatefulSet,
    /// Interchangeable pods.
    Deployment,
}

impl fmt::Display for WorkloadKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::StatefulSet => "StatefulSet",
            Self::Deployment => "Deployment",
        })
    }
}

/// A StatefulSet or a Deployment.
#[derive(Debug, Clone)]
pub struct Workload {
    /// Its kind.
    pub kind: WorkloadKind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The desired number of pods.
    pub replicas: i32,
    /// The number of ready pods.
    pub ready: i32,
    /// The number of pods that it had before ess-scale scaled it down, from its annotation.
    pub recorded: Option<i32>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// The template of its pods.
    pub template: PodTemplateSpec,
    /// Its owners.
    pub owners: Vec<OwnerReference>,
    selector: String,
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

impl Workload {
    fn new(
        kind: WorkloadKind,
        meta: ObjectMeta,
        replicas: Option<i32>,
        ready: Option<i32>,
        labels: LabelSelector,
        template: PodTemplateSpec,
    ) -> Self {
        let annotations = meta.annotations.unwrap_or_default();
        Self {
            kind,
            namespace: meta.namespace.unwrap_or_default(),
            name: meta.name.unwrap_or_default(),
            replicas: replicas.unwrap_or(1),
            ready: ready.unwrap_or(0),
            recorded: annotations.get(REPLICAS).and_then(|text| text.parse().ok()),
            labels: meta.labels.unwrap_or_default(),
            annotations,
            template,
            owners: meta.owner_references.unwrap_or_default(),
            selector: selector(labels),
        }
    }

    /// The value of a label; empty if it does not have it.
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }

    /// The image of a container, such as `oci.element.io/synapse:v1.159.0`.
    pub fn image(&self, container: &str) -> Option<&str> {
        let containers = &self.template.spec.as_ref()?.containers;
        containers
            .iter()
            .find(|found| found.name == container)
            .and_then(|found| found.image.as_deref())
    }
}

impl From<StatefulSet> for Workload {
    fn from(object: StatefulSet) -> Self {
        let spec = object.spec.unwrap_or_default();
        let ready = object.status.and_then(|status| status.ready_replicas);
        Self::new(
            WorkloadKind::StatefulSet,
            object.metadata,
            spec.replicas,
            ready,
            spec.selector,
            spec.template,
        )
    }
}

impl From<Deployment> for Workload {
    fn from(object: Deployment) -> Self {
        let spec = object.spec.unwrap_or_default();
        let ready = object.status.and_then(|status| status.ready_replicas);
        Self::new(
            WorkloadKind::Deployment,
            object.metadata,
            spec.replicas,
            ready,
            spec.selector,
            spec.template,
        )
    }
}

fn selector(selector: LabelSelector) -> String {
    let labels = selector.match_labels.unwrap_or_default();
    let pairs: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    pairs.join(",")
}

impl Cluster {
    /// Every `StatefulSet` and `Deployment` of a namespace.
    pub fn workloads(&self, namespace: &str) -> Result<Vec<Workload>, Error> {
        let sets = self.list::<StatefulSet>(namespace, "")?.into_iter().map(Workload::from);
        let deployments = self.list::<Deployment>(namespace, "")?.into_iter().map(Workload::from);
        Ok(sets.chain(deployments).collect())
    }

    /// The current state of a workload; `None` if it does not exist.
    pub fn workload(&self, kind: WorkloadKind, namespace: &str, name: &str) -> Result<Option<Workload>, Error> {
        Ok(match kind {
            WorkloadKind::StatefulSet => self.get::<StatefulSet>(namespace, name)?.map(Workload::from),
            WorkloadKind::Deployment => self.get::<Deployment>(namespace, name)?.map(Workload::from),
        })
    }

    /// The pods of a workload, in any state.
    pub fn pods_of(&self, workload: &Workload) -> Result<Vec<Pod>, Error> {
        if workload.selector.is_empty() {
            let what = format!("cannot find the pods of {workload}");
            return Err(Error::new(
                ErrorKind::Unrecognised,
                what,
                "it does not select them by labels",
            ));
        }
        self.list::<Pod>(&workload.namespace, &workload.selector)
    }

    /// Sets a workload's replicas to 0 and records their previous number, both in one change.
    ///
    /// An existing record is kept: it is from before an earlier run, after which the workload may have been restarted.
    pub fn scale_down(&self, workload: &Workload) -> Result<Workload, Error> {
        self.rescale(workload, |now| {
            (now.replicas > 0).then(|| {
                let before = now.recorded.unwrap_or(now.replicas);
                json!({"metadata": {"annotations": {REPLICAS: before.to_string()}}, "spec": {"replicas": 0}})
            })
        })
    }

    /// Sets a workload's replicas to the recorded number, or else to `replicas`, and removes the record.
    pub fn scale_up(&self, workload: &Workload, replicas: i32) -> Result<Workload, Error> {
        self.rescale(workload, |now| {
            let wanted = now.recorded.unwrap_or(replicas);
            (now.replicas != wanted || now.recorded.is_some())
                .then(|| json!({"metadata": {"annotations": {REPLICAS: null}}, "spec": {"replicas": wanted}}))
        })
    }

    fn rescale(&self, workload: &Workload, change: impl Fn(&Workload) -> Option<Value>) -> Result<Workload, Error> {
        let (namespace, name) = (&workload.namespace, &workload.name);
        match workload.kind {
            WorkloadKind::StatefulSet => self
                .change(namespace, name, |now: &StatefulSet| change(&now.clone().into()))
                .map(Workload::from),
            WorkloadKind::Deployment => self
                .change(namespace, name, |now: &Deployment| change(&now.clone().into()))
                .map(Workload::from),
        }
    }
}
