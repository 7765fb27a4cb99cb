//! ess-wipe refuses a database that people use, one of another homeserver, and the source itself.

use serde_json::json;

use crate::support::{
    SERVER_NAME, Scene, Stdin, Visitor, assert_failed, link_programs, pgbin, target_cluster, wait_for_session,
    write_program,
};

/// SQL that copies an existing event `count` times, with other ids and these values.
fn more_events(count: u32, change: &str) -> String {
    format!(
        "INSERT INTO events SELECT (jsonb_populate_record(s.e, jsonb_build_object('event_id', '$more' || n, \
         'stream_ordering', 1000000 + n) || {change})).* \
         FROM (SELECT e FROM events e LIMIT 1) s, generate_series(1, {count}) n"
    )
}

#[test]
fn what_is_written_while_the_backup_is_taken_is_seen_under_the_locks() {
    for (change, said) in [
        (
            "INSERT INTO users (name, is_guest) VALUES ('@second:example.org', 0)",
            "found: table public.users owned by synapse_user, 2 rows",
        ),
        (
            "UPDATE users SET password_hash = 'another'",
            "\"public\".\"users\" has different contents in its 1 row",
        ),
    ] {
        let scene = Scene::dumped();
        let change = format!(
            "psql -qX -h {} -p {} -U postgres -d {} -c \"{change}\" >&2",
            target_cluster().dir.display(),
            target_cluster().port,
            scene.target
        );
        let script = format!("[[ $1 = --version ]] || {change}\nexec {}/pg_restore \"$@\"\n", pgbin());
        write_program(&scene.world, "bin/pg_restore", &script);
        link_programs(&scene.world, "bin");

        let ran = scene
            .wiper()
            .args(["--pg-bin", "bin", "--execute", "--confirm", &scene.confirmation()])
            .run();

        assert_failed(
            &ran,
            1,
            "nothing was erased: the target changed after the plan was made: ",
        );
        assert!(ran.stderr.contains(said), "{ran}");
        assert!(!scene.is_fenced());
    }
}

#[test]
fn synapses_own_role_is_not_to_be_ignored() {
    let scene = Scene::dumped();
    let _visitor = Visitor::new(target_cluster(), &scene.target, "synapse_user");

    let ran = scene
        .wiper()
        .args(["--ignore-role", "synapse_user", "--execute", "--confirm"])
        .args([scene.confirmation()])
        .run();

    assert_failed(
        &ran,
        64,
        "--ignore-role synapse_user is not allowed: it owns the tables",
    );
    assert!(!scene.is_fenced());
}

#[test]
fn a_used_database_is_refused_by_each_measure() {
    let cases = [
        (
            "INSERT INTO users (name, is_guest) SELECT '@u' || n || ':example.org', 0 FROM generate_series(1, 5) n"
                .to_owned(),
            "people have used the target: it contains more than 5 users",
        ),
        (more_events(1001, "'{}'"), "it contains more than 1000 events"),
        (
            "INSERT INTO users (name, is_guest) VALUES ('@second:example.org', 0); ".to_owned()
                + &more_events(1, r#"'{"type": "m.room.message", "sender": "@second:example.org"}'"#),
            "it contains messages from several of its users",
        ),
        (
            "INSERT INTO local_media_repository (media_id) SELECT n::text FROM generate_series(1, 101) n".to_owned(),
            "it contains more than 100 uploaded media",
        ),
    ];
    for (use_it, said) in cases {
        let scene = Scene::dumped();
        scene.on_target(&use_it);
        let before = scene.target_dump();
        assert_failed(&scene.wipe(Stdin::Null), 1, said);
        assert_eq!(scene.target_dump(), before, "{said}");
    }
}

#[test]
fn guests_and_a_trial_are_not_use() {
    let scene = Scene::dumped();
    scene.on_target(
        "INSERT INTO users (name, is_guest) SELECT '@g' || n || ':example.org', 1 FROM generate_series(1, 50) n",
    );

    scene.wipe(Stdin::Null).success();
}

#[test]
fn a_used_database_goes_when_a_person_allows_it() {
    let scene = Scene::dumped();
    scene.on_target(&more_events(1001, "'{}'"));

    let ran = scene
        .wiper()
        .args(["--execute", "--allow-used", "--confirm", &scene.confirmation()])
        .run()
        .success();

    assert_eq!(ran.json()["wipe"]["overrides"], json!(["--allow-used"]));
    assert!(scene.is_fenced());
}

#[test]
fn another_homeservers_database_is_refused() {
    let scene = Scene::dumped();
    scene.on_target("UPDATE users SET name = replace(name, 'example.org', 'other.example')");
    let before = scene.target_dump();

    let ran = scene
        .wiper()
        .args(["--allow-used", "--execute", "--confirm", &scene.confirmation()])
        .run();

    assert_failed(&ran, 1, "the target serves other.example, not example.org");
    assert_eq!(scene.target_dump(), before);
}

#[test]
fn a_database_in_use_is_refused_and_the_user_named() {
    let scene = Scene::dumped();
    let before = scene.target_dump();
    let _visitor = Visitor::new(target_cluster(), &scene.target, "synapse_user");

    let ran = scene.wipe(Stdin::Null);

    assert_failed(&ran, 1, "1 other session is using the target: synapse_user (process ");
    assert_eq!(scene.target_dump(), before);
}

#[test]
fn who_leaves_within_seconds_is_waited_for() {
    let scene = Scene::dumped();
    let visitor = Visitor::new(target_cluster(), &scene.target, "postgres");
    let confirmation = scene.confirmation();
    let running = scene.wiper().args(["--execute", "--confirm", &confirmation]).start();
    wait_for_session(target_cluster(), &scene.target, "ess-migrate/ess-wipe/");

    drop(visitor);

    running.wait().success();
    assert!(scene.is_fenced());
}

#[test]
fn the_source_is_never_the_target() {
    let scene = Scene::dumped();
    let before = scene.target_dump();
    let dumped = scene
        .world
        .tool("pgdump-wrap")
        .args([
            "-n",
            "--source",
            &scene.target_url(),
            "--source-password-file",
            "target.pw",
        ])
        .args(["--server-name", SERVER_NAME, "--export", "other"])
        .run()
        .success();
    let same = target_cluster().socket_url(&scene.target, "synapse_user");
    let confirmation = scene.confirmation();
    let erase = ["--execute", "--allow-used", "--confirm", &confirmation];

    let by_document = scene
        .tool("ess-wipe")
        .args(["--target", &same])
        .args(erase)
        .stdin(dumped.stdout.as_str())
        .run();
    let by_flag = scene.wiper().args(["--source", &same]).args(erase).run();

    for ran in [by_document, by_flag] {
        assert_failed(&ran, 1, "source and target are the same database");
    }
    assert_eq!(scene.target_dump(), before);
}
