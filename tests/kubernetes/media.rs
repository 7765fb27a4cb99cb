//! The media volume of a real cluster: the pod that mounts it, and a helper pod while there is none.

use serde_json::json;

use crate::support::real::Installed;
use crate::support::{Ran, World};

/// A store with a file of each kind, one of them of several megabytes.
fn store(world: &World) {
    world.write("store/local_content/Ab/Cd/EfGhIjKl", vec![7_u8; 3_000_000]);
    world.write("store/remote_content/matrix.example:8448/Qq/Rr/Ss", "remote");
    world.write("store/url_cache/2024-01-31/abcDEF", "");
}

fn stop_synapse(ess: &Installed) {
    ess.kubectl(&["scale", "statefulset", "ess-synapse-main", "--replicas=0"]);
    ess.wait_until_gone("pod/ess-synapse-main-0");
}

fn sync(ess: &Installed) -> Ran {
    ess.script(&format!("media-sync -n --source-dir store --target {}", ess.target()))
        .run()
}

/// The files in the volume, by path: size, user and group.
fn copied(ess: &Installed, pod: &str) -> String {
    let find = "cd /media/media_store && find . -type f -printf '%P %s %U %G\\n' | grep -v ^.media-sync | sort";
    ess.kubectl(&["exec", pod, "--", "sh", "-c", find])
}

const COPIED: &str = "local_content/Ab/Cd/EfGhIjKl 3000000 10091 10091\n\
    remote_content/matrix.example:8448/Qq/Rr/Ss 6 10091 10091\nurl_cache/2024-01-31/abcDEF 0 10091 10091\n";

#[test]
#[ignore = "starts a Kubernetes: just test-cluster"]
fn media_go_through_the_pod_that_mounts_the_volume_and_through_a_helper_while_none_does() {
    let ess = Installed::new(&[]);
    store(&ess.world);

    sync(&ess).success();

    assert_eq!(copied(&ess, "ess-synapse-main-0"), COPIED);
    stop_synapse(&ess);
    ess.world.write("store/local_content/Zz/Yy/Xx", "new");
    let ran = sync(&ess).success();
    assert_eq!(ran.json()["media"]["sent"]["files"], json!(1), "{ran}");
    ess.wait_until_gone("pod/ess-media-sync");
}

#[test]
#[ignore = "starts a Kubernetes: just test-cluster"]
fn a_helper_pod_that_has_ended_is_replaced() {
    let ess = Installed::new(&[]);
    stop_synapse(&ess);
    store(&ess.world);
    let image = "registry.test/base:1";
    let labels = json!({"app.kubernetes.io/managed-by": "media-sync"});
    let container = json!({"name": "receiver", "image": image, "command": ["false"]});
    ess.kubernetes.apply(&json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "ess-media-sync", "namespace": ess.namespace, "labels": labels},
        "spec": {"restartPolicy": "Never", "containers": [container]}}));
    let failed = "--for=jsonpath={.status.phase}=Failed";
    ess.kubectl(&["wait", failed, "pod/ess-media-sync", "--timeout=60s"]);

    let ran = sync(&ess).success();

    assert_eq!(ran.json()["media"]["complete"], true, "{ran}");
    ess.wait_until_gone("pod/ess-media-sync");
}
