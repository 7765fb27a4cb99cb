//! The target's cluster: may we do what is to be done there, is there room, and who would interfere?

mod way;

pub(crate) use way::{To, open};

use ess_document::Finding;
use ess_kube::k8s_openapi::api::core::v1::ConfigMap;
use ess_kube::{Error, Ess, Kind, OPERATOR, OPERATOR_NAMESPACE, PodPort, Profile, Workload, WorkloadKind};
use ess_run::text::{count, size};
use ess_target::OnKube;

use super::versions::SynapseVersion;
use crate::finding::{Blocker, Detail, blocker, info, number, some_of, warning};

/// What is known of the source, to be held against the cluster.
#[derive(Clone, Copy)]
pub(crate) struct Source {
    /// The size of its database.
    pub(crate) database: Option<i64>,
    /// Whether its logins are MAS's already; nothing without its configuration.
    pub(crate) has_mas: Option<bool>,
}

/// The size that the media store was found to have.
pub(crate) fn media_size(findings: &[Finding]) -> Option<u64> {
    let media = findings.iter().find(|finding| finding.id == "media")?;
    let kinds = media.data.get("kinds")?.as_object()?;
    kinds.values().map(|kind| kind["bytes"].as_u64()).sum()
}

/// Everything that can be looked at, and the volume that media go to.
pub(crate) fn check(on: &OnKube, source: Source) -> anyhow::Result<(Vec<Finding>, Option<MediaVolume>)> {
    let mut found = vec![images(&on.ess)];
    found.extend(versions(&on.ess));
    let operator = operator(on);
    let makes_it = operator.as_ref().ok().and_then(Option::as_ref);
    found.extend(who_interferes(&on.ess, makes_it));
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
    ] {
        match outcome {
            Ok(findings) => found.extend(findings),
            Err(error) if error.kind() == Kind::Interrupted => return Err(error.into()),
            Err(error) => {
                let what = error.to_string();
                let message = format!("not checked: {what}: {}", error.why());
                found.push(blocker(Blocker::NotChecked, message).with("check", what));
            }
        }
    }
    Ok((found, volume))
}

type Found = Result<Vec<Finding>, Error>;

/// The version that Synapse's image has, when its tag says one.
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
        "cluster",
        format!(
            "the target is {}, {}, with Synapse {version} in {}",
            ess.place(),
            ess.profile,
            count(ess.synapse.len(), "workload")
        ),
    )
    .with("namespace", ess.namespace.as_str())
    .with("release", ess.release.as_str())
    .with("images", images)
}

/// Half of an upgrade: workers of another version than main may not understand its database.
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
            "cluster-versions",
            format!("processes of Synapse have different images: {}", images.join(", ")),
        )
        .hint("finish the upgrade of ESS first")
        .with("images", images)
    })
}

fn who_interferes(ess: &Ess, operator: Option<&Workload>) -> Option<Finding> {
    let owners = ess.gitops(operator);
    if owners.is_empty() {
        return None;
    }
    let names: Vec<String> = owners.iter().map(|owner| owner.name.clone()).collect();
    let pause: Vec<&str> = owners.iter().map(|owner| owner.pause.as_str()).collect();
    Some(
        warning(
            "cluster-gitops",
            format!("{} may scale Synapse back up during the migration", some_of(&names)),
        )
        .hint(format!("before ess-scale down, make it wait: {}", pause.join("; ")))
        .with("owners", names),
    )
}

/// An index is built beside its table, and old rows lie there until they are vacuumed.
fn database_space(on: &OnKube, needed: Option<i64>) -> Found {
    let Some(needed) = needed.and_then(|bytes| u64::try_from(bytes).ok()) else {
        return Ok(Vec::new());
    };
    let database = on.cluster.database(&on.ess)?;
    let Some(pod) = database.pod else { return Ok(Vec::new()) };
    let claims = on.cluster.claims_of(&pod)?;
    // With several volumes nothing says which of them has the data.
    let [(claim, Some(capacity))] = claims.as_slice() else {
        return Ok(Vec::new());
    };
    let place = place_of(&pod, claim);
    Ok(room(needed, *capacity, 2).map_or_else(Vec::new, |is_blocker| {
        let message = format!(
            "the source's database is {}, and {place} has {}",
            size(needed),
            size(*capacity)
        );
        let found = if is_blocker {
            blocker(Blocker::ClusterDatabaseSpace, message)
        } else {
            warning("cluster-database-space", message)
        };
        vec![
            found
                .hint("make the volume two to three times as large as the database: postgres.storage.size, or resize the claim")
                .with("needed", number_of(needed))
                .with("capacity", number_of(*capacity)),
        ]
    }))
}

fn place_of(pod: &PodPort, claim: &str) -> String {
    format!("volume {claim} of pod {}", pod.pod)
}

/// Nothing when there is room; otherwise whether there is not even room once.
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

/// The volume that media go to.
pub(crate) struct MediaVolume {
    claim: String,
    capacity: u64,
}

impl MediaVolume {
    /// A finding when there is no room for so many bytes.
    pub(crate) fn room(&self, needed: u64) -> Option<Finding> {
        let Self { claim, capacity } = self;
        room(needed, *capacity, 1)?;
        let message = format!(
            "the media are {}, and volume {claim} has {}",
            size(needed),
            size(*capacity)
        );
        Some(
            blocker(Blocker::ClusterMediaSpace, message)
                .hint("resize the claim, or install ESS with a larger synapse.media.storage.size")
                .with("needed", number_of(needed))
                .with("capacity", number_of(*capacity)),
        )
    }
}

fn media(on: &OnKube) -> Result<(Option<MediaVolume>, Finding), Error> {
    let media = on.cluster.media(&on.ess)?;
    let mounted = match (&media.pod, &media.workload) {
        (Some(pod), _) => format!("pod {pod} mounts it"),
        (None, Some(workload)) => format!("{workload} mounts it when it runs"),
        (None, None) => "nothing mounts it now".to_owned(),
    };
    let message = format!(
        "media go to volume {} ({}); {mounted}",
        media.claim,
        media.capacity.as_deref().unwrap_or("of unknown size")
    );
    let finding = info("cluster-media", message)
        .with("claim", media.claim.as_str())
        .with("user", number(media.user));
    let capacity = media.capacity.as_deref().and_then(ess_kube::bytes);
    let claim = media.claim;
    Ok((capacity.map(|capacity| MediaVolume { claim, capacity }), finding))
}

/// What the chart's deployment markers are labelled with, and their key.
const MARKERS: &str = "app.kubernetes.io/managed-by=matrix-tools-deployment-markers";
const MARKER: &str = "MATRIX_STACK_MSC3861";

/// A Synapse that has its own logins cannot go where MAS has them already.
fn mas(on: &OnKube, source_has_mas: Option<bool>) -> Found {
    if on.ess.profile != Profile::Community {
        return Ok(Vec::new());
    }
    let markers = on.cluster.list::<ConfigMap>(&on.ess.namespace, MARKERS)?;
    let own = format!("{}-markers", on.ess.release);
    let marker = markers
        .into_iter()
        .filter(|map| map.metadata.name.as_deref() == Some(&own))
        .find_map(|map| map.data?.remove(MARKER));
    let installed = !on.ess.mas.is_empty();
    Ok(vec![judge_mas(installed, marker.as_deref(), source_has_mas)])
}

fn judge_mas(installed: bool, marker: Option<&str>, source_has_mas: Option<bool>) -> Finding {
    let says = marker.map_or_else(String::new, |marker| format!(", its marker is {marker}"));
    let state = if installed { "on" } else { "off" };
    let message = format!("Matrix Authentication Service is {state} in ESS{says}");
    let delegated = installed && marker != Some("legacy_auth");
    let finding = match (delegated, source_has_mas) {
        (true, Some(false)) => blocker(
            Blocker::ClusterMas,
            format!("{message}, and the homeserver that moves has its own logins: nobody could log in"),
        )
        .hint(
            "install ESS anew with matrixAuthenticationService.enabled=false (and delete the ConfigMap of markers), \
             migrate, then run syn2mas",
        ),
        (true, None) => warning("cluster-mas", message).hint(
            "unless the homeserver that moves has MAS too, install ESS with matrixAuthenticationService.enabled=false",
        ),
        (false, Some(true)) => warning(
            "cluster-mas",
            format!("{message}, and the homeserver that moves leaves its logins to MAS"),
        )
        .hint("install ESS with matrixAuthenticationService.enabled=true, and move MAS's database at the same moment"),
        _ => info("cluster-mas", message),
    };
    finding.with("marker", marker)
}

/// What makes Synapse in the older ESS.
fn operator(on: &OnKube) -> Result<Option<Workload>, Error> {
    if on.ess.profile != Profile::Operator {
        return Ok(None);
    }
    on.cluster
        .workload(WorkloadKind::Deployment, OPERATOR_NAMESPACE, OPERATOR)
}

/// The operator scales everything back, which ess-scale knows; what it would refuse is told days before.
fn scales_back(ess: &Ess, operator: Result<Option<Workload>, Error>) -> Found {
    if ess.profile != Profile::Operator {
        return Ok(Vec::new());
    }
    let mut found = vec![match operator {
        Ok(Some(operator)) if operator.replicas == 0 => info("cluster-operator", "the operator does not run now"),
        Ok(Some(_)) => info(
            "cluster-operator",
            "the operator scales Synapse back up: stop it with ess-scale down, not with kubectl scale",
        ),
        Ok(None) => warning(
            "cluster-operator",
            format!("there is no Deployment {OPERATOR} in namespace {OPERATOR_NAMESPACE}, which ess-scale down stops"),
        )
        .hint(
            "look for the operator with kubectl get deploy -A, and name its namespace: ess-scale --operator-namespace",
        ),
        Err(error) if error.kind() == Kind::Forbidden => info(
            "cluster-operator",
            format!("whether the operator runs cannot be seen: {}", error.why()),
        ),
        Err(error) => return Err(error),
    }];
    let leads_back = ess.operator.as_ref().and_then(|operator| operator.deployment.as_ref());
    if leads_back.is_none() {
        let message = format!(
            "there is no ElementDeployment {} in namespace {}: ess-scale down will refuse, since nothing would lead \
             back to a deleted Synapse",
            ess.release, ess.namespace
        );
        found.push(
            warning("cluster-operator", message)
                .hint("apply deployment.yml of the installer again, or stop Synapse by hand on the day"),
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
        // syn2mas is being prepared: logins are Synapse's still.
        assert_eq!(severity(true, Some("legacy_auth"), Some(false)), Severity::Info);
        assert_eq!(severity(true, Some("delegated_auth"), Some(true)), Severity::Info);
    }
}
