//! preflight of the target: what would stop the wipe or the load.

use serde_json::json;

use crate::support::findings::{data, fires, serious};
use crate::support::installation::Stage;
use crate::support::{Cluster, Identity, SERVER_NAME, Scene, Synapse, Visitor, code, source_cluster, target_cluster};

#[test]
fn what_is_wrong_with_the_target_is_found_at_once() {
    let stage = Stage::new();
    let scene = &stage.scene;
    scene.on_target(
        "UPDATE users SET name = '@a:elsewhere.org';
         INSERT INTO users (name) SELECT '@user' || n || ':elsewhere.org' FROM generate_series(1, 5) AS n;
         UPDATE schema_version SET version = version - 1;
         ALTER TABLE room_aliases OWNER TO postgres",
    );

    let ran = stage.preflight().run();

    assert_eq!(
        serious(&ran),
        [
            "blocker target-rights",
            "blocker target-server-name",
            "blocker target-used",
            "warning schema-newer"
        ]
    );
    assert_eq!(code(&ran), 1);
    let elsewhere = stage.preflight().args(["--role", "nobody at all"]).run();
    assert!(
        elsewhere
            .stderr
            .contains("the target has no role nobody at all (target-rights)"),
        "{elsewhere}"
    );
    let ran = stage.preflight().args(["--role", "postgres"]).run();
    assert!(
        ran.stderr
            .contains("cannot act as postgres, which must own everything on the target"),
        "{ran}"
    );

    scene.on_target("REVOKE CREATE ON SCHEMA public FROM PUBLIC, pg_database_owner, synapse_user");
    let ran = stage.preflight().run();
    assert!(
        ran.stderr
            .contains("cannot create objects in the target's schema public"),
        "{ran}"
    );
}

#[test]
fn a_database_of_another_encoding_or_another_migration_is_refused() {
    let stage = Stage::new();
    let name = format!("{}_locale", stage.scene.target);
    let create =
        "CREATE DATABASE % OWNER synapse_user TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C.UTF-8'";
    target_cluster().psql("postgres", &create.replace('%', &name));
    let target = [
        "--target".to_owned(),
        target_cluster().url(&name, "synapse_user"),
        "--target-password-file".to_owned(),
        "target.pw".to_owned(),
    ];
    let ran = stage.source_only().args(&target).run();
    assert_eq!(serious(&ran), ["blocker target-locale"], "{ran}");

    let name = format!("{}_encoding", stage.scene.target);
    let create = "CREATE DATABASE % OWNER synapse TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'";
    source_cluster().psql("postgres", &create.replace('%', &name));
    let ran = stage
        .scene
        .tool("preflight")
        .args(["-n", "--source", &source_cluster().url(&name, "synapse")])
        .run();
    assert_eq!(
        serious(&ran),
        ["blocker source-empty", "blocker source-encoding"],
        "{ran}"
    );

    let fence = |identifier: &str| {
        let database = &stage.scene.source.name;
        stage.scene.on_target(&format!(
            "COMMENT ON TABLE schema_version IS '{{\"ess-migrate\":\"fence\",\"id\":\"x\",\
             \"source\":{{\"system_identifier\":\"{identifier}\",\"database\":\"{database}\"}}}}';
             UPDATE schema_version SET version = 2147483647; UPDATE schema_compat_version SET compat_version = 2147483647"
        ));
        stage.preflight().run()
    };
    assert_eq!(serious(&fence("1")), ["blocker target-fenced"]);
    let ours = source_cluster().psql("postgres", "SELECT system_identifier FROM pg_control_system()");
    let ran = fence(&ours).success();
    assert_eq!(serious(&ran), [""; 0]);
    fires(&ran, &["info target-fenced"]);

    // Source and target swapped.
    let ran = stage
        .scene
        .tool("preflight")
        .args(["-n", "--source", &stage.scene.target_url()]);
    let ran = ran.args(["--source-password-file", "target.pw"]).run();
    assert_eq!(serious(&ran), ["blocker source-fenced"], "{ran}");
}

#[test]
fn the_same_database_is_never_accepted() {
    let stage = Stage::new();
    let same = || stage.source_only().args(["--target", &stage.scene.source_url()]);

    let ran = same().run();

    fires(&ran, &["blocker same-database"]);
    assert_eq!(code(&ran), 1);
    for id in ["same-database", "sqlite", "split-databases", "no-such-id"] {
        let ran = same().args(["--accept", id]).run();
        assert_eq!((code(&ran), ran.stdout.as_str()), (64, ""), "{ran}");
    }
    let ran = same().args(["--accept", "same-database"]).run();
    assert!(ran.stderr.contains("this blocker cannot be accepted"), "{ran}");
}

#[test]
fn a_target_with_a_small_lock_table_is_reported() {
    let stage = Stage::new();
    let cluster = Cluster::ess(&stage.scene.world, "small");
    cluster.load_fresh();
    let look = || {
        let url = cluster.url("synapse", "synapse_user");
        stage
            .source_only()
            .args(["--target", &url, "--target-password-file", "target.pw"])
            .run()
    };
    assert_eq!(serious(&look().success()), [""; 0]);

    cluster.psql("postgres", "ALTER SYSTEM SET max_locks_per_transaction = 10");
    cluster.psql("postgres", "ALTER SYSTEM SET max_connections = 20");
    cluster.psql("postgres", "ALTER SYSTEM SET max_wal_senders = 0");
    cluster.stop();
    cluster.start();
    assert_eq!(serious(&look()), ["blocker target-locks"]);
}

#[test]
fn a_target_with_a_newer_schema_and_with_sessions_is_reported() {
    let stage = Stage::new();
    stage.scene.on_target("UPDATE schema_version SET version = version + 1");
    let _visitor = Visitor::new(target_cluster(), &stage.scene.target, "synapse_user");

    let ran = stage.preflight().run().success();

    assert_eq!(serious(&ran), [""; 0], "{ran}");
    fires(&ran, &["info schema-upgrade", "info target-sessions"]);
    let said = "the schema from 94 (Synapse 1.151 or newer) to 95 (a Synapse newer than these tools)";
    assert!(ran.stderr.contains(said), "{ran}");
}

#[test]
fn a_target_that_holds_the_source_already_is_known() {
    let scene = Scene::restored();
    let source = scene.source_url();
    let look = || {
        let call = scene.tool("preflight").args(["-n", "--source", &source]);
        call.args(&scene.target_args()[1..]).run()
    };

    let ran = look().success();

    assert_eq!(serious(&ran), [""; 0], "{ran}");
    fires(&ran, &["info target-restored"]);

    // As if somebody used the target.
    scene.on_target("SELECT nextval('events_stream_seq')");
    assert_eq!(serious(&look()), ["blocker target-used"]);
}

#[test]
fn the_targets_synapse_reports_its_version_and_its_name() {
    let stage = Stage::new();
    let world = &stage.scene.world;
    let ess = Synapse::new(world, "ess", &stage.scene.target_database(), &Identity::ess());
    ess.start();
    let look = || stage.source_only().args(["--target-endpoint", &ess.url("/")]).run();

    let ran = look().success();

    assert_eq!(serious(&ran), [""; 0], "{ran}");
    fires(&ran, &["info target-synapse"]);
    assert_eq!(data(&ran, "target-synapse")["server_name"], SERVER_NAME);
    // The schema version is derived from Synapse's version, in place of the database.
    assert_eq!(data(&ran, "schema")["target_version"], data(&ran, "schema")["version"]);

    let config = world.read("old/conf.d/server_name.yaml");
    world.write("old/conf.d/server_name.yaml", "server_name: elsewhere.org\n");
    let ran = stage.source_only().args(["--target-endpoint", &ess.url("")]).run();
    fires(&ran, &["blocker target-server-name"]);
    world.write("old/conf.d/server_name.yaml", config);
    ess.stop();
    let ran = look();
    assert_eq!(serious(&ran), ["blocker not-checked"], "{ran}");
    assert_eq!(
        code(&stage.source_only().args(["--target-endpoint", "127.0.0.1"]).run()),
        64
    );
}

#[test]
fn each_way_to_log_in_has_its_place() {
    let stage = Stage::new();
    let world = &stage.scene.world;
    let look = |more: &str| {
        world.write("old/conf.d/more.yaml", more);
        stage.source_only().run().success()
    };
    let ran = look(
        "cas_config: {enabled: true, server_url: 'https://cas.example.org'}\n\
         jwt_config: {enabled: true, secret: hush, algorithm: HS256}\n\
         templates: {custom_template_directory: old}\n\
         enable_registration_captcha: true\n\
         macaroon_secret_key: null\n\
         modules: [{module: a.B}]\n",
    );
    assert_eq!(
        serious(&ran),
        [
            "warning carry-cas",
            "warning carry-jwt",
            "warning carry-modules",
            "warning carry-templates",
        ],
        "{ran}"
    );
    fires(
        &ran,
        &["info carry-captcha", "info macaroon-secret", "info configuration-note"],
    );

    world.write("old/mas", "of both\n");
    let ran =
        look("matrix_authentication_service: {enabled: true, endpoint: 'http://localhost:1', secret_path: old/mas}\n");
    assert_eq!(serious(&ran), ["warning carry-mas"], "{ran}");

    stage.scene.on_source(
        "INSERT INTO user_external_ids (auth_provider, external_id, user_id)
         SELECT provider, 'a', (SELECT min(name) FROM users) FROM unnest(ARRAY['oidc-ours', 'oidc', 'saml']) AS provider",
    );
    let ran = look("oidc_providers: [{idp_id: ours, client_secret: hush}, {idp_id: oidc, client_secret: hush}]\n");
    assert_eq!(data(&ran, "carry-syn2mas"), json!({"providers": ["saml"]}));
    let none = look("saml2_config: null\n");
    assert_eq!(
        data(&none, "carry-syn2mas")["providers"],
        json!(["oidc", "oidc-ours", "saml"])
    );
}
