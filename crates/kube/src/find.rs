//! Finds the ESS in a namespace, by the labels and owners of its workloads and by custom resources; never guesses.

use crate::error::{Error, ErrorKind};
use crate::ess::{COMPONENT, Candidate, Custom, Distribution, Ess};
use crate::workload::Workload;
use crate::{Cluster, community, operator};

impl Cluster {
    /// Finds the ESS in the namespace; `release` chooses one of several.
    pub fn find(&self, release: Option<&str>) -> Result<Ess, Error> {
        let namespace = self.namespace();
        let workloads = self.workloads(namespace)?;
        let custom = match self.custom_resources(namespace) {
            // The custom resources are those of an older ESS elsewhere in the cluster, and not needed for this one.
            Err(error) if error.kind() == ErrorKind::Forbidden && !community::candidates(&workloads).is_empty() => {
                Vec::new()
            }
            outcome => outcome?,
        };
        let candidates = candidates(&workloads, &custom);
        let fitting: Vec<&Candidate> = candidates
            .iter()
            .filter(|candidate| release.is_none_or(|release| candidate.release == release))
            .collect();
        let [one] = fitting.as_slice() else {
            return Err(not_one(namespace, release, &fitting, &candidates, &workloads, &custom));
        };
        Ok(match one.distribution {
            Distribution::Community => community::ess(namespace, &one.release, workloads),
            Distribution::Operator => operator::ess(namespace, &one.release, workloads, custom),
        })
    }
}

fn candidates(workloads: &[Workload], custom: &[Custom]) -> Vec<Candidate> {
    let mut candidates = community::candidates(workloads);
    candidates.extend(operator::candidates(workloads, custom));
    candidates.sort_by(|a, b| a.release.cmp(&b.release));
    candidates.dedup();
    candidates
}

/// The error if there is not exactly one ESS; it names everything that was found.
fn not_one(
    namespace: &str,
    release: Option<&str>,
    fitting: &[&Candidate],
    candidates: &[Candidate],
    workloads: &[Workload],
    custom: &[Custom],
) -> Error {
    let what = format!("cannot identify the ESS in namespace {namespace}");
    let listed = |candidates: &mut dyn Iterator<Item = &Candidate>| {
        let listed = candidates.map(|candidate| format!("{}: {}", candidate.release, candidate.distribution));
        listed.collect::<Vec<_>>().join("; ")
    };
    if let [first, ..] = fitting {
        return Error::new(
            ErrorKind::Unrecognised,
            what,
            format!("there are several: {}", listed(&mut fitting.iter().copied())),
        )
        .hint(format!(
            "name one of them, for example kube:{namespace}/{}",
            first.release
        ));
    }
    if let Some(release) = release.filter(|_| !candidates.is_empty()) {
        let others = listed(&mut candidates.iter());
        return Error::new(
            ErrorKind::Unrecognised,
            what,
            format!("there is no {release}; found {others}"),
        )
        .hint("name that one, or another namespace");
    }
    let mut seen: Vec<String> = workloads
        .iter()
        .map(|workload| {
            let component = workload.label(COMPONENT);
            let component = if component.is_empty() {
                "no component"
            } else {
                component
            };
            format!("{workload} ({component})")
        })
        .collect();
    seen.extend(custom.iter().map(|custom| format!("{} {}", custom.kind, custom.name)));
    let seen = if seen.is_empty() {
        "it has no workloads, or does not exist".to_owned()
    } else {
        format!("none of its objects is a Synapse of ESS: {}", seen.join(", "))
    };
    Error::new(ErrorKind::Unrecognised, what, seen)
        .hint("find it with `kubectl get statefulsets -A -l app.kubernetes.io/component=matrix-server`, or give --target postgresql://...")
}
