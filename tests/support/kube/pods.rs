//! The controllers: pods start and stop with the number of replicas, the operator creates objects for its custom
//! resource, and objects are deleted with their owner.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::State;
use super::store::Store;

/// Since when a pod is starting or ending.
type Moving = HashMap<String, Instant>;

/// Reconciles the cluster with its objects, until the runtime ends.
pub(super) async fn keep(state: Arc<State>) {
    let mut moving = Moving::new();
    loop {
        once(&state, &mut moving);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn once(state: &State, moving: &mut Moving) {
    let settings = state.settings.lock().unwrap();
    let mut store = state.store();
    for (name, replicas) in &settings.healed {
        for object in all(&store, &["statefulsets", "deployments"]) {
            if object["metadata"]["name"] == **name {
                set(&mut store, object, |object| {
                    object["spec"]["replicas"] = (*replicas).into();
                });
            }
        }
    }
    if settings.updater {
        update(&mut store, &settings.made_by_operator);
    }
    operate(&mut store, &settings.made_by_operator);
    collect_garbage(&mut store);
    for workload in all(&store, &["statefulsets", "deployments"]) {
        scale(&mut store, &workload, moving, settings.slowness);
    }
    // Pods without an owner start too.
    for pod in all(&store, &["pods"]) {
        if pod["metadata"]["ownerReferences"].is_null() {
            come_up(&mut store, pod, moving, settings.slowness);
        }
    }
}

fn all(store: &Store, resources: &[&str]) -> Vec<Value> {
    resources
        .iter()
        .flat_map(|resource| store.all(resource).cloned())
        .collect()
}

fn set(store: &mut Store, mut object: Value, edit: impl FnOnce(&mut Value)) {
    edit(&mut object);
    store.put(object);
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap()
}

fn namespace(object: &Value) -> &str {
    object["metadata"]["namespace"].as_str().unwrap()
}

/// The updater of the older ESS creates the custom resource of Synapse.
fn update(store: &mut Store, made: &[Value]) {
    for synapse in made.iter().filter(|object| object["kind"] == "Synapse") {
        let (namespace, name) = (namespace(synapse), name(synapse));
        if store.named("elementdeployments", namespace, name).is_some()
            && store.named("synapses", namespace, name).is_none()
        {
            store.put(synapse.clone());
        }
    }
}

/// The operator of the older ESS resets its objects to its own definitions, including replicas.
fn operate(store: &mut Store, made: &[Value]) {
    let runs = all(store, &["deployments"]).iter().any(|deployment| {
        name(deployment) == "element-operator-controller-manager"
            && deployment["status"]["readyReplicas"].as_i64() > Some(0)
    });
    for object in made.iter().filter(|object| runs && object["kind"] == "StatefulSet") {
        let owner = object["metadata"]["ownerReferences"][0]["name"].as_str().unwrap();
        let Some(owner) = store.named("synapses", namespace(object), owner) else {
            continue;
        };
        let owner = owner["metadata"]["uid"].clone();
        match store.named("statefulsets", namespace(object), name(object)).cloned() {
            None => set(store, object.clone(), |object| {
                object["metadata"]["ownerReferences"][0]["uid"] = owner;
            }),
            Some(now) => set(store, now, |now| {
                now["spec"]["replicas"] = object["spec"]["replicas"].clone();
            }),
        }
    }
}

fn collect_garbage(store: &mut Store) {
    for object in all(store, &["statefulsets", "deployments", "pods", "secrets"]) {
        let owner = &object["metadata"]["ownerReferences"][0];
        let resource = match owner["kind"].as_str() {
            Some("Synapse") => "synapses",
            Some("StatefulSet") => "statefulsets",
            Some("Deployment") => "deployments",
            _ => continue,
        };
        let is_pod = object["kind"] == "Pod";
        // Another object with the same name is not the owner.
        let there = store.named(resource, namespace(&object), owner["name"].as_str().unwrap());
        if there.is_none_or(|there| there["metadata"]["uid"] != owner["uid"]) {
            if is_pod {
                set(store, object, |pod| {
                    pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
                });
            } else {
                let resource = if object["kind"] == "Secret" {
                    "secrets"
                } else {
                    "statefulsets"
                };
                store.remove(resource, namespace(&object), name(&object));
            }
        }
    }
    // An ending pod whose owner was deleted belongs to no workload that would remove it.
    for pod in all(store, &["pods"]) {
        let owner = &pod["metadata"]["ownerReferences"][0];
        let orphan = owner["kind"] == "StatefulSet"
            && store
                .named("statefulsets", namespace(&pod), owner["name"].as_str().unwrap())
                .is_none();
        if orphan && !pod["metadata"]["deletionTimestamp"].is_null() {
            store.remove("pods", namespace(&pod), name(&pod));
        }
    }
}

fn scale(store: &mut Store, workload: &Value, moving: &mut Moving, slowness: Duration) {
    let wanted = usize::try_from(workload["spec"]["replicas"].as_i64().unwrap_or(1)).unwrap();
    let owned = |pod: &&Value| {
        let owner = &pod["metadata"]["ownerReferences"][0];
        pod["metadata"]["namespace"] == workload["metadata"]["namespace"]
            && owner["name"] == workload["metadata"]["name"]
            && owner["kind"] == workload["kind"]
    };
    let pods: Vec<Value> = store.all("pods").filter(owned).cloned().collect();
    let names: Vec<String> = (0..wanted)
        .map(|number| format!("{}-{number}", name(workload)))
        .collect();
    for wanted in &names {
        if !pods.iter().any(|pod| name(pod) == wanted) {
            store.put(pod(workload, wanted));
        }
    }
    let mut ready = 0;
    for pod in pods {
        if names.iter().any(|wanted| wanted == name(&pod)) && pod["metadata"]["deletionTimestamp"].is_null() {
            ready += i64::from(come_up(store, pod, moving, slowness));
        } else {
            go_down(store, pod, moving, slowness);
        }
    }
    let (replicas, namespace, name) = (i64::try_from(wanted).unwrap(), namespace(workload), name(workload));
    let resource = if workload["kind"] == "Deployment" {
        "deployments"
    } else {
        "statefulsets"
    };
    let now = store.named(resource, namespace, name).cloned().unwrap();
    set(store, now, |now| {
        now["status"] = json!({"replicas": replicas, "readyReplicas": ready, "availableReplicas": ready,
            "observedGeneration": 1, "updatedReplicas": replicas});
        if resource == "statefulsets" {
            now["status"]["currentReplicas"] = replicas.into();
        }
    });
}

fn pod(workload: &Value, name: &str) -> Value {
    let template = &workload["spec"]["template"];
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": workload["metadata"]["namespace"],
            "labels": template["metadata"]["labels"],
            "ownerReferences": [{"apiVersion": workload["apiVersion"], "kind": workload["kind"],
                "name": workload["metadata"]["name"], "uid": workload["metadata"]["uid"], "controller": true}],
        },
        "spec": template["spec"],
    })
}

/// Starts a pod, and returns whether it is ready.
fn come_up(store: &mut Store, pod: Value, moving: &mut Moving, slowness: Duration) -> bool {
    if ["Running", "Succeeded", "Failed"].contains(&pod["status"]["phase"].as_str().unwrap_or_default()) {
        return true;
    }
    let key = format!("up {}/{}", namespace(&pod), name(&pod));
    let since = *moving.entry(key.clone()).or_insert_with(Instant::now);
    let ready = since.elapsed() >= slowness;
    if ready {
        moving.remove(&key);
    }
    set(store, pod, |pod| {
        let truth = if ready { "True" } else { "False" };
        pod["spec"]["nodeName"] = "node-1".into();
        pod["status"] = json!({
            "phase": if ready { "Running" } else { "Pending" },
            "conditions": [{"type": "Ready", "status": truth}],
        });
    });
    ready
}

fn go_down(store: &mut Store, pod: Value, moving: &mut Moving, slowness: Duration) {
    let (namespace, name) = (namespace(&pod).to_owned(), name(&pod).to_owned());
    let key = format!("down {namespace}/{name}");
    let since = *moving.entry(key.clone()).or_insert_with(Instant::now);
    if since.elapsed() >= slowness {
        moving.remove(&key);
        store.remove("pods", &namespace, &name);
    } else if pod["metadata"]["deletionTimestamp"].is_null() {
        set(store, pod, |pod| {
            pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
            pod["status"]["conditions"] = json!([{"type": "Ready", "status": "False"}]);
        });
    }
}
