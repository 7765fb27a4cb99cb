//! Two installations as their installers leave them: names, labels, volumes and Secrets of the chart matrix-stack
//! 26.8 and of the older operator. What the programs do not read is left out.

use std::process::Stdio;

use serde_json::{Value, json};

use super::Kube;
use crate::support::{ESS_PASSWORD, SERVER_NAME};

/// base64, as in the data of a Secret.
pub(super) fn encoded(text: &str) -> String {
    use std::io::Write as _;
    let mut base64 = std::process::Command::new("base64");
    let mut child = base64
        .arg("-w0")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
}

fn secret(namespace: &str, name: &str, values: &[(&str, &str)]) -> Value {
    let data: serde_json::Map<String, Value> = values
        .iter()
        .map(|(key, value)| ((*key).to_owned(), encoded(value).into()))
        .collect();
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace}, "type": "Opaque", "data": data})
}

fn claim(namespace: &str, name: &str, size: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}, "volumeName": format!("pv-{name}")},
        "status": {"phase": "Bound", "capacity": {"storage": size}}})
}

struct Part<'a> {
    kind: &'a str,
    namespace: &'a str,
    name: String,
    replicas: i64,
    labels: Value,
    pod: Value,
}

impl Part<'_> {
    fn object(self) -> Value {
        let instance = self.labels["app.kubernetes.io/instance"].clone();
        let mut object = json!({"apiVersion": "apps/v1", "kind": self.kind,
            "metadata": {"name": self.name, "namespace": self.namespace, "labels": self.labels},
            "spec": {"replicas": self.replicas,
                "selector": {"matchLabels": {"app.kubernetes.io/instance": instance}},
                "template": {"metadata": {"labels": self.labels}, "spec": self.pod}}});
        if self.kind == "StatefulSet" {
            object["spec"]["serviceName"] = self.name.into();
        }
        object
    }
}

/// The labels that the chart gives each of its workloads.
fn labels(release: &str, component: &str, name: &str) -> Value {
    json!({"app.kubernetes.io/part-of": "matrix-stack", "app.kubernetes.io/managed-by": "Helm",
        "app.kubernetes.io/component": component, "app.kubernetes.io/name": name,
        "app.kubernetes.io/instance": format!("{release}-{name}"), "helm.sh/chart": "matrix-stack-26.8.1"})
}

/// A process of the chart's Synapse.
fn synapse(namespace: &str, release: &str, process: &str, replicas: i64) -> Value {
    let mut labels = labels(release, "matrix-server", &format!("synapse-{process}"));
    labels["app.kubernetes.io/version"] = "v1.159.0".into();
    labels["k8s.element.io/synapse-instance"] = format!("{release}-synapse").into();
    let media = match process {
        "main" => {
            json!({"name": "media", "persistentVolumeClaim": {"claimName": format!("{release}-synapse-media")}})
        }
        _ => json!({"name": "media", "emptyDir": {"medium": "Memory"}}),
    };
    let password = format!("{{{{ readfile \"/secrets/{release}-generated/POSTGRES_SYNAPSE_PASSWORD\" | quote }}}}");
    Part {
        kind: "StatefulSet",
        namespace,
        name: format!(
            "{release}-synapse-{}",
            if process == "federation-sender" {
                "fed-sender"
            } else {
                process
            }
        ),
        replicas,
        labels,
        pod: json!({
            "securityContext": {"fsGroup": 10091, "runAsGroup": 10091, "runAsNonRoot": true, "runAsUser": 10091,
                "seccompProfile": {"type": "RuntimeDefault"}},
            "initContainers": [{"name": "render-config", "image": "ghcr.io/element-hq/ess-helm/matrix-tools:0.9.0",
                "env": [{"name": "SYNAPSE_POSTGRES_PASSWORD", "value": password},
                    {"name": "APPLICATION_NAME", "value": "{{ hostname }}"}]}],
            "containers": [{"name": "synapse", "image": "oci.element.io/synapse:v1.159.0",
                "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                    "capabilities": {"drop": ["ALL"]}},
                "volumeMounts": [{"name": "media", "mountPath": "/media"}, {"name": "tmp", "mountPath": "/tmp"}]}],
            "volumes": [media, {"name": "tmp", "emptyDir": {"medium": "Memory"}},
                {"name": "plain-config", "configMap": {"name": format!("{release}-synapse"), "defaultMode": 420}}],
        }),
    }
    .object()
}

/// The chart matrix-stack with a Synapse of two processes, and without MAS, as required for a migration.
pub(super) fn community(kube: &Kube, namespace: &str, release: &str) {
    for (process, replicas) in [("main", 1), ("federation-sender", 2)] {
        kube.put(synapse(namespace, release, process, replicas));
    }
    let pod = |container: &str, image: &str| json!({"containers": [{"name": container, "image": image}]});
    let mut postgres = pod("postgres", "docker.io/postgres:17-alpine");
    postgres["containers"][0]["ports"] = json!([{"name": "postgres", "containerPort": 5432}]);
    postgres["volumes"] =
        json!([{"name": "database", "persistentVolumeClaim": {"claimName": format!("{release}-postgres-data")}}]);
    let host = format!("{release}-postgres.{namespace}.svc.cluster.local.");
    let objects = [
        Part {
            kind: "StatefulSet",
            namespace,
            name: format!("{release}-postgres"),
            replicas: 1,
            labels: labels(release, "matrix-stack-db", "postgres"),
            pod: postgres,
        }
        .object(),
        Part {
            kind: "Deployment",
            namespace,
            name: format!("{release}-haproxy"),
            replicas: 1,
            labels: labels(release, "matrix-stack-ingress", "haproxy"),
            pod: pod("haproxy", "docker.io/library/haproxy:3.2-alpine"),
        }
        .object(),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("{release}-postgres"), "namespace": namespace},
            "spec": {"type": "ClusterIP", "clusterIP": "None", "selector": {"app.kubernetes.io/instance": format!("{release}-postgres")},
                "ports": [{"name": "postgres", "port": 5432, "targetPort": "postgres"}, {"name": "metrics", "port": 9187}]}}),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("{release}-synapse"), "namespace": namespace},
        "data": {
            "01-homeserver-underrides.yaml": "report_stats: false\ndatabase:\n  args:\n    keepalives: 1\n    cp_min: 5\n",
            "04-homeserver-overrides.yaml": format!("server_name: {SERVER_NAME}\ndatabase:\n  name: psycopg2\n  args:\n    \
                user: \"synapse_user\"\n    password: ${{SYNAPSE_POSTGRES_PASSWORD}}\n    dbname: \"synapse\"\n    \
                host: \"{host}\"\n    port: 5432\n    sslmode: prefer\n\n    application_name: ${{APPLICATION_NAME}}\n"),
            "log_config.yaml": "version: 1\n",
        }}),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("{release}-markers"), "namespace": namespace,
            "labels": {"app.kubernetes.io/managed-by": "matrix-tools-deployment-markers",
                "app.kubernetes.io/instance": format!("{release}-deployment-markers")}},
            "data": {"MATRIX_STACK_MSC3861": "legacy_auth"}}),
        secret(
            namespace,
            &format!("{release}-generated"),
            &[
                ("POSTGRES_SYNAPSE_PASSWORD", ESS_PASSWORD),
                ("POSTGRES_ADMIN_PASSWORD", "not for us"),
            ],
        ),
        claim(namespace, &format!("{release}-postgres-data"), "10Gi"),
        claim(namespace, &format!("{release}-synapse-media"), "10Gi"),
        // The completed pod of an upgrade hook: it has Synapse's image and component label, but is not a Synapse.
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("{release}-synapse-check-config-x7b2p"), "namespace": namespace,
                "labels": labels(release, "matrix-server", "synapse-check-config")},
            "spec": {"containers": [{"name": "synapse", "image": "oci.element.io/synapse:v1.159.0"}]},
            "status": {"phase": "Succeeded"}}),
    ];
    for object in objects {
        kube.put(object);
    }
}

/// MAS as the chart installs it.
pub(super) fn mas(kube: &Kube, namespace: &str, release: &str, replicas: i64) {
    let name = format!("{release}-matrix-authentication-service");
    let labels = json!({"app.kubernetes.io/part-of": "matrix-stack", "app.kubernetes.io/managed-by": "Helm",
        "app.kubernetes.io/component": "matrix-authentication", "app.kubernetes.io/name": "matrix-authentication-service",
        "app.kubernetes.io/instance": name});
    let image = "ghcr.io/element-hq/matrix-authentication-service:1.23.0";
    let pod = json!({"containers": [{"name": "matrix-authentication-service", "image": image}]});
    kube.put(
        Part {
            kind: "Deployment",
            namespace,
            name,
            replicas,
            labels,
            pod,
        }
        .object(),
    );
}

/// The older ESS: its operator and updater, its custom resources, and the objects that the operator creates for them.
pub(super) fn onprem(kube: &Kube) {
    let (namespace, name) = ("element-onprem", "first-element-deployment");
    let manager = |namespace: &'static str, name: &str| {
        Part {
            kind: "Deployment",
            namespace,
            name: name.to_owned(),
            replicas: 1,
            labels: json!({"app.kubernetes.io/instance": name}),
            pod: json!({"containers": [{"name": "manager", "image": format!("registry.element.io/{name}:24.10.0")}]}),
        }
        .object()
    };
    kube.put(manager("operator-onprem", "element-operator-controller-manager"));
    kube.put(manager("updater-onprem", "element-updater-controller-manager"));
    let version = "matrix.element.io/v1alpha2";
    kube.put(
        json!({"apiVersion": version, "kind": "ElementDeployment", "metadata": {"name": name, "namespace": namespace},
        "spec": {"components": {"synapse": {"secretName": "synapse", "config": {
            "postgresql": {"host": "synapse-postgres", "user": "synapse_user", "database": "synapse",
                "sslMode": "disable", "passwordSecretKey": "postgresPassword"}}}}}}),
    );
    let synapse = json!({"apiVersion": version, "kind": "Synapse", "metadata": {"name": name, "namespace": namespace},
        "spec": {"config": {
            "externalSecret": {"name": format!("{name}-synapse-secrets")}, "serverName": SERVER_NAME,
            "database": {"host": "synapse-postgres", "port": 5432, "user": "synapse_user", "name": "synapse", "sslmode": "disable"},
            "media": {"volumeClaim": format!("{name}-synapse-media")},
            "workers": [{"type": "federation-sender", "instances": 3}]}}});
    kube.put(synapse.clone());
    let owner = kube.object("synapses", namespace, name);
    let owner = json!([{"apiVersion": version, "kind": "Synapse", "name": name, "uid": owner["metadata"]["uid"]}]);
    let process = |process: &str, replicas: i64| {
        let labels = json!({"app.kubernetes.io/name": format!("synapse-{process}"),
            "app.kubernetes.io/instance": format!("{name}-synapse-{process}"),
            "app.kubernetes.io/part-of": "matrix-stack", "app.kubernetes.io/component": "matrix-server",
            "app.kubernetes.io/version": "v1.116.0"});
        let media = match process {
            "main" => json!({"name": "media", "persistentVolumeClaim": {"claimName": format!("{name}-synapse-media")}}),
            _ => json!({"name": "media", "emptyDir": {"medium": "Memory"}}),
        };
        let mut object = Part {
            kind: "StatefulSet",
            namespace,
            name: format!("{name}-synapse-{process}"),
            replicas,
            labels,
            pod: json!({
                "securityContext": {"fsGroup": 10991, "runAsGroup": 10991, "runAsUser": 10991, "runAsNonRoot": true},
                "containers": [{"name": "synapse", "image": "registry.element.io/synapse:v1.116.0",
                    "volumeMounts": [{"name": "media", "mountPath": "/media"}]}],
                "volumes": [media],
            }),
        }
        .object();
        object["metadata"]["ownerReferences"] = owner.clone();
        object
    };
    let made = vec![synapse, process("main", 1), process("fed-sender", 3)];
    for object in &made[1..] {
        kube.put(object.clone());
    }
    kube.settings().made_by_operator = made;
    let values = [("postgresPassword", ESS_PASSWORD), ("macaroon", "m")];
    let mut made_secret = secret(namespace, &format!("{name}-synapse-secrets"), &values);
    made_secret["metadata"]["ownerReferences"] = owner.clone();
    let postgres = json!({"app.kubernetes.io/instance": "synapse-postgres"});
    let objects = [
        Part {
            kind: "StatefulSet",
            namespace,
            name: "synapse-postgres".to_owned(),
            replicas: 1,
            labels: postgres.clone(),
            pod: json!({"containers": [{"name": "postgres", "image": "registry.element.io/postgres:14"}]}),
        }
        .object(),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "synapse-postgres", "namespace": namespace},
            "spec": {"type": "ClusterIP", "selector": postgres, "ports": [{"port": 5432}]}}),
        made_secret,
        secret(namespace, "synapse", &values),
        claim(namespace, &format!("{name}-synapse-media"), "50Gi"),
    ];
    for object in objects {
        kube.put(object);
    }
}
