//! rehearse: what would stop the migration is found before anything is erased, and nothing is left of it.

use std::fs;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::findings::{finding, fires};
use crate::support::{
    Call, ESS_PASSWORD, Ran, Scene, Sleeper, Tmpfs, assert_failed, assert_private, code, link_programs, pgbin,
    target_cluster, wait_until, write_program, write_script,
};

/// A rehearsal of the scene's source.
fn rehearse<'a>(scene: &Scene) -> Call<'a> {
    scene
        .tool("rehearse")
        .args(["-n", "--source", &scene.source_url(), "--export", "rehearsed"])
}

/// The version of the servers of the tests.
fn major(scene: &Scene) -> String {
    let number: u32 = scene.on_source("SHOW server_version_num").parse().unwrap();
    (number / 10_000).to_string()
}

/// Processes of a server in the directory of a rehearsal.
fn servers(scene: &Scene) -> Vec<String> {
    let all = scene.world.running("postgres");
    all.into_iter().filter(|line| line.contains("rehears")).collect()
}

#[track_caller]
fn assert_nothing_is_left(scene: &Scene) {
    assert_eq!(servers(scene), [""; 0]);
    for path in ["rehearsed/rehearsal", "rehearsed-rehearsal"] {
        assert!(!scene.world.path(path).exists(), "{path}");
    }
}

/// An empty database on the server of the targets.
struct Empty {
    name: String,
    url: String,
}

impl Empty {
    fn new(scene: &Scene) -> Self {
        let name = format!("{}_empty", scene.target);
        target_cluster().create_database(&name, "synapse_user");
        know_the_target(scene);
        let url = target_cluster().url(&name, "synapse_user");
        Self { name, url }
    }

    fn rehearse<'a>(&self, scene: &Scene) -> Call<'a> {
        rehearse(scene).args(["--on", &self.url, "--target-version", &major(scene)])
    }

    #[track_caller]
    fn assert_empty(&self) {
        let objects = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace";
        assert_eq!(target_cluster().psql(&self.name, objects), "0");
    }
}

/// Adds the password of the target's role to the password file.
fn know_the_target(scene: &Scene) {
    let line = format!("127.0.0.1:{}:*:synapse_user:{ESS_PASSWORD}\n", target_cluster().port);
    scene.world.write("pgpass", scene.world.read("pgpass") + &line);
}

/// A `pg_restore` that runs `instead` when it is to load rows.
fn break_the_load(scene: &Scene, instead: &str) {
    let script = format!(
        "[[ $* != *--dbname* ]] || {{ {instead}; }}\nexec {}/pg_restore \"$@\"\n",
        pgbin()
    );
    write_program(&scene.world, "bin/pg_restore", &script);
    link_programs(&scene.world, "bin");
}

fn section(ran: &Ran) -> Value {
    ran.json()["rehearse"].clone()
}

#[test]
fn a_source_in_use_is_rehearsed_and_nothing_is_left() {
    let scene = Scene::new();
    let visitor = Sleeper::new(&scene, "");

    let ran = rehearse(&scene).run().success();

    drop(visitor);
    let section = section(&ran);
    assert_eq!(section["differences"], Value::Null, "{ran}");
    assert!(
        section["rows"].as_u64() > Some(100) && section["dump_bytes"].as_u64() > Some(1000),
        "{ran}"
    );
    assert_eq!(section["catalogue_sha256"].as_str().map(str::len), Some(64));
    // The version of the target is unknown.
    assert_eq!(section["proven"], false, "{ran}");
    assert!(
        ran.stderr.contains("all equal after") && ran.stderr.contains("not proven for the target"),
        "{ran}"
    );
    assert_nothing_is_left(&scene);
}

#[test]
fn a_rehearsal_is_proven_on_a_server_of_the_target_s_version_only() {
    let scene = Scene::new();

    let proven = rehearse(&scene)
        .args(["--target-version", &major(&scene)])
        .run()
        .success();
    let missing = rehearse(&scene).args(["--target-version", "99"]).run();

    assert_eq!(section(&proven)["proven"], true, "{proven}");
    assert_failed(&missing, 69, "no PostgreSQL 99 server is installed here");
    assert!(missing.stderr.contains("hint: install postgresql-99"), "{missing}");
    assert_nothing_is_left(&scene);
}

#[test]
fn what_no_load_could_take_is_named_with_its_remedy_and_stops_later_programs() {
    let scene = Scene::new();
    scene.as_synapse(
        "CREATE TABLE ages (age int); INSERT INTO ages VALUES (-1);
         ALTER TABLE ages ADD CONSTRAINT not_negative CHECK (age >= 0) NOT VALID",
    );
    scene.on_source(
        "SET allow_system_table_mods = on;
         UPDATE pg_constraint SET convalidated = true WHERE conname = 'not_negative'",
    );

    let ran = rehearse(&scene).run();

    assert_eq!(code(&ran), 1, "{ran}");
    let failure = &section(&ran)["failure"];
    let message = failure["message"].as_str().unwrap();
    assert!(message.contains("ages") && message.contains("not_negative"), "{ran}");
    assert!(failure["remedy"].as_str().unwrap().contains("NOT VALID"), "{ran}");
    assert_nothing_is_left(&scene);
    let next = scene.tool("pgdump-wrap").stdin(ran.stdout.as_str()).run();
    assert_failed(&next, 1, "cannot continue with this document: `rehearse` failed");
}

#[test]
fn a_killed_rehearsal_leaves_no_server_and_the_next_one_removes_its_files() {
    let scene = Scene::new();
    let running = rehearse(&scene).start();
    wait_until("a server runs", || !servers(&scene).is_empty());

    let killed = running.kill();

    assert!(!killed.status.success(), "{killed}");
    wait_until("the server has ended", || servers(&scene).is_empty());
    assert!(scene.world.path("rehearsed/rehearsal/server/data").exists());
    rehearse(&scene).run().success();
    assert_nothing_is_left(&scene);
}

#[test]
fn preflight_and_the_plan_of_a_wipe_show_whether_a_rehearsal_still_counts() {
    let scene = Scene::new();
    let source = scene.source_url();
    let shown = |more: &[&str]| {
        let args = ["-n", "--source", &source, "--export", "export"];
        let ran = scene.tool("preflight").args(args).args(more).run().success();
        let found = finding(&ran, "rehearsal");
        let text = |name: &str| found[name].as_str().unwrap().to_owned();
        format!("{}: {}", text("severity"), text("message"))
    };
    let identity = scene.on_source("SELECT system_identifier FROM pg_control_system()") + "/" + &scene.source.name;
    let plan = || {
        scene
            .wiper()
            .args(["--source-identity", &identity])
            .run()
            .success()
            .stderr
    };
    let rehearsed = |more: &[&str]| {
        let args = ["-n", "--source", &source, "--export", "export"];
        scene.tool("rehearse").args(args).args(more).run().success();
    };
    let major = major(&scene);

    let before = scene
        .tool("preflight")
        .args(["-n", "--source", &source, "--export", "export"]);
    fires(&before.run(), &["warning rehearsal"]);
    assert!(shown(&[]).starts_with("warning: no rehearsal of this source is recorded"));
    assert!(plan().contains(", not rehearsed\n"), "{}", plan());
    rehearsed(&[]);
    assert!(
        shown(&[]).contains(&format!(", on PostgreSQL {major}, which may not be")),
        "{}",
        shown(&[])
    );
    rehearsed(&["--target-version", &major]);
    assert!(shown(&[]).starts_with("info: rehearsed on "), "{}", shown(&[]));
    assert!(plan().contains(", and proven, in "), "{}", plan());
    scene.as_synapse("CREATE INDEX later ON events (sender)");
    let later = shown(&[]);
    assert!(
        later.starts_with("warning: ") && later.ends_with("; the source's schema has changed since"),
        "{later}"
    );
}

#[test]
fn a_server_that_is_still_starting_ends_with_a_killed_background_job() {
    let scene = Scene::new();
    // Until PostgreSQL installs its own handlers, it has the ones that it inherits. So has sh, but bash ignores SIGQUIT.
    let starting = format!(
        "#!/bin/sh\n[ \"$*\" = --version ] || sleep 2\nexec {}/postgres \"$@\"\n",
        pgbin()
    );
    write_script(&scene.world, "bin/postgres", &starting);
    write_program(&scene.world, "bin/initdb", &format!("exec {}/initdb \"$@\"\n", pgbin()));
    link_programs(&scene.world, "bin");
    let running = rehearse(&scene).args(["--pg-bin", "bin"]).in_background().start();
    wait_until("the server starts", || {
        servers(&scene).iter().any(|server| server.contains("bin/postgres -D"))
    });

    let killed = running.kill();

    assert!(!killed.status.success(), "{killed}");
    wait_until("the server has ended", || servers(&scene).is_empty());
}

#[test]
fn a_directory_of_another_program_is_not_touched() {
    let scene = Scene::new();
    scene.world.write("mine/file", "precious");
    scene.world.shell("ln -s mine link").success();

    let own = rehearse(&scene).args(["--scratch", "mine"]).run();
    let link = rehearse(&scene).args(["--scratch", "link"]).run();

    assert_failed(&own, 1, "no rehearsal created it");
    assert_failed(&link, 1, "it is not a directory");
    assert_eq!(scene.world.read("mine/file"), "precious");
    assert_nothing_is_left(&scene);
}

#[test]
fn a_file_system_that_is_too_small_is_refused_before_the_dump() {
    let scene = Scene::new();
    let Some(_small) = Tmpfs::mount(&scene.world, "small", "64m") else {
        return;
    };

    let ran = rehearse(&scene).args(["--scratch", "small/server"]).run();

    assert_failed(&ran, 1, "a rehearsal needs about ");
    assert!(ran.stderr.contains("--scratch"), "{ran}");
}

#[test]
fn what_is_kept_is_private_and_the_next_rehearsal_removes_it() {
    let scene = Scene::new();

    rehearse(&scene).args(["--keep"]).run().success();

    assert_eq!(servers(&scene), [""; 0]);
    let kept = |path: &str| scene.world.path(format!("rehearsed/rehearsal/{path}"));
    assert!(kept("dump/manifest.json").exists() && kept("server/data/PG_VERSION").exists());
    assert!(
        fs::read_to_string(kept("server/pgpass"))
            .unwrap()
            .contains(":synapse_user:")
    );
    assert_private(&scene.world, "rehearsed");
    rehearse(&scene).run().success();
    assert_nothing_is_left(&scene);
}

#[test]
fn an_empty_database_is_used_and_is_empty_afterwards() {
    let scene = Scene::new();
    let empty = Empty::new(&scene);

    let ran = empty.rehearse(&scene).run().success();

    assert_eq!(section(&ran)["proven"], true, "{ran}");
    empty.assert_empty();
    assert_nothing_is_left(&scene);
}

#[test]
fn a_load_that_fails_leaves_the_database_empty() {
    let scene = Scene::new();
    let empty = Empty::new(&scene);
    break_the_load(&scene, "exit 1");

    let ran = empty.rehearse(&scene).args(["--pg-bin", "bin"]).run();

    assert_eq!(code(&ran), 1, "{ran}");
    let failure = section(&ran)["failure"]["message"].clone();
    assert!(failure.as_str().unwrap().contains("the load failed"), "{ran}");
    empty.assert_empty();
}

#[test]
fn a_load_that_a_signal_ends_leaves_the_database_empty_and_a_killed_one_is_emptied_by_the_next() {
    let scene = Scene::new();
    let empty = Empty::new(&scene);
    break_the_load(&scene, "exec sleep 1000");
    let start = || {
        let running = empty.rehearse(&scene).args(["--pg-bin", "bin"]).start();
        wait_until("the load waits", || !scene.world.running("sleep").is_empty());
        running
    };

    let running = start();
    running.signal(Signal::TERM);
    let ended = running.wait();

    assert!(!ended.status.success() && ended.stdout.is_empty(), "{ended}");
    empty.assert_empty();
    assert_nothing_is_left(&scene);

    start().kill();
    wait_until("the load has ended", || scene.world.running("sleep").is_empty());
    empty.rehearse(&scene).run().success();
    empty.assert_empty();
}

#[test]
fn a_database_that_is_not_for_a_rehearsal_is_refused_and_unchanged() {
    for (scene, said) in [
        (Scene::new(), "is not empty"),
        (Scene::wiped(), "is fenced: it is the target of a migration"),
    ] {
        know_the_target(&scene);
        let before = scene.target_dump();
        let ran = rehearse(&scene).args(["--on", &scene.target_url()]).run();
        assert_failed(&ran, 1, said);
        assert_eq!(scene.target_dump(), before, "{ran}");
    }
    let scene = Scene::new();
    let ran = rehearse(&scene).args(["--on", &scene.source_url()]).run();
    assert_failed(&ran, 1, "--on names the source itself");
}
