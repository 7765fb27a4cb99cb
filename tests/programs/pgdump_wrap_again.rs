//! pgdump-wrap where a dump exists already: it is kept, replaced or refused, and none is lost.

use crate::support::{
    Scene, Visitor, assert_failed, link_programs, names_in, pgbin, source_cluster, wait_until, write_program,
};

#[test]
fn a_dump_is_kept_when_the_source_has_not_moved() {
    let scene = Scene::new();
    scene.dump().success();
    let before = scene.world.read("export/dump/manifest.json");

    let again = scene.dump().success();

    assert_eq!(again.json()["dump"]["kept"], true);
    assert_eq!(scene.world.read("export/dump/manifest.json"), before);
    assert_eq!(
        names_in(&scene.world, "export/documents"),
        ["01-pgdump-wrap.json", "02-pgdump-wrap.json"]
    );
}

#[test]
fn a_dump_of_a_source_that_moved_is_neither_kept_nor_replaced() {
    for (change, said) in [
        ("DELETE FROM user_ips", "user_ips"),
        ("UPDATE profiles SET displayname = displayname || '!'", "profiles"),
        (
            "SELECT nextval('events_stream_seq')",
            "sequence events_stream_seq went from",
        ),
    ] {
        let scene = Scene::new();
        scene.dump().success();
        let before = scene.world.read("export/dump/manifest.json");
        scene.on_source(change);

        let ran = scene.dump();

        assert_failed(&ran, 1, "export/dump already exists: the source has ");
        assert!(ran.stderr.contains(said), "{ran}");
        assert!(ran.stderr.contains("hint: give --replace"), "{ran}");
        assert_eq!(scene.world.read("export/dump/manifest.json"), before);
    }
}

#[test]
fn replace_moves_what_was_there_aside() {
    let scene = Scene::new();
    scene.dump().success();
    let before = scene.world.read("export/dump/manifest.json");
    scene.on_source("DELETE FROM user_ips");

    let ran = scene.dumper().args(["--replace"]).run().success();

    assert_eq!(ran.json()["dump"]["kept"], false);
    let names = names_in(&scene.world, "export");
    let aside = names.iter().find(|name| name.starts_with("dump.")).unwrap();
    assert_eq!(scene.world.read(&format!("export/{aside}/manifest.json")), before);
    assert_ne!(scene.world.read("export/dump/manifest.json"), before);
}

#[test]
fn a_dump_that_is_still_good_is_not_replaced() {
    let scene = Scene::new();
    scene.dump().success();
    assert_eq!(
        scene.dumper().args(["--replace"]).run().success().json()["dump"]["kept"],
        true
    );

    // A dump without one-time keys is replaced if the source is no longer in use.
    let visitor = Visitor::new(source_cluster(), &scene.source.name, "synapse");
    let running = ["--allow-running", "--out", "export/live"];
    scene.dumper().args(running).run().success();
    drop(visitor);
    let again = scene
        .dumper()
        .args(["--replace", "--out", "export/live"])
        .run()
        .success();
    assert!(
        again.stderr.contains("it was taken while the source was in use"),
        "{again}"
    );
    assert_eq!(again.json()["dump"]["kept"], false);
    assert_eq!(again.json()["dump"]["one_time_keys"]["kept"], true);
}

#[test]
fn a_whole_dump_that_a_killed_run_could_not_name_is_kept() {
    let scene = Scene::new();
    scene.dump().success();
    let before = scene.world.read("export/dump/manifest.json");
    scene.world.shell("mv export/dump export/.dump.partial").success();

    assert_eq!(scene.dump().success().json()["dump"]["kept"], true);

    assert_eq!(scene.world.read("export/dump/manifest.json"), before);
    // Without its manifest a dump is incomplete.
    scene
        .world
        .shell("mv export/dump export/.dump.partial; rm export/.dump.partial/manifest.json")
        .success();
    assert_eq!(scene.dump().success().json()["dump"]["kept"], false);
    assert_eq!(names_in(&scene.world, "export"), [".lock", "documents", "dump"]);
}

#[test]
fn a_failed_replacement_loses_nothing() {
    let scene = Scene::new();
    scene.dump().success();
    let before = scene.world.read("export/dump/manifest.json");
    scene.on_source("DELETE FROM user_ips");
    write_program(
        &scene.world,
        "bin/pg_dump",
        &format!("[[ $1 = --version ]] && exec {}/pg_dump --version\nexit 1\n", pgbin()),
    );
    link_programs(&scene.world, "bin");

    let ran = scene.dumper().args(["--replace", "--pg-bin", "bin"]).run();

    assert_failed(&ran, 69, "pg_dump failed");
    assert_eq!(names_in(&scene.world, "export"), [".lock", "documents", "dump"]);
    assert_eq!(scene.world.read("export/dump/manifest.json"), before);
}

#[test]
fn a_source_is_dumped_by_one_run_at_a_time() {
    let scene = Scene::new();
    // The lock of a run that dumps the same source into another directory.
    let held = scene.world.script(
        "psql -qAt -d \"$SOURCE\" -c 'SELECT pg_advisory_lock(7310309011223338354)' -c '\\warn held' -c 'SELECT pg_sleep(600)'",
    );
    let mut held = held
        .env("SOURCE", source_cluster().url(&scene.source.name, &scene.source.role))
        .env("PGPASSWORD", &scene.source.password)
        .env("PGAPPNAME", "ess-migrate/pgdump-wrap/elsewhere")
        .start();
    held.wait_for("held");

    let ran = scene.dump();

    assert_failed(&ran, 75, "another run is working on");
    held.kill();
}

#[test]
fn a_file_of_another_program_is_not_touched() {
    let scene = Scene::new();
    scene.world.write("export/dump", "precious");

    let ran = scene.dump();

    assert_failed(&ran, 1, "export/dump already exists: ");
    assert_eq!(scene.world.read("export/dump"), "precious");
}

#[test]
fn a_second_run_on_the_same_export_is_sent_away() {
    let scene = Scene::new();
    // A pg_dump that waits for a file before it continues.
    let real = format!("{}/pg_dump", pgbin());
    let script =
        format!("[[ $1 = --version ]] || {{ echo >waiting; until [[ -e go ]]; do :; done; }}\nexec {real} \"$@\"\n");
    write_program(&scene.world, "bin/pg_dump", &script);
    link_programs(&scene.world, "bin");
    let first = scene.dumper().args(["--pg-bin", "bin"]).start();
    wait_until("pg_dump began", || scene.world.path("waiting").exists());

    let second = scene.dump();

    assert_failed(&second, 75, "holds the lock ");
    assert!(second.stderr.contains("pgdump-wrap (process "), "{second}");
    scene.world.write("go", "");
    first.wait().success();
}
