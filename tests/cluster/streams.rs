//! Streams through an API server: one that is cut is an error, and re-running the same command resumes.

use serde_json::json;

use crate::support::in_cluster::Stage;
use crate::support::{Effect, OFFLINE, SERVER_NAME};

#[test]
fn a_stream_that_is_cut_is_an_error_and_the_same_command_resumes() {
    let stage = Stage::community();
    // After the handshake and the first queries, while rows are read for the backup or the proof.
    stage.kube.fault("GET", "/portforward", 100, Effect::CutAfter(60_000));
    let before = stage.rows().1;

    let ran = stage.line();

    assert!(!ran.status.success(), "{ran}");
    assert!(ran.stderr.contains("was cut"), "{ran}");
    assert_eq!(
        stage.rows().1,
        before,
        "nothing was erased without a whole backup: {ran}"
    );
    stage.kube.forget_faults();
    stage.line().success();
    let (source, target) = stage.rows();
    assert_eq!(source, target);
}

#[test]
fn a_stream_that_is_cut_anywhere_is_never_taken_for_the_end_of_the_data() {
    let stage = Stage::community();
    stage.line().success();
    let verify = || stage.script("verify < migration.json").run();
    let mut cuts = 0;

    for after in [0, 1, 100, 1_000, 3_000, 10_000, 30_000, 100_000] {
        stage.kube.fault("GET", "/portforward", 1, Effect::CutAfter(after));
        let ran = verify();
        // If the stream carried fewer bytes than the limit, it was not cut.
        if stage.kube.was_cut() {
            cuts += 1;
            assert_eq!(ran.status.code(), Some(69), "after {after}: {ran}");
            assert_eq!(ran.stdout, "", "after {after}: {ran}");
            assert!(
                ran.stderr
                    .contains("the connection to port 5432 of pod ess/ess-postgres-0 was cut"),
                "{ran}"
            );
        } else {
            assert_eq!(ran.success().json()["verify"]["equal"], true);
        }
        stage.kube.forget_faults();
    }

    assert!(cuts > 4, "{cuts}");
    assert_eq!(verify().success().json()["verify"]["equal"], true);
}

#[test]
fn a_load_that_is_cut_leaves_the_fence_and_resumes() {
    let stage = Stage::community();
    let config = stage.old.config_args().join(" ");
    let before = format!(
        "preflight {config} {OFFLINE} --target kube:ess | extract-secrets --out export | pgdump-wrap | \
         ess-wipe --execute --confirm {SERVER_NAME}/synapse > wiped.json"
    );
    stage.script(&before).run().success();
    let restore = || stage.script("restore < wiped.json").run();

    stage.kube.fault("GET", "/portforward", 100, Effect::CutAfter(25_000));
    let cut = restore();
    assert_eq!(cut.status.code(), Some(69), "{cut}");
    let fence = "SELECT compat_version FROM schema_compat_version";
    assert_eq!(stage.target.psql("synapse", fence), "2147483647", "{cut}");
    stage.kube.forget_faults();

    // The pod is missing for a while.
    stage.kube.settings().slowness = std::time::Duration::from_secs(600);
    stage.kube.edit("pods", "ess", "ess-postgres-0", |pod| {
        pod["status"] = json!({"phase": "Pending"});
    });
    let away = restore();
    assert_eq!(away.status.code(), Some(69), "{away}");
    assert!(
        away.stderr.contains("none is ready: ess-postgres-0 (Pending)"),
        "{away}"
    );
    stage.kube.settings().slowness = std::time::Duration::from_millis(50);
    stage.kube.settle();

    restore().success();
    let (source, target) = stage.rows();
    assert_eq!(source, target);
}
