//! The objects of the stand-in and their changes.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Group and version, resource, kind, and subresources.
pub(super) const RESOURCES: &[(&str, &str, &str, &[&str])] = &[
    ("v1", "configmaps", "ConfigMap", &[]),
    ("v1", "persistentvolumeclaims", "PersistentVolumeClaim", &[]),
    ("v1", "pods", "Pod", &["exec", "portforward"]),
    ("v1", "secrets", "Secret", &[]),
    ("v1", "services", "Service", &[]),
    ("apps/v1", "deployments", "Deployment", &["scale"]),
    ("apps/v1", "statefulsets", "StatefulSet", &["scale"]),
    ("batch/v1", "jobs", "Job", &[]),
    ("networking.k8s.io/v1", "ingresses", "Ingress", &[]),
    ("rbac.authorization.k8s.io/v1", "rolebindings", "RoleBinding", &[]),
    ("rbac.authorization.k8s.io/v1", "roles", "Role", &[]),
    (
        "matrix.element.io/v1alpha2",
        "elementdeployments",
        "ElementDeployment",
        &[],
    ),
    ("matrix.element.io/v1alpha2", "synapses", "Synapse", &[]),
];

/// Resource, namespace, name.
type Key = (String, String, String);

#[derive(Default)]
pub(super) struct Store {
    objects: BTreeMap<Key, Value>,
    version: u64,
    /// Every change: resource version, type of event, resource, object.
    pub(super) events: Vec<(u64, &'static str, String, Value)>,
}

fn resource_of(object: &Value) -> &'static str {
    let kind = object["kind"].as_str().unwrap();
    RESOURCES
        .iter()
        .find(|known| known.2 == kind)
        .unwrap_or_else(|| panic!("unknown kind {kind}"))
        .1
}

fn key(object: &Value) -> Key {
    let meta = &object["metadata"];
    let text = |name: &str| meta[name].as_str().unwrap_or_default().to_owned();
    (resource_of(object).to_owned(), text("namespace"), text("name"))
}

impl Store {
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Creates or replaces an object, and returns it as stored.
    pub(super) fn put(&mut self, mut object: Value) -> Value {
        let key = key(&object);
        let before = self.objects.get(&key);
        if let Some(before) = before {
            object["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"].clone();
            if *before == object {
                return object;
            }
        }
        self.version += 1;
        let what = if before.is_some() { "MODIFIED" } else { "ADDED" };
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = format!("00000000-0000-4000-8000-{:012}", self.version).into();
            object["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
        }
        self.events.push((self.version, what, key.0.clone(), object.clone()));
        self.objects.insert(key, object.clone());
        object
    }

    pub(super) fn named(&self, resource: &str, namespace: &str, name: &str) -> Option<&Value> {
        self.objects
            .get(&(resource.to_owned(), namespace.to_owned(), name.to_owned()))
    }

    pub(super) fn remove(&mut self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        let key = (resource.to_owned(), namespace.to_owned(), name.to_owned());
        let object = self.objects.remove(&key)?;
        self.version += 1;
        self.events.push((self.version, "DELETED", key.0, object.clone()));
        Some(object)
    }

    /// All objects of a resource.
    pub(super) fn all(&self, resource: &str) -> impl Iterator<Item = &Value> {
        self.objects
            .iter()
            .filter(move |(key, _)| key.0 == resource)
            .map(|(_, object)| object)
    }

    /// Whether any object belongs to a group and version: a custom resource without objects is not installed.
    pub(super) fn serves(&self, group_version: &str) -> bool {
        !group_version.starts_with("matrix.")
            || self
                .objects
                .values()
                .any(|object| object["apiVersion"] == group_version)
            || self.events.iter().any(|event| event.3["apiVersion"] == group_version)
    }
}

/// Whether labels match a selector such as `a=b,c!=d,e in (f,g),h,!i`.
pub(super) fn selects(selector: &str, labels: &Value) -> bool {
    let mut depth = 0;
    let terms = selector.split(|c: char| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        c == ',' && depth == 0
    });
    let has = |name: &str| labels[name.trim()].as_str();
    terms.map(str::trim).filter(|term| !term.is_empty()).all(|term| {
        if let Some((name, values)) = term.split_once(" in ") {
            let values = values.trim().trim_start_matches('(').trim_end_matches(')');
            has(name).is_some_and(|value| values.split(',').any(|wanted| wanted.trim() == value))
        } else if let Some((name, value)) = term.split_once("!=") {
            has(name) != Some(value.trim())
        } else if let Some((name, value)) = term.split_once('=') {
            has(name) == Some(value.trim_start_matches('=').trim())
        } else if let Some(name) = term.strip_prefix('!') {
            has(name).is_none()
        } else {
            has(term).is_some()
        }
    })
}

/// Applies a JSON merge patch (RFC 7396).
pub(super) fn merge(target: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, value) in patch {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(name);
        } else {
            merge(&mut target[name.as_str()], value);
        }
    }
}
