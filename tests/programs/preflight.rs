//! preflight: everything that stops a migration is found, and a healthy server has no finding that needs action.

use std::fs::{self, Permissions};
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt as _;

use crate::support::findings::{fires, found, serious};
use crate::support::installation::Stage;
use crate::support::internet::{self, DOCUMENTS, Internet, ZONE};
use crate::support::{
    Cluster, Identity, Ran, SERVER_NAME, Scene, Sleeper, Stdin, World, code, names_in, source_cluster, target_cluster,
};

#[test]
fn a_healthy_installation_needs_no_action() {
    let stage = Stage::new();

    let ran = stage.preflight().args(["--export", "export"]).run().success();

    assert_eq!(
        found(&ran, &["blocker", "warning", "info"]),
        [
            "info carry-owned",
            "info carry-pepper",
            "info client-programs",
            "info delegation",
            "info dns",
            "info downtime",
            "info export",
            "info host",
            "info media",
            "info profile",
            "info schema",
            "info secrets",
            "info signing-key",
            "info source-server",
            "info source-size",
            "info synapse-stopped",
            "info target-fresh",
            "info target-server",
            "info well-known",
        ]
    );
    let document = ran.json();
    assert_eq!(document["source"]["server_name"], SERVER_NAME);
    for (server, cluster, database) in [
        ("source", source_cluster(), &stage.scene.source.name),
        ("target", target_cluster(), &stage.scene.target),
    ] {
        let identifier = cluster.psql("postgres", "SELECT system_identifier FROM pg_control_system()");
        let identity = &document[server]["identity"];
        assert_eq!(
            *identity,
            serde_json::json!({"system_identifier": identifier, "database": database})
        );
    }
    for secret in [
        &stage.scene.source.password,
        &Identity::old().macaroon,
        &Identity::old().pepper,
    ] {
        assert!(
            !ran.stdout.contains(secret.as_str()) && !ran.stderr.contains(secret.as_str()),
            "{ran}"
        );
    }
    assert!(
        ran.stderr
            .ends_with("preflight: 0 blockers, 0 accepted, 0 warnings, 19 infos\n"),
        "{ran}"
    );
    assert!(
        names_in(&stage.scene.world, "export").is_empty(),
        "preflight makes no export"
    );
}

#[test]
fn a_synapse_that_runs_is_left_alone_and_needs_no_action() {
    let stage = Stage::new();
    stage.synapse.start();

    let ran = stage.preflight().run().success();

    assert_eq!(serious(&ran), [""; 0], "{ran}");
    fires(&ran, &["info synapse-runs", "info synapse-sessions"]);
    assert!(ran.stderr.contains("preflight: info: Synapse 1."), "{ran}");

    let other_key = Identity::ess().signing_key;
    stage.scene.world.write("old/homeserver.signing.key", other_key);
    assert_eq!(serious(&stage.preflight().run()), ["blocker signing-key"]);
    stage.synapse.stop();
}

#[test]
fn a_check_writes_nothing() {
    let stage = Stage::new();
    stage.scene.world.shell("mkdir -m 700 export").success();
    let check = || stage.preflight().args(["--export", "export", "--check"]);

    let ran = check().run().success();
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""));

    stage.scene.on_target("UPDATE users SET name = '@a:elsewhere.org'");
    let ran = check().run();
    assert_eq!((code(&ran), ran.stdout.as_str()), (1, ""));
    let quiet = check().args(["-q"]).run();
    insta::assert_snapshot!(quiet, @r"
    -- stderr --
    preflight: blocker: the target serves elsewhere.org, but the homeserver being migrated is example.org (target-server-name)
    hint: check --target, or install ESS with the old server name
    -- exit status: 1 --
    ");
    assert!(names_in(&stage.scene.world, "export").is_empty());
}

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
fn servers_that_are_out_of_reach_do_not_stop_the_other_checks() {
    let stage = Stage::new();
    let scene = &stage.scene;
    scene.world.write("wrong.pw", "not the password\n");
    let source = scene.source_url();
    let wrong = || {
        let call = scene
            .tool("preflight")
            .args(["-n", "--source", &source, "--source-password-file", "wrong.pw"]);
        call.args(["--target", "postgresql://synapse_user@127.0.0.1:1/synapse"])
    };

    let ran = wrong().run();

    assert_eq!(
        serious(&ran),
        ["blocker source-unreachable", "blocker target-unreachable"]
    );
    assert!(ran.stderr.contains("password authentication failed"), "{ran}");
    fires(&ran, &["info client-programs"]);
    assert_eq!(code(&ran), 1);

    let no_server = stage.scene.source.port.to_string();
    let config = stage
        .scene
        .world
        .read("old/conf.d/database.yaml")
        .replace(&no_server, "1");
    stage.scene.world.write("old/conf.d/database.yaml", config);
    let ran = stage.preflight().run();
    assert_eq!(serious(&ran), ["blocker source-unreachable"]);
    fires(&ran, &["info media", "info secrets", "info target-server"]);
}

#[test]
fn a_check_that_cannot_be_made_does_not_pass() {
    let stage = Stage::new();
    let _visitor = Sleeper::new(&stage.scene, "BEGIN; LOCK TABLE schema_version;");

    let ran = stage.source_only().run();

    assert_eq!(
        serious(&ran),
        ["blocker not-checked", "warning other-sessions"],
        "{ran}"
    );
    assert!(
        ran.stderr.contains("not checked: the fence of an earlier migration: "),
        "{ran}"
    );
    // A finding of severity info does not block.
    fires(&ran, &["info unknown"]);
    assert!(ran.stderr.contains("not checked: the source's tables: "), "{ran}");
    stage.source_only().args(["--accept", "not-checked"]).run().success();
}

#[test]
fn keys_secrets_and_media_that_are_not_there_are_missed() {
    let stage = Stage::new();
    let world = &stage.scene.world;
    world.write("old/homeserver.signing.key", "a_key in the wrong format\n");
    world.shell("mv old/media_store old/gone").success();
    let ran = stage.preflight().run();
    assert_eq!(serious(&ran), ["blocker media-missing", "blocker signing-key"], "{ran}");

    world.write("old/homeserver.signing.key", Identity::old().signing_key);
    world.write("old/conf.d/more.yaml", "turn_shared_secret_path: /nowhere/at/all\n");
    world.shell("mv old/gone old/media_store").success();
    let content = world.path("old/media_store/local_content");
    fs::set_permissions(&content, Permissions::from_mode(0o000)).unwrap();
    let ran = stage.preflight().run();
    fs::set_permissions(&content, Permissions::from_mode(0o700)).unwrap();
    assert_eq!(serious(&ran), ["blocker media-unreadable", "blocker secrets"], "{ran}");
}

#[test]
fn the_place_of_the_export_is_looked_at() {
    let stage = Stage::new();
    stage.scene.world.shell("mkdir -m 755 open; touch file").success();
    let serious = |export: &str| serious(&stage.source_only().args(["--export", export, "--pg-bin", "old"]).run());

    assert_eq!(
        serious("missing/export"),
        ["blocker client-programs", "blocker export-directory"]
    );
    assert_eq!(
        serious("/proc/export"),
        ["blocker client-programs", "blocker export-directory"]
    );
    assert_eq!(
        serious("file/export"),
        ["blocker client-programs", "blocker export-directory"]
    );
    assert_eq!(
        serious("/dev/shm/export"),
        ["blocker client-programs", "warning export-in-memory"]
    );
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
fn it_runs_under_cron_and_reports_what_it_lacks() {
    let stage = Stage::new();
    // Without -n: cron's standard input is an empty pipe.
    let cron = || {
        stage
            .tool()
            .args(stage.synapse.config_args())
            .args(["--check", "-q"])
            .stdin("")
    };
    let ran = cron().run().success();
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""));

    let world = &stage.scene.world;
    insta::assert_snapshot!(world.run("preflight", ["-n"], Stdin::Null), @r"
    -- stderr --
    preflight: nothing to check: there is no -c, --source or --target, and no document that names a database
    hint: give -c /etc/matrix-synapse/homeserver.yaml, or --source postgresql://USER@HOST/DBNAME
    -- exit status: 64 --
    ");
    assert_eq!(code(&world.run("preflight", ["--no-such-flag"], Stdin::Null)), 64);
    assert_eq!(
        code(&world.run("preflight", ["-n", "-c", "nowhere.yaml"], Stdin::Null)),
        78
    );
    assert_eq!(
        code(&world.run("preflight", ["-n", "-c", "old/homeserver.yaml"], Stdin::Null)),
        78
    );
}

#[test]
fn its_document_is_passed_on_and_one_with_a_blocker_is_refused() {
    let stage = Stage::new();
    let document = stage.preflight().args(["--export", "export"]).run().success().stdout;
    // No flag is repeated: the document contains everything.
    let again = stage.tool().stdin(document.as_str()).run().success();
    assert_eq!(
        again.json()["id"],
        serde_json::from_str::<serde_json::Value>(&document).unwrap()["id"]
    );

    stage
        .scene
        .on_source("INSERT INTO users (name) VALUES ('@mallory:elsewhere.org')");
    let no = stage.tool().stdin(document.as_str()).run();
    assert_eq!(serious(&no), ["blocker foreign-users"]);
    let refused = stage.scene.tool("pgdump-wrap").stdin(no.stdout.as_str()).run();
    insta::assert_snapshot!(refused, @r"
    -- stderr --
    pgdump-wrap: cannot continue with this document: `preflight` found a blocker: foreign-users
    -- exit status: 1 --
    ");
    let judged = stage
        .tool()
        .args(["--accept", "foreign-users"])
        .stdin(no.stdout.as_str())
        .run();
    judged.success();
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
fn media_are_compared_with_the_database() {
    let stage = Stage::new();
    let world = &stage.scene.world;
    let uploads = stage
        .scene
        .on_source("SELECT media_id FROM local_media_repository WHERE url_cache IS NULL AND media_length IS NOT NULL");
    let id = uploads.lines().next().unwrap();
    let file = format!("old/media_store/local_content/{}/{}/{}", &id[..2], &id[2..4], &id[4..]);
    world
        .shell(&format!("mkdir old/aside && mv {file} old/aside/"))
        .success();
    world.write("old/media_store/local_content/No/Bo/dyKnowsThisOne", "x");

    let ran = stage.preflight().run().success();

    assert_eq!(serious(&ran), ["warning media-files-missing"], "{ran}");
    let data = |id: &str| {
        let findings = ran.json()["preflight"]["findings"].clone();
        findings
            .as_array()
            .unwrap()
            .iter()
            .find(|finding| finding["id"] == id)
            .unwrap()["data"]
            .clone()
    };
    assert_eq!(data("media-files-missing")["sample"], serde_json::json!([id]));
    assert_eq!(
        data("media-files-unknown")["sample"],
        serde_json::json!(["NoBodyKnowsThisOne"])
    );
    assert_eq!(data("media")["complete"], true);
    fires(&ran, &["info media", "info media-files-unknown"]);

    let ran = stage.preflight().args(["--budget", "0"]).run();
    assert_eq!(
        serious(&ran),
        ["warning media-files-missing", "warning media-partly-checked"],
        "{ran}"
    );
    assert_eq!(code(&stage.preflight().args(["--budget", "much"]).run()), 64);

    world.write(
        "old/conf.d/media.yaml",
        "media_storage_providers: [{module: s3_storage_provider.S3StorageProviderBackend}]\n",
    );
    let ran = stage.preflight().args(["--budget", "none"]).run().success();
    fires(&ran, &["info media-elsewhere"]);
    assert!(
        !found(&ran, &["warning"]).contains(&"warning media-files-missing".to_owned()),
        "{ran}"
    );

    world
        .shell("rm -r old/media_store/local_content; rm old/conf.d/media.yaml")
        .success();
    assert_eq!(serious(&stage.preflight().run()), ["blocker media-missing"]);
    stage
        .scene
        .on_source("SET ROLE synapse; CREATE TABLE datastores (); CREATE TABLE media_attributes ()");
    assert_eq!(serious(&stage.preflight().run()), ["blocker matrix-media-repo"]);
}

#[test]
fn configuration_that_does_not_carry_over_is_named_with_its_place() {
    let stage = Stage::new();
    stage.scene.world.write(
        "old/conf.d/more.yaml",
        "password_config: {enabled: true}
oidc_providers: [{idp_id: corporate, client_secret: hush}]
saml2_config: {sp_config: {entityid: a}}
modules: [{module: ldap_auth_provider.LdapAuthProviderModule}, {module: antispam.Module}]
app_service_config_files: [bridge.yaml]
email: {smtp_host: localhost}
turn_uris: ['turn:turn.example.org']
experimental_features: {msc3861: {enabled: true}}
listeners: [{port: 8448, type: http, tls: true}]
retention: {enabled: true}
allow_guest_access: true
instance_map: {main: {host: localhost, port: 9093}}
",
    );
    stage.scene.world.write(
        "bridge.yaml",
        "{id: bridge, as_token: a, hs_token: b, sender_localpart: bridge, namespaces: {}, url: 'http://localhost:1'}",
    );

    let ran = stage.preflight().run();

    assert_eq!(
        serious(&ran),
        [
            "blocker msc3861",
            "warning carry-appservices",
            "warning carry-email",
            "warning carry-ldap",
            "warning carry-modules",
            "warning carry-oidc",
            "warning carry-saml",
        ],
        "{ran}"
    );
    fires(
        &ran,
        &[
            "info carry-listeners",
            "info carry-retention",
            "info carry-syn2mas",
            "info carry-turn",
            "info carry-workers",
        ],
    );
    let infos = found(&ran, &["info"]);
    assert!(!infos.contains(&"info carry-pepper".to_owned()), "{ran}");
    assert!(!ran.stdout.contains("hush") && !ran.stderr.contains("hush"), "{ran}");
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
fn the_host_is_looked_at() {
    let stage = Stage::new();
    let ssh = || stage.preflight().env("SSH_CONNECTION", "192.0.2.1 50000 192.0.2.2 22");
    assert_eq!(serious(&ssh().run().success()), ["warning no-tmux"]);
    assert_eq!(
        serious(&ssh().env("TMUX", "/tmp/tmux-0/default,1,0").run().success()),
        [""; 0]
    );

    let world = &stage.scene.world;
    let few = world
        .script("ulimit -n 300; exec preflight \"$@\"")
        .args(["preflight", "-n"]);
    let few = internet::healthy().seen_by(few);
    let ran = few.args(stage.synapse.config_args()).run().success();
    assert_eq!(serious(&ran), ["warning open-files"], "{ran}");

    world.shell("mkdir -m 700 export && touch export/.lock").success();
    let mut holder = world
        .script("exec 9>export/.lock; flock 9; echo held >&2; exec sleep 600")
        .start();
    holder.wait_for("held");
    let ran = stage.preflight().args(["--export", "export"]).run().success();
    assert_eq!(serious(&ran), ["warning export-locked"], "{ran}");
    assert!(ran.stderr.contains("the document was not saved in the export"), "{ran}");
    holder.kill();
}

#[test]
fn an_export_that_cannot_be_written_does_not_cost_the_document() {
    let stage = Stage::new();
    stage
        .scene
        .world
        .shell("mkdir -m 700 export && mkdir -m 500 export/documents && chmod 500 export")
        .success();

    let ran = stage.preflight().args(["--export", "export"]).run();

    assert!(ran.stderr.contains("the document was not saved in the export"), "{ran}");
    assert!(ran.json()["preflight"]["findings"].is_array());
    stage.scene.world.shell("chmod -R u+w export").success();
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

/// Runs preflight on the public names only.
fn public(stage: &Stage, internet: &Internet, args: &[&str]) -> Ran {
    let call = internet.seen_by(stage.scene.tool("preflight")).args(["-n"]);
    call.args(stage.synapse.config_args()).args(args).run()
}

#[test]
fn a_long_ttl_is_reported_with_the_time_to_wait() {
    let stage = Stage::new();
    let zone = "@ 86400 A 127.0.0.1\n@ 3600 AAAA ::1\nmatrix 7200 CNAME www\nwww 60 A 127.0.0.1\n\
                _matrix._tcp 43200 SRV 10 0 8448 matrix\n";
    let internet = Internet::new(&stage.scene.world, zone, &DOCUMENTS);

    let ran = public(&stage, &internet, &[]);

    assert_eq!(serious(&ran), ["warning dns-ttl"], "{ran}");
    for record in [
        "example.org A for 86400 s",
        "example.org AAAA for 3600 s",
        "matrix.example.org CNAME for 7200 s",
        "_matrix._tcp.example.org SRV for 43200 s",
    ] {
        assert!(ran.stderr.contains(record), "{record} in {ran}");
    }
    assert!(ran.stderr.contains("then wait 24 hours"), "{ran}");
    assert!(!ran.stderr.contains("www.example.org A for"), "{ran}");
    assert_eq!(serious(&public(&stage, &internet, &["--max-ttl", "86400"])), [""; 0]);

    // The target of an alias in another party's zone does not change.
    let world = World::new();
    let internet = Internet::new(&world, "@ A 127.0.0.1\nmatrix CNAME www.provider.test.\n", &DOCUMENTS);
    let ran = public(&stage, &internet, &[]);
    assert_eq!(serious(&ran), [""; 0], "{ran}");
    assert!(
        ran.stdout.contains(r#""name":"www.provider.test","ttl":86400"#),
        "{ran}"
    );
}

#[test]
fn what_a_resolver_remembers_of_a_record_is_not_taken_for_its_time() {
    let stage = Stage::new();
    let zone = |seconds: u32| format!("@ {seconds} A 127.0.0.1\nmatrix {seconds} A 127.0.0.1\n");
    let internet = Internet::new(&stage.scene.world, &zone(86_400), &DOCUMENTS);
    let (_server, resolver) = internet.memory(&stage.scene.world, &zone(17));

    let call = internet.seen_through(&resolver, stage.scene.tool("preflight"));
    let ran = call.args(["-n"]).args(stage.synapse.config_args()).run().success();

    assert_eq!(serious(&ran), ["warning dns-ttl"], "{ran}");
    assert!(ran.stderr.contains("example.org A for 86400 s"), "{ran}");
}

#[test]
fn a_delegated_name_without_a_port_is_followed_to_its_own_records() {
    let stage = Stage::new();
    let documents = [("server", r#"{"m.server": "matrix.example.org"}"#)];
    let zone = "@ A 127.0.0.1\nmatrix A 127.0.0.1\n_matrix-fed._tcp.matrix 7200 SRV 10 0 443 fed\n";
    let internet = Internet::new(&stage.scene.world, zone, &documents);

    let ran = public(&stage, &internet, &[]).success();

    assert_eq!(serious(&ran), ["warning dns-no-address", "warning dns-ttl"], "{ran}");
    for said in [
        "_matrix-fed._tcp.matrix.example.org SRV for 7200 s",
        "have no address: fed.example.org",
        "at fed.example.org:443 (.well-known and the SRV record of _matrix-fed._tcp.matrix.example.org)",
    ] {
        assert!(ran.stderr.contains(said), "{said} in {ran}");
    }
}

#[test]
fn delegation_is_followed_to_names_without_address() {
    let stage = Stage::new();
    let internet = Internet::new(&stage.scene.world, "@ A 127.0.0.1\n", &DOCUMENTS);
    stage
        .scene
        .world
        .write("old/conf.d/base.yaml", "public_baseurl: https://chat.example.org/\n");

    let ran = public(&stage, &internet, &[]);

    assert_eq!(serious(&ran), ["warning dns-no-address"], "{ran}");
    assert!(ran.stderr.contains("chat.example.org, matrix.example.org"), "{ran}");
    assert!(
        ran.stderr
            .contains("reach the homeserver at matrix.example.org:443 (.well-known)"),
        "{ran}"
    );

    let bare = World::new();
    let internet = Internet::new(&bare, "@ A 127.0.0.1\nchat A 127.0.0.1\n", &[]);
    let ran = public(&stage, &internet, &[]);
    assert_eq!(serious(&ran), [""; 0], "{ran}");
    assert!(
        ran.stderr
            .contains("reach the homeserver at example.org:8448 (the default port)"),
        "{ran}"
    );
    assert!(
        ran.stderr.contains("https://example.org serves no .well-known/matrix"),
        "{ran}"
    );
}

#[test]
fn documents_that_not_every_client_can_read_are_reported() {
    let stage = Stage::new();
    let documents = [
        ("server", "<html>moved</html>"),
        (
            "client",
            "!{\"m.homeserver\": {\"base_url\": \"https://matrix.example.org\"}}",
        ),
        ("support", "!503"),
    ];
    let internet = Internet::new(&stage.scene.world, ZONE, &documents);

    let ran = public(&stage, &internet, &[]);

    assert_eq!(serious(&ran), ["warning well-known-broken"; 3], "{ran}");
    for why in [
        "server is invalid: it is not JSON",
        "client is invalid: browsers cannot read it",
        "support is invalid: the server returns HTTP status 503",
    ] {
        assert!(ran.stderr.contains(why), "{why} in {ran}");
    }

    let world = World::new();
    let documents = [
        ("server", "{\"m.homeserver\": \"matrix.example.org\"}"),
        (
            "client",
            "?{\"m.homeserver\": {\"base_url\": \"https://matrix.example.org\"}}",
        ),
    ];
    let internet = Internet::new(&world, ZONE, &documents);
    let ran = public(&stage, &internet, &[]);
    assert_eq!(serious(&ran), ["warning well-known-broken"; 2], "{ran}");
    for why in [
        "server is invalid: it lacks m.server",
        "client is invalid: its content type is \"text/plain\"",
    ] {
        assert!(ran.stderr.contains(why), "{why} in {ran}");
    }
}

#[test]
fn public_names_that_cannot_be_resolved_do_not_pass() {
    let stage = Stage::new();
    let look = || {
        stage
            .scene
            .tool("preflight")
            .args(["-n"])
            .args(stage.synapse.config_args())
    };
    let neither = ["warning dns-not-checked", "warning well-known-not-checked"];
    let ran = look().args(["--resolver", "127.0.0.1:1"]).run();
    assert_eq!(serious(&ran), neither, "{ran}");
    // A name server that never answers.
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let resolver = silent.local_addr().unwrap().to_string();
    let ran = look().args(["--resolver", &resolver]).run();
    assert_eq!(serious(&ran), neither, "{ran}");

    // A certificate of an unknown authority.
    let call = internet::healthy().seen_by(look());
    let ran = call.env("SSL_CERT_FILE", "/dev/null").run();
    assert_eq!(serious(&ran), ["warning well-known-not-checked"], "{ran}");
    for wrong in [
        ["--resolver", "nowhere"],
        ["--resolve", "example.org:443"],
        ["--max-ttl", "long"],
    ] {
        assert_eq!(code(&look().args(wrong).run()), 64);
    }
}

#[test]
fn findings_are_selected_but_blockers_are_not_skipped() {
    let stage = Stage::new();
    let internet = Internet::new(
        &stage.scene.world,
        "@ 86400 A 127.0.0.1\nmatrix A 127.0.0.1\n",
        &DOCUMENTS,
    );
    stage
        .scene
        .on_source("INSERT INTO users (name) VALUES ('@mallory:elsewhere.org')");

    let ran = public(
        &stage,
        &internet,
        &["--skip", "dns*", "--skip", "foreign-*", "--skip", "carry-*"],
    );
    assert_eq!(serious(&ran), ["blocker foreign-users"], "{ran}");
    assert!(!ran.stderr.contains("carry-"), "{ran}");

    let ran = public(&stage, &internet, &["--check", "--only", "dns*", "--report"]).success();
    insta::assert_snapshot!(ran, @r"
    -- stderr --
    warning   dns-ttl  resolvers cache DNS records of the homeserver for longer than 300 s: example.org A for 86400 s
                       -> set the TTL of these records to 300 s or less now, then wait 24 hours: until then, caches contain the old one
    preflight: 0 blockers, 0 accepted, 1 warning, 0 infos
    -- exit status: 0 --
    ");
    // With these flags the network is not queried.
    let skipping = ["dns*", "well-known*", "delegation"]
        .iter()
        .flat_map(|id| ["--skip", id]);
    let ran = stage
        .scene
        .tool("preflight")
        .args(["-n"])
        .args(stage.synapse.config_args())
        .args(skipping)
        .run();
    assert_eq!(serious(&ran), ["blocker foreign-users"], "{ran}");
    assert_eq!(
        code(&public(&stage, &internet, &["--only", "dns*"])),
        64,
        "a part is nothing to build on"
    );
    assert_eq!(code(&public(&stage, &internet, &["--skip", "no-such"])), 64);
}

#[test]
fn findings_are_a_table_and_a_file_for_prometheus() {
    let stage = Stage::new();
    stage.scene.on_target("UPDATE users SET name = '@a:elsewhere.org'");
    let look = || {
        stage
            .preflight()
            .args(["--check", "--report", "--metrics", "preflight.prom"])
    };

    let ran = look().run();

    assert_eq!(code(&ran), 1);
    assert!(
        ran.stderr
            .starts_with("BLOCKER   target-server-name  the target serves elsewhere.org"),
        "{ran}"
    );
    let world = &stage.scene.world;
    let text = world.read("preflight.prom");
    for line in [
        "ess_migrate_preflight_findings{severity=\"blocker\"} 1",
        "ess_migrate_preflight_finding{id=\"target-server-name\",severity=\"blocker\"} 1",
        "ess_migrate_preflight_open_blockers 1",
    ] {
        assert!(text.contains(&format!("{line}\n")), "{text}");
    }
    let mode = fs::metadata(world.path("preflight.prom")).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o644);
    stage.scene.on_target("UPDATE users SET name = '@a:example.org'");
    look().run().success();
    assert!(
        world
            .read("preflight.prom")
            .contains("ess_migrate_preflight_open_blockers 0\n")
    );
    assert_eq!(
        code(&look().args(["--metrics", "nowhere/preflight.prom"]).run()),
        64,
        "given twice"
    );
    let ran = stage
        .preflight()
        .args(["--check", "--metrics", "nowhere/preflight.prom"])
        .run();
    assert_eq!(code(&ran), 74, "{ran}");
}

#[test]
fn a_broken_installation_is_reported_all_at_once() {
    let stage = Stage::new();
    let scene = &stage.scene;
    let zone = "@ 86400 A 127.0.0.1\nmatrix 86400 A 127.0.0.1\n";
    let internet = Internet::new(&scene.world, zone, &DOCUMENTS);
    scene.on_source(
        "INSERT INTO background_updates (update_name, progress_json) VALUES ('slow', '{}');
         INSERT INTO users (name) VALUES ('@mallory:elsewhere.org');
         UPDATE stream_positions SET stream_id = 1000000 WHERE stream_name = 'account_data'",
    );
    let media = "find old/media_store/local_content -type f | head -n 1 | xargs rm";
    scene.world.shell(media).success();
    let key = scene.world.path("old/homeserver.signing.key");
    fs::set_permissions(key, Permissions::from_mode(0o000)).unwrap();
    // A sparse file makes the database appear larger than any disk.
    scene.on_source(
        "DO $$ BEGIN EXECUTE format('COPY (SELECT) TO PROGRAM %L', 'truncate -s 8T base/'
             || (SELECT oid FROM pg_database WHERE datname = current_database()) || '/1'); END $$",
    );
    let target = format!("{}_broken", scene.target);
    let create = format!("CREATE DATABASE {target} OWNER synapse_user TEMPLATE template0 LOCALE 'C.UTF-8'");
    target_cluster().psql("postgres", &create);
    let url = target_cluster().url(&target, "synapse_user");
    let _visitor = Sleeper::new(scene, "");

    let args = [
        "--target",
        &url,
        "--target-password-file",
        "target.pw",
        "--export",
        "export",
    ];
    let ran = public(&stage, &internet, &args);

    assert_eq!(
        serious(&ran),
        [
            "blocker export-space",
            "blocker foreign-users",
            "blocker sequence-behind-stream",
            "blocker signing-key",
            "blocker target-locale",
            "warning background-updates",
            "warning dns-ttl",
            "warning media-files-missing",
            "warning other-sessions",
        ],
        "{ran}"
    );
    assert_eq!(code(&ran), 1);
}
