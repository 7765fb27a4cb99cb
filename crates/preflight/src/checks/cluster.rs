//! The target's cluster: may we do what is to be done there, is there room, and who would interfere?

use ess_cli::{Context, TargetArgs};
use ess_document::Finding;
use ess_kube::k8s_openapi::api::core::v1::{ConfigMap, Pod};
use ess_kube::{Ess, Kind, Missing, OPERATOR_NAMESPACE, PodPort, Profile, Right, Workload};
use ess_target::{OnKube, Reached};

use super::versions::SynapseVersion;
use crate::finding::{Blocker, Detail, blocker, count, info, number, size, some_of, warning};

/// The target, as far as the way to it is open.
#[derive(Default)]
pub(crate) struct To {
    /// The ESS, when the target is named as `kube:...` and was found.
    pub(crate) ess: Option<OnKube>,
    /// The way to the database.
    pub(crate) database: Option<Reached>,
}

/// Finds the target and opens the way to its database; what fails in a cluster is a finding.
pub(crate) fn open(context: &mut Context, args: &TargetArgs, findings: &mut Vec<Finding>) -> anyhow::Result<To> {
    let Some(named) = ess_target::named(context, args)? else {
        let database = ess_target::target(context, args)?;
        return Ok(To { ess: None, database });
    };
    let Some(cluster) = noted(ess_target::connect(&named), Blocker::ClusterUnreachable, findings)? else {
        return Ok(To::default());
    };
    let needed = ess_target::rights(&cluster).map(|now| [&now, Right::SCALE, Right::MEDIA].concat());
    let Some(mut needed) = noted(needed, Blocker::ClusterUnreachable, findings)? else {
        return Ok(To::default());
    };
    let asked = cluster.missing(&needed).map_err(Into::into);
    let Some(missing) = noted(asked, Blocker::ClusterUnreachable, findings)? else {
        return Ok(To::default());
    };
    let missing = missing.as_ref();
    let say = |blocks| missing.map(|missing| rights(missing, blocks));
    if missing.is_some_and(|missing| missing.lacks(Right::FIND) || missing.lacks(Right::DATABASE)) {
        findings.extend(say(true));
        return Ok(To::default());
    }
    let is_refused = |error: &anyhow::Error| missing.is_some() && ess_target::kind(error) == Some(Kind::Forbidden);
    let on = match ess_target::find(context, cluster, &named) {
        Err(error) if is_refused(&error) => {
            findings.extend(say(true));
            return Ok(To::default());
        }
        found => noted(found, Blocker::ClusterUnreachable, findings)?,
    };
    let Some(on) = on else {
        return Ok(To::default());
    };
    // One list of all, with one Role.
    let missing = if on.ess.profile == Profile::Operator {
        needed.extend(Right::operator(OPERATOR_NAMESPACE));
        let asked = on.cluster.missing(&needed).map_err(Into::into);
        noted(asked, Blocker::ClusterUnreachable, findings)?.flatten()
    } else {
        missing.cloned()
    };
    let missing = missing.as_ref();
    // What is refused in another namespace is a finding of its own.
    let is_listed = |error: &anyhow::Error| {
        let why = error.downcast_ref().map(ess_kube::Error::why);
        missing.is_some_and(|missing| why == Some(missing.sentence()))
    };
    let (database, blocks) = match ess_target::reach(context, args, &on, missing) {
        Err(error) if is_listed(&error) => (None, true),
        reached => (noted(reached, Blocker::TargetUnreachable, findings)?, false),
    };
    // The password came from a file, or we may read the one Secret that has it.
    let missing = match (missing, &database) {
        (Some(missing), Some(_)) => missing.clone().without(Right::PASSWORD),
        (missing, _) => missing.cloned(),
    };
    findings.extend(missing.map(|missing| rights(&missing, blocks)));
    Ok(To {
        ess: Some(on),
        database,
    })
}

/// An error of the cluster as a finding; an interruption and a wrong command line stay errors.
fn noted<T>(outcome: anyhow::Result<T>, id: Blocker, findings: &mut Vec<Finding>) -> anyhow::Result<Option<T>> {
    let error = match outcome {
        Ok(done) => return Ok(Some(done)),
        Err(error) => error,
    };
    let Some(cluster) = error.downcast_ref::<ess_kube::Error>() else {
        return Err(error);
    };
    let id = match cluster.kind() {
        Kind::Usage | Kind::Interrupted => return Err(error),
        Kind::Forbidden => Blocker::ClusterRights,
        Kind::Unrecognised => Blocker::ClusterLayout,
        _ => id,
    };
    let hint = match id {
        Blocker::ClusterUnreachable => "see whether `kubectl get pods` works, or choose another --kube-context",
        Blocker::ClusterRights => "ask who runs the cluster for that right, or log in to it again",
        Blocker::ClusterLayout => "check --target, or name the database itself: --target postgresql://...",
        _ => "see whether its pods are ready: `kubectl get pods`",
    };
    let known = cluster.remedy().filter(|_| id == Blocker::ClusterRights);
    findings.push(blocker(id, format!("{error:#}")).hint(known.unwrap_or(hint)));
    Ok(None)
}

fn rights(missing: &Missing, blocks: bool) -> Finding {
    let message = missing.sentence();
    let finding = if blocks {
        blocker(Blocker::ClusterRights, message)
    } else {
        warning("cluster-rights", format!("{message} (later steps may need it)"))
    };
    let rights: Vec<String> = missing.rights.iter().map(ToString::to_string).collect();
    finding.hint(missing.remedy()).with("rights", rights)
}

/// What is known of the source, to be held against the cluster.
#[derive(Clone, Copy)]
pub(crate) struct Source {
    /// The size of its database.
    pub(crate) database: Option<i64>,
    /// The size of its media.
    pub(crate) media: Option<u64>,
    /// Whether its logins are MAS's already; nothing without its configuration.
    pub(crate) has_mas: Option<bool>,
}

/// The size that the media store was found to have.
pub(crate) fn media_size(findings: &[Finding]) -> Option<u64> {
    let media = findings.iter().find(|finding| finding.id == "media")?;
    let kinds = media.data.get("kinds")?.as_object()?;
    kinds.values().map(|kind| kind["bytes"].as_u64()).sum()
}

/// Everything that can be looked at.
pub(crate) fn check(on: &OnKube, source: Source) -> anyhow::Result<Vec<Finding>> {
    let mut found = vec![images(&on.ess)];
    found.extend(versions(&on.ess));
    found.extend(who_interferes(&on.ess));
    for outcome in [
        database_space(on, source.database),
        media_space(on, source.media),
        mas(on, source.has_mas),
        operator(on),
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
    Ok(found)
}

type Found = Result<Vec<Finding>, ess_kube::Error>;

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

fn who_interferes(ess: &Ess) -> Option<Finding> {
    let owners = ess.synapse.iter().chain(&ess.mas).filter_map(Workload::gitops);
    let owners: std::collections::BTreeSet<_> = owners.collect();
    let first = owners.first()?;
    let names: Vec<String> = owners.iter().map(|owner| owner.name.clone()).collect();
    Some(
        warning(
            "cluster-gitops",
            format!("{} may scale Synapse back up during the migration", some_of(&names)),
        )
        .hint(format!("before ess-scale down, make it wait: {}", first.pause))
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

fn media_space(on: &OnKube, needed: Option<u64>) -> Found {
    let media = on.cluster.media(&on.ess)?;
    let mounted = match (&media.pod, &media.workload) {
        (Some(pod), _) => format!("pod {pod} mounts it"),
        (None, Some(workload)) => format!("{workload} mounts it when it runs"),
        (None, None) => "nothing mounts it now".to_owned(),
    };
    let capacity = media.capacity.as_deref().and_then(ess_kube::bytes);
    let mut found = vec![
        info(
            "cluster-media",
            format!(
                "media go to volume {} ({}); {mounted}",
                media.claim,
                media.capacity.as_deref().unwrap_or("of unknown size")
            ),
        )
        .with("claim", media.claim.as_str())
        .with("user", number(media.user)),
    ];
    if let (Some(needed), Some(capacity)) = (needed, capacity)
        && room(needed, capacity, 1).is_some()
    {
        let message = format!(
            "the media are {}, and volume {} has {}",
            size(needed),
            media.claim,
            size(capacity)
        );
        found.push(
            blocker(Blocker::ClusterMediaSpace, message)
                .hint("resize the claim, or install ESS with a larger synapse.media.storage.size")
                .with("needed", number_of(needed))
                .with("capacity", number_of(capacity)),
        );
    }
    Ok(found)
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

/// The operator scales everything back, which ess-scale knows.
fn operator(on: &OnKube) -> Found {
    if on.ess.profile != Profile::Operator {
        return Ok(Vec::new());
    }
    let running = on.cluster.list::<Pod>(OPERATOR_NAMESPACE, "");
    let running = match running {
        Ok(pods) if pods.is_empty() => info("cluster-operator", "the operator does not run now"),
        Ok(_) => info(
            "cluster-operator",
            "the operator scales Synapse back up: stop it with ess-scale down, not with kubectl scale",
        ),
        Err(error) if error.kind() == Kind::Forbidden => info(
            "cluster-operator",
            format!("whether the operator runs cannot be seen: {}", error.why()),
        ),
        Err(error) => return Err(error),
    };
    Ok(vec![running])
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
