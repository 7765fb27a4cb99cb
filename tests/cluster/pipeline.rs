//! The pipeline into a cluster: the target is found there, and no credential or local address of the connection enters
//! the document.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::{Value, json};

use crate::support::in_cluster::Stage;
use crate::support::media::{assert_serves, files};
use crate::support::{ESS_PASSWORD, Kube, OFFLINE, readme};

#[test]
fn a_homeserver_moves_into_a_namespace() {
    let stage = Stage::community();
    let media = files(&stage.old.media_store());

    let ran = stage.line().success();

    let (source, target) = stage.rows();
    assert_eq!(source, target, "{ran}");
    let text = stage.world.read("migration.json");
    let document: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        document["target"]["kube"],
        json!({"context": "stand-in", "namespace": "ess", "release": "ess", "profile": "community"})
    );
    assert_eq!(
        document["target"]["connection"],
        json!({"host": "ess-postgres.ess.svc.cluster.local", "port": "5432", "user": "synapse_user",
            "dbname": "synapse", "sslmode": "prefer"})
    );
    assert_eq!(
        document["target"]["password"],
        json!({"from": "secret", "namespace": "ess", "name": "ess-generated", "key": "POSTGRES_SYNAPSE_PASSWORD"})
    );
    assert!(!text.contains(ESS_PASSWORD) && !text.contains("ess-kube-"), "{text}");
    assert_eq!(document["media"]["copy"], "kube:ess/ess:/media/media_store");
    assert_eq!(document["media"]["complete"], true);
    assert!(document["media"]["rows_compared"].as_u64() > Some(0));
    assert_eq!(document["scale"]["state"], "up");
    for (name, replicas) in [("ess-synapse-main", 1), ("ess-synapse-fed-sender", 2)] {
        assert_eq!(
            stage.kube.object("statefulsets", "ess", name)["spec"]["replicas"],
            replicas
        );
    }
    let verified = stage.script("verify < migration.json").run().success();
    assert_eq!(verified.json()["verify"]["equal"], true);

    // The old files are deleted: what Synapse serves is from the volume.
    fs::remove_dir_all(stage.old.media_store()).unwrap();
    let volume = stage.kube.volume("ess-synapse-media").join("media_store");
    assert!(files(&volume) == media, "the volume has other files");
    let synapse = stage.new_synapse();
    symlink(volume, synapse.media_store()).unwrap();
    synapse.start();
    stage.seeded.check(&synapse);
    stage.seeded.check_media_files(&synapse);
    assert_serves(&synapse, &stage.seeded, &media);
    stage.seeded.goes_on(&synapse);
    synapse.stop();
}

#[test]
fn the_undo_command_finds_the_cluster_again() {
    let stage = Stage::community();
    let before = stage.rows().1;
    stage.line().success();
    stage.script("ess-scale down < migration.json").run().success();
    assert_ne!(stage.rows().1, before);

    let line = "jq -r .wipe.next.go_back migration.json";
    let line = stage.world.shell(line).success().stdout;
    let ran = stage.script(&line).run().success();

    // The export alone is enough to undo the wipe.
    assert!(line.starts_with("ess-wipe -n --undo --export "), "{line}");
    let kube = &ran.json()["target"]["kube"];
    assert_eq!(
        (&kube["namespace"], &kube["context"]),
        (&json!("ess"), &json!("stand-in")),
        "{line}"
    );
    assert_eq!(stage.rows().1, before, "{line}");
}

#[test]
fn secrets_are_made_for_the_place_that_the_target_is() {
    let stage = Stage::new(|world, cluster| Kube::community_at(world, cluster, "matrix", "my-ess"));
    let config = stage.old.config_args().join(" ");
    let line = format!(
        "preflight {config} {OFFLINE} --target kube:matrix | extract-secrets --out export --emit kubernetes --emit helm"
    );
    let ran = stage.script(&line).run().success();
    assert!(ran.stderr.contains("helm upgrade --install -n matrix my-ess "), "{ran}");
    assert!(
        stage
            .world
            .read("export/ess/secrets.yaml")
            .contains("namespace: matrix"),
        "{ran}"
    );
}

#[test]
fn a_homeserver_moves_into_the_older_ess() {
    let stage = Stage::new(Kube::onprem);

    // The operator removes Synapse, and its image is unknown.
    let line = readme::line("--target kube:ess", &stage.old.config_args())
        .replace("kube:ess", "kube:element-onprem")
        .replace("media-sync", "media-sync --helper-image registry.example.org/python:3");
    let ran = stage.script(&line).run().success();

    let (source, target) = stage.rows();
    assert_eq!(source, target, "{ran}");
    let document: Value = serde_json::from_str(&stage.world.read("migration.json")).unwrap();
    assert_eq!(document["target"]["kube"]["profile"], "operator");
    assert_eq!(document["target"]["kube"]["release"], "first-element-deployment");
    assert_eq!(
        document["target"]["password"]["name"], "synapse",
        "the Secret that the operator made went with Synapse"
    );
    let set = stage.kube.object(
        "statefulsets",
        "element-onprem",
        "first-element-deployment-synapse-fed-sender",
    );
    assert_eq!(set["spec"]["replicas"], 3, "the operator is back and has made it again");
}

#[test]
fn a_document_of_one_cluster_is_not_used_for_another() {
    let stage = Stage::community();
    let ran = stage.preflight();
    stage.world.write("document.json", &ran.stdout);
    let with = |flags: &str| stage.script(&format!("verify {flags} < document.json")).run();

    for flags in [
        "--target kube:other",
        "--target kube:ess/other",
        "--target postgresql://h/d",
        "--kube-context nobody",
    ] {
        let ran = with(flags);
        assert_eq!(ran.status.code(), Some(64), "{flags}: {ran}");
    }
    let ran = with("--target kube:ess");
    assert!(
        ran.stderr.contains("there is nothing to compare with"),
        "the flag agrees: {ran}"
    );
    let ran = stage
        .world
        .tool("verify")
        .args(["-n", "--target", "postgresql://h/d", "--kube-context", "x"])
        .run();
    assert_eq!(ran.status.code(), Some(64), "{ran}");
}
