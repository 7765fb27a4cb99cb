//! Copies into ESS's own media volume, through a pod that mounts it.

use std::io::{self, Write as _};
use std::thread;
use std::time::{Duration, Instant};

use ess_cli::{Context, Exit, Stop};
use ess_document::Amount;
use ess_kube::k8s_openapi::api::core::v1::{Pod, PodSpec};
use ess_kube::{Cluster, Ess, Exec, Media, Place, Right};
use ess_run::Report as _;
use ess_servers::Named;
use serde_json::{from_value, json};

use crate::link::{self, Link};
use crate::send::{Sending, is_early};
use crate::tally::Tally;

/// The receiver for Synapse's image, which has Python but none of these programs.
const RECEIVER: &str = include_str!("receive.py");

/// Reads the receiver from standard input: as an argument it would be in the API server's audit log.
const BOOT: &str = "import sys; b = sys.stdin.buffer; exec(b.read(int(b.readline())))";

/// How long a helper pod may take to become ready: its image may have to be pulled.
const PATIENCE: Duration = Duration::from_secs(300);

/// How long a helper pod lives at most, in seconds, in case it is not removed.
const LIFE: u32 = 24 * 60 * 60;

/// The label of helper pods. They have none of Synapse's labels, so as not to be mistaken for Synapse.
const LABEL: (&str, &str) = ("app.kubernetes.io/managed-by", "media-sync");

/// The media volume of an ESS.
pub(crate) struct Volume {
    cluster: Cluster,
    ess: Ess,
    media: Media,
    image: Option<String>,
}

impl Volume {
    /// Finds the volume of the ESS that flags or document name; `None` if they name none.
    pub(crate) fn find(
        context: &mut Context,
        target: Option<&str>,
        kube_context: Option<&str>,
        image: Option<&str>,
    ) -> anyhow::Result<Option<Self>> {
        // Where the document has the address of the target database, it stays in the document; `--target` then names
        // the cluster for the media only.
        let known = context.document.target.as_ref();
        let by_address = known.is_some_and(|known| known.kube.is_none() && !known.connection.is_empty());
        let named = match target {
            Some(text) if by_address => Place::parse(text)?.map(|place| Named {
                place,
                context: kube_context.map(str::to_owned),
            }),
            _ => ess_servers::named(context, target, kube_context)?,
        };
        let Some(named) = named else {
            return match target {
                Some(_) => Err(Stop::usage("--target must name a cluster, kube:NAMESPACE")
                    .hint("give --out to copy into a directory, or a command after -- to copy to another host")
                    .into()),
                None => Ok(None),
            };
        };
        let cluster = ess_servers::connect(&named)?;
        cluster.require(&[Right::FIND, Right::MEDIA].concat())?;
        let (cluster, ess) = if by_address {
            let ess = cluster.find(named.place.release.as_deref())?;
            (cluster, ess)
        } else {
            let on = ess_servers::find(context, cluster, &named)?;
            (on.cluster, on.ess)
        };
        let media = cluster.media(&ess)?;
        let own = ess
            .synapse
            .iter()
            .find(|workload| Some(&workload.name) == media.workload.as_ref());
        let image = image.or_else(|| own?.image(&media.container)).map(str::to_owned);
        Ok(Some(Self {
            cluster,
            ess,
            media,
            image,
        }))
    }

    /// The path of the media store in the pod.
    fn store(&self) -> String {
        format!("{}/media_store", self.media.mount)
    }

    /// The location of the copy, for messages and the document.
    pub(crate) fn shown(&self) -> String {
        format!("{}:{}", self.ess.place(), self.store())
    }

    /// Sends through the pod that mounts the volume, or through a helper pod that is created for it.
    pub(crate) fn send(
        &self,
        sending: &Sending<'_>,
        context: &Context,
        tally: &mut Tally<'_>,
    ) -> anyhow::Result<Amount> {
        if let Some(pod) = &self.media.pod {
            return self.send_to(pod, &self.media.container, sending, tally);
        }
        self.cluster.require(Right::HELPER)?;
        let name = format!("{}-media-sync", self.ess.release);
        let made = self.make(&name, context)?;
        let sent = self
            .ready(&name)
            .and_then(|()| self.send_to(&name, CONTAINER, sending, tally));
        // After a failure, the helper pod of another run is kept: that run may still be using it.
        if (made || sent.is_ok())
            && let Err(error) = self.cluster.clean_up::<Pod>(&self.ess.namespace, &name)
        {
            context.console.note(&format!(
                "{error}; remove it: kubectl delete pod -n {} {name}",
                self.ess.namespace
            ));
        }
        sent
    }

    /// Creates the helper pod. Returns false if there is one already, from another run, which is used instead.
    fn make(&self, name: &str, context: &Context) -> anyhow::Result<bool> {
        if let Some(there) = self.cluster.get::<Pod>(&self.ess.namespace, name)? {
            let labels = there.metadata.labels.unwrap_or_default();
            if labels.get(LABEL.0).is_some_and(|label| label == LABEL.1) {
                return Ok(false);
            }
            let message = format!(
                "a pod {}/{name} exists that was not created by media-sync",
                self.ess.namespace
            );
            return Err(Stop::new(Exit::Unavailable, message).into());
        }
        context.console.stage("waiting for a pod that mounts the volume", None);
        self.cluster.create(&self.ess.namespace, &self.pod(name)?)?;
        Ok(true)
    }

    fn pod(&self, name: &str) -> anyhow::Result<Pod> {
        let image = self.image.as_ref().ok_or_else(|| {
            Stop::usage("the image for a helper pod is unknown, because there is no workload of Synapse")
                .hint("give --helper-image, for example the image of Synapse; it needs Python only")
        })?;
        let workload = self
            .ess
            .synapse
            .iter()
            .find(|workload| Some(&workload.name) == self.media.workload.as_ref());
        let own: PodSpec = workload
            .and_then(|workload| workload.template.spec.clone())
            .unwrap_or_default();
        Ok(from_value(json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": self.ess.namespace, "labels": {
                "app.kubernetes.io/name": "ess-migrate", LABEL.0: LABEL.1,
            }},
            "spec": {
                "restartPolicy": "Never",
                "activeDeadlineSeconds": LIFE,
                "terminationGracePeriodSeconds": 1,
                "automountServiceAccountToken": false,
                "enableServiceLinks": false,
                "securityContext": self.media.pod_security,
                "imagePullSecrets": own.image_pull_secrets,
                "nodeSelector": own.node_selector,
                "tolerations": own.tolerations,
                "nodeName": self.node()?,
                "containers": [{
                    "name": CONTAINER,
                    "image": image,
                    "command": ["python3", "-c", "import time; time.sleep(86400)"],
                    "securityContext": self.media.security,
                    "volumeMounts": [{"name": "media", "mountPath": self.media.mount}],
                }],
                "volumes": [{"name": "media", "persistentVolumeClaim": {"claimName": self.media.claim}}],
            },
        }))?)
    }

    /// The node of a pod that is not ready but uses the volume: perhaps it can be mounted on that node only.
    fn node(&self) -> anyhow::Result<Option<String>> {
        let mounts = |spec: &PodSpec| {
            let volumes = spec.volumes.iter().flatten();
            let mut claims = volumes.filter_map(|volume| volume.persistent_volume_claim.as_ref());
            claims.any(|claim| claim.claim_name == self.media.claim)
        };
        let pods = self.cluster.list::<Pod>(&self.ess.namespace, "")?;
        let mut specs = pods.into_iter().filter(|pod| !is_over(pod)).filter_map(|pod| pod.spec);
        Ok(specs.find(mounts).and_then(|spec| spec.node_name))
    }

    fn ready(&self, name: &str) -> anyhow::Result<()> {
        let start = Instant::now();
        loop {
            let pod = self.cluster.get::<Pod>(&self.ess.namespace, name)?.unwrap_or_default();
            let status = pod.status.clone().unwrap_or_default();
            let mut conditions = status.conditions.iter().flatten();
            if conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True") {
                return Ok(());
            }
            if is_over(&pod) || start.elapsed() > PATIENCE {
                let containers = status.container_statuses.iter().flatten();
                let reason = containers
                    .filter_map(|container| container.state.as_ref()?.waiting.as_ref()?.reason.clone())
                    .chain(status.phase)
                    .next()
                    .unwrap_or_else(|| "it was deleted".to_owned());
                let message = format!("the pod {}/{name} did not become ready: {reason}", self.ess.namespace);
                return Err(Stop::new(Exit::Unavailable, message)
                    .hint(format!("see `kubectl describe pod -n {} {name}`", self.ess.namespace))
                    .into());
            }
            self.cluster.pause(Duration::from_millis(300))?;
        }
    }

    fn send_to(
        &self,
        pod: &str,
        container: &str,
        sending: &Sending<'_>,
        tally: &mut Tally<'_>,
    ) -> anyhow::Result<Amount> {
        let command = ["python3", "-c", BOOT, &self.store()];
        let mut exec: Exec = self.cluster.exec(pod, container, &command, true)?;
        let idle = Duration::from_secs(sending.idle.into());
        exec.stdout.limited(idle);
        let stdin = exec.stdin.take();
        let (sender, receiver) = link::pair(idle);
        let Link { out, incoming } = receiver;
        let sent = thread::scope(|scope| {
            scope.spawn(move || {
                let mut stdin = stdin.ok_or(io::ErrorKind::BrokenPipe)?;
                write!(stdin, "{}\n{RECEIVER}", RECEIVER.len())?;
                link::write_all(&incoming, &mut stdin)
            });
            let stdout = &mut exec.stdout;
            scope.spawn(move || link::read_all(stdout, &out));
            sending.run(sender, tally)
        });
        ess_run::stop_if_interrupted()?;
        match sent {
            Ok(sent) => Ok(sent),
            // Report how the receiver ended rather than the closed stream that follows from it.
            Err(error) => match exec.wait(idle) {
                Err(ended) if is_early(&error) => Err(ended.into()),
                Ok(ended) if is_early(&error) => Err(Stop::new(
                    Exit::Unavailable,
                    format!(
                        "the receiver in pod {pod} exited with status {}: {}",
                        ended.code,
                        ended.stderr.trim()
                    ),
                )
                .into()),
                _ => Err(error),
            },
        }
    }
}

/// The container of a helper pod.
const CONTAINER: &str = "receiver";

fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}
