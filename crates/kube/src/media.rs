//! Finds the media volume, and the one pod that mounts it. All other pods of Synapse have a `/media` in memory.

use k8s_openapi::api::core::v1::{Container, PersistentVolumeClaim, Pod, PodSecurityContext, PodSpec, SecurityContext};

use crate::database::is_ready;
use crate::error::{Error, ErrorKind};
use crate::ess::{Distribution, Ess};
use crate::workload::Workload;
use crate::{Cluster, PodPort, operator};

/// The volume of the media store.
#[derive(Debug, Clone)]
pub struct Media {
    /// The name of its claim.
    pub claim: String,
    /// Where Synapse mounts it; the store is `media_store` below.
    pub mount: String,
    /// The container of Synapse in the pod.
    pub container: String,
    /// The workload that mounts it; `None` while the operator's Synapse is deleted.
    pub workload: Option<String>,
    /// The pod that mounts it now, if it is ready.
    pub pod: Option<String>,
    /// The user that owns the files.
    pub user: i64,
    /// The group that owns the files.
    pub group: i64,
    /// The security context of Synapse's pods, for a helper pod.
    pub pod_security: PodSecurityContext,
    /// The security context of Synapse's container.
    pub security: SecurityContext,
    /// The capacity of the claim, as a Kubernetes quantity.
    pub capacity: Option<String>,
}

/// The default user of each distribution's Synapse.
fn usual_user(distribution: Distribution) -> i64 {
    match distribution {
        Distribution::Community => 10_091,
        Distribution::Operator => 10_991,
    }
}

/// The container of Synapse, and where it mounts media.
const CONTAINER: &str = "synapse";
const MOUNT: &str = "/media";

impl Cluster {
    /// Finds the media volume of an ESS.
    pub fn media(&self, ess: &Ess) -> Result<Media, Error> {
        let what = format!("cannot find the media volume of {}", ess.place());
        let mounting: Vec<(&Workload, String)> = ess
            .synapse
            .iter()
            .filter_map(|workload| Some((workload, claim_of(workload.template.spec.as_ref()?)?)))
            .collect();
        let usual = usual_user(ess.distribution);
        let (workload, claim) = match mounting.as_slice() {
            [one] => (Some(one.0), one.1.clone()),
            [] if ess.distribution == Distribution::Operator && ess.synapse.is_empty() => {
                let claim = operator::media_claim(self, ess)?.and_then(|claim| claim.metadata.name);
                let claim =
                    claim.ok_or_else(|| Error::new(ErrorKind::Unrecognised, &what, "there is no claim for it"))?;
                (None, claim)
            }
            [] => {
                return Err(Error::new(
                    ErrorKind::Unrecognised,
                    what,
                    format!("no process of Synapse mounts a PersistentVolumeClaim at {MOUNT}"),
                ));
            }
            several => {
                let names: Vec<String> = several
                    .iter()
                    .map(|(workload, claim)| format!("{workload}: {claim}"))
                    .collect();
                let why = format!("several processes of Synapse mount one: {}", names.join(", "));
                return Err(Error::new(ErrorKind::Unrecognised, what, why));
            }
        };
        let pods = match workload {
            Some(workload) => self.pods_of(workload)?,
            None => Vec::new(),
        };
        // Checks the pod's own volumes: a pod from an older template may mount another claim.
        let mounts = |pod: &&Pod| pod.spec.as_ref().and_then(claim_of).as_ref() == Some(&claim);
        let pod = pods.iter().filter(|pod| is_ready(pod)).find(mounts);
        let spec = workload.and_then(|workload| workload.template.spec.as_ref());
        let pod_security = spec.and_then(|spec| spec.security_context.clone()).unwrap_or_default();
        let security = spec
            .and_then(synapse)
            .and_then(|container| container.security_context.clone());
        let security = security.unwrap_or_default();
        let user = security.run_as_user.or(pod_security.run_as_user).unwrap_or(usual);
        let group = security.run_as_group.or(pod_security.run_as_group).unwrap_or(user);
        let volume: Option<PersistentVolumeClaim> = self.get(&ess.namespace, &claim)?;
        Ok(Media {
            capacity: volume.as_ref().and_then(capacity),
            claim,
            mount: MOUNT.to_owned(),
            container: CONTAINER.to_owned(),
            workload: workload.map(|workload| workload.name.clone()),
            pod: pod.and_then(|pod| pod.metadata.name.clone()),
            user,
            group,
            pod_security: PodSecurityContext {
                run_as_user: Some(user),
                run_as_group: Some(group),
                fs_group: pod_security.fs_group.or(Some(group)),
                ..pod_security
            },
            security,
        })
    }
}

/// A quantity of bytes, such as `10Gi`.
pub fn bytes(quantity: &str) -> Option<u64> {
    const UNITS: [(&str, u64); 12] = [
        ("Ki", 1 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("Ti", 1 << 40),
        ("Pi", 1 << 50),
        ("Ei", 1 << 60),
        ("k", 1_000),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
        ("T", 1_000_000_000_000),
        ("P", 1_000_000_000_000_000),
        ("", 1),
    ];
    let (number, unit) = UNITS
        .iter()
        .find_map(|(suffix, unit)| Some((quantity.strip_suffix(suffix)?, *unit)))?;
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let whole: u64 = whole.parse().ok()?;
    let tenths: u64 = part
        .chars()
        .next()
        .map_or(Some(0), |digit| digit.to_digit(10))
        .map(u64::from)?;
    whole.checked_mul(unit)?.checked_add(tenths * unit / 10)
}

/// The capacity of a claim, or the requested one while it has no volume yet.
pub(crate) fn capacity(claim: &PersistentVolumeClaim) -> Option<String> {
    let has = claim.status.as_ref().and_then(|status| status.capacity.as_ref());
    let asked = claim
        .spec
        .as_ref()
        .and_then(|spec| spec.resources.as_ref()?.requests.as_ref());
    Some(has.or(asked)?.get("storage")?.0.clone())
}

/// A claim that a pod mounts.
#[derive(Debug, Clone)]
pub struct Mounted {
    /// The name of the claim.
    pub claim: String,
    /// Its capacity in bytes.
    pub capacity: Option<u64>,
    /// A container that mounts it, and where.
    pub at: Option<(String, String)>,
}

impl Cluster {
    /// The claims that a pod uses.
    pub fn claims_of(&self, pod: &PodPort) -> Result<Vec<Mounted>, Error> {
        let found: Option<Pod> = self.get(&pod.namespace, &pod.pod)?;
        let spec = found.and_then(|pod| pod.spec).unwrap_or_default();
        let volumes = spec.volumes.iter().flatten();
        let claims = volumes.filter_map(|volume| {
            let claim = volume.persistent_volume_claim.as_ref()?;
            Some((&volume.name, claim.claim_name.clone()))
        });
        claims
            .map(|(volume, claim)| {
                let found: Option<PersistentVolumeClaim> = self.get(&pod.namespace, &claim)?;
                Ok(Mounted {
                    capacity: found.as_ref().and_then(capacity).as_deref().and_then(bytes),
                    at: spec.containers.iter().find_map(|container| mount_of(container, volume)),
                    claim,
                })
            })
            .collect()
    }
}

/// The container's name and where it mounts a volume.
fn mount_of(container: &Container, volume: &str) -> Option<(String, String)> {
    let mounts = container.volume_mounts.as_ref()?;
    let mount = mounts.iter().find(|mount| mount.name == *volume)?;
    Some((container.name.clone(), mount.mount_path.clone()))
}

fn synapse(pod: &PodSpec) -> Option<&Container> {
    pod.containers.iter().find(|container| container.name == CONTAINER)
}

/// The claim that Synapse's container mounts at `/media`.
fn claim_of(pod: &PodSpec) -> Option<String> {
    let mounts = synapse(pod)?.volume_mounts.as_ref()?;
    let name = &mounts
        .iter()
        .find(|mount| mount.mount_path.trim_end_matches('/') == MOUNT)?
        .name;
    let volume = pod.volumes.as_ref()?.iter().find(|volume| volume.name == *name)?;
    Some(volume.persistent_volume_claim.as_ref()?.claim_name.clone())
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn quantities_are_read_as_kubernetes_writes_them() {
        assert_eq!(bytes("10Gi"), Some(10 << 30));
        assert_eq!(bytes("1.5Ti"), Some((1 << 40) + (1 << 39)));
        assert_eq!(bytes("500M"), Some(500_000_000));
        assert_eq!(bytes("10737418240"), Some(10 << 30));
        assert_eq!(bytes("much"), None);
        assert_eq!(bytes(""), None);
    }
}
