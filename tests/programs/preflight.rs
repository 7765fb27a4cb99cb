//! preflight: everything that stops a migration is found in one run, and a healthy server has no finding that needs
//! action.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use serde_json::json;

use crate::support::findings::{data, fires, found, serious};
use crate::support::installation::{Stage, public};
use crate::support::internet::{DOCUMENTS, Internet};
use crate::support::{Identity, SERVER_NAME, Sleeper, Stdin, code, names_in, source_cluster, target_cluster};

#[test]
fn a_healthy_installation_needs_a_rehearsal_and_nothing_else() {
    let stage = Stage::new();

    let ran = stage.preflight().args(["--export", "export"]).run().success();

    assert_eq!(
        found(&ran, &["blocker", "warning", "info"]),
        [
            "warning rehearsal",
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
            .ends_with("preflight: 0 blockers, 0 accepted, 1 warning, 19 infos\n"),
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
    assert_eq!(serious(&no), ["blocker foreign-users", "warning rehearsal"]);
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
            "warning rehearsal",
        ],
        "{ran}"
    );
    assert_eq!(code(&ran), 1);
}

#[test]
fn a_wrong_clock_is_reported_for_each_server() {
    let stage = Stage::new();
    let world = &stage.scene.world;
    // For one program this machine's clock is an hour late.
    let late = "#define _GNU_SOURCE\n#include <sys/syscall.h>\n#include <time.h>\n#include <unistd.h>\n\
        int clock_gettime(clockid_t which, struct timespec *now) {\n\
        int outcome = syscall(SYS_clock_gettime, which, now);\n\
        if (which == CLOCK_REALTIME) now->tv_sec -= 3600;\n\
        return outcome;\n}\n";
    world.write("late.c", late);
    world.shell("cc -shared -fPIC -o late.so late.c").success();

    let ran = stage
        .preflight()
        .env("LD_PRELOAD", world.path("late.so"))
        .run()
        .success();

    let clocks: Vec<String> = serious(&ran)
        .into_iter()
        .filter(|finding| finding == "warning clock")
        .collect();
    assert_eq!(clocks.len(), 2, "{ran}");
    fires(&ran, &["warning clock"]);
    for server in ["source", "target"] {
        let said = format!("the clock of the {server} is 3600 seconds ahead of this machine's");
        assert!(ran.stderr.contains(&said), "{said} in {ran}");
    }
}

#[test]
fn what_a_template_left_in_the_configuration_is_reported_without_its_value() {
    let stage = Stage::new();
    let world = &stage.scene.world;
    world.write(
        "old/conf.d/templates.yaml",
        "turn_shared_secret: ${TURN_CANARY:-none}\nrecaptcha_private_key: '%%RECAPTCHA%%'\nform_secret: CHANGEME\n",
    );

    let ran = stage.source_only().run().success();

    fires(&ran, &["warning placeholder"]);
    assert_eq!(
        data(&ran, "placeholder")["options"],
        json!(["form_secret", "turn_shared_secret", "recaptcha_private_key"])
    );
    assert!(
        !ran.stderr.contains("CANARY") && !ran.stdout.contains("CANARY"),
        "{ran}"
    );
    let args = stage.synapse.config_args();
    let exported = world
        .tool("extract-secrets")
        .args(args)
        .args(["--out", "out"])
        .run()
        .success();
    let note = "the value of `turn_shared_secret` is what a template left";
    assert!(exported.stderr.contains(note), "{exported}");
}
