//! The permissions that are needed in the cluster, checked all at once, and the Role that would grant missing ones.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ess_files::hex;
use futures_util::future::join_all;
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use kube::Api;
use kube::api::PostParams;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::Cluster;
use crate::error::{Error, ErrorKind};
use crate::operator::GROUP;

/// A permission.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    /// The namespace; `None` for that of the [`Cluster`].
    pub namespace: Option<String>,
    /// The API group, such as `apps`; empty for the core group.
    pub group: &'static str,
    /// The resource, such as `pods/exec`.
    pub resource: &'static str,
    /// The verb, such as `get`.
    pub verb: &'static str,
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        if !self.group.is_empty() {
            write!(f, ".{}", self.group)?;
        }
        Ok(())
    }
}

const fn right(verb: &'static str, group: &'static str, resource: &'static str) -> Right {
    Right {
        namespace: None,
        group,
        resource,
        verb,
    }
}

impl Right {
    /// To find an ESS.
    pub const FIND: &[Self] = &[
        right("list", "apps", "statefulsets"),
        right("list", "apps", "deployments"),
        right("list", "", "pods"),
    ];
    /// To reach the database.
    pub const DATABASE: &[Self] = &[right("get", "", "configmaps"), right("get", "", "services")];
    /// To read its password, unless a file contains it; permission for that one Secret is enough.
    pub const PASSWORD: &[Self] = &[right("get", "", "secrets")];
    /// To reach a database that is a pod of the cluster.
    pub const FORWARD: &[Self] = &[
        // Over WebSocket a stream is opened with GET; newer API servers also require `create`.
        right("get", "", "pods/portforward"),
        right("create", "", "pods/portforward"),
    ];
    /// To find the pod behind a Service.
    pub const SERVED: &[Self] = &[right("get", "", "services"), right("list", "", "pods")];
    /// To find the older ESS, where its custom resource definitions are installed.
    pub const CUSTOM: &[Self] = &[
        right("list", GROUP, "elementdeployments"),
        right("list", GROUP, "synapses"),
    ];
    /// To stop and start Synapse.
    pub const SCALE: &[Self] = &[
        right("get", "apps", "statefulsets"),
        right("patch", "apps", "statefulsets"),
        right("get", "apps", "deployments"),
        right("patch", "apps", "deployments"),
    ];
    /// To write to the media volume.
    pub const MEDIA: &[Self] = &[
        right("get", "", "persistentvolumeclaims"),
        right("get", "", "pods/exec"),
        right("create", "", "pods/exec"),
    ];
    /// To mount the media volume in a helper pod, where no pod of Synapse does.
    pub const HELPER: &[Self] = &[
        right("get", "", "pods"),
        right("create", "", "pods"),
        right("delete", "", "pods"),
    ];

    /// To stop and start the older ESS, in addition to what every ESS needs.
    pub fn operator(operator_namespace: &str) -> Vec<Self> {
        let mut rights = vec![
            right("delete", GROUP, "synapses"),
            right("create", GROUP, "synapses"),
            right("get", "", "configmaps"),
            right("create", "", "configmaps"),
            right("patch", "", "configmaps"),
            right("delete", "", "configmaps"),
        ];
        let there = [
            right("get", "apps", "deployments"),
            right("patch", "apps", "deployments"),
            right("list", "", "pods"),
        ];
        rights.extend(there.iter().map(|right| right.in_namespace(operator_namespace)));
        rights
    }

    /// The same permission in another namespace.
    #[must_use]
    pub fn in_namespace(&self, namespace: &str) -> Self {
        Self {
            namespace: Some(namespace.to_owned()),
            ..self.clone()
        }
    }
}

/// All missing permissions.
#[derive(Debug, Clone)]
pub struct Missing {
    /// The permissions.
    pub rights: Vec<Right>,
    /// The user name of this account in the cluster, if the cluster reports it.
    pub user: Option<String>,
    namespace: String,
}

impl Missing {
    /// Whether at least one of `rights` is missing.
    pub fn lacks(&self, rights: &[Right]) -> bool {
        self.rights.iter().any(|right| rights.contains(right))
    }

    /// The missing permissions other than `rights`; `None` if there are no others.
    #[must_use]
    pub fn without(mut self, rights: &[Right]) -> Option<Self> {
        self.rights.retain(|right| !rights.contains(right));
        (!self.rights.is_empty()).then_some(self)
    }

    /// What is missing, as a sentence.
    pub fn sentence(&self) -> String {
        let who = self.user.as_deref().unwrap_or("this account");
        let mut by_namespace: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for right in &self.rights {
            by_namespace
                .entry(self.namespace_of(right))
                .or_default()
                .push(right.to_string());
        }
        let list: Vec<String> = by_namespace
            .iter()
            .map(|(namespace, rights)| format!("in namespace {namespace}: {}", rights.join(", ")))
            .collect();
        format!("{who} lacks permissions {}", list.join("; "))
    }

    /// An error that names all of them, with the Role that would grant them.
    pub fn error(&self) -> Error {
        let what = format!("cannot work in namespace {}", self.namespace);
        Error::new(ErrorKind::Forbidden, what, self.sentence()).hint(self.remedy())
    }

    /// A hint with the Role that would grant them.
    pub fn remedy(&self) -> String {
        let manifests = self.manifests();
        format!(
            "an administrator can grant them with `kubectl apply -f -`:\n{}",
            manifests.trim_end()
        )
    }

    fn namespace_of<'a>(&'a self, right: &'a Right) -> &'a str {
        right.namespace.as_deref().unwrap_or(&self.namespace)
    }

    /// The Roles that would grant them, and their bindings, as YAML for `kubectl apply -f -`.
    pub fn manifests(&self) -> String {
        let mut by_namespace: BTreeMap<&str, BTreeMap<(&str, &str), BTreeSet<&str>>> = BTreeMap::new();
        for right in &self.rights {
            let rules = by_namespace.entry(self.namespace_of(right)).or_default();
            rules
                .entry((right.group, right.resource))
                .or_default()
                .insert(right.verb);
        }
        let subject = self.subject();
        let mut text = String::new();
        for (namespace, rules) in by_namespace {
            let rules: Vec<Value> = rules
                .into_iter()
                .map(
                    |((group, resource), verbs)| json!({"apiGroups": [group], "resources": [resource], "verbs": verbs}),
                )
                .collect();
            // The name depends on the content: a Role that is applied over another of the same name revokes what that
            // one grants.
            let digest = hex(&Sha256::digest(json!([subject, rules]).to_string()));
            let name = format!("ess-migrate-{}", &digest[..8]);
            let meta = json!({"name": name, "namespace": namespace});
            let api = "rbac.authorization.k8s.io";
            let role = json!({"apiVersion": format!("{api}/v1"), "kind": "Role", "metadata": meta, "rules": rules});
            let binding = json!({
                "apiVersion": format!("{api}/v1"),
                "kind": "RoleBinding",
                "metadata": meta,
                "roleRef": {"apiGroup": api, "kind": "Role", "name": name},
                "subjects": [subject],
            });
            for object in [role, binding] {
                let object = serde_yaml::to_string(&object).unwrap_or_default();
                text.push_str("---\n");
                text.push_str(&object);
            }
        }
        text
    }

    fn subject(&self) -> Value {
        let user = self.user.as_deref().unwrap_or("USER");
        let account = user
            .strip_prefix("system:serviceaccount:")
            .and_then(|rest| rest.split_once(':'));
        match account {
            Some((namespace, name)) => json!({"kind": "ServiceAccount", "name": name, "namespace": namespace}),
            None => json!({"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}),
        }
    }
}

impl Cluster {
    /// Which of these permissions are missing; `None` if none are.
    pub fn missing(&self, rights: &[Right]) -> Result<Option<Missing>, Error> {
        let what = "cannot check the permissions of this account";
        let api: Api<SelfSubjectAccessReview> = Api::all(self.client.clone());
        let params = PostParams::default();
        let mut seen = BTreeSet::new();
        let rights: Vec<&Right> = rights.iter().filter(|right| seen.insert(*right)).collect();
        let asked = rights.iter().map(|right| {
            let (api, params) = (&api, &params);
            let review = self.review(right);
            async move { api.create(params, &review).await }
        });
        let answers = self.wait(what, async {
            join_all(asked).await.into_iter().collect::<Result<Vec<_>, _>>()
        })?;
        let denied = |(right, review): (&&Right, SelfSubjectAccessReview)| {
            let allowed = review.status.is_some_and(|status| status.allowed);
            (!allowed).then(|| (*right).clone())
        };
        let missing: Vec<Right> = rights.iter().zip(answers).filter_map(denied).collect();
        if missing.is_empty() {
            return Ok(None);
        }
        let who: Api<SelfSubjectReview> = Api::all(self.client.clone());
        // Fails before Kubernetes 1.28, which has no SelfSubjectReview in authentication.k8s.io/v1.
        let user = self
            .wait(what, who.create(&params, &SelfSubjectReview::default()))
            .ok()
            .and_then(|review| review.status?.user_info?.username);
        Ok(Some(Missing {
            rights: missing,
            user,
            namespace: self.namespace().to_owned(),
        }))
    }

    /// Fails with an error that names every missing permission, with the Role that would grant them.
    pub fn require(&self, rights: &[Right]) -> Result<(), Error> {
        self.missing(rights)?.map_or(Ok(()), |missing| Err(missing.error()))
    }

    fn review(&self, right: &Right) -> SelfSubjectAccessReview {
        let (resource, subresource) = match right.resource.split_once('/') {
            Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
            None => (right.resource, None),
        };
        SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(ResourceAttributes {
                    namespace: Some(right.namespace.as_deref().unwrap_or(self.namespace()).to_owned()),
                    verb: Some(right.verb.to_owned()),
                    group: Some(right.group.to_owned()),
                    resource: Some(resource.to_owned()),
                    subresource,
                    ..ResourceAttributes::default()
                }),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_role_grants_what_is_missing_and_nothing_else() {
        let missing = Missing {
            rights: vec![
                Right::FORWARD[0].clone(),
                Right::FORWARD[1].clone(),
                Right::SCALE[1].in_namespace("operator-onprem"),
            ],
            user: Some("system:serviceaccount:ops:mover".to_owned()),
            namespace: "ess".to_owned(),
        };
        assert_eq!(
            missing.sentence(),
            "system:serviceaccount:ops:mover lacks permissions in namespace ess: get pods/portforward, \
             create pods/portforward; in namespace operator-onprem: patch statefulsets.apps"
        );
        let text = missing.manifests();
        let objects: Vec<serde_yaml::Value> = serde_yaml::Deserializer::from_str(&text)
            .map(|object| serde::Deserialize::deserialize(object).expect("it is YAML"))
            .collect();
        assert_eq!(objects.len(), 4, "{text}");
        assert_eq!(objects[0]["rules"][0]["verbs"][0], "create");
        assert_eq!(objects[0]["rules"][1], serde_yaml::Value::Null);
        assert_eq!(objects[1]["subjects"][0]["kind"], "ServiceAccount");
        assert_eq!(objects[2]["metadata"]["namespace"], "operator-onprem");
    }

    #[test]
    fn a_role_takes_nothing_from_the_one_that_was_applied_before() {
        let name = |rights: &[Right], user: &str| {
            let missing = Missing {
                rights: rights.to_vec(),
                user: Some(user.to_owned()),
                namespace: "ess".to_owned(),
            };
            let text = missing.manifests();
            let names: BTreeSet<&str> = text
                .lines()
                .filter_map(|line| line.trim().strip_prefix("name: ess-migrate"))
                .collect();
            assert_eq!(names.len(), 1, "{text}");
            names.into_iter().next().map(str::to_owned)
        };
        let first = name(Right::FORWARD, "me");
        assert_eq!(name(Right::FORWARD, "me"), first);
        assert_eq!(name(&[Right::FORWARD, Right::FORWARD].concat(), "me"), first);
        assert_ne!(name(Right::SCALE, "me"), first);
        assert_ne!(name(Right::FORWARD, "system:serviceaccount:ess:job"), first);
    }
}
