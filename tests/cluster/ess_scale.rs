//! ess-scale: `down` leaves no pod of Synapse, and `up` restores the previous state.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Call, Cluster, Effect, Kube, Ran, World, until};

struct Stage {
    world: World,
    kube: Kube,
    _cluster: Cluster,
}

impl Stage {
    fn new(kube: impl FnOnce(&World, &Cluster) -> Kube) -> Self {
        let world = World::new();
        let cluster = Cluster::ess(&world, "target");
        let kube = kube(&world, &cluster);
        let stage = Self {
            world,
            kube,
            _cluster: cluster,
        };
        until("everything is up", || {
            stage.scale("status").json()["scale"]["state"] == "up"
        });
        stage
    }

    fn call<'a>(&self, arguments: &str) -> Call<'a> {
        let namespace = if self.kube.names("statefulsets", "ess").is_empty() {
            "element-onprem"
        } else {
            "ess"
        };
        let words = ["-n", "--target"]
            .map(str::to_owned)
            .into_iter()
            .chain([format!("kube:{namespace}")]);
        let call = self.kube.seen_by(self.world.tool("ess-scale"));
        call.args(arguments.split_whitespace().map(str::to_owned).chain(words))
    }

    fn scale(&self, arguments: &str) -> Ran {
        self.call(arguments).run()
    }

    fn replicas(&self, name: &str) -> Value {
        self.kube.object("statefulsets", "ess", name)["spec"]["replicas"].clone()
    }
}

fn synapse_pods(stage: &Stage, namespace: &str) -> Vec<String> {
    let names = stage.kube.names("pods", namespace);
    names
        .into_iter()
        .filter(|name| name.contains("-synapse-") && !name.contains("check-config"))
        .collect()
}

#[test]
fn down_stops_all_of_synapse_and_up_brings_back_exactly_that() {
    let stage = Stage::new(Kube::community);
    stage.kube.add_mas("ess", "ess", 2);
    let before = stage.kube.names("pods", "ess");

    let down = stage.scale("down").success();

    assert_eq!(synapse_pods(&stage, "ess"), [""; 0]);
    assert!(
        stage
            .kube
            .names("pods", "ess")
            .iter()
            .any(|pod| pod.contains("check-config")),
        "it is not Synapse"
    );
    assert!(stage.kube.names("pods", "ess").contains(&"ess-postgres-0".to_owned()));
    let document = down.json();
    assert_eq!(document["scale"]["state"], "down");
    let workload = |kind: &str, name: &str, replicas: u32| json!({"kind": kind, "namespace": "ess", "name": name, "replicas": replicas});
    assert_eq!(
        document["scale"]["workloads"],
        json!([
            workload("StatefulSet", "ess-synapse-fed-sender", 2),
            workload("StatefulSet", "ess-synapse-main", 1),
            workload("Deployment", "ess-matrix-authentication-service", 2),
        ])
    );
    let set = stage.kube.object("statefulsets", "ess", "ess-synapse-fed-sender");
    assert_eq!(set["metadata"]["annotations"]["ess-migrate/replicas"], "2");
    insta::assert_snapshot!(down.stderr, @r#"
    ess-scale: Synapse of kube:ess/ess is down, and none of its pods is left
    to start it again: ess-scale up -n --target kube:ess/ess --kube-context stand-in
    "#);

    let again = stage.scale("down").success();
    assert_eq!(
        again.json()["scale"]["workloads"],
        document["scale"]["workloads"],
        "a second run records no zeros"
    );
    stage.kube.edit("statefulsets", "ess", "ess-synapse-fed-sender", |set| {
        set["spec"]["replicas"] = 1.into();
    });
    let again = stage.scale("down").success();
    assert_eq!(
        again.json()["scale"]["workloads"],
        document["scale"]["workloads"],
        "what somebody started meanwhile is not what it was"
    );
    let both =
        "ess-synapse-fed-sender has 1 replica now, and 2 on record from before it was stopped: the record is used";
    assert!(again.stderr.contains(both), "{again}");

    let up = stage.scale("up").success();
    assert_eq!(up.json()["scale"]["state"], "up");
    assert_eq!(
        (
            stage.replicas("ess-synapse-main"),
            stage.replicas("ess-synapse-fed-sender")
        ),
        (json!(1), json!(2))
    );
    let set = stage.kube.object("statefulsets", "ess", "ess-synapse-fed-sender");
    assert_eq!(set["metadata"]["annotations"], json!({}), "the record is gone");
    let mas = stage
        .kube
        .object("deployments", "ess", "ess-matrix-authentication-service");
    assert_eq!(mas["spec"]["replicas"], 2);
    let after = stage.kube.names("pods", "ess");
    assert_eq!(after.len(), before.len() + 2, "{before:?} {after:?}");
    stage.scale("up").success();
    assert_eq!(stage.replicas("ess-synapse-fed-sender"), 2);
}

#[test]
fn the_document_knows_the_replicas_when_the_cluster_has_lost_them() {
    let stage = Stage::new(Kube::community);
    let down = stage.scale("down").success();
    stage.world.write("scaled.json", &down.stdout);
    stage.kube.edit("statefulsets", "ess", "ess-synapse-fed-sender", |set| {
        set["metadata"]["annotations"] = json!({});
    });

    let up = stage.world.script("ess-scale up < scaled.json");
    stage.kube.seen_by(up).run().success();

    assert_eq!(stage.replicas("ess-synapse-fed-sender"), 2);
}

#[test]
fn what_had_no_replicas_before_has_none_after() {
    let stage = Stage::new(Kube::community);
    stage.kube.edit("statefulsets", "ess", "ess-synapse-fed-sender", |set| {
        set["spec"]["replicas"] = 0.into();
    });
    until("one worker less", || synapse_pods(&stage, "ess").len() == 1);

    stage.scale("down").success();
    let up = stage.scale("up").success();

    assert_eq!(stage.replicas("ess-synapse-fed-sender"), 0);
    assert!(up.stderr.contains("ess-synapse-fed-sender stays at 0"), "{up}");
}

#[test]
fn a_run_that_was_ended_is_gone_on_with() {
    let stage = Stage::new(Kube::community);
    stage.kube.settings().slowness = Duration::from_secs(600);
    let mut running = stage.call("down -v").start();
    running.wait_for("waiting for Synapse's pods to terminate");
    running.signal(rustix::process::Signal::TERM);
    let ended = running.wait();
    assert_eq!(ended.stdout, "", "{ended}");
    stage.kube.settings().slowness = Duration::from_millis(50);

    let down = stage.scale("down").success();

    assert_eq!(
        down.json()["scale"]["workloads"][0]["replicas"],
        2,
        "what it was before the first run"
    );
    stage.scale("up").success();
    assert_eq!(stage.replicas("ess-synapse-fed-sender"), 2);
}

#[test]
fn pods_that_do_not_go_are_named() {
    let stage = Stage::new(Kube::community);
    stage.kube.settings().slowness = Duration::from_secs(600);
    let ran = stage.scale("down --timeout 1");
    assert_eq!(ran.status.code(), Some(69), "{ran}");
    assert!(ran.stderr.contains("ess-synapse-main-0 (Running)"), "{ran}");
    assert_eq!(ran.stdout, "");
}

#[test]
fn whoever_scales_it_back_is_named() {
    let stage = Stage::new(Kube::community);
    stage.kube.edit("statefulsets", "ess", "ess-synapse-fed-sender", |set| {
        set["metadata"]["labels"]["helm.toolkit.fluxcd.io/name"] = "ess".into();
        set["metadata"]["labels"]["helm.toolkit.fluxcd.io/namespace"] = "flux-system".into();
    });
    let ran = stage.scale("down").success();
    assert!(
        ran.stderr.contains("flux suspend helmrelease ess -n flux-system"),
        "{ran}"
    );
    assert_eq!(ran.json()["scale"]["warnings"].as_array().unwrap().len(), 1);
    stage.scale("up").success();

    stage.kube.settings().healed = vec![("ess-synapse-fed-sender".to_owned(), 2)];
    let ran = stage.scale("down --timeout 2");
    assert_ne!(ran.status.code(), Some(0), "{ran}");
    assert_eq!(ran.stdout, "");
}

#[test]
fn a_change_of_another_client_is_not_overwritten() {
    let stage = Stage::new(Kube::community);
    stage.kube.fault("PATCH", "statefulsets", 2, Effect::Status(409));
    stage.scale("down").success();
    assert_eq!(stage.replicas("ess-synapse-main"), 0);

    stage.kube.fault("PATCH", "statefulsets", 100, Effect::Status(409));
    let ran = stage.scale("up");
    assert_eq!(ran.status.code(), Some(69), "{ran}");
    assert!(ran.stderr.contains("another client changed it"), "{ran}");
}

#[test]
fn what_changes_between_look_and_change_is_seen() {
    let stage = Stage::new(Kube::community);
    stage.kube.fault(
        "PATCH",
        "statefulsets/ess-synapse-fed-sender",
        1,
        Effect::Late(Duration::from_secs(2)),
    );
    let running = stage.call("down").start();
    until("it is about to scale", || {
        stage
            .kube
            .requests()
            .iter()
            .any(|request| request.starts_with("PATCH") && request.contains("fed-sender"))
    });
    stage.kube.edit("statefulsets", "ess", "ess-synapse-fed-sender", |set| {
        set["spec"]["replicas"] = 3.into();
    });

    let ended = running.wait();

    assert_eq!(ended.json()["scale"]["workloads"][0]["replicas"], 3, "{ended}");
    stage.scale("up").success();
    assert_eq!(stage.replicas("ess-synapse-fed-sender"), 3);
}

#[test]
fn permissions_are_checked_before_anything_is_done() {
    let stage = Stage::new(Kube::community);
    stage.kube.deny("patch", "apps", "deployments");

    let ran = stage.scale("down");

    assert_eq!(ran.status.code(), Some(77), "{ran}");
    assert!(
        ran.stderr
            .contains("mover lacks permissions in namespace ess: patch deployments.apps"),
        "{ran}"
    );
    assert_eq!(stage.replicas("ess-synapse-main"), 1);
    stage.scale("status").success();
}

#[test]
fn the_older_ess_is_stopped_by_way_of_its_operator() {
    let stage = Stage::new(Kube::onprem);
    let name = "first-element-deployment";
    // The operator would create every StatefulSet again.
    stage.kube.edit(
        "statefulsets",
        "element-onprem",
        &format!("{name}-synapse-main"),
        |set| set["spec"]["replicas"] = 0.into(),
    );
    until("the operator scales it back", || {
        stage
            .kube
            .object("statefulsets", "element-onprem", &format!("{name}-synapse-main"))["spec"]["replicas"]
            == 1
    });
    stage.kube.settings().updater = false;
    // A pod that was evicted because its node ran out of memory.
    stage.kube.put(json!({"apiVersion": "v1", "kind": "Pod", "status": {"phase": "Failed", "reason": "Evicted"},
        "metadata": {"name": "element-operator-controller-manager-evicted", "namespace": "operator-onprem",
            "labels": {"app.kubernetes.io/instance": "element-operator-controller-manager"}}, "spec": {"containers": []}}));

    let down = stage.scale("down").success();

    assert_eq!(synapse_pods(&stage, "element-onprem"), [""; 0]);
    let operator = || {
        stage
            .kube
            .object("deployments", "operator-onprem", "element-operator-controller-manager")
    };
    assert_eq!(operator()["spec"]["replicas"], 0);
    assert_eq!(operator()["metadata"]["annotations"]["ess-migrate/replicas"], "1");
    assert_eq!(stage.kube.object("synapses", "element-onprem", name), Value::Null);
    assert_eq!(
        down.json()["scale"]["workloads"][1],
        json!({"kind": "Synapse", "namespace": "element-onprem", "name": name})
    );
    let status = stage.scale("status").success();
    assert_eq!(status.json()["scale"]["state"], "down");
    stage.scale("down").success();

    stage.scale("up").success();

    assert_eq!(operator()["spec"]["replicas"], 1);
    let synapse = stage.kube.object("synapses", "element-onprem", name);
    assert_eq!(
        synapse["spec"]["config"]["workers"][0]["instances"], 3,
        "it is as it was"
    );
    let set = stage
        .kube
        .object("statefulsets", "element-onprem", &format!("{name}-synapse-fed-sender"));
    assert_eq!(set["spec"]["replicas"], 3);
    assert_eq!(
        stage.kube.object("configmaps", "element-onprem", "ess-migrate-scale"),
        Value::Null
    );
}

#[test]
fn a_proxy_of_the_environment_is_not_used_where_it_is_excluded() {
    let stage = Stage::new(Kube::community);
    // A proxy at which nothing listens.
    let status = stage.call("status").env("HTTPS_PROXY", "http://127.0.0.1:1").run();
    assert_eq!(status.success().json()["scale"]["state"], "up");
}

#[test]
fn an_operator_elsewhere_is_found_again_by_the_document() {
    let stage = Stage::new(Kube::onprem);
    let (name, place) = ("element-operator-controller-manager", "operators");
    let mut operator = stage.kube.object("deployments", "operator-onprem", name);
    stage.kube.remove("deployments", "operator-onprem", name);
    operator["metadata"]["namespace"] = place.into();
    operator["metadata"]["uid"] = Value::Null;
    stage.kube.put(operator);
    stage.kube.settle();
    let refused = stage.scale("down");
    assert_eq!(refused.status.code(), Some(1), "{refused}");
    let replicas = || stage.kube.object("deployments", place, name)["spec"]["replicas"].clone();

    let down = stage.scale("down --operator-namespace operators").success();
    assert_eq!(replicas(), 0);
    stage.world.write("down.json", &down.stdout);
    let run = |line: &str| stage.kube.seen_by(stage.world.script(line)).run();

    let other = run("ess-scale up --operator-namespace elsewhere < down.json");
    assert_eq!(other.status.code(), Some(64), "{other}");
    assert!(
        other
            .stderr
            .contains("is elsewhere, but the document's `scale` has operators"),
        "{other}"
    );
    run("ess-scale up < down.json").success();
    assert_eq!(replicas(), 1);
}

#[test]
fn whoever_brings_the_operator_back_is_named() {
    let stage = Stage::new(Kube::onprem);
    let operator = "element-operator-controller-manager";
    let edit = |edit: &dyn Fn(&mut Value)| stage.kube.edit("deployments", "operator-onprem", operator, edit);
    edit(&|object| object["metadata"]["annotations"]["argocd.argoproj.io/tracking-id"] = "ess:a:b".into());

    let down = stage.scale("down").success();
    assert!(down.stderr.contains("argocd app set ess --sync-policy none"), "{down}");
    assert_eq!(stage.scale("status").success().json()["scale"]["state"], "down");

    // The operator creates nothing, so that no pod of Synapse comes back.
    stage.kube.settings().made_by_operator = Vec::new();
    edit(&|object| object["spec"]["replicas"] = 1.into());
    assert_eq!(stage.scale("status").success().json()["scale"]["state"], "partly");

    stage.kube.settings().slowness = Duration::from_millis(5);
    stage.kube.settings().healed = vec![(operator.to_owned(), 1)];
    let again = stage.scale("down --timeout 2");
    assert_ne!(again.status.code(), Some(0), "{again}");
    assert_eq!(again.stdout, "");
}

#[test]
fn what_nothing_would_lead_back_to_is_left_running() {
    let stage = Stage::new(Kube::onprem);
    let name = "first-element-deployment";
    stage.kube.settings().updater = false;
    stage.kube.remove("elementdeployments", "element-onprem", name);

    insta::assert_snapshot!(stage.scale("down"), @r#"
    -- stderr --
    ess-scale: there is no ElementDeployment first-element-deployment in namespace element-onprem, so this ESS would no longer be found once its Synapse is deleted
    hint: stop it by hand, and note the numbers of replicas: kubectl scale deploy/element-operator-controller-manager -n operator-onprem --replicas 0, then kubectl scale sts -n element-onprem -l app.kubernetes.io/component=matrix-server --replicas 0
    -- exit status: 1 --
    "#);

    let operator = stage
        .kube
        .object("deployments", "operator-onprem", "element-operator-controller-manager");
    assert_eq!(operator["spec"]["replicas"], 1);
    assert_ne!(stage.kube.object("synapses", "element-onprem", name), Value::Null);
    stage.scale("up").success();
}

#[test]
fn up_is_refused_while_the_target_is_fenced() {
    let stage = Stage::new(Kube::community);
    stage.scale("down").success();
    let document = r#"{"format":"ess-migration/1","wipe":{"version":"0.1.0","started_at":"","finished_at":"","executed":true,"objects":{},"fence":"standing"}}"#;

    let call = stage.kube.seen_by(stage.world.tool("ess-scale"));
    let ran = call.args(["up", "--target", "kube:ess"]).stdin(document).run();

    assert_eq!(ran.status.code(), Some(1), "{ran}");
    assert!(ran.stderr.contains("the target is fenced"), "{ran}");
    assert_eq!(stage.replicas("ess-synapse-main"), 0);
}
