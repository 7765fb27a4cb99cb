//! Finds the ESS in a namespace, by the labels and owners of its workloads and by custom resources; never guesses.

use std::fmt;

use crate::error::{Error, Kind};
use crate::operator::{Custom, Operator};
use crate::workload::Workload;
use crate::{Cluster, Place, community, operator};

/// How an ESS was installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// ESS Community: the Helm chart matrix-stack.
    Community,
    /// The older element-onprem, whose operator manages everything from custom resources.
    Operator,
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Community => "ESS Community (Helm chart matrix-stack)",
            Self::Operator => "ESS of the operator (element-onprem)",
        })
    }
}

/// An ESS in a cluster.
#[derive(Debug, Clone)]
pub struct Ess {
    /// How it was installed.
    pub profile: Profile,
    /// Where it is.
    pub namespace: String,
    /// The Helm release, or the name of the operator's custom resources.
    pub release: String,
    /// Synapse's processes.
    pub synapse: Vec<Workload>,
    /// Matrix Authentication Service, where it is installed.
    pub mas: Vec<Workload>,
    /// The custom resources of the operator.
    pub operator: Option<Operator>,
}

impl Ess {
    /// Where it is, as `--target` names it.
    pub fn place(&self) -> Place {
        Place {
            namespace: self.namespace.clone(),
            release: Some(self.release.clone()),
        }
    }

    /// The main process; `None` while the operator's Synapse is deleted.
    pub fn main(&self) -> Option<&Workload> {
        self.synapse
            .iter()
            .find(|workload| workload.name == format!("{}-synapse-main", self.release))
    }
}

/// Something in a namespace that looks like an ESS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) profile: Profile,
    pub(crate) release: String,
}

/// The label of all parts of ESS, in both profiles.
pub(crate) const PART_OF: (&str, &str) = ("app.kubernetes.io/part-of", "matrix-stack");
pub(crate) const COMPONENT: &str = "app.kubernetes.io/component";
pub(crate) const SYNAPSE: &str = "matrix-server";
pub(crate) const MAS: &str = "matrix-authentication";

impl Cluster {
    /// Finds the ESS in the namespace; `release` chooses one of several.
    pub fn find(&self, release: Option<&str>) -> Result<Ess, Error> {
        let namespace = self.namespace();
        let workloads = self.workloads(namespace)?;
        let custom = match self.custom_resources(namespace) {
            // The custom resources are those of an older ESS elsewhere in the cluster, and not needed for this one.
            Err(error) if error.kind() == Kind::Forbidden && !community::candidates(&workloads).is_empty() => {
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
        Ok(match one.profile {
            Profile::Community => community::ess(namespace, &one.release, workloads),
            Profile::Operator => operator::ess(namespace, &one.release, workloads, custom),
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
        let listed = candidates.map(|candidate| format!("{}: {}", candidate.release, candidate.profile));
        listed.collect::<Vec<_>>().join("; ")
    };
    if let [first, ..] = fitting {
        return Error::new(
            Kind::Unrecognised,
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
            Kind::Unrecognised,
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
    Error::new(Kind::Unrecognised, what, seen)
        .hint("find it with `kubectl get statefulsets -A -l app.kubernetes.io/component=matrix-server`, or give --target postgresql://...")
}
