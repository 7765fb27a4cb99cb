//! Who else keeps a workload as some repository says.

use crate::workload::Workload;

/// A controller that would undo a change.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct GitOps {
    /// For people: which one.
    pub name: String,
    /// What to type to make it wait.
    pub pause: String,
}

impl Workload {
    /// The controller that owns this, by the marks that it leaves.
    pub fn gitops(&self) -> Option<GitOps> {
        let mark = |name: &str| {
            let mark = self.annotations.get(name).or_else(|| self.labels.get(name));
            mark.map(String::as_str)
        };
        // APPLICATION:GROUP/KIND:NAMESPACE/NAME
        let tracked = mark("argocd.argoproj.io/tracking-id").and_then(|id| id.split(':').next());
        if let Some(application) = tracked.or_else(|| mark("argocd.argoproj.io/instance")) {
            return Some(GitOps {
                name: format!("Argo CD's application {application}"),
                pause: format!("argocd app set {application} --sync-policy none"),
            });
        }
        for (controller, kind) in [("helm", "helmrelease"), ("kustomize", "kustomization")] {
            let prefix = format!("{controller}.toolkit.fluxcd.io");
            if let Some(name) = mark(&format!("{prefix}/name")) {
                let namespace = mark(&format!("{prefix}/namespace")).unwrap_or(&self.namespace);
                return Some(GitOps {
                    name: format!("Flux's {kind} {namespace}/{name}"),
                    pause: format!("flux suspend {kind} {name} -n {namespace}"),
                });
            }
        }
        None
    }
}
