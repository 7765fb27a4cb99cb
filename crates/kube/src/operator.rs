//! The older ESS: element-onprem, whose operator manages Synapse from custom resources.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIGroup;
use kube::Api;
use kube::api::{DeleteParams, DynamicObject, ListParams, PostParams};
use kube::core::ApiResource;
use serde_json::Value;
use std::collections::BTreeMap;

use crate::Cluster;
use crate::error::{Error, ErrorKind};
use crate::ess::{COMPONENT, Candidate, Custom, Distribution, Ess, Operator, PART_OF, SYNAPSE, SecretKey, Wanted};
use crate::workload::{Workload, WorkloadKind};

/// The group of the operator's custom resources.
pub(crate) const GROUP: &str = "matrix.element.io";
/// Where Element's installer puts the operator.
pub const OPERATOR_NAMESPACE: &str = "operator-onprem";
/// The operator's workload, a Deployment.
pub const OPERATOR: &str = "element-operator-controller-manager";
/// The custom resource from which the operator creates Synapse.
const SYNAPSES: &str = "synapses";
/// The custom resource from which the updater creates that one.
const DEPLOYMENTS: &str = "elementdeployments";

/// Fields of the metadata that only the API server sets.
const SERVER_OWNED: [&str; 7] = [
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "managedFields",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
];

impl Custom {
    /// Its definition, to create it again.
    pub fn definition(&self) -> Value {
        let mut object = self.object.clone();
        if let Some(object) = object.as_object_mut() {
            object.remove("status");
        }
        if let Some(meta) = object["metadata"].as_object_mut() {
            meta.retain(|name, _| !SERVER_OWNED.contains(&name.as_str()));
        }
        object
    }

    fn at<'a>(&'a self, path: &[&str]) -> &'a Value {
        path.iter().fold(&self.object, |value, part| &value[*part])
    }
}

fn resource(version: &str, kind: &str, plural: &str) -> ApiResource {
    ApiResource {
        group: GROUP.to_owned(),
        version: version.to_owned(),
        api_version: format!("{GROUP}/{version}"),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    }
}

impl Cluster {
    /// Whether the custom resource definitions of the older ESS are installed in the cluster.
    pub fn has_operator_api(&self) -> Result<bool, Error> {
        Ok(self.operator_group()?.is_some())
    }

    fn operator_group(&self) -> Result<Option<APIGroup>, Error> {
        let groups = self
            .wait(
                "cannot list the API groups of the cluster",
                self.client.list_api_groups(),
            )?
            .groups;
        Ok(groups.into_iter().find(|group| group.name == GROUP))
    }

    /// The operator's custom resources in a namespace; none if the operator was never installed.
    pub(crate) fn custom_resources(&self, namespace: &str) -> Result<Vec<Custom>, Error> {
        let what = format!("cannot list the custom resources of {GROUP}");
        let mut found: Vec<Custom> = Vec::new();
        for version in self.operator_group()?.into_iter().flat_map(|group| group.versions) {
            let resources = self.wait(&what, self.client.list_api_group_resources(&version.group_version))?;
            for served in resources.resources {
                if [SYNAPSES, DEPLOYMENTS].contains(&served.name.as_str()) {
                    let resource = resource(&version.version, &served.kind, &served.name);
                    found.extend(self.list_custom(namespace, &resource)?);
                }
            }
        }
        // Each version of the API lists the same objects: keep that of the newest version.
        found.sort_by(|a, b| (&a.plural, &a.name, &b.version).cmp(&(&b.plural, &b.name, &a.version)));
        found.dedup_by(|a, b| (&a.plural, &a.name) == (&b.plural, &b.name));
        Ok(found)
    }

    fn list_custom(&self, namespace: &str, resource: &ApiResource) -> Result<Vec<Custom>, Error> {
        let what = format!("cannot list {}.{GROUP} in namespace {namespace}", resource.plural);
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, resource);
        let list = self.wait(&what, api.list(&ListParams::default()))?;
        list.items
            .into_iter()
            .map(|object| {
                Ok(Custom {
                    kind: resource.kind.clone(),
                    plural: resource.plural.clone(),
                    version: resource.version.clone(),
                    namespace: namespace.to_owned(),
                    name: object.metadata.name.clone().unwrap_or_default(),
                    object: with_type(&object, resource, &what)?,
                })
            })
            .collect()
    }

    /// Deletes a custom resource and everything it owns.
    pub fn delete_custom(&self, custom: &Custom) -> Result<(), Error> {
        let what = format!("cannot delete {} {}/{}", custom.kind, custom.namespace, custom.name);
        let resource = resource(&custom.version, &custom.kind, &custom.plural);
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &custom.namespace, &resource);
        match self.wait(&what, api.delete(&custom.name, &DeleteParams::background())) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Creates a custom resource from its definition, unless it exists.
    pub fn create_custom(&self, definition: &Value) -> Result<(), Error> {
        let (kind, name) = (text_of(&definition["kind"]), text_of(&definition["metadata"]["name"]));
        let namespace = text_of(&definition["metadata"]["namespace"]);
        let what = format!("cannot create {kind} {namespace}/{name}");
        let broken = |why: String| Error::new(ErrorKind::Unrecognised, &what, why);
        let version = text_of(&definition["apiVersion"]);
        let (Some(version), "Synapse") = (version.strip_prefix(&format!("{GROUP}/")), kind) else {
            return Err(broken("its saved definition is damaged".to_owned()));
        };
        let object: DynamicObject =
            serde_json::from_value(definition.clone()).map_err(|error| broken(error.to_string()))?;
        let resource = resource(version, kind, SYNAPSES);
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &resource);
        match self.wait(&what, api.create(&PostParams::default(), &object)) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::Conflict => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn text_of(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Adds `apiVersion` and `kind`, which the items of a list do not have.
fn with_type(object: &DynamicObject, resource: &ApiResource, what: &str) -> Result<Value, Error> {
    let mut value =
        serde_json::to_value(object).map_err(|error| Error::new(ErrorKind::Unrecognised, what, error.to_string()))?;
    value["apiVersion"] = resource.api_version.clone().into();
    value["kind"] = resource.kind.clone().into();
    Ok(value)
}

fn owner_of(workload: &Workload) -> Option<&str> {
    let owner = workload
        .owners
        .iter()
        .find(|owner| owner.kind == "Synapse" && owner.api_version.starts_with(GROUP))?;
    Some(&owner.name)
}

/// A candidate for each custom resource, and for each owner of a Synapse.
pub(crate) fn candidates(workloads: &[Workload], custom: &[Custom]) -> Vec<Candidate> {
    let owners = workloads
        .iter()
        .filter(|workload| workload.kind == WorkloadKind::StatefulSet && workload.label(PART_OF.0) == PART_OF.1)
        .filter_map(owner_of);
    let names = custom.iter().map(|custom| custom.name.as_str());
    let candidate = |release: &str| Candidate {
        distribution: Distribution::Operator,
        release: release.to_owned(),
    };
    owners.chain(names).map(candidate).collect()
}

/// The ESS whose custom resources are named `release`.
pub(crate) fn ess(namespace: &str, release: &str, workloads: Vec<Workload>, custom: Vec<Custom>) -> Ess {
    let is_synapse = |workload: &Workload| {
        workload.label(COMPONENT) == SYNAPSE
            && (owner_of(workload) == Some(release) || workload.name.starts_with(&format!("{release}-synapse-")))
    };
    let (mut synapse, mut deployment) = (None, None);
    for custom in custom.into_iter().filter(|custom| custom.name == release) {
        match custom.plural.as_str() {
            SYNAPSES => synapse = Some(custom),
            _ => deployment = Some(custom),
        }
    }
    Ess {
        distribution: Distribution::Operator,
        namespace: namespace.to_owned(),
        release: release.to_owned(),
        synapse: workloads.into_iter().filter(is_synapse).collect(),
        // Only the successor of this operator has it.
        mas: Vec::new(),
        operator: Some(Operator { synapse, deployment }),
    }
}

/// The database according to the custom resource of Synapse, or, while that is deleted, to the one from which it is
/// created.
pub(crate) fn database(ess: &Ess) -> Result<Wanted, Error> {
    let what = format!("cannot find the database of {}", ess.place());
    let secret = |name: &str, key: &str| SecretKey {
        namespace: ess.namespace.clone(),
        name: name.to_owned(),
        key: key.to_owned(),
    };
    let operator = ess.operator.as_ref();
    let of_synapse = operator.and_then(|operator| operator.synapse.as_ref()).map(|synapse| {
        let config = synapse.at(&["spec", "config"]);
        let args = arguments(&config["database"], ["host", "port", "user", "name", "sslmode"]);
        (args, secret(text_of(&config["externalSecret"]["name"]), PASSWORD))
    });
    let of_deployment = operator
        .and_then(|operator| operator.deployment.as_ref())
        .map(|deployment| {
            let component = deployment.at(&["spec", "components", "synapse"]);
            let section = &component["config"]["postgresql"];
            let args = arguments(section, ["host", "port", "user", "database", "sslMode"]);
            let name = component["secretName"].as_str().unwrap_or("synapse");
            let key = section["passwordSecretKey"].as_str().unwrap_or(PASSWORD);
            (args, secret(name, key))
        });
    // The Secret that the operator created is deleted with Synapse; the one from which it was created remains.
    let (found, otherwise) = match (of_synapse, of_deployment) {
        (Some(found), other) => (found, other.map(|other| other.1)),
        (None, Some(found)) => (found, None),
        (None, None) => {
            let why = "there is neither a Synapse nor an ElementDeployment of that name";
            return Err(Error::new(ErrorKind::Unrecognised, what, why));
        }
    };
    let (args, password) = found;
    if password.name.is_empty() {
        let why = "its custom resource names no Secret";
        return Err(Error::new(ErrorKind::Unrecognised, what, why));
    }
    Ok(Wanted {
        args,
        password,
        otherwise,
    })
}

/// The default key of the password.
const PASSWORD: &str = "postgresPassword";

/// libpq's parameters from the fields `names` of a custom resource.
fn arguments(section: &Value, names: [&str; 5]) -> BTreeMap<String, String> {
    let value = |name: &str| match &section[name] {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    let keywords = ["host", "port", "user", "dbname", "sslmode"];
    let pairs = names.into_iter().zip(keywords);
    pairs
        .filter_map(|(name, keyword)| Some((keyword.to_owned(), value(name)?)))
        .collect()
}

/// The claim that the operator mounts at `/media`, which remains when Synapse is deleted.
pub(crate) fn media_claim(cluster: &Cluster, ess: &Ess) -> Result<Option<PersistentVolumeClaim>, Error> {
    let synapse = ess.operator.as_ref().and_then(|operator| operator.synapse.as_ref());
    let named = synapse.and_then(|synapse| synapse.at(&["spec", "config", "media", "volumeClaim"]).as_str());
    let name = named.map_or_else(|| format!("{}-synapse-media", ess.release), str::to_owned);
    cluster.get(&ess.namespace, &name)
}
