//! The helper pod that mounts the media volume while no pod of Synapse does.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Pod, PodSpec, PodStatus};
use serde_json::{from_value, json};

use crate::database::is_ready;
use crate::error::{Error, ErrorKind};
use crate::{Cluster, Ess, Media};

/// How long a pod may take until its container is created: a node must be found, and its image may have to be pulled.
const STARTING: Duration = Duration::from_secs(300);

/// How long the kubelet may take to mount the volume: where the root of the volume has another group, it changes the
/// group of every file first, ten million of them in about an hour on network storage.
const MOUNTING: Duration = Duration::from_secs(2 * 60 * 60);

/// How long a helper pod lives at most, in seconds, in case it is not removed.
const LIFE: u32 = 24 * 60 * 60;

/// The longest wait for a change of the pod, so that progress is reported meanwhile.
const STEP: Duration = Duration::from_secs(5);

/// The label of helper pods. They have none of Synapse's labels, so as not to be mistaken for Synapse.
const LABEL: (&str, &str) = ("app.kubernetes.io/managed-by", "media-sync");

/// A running pod that mounts the media volume, and that this program must remove again.
#[derive(Debug)]
pub struct Helper {
    /// Its name.
    pub name: String,
    /// Its only container.
    pub container: &'static str,
    /// Whether this run created it: another run may be using one that existed.
    pub is_ours: bool,
}

impl Cluster {
    /// Returns the helper pod for a media volume, created if there is none, when it is ready.
    ///
    /// A pod that has ended, or that is being deleted, is deleted and created again: until then it keeps a volume that
    /// only one node can mount. If the pod does not become ready, it is removed. `waiting` is called every few seconds.
    pub fn helper(&self, ess: &Ess, media: &Media, image: &str, waiting: &mut dyn FnMut()) -> Result<Helper, Error> {
        let mut helper = Helper {
            name: format!("{}-media-sync", ess.release),
            container: CONTAINER,
            is_ours: false,
        };
        match self.wait_for_helper(&mut helper, ess, media, image, waiting) {
            Ok(()) => Ok(helper),
            Err(error) => {
                if helper.is_ours {
                    // The first error is the one to report.
                    let _ = self.remove_helper(ess, &helper);
                }
                Err(error)
            }
        }
    }

    fn wait_for_helper(
        &self,
        helper: &mut Helper,
        ess: &Ess,
        media: &Media,
        image: &str,
        waiting: &mut dyn FnMut(),
    ) -> Result<(), Error> {
        let name = helper.name.clone();
        let selector = format!("{}={}", LABEL.0, LABEL.1);
        let start = Instant::now();
        loop {
            let moment = self.moment::<Pod>(&ess.namespace, &selector)?;
            match self.get::<Pod>(&ess.namespace, &name)? {
                None => {
                    let pod = self.helper_pod(&name, ess, media, image)?;
                    match self.create(&ess.namespace, &pod) {
                        Ok(_) => helper.is_ours = true,
                        // Another run was faster.
                        Err(error) if error.kind() == ErrorKind::Conflict => {}
                        Err(error) => return Err(error),
                    }
                    continue;
                }
                Some(pod) if !is_helper(&pod) => {
                    let what = format!("cannot create pod {}/{name}", ess.namespace);
                    let why = "a pod of that name exists that was not created by media-sync";
                    return Err(Error::new(ErrorKind::Conflict, what, why).hint("remove it, if nothing needs it"));
                }
                // The next one would end too, for example because its image has no Python.
                Some(pod) if has_ended(&pod) && helper.is_ours => {
                    let what = format!("cannot use pod {}/{name}", ess.namespace);
                    return Err(Error::new(ErrorKind::Unavailable, what, "it ended before it was ready")
                        .hint("check that the image has Python, or give another one with --helper-image"));
                }
                Some(pod) if has_ended(&pod) => self.delete::<Pod>(&ess.namespace, &name)?,
                Some(pod) if pod.metadata.deletion_timestamp.is_some() => {}
                Some(pod) if is_ready(&pod) => return Ok(()),
                Some(pod) => refuse_hopeless(&pod, &name, ess, start.elapsed())?,
            }
            waiting();
            self.wait_for_change::<Pod>(&ess.namespace, &selector, &moment, STEP)?;
        }
    }

    /// Deletes a helper pod, even after a signal.
    pub fn remove_helper(&self, ess: &Ess, helper: &Helper) -> Result<(), Error> {
        self.clean_up::<Pod>(&ess.namespace, &helper.name)
    }

    fn helper_pod(&self, name: &str, ess: &Ess, media: &Media, image: &str) -> Result<Pod, Error> {
        let workload = ess
            .synapse
            .iter()
            .find(|workload| Some(&workload.name) == media.workload.as_ref());
        let own: PodSpec = workload
            .and_then(|workload| workload.template.spec.clone())
            .unwrap_or_default();
        let mut security = media.pod_security.clone();
        // Otherwise the kubelet changes the group of every file at each mount.
        security.fs_group_change_policy = Some("OnRootMismatch".to_owned());
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": ess.namespace, "labels": {
                "app.kubernetes.io/name": "ess-migrate", LABEL.0: LABEL.1,
            }},
            "spec": {
                "restartPolicy": "Never",
                "activeDeadlineSeconds": LIFE,
                "terminationGracePeriodSeconds": 1,
                "automountServiceAccountToken": false,
                "enableServiceLinks": false,
                "securityContext": security,
                "imagePullSecrets": own.image_pull_secrets,
                "nodeSelector": own.node_selector,
                "tolerations": own.tolerations,
                "nodeName": self.node_of(ess, media)?,
                "containers": [{
                    "name": CONTAINER,
                    "image": image,
                    "command": ["python3", "-c", "import time; time.sleep(86400)"],
                    "securityContext": media.security,
                    // Small, so that a ResourceQuota admits it; a LimitRange adds what it demands.
                    "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"cpu": "1", "memory": "256Mi"}},
                    "volumeMounts": [{"name": "media", "mountPath": media.mount}],
                }],
                "volumes": [{"name": "media", "persistentVolumeClaim": {"claimName": media.claim}}],
            },
        });
        let what = format!("cannot create pod {}/{name}", ess.namespace);
        from_value(pod).map_err(|error| Error::new(ErrorKind::Unrecognised, what, error.to_string()))
    }

    /// The node of a pod that is not ready but uses the volume: perhaps it can be mounted on that node only.
    fn node_of(&self, ess: &Ess, media: &Media) -> Result<Option<String>, Error> {
        let mounts = |spec: &PodSpec| {
            let volumes = spec.volumes.iter().flatten();
            let mut claims = volumes.filter_map(|volume| volume.persistent_volume_claim.as_ref());
            claims.any(|claim| claim.claim_name == media.claim)
        };
        let pods = self.list::<Pod>(&ess.namespace, "")?;
        let mut specs = pods
            .into_iter()
            .filter(|pod| !has_ended(pod))
            .filter_map(|pod| pod.spec);
        Ok(specs.find(mounts).and_then(|spec| spec.node_name))
    }
}

/// The container of a helper pod.
const CONTAINER: &str = "receiver";

fn is_helper(pod: &Pod) -> bool {
    let labels = pod.metadata.labels.as_ref();
    labels
        .and_then(|labels| labels.get(LABEL.0))
        .is_some_and(|label| label == LABEL.1)
}

/// Whether a pod has ended for good.
pub(crate) fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Fails when a pod has no prospect of becoming ready.
fn refuse_hopeless(pod: &Pod, name: &str, ess: &Ess, waited: Duration) -> Result<(), Error> {
    let status = pod.status.clone().unwrap_or_default();
    let mut containers = status.container_statuses.iter().flatten();
    let reason = containers.find_map(|container| container.state.as_ref()?.waiting.as_ref()?.reason.clone());
    let is_mounting = is_scheduled(&status) && reason.as_deref().is_none_or(|reason| reason == "ContainerCreating");
    let limit = if is_mounting { MOUNTING } else { STARTING };
    if waited <= limit {
        return Ok(());
    }
    let reason = reason.or_else(|| unscheduled(&status)).or(status.phase);
    let why = format!(
        "it is not ready after {} s: {}",
        waited.as_secs(),
        reason.unwrap_or_default()
    );
    Err(Error::new(
        ErrorKind::Unavailable,
        format!("cannot use pod {}/{name}", ess.namespace),
        why,
    )
    .hint(format!("see `kubectl describe pod -n {} {name}`", ess.namespace)))
}

fn is_scheduled(status: &PodStatus) -> bool {
    let mut conditions = status.conditions.iter().flatten();
    conditions.any(|condition| condition.type_ == "PodScheduled" && condition.status == "True")
}

/// Why the scheduler finds no node.
fn unscheduled(status: &PodStatus) -> Option<String> {
    let mut conditions = status.conditions.iter().flatten();
    conditions
        .find(|condition| condition.type_ == "PodScheduled" && condition.status != "True")
        .and_then(|condition| condition.message.clone())
}
