//! The plan of ess-wipe: it changes nothing, and only what it describes is carried out.

use crate::support::{Scene, Stdin, assert_failed, names_in, target_cluster};

#[test]
fn without_execute_the_plan_is_printed_and_nothing_is_changed() {
    let scene = Scene::dumped();
    let before = scene.target_dump();

    let ran = scene.wiper().run().success();

    let document = ran.json();
    assert_eq!(document["wipe"]["executed"], false);
    assert_eq!(scene.target_dump(), before);
    assert_eq!(names_in(&scene.world, "export"), [".lock", "documents", "dump"]);
    let said = ran.to_string();
    let (_, said) = said.split_once("-- stderr --\n").unwrap();
    let size = said.split_once(", ").unwrap().1.split_once(')').unwrap().0;
    let cluster = said.split_once("(cluster ").unwrap().1.split_once(',').unwrap().0;
    let plan = document["wipe"]["plan"].as_str().unwrap();
    insta::assert_snapshot!(said.replace(size, "$SIZE").replace(cluster, "$CLUSTER").replace(plan, "$PLAN"), @r"
    target: example.org/$TARGET at synapse_user@127.0.0.1:$TARGET_PORT/$TARGET (cluster $CLUSTER, $SIZE)
    to be erased: 4 functions, 22 sequences, 176 tables
    plan: $PLAN
    nothing was changed; to carry out the plan, add: --execute --confirm 'example.org/$TARGET' --plan $PLAN
    -- exit status: 0 --
    ");
}

#[test]
fn a_plan_in_a_pipeline_stops_the_next_program() {
    let scene = Scene::dumped();
    let plan = scene.wiper().run().success().stdout;
    let before = scene.target_dump();

    let ran = scene.tool("restore").stdin(plan.as_str()).run();

    assert_failed(
        &ran,
        1,
        "cannot continue with this document: `wipe` was only a plan, so nothing was erased",
    );
    assert_eq!(scene.target_dump(), before);
}

#[test]
fn execute_needs_the_right_confirmation() {
    let scene = Scene::dumped();
    let before = scene.target_dump();

    assert_failed(&scene.wiper().args(["--execute"]).run(), 64, "--confirm");
    let wrong = scene
        .wiper()
        .args(["--execute", "--confirm", "example.org/other"])
        .run();
    assert_failed(
        &wrong,
        1,
        &format!(
            "--confirm is example.org/other, but this target is {}",
            scene.confirmation()
        ),
    );
    assert_eq!(scene.target_dump(), before);
    assert_eq!(names_in(&scene.world, "export"), [".lock", "dump"]);
}

#[test]
fn a_plan_is_the_same_as_long_as_nothing_changes_and_is_carried_out() {
    let scene = Scene::dumped();
    let plan = |args: &[&str]| scene.wiper().args(args).run().success().json()["wipe"]["plan"].clone();
    let hash = plan(&[]);
    // Autovacuum does this to any database.
    scene.on_target("VACUUM FREEZE ANALYZE");
    assert_eq!(plan(&["--plan", hash.as_str().unwrap()]), hash);

    let confirmation = scene.confirmation();
    let carried_out = [
        "--execute",
        "--confirm",
        &confirmation,
        "--plan",
        hash.as_str().unwrap(),
    ];
    assert_eq!(plan(&carried_out), hash);

    assert!(scene.is_fenced());
}

#[test]
fn a_plan_that_drifted_is_refused_with_what_differs() {
    target_cluster().psql("postgres", "CREATE ROLE other_owner; GRANT other_owner TO synapse_user");
    for (change, was, is) in [
        (
            "SET ROLE synapse_user; CREATE VIEW more AS SELECT 1 AS x",
            "target: found: view public.more owned by synapse_user",
            "",
        ),
        (
            "INSERT INTO users (name, is_guest) VALUES ('@second:example.org', 0)",
            "planned: table public.users owned by synapse_user, 1 row;",
            "found: table public.users owned by synapse_user, 2 rows",
        ),
        (
            "SELECT nextval('events_stream_seq')",
            "planned: sequence public.events_stream_seq at ",
            "found: sequence public.events_stream_seq at ",
        ),
        (
            "DROP FUNCTION check_partial_state_events() CASCADE",
            "planned: function public.check_partial_state_events() owned by synapse_user",
            "",
        ),
        (
            "GRANT CREATE ON SCHEMA public TO other_owner; ALTER TABLE rooms OWNER TO other_owner",
            "planned: table public.rooms owned by synapse_user, ",
            "found: table public.rooms owned by other_owner, ",
        ),
    ] {
        let scene = Scene::dumped();
        let plan = scene.wiper().run().success().json()["wipe"]["plan"].clone();
        scene.on_target(change);
        let before = scene.target_dump();

        let ran = scene
            .wiper()
            .args(["--execute", "--confirm", &scene.confirmation()])
            .args(["--plan", plan.as_str().unwrap()])
            .run();

        assert_failed(&ran, 1, "the plan no longer matches the target: ");
        assert!(ran.stderr.contains(was) && ran.stderr.contains(is), "{ran}");
        let hint = "hint: check the plan above; if it is what you want, use --plan ";
        assert!(ran.stderr.contains(hint), "{ran}");
        assert_eq!(scene.target_dump(), before, "{change}");
        assert_eq!(names_in(&scene.world, "export"), [".lock", "documents", "dump"]);
    }
}

#[test]
fn the_same_command_runs_again_with_the_hash_of_the_plan_that_it_carried_out() {
    let scene = Scene::dumped();
    let planned = scene.wiper().run().success();
    let plan = planned.json()["wipe"]["plan"].as_str().unwrap().to_owned();
    let confirmation = scene.confirmation();
    let wipe = |document: &str| {
        let call = scene.tool("ess-wipe").args(&scene.target_args()[1..]);
        let call = call.args([
            "--export",
            "export",
            "--execute",
            "--confirm",
            &confirmation,
            "--plan",
            &plan,
        ]);
        call.stdin(document).run().success()
    };
    let first = wipe(&planned.stdout);

    let again = wipe(&planned.stdout);

    assert!(again.stderr.contains("--plan is not compared"), "{again}");
    assert_eq!(again.json()["wipe"]["backup"], first.json()["wipe"]["backup"]);
    assert!(scene.is_fenced());
}

#[test]
fn a_plan_is_of_one_database() {
    let (scene, other) = (Scene::dumped(), Scene::dumped());
    let planned = scene.wiper().run().success();
    let plan = planned.json()["wipe"]["plan"].as_str().unwrap().to_owned();
    let before = other.target_dump();
    let wiper = || other.wiper().args(["--plan", &plan]);

    let by_document = other
        .tool("ess-wipe")
        .args(&other.target_args()[1..])
        .args(["--plan", &plan])
        .stdin(planned.stdout.as_str())
        .run();
    assert_failed(&by_document, 64, "the document's `target.connection.dbname` is ");

    // First only the plan's hash is known; then the export contains the plan.
    assert_failed(
        &wiper().run(),
        1,
        "the differences are unknown, since no document contains that plan",
    );
    let kept = scene.world.path("export/documents");
    other
        .world
        .shell(&format!("cp -a {} export/documents", kept.display()))
        .success();
    let by_export = wiper().run();
    assert_failed(
        &by_export,
        1,
        "the plan no longer matches the target: planned: database ",
    );
    assert_eq!(by_export.stderr.matches("database ").count(), 2, "{by_export}");
    assert_eq!(other.target_dump(), before);
}

#[test]
fn what_people_read_of_a_wipe() {
    let scene = Scene::dumped();
    let ran = scene.wipe(Stdin::Null).success();

    let said = ran.to_string();
    let (_, said) = said.split_once("-- stderr --\n").unwrap();
    let said: Vec<&str> = said.lines().skip(3).collect();

    insta::assert_snapshot!(said.join("\n"), @r"
    ess-wipe: backed up the target to $WORLD/export/ess-before-wipe
    ess-wipe: erased 202 objects; Synapse cannot start on the target until a restore is proven
    to undo the wipe: ess-wipe -n --undo --export '$WORLD/export' --confirm 'example.org/$TARGET' --execute
    -- exit status: 0 --
    ");
    assert_eq!(ran.json()["wipe"]["fence"], "standing");
}
