//! The target's cluster: permissions, space, and controllers that would interfere.

mod reach;

pub(crate) use reach::{ReachedTarget, open};

use ess_document::Finding;
use ess_kube::k8s_openapi::api::core::v1::ConfigMap;
use ess_kube::{Distribution, Error, ErrorKind, Ess, OPERATOR, OPERATOR_NAMESPACE, PodPort, Workload, WorkloadKind};
use ess_run::text::{count, size};
use ess_servers::OnKube;

use super::versions::SynapseVersion;
use crate::finding::{Detail, blocker, info, number, some_of, warning};
use crate::ids::{
    CLUSTER, CLUSTER_DATABASE_SPACE, CLUSTER_GITOPS, CLUSTER_MAS, CLUSTER_MEDIA, CLUSTER_MEDIA_SPACE, CLUSTER_OPERATOR,
    CLUSTER_VERSIONS, NOT_CHECKED,
};

/// What is known about the source, for comparison with the cluster.
#[derive(Clone, Copy)]
pub(crate) struct KnownSource {
    /// The size of its database, in bytes.
    pub(crate) database: Option<i64>,
    /// Whether it already delegates logins to MAS; `None` without its configuration.
    pub(crate) has_mas: Option<bool>,
}

/// The size of the media store in bytes, from the finding `media`.
pub(crate) fn media_size(findings: &[Finding]) -> Option<u64> {
    let media = findings.iter().find(|finding| finding.id == "media")?;
    let kinds = media.data.get("kinds")?.as_object()?;
    kinds.values().map(|kind| kind["bytes"].as_u64()).sum()
}

/// Runs all checks of the cluster, and returns the volume for media too. An error only if interrupted.
pub(crate) fn check(on: &OnKube, source: KnownSource) -> anyhow::Result<(Vec<Finding>, Option<MediaVolume>)> {
    let mut found = vec![images(&on.ess)];
    found.extend(versions(&on.ess));
    let operator = operator(on);
    let makes_it = operator.as_ref().ok().and_then(Option::as_ref);
    found.extend(gitops_controllers(&on.ess, makes_it));
    let mut volume = None;
    let media = media(on).map(|(media, finding)| {
        volume = media;
        vec![finding]
    });
    for outcome in [
        database_space(on, source.database),
        media,
        mas(on, source.has_mas),
        scales_back(&on.ess, operator),
        super::certificates::check(on),
    ] {
        match outcome {
            Ok(findings) => found.extend(findings),
            Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error.into()),
            Err(error) => {
                let what = error.to_string();
                let message = format!("not checked: {what}: {}", error.why());
                found.push(blocker(&NOT_CHECKED, message).with("check", what));
            }
        }
    }
    Ok((found, volume))
}

type ClusterFindings = Result<Vec<Finding>, Error>;

/// The version of Synapse, if the tag of its image is one.
pub(crate) fn synapse_version(on: &OnKube) -> Option<SynapseVersion> {
    SynapseVersion::parse(tag(&on.ess)?).ok()
}

fn tag(ess: &Ess) -> Option<&str> {
    let image = ess.main()?.image("synapse")?;
    let image = image.split_once('@').map_or(image, |(image, _)| image);
    image
        .rsplit_once(':')
        .map(|(_, tag)| tag)
        .filter(|tag| !tag.contains('/'))
}

fn images(ess: &Ess) -> Finding {
    let of = |workload: &Workload, container| Some(format!("{} {}", workload.name, workload.image(container)?));
    let synapse = ess.synapse.iter().filter_map(|workload| of(workload, "synapse"));
    let mas = ess
        .mas
        .iter()
        .filter_map(|workload| of(workload, "matrix-authentication-service"));
    let images: Vec<String> = synapse.chain(mas).collect();
    let version = tag(ess).unwrap_or("of unknown version");
    info(
        &CLUSTER,
        format!(
            "the target is {}, {}, with Synapse {version} in {}",
            ess.place(),
            ess.distribution,
            count(ess.synapse.len(), "workload")
        ),
    )
    .with("namespace", ess.namespace.as_str())
    .with("release", ess.release.as_str())
    .with("images", images)
}

/// An unfinished upgrade: workers of another version than the main process may not support its schema.
fn versions(ess: &Ess) -> Option<Finding> {
    let mut images: Vec<&str> = ess
        .synapse
        .iter()
        .filter_map(|workload| workload.image("synapse"))
        .collect();
    images.sort_unstable();
    images.dedup();
    (images.len() > 1).then(|| {
        warning(
            &CLUSTER_VERSIONS,
            format!("the processes of Synapse run different images: {}", images.join(", ")),
        )
        .hint("finish the upgrade of ESS first")
        .with("images", images)
    })
}

fn gitops_controllers(ess: &Ess, operator: Option<&Workload>) -> Option<Finding> {
    let owners = ess.gitops(operator);
    if owners.is_empty() {
        return None;
    }
    let names: Vec<String> = owners.iter().map(|owner| owner.name.clone()).collect();
    let pause: Vec<&str> = owners.iter().map(|owner| owner.pause.as_str()).collect();
    Some(
        warning(
            &CLUSTER_GITOPS,
            format!("{} may scale Synapse back up during the migration", some_of(&names)),
        )
        .hint(format!("suspend it before ess-scale down: {}", pause.join("; ")))
        .with("owners", names),
    )
}

/// Checks that the volume is twice as large as the database: an index is built while its table is kept, and dead rows
/// use space until they are vacuumed.
fn database_space(on: &OnKube, needed: Option<i64>) -> ClusterFindings {
    let Some(needed) = needed.and_then(|bytes| u64::try_from(bytes).ok()) else {
        return Ok(Vec::new());
    };
    let database = on.cluster.database(&on.ess)?;
    let Some(pod) = database.pod else { return Ok(Vec::new()) };
    let claims = on.cluster.claims_of(&pod)?;
    // With several volumes it is unknown which of them contains the data.
    let [mounted] = claims.as_slice() else {
        return Ok(Vec::new());
    };
    let is_here = pod.namespace == on.cluster.namespace();
    let at = mounted.at.as_ref().filter(|_| is_here);
    let capacity = match at {
        Some((container, path)) => space(on, &pod.pod, container, path, mounted.capacity),
        None => mounted.capacity,
    };
    let Some(capacity) = capacity else {
        return Ok(Vec::new());
    };
    let place = place_of(&pod, &mounted.claim);
    Ok(room(needed, capacity, 2).map_or_else(Vec::new, |is_blocker| {
        let message = format!(
            "the source's database needs {}, and {place} has {}",
            size(needed),
            size(capacity)
        );
        let found = if is_blocker {
            blocker(&CLUSTER_DATABASE_SPACE, message)
        } else {
            warning(&CLUSTER_DATABASE_SPACE, message)
        };
        vec![
            found
                .hint(
                    "make the volume two to three times as large as the database: set postgres.storage.size, or \
                     resize the claim",
                )
                .with("needed", number_of(needed))
                .with("capacity", number_of(capacity)),
        ]
    }))
}

/// The space of a volume as measured in a pod. Without permission to run programs there, the claim's size is all that is
/// known.
fn space(on: &OnKube, pod: &str, container: &str, path: &str, claimed: Option<u64>) -> Option<u64> {
    on.cluster.space(pod, container, path, claimed).unwrap_or(claimed)
}

fn place_of(pod: &PodPort, claim: &str) -> String {
    format!("volume {claim} of pod {}", pod.pod)
}

/// `None` if there is room for so many `times` the size; otherwise whether there is not even room for it once.
fn room(needed: u64, capacity: u64, times: u64) -> Option<bool> {
    if capacity <= needed {
        Some(true)
    } else {
        (capacity < needed.saturating_mul(times)).then_some(false)
    }
}

fn number_of(bytes: u64) -> serde_json::Value {
    number(i64::try_from(bytes).unwrap_or(i64::MAX))
}

/// The volume for media.
pub(crate) struct MediaVolume {
    claim: String,
    capacity: u64,
}

impl MediaVolume {
    /// A finding if the volume has no room for this many bytes.
    pub(crate) fn room(&self, needed: u64) -> Option<Finding> {
        let Self { claim, capacity } = self;
        room(needed, *capacity, 1)?;
        let message = format!(
            "the media store needs {}, but volume {claim} has only {}",
            size(needed),
            size(*capacity)
        );
        Some(
            blocker(&CLUSTER_MEDIA_SPACE, message)
                .hint(
                    "resize the claim, install ESS with a larger synapse.media.storage.size, or leave out what other \
                     servers can send again: media-sync --without remote",
                )
                .with("needed", number_of(needed))
                .with("capacity", number_of(*capacity)),
        )
    }
}

fn media(on: &OnKube) -> Result<(Option<MediaVolume>, Finding), Error> {
    let media = on.cluster.media(&on.ess)?;
    let mounted = match (&media.pod, &media.workload) {
        (Some(pod), _) => format!("pod {pod} mounts it"),
        (None, Some(workload)) => format!("{workload} mounts it when running"),
        (None, None) => "nothing mounts it now".to_owned(),
    };
    let message = format!(
        "media go to volume {} ({}); {mounted}",
        media.claim,
        media.capacity.as_deref().unwrap_or("of unknown size")
    );
    let finding = info(&CLUSTER_MEDIA, message)
        .with("claim", media.claim.as_str())
        .with("user", number(media.user));
    let claimed = media.capacity.as_deref().and_then(ess_kube::bytes);
    let capacity = match &media.pod {
        Some(pod) => space(on, pod, &media.container, &media.mount, claimed),
        None => claimed,
    };
    let claim = media.claim;
    Ok((capacity.map(|capacity| MediaVolume { claim, capacity }), finding))
}

/// The key in the ConfigMap in which the chart's matrix-tools keep deployment markers.
const MARKER: &str = "MATRIX_STACK_MSC3861";

/// Checks that the source and ESS handle logins in the same way: a Synapse with its own logins cannot run where MAS has
/// taken over.
fn mas(on: &OnKube, source_has_mas: Option<bool>) -> ClusterFindings {
    if on.ess.distribution != Distribution::Community {
        return Ok(Vec::new());
    }
    let name = format!("{}-markers", on.ess.release);
    let markers = on.cluster.get::<ConfigMap>(&on.ess.namespace, &name)?;
    let marker = markers.and_then(|map| map.data?.remove(MARKER));
    let installed = !on.ess.mas.is_empty();
    Ok(vec![judge_mas(installed, marker.as_deref(), source_has_mas)])
}

fn judge_mas(installed: bool, marker: Option<&str>, source_has_mas: Option<bool>) -> Finding {
    let marker_shown = marker.map_or_else(String::new, |marker| format!(" (its deployment marker is {marker})"));
    let state = if installed { "enabled" } else { "disabled" };
    let message = format!("Matrix Authentication Service (MAS) is {state} in ESS{marker_shown}");
    // The chart refuses an upgrade that contradicts its marker, and a Synapse whose logins MAS once took over has none
    // of its own.
    if let (false, Some(marker)) = (installed, marker.filter(|marker| *marker != "legacy_auth")) {
        let message = format!("{message}: MAS had taken over its logins, and is not there now");
        let found = if source_has_mas == Some(false) {
            blocker(&CLUSTER_MAS, message)
        } else {
            warning(&CLUSTER_MAS, message)
        };
        return found
            .hint(
                "find out who removed it (kubectl get deploy -l app.kubernetes.io/component=matrix-authentication); for \
                 a homeserver with its own logins, delete the ConfigMap of markers and install ESS again with \
                 matrixAuthenticationService.enabled=false",
            )
            .with("marker", marker);
    }
    let delegated = installed && marker != Some("legacy_auth");
    let finding = match (delegated, source_has_mas) {
        (true, Some(false)) => blocker(
            &CLUSTER_MAS,
            format!("{message}, but the homeserver being migrated has its own logins: no user could log in"),
        )
        .hint(
            "reinstall ESS with matrixAuthenticationService.enabled=false (and delete the ConfigMap of markers), \
             migrate, then run syn2mas",
        ),
        (true, None) => warning(&CLUSTER_MAS, message).hint(
            "unless the homeserver being migrated uses MAS too, reinstall ESS with \
             matrixAuthenticationService.enabled=false",
        ),
        (false, Some(true)) => warning(
            &CLUSTER_MAS,
            format!("{message}, but the homeserver being migrated delegates logins to MAS"),
        )
        .hint("install ESS with matrixAuthenticationService.enabled=true, and migrate MAS's database at the same time"),
        _ => info(&CLUSTER_MAS, message),
    };
    finding.with("marker", marker)
}

/// The Deployment of the operator that manages Synapse in the older ESS.
fn operator(on: &OnKube) -> Result<Option<Workload>, Error> {
    if on.ess.distribution != Distribution::Operator {
        return Ok(None);
    }
    on.cluster
        .workload(WorkloadKind::Deployment, OPERATOR_NAMESPACE, OPERATOR)
}

/// The operator scales Synapse back up, so ess-scale stops the operator first. Reports in advance if ess-scale would
/// refuse to.
fn scales_back(ess: &Ess, operator: Result<Option<Workload>, Error>) -> ClusterFindings {
    if ess.distribution != Distribution::Operator {
        return Ok(Vec::new());
    }
    let mut found = vec![match operator {
        Ok(Some(operator)) if operator.replicas == 0 => info(&CLUSTER_OPERATOR, "the operator is not running"),
        Ok(Some(_)) => info(
            &CLUSTER_OPERATOR,
            "the operator scales Synapse back up: stop Synapse with ess-scale down, not with kubectl scale",
        ),
        Ok(None) => warning(
            &CLUSTER_OPERATOR,
            format!("there is no Deployment {OPERATOR} in namespace {OPERATOR_NAMESPACE} for ess-scale down to stop"),
        )
        .hint(
            "find the operator with kubectl get deploy -A, and name its namespace with ess-scale --operator-namespace",
        ),
        Err(error) if error.kind() == ErrorKind::Forbidden => info(
            &CLUSTER_OPERATOR,
            format!("it is unknown whether the operator is running: {}", error.why()),
        ),
        Err(error) => return Err(error),
    }];
    let leads_back = ess.operator.as_ref().and_then(|operator| operator.deployment.as_ref());
    if leads_back.is_none() {
        let message = format!(
            "there is no ElementDeployment {} in namespace {}: ess-scale down will refuse, because nothing could \
             recreate Synapse after it was deleted",
            ess.release, ess.namespace
        );
        found.push(
            warning(&CLUSTER_OPERATOR, message).hint(
                "apply the installer's deployment.yml again, or stop Synapse by hand on the day of the migration",
            ),
        );
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use ess_document::Severity;

    use super::*;

    #[test]
    fn a_volume_has_room_for_the_database_and_its_indexes() {
        assert_eq!(room(10, 10, 2), Some(true));
        assert_eq!(room(10, 19, 2), Some(false));
        assert_eq!(room(10, 20, 2), None);
        assert_eq!(room(u64::MAX, u64::MAX, 2), Some(true));
    }

    #[test]
    fn logins_stay_where_they_were() {
        let severity = |installed, marker, source| judge_mas(installed, marker, source).severity;
        assert_eq!(severity(true, Some("delegated_auth"), Some(false)), Severity::Blocker);
        assert_eq!(severity(true, None, Some(false)), Severity::Blocker);
        assert_eq!(severity(true, Some("delegated_auth"), None), Severity::Warning);
        assert_eq!(severity(false, Some("legacy_auth"), Some(true)), Severity::Warning);
        assert_eq!(severity(false, Some("legacy_auth"), Some(false)), Severity::Info);
        // syn2mas is being prepared: Synapse still handles logins.
        assert_eq!(severity(true, Some("legacy_auth"), Some(false)), Severity::Info);
        assert_eq!(severity(true, Some("delegated_auth"), Some(true)), Severity::Info);
        assert_eq!(severity(false, Some("delegated_auth"), Some(false)), Severity::Blocker);
        assert_eq!(severity(false, Some("syn2mas_migrated"), Some(true)), Severity::Warning);
        assert_eq!(severity(false, Some("syn2mas_migrated"), None), Severity::Warning);
    }
}
