//! What an ESS in a cluster consists of, for both ways to install it.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use crate::Place;
use crate::workload::Workload;

/// How an ESS was installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distribution {
    /// ESS Community: the Helm chart matrix-stack.
    Community,
    /// The older element-onprem, whose operator manages everything from custom resources.
    Operator,
}

impl fmt::Display for Distribution {
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
    pub distribution: Distribution,
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
    pub(crate) distribution: Distribution,
    pub(crate) release: String,
}

/// The label of all parts of ESS, in both profiles.
pub(crate) const PART_OF: (&str, &str) = ("app.kubernetes.io/part-of", "matrix-stack");
/// The label that Argo CD overwrites: unfit to find anything by.
pub(crate) const INSTANCE: &str = "app.kubernetes.io/instance";
pub(crate) const COMPONENT: &str = "app.kubernetes.io/component";
pub(crate) const SYNAPSE: &str = "matrix-server";
pub(crate) const MAS: &str = "matrix-authentication";

/// The custom resources of an ESS.
#[derive(Debug, Clone)]
pub struct Operator {
    /// The one from which the operator creates Synapse; absent while Synapse is stopped.
    pub synapse: Option<Custom>,
    /// The one from which the updater creates the other.
    pub deployment: Option<Custom>,
}

/// One of the operator's custom resources.
#[derive(Debug, Clone)]
pub struct Custom {
    /// Its kind, such as `Synapse`.
    pub kind: String,
    /// The plural of its kind, such as `synapses`.
    pub plural: String,
    /// The version of its API, such as `v1alpha2`.
    pub version: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The complete object.
    pub object: Value,
}

/// One value of one Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretKey {
    /// The Secret's namespace.
    pub namespace: String,
    /// The Secret's name.
    pub name: String,
    /// The key in it.
    pub key: String,
}

impl fmt::Display for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of Secret {}/{}", self.key, self.namespace, self.name)
    }
}

/// The database according to a distribution's own configuration.
pub(crate) struct Wanted {
    /// `database.args`.
    pub(crate) args: BTreeMap<String, String>,
    pub(crate) password: SecretKey,
    /// Where the password is if that Secret does not exist.
    pub(crate) otherwise: Option<SecretKey>,
}
