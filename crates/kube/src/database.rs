//! Finds Synapse's database: a pod of the cluster, or a server outside of it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Secret, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use secrecy::SecretString;
use zeroize::Zeroize;

use crate::error::{Error, ErrorKind};
use crate::ess::{Distribution, Ess, SecretKey};
use crate::{Cluster, Right, community, operator};

/// How Synapse connects to its database.
#[derive(Debug, Clone)]
pub struct Database {
    /// libpq's parameters from Synapse's configuration, without the password.
    pub params: BTreeMap<String, String>,
    /// Where the password is.
    pub password: SecretKey,
    /// The pod that serves it; `None` if it is outside of the cluster.
    pub pod: Option<PodPort>,
}

/// A port of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodPort {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod.
    pub pod: String,
    /// The port.
    pub port: u16,
}

impl fmt::Display for PodPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "port {} of pod {}/{}", self.port, self.namespace, self.pod)
    }
}

/// The arguments of Synapse that are used here too: which database it is, and how to connect to it.
const KEPT: [&str; 5] = ["host", "port", "user", "sslmode", "sslrootcert"];

impl Cluster {
    /// Finds the database of an ESS.
    pub fn database(&self, ess: &Ess) -> Result<Database, Error> {
        let wanted = match ess.distribution {
            Distribution::Community => community::database(self, ess)?,
            Distribution::Operator => operator::database(ess)?,
        };
        let what = format!("cannot find the database of {}", ess.place());
        let get = |name: &str| wanted.args.get(name).cloned();
        let mut params: BTreeMap<String, String> = KEPT
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), get(name)?)))
            .collect();
        let dbname = get("dbname").or_else(|| get("database"));
        let (Some(host), Some(dbname)) = (get("host"), dbname) else {
            return Err(Error::new(
                ErrorKind::Unrecognised,
                what,
                "its configuration names no host or no database",
            ));
        };
        params.insert("dbname".to_owned(), dbname);
        let port = params
            .entry("port".to_owned())
            .or_insert_with(|| "5432".to_owned())
            .clone();
        let host = host.trim_end_matches('.').to_owned();
        params.insert("host".to_owned(), host.clone());
        let service = service_of(&host, &ess.namespace);
        if let Some((namespace, _)) = &service
            && *namespace != ess.namespace
            // A name such as `db.internal` is more often a DNS name than a Service of another namespace.
            && (host.contains(".svc") || !self.resolves(&host)?)
        {
            self.require_elsewhere(namespace)?;
        }
        let pod = match service {
            Some((namespace, name)) => match self.get::<Service>(&namespace, &name) {
                Ok(Some(service)) => match outside(&service) {
                    Some(host) => {
                        params.insert("host".to_owned(), host);
                        None
                    }
                    None => Some(self.behind(&namespace, &name, service, &port)?),
                },
                Ok(None) => None,
                // Then it is a DNS name.
                Err(error)
                    if error.kind() == ErrorKind::Forbidden && namespace != ess.namespace && !host.contains(".svc") =>
                {
                    None
                }
                Err(error) => return Err(error),
            },
            None => None,
        };
        let mut password = wanted.password;
        if let Some(other) = wanted.otherwise
            && self.get::<Secret>(&password.namespace, &password.name)?.is_none()
        {
            password = other;
        }
        Ok(Database { params, password, pod })
    }

    /// Whether a host name resolves on this host.
    fn resolves(&self, host: &str) -> Result<bool, Error> {
        self.stoppable("cannot look up the database", async {
            let found = tokio::time::timeout(Duration::from_secs(5), tokio::net::lookup_host((host, 0))).await;
            Ok(found.is_ok_and(|found| found.is_ok()))
        })
    }

    /// Checks the permissions in another namespace: they were checked only in the namespace of ESS.
    fn require_elsewhere(&self, namespace: &str) -> Result<(), Error> {
        let forward = if self.is_around_us() { &[] } else { Right::FORWARD };
        let rights = [Right::SERVED, forward].concat();
        let there: Vec<Right> = rights.iter().map(|right| right.in_namespace(namespace)).collect();
        self.require(&there)
    }

    /// Reads the password from a Secret.
    pub fn password(&self, at: &SecretKey) -> Result<SecretString, Error> {
        let what = format!("cannot read {at}");
        let missing = |why: &str| Error::new(ErrorKind::NotFound, &what, why);
        let secret = self.get::<Secret>(&at.namespace, &at.name)?;
        let mut data = secret
            .and_then(|secret| secret.data)
            .ok_or_else(|| missing("there is no such Secret"))?;
        let value = data.remove(&at.key);
        for other in data.values_mut() {
            other.0.zeroize();
        }
        let value = value.ok_or_else(|| missing("the Secret has no such key"))?.0;
        // Like the chart's own renderer and the operator, strip only line breaks at the end.
        let mut text = String::from_utf8(value).map_err(|error| {
            error.into_bytes().zeroize();
            missing("it is not UTF-8")
        })?;
        let password = SecretString::from(text.trim_end_matches(['\r', '\n']));
        text.zeroize();
        Ok(password)
    }

    /// The pod behind a Service.
    fn behind(&self, namespace: &str, name: &str, service: Service, port: &str) -> Result<PodPort, Error> {
        let spec = service.spec.unwrap_or_default();
        let what = format!("cannot find the pod behind Service {namespace}/{name}");
        let selector = spec.selector.unwrap_or_default();
        if selector.is_empty() {
            return Err(Error::new(ErrorKind::Unrecognised, what, "it selects no pods")
                .hint("give --target postgresql://... with an address that can be reached from here"));
        }
        let labels: Vec<String> = selector.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let pods = self.list::<Pod>(namespace, &labels.join(","))?;
        let (ready, others): (Vec<&Pod>, Vec<&Pod>) = pods.iter().partition(|pod| is_ready(pod));
        let names = |pods: &[&Pod]| {
            let named = pods.iter().map(|pod| {
                let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
                format!(
                    "{} ({})",
                    pod.metadata.name.as_deref().unwrap_or_default(),
                    phase.unwrap_or("unknown")
                )
            });
            named.collect::<Vec<_>>().join(", ")
        };
        let pod = match ready.as_slice() {
            [one] => *one,
            [] if others.is_empty() => {
                return Err(Error::new(ErrorKind::Unavailable, what, "there is no such pod")
                    .hint("start the database: it must run during the migration"));
            }
            [] => {
                let why = format!("none is ready: {}", names(&others));
                return Err(Error::new(ErrorKind::Unavailable, what, why).hint("see `kubectl describe pod`"));
            }
            several => {
                let why = format!("there are several, and only one accepts writes: {}", names(several));
                return Err(Error::new(ErrorKind::Unrecognised, what, why)
                    .hint("give --target postgresql://... with the address of the primary"));
            }
        };
        let wanted: Option<u16> = port.parse().ok();
        let served = spec
            .ports
            .iter()
            .flatten()
            .find(|served| Some(served.port) == wanted.map(i32::from));
        let found = served.map_or(wanted, |served| port_of(served, pod));
        let port = found.ok_or_else(|| Error::new(ErrorKind::Unrecognised, &what, format!("it has no port {port}")))?;
        Ok(PodPort {
            namespace: namespace.to_owned(),
            pod: pod.metadata.name.clone().unwrap_or_default(),
            port,
        })
    }
}

/// The host outside of the cluster to which a Service of type ExternalName refers.
fn outside(service: &Service) -> Option<String> {
    let spec = service.spec.as_ref()?;
    let name = spec.external_name.as_ref()?;
    (spec.type_.as_deref() == Some("ExternalName")).then(|| name.trim_end_matches('.').to_owned())
}

/// The port of the pod to which a Service's port maps.
fn port_of(served: &ServicePort, pod: &Pod) -> Option<u16> {
    let port = match &served.target_port {
        None => served.port,
        Some(IntOrString::Int(port)) => *port,
        Some(IntOrString::String(name)) => {
            let containers = &pod.spec.as_ref()?.containers;
            let mut ports = containers.iter().flat_map(|container| container.ports.iter().flatten());
            ports.find(|port| port.name.as_ref() == Some(name))?.container_port
        }
    };
    u16::try_from(port).ok()
}

/// Whether a pod is ready and is not being deleted.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = |condition: &&k8s_openapi::api::core::v1::PodCondition| condition.type_ == "Ready";
    pod.metadata.deletion_timestamp.is_none()
        && conditions
            .into_iter()
            .flatten()
            .find(ready)
            .is_some_and(|condition| condition.status == "True")
}

/// Namespace and name of the Service to which a host name refers, if it looks like one.
fn service_of(host: &str, namespace: &str) -> Option<(String, String)> {
    let labels: Vec<&str> = host.split('.').collect();
    let is_address = host.parse::<std::net::IpAddr>().is_ok() || host.starts_with('/');
    match labels.as_slice() {
        _ if is_address => None,
        [name] => Some((namespace.to_owned(), (*name).to_owned())),
        [name, namespace] | [name, namespace, "svc", ..] => Some(((*namespace).to_owned(), (*name).to_owned())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::service_of;

    #[test]
    fn a_service_is_distinguished_from_a_server_outside() {
        let of = |host| service_of(host, "ess").map(|(namespace, name)| format!("{namespace}/{name}"));
        assert_eq!(
            of("ess-postgres.ess.svc.cluster.local").as_deref(),
            Some("ess/ess-postgres")
        );
        assert_eq!(of("synapse-postgres").as_deref(), Some("ess/synapse-postgres"));
        assert_eq!(of("pg-rw.databases").as_deref(), Some("databases/pg-rw"));
        assert_eq!(of("db.example.org"), None);
        assert_eq!(of("10.0.0.1"), None);
        assert_eq!(of("/var/run/postgresql"), None);
    }
}
