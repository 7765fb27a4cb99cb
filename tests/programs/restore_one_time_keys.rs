//! restore and one-time keys: they come back only from a source that has not given them out since.

use crate::support::dumps::{pg_dump, restore_from};
use crate::support::{Identity, Scene, Synapse, Visitor, assert_failed, seeded, source_cluster};

#[test]
fn a_dump_of_a_running_source_brings_no_one_time_keys_back() {
    let scene = Scene::new();
    // Fallback keys, which can be handed out repeatedly.
    scene.on_source(
        "INSERT INTO e2e_fallback_keys_json (user_id, device_id, algorithm, key_id, key_json, used) \
         VALUES ('@alice:example.org', 'D', 'signed_curve25519', 'AAAAFA', '{}', true)",
    );
    let visitor = Visitor::new(source_cluster(), &scene.source.name, "synapse");
    let dumped = scene.dumper().args(["--allow-running"]).run().success();
    drop(visitor);
    let why =
        "one-time keys left out: the source was in use, and a key that is handed out twice makes messages unreadable";
    assert!(dumped.stderr.contains(why), "{dumped}");
    let refused = scene.wipe(dumped.stdout.as_str());
    assert_failed(&refused, 1, "the dump was taken while the source was in use");
    let wipe = scene.tool("ess-wipe").args(&scene.target_args()[1..]);
    let wiped = wipe
        .args(["--export", "export", "--allow-running-source", "--execute", "--confirm"])
        .args([scene.confirmation()])
        .stdin(dumped.stdout.as_str())
        .run()
        .success();

    let restore = || scene.tool("restore").stdin(wiped.stdout.as_str());
    let proven = restore().run();
    assert_eq!(proven.status.code(), Some(1), "{proven}");
    assert_eq!(proven.json()["restore"]["fence"], "standing");
    assert!(scene.is_fenced(), "a proof of a live server's dump is no migration");
    let restored = restore().args(["--allow-running-source"]).run().success();

    let verified = scene.tool("verify").stdin(restored.stdout.as_str()).run().success();
    for (ran, section) in [(&dumped, "dump"), (&restored, "restore"), (&verified, "verify")] {
        assert!(ran.stderr.contains(why), "{ran}");
        assert_eq!(ran.json()[section]["one_time_keys"]["kept"], false);
    }
    let keys = "SELECT count(*) FROM e2e_one_time_keys_json";
    assert_eq!(
        (scene.on_source(keys), scene.on_target(keys)),
        (seeded().one_time_keys.to_string(), "0".to_owned())
    );
    let fallback = "SELECT * FROM e2e_fallback_keys_json";
    assert_eq!(scene.on_target(fallback), scene.on_source(fallback));
    let synapse = Synapse::new(&scene.world, "ess", &scene.target_database(), &Identity::old());
    synapse.start();
    // A count of zero makes the client upload new keys.
    assert_eq!(seeded().one_time_keys_on(&synapse), 0);
    synapse.stop();

    // The proof must also detect keys that arrived in another way.
    scene.on_target(
        "INSERT INTO e2e_one_time_keys_json (user_id, device_id, algorithm, key_id, ts_added_ms, key_json) \
         VALUES ('@alice:example.org', 'D', 'signed_curve25519', 'AAAAAQ', 1, '{}')",
    );
    let again = scene.tool("verify").stdin(restored.stdout.as_str()).run();
    let difference = "table public.e2e_one_time_keys_json contains rows, although one-time keys are not carried";
    assert!(again.stderr.contains(difference), "{again}");
}

#[test]
fn a_dump_taken_after_a_clean_stop_keeps_one_time_keys_and_reports_why() {
    let scene = Scene::new();
    let dumped = scene.dump().success();
    let wiped = scene.wipe(dumped.stdout.as_str()).success();

    let restored = scene.tool("restore").stdin(wiped.stdout.as_str()).run().success();

    let verified = scene.tool("verify").stdin(restored.stdout.as_str()).run().success();
    for (ran, section) in [(&dumped, "dump"), (&restored, "restore"), (&verified, "verify")] {
        let why = "one-time keys kept: no other session used the source during the dump";
        assert!(ran.stderr.contains(why), "{ran}");
        assert_eq!(ran.json()[section]["one_time_keys"]["kept"], true);
    }
    let keys = "SELECT * FROM e2e_one_time_keys_json ORDER BY key_id";
    assert_eq!(scene.on_target(keys), scene.on_source(keys));
}

#[test]
fn a_dump_of_another_program_keeps_the_one_time_keys_of_the_stopped_source() {
    let scene = Scene::wiped();
    pg_dump(&scene, "their.dump", &["-Fc"]);

    let ran = restore_from(&scene, "their.dump")
        .args(["--source", &scene.source_url()])
        .run()
        .success();

    assert_eq!(ran.json()["restore"]["one_time_keys"]["kept"], true);
    assert_eq!(
        scene.on_target("SELECT count(*) FROM e2e_one_time_keys_json"),
        seeded().one_time_keys.to_string()
    );
}
