//! The manifests for `kubectl apply`.

use anyhow::Context as _;
use ess_cli::Stop;
use ess_document::Document;
use ess_run::text::size;
use serde_json::{Value, json};

/// The volume at /work.
pub(crate) enum Storage<'a> {
    Claim(&'a str),
    New { size: &'a str, class: Option<&'a str> },
}

/// `FILE=SECRET/KEY`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SecretFile {
    file: String,
    secret: String,
    key: String,
}

impl SecretFile {
    /// The argument of `--secret`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let wrong = || "not FILE=SECRET/KEY".to_owned();
        let (file, from) = text.split_once('=').ok_or_else(wrong)?;
        let (secret, key) = from.split_once('/').ok_or_else(wrong)?;
        let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let is_key = |text: &str| !text.is_empty() && text.chars().all(good) && !text.starts_with("..") && text != ".";
        if !is_key(file) || !is_key(key) {
            return Err(wrong());
        }
        Ok(Self {
            file: file.to_owned(),
            secret: crate::name(secret)?,
            key: key.to_owned(),
        })
    }
}

/// The values for the manifests.
pub(crate) struct Job<'a> {
    pub(crate) name: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) image: &'a str,
    pub(crate) pipeline: &'a str,
    pub(crate) storage: Storage<'a>,
    pub(crate) secrets: &'a [SecretFile],
    pub(crate) cpu: &'a str,
    pub(crate) memory: &'a str,
    pub(crate) node: Option<&'a str>,
    pub(crate) user: u32,
    pub(crate) service_account: Option<&'a str>,
    pub(crate) retries: u32,
    /// What the first program of the pipeline reads.
    pub(crate) document: Option<&'a Document>,
}

impl Job<'_> {
    /// All manifests as one `List`; those that others depend on come first.
    pub(crate) fn list(&self) -> anyhow::Result<Value> {
        let mut items = Vec::new();
        if let Storage::New { size, class } = self.storage {
            let mut spec = json!({
                "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": size}},
            });
            if let Some(class) = class {
                spec["storageClassName"] = class.into();
            }
            items.push(json!({
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": self.metadata(&format!("{}-work", self.name)),
                "spec": spec,
            }));
        }
        if let Some(document) = self.document {
            let text = serde_json::to_string_pretty(document).context("cannot write the document")?;
            if text.len() > CONFIG_MAP {
                let large = format!("the document is too large for a ConfigMap: {}", size(text.len() as u64));
                let hint = "copy it to the volume, give -n, and start the pipeline with its path: PROGRAM < /work/migration.json";
                return Err(Stop::data(large).hint(hint).into());
            }
            items.push(json!({
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": self.metadata(&self.document_name()),
                "data": {"migration.json": text},
            }));
        }
        items.push(self.job());
        Ok(json!({"apiVersion": "v1", "kind": "List", "items": items}))
    }

    fn document_name(&self) -> String {
        format!("{}-document", self.name)
    }

    fn metadata(&self, name: &str) -> Value {
        // Not `component: matrix-server`: programs that scale Synapse down would mistake the Job for Synapse.
        json!({"name": name, "namespace": self.namespace, "labels": labels()})
    }

    fn job(&self) -> Value {
        let mut pod = json!({
            "restartPolicy": "Never",
            "automountServiceAccountToken": self.service_account.is_some(),
            "securityContext": {
                "runAsNonRoot": true,
                "runAsUser": self.user,
                "runAsGroup": self.user,
                "fsGroup": self.user,
                "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [self.container()],
            "volumes": self.volumes(),
        });
        if let Some(account) = self.service_account {
            pod["serviceAccountName"] = account.into();
        }
        match self.node {
            // Not `nodeName`, which bypasses the scheduler: a claim with WaitForFirstConsumer would never be bound.
            Some(node) => pod["nodeSelector"] = json!({"kubernetes.io/hostname": node}),
            None => {
                pod["affinity"] = json!({"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{
                    "weight": 100,
                    "podAffinityTerm": {
                        "topologyKey": "kubernetes.io/hostname",
                        "labelSelector": {"matchLabels": {"app.kubernetes.io/component": "matrix-stack-db"}},
                    },
                }]}});
            }
        }
        json!({
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": self.metadata(self.name),
            "spec": {
                "backoffLimit": self.retries,
                "template": {
                    "metadata": {
                        "labels": labels(),
                        // Keeps the cluster autoscaler from moving the pod while it runs.
                        "annotations": {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"},
                    },
                    "spec": pod,
                },
            },
        })
    }

    fn container(&self) -> Value {
        let stdin = if self.document.is_some() {
            "/document/migration.json"
        } else {
            "/dev/null"
        };
        // A shell without pipefail fails here. In such a shell the Job would succeed whenever the last program does.
        let script = format!(
            "set -eu\nset -o pipefail\numask 077\n{{\n{}\n}} <{stdin}\n",
            self.pipeline
        );
        let mut mounts = vec![
            json!({"name": "work", "mountPath": "/work"}),
            json!({"name": "tmp", "mountPath": "/tmp"}),
        ];
        if !self.secrets.is_empty() {
            mounts.push(json!({"name": "secrets", "mountPath": "/secrets", "readOnly": true}));
        }
        if self.document.is_some() {
            mounts.push(json!({"name": "document", "mountPath": "/document", "readOnly": true}));
        }
        // Kubernetes replaces $(NAME) and $$ in a command before the shell runs.
        let script = script.replace('$', "$$");
        let resources = json!({"cpu": self.cpu, "memory": self.memory});
        json!({
            "name": "pipeline",
            "image": self.image,
            "command": ["/bin/sh", "-c", SHELL.replace('$', "$$"), "sh", script],
            "workingDir": "/work",
            "env": [{"name": "HOME", "value": "/work"}],
            "resources": {"requests": resources, "limits": {"memory": self.memory}},
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": mounts,
        })
    }

    fn volumes(&self) -> Vec<Value> {
        let claim = match self.storage {
            Storage::Claim(claim) => claim.to_owned(),
            Storage::New { .. } => format!("{}-work", self.name),
        };
        let mut volumes = vec![
            json!({"name": "work", "persistentVolumeClaim": {"claimName": claim}}),
            // On disk, because files in memory count against the Job's memory limit.
            json!({"name": "tmp", "emptyDir": {}}),
        ];
        if !self.secrets.is_empty() {
            let sources: Vec<Value> = self
                .secrets
                .iter()
                .map(|secret| {
                    json!({"secret": {
                        "name": secret.secret,
                        "items": [{"key": secret.key, "path": secret.file}],
                    }})
                })
                .collect();
            volumes.push(json!({"name": "secrets", "projected": {"defaultMode": 0o440, "sources": sources}}));
        }
        if self.document.is_some() {
            volumes.push(json!({"name": "document", "configMap": {"name": self.document_name()}}));
        }
        volumes
    }
}

/// Prefers bash, because Debian's `sh` has no pipefail.
const SHELL: &str = r#"shell=sh; command -v bash >/dev/null && shell=bash; exec "$shell" -c "$1""#;

/// The largest document, in bytes: the API server's limit for a `ConfigMap`, less the rest of the object.
const CONFIG_MAP: usize = (1 << 20) - (8 << 10);

fn labels() -> Value {
    json!({"app.kubernetes.io/name": "ess-migrate", "app.kubernetes.io/managed-by": "ess-job"})
}
