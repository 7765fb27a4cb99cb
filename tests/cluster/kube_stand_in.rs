//! The real kubectl works with the stand-in for an API server.

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret, Service};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::support::objects::is_of;
use crate::support::{Call, Cluster, ESS_PASSWORD, Effect, Kube, Ran, World, free_port, kubectl};

struct Stage {
    world: World,
    cluster: Cluster,
    kube: Kube,
}

impl Stage {
    fn new() -> Self {
        let world = World::new();
        let cluster = Cluster::ess(&world, "target");
        let kube = Kube::community(&world, &cluster);
        let stage = Self { world, cluster, kube };
        stage
            .kubectl("wait --for=condition=Ready pod/ess-synapse-main-0 --timeout=20s")
            .success();
        stage
    }

    fn call<'a>(&self, arguments: &str) -> Call<'a> {
        let script = format!("{} --cache-dir kube/cache -n ess {arguments}", kubectl().display());
        self.kube.seen_by(self.world.script(&script))
    }

    fn kubectl(&self, arguments: &str) -> Ran {
        self.call(arguments).run()
    }
}

#[test]
fn kubectl_sees_what_is_there() {
    let stage = Stage::new();
    let names = |arguments: &str| {
        let ran = stage.kubectl(&format!("get {arguments} -o name")).success();
        ran.stdout.lines().map(str::to_owned).collect::<Vec<_>>()
    };

    assert_eq!(
        names("statefulsets -l app.kubernetes.io/component=matrix-server"),
        [
            "statefulset.apps/ess-synapse-fed-sender",
            "statefulset.apps/ess-synapse-main"
        ]
    );
    assert_eq!(
        names("pods -l 'app.kubernetes.io/component in (matrix-stack-db)'"),
        ["pod/ess-postgres-0"]
    );
    let secret = stage
        .kubectl("get secret ess-generated -o jsonpath='{.data.POSTGRES_SYNAPSE_PASSWORD}'")
        .success();
    let decoded = stage
        .world
        .shell(&format!("echo {} | base64 -d", secret.stdout))
        .success();
    assert_eq!(decoded.stdout, ESS_PASSWORD);
    // `kubectl auth can-i` sends Protobuf, which the stand-in refuses.
    stage.world.write(
        "review.json",
        r#"{"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": {"resourceAttributes":
            {"namespace": "ess", "verb": "patch", "group": "apps", "resource": "statefulsets"}}}"#,
    );
    let may = || {
        let review = "create --raw /apis/authorization.k8s.io/v1/selfsubjectaccessreviews -f review.json";
        let answer: serde_json::Value = serde_json::from_str(&stage.kubectl(review).success().stdout).unwrap();
        answer["status"]["allowed"].as_bool().unwrap()
    };
    assert!(may());
    stage.kube.deny("patch", "apps", "statefulsets");
    assert!(!may());
}

#[track_caller]
fn all_are_of<T: Serialize + DeserializeOwned>(kube: &Kube, resource: &str) {
    let all = kube.all(resource);
    assert!(!all.is_empty(), "there are no {resource}");
    all.iter().for_each(is_of::<T>);
}

#[test]
fn the_two_layouts_are_made_of_kubernetes_own_types() {
    let world = World::new();
    let cluster = Cluster::ess(&world, "target");
    for kube in [Kube::community(&world, &cluster), Kube::onprem(&world, &cluster)] {
        all_are_of::<StatefulSet>(&kube, "statefulsets");
        all_are_of::<Deployment>(&kube, "deployments");
        all_are_of::<Pod>(&kube, "pods");
        all_are_of::<Secret>(&kube, "secrets");
        all_are_of::<Service>(&kube, "services");
        all_are_of::<PersistentVolumeClaim>(&kube, "persistentvolumeclaims");
        kube.all("configmaps").iter().for_each(is_of::<ConfigMap>);
    }
}

#[test]
fn kubectl_applies_the_role_that_is_printed() {
    let stage = Stage::new();
    for (verb, group, resource) in [("get", "", "secrets"), ("list", "apps", "statefulsets")] {
        stage.kube.deny(verb, group, resource);
    }
    let verify = stage.world.tool("verify").args(["-n", "--target", "kube:ess"]);
    let refused = stage.kube.seen_by(verify).run();
    let (_, manifests) = refused.stderr.split_once("`kubectl apply -f -`:\n").unwrap();
    stage.world.write("role.yaml", manifests);

    stage.kubectl("apply --validate=false -f role.yaml").success();

    // The name of a Role ends with a digest of what it grants.
    let roles = stage.kube.all("roles");
    let [role] = roles.as_slice() else {
        panic!("not one role: {roles:?}")
    };
    assert_eq!(
        role["rules"],
        json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]},
            {"apiGroups": ["apps"], "resources": ["statefulsets"], "verbs": ["list"]}])
    );
    is_of::<Role>(role);
    let binding = stage
        .kube
        .object("rolebindings", "ess", role["metadata"]["name"].as_str().unwrap());
    assert_eq!(binding["roleRef"]["name"], role["metadata"]["name"]);
    is_of::<RoleBinding>(&binding);
}

#[test]
fn kubectl_scales_and_waits() {
    let stage = Stage::new();

    stage
        .kubectl("scale statefulset ess-synapse-fed-sender --replicas=0")
        .success();
    stage
        .kubectl("wait --for=delete pod/ess-synapse-fed-sender-1 --timeout=20s")
        .success();

    let set = stage.kube.object("statefulsets", "ess", "ess-synapse-fed-sender");
    assert_eq!(set["spec"]["replicas"], 0);
    stage
        .kubectl("annotate statefulset ess-synapse-fed-sender note=hello")
        .success();
    let set = stage.kube.object("statefulsets", "ess", "ess-synapse-fed-sender");
    assert_eq!(set["metadata"]["annotations"]["note"], "hello");
}

#[test]
fn kubectl_runs_programs_in_pods() {
    let stage = Stage::new();

    let ran = stage.kubectl(
        "exec -i ess-synapse-main-0 -c synapse -- sh -c 'cat > /media/file; echo said >&2; cat /media/file' <<< hello",
    );
    assert_eq!(ran.stdout, "hello\n", "{ran}");
    assert!(ran.stderr.contains("said"), "{ran}");
    let volume = stage.kube.volume("ess-synapse-media");
    assert_eq!(std::fs::read_to_string(volume.join("file")).unwrap(), "hello\n");
    // Another process of Synapse has its own directory there, in memory.
    let ran = stage
        .kubectl("exec ess-synapse-fed-sender-0 -c synapse -- ls /media")
        .success();
    assert_eq!(ran.stdout, "");
    assert_eq!(
        stage.kubectl("exec ess-synapse-main-0 -- sh -c 'exit 7'").status.code(),
        Some(7)
    );
}

#[test]
fn kubectl_forwards_a_port_to_a_real_server() {
    let stage = Stage::new();
    let port = free_port();
    let mut forward = stage
        .call(&format!("port-forward pod/ess-postgres-0 {port}:5432 1>&2"))
        .start();
    forward.wait_for("Forwarding from");

    let ask = |sql: &str| {
        let script = format!("psql -X -At 'postgresql://synapse_user@127.0.0.1:{port}/synapse' -c \"{sql}\"");
        stage.world.script(&script).env("PGPASSWORD", ESS_PASSWORD).run()
    };
    assert_eq!(ask("SELECT current_user").success().stdout, "synapse_user\n");
    let long = ask("SELECT repeat('x', 100000) FROM generate_series(1, 20)").success();
    assert_eq!(long.stdout.len(), 20 * 100_001);
    assert!(stage.cluster.log().is_empty() || !stage.cluster.log().contains("FATAL"));
    drop(forward);
}

#[test]
fn what_goes_wrong_is_what_kubectl_takes_for_wrong() {
    let stage = Stage::new();

    stage.kube.deny("delete", "", "secrets");
    let ran = stage.kubectl("delete secret ess-generated");
    assert!(ran.stderr.contains("Error from server (Forbidden)"), "{ran}");
    stage
        .kube
        .fault("PATCH", "statefulsets/ess-synapse-main", 1, Effect::Status(409));
    let ran = stage.kubectl("annotate statefulset ess-synapse-main a=b");
    assert!(ran.stderr.contains("Error from server (Conflict)"), "{ran}");
    stage.kube.fault("WATCH", "pods", 1, Effect::Status(410));
    let ran = stage.kubectl("get pods --watch-only");
    assert!(ran.stdout.contains("too old resource version"), "{ran}");
    stage.kube.fault("GET", "/exec", 1, Effect::CutAfter(3));
    let ran = stage.kubectl("exec ess-synapse-main-0 -- echo more than three bytes");
    assert!(!ran.status.success(), "{ran}");
}
