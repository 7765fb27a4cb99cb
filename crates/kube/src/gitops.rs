//! GitOps controllers (Argo CD, Flux, Rancher Fleet), which keep workloads as defined in a repository.

use std::collections::{BTreeMap, BTreeSet};

use crate::ess::{Custom, Ess, INSTANCE};
use crate::workload::Workload;

/// A controller that would revert a change.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct GitOps {
    /// Its name, for messages.
    pub name: String,
    /// The command that pauses it.
    pub pause: String,
}

impl Ess {
    /// The controllers that manage a workload or custom resource of Synapse; `operator` is the operator's workload, if
    /// there is one.
    pub fn gitops(&self, operator: Option<&Workload>) -> BTreeSet<GitOps> {
        let workloads = self.synapse.iter().chain(&self.mas).chain(operator);
        let custom = self.operator.iter();
        let custom = custom.flat_map(|operator| operator.synapse.iter().chain(&operator.deployment));
        let of_custom = custom.filter_map(Custom::gitops);
        workloads.filter_map(Workload::gitops).chain(of_custom).collect()
    }
}

impl Workload {
    /// The controller that manages this workload, by its annotations and labels.
    pub fn gitops(&self) -> Option<GitOps> {
        let by_marks = GitOps::of(&self.annotations, &self.labels, &self.namespace);
        by_marks.or_else(|| Some(GitOps::argo(self.overwritten_instance()?)))
    }

    /// The label `app.kubernetes.io/instance`, if it differs from that of the pods.
    ///
    /// Argo CD before version 3 sets this label to the name of its application, without an annotation
    /// (`application.resourceTrackingMethod: label`). The chart gives both the same value.
    fn overwritten_instance(&self) -> Option<&str> {
        let pods = self.template.metadata.as_ref()?.labels.as_ref()?.get(INSTANCE)?;
        let own = self.labels.get(INSTANCE)?;
        (own != pods).then_some(own)
    }
}

impl Custom {
    /// The controller that manages this custom resource, by its annotations and labels.
    pub fn gitops(&self) -> Option<GitOps> {
        let of = |what: &str| {
            let marks = self.object["metadata"][what].as_object().into_iter().flatten();
            let pairs = marks.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())));
            pairs.collect()
        };
        GitOps::of(&of("annotations"), &of("labels"), &self.namespace)
    }
}

impl GitOps {
    fn of(annotations: &BTreeMap<String, String>, labels: &BTreeMap<String, String>, namespace: &str) -> Option<Self> {
        let mark = |name: &str| {
            let mark = annotations.get(name).or_else(|| labels.get(name));
            mark.map(String::as_str)
        };
        // Its value is APPLICATION:GROUP/KIND:NAMESPACE/NAME.
        let tracked = mark("argocd.argoproj.io/tracking-id").and_then(|id| id.split(':').next());
        if let Some(application) = tracked.or_else(|| mark("argocd.argoproj.io/instance")) {
            return Some(Self::argo(application));
        }
        for (controller, kind) in [("helm", "helmrelease"), ("kustomize", "kustomization")] {
            let prefix = format!("{controller}.toolkit.fluxcd.io");
            if let Some(name) = mark(&format!("{prefix}/name")) {
                let namespace = mark(&format!("{prefix}/namespace")).unwrap_or(namespace);
                return Some(Self {
                    name: format!("Flux's {kind} {namespace}/{name}"),
                    pause: format!(
                        "flux suspend {kind} {} -n {}",
                        ess_run::quoted(name),
                        ess_run::quoted(namespace)
                    ),
                });
            }
        }
        // k3s gives its own addons an empty one.
        if let Some(bundle) = mark("objectset.rio.cattle.io/id").filter(|id| !id.is_empty()) {
            return Some(Self {
                name: format!("Rancher Fleet's bundle {bundle}"),
                pause: "set `paused: true` in the GitRepo or Bundle, on the management cluster".to_owned(),
            });
        }
        None
    }

    fn argo(application: &str) -> Self {
        Self {
            name: format!("Argo CD's application {application}"),
            pause: format!("argocd app set {} --sync-policy none", ess_run::quoted(application)),
        }
    }
}
