//! preflight of the source: what would stop its dump, or what a dump would not carry.

use serde_json::json;

use crate::support::findings::{data, fires, serious};
use crate::support::installation::Stage;
use crate::support::{
    Cluster, Identity, SERVER_NAME, Scene, Sleeper, World, code, internet, programs_of, source_cluster,
};

#[test]
fn what_is_wrong_with_the_source_is_found_at_once() {
    let stage = Stage::new();
    let scene = &stage.scene;
    scene.on_source(
        "INSERT INTO users (name) VALUES ('@mallory:elsewhere.org');
         UPDATE stream_positions SET stream_id = 1000000 WHERE stream_name = 'account_data';
         SELECT setval('state_group_id_seq', 1);
         UPDATE schema_compat_version SET compat_version = 100000;
         INSERT INTO background_updates (update_name, progress_json) VALUES ('slow', '{}');
         ALTER TABLE room_aliases OWNER TO postgres;
         CREATE EXTENSION pg_trgm;
         CREATE SCHEMA other;
         CREATE UNLOGGED TABLE other.scratch (n int);
         ALTER SCHEMA other OWNER TO synapse; ALTER TABLE other.scratch OWNER TO synapse;
         SELECT lo_create(0);
         UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'users_name_key'::regclass",
    );
    let _visitor = Sleeper::new(scene, "");

    let ran = stage.preflight().run();

    assert_eq!(code(&ran), 1);
    assert_eq!(
        serious(&ran),
        [
            "blocker foreign-users",
            "blocker schema-incompatible",
            "blocker sequence-behind-stream",
            "blocker source-unreadable",
            "warning background-updates",
            "warning invalid-indexes",
            "warning other-sessions",
        ]
    );
    fires(
        &ran,
        &[
            "info extensions",
            "info large-objects",
            "info schemas",
            "info sequence-behind-table",
            "info unlogged-tables",
        ],
    );
    let hint = "hint: while Synapse is stopped, in psql: SELECT setval('public.account_data_sequence', 1000000);";
    assert!(ran.stderr.contains(hint), "{ran}");

    let ids = ["foreign-users", "schema-incompatible", "sequence-behind-stream"];
    let accepting = || stage.preflight().args(ids.iter().flat_map(|id| ["--accept", id]));
    assert_eq!(code(&accepting().run()), 1, "one blocker is open");
    let ran = accepting()
        .args(["--accept", "source-unreadable", "--accept", "target-used"])
        .run()
        .success();
    assert_eq!(
        ran.json()["preflight"]["accepted"],
        serde_json::json!([
            "foreign-users",
            "schema-incompatible",
            "sequence-behind-stream",
            "source-unreadable"
        ])
    );
    assert!(
        ran.stderr.contains("nothing to accept: target-used was not found"),
        "{ran}"
    );
}

#[test]
fn the_cure_that_is_hinted_cures() {
    let stage = Stage::new();
    stage
        .scene
        .on_source("UPDATE stream_positions SET stream_id = 1000000 WHERE stream_name = 'account_data'");
    let ran = stage.preflight().run();
    assert_eq!(serious(&ran), ["blocker sequence-behind-stream"], "{ran}");
    let refused = stage.synapse.start_expecting_refusal();
    assert!(
        refused.contains("is inconsistent with associated stream position"),
        "{refused}"
    );

    let cure = ran
        .stderr
        .lines()
        .find_map(|line| line.split_once("in psql: "))
        .unwrap()
        .1;
    stage.scene.on_source(cure);

    assert_eq!(serious(&stage.preflight().run().success()), [""; 0]);
    stage.synapse.start();
}

#[test]
fn a_database_other_than_postgresql_is_refused_with_the_remedy() {
    let world = World::new();
    world.write("old/key", Identity::old().signing_key);
    let look = |database: &str| {
        let general = format!(
            "server_name: {SERVER_NAME}\nsigning_key_path: {0}/old/key\nmedia_store_path: {0}/old\n",
            world.path("").display()
        );
        world.write("old/homeserver.yaml", format!("{general}{database}\n"));
        let call = world.tool("preflight").args(["-n", "-c", "old/homeserver.yaml"]);
        internet::healthy().seen_by(call).run()
    };

    let ran = look("database: {name: sqlite3, args: {database: /data/homeserver.db}}");
    assert_eq!(
        (code(&ran), serious(&ran)),
        (1, vec!["blocker sqlite".to_owned()]),
        "{ran}"
    );
    assert!(ran.stderr.contains("synapse_port_db"), "{ran}");
    let ran = look("databases: {a: {name: psycopg2, data_stores: [main]}, b: {name: psycopg2, data_stores: [state]}}");
    assert_eq!(serious(&ran), ["blocker split-databases"], "{ran}");
    assert_eq!(code(&look("database: {name: oracle}")), 78);
}

#[test]
fn the_name_of_a_source_without_a_configuration_is_read_from_its_users() {
    let scene = Scene::new();
    let source = scene.source_url();
    let look = || scene.tool("preflight").args(["-n", "--source", &source]).run();

    let ran = look().success();
    assert_eq!(ran.json()["source"]["server_name"], SERVER_NAME);

    scene.on_source("DROP TABLE schema_version");
    assert_eq!(serious(&look()), ["blocker source-empty"]);
}

#[test]
fn an_order_of_text_that_changed_is_tried_for_duplicates() {
    let stage = Stage::new();
    let scene = &stage.scene;
    let database = &scene.source.name;
    let icu =
        format!("UPDATE pg_database SET datlocprovider = 'i', daticulocale = 'en-US' WHERE datname = '{database}'");
    source_cluster().psql("postgres", &icu);
    let ran = stage.preflight().run().success();
    assert_eq!(serious(&ran), ["warning source-collation"], "{ran}");
    fires(&ran, &["info duplicates-tried"]);
    assert!(ran.stderr.contains("pg_amcheck --install-missing"), "{ran}");

    // As after a change of collation: an index that is declared unique over duplicates.
    scene.on_source(
        "DROP INDEX threepid_guest_access_tokens_index; INSERT INTO threepid_guest_access_tokens VALUES ('email', 'a', 'b', 'c'), ('email', 'a', 'b', 'c');
         CREATE INDEX threepid_guest_access_tokens_index ON threepid_guest_access_tokens (medium, address);
         UPDATE pg_index SET indisunique = true WHERE indexrelid = 'threepid_guest_access_tokens_index'::regclass",
    );
    let ran = stage.preflight().run();
    assert_eq!(
        serious(&ran),
        ["blocker duplicates", "warning source-collation"],
        "{ran}"
    );
    assert!(ran.stderr.contains("threepid_guest_access_tokens_index"), "{ran}");
}

#[test]
fn versions_of_synapse_are_compared_by_their_schemas() {
    let stage = Stage::new();
    let with = |version: &str| stage.source_only().args(["--target-synapse-version", version]).run();

    assert_eq!(serious(&with("1.157.1").success()), [""; 0]);
    let old = with("1.110.0").success();
    assert_eq!(serious(&old), ["warning schema-newer"]);
    assert!(
        old.stderr
            .contains("(Synapse 1.151 or newer) is newer than the target's 85 (Synapse 1.107 or newer)"),
        "{old}"
    );
    assert_eq!(serious(&with("1.98.0")), ["blocker schema-incompatible"]);
    assert_eq!(code(&with("newest")), 64);
}

#[test]
fn a_standby_is_neither_a_source_nor_a_target() {
    let stage = Stage::new();
    let primary = Cluster::new(&stage.scene.world, "primary");
    primary.create_role("synapse_user", "its own");
    primary.load_synapse("synapse", "synapse_user");
    let standby = primary.standby("standby");
    stage.scene.world.write("standby.pw", "its own\n");
    let url = standby.url("synapse", "synapse_user");

    let from = stage
        .scene
        .tool("preflight")
        .args(["-n", "--source", &url, "--source-password-file", "standby.pw"]);
    let ran = from.run().success();
    assert_eq!(serious(&ran), ["warning source-standby"], "{ran}");

    let to = stage
        .source_only()
        .args(["--target", &url, "--target-password-file", "standby.pw"])
        .run();
    fires(&to, &["blocker target-standby"]);
    assert_eq!(code(&to), 1);
}

#[test]
fn a_server_newer_than_programs_and_target_is_reported() {
    let stage = Stage::new();
    let world = &stage.scene.world;
    let newer = Cluster::of(world, "sixteen", programs_of(16));
    newer.create_role("synapse_user", "its own");
    newer.create_database("synapse", "synapse_user");
    newer.load_fresh();
    world.write("newer.pw", "its own\n");
    let url = newer.url("synapse", "synapse_user");
    let from = || {
        stage
            .scene
            .tool("preflight")
            .args(["-n", "--source", &url, "--source-password-file", "newer.pw"])
    };

    let ran = from().args(&stage.scene.target_args()[1..]).run();

    fires(&ran, &["blocker client-programs", "blocker target-version"]);
    let ran = from()
        .args(["--pg-bin", &programs_of(16).display().to_string()])
        .run()
        .success();
    assert_eq!(serious(&ran), [""; 0], "{ran}");
}

#[test]
fn prepared_transactions_and_subscribers_of_the_source_are_reported() {
    let world = World::new();
    let cluster = Cluster::new(&world, "source");
    cluster.psql("postgres", "ALTER SYSTEM SET max_prepared_transactions = 5");
    cluster.stop();
    cluster.start();
    cluster.create_role("synapse", "its own");
    cluster.load_synapse("synapse", "synapse");
    world.write("its.pw", "its own\n");
    let url = cluster.url("synapse", "synapse");
    let look = || {
        let call = world.tool("preflight").args(["-n", "--source", &url]);
        call.args(["--source-password-file", "its.pw"]).run().success()
    };
    let ran = look();
    assert_eq!(serious(&ran), [""; 0], "{ran}");
    assert!(!ran.stderr.contains("(replication-slots)"), "{ran}");

    cluster.psql(
        "synapse",
        "BEGIN; CREATE TABLE late (); PREPARE TRANSACTION 'half-done'",
    );
    cluster.psql("synapse", "SELECT pg_create_physical_replication_slot('replica')");

    let ran = look();
    assert_eq!(serious(&ran), ["warning prepared-transactions"], "{ran}");
    fires(&ran, &["info replication-slots"]);
    assert_eq!(data(&ran, "prepared-transactions")["names"], json!(["half-done"]));
    assert_eq!(data(&ran, "replication-slots")["names"], json!(["replica"]));
}
