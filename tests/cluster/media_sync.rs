//! media-sync into the media volume of an ESS: through the pod that mounts it, or one that is created for it.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use rustix::process::Signal;
use serde_json::json;

use crate::support::frames::{assert_trusts_no_sender, frame, hello, received, text};
use crate::support::media::{PATHS, files, fill, media};
use crate::support::{Call, Cluster, Effect, Kube, Running, World, assert_failed, wait_until};

struct Stage {
    world: World,
    kube: Kube,
    namespace: &'static str,
    claim: &'static str,
    _cluster: Cluster,
}

impl Stage {
    fn new() -> Self {
        Self::of(Kube::community, "ess", "ess-synapse-media")
    }

    fn of(kube: impl FnOnce(&World, &Cluster) -> Kube, namespace: &'static str, claim: &'static str) -> Self {
        let world = World::new();
        let cluster = Cluster::ess(&world, "target");
        let kube = kube(&world, &cluster);
        fill(&world);
        Self {
            world,
            kube,
            namespace,
            claim,
            _cluster: cluster,
        }
    }

    fn sync<'a>(&self) -> Call<'a> {
        let call = self.kube.seen_by(self.world.tool("media-sync"));
        call.args([
            "-n",
            "--source-dir",
            "store",
            "--target",
            &format!("kube:{}", self.namespace),
        ])
    }

    /// The media store in the volume.
    fn copy(&self) -> PathBuf {
        self.kube.volume(self.claim).join("media_store")
    }

    #[track_caller]
    fn assert_copied(&self) {
        let (store, copy) = (files(&self.world.path("store")), files(&self.copy()));
        assert_eq!(store.keys().collect::<Vec<_>>(), copy.keys().collect::<Vec<_>>());
        assert!(store == copy, "a file differs");
    }

    /// Stops Synapse, so that no pod mounts the volume.
    fn stop_synapse(&self) {
        let ran = self.kube.seen_by(self.world.tool("ess-scale"));
        ran.args(["down", "-n", "--target", &format!("kube:{}", self.namespace)])
            .run()
            .success();
    }

    /// Starts a slow run, which works in a pod of its own.
    fn begin_without_synapse(&self) -> Running {
        self.stop_synapse();
        self.world.write("store/local_content/Ab/Cd/Big", vec![1; 3_000_000]);
        let running = self.sync().args(["--bwlimit", "200K"]).start();
        wait_until("it began", || self.is_at_work());
        running
    }

    fn is_at_work(&self) -> bool {
        fs::read_dir(self.copy().join(".media-sync")).is_ok_and(|found| found.count() > 1)
    }

    fn helpers(&self) -> Vec<String> {
        let pods = self.kube.names("pods", self.namespace).into_iter();
        pods.filter(|name| name.ends_with("-media-sync")).collect()
    }
}

#[test]
fn media_go_into_the_pod_that_mounts_the_volume() {
    let stage = Stage::new();

    let first = stage.sync().run().success();

    stage.assert_copied();
    assert_eq!(media(&first)["sent"]["files"], PATHS.len());
    assert_eq!(media(&first)["copy"], "kube:ess/ess:/media/media_store");
    assert_eq!(first.json()["target"]["kube"]["namespace"], "ess");
    let mode = |path: &str| fs::metadata(stage.copy().join(path)).unwrap().mode() & 0o7777;
    assert_eq!(
        (mode(PATHS[0]), mode("local_content/Ab"), mode("")),
        (0o600, 0o700, 0o700)
    );
    let requests = stage.kube.requests();
    let execs: Vec<&String> = requests.iter().filter(|request| request.contains("/exec")).collect();
    assert_eq!(execs.len(), 1);
    assert!(execs[0].contains("/pods/ess-synapse-main-0/exec") && execs[0].contains("container=synapse"));
    assert!(!execs[0].contains("class"), "the receiver is no argument: {}", execs[0]);

    let second = stage.sync().run().success();
    assert_eq!(media(&second)["unchanged"]["files"], PATHS.len());

    // One file changes, one is corrupted, one is removed; Synapse's own files are readable by others.
    stage.world.write("store/local_content/Zz/Yy/Xx", "longer");
    let rotten = stage.copy().join(PATHS[4]);
    let time = fs::metadata(&rotten).unwrap().modified().unwrap();
    let mut bytes = fs::read(&rotten).unwrap();
    bytes[200_000] ^= 1;
    fs::write(&rotten, bytes).unwrap();
    let file = fs::File::options().write(true).open(&rotten).unwrap();
    file.set_modified(time).unwrap();
    fs::remove_file(stage.world.path("store").join(PATHS[7])).unwrap();
    stage
        .world
        .shell(&format!(
            "chmod 755 {0} {0}/local_content/Ab; chmod 644 {0}/{1}",
            stage.copy().display(),
            PATHS[0]
        ))
        .success();

    let third = stage.sync().args(["--verify", "--delete"]).run().success();

    stage.assert_copied();
    assert_eq!(media(&third)["damaged"], json!({"count": 1, "names": [PATHS[4]]}));
    assert_eq!(media(&third)["removed"], 1);
    assert_eq!(
        (mode(PATHS[0]), mode("local_content/Ab"), mode("")),
        (0o640, 0o750, 0o750)
    );
    assert_eq!(stage.helpers(), [""; 0]);
}

#[test]
fn while_synapse_is_stopped_a_pod_is_made_and_removed() {
    let stage = Stage::new();
    stage.stop_synapse();
    stage.kube.settings().slowness = std::time::Duration::from_millis(800);
    let running = stage.sync().start();
    wait_until("there is a pod", || stage.helpers() == ["ess-media-sync"]);
    let pod = stage.kube.object("pods", "ess", "ess-media-sync");

    let ran = running.wait().success();

    stage.assert_copied();
    assert_eq!(media(&ran)["complete"], true);
    assert_eq!(stage.helpers(), [""; 0]);
    let spec = &pod["spec"];
    assert_eq!(spec["securityContext"]["runAsUser"], 10_091);
    assert_eq!(spec["securityContext"]["fsGroup"], 10_091);
    assert_eq!(spec["securityContext"]["fsGroupChangePolicy"], "OnRootMismatch");
    assert_eq!(spec["securityContext"]["runAsNonRoot"], true);
    let container = &spec["containers"][0];
    assert_eq!(container["image"], "oci.element.io/synapse:v1.159.0");
    assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
    assert_eq!(container["securityContext"]["capabilities"], json!({"drop": ["ALL"]}));
    assert_eq!(
        spec["volumes"][0]["persistentVolumeClaim"]["claimName"],
        "ess-synapse-media"
    );
    assert_eq!(spec["automountServiceAccountToken"], false);
    assert_eq!(spec["activeDeadlineSeconds"], 86_400);
    assert_ne!(
        pod["metadata"]["labels"]["app.kubernetes.io/component"],
        "matrix-server"
    );
}

#[test]
fn a_pod_that_was_left_behind_is_used_and_one_of_others_is_not() {
    let stage = Stage::new();
    let running = stage.begin_without_synapse();
    let other = stage.sync().run();
    assert_failed(&other, 75, "holds the lock /");
    assert!(stage.is_at_work(), "the run that goes on has lost its file");
    assert_eq!(
        stage.helpers(),
        ["ess-media-sync"],
        "the pod of the run that goes on is gone"
    );
    running.kill();
    assert_eq!(stage.helpers(), ["ess-media-sync"]);

    wait_until("the receiver is gone", || stage.sync().run().status.success());

    stage.assert_copied();
    assert_eq!(stage.helpers(), [""; 0]);
    stage.kube.put(json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "ess-media-sync", "namespace": "ess", "labels": {}}, "spec": {"containers": []}}));
    assert_failed(&stage.sync().run(), 69, "was not created by media-sync");
    assert_eq!(stage.helpers(), ["ess-media-sync"]);
}

#[test]
fn a_pod_that_has_ended_is_replaced() {
    let stage = Stage::new();
    stage.stop_synapse();
    let labels = json!({"app.kubernetes.io/managed-by": "media-sync"});
    stage.kube.put(json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "ess-media-sync", "namespace": "ess", "labels": labels},
        "spec": {"containers": []}, "status": {"phase": "Failed"}}));

    stage.sync().run().success();

    stage.assert_copied();
    assert_eq!(stage.helpers(), [""; 0]);
}

#[test]
fn a_pod_of_ours_that_ends_before_it_is_ready_is_an_error() {
    let stage = Stage::new();
    stage.stop_synapse();
    stage.kube.settings().slowness = std::time::Duration::from_secs(30);
    let running = stage.sync().start();
    wait_until("there is a pod", || stage.helpers() == ["ess-media-sync"]);
    // As where its image has no Python.
    stage.kube.edit("pods", "ess", "ess-media-sync", |pod| {
        pod["status"]["phase"] = "Failed".into();
    });
    stage.kube.settings().slowness = std::time::Duration::from_millis(50);

    let ran = running.wait();

    assert_failed(
        &ran,
        69,
        "cannot use pod ess/ess-media-sync: it ended before it was ready",
    );
    assert!(ran.stderr.contains("--helper-image"), "{ran}");
    wait_until("its pod is removed", || stage.helpers().is_empty());
}

#[test]
fn a_signal_takes_the_pod_with_it() {
    let stage = Stage::new();
    let running = stage.begin_without_synapse();

    running.signal(Signal::TERM);
    let ran = running.wait();

    assert!(ran.stderr.contains("interrupted by SIGTERM"), "{ran}");
    assert_eq!(stage.helpers(), [""; 0]);
}

#[test]
fn the_pod_goes_where_the_volume_is_in_use() {
    let stage = Stage::new();
    // Synapse runs but never becomes ready, as behind the fence.
    stage.kube.edit("pods", "ess", "ess-synapse-main-0", |pod| {
        pod["status"]["phase"] = "Running".into();
        pod["status"]["conditions"] = json!([{"type": "Ready", "status": "False"}]);
    });
    let running = stage.sync().start();
    wait_until("there is a pod", || !stage.helpers().is_empty());
    let pod = stage.kube.object("pods", "ess", "ess-media-sync");
    assert_eq!(pod["spec"]["nodeName"], "node-1");
    running.wait().success();
    stage.assert_copied();
}

#[test]
fn a_stream_that_is_cut_is_an_error_and_the_next_run_resumes() {
    let stage = Stage::new();
    for bytes in [10, 40, 200, 400] {
        stage.kube.fault("GET", "/exec", 1, Effect::CutAfter(bytes));
        let ran = stage.sync().run();
        assert_failed(&ran, 74, "the stream was cut");
        for (path, bytes) in files(&stage.copy()) {
            let whole = fs::read(stage.world.path("store").join(&path)).unwrap();
            assert!(bytes == whole, "{path}");
        }
    }
    wait_until("the receivers are gone", || stage.sync().run().status.success());
    stage.assert_copied();
}

#[test]
fn a_pod_that_falls_silent_is_given_up() {
    let stage = Stage::new();
    stage.world.write("store/local_content/Ab/Cd/Big", vec![1; 3_000_000]);
    let running = stage.sync().args(["--bwlimit", "200K", "--timeout", "6"]).start();
    wait_until("it began", || stage.is_at_work());
    assert!(stage.world.signal("python3", Signal::STOP));

    assert_failed(&running.wait(), 69, "the receiver is unresponsive");

    assert!(stage.world.signal("python3", Signal::CONT));
    wait_until("the receiver is gone", || stage.sync().run().status.success());
    stage.assert_copied();
}

#[test]
fn missing_permissions_are_reported_at_once() {
    let stage = Stage::new();
    stage.kube.deny("create", "", "pods/exec");
    stage.kube.deny("get", "", "persistentvolumeclaims");
    let ran = stage.sync().run();
    assert_failed(&ran, 77, "create pods/exec");
    assert!(
        ran.stderr.contains("get persistentvolumeclaims") && ran.stderr.contains("kind: Role"),
        "{ran}"
    );

    let stage = Stage::new();
    stage.stop_synapse();
    stage.kube.deny("create", "", "pods");
    assert_failed(&stage.sync().run(), 77, "create pods");
    assert!(!stage.copy().exists());
}

#[test]
fn a_receiver_that_cannot_run_reports_why() {
    let stage = Stage::new();
    stage.world.shell(&format!(
        "mkdir -m 700 -p {0}; echo > {0}/media_store",
        stage.kube.volume(stage.claim).display()
    ));
    let ran = stage.sync().run();
    assert_failed(&ran, 74, "Not a directory");
    assert!(!ran.stderr.contains("Traceback"), "{ran}");
    let wrong = stage.kube.seen_by(stage.world.tool("media-sync"));
    let wrong = wrong
        .args(["-n", "--source-dir", "store", "--target", "postgresql://x/y"])
        .run();
    assert_failed(&wrong, 64, "kube:NAMESPACE");
}

#[test]
fn the_older_ess_has_its_own_volume_and_user() {
    let stage = Stage::of(Kube::onprem, "element-onprem", "first-element-deployment-synapse-media");
    stage.sync().run().success();
    stage.assert_copied();

    // The operator removes Synapse, and its image is unknown.
    stage.stop_synapse();
    assert_failed(&stage.sync().run(), 64, "--helper-image");
    let running = stage
        .sync()
        .args(["--helper-image", "registry.example.org/python:3"])
        .start();
    wait_until("there is a pod", || !stage.helpers().is_empty());
    let pod = stage
        .kube
        .object("pods", "element-onprem", "first-element-deployment-media-sync");
    running.wait().success();
    assert_eq!(pod["spec"]["securityContext"]["runAsUser"], 10_991);
    assert_eq!(pod["spec"]["containers"][0]["image"], "registry.example.org/python:3");
}

#[test]
fn the_document_names_where_the_media_go() {
    let stage = Stage::new();
    let document = json!({"format": "ess-migration/1", "export": stage.world.path("export"),
        "target": {"connection": {}, "kube": {"namespace": "ess", "release": "ess", "profile": "community"}}});
    let call = |more: &[&str]| {
        let call = stage.kube.seen_by(stage.world.tool("media-sync"));
        let text = document.to_string();
        let ran = call
            .args(["--source-dir", "store"])
            .args(more)
            .stdin(text.as_str())
            .run();
        ran.success()
    };

    assert_eq!(media(&call(&[]))["copy"], "kube:ess/ess:/media/media_store");
    stage.assert_copied();
    // A target database that is named by its address is left unchanged in the document.
    let by_address =
        json!({"format": "ess-migration/1", "target": {"connection": {"host": "db", "dbname": "synapse"}}});
    let text = by_address.to_string();
    let by = stage.kube.seen_by(stage.world.tool("media-sync")).stdin(text.as_str());
    let ran = by
        .args(["--source-dir", "store", "--target", "kube:ess"])
        .run()
        .success();
    assert_eq!(ran.json()["target"], by_address["target"]);
    assert_eq!(
        media(&call(&["--out", "copy"]))["copy"],
        stage.world.path("copy").display().to_string()
    );
}

/// The receiver that is sent to a pod, by itself.
#[test]
fn the_receiver_in_a_pod_trusts_no_sender() {
    let world = World::new();
    let script = include_str!("../../crates/media/src/receive.py");
    world.write("receive.py", script);
    let command = "python3 receive.py copy";
    assert_trusts_no_sender(&world, command);
    let receive = |frames: &[Vec<u8>]| received(&world, command, frames);
    let start = || hello("ess-media/1");
    receive(&[start(), frame(&[&[11]])]).success();
    // No link leads out of the copy.
    world
        .shell("mkdir elsewhere; ln -s ../elsewhere copy/local_content")
        .success();
    let file = [
        frame(&[&[4, 0], &text("local_content/Ab/Cd/EfGh"), &[0; 12]]),
        frame(&[&[6, 0]]),
    ];
    receive(&[vec![start()], file.to_vec()].concat()).success();
    let answer = fs::read(world.path("answer")).unwrap();
    assert!(answer.windows(2).any(|bytes| bytes == [24, 0]), "it was not refused");
    assert_eq!(fs::read_dir(world.path("elsewhere")).unwrap().count(), 0);
}
