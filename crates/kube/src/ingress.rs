//! The certificates of ESS's Ingresses, and what issues them.

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, ListParams};
use serde_json::Value;
use zeroize::Zeroize as _;

use crate::Cluster;
use crate::error::{Error, ErrorKind};
use crate::ess::{Ess, PART_OF};

/// What an Ingress needs a certificate for.
#[derive(Debug, Clone)]
pub struct Tls {
    /// The name of the Ingress.
    pub ingress: String,
    /// The hosts that the certificate must cover.
    pub hosts: Vec<String>,
    /// The Secret with the certificate; `None` if the Ingress controller's own default certificate is used.
    pub secret: Option<String>,
    /// The certificate in that Secret.
    pub certificate: Stored,
    /// The issuer that cert-manager uses for it.
    pub issuer: Option<Issuer>,
}

/// A certificate in a Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stored {
    /// The Secret's `tls.crt`, in PEM.
    Pem(Vec<u8>),
    /// There is no such Secret, or it has no certificate.
    Missing,
    /// The permission to read the Secret is missing.
    Unreadable,
}

/// An Issuer or ClusterIssuer of cert-manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer {
    /// Its kind and name.
    pub name: String,
    /// How it proves that the names are ours.
    pub challenge: Challenge,
}

/// A way to prove to a certificate authority that names are ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Challenge {
    /// By an HTTP request to each name, which therefore must lead to the cluster.
    Http01,
    /// By a DNS record.
    Dns01,
    /// The authority asks for no proof, as a private one.
    None,
    /// The issuer cannot be read.
    Unknown,
}

const CERT_MANAGER: &str = "cert-manager.io";

impl Cluster {
    /// The certificates that the Ingresses of an ESS need. Those of all releases in the namespace, if there are several.
    pub fn certificates(&self, ess: &Ess) -> Result<Vec<Tls>, Error> {
        let namespace = &ess.namespace;
        let what = format!("cannot list ingresses in namespace {namespace}");
        let resource = resource("networking.k8s.io", "Ingress", "ingresses");
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &resource);
        let params = ListParams::default().labels(&format!("{}={}", PART_OF.0, PART_OF.1));
        let ingresses = self.wait(&what, api.list(&params))?.items;
        let mut all = Vec::new();
        for ingress in ingresses {
            let issuer = self.issuer(namespace, &ingress)?;
            let spec = &ingress.data["spec"];
            for entry in spec["tls"].as_array().into_iter().flatten() {
                let mut hosts = texts(&entry["hosts"]);
                if hosts.is_empty() {
                    let rules = spec["rules"].as_array().into_iter().flatten();
                    hosts = rules
                        .filter_map(|rule| Some(rule["host"].as_str()?.to_owned()))
                        .collect();
                }
                let secret = entry["secretName"].as_str().map(str::to_owned);
                let certificate = match &secret {
                    Some(secret) => self.stored(namespace, secret)?,
                    None => Stored::Missing,
                };
                all.push(Tls {
                    ingress: ingress.metadata.name.clone().unwrap_or_default(),
                    hosts,
                    secret,
                    certificate,
                    issuer: issuer.clone(),
                });
            }
        }
        Ok(all)
    }

    fn stored(&self, namespace: &str, name: &str) -> Result<Stored, Error> {
        let secret = match self.get::<Secret>(namespace, name) {
            Err(error) if error.kind() == ErrorKind::Forbidden => return Ok(Stored::Unreadable),
            found => found?,
        };
        let mut data = secret.and_then(|secret| secret.data).unwrap_or_default();
        let certificate = data.remove("tls.crt");
        for other in data.values_mut() {
            other.0.zeroize();
        }
        Ok(certificate.map_or(Stored::Missing, |certificate| Stored::Pem(certificate.0)))
    }

    /// The issuer that the annotations of an Ingress name.
    fn issuer(&self, namespace: &str, ingress: &DynamicObject) -> Result<Option<Issuer>, Error> {
        let annotations = ingress.metadata.annotations.as_ref();
        let named = |annotation: &str| annotations?.get(&format!("{CERT_MANAGER}/{annotation}")).cloned();
        let (kind, plural, name) = match (named("cluster-issuer"), named("issuer")) {
            (Some(name), _) => ("ClusterIssuer", "clusterissuers", name),
            (None, Some(name)) => ("Issuer", "issuers", name),
            (None, None) => return Ok(None),
        };
        let resource = resource(CERT_MANAGER, kind, plural);
        let api: Api<DynamicObject> = if kind == "Issuer" {
            Api::namespaced_with(self.client.clone(), namespace, &resource)
        } else {
            Api::all_with(self.client.clone(), &resource)
        };
        let what = format!("cannot read {kind} {name}");
        let challenge = match self.wait(&what, api.get_opt(&name)) {
            Ok(found) => found.map_or(Challenge::Unknown, |issuer| challenge(&issuer.data["spec"])),
            Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
            // It may need permissions outside of the namespace.
            Err(_) => Challenge::Unknown,
        };
        Ok(Some(Issuer {
            name: format!("{kind} {name}"),
            challenge,
        }))
    }
}

/// The challenge of an issuer's specification: HTTP-01 if any of its solvers uses it.
fn challenge(spec: &Value) -> Challenge {
    let Some(acme) = spec.get("acme") else {
        return Challenge::None;
    };
    let solvers = acme["solvers"].as_array();
    if solvers.is_some_and(|solvers| solvers.iter().all(|solver| solver.get("dns01").is_some())) {
        Challenge::Dns01
    } else {
        Challenge::Http01
    }
}

fn texts(list: &Value) -> Vec<String> {
    let list = list.as_array().into_iter().flatten();
    list.filter_map(|text| Some(text.as_str()?.to_owned())).collect()
}

fn resource(group: &str, kind: &str, plural: &str) -> ApiResource {
    ApiResource {
        group: group.to_owned(),
        version: "v1".to_owned(),
        api_version: format!("{group}/v1"),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_issuer_s_challenge_is_that_of_its_solvers() {
        let of = |solvers: Value| challenge(&json!({"acme": {"solvers": solvers}}));
        assert_eq!(of(json!([{"http01": {}}])), Challenge::Http01);
        assert_eq!(of(json!([{"dns01": {}}])), Challenge::Dns01);
        assert_eq!(
            of(json!([{"dns01": {}, "selector": {}}, {"http01": {}}])),
            Challenge::Http01
        );
        assert_eq!(challenge(&json!({"ca": {"secretName": "ca"}})), Challenge::None);
    }
}
