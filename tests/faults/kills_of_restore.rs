//! restore killed at any moment: the fence stays up, nothing is loaded twice or believed to be loaded, and re-running
//! the same command resumes.

use serde_json::json;

use crate::support::{
    Identity, Scene, Stdin, Synapse, link_programs, pgbin, restore_that_waits, target_cluster, wait_until,
    wait_until_all_ended, write_program,
};

#[test]
fn a_restore_killed_at_any_stage_leaves_the_fence_and_resumes() {
    let scene = Scene::wiped();
    for stage in [
        "--list",
        "--data-only",
        "--section=pre-data",
        "--section=data --section=post-data",
    ] {
        let mut running = scene.restore().args(["-v"]).start();
        running.wait_for(stage);

        running.kill();

        wait_until_all_ended(&scene);
        assert!(scene.is_fenced(), "{stage}");
    }
    let synapse = Synapse::new(&scene.world, "ess", &scene.target_database(), &Identity::old());
    assert!(synapse.start_expecting_refusal().contains("too new for the server"));

    scene.restore().run().success();

    assert_eq!(scene.verify().run().success().json()["verify"]["equal"], true);
}

#[test]
fn the_structure_and_the_fence_are_all_or_nothing_whenever_the_kill_comes() {
    let scene = Scene::wiped();
    // restore reads the first statements, and waits for the rest.
    let cut = "sed '/^CREATE TABLE public.event_json /Q'; echo >half; while [[ -d /proc/$PPID ]]; do sleep 0.1; done";
    let real = format!("{}/pg_restore", pgbin());
    let script = format!("if [[ $* == *pre-data* ]]; then {real} \"$@\" | {{ {cut}; }}; else exec {real} \"$@\"; fi\n");
    write_program(&scene.world, "bin/pg_restore", &script);
    link_programs(&scene.world, "bin");
    let running = scene.restore().args(["--pg-bin", "bin"]).start();
    wait_until("half is read", || scene.world.path("half").exists());

    running.kill();

    wait_until_all_ended(&scene);
    assert!(scene.is_fenced());
    scene.restore().run().success();
}

#[test]
fn a_killed_restore_leaves_no_worker_building_an_index() {
    let scene = Scene::new();
    scene.on_source(
        "SET ROLE synapse; CREATE TABLE slow AS SELECT 1 AS x;
         CREATE FUNCTION public.lag(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN
             IF current_setting(''test.slow'', true) = ''on'' THEN PERFORM pg_sleep(1000); END IF; RETURN $1; END';
         CREATE INDEX slow_index ON slow (public.lag(x))",
    );
    scene.dump().success();
    scene.wipe(Stdin::Null).success();
    let slow = |how| {
        let database = &scene.target;
        target_cluster().psql("postgres", &format!("ALTER DATABASE {database} SET test.slow = {how}"));
    };
    slow("on");
    let running = scene.restore().args(["-j", "2"]).start();
    let building = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND state = 'active' AND query LIKE '%slow_index%' \
         AND pid <> pg_backend_pid()",
        scene.target
    );
    wait_until("the index is built", || {
        target_cluster().psql("postgres", &building) != "0"
    });

    running.kill();

    wait_until_all_ended(&scene);
    assert!(scene.is_fenced());
    slow("off");
    scene.restore().run().success();
    scene.verify().run().success();
}

#[test]
fn a_restore_killed_in_its_proof_loads_nothing_again() {
    let scene = Scene::new();
    let document = scene.dump().success().stdout;
    let wiped = scene.wipe(document.as_str()).success().stdout;
    let restore = restore_that_waits(&scene, &wiped, "synapse_user", "ACCESS EXCLUSIVE");

    restore.kill();

    assert!(scene.is_fenced());
    // The next run recognizes the session that held the lock as left over from these programs.
    let wiped = scene.wipe(document.as_str()).success();
    assert!(
        wiped.stderr.contains("the dump is already loaded behind the fence"),
        "{wiped}"
    );
    let wipe = &wiped.json()["wipe"];
    assert_eq!((&wipe["kept"], &wipe["fence"]), (&json!(true), &json!("standing")));
    assert_eq!(wipe["backup"], "ess-before-wipe");
    let again = scene
        .tool("restore")
        .args(["-v"])
        .stdin(wiped.stdout.as_str())
        .run()
        .success();
    assert_eq!(again.json()["restore"]["kept"], true);
    assert!(!again.stderr.contains("pg_restore"), "{again}");
    assert!(!scene.is_fenced());
    scene.verify().run().success();
}

#[test]
fn what_looks_loaded_but_is_not_is_loaded_again() {
    let scene = Scene::new();
    let document = scene.dump().success().stdout;
    let wiped = scene.wipe(document.as_str()).success().stdout;
    let restored = scene.tool("restore").stdin(wiped.as_str()).run().success();
    // As if the proof had not finished, and one row were wrong.
    let fence = wiped_fence(&scene);
    scene.on_target(&format!(
        "{fence}; UPDATE profiles SET displayname = 'x' WHERE user_id = 'bob'"
    ));
    assert!(scene.is_fenced());

    let wiped = scene.wipe(document.as_str()).success();
    let again = scene
        .tool("restore")
        .args(["-v"])
        .stdin(wiped.stdout.as_str())
        .run()
        .success();

    assert_eq!(wiped.json()["wipe"]["kept"], true);
    assert_eq!(again.json()["restore"].get("kept"), None);
    assert_eq!(again.json()["restore"]["rows"], restored.json()["restore"]["rows"]);
    scene.verify().run().success();
}

/// SQL that sets up a fence as a wipe for the scene's source does.
fn wiped_fence(scene: &Scene) -> String {
    let source = scene.manifest()["source"].clone();
    let comment = json!({"ess-migrate": "fence", "id": "x", "source": source});
    format!(
        "UPDATE schema_version SET version = 2147483647; UPDATE schema_compat_version SET compat_version = 2147483647;
         COMMENT ON TABLE schema_version IS '{comment}'"
    )
}
