//! Tests of the harness that the other files use.

use std::fs;

use rustix::process::Signal;

use super::{Cluster, Database, Identity, Local, SERVER_NAME, Seeded, Stdin, Synapse, World, place};

#[test]
fn a_cluster_runs_as_an_unprivileged_user_and_is_gone_with_its_world() {
    let world = World::new();
    let cluster = Cluster::ess(&world, "target");

    assert_eq!(
        cluster.psql_as(
            "synapse_user",
            "synapse",
            "SELECT current_user, pg_encoding_to_char(encoding), datcollate \
        FROM pg_database WHERE datname = current_database()"
        ),
        "synapse_user|UTF8|C"
    );
    let pid = fs::read_to_string(cluster.dir.join("data/postmaster.pid")).unwrap();
    let process = format!("/proc/{}", pid.lines().next().unwrap());
    let status = fs::read_to_string(format!("{process}/status")).unwrap();
    assert!(!status.contains("\nUid:\t0\t"), "{status}");

    let dir = world.path("");
    drop((cluster, world));
    assert!(!fs::exists(process).unwrap() && !fs::exists(dir).unwrap());
}

#[test]
fn clusters_of_one_world_are_distinct_and_survive_a_stop() {
    let world = World::new();
    let source = Cluster::new(&world, "source");
    let target = Cluster::with_local(&world, "target", Local::Peer);
    let identifier = "SELECT system_identifier FROM pg_control_system()";
    assert_ne!(source.psql("postgres", identifier), target.psql("postgres", identifier));

    let role = place().user_name();
    target.create_role(&role, "never asked for");
    target.psql("postgres", "CREATE TABLE kept AS SELECT 'a row' AS row");
    target.stop();
    target.start();

    assert_eq!(target.psql("postgres", "TABLE kept"), "a row");
    let asked = world.script(r#"psql -Atc 'SELECT current_user' "$URL""#);
    let asked = asked.env("URL", target.socket_url("postgres", &role)).run().success();
    assert_eq!(asked.stdout.trim(), role);
    let script = r#"psql -w "$URL""#;
    insta::assert_snapshot!(world.script(script).env("URL", target.url("postgres", &role)).run(), @r#"
    -- stderr --
    psql: error: connection to server at "127.0.0.1", port $TARGET_PORT failed: fe_sendauth: no password supplied
    -- exit status: 2 --
    "#);
}

#[test]
fn a_run_is_shown_without_what_differs_from_run_to_run() {
    let world = World::new();
    world.write("etc/note", "in a file\n");

    assert_eq!(world.shell("echo '{}'").json(), serde_json::json!({}));
    let ran = world.script(
        "cat etc/note; id -u >uid; pwd; cat /proc/sys/kernel/random/uuid; date -u +%FT%TZ; cat >&2; printf end; exit 3",
    );

    insta::assert_snapshot!(ran.stdin("from a pipe\n").run(), @r"
    in a file
    $WORLD
    $ID
    $TIME
    end
    (no newline)
    -- stderr --
    from a pipe
    -- exit status: 3 --
    ");
    assert_ne!(world.read("uid").trim(), "0");
}

#[test]
fn standard_input_is_what_the_test_gives() {
    let world = World::new();
    let what = || world.script("readlink /proc/$$/fd/0 || echo none");

    assert!(what().stdin("").run().stdout.starts_with("pipe:"));
    assert!(what().stdin(Stdin::Socket).run().stdout.starts_with("socket:"));
    assert_eq!(what().stdin(Stdin::Null).run().stdout, "/dev/null\n");
    assert_eq!(what().stdin(Stdin::Closed).run().stdout, "none\n");
}

#[test]
fn what_runs_can_be_waited_for_and_killed() {
    let world = World::new();
    let mut running = world
        .script("sleep 1000 & until [[ $(</proc/$!/comm) = sleep ]]; do :; done; echo ready >&2; wait")
        .start();
    running.wait_for("ready");
    assert_eq!(world.running("sleep"), ["sleep 1000"]);

    let ran = running.kill();

    insta::assert_snapshot!(ran, @r"
    -- stderr --
    ready
    -- signal: 9 --
    ");
    assert!(
        world.signal("sleep", Signal::KILL),
        "nothing tells it of the end of its parent"
    );
    while !world.running("sleep").is_empty() {}
}

#[test]
fn the_shipped_programs_come_first_on_the_path() {
    let world = World::new();
    let ran = world.shell("cd / && command -v restore").success();
    assert_eq!(ran.stdout.trim(), place().bin.join("restore").to_str().unwrap());

    world.run("restore", ["--version"], Stdin::Null).success();
}

#[test]
fn secrets_are_taken_from_where_extract_secrets_leaves_them() {
    let world = World::new();
    world.write("secrets/macaroon_secret_key", "extracted");

    let identity = Identity::extracted(&world.path("secrets"));

    assert_eq!(
        (identity.macaroon, identity.form),
        ("extracted".into(), Identity::ess().form)
    );
}

#[test]
fn synapse_refuses_a_database_that_is_newer_than_itself() {
    let world = World::new();
    let cluster = Cluster::ess(&world, "target");
    cluster.load_fresh();
    cluster.psql(
        "synapse",
        "UPDATE schema_version SET version = 100000; UPDATE schema_compat_version SET compat_version = 100000",
    );
    let database = cluster.database("synapse", "synapse_user", super::ESS_PASSWORD);

    let log = Synapse::new(&world, "new", &database, &Identity::ess()).start_expecting_refusal();

    assert!(log.contains("too new for the server"), "{log}");
}

#[test]
fn a_synapse_boots_on_the_loaded_template_and_is_the_one_that_was_filled() {
    let world = World::new();
    let cluster = Cluster::new(&world, "source");
    let database = Database::awkward(&cluster);
    let seeded: Seeded = cluster.load_synapse(&database.name, &database.role);
    let synapse = Synapse::debian(&world, "old", &database, &Identity::old());
    synapse.load_media();

    synapse.start();

    seeded.check(&synapse);
    seeded.check_media_files(&synapse);
    assert_eq!(seeded.one_time_keys_on(&synapse), seeded.one_time_keys);
    seeded.goes_on(&synapse);
    synapse.stop();
    assert_eq!(seeded.alias, format!("#hall:{SERVER_NAME}"));
    assert_eq!(synapse.config_args().len(), 4);
}
