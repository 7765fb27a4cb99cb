//! Copies into ESS's own media volume, through a pod that mounts it.

use std::io::{self, Write as _};
use std::thread;
use std::time::Duration;

use ess_cli::{Context, Exit, Stop};
use ess_document::Amount;
use ess_kube::{Cluster, Ess, Exec, Media, Place, Right};
use ess_run::Report as _;
use ess_servers::Named;

use crate::link::{self, Link};
use crate::send::{Sending, is_early};
use crate::tally::Tally;

/// The receiver for Synapse's image, which has Python but none of these programs.
const RECEIVER: &str = include_str!("receive.py");

/// Reads the receiver from standard input: as an argument it would be in the API server's audit log.
const BOOT: &str = "import sys; b = sys.stdin.buffer; exec(b.read(int(b.readline())))";

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
        let image = self.image.as_deref().ok_or_else(|| {
            Stop::usage("the image for a helper pod is unknown, because there is no workload of Synapse")
                .hint("give --helper-image, for example the image of Synapse; it needs Python only")
        })?;
        context.console.stage("waiting for a pod that mounts the volume", None);
        // Lets the console print its progress line every ten seconds.
        let mut waiting = || context.console.advance(0);
        let helper = self.cluster.helper(&self.ess, &self.media, image, &mut waiting)?;
        context.console.done();
        let sent = self.send_to(&helper.name, helper.container, sending, tally);
        // After a failure, the helper pod of another run is kept: that run may still be using it.
        if (helper.is_ours || sent.is_ok())
            && let Err(error) = self.cluster.remove_helper(&self.ess, &helper)
        {
            context.console.note(&format!(
                "{error}; remove it: kubectl delete pod -n {} {}",
                self.ess.namespace, helper.name
            ));
        }
        sent
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
