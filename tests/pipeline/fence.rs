//! The fence: it counts only if it is complete, and is lifted only after a proof and if the source has not changed.

use serde_json::json;

use crate::support::dumps::{pg_dump, restore_from};
use crate::support::{
    SERVER_NAME, Scene, Stdin, assert_failed, link_programs, pgbin, restore_that_waits, source_cluster, target_cluster,
    write_program,
};

/// Writes the source's version rows by hand, as an administrator might; the comment remains.
const BY_HAND: &str = "UPDATE schema_version SET version = 94; UPDATE schema_compat_version SET compat_version = 84";

#[test]
fn a_comment_without_sentinel_rows_is_a_live_database() {
    for (damage, what) in [
        (BY_HAND, "schema_version contains version 94"),
        (
            "UPDATE schema_version SET version = 94",
            "schema_version contains version 94",
        ),
        (
            "UPDATE schema_compat_version SET compat_version = 84",
            "schema_compat_version contains version 84",
        ),
        ("DELETE FROM schema_version", "schema_version is empty"),
        ("DROP TABLE schema_compat_version", "schema_compat_version is missing"),
        ("COMMENT ON TABLE schema_version IS NULL", "its comment is missing"),
        (
            "COMMENT ON TABLE schema_version IS '{\"ess-migrate\":\"fence\"'",
            "the comment is not one of these tools",
        ),
    ] {
        let scene = Scene::wiped();
        // What a Synapse and its users create after the fence was taken down by hand.
        scene.on_target("SET ROLE synapse_user; CREATE TABLE users (name text, is_guest int); INSERT INTO users VALUES ('@alice:other.example', 0)");
        scene.on_target(damage);
        let before = scene.target_dump();
        let confirm = scene.confirmation();

        let wipe = scene.wiper().args(["--execute", "--confirm", &confirm]).run();
        let restore = scene.restore().run();
        let verify = scene.verify().run();
        let undo = scene.wiper().args(["--undo", "--backup", "export/dump"]).run();

        for ran in [wipe, restore, verify, undo] {
            assert_failed(&ran, 1, "the target has an incomplete fence: ");
            assert!(ran.stderr.contains(what), "{what}: {ran}");
            assert!(ran.stderr.contains("\nhint: "), "{ran}");
        }
        assert_eq!(scene.target_dump(), before, "{damage}");
    }
}

#[test]
fn a_database_that_is_declared_live_meets_the_guards_of_one() {
    let scene = Scene::wiped();
    scene.on_target("SET ROLE synapse_user; CREATE TABLE users (name text, is_guest int); INSERT INTO users VALUES ('@alice:other.example', 0)");
    scene.on_target(BY_HAND);
    scene.on_target("COMMENT ON TABLE schema_version IS NULL");
    let before = scene.target_dump();

    let ran = scene.wipe(Stdin::Null);

    assert_failed(&ran, 1, "the target serves other.example, not example.org");
    assert_failed(&scene.restore().run(), 1, "the target is not empty");
    assert_eq!(scene.target_dump(), before);
}

/// Creates programs in `bin`, among them a `pg_restore` that runs a command before `--list`.
fn while_the_list_is_read(scene: &Scene, command: &str) {
    let script = format!(
        "[[ $* != *--list* ]] || {command}\nexec {}/pg_restore \"$@\"\n",
        pgbin()
    );
    write_program(&scene.world, "bin/pg_restore", &script);
    link_programs(&scene.world, "bin");
}

#[test]
fn a_fence_that_falls_while_the_dump_is_read_keeps_what_is_behind_it() {
    let scene = Scene::wiped();
    scene.on_target("SET ROLE synapse_user; CREATE TABLE profiles (name text); INSERT INTO profiles VALUES ('alice')");
    // Between the check of the target and the transaction that drops its objects.
    let change = format!(
        "psql -qX -h {} -p {} -U synapse_user -d {} -c \"{BY_HAND}\" >&2",
        target_cluster().dir.display(),
        target_cluster().port,
        scene.target
    );
    while_the_list_is_read(&scene, &change);

    let ran = scene.restore().args(["--pg-bin", "bin"]).run();

    assert_ne!(ran.status.code(), Some(0), "{ran}");
    assert!(ran.stderr.contains("the fence is no longer complete"), "{ran}");
    assert_eq!(scene.on_target("SELECT name FROM profiles"), "alice");
}

/// Creates a target with the complete dump behind its fence, as after a restore that was killed during its proof.
/// Returns the document.
fn loaded_behind_the_fence(scene: &Scene) -> String {
    let dumped = scene.dump().success().stdout;
    let wiped = scene.wipe(dumped.as_str()).success().stdout;
    let comment = scene.on_target("SELECT obj_description('schema_version'::regclass)");
    scene.tool("restore").stdin(wiped.as_str()).run().success();
    scene.on_target(&format!(
        "UPDATE schema_version SET version = 2147483647; UPDATE schema_compat_version SET compat_version = 2147483647;
         COMMENT ON TABLE schema_version IS '{comment}'"
    ));
    assert!(scene.is_fenced());
    wiped
}

#[test]
fn the_fence_stays_when_the_old_synapse_ran_after_the_load() {
    let scene = Scene::new();
    let wiped = loaded_behind_the_fence(&scene);
    scene.on_source("UPDATE profiles SET displayname = displayname || '!'");

    for tool in ["restore", "verify"] {
        let ran = scene.tool(tool).stdin(wiped.as_str()).run();
        assert_failed(&ran, 1, "the old Synapse ran after the dump: ");
        assert!(scene.is_fenced(), "{ran}");
    }
}

#[test]
fn a_source_that_changes_during_the_load_keeps_the_fence_up() {
    let scene = Scene::new();
    let dumped = scene.dump().success().stdout;
    let wiped = scene.wipe(dumped.as_str()).success().stdout;
    // After the first check of the source: pg_restore is running.
    let change = format!(
        "psql -qX -h {} -p {} -U postgres -d '{}' -c \"UPDATE profiles SET displayname = 'later'\" >&2",
        source_cluster().dir.display(),
        source_cluster().port,
        scene.source.name
    );
    while_the_list_is_read(&scene, &change);

    let ran = scene
        .tool("restore")
        .args(["--pg-bin", "bin"])
        .stdin(wiped.as_str())
        .run();

    assert_failed(&ran, 1, "the old Synapse ran after the dump: ");
    assert!(scene.is_fenced(), "{ran}");
}

#[test]
fn a_known_source_that_cannot_be_checked_keeps_the_fence_unless_a_person_lifts_it() {
    let scene = Scene::new();
    let dumped = scene.dump().success().stdout;
    let wiped = scene.wipe(dumped.as_str()).success().stdout;
    let port = source_cluster().port;
    let unreachable = wiped.replace(&format!("\"port\":\"{port}\""), "\"port\":\"9\"");

    let gone = scene.tool("restore").stdin(unreachable.as_str()).run();
    scene
        .world
        .write("pgpass", format!("127.0.0.1:{port}:*:synapse:wrong\n"));
    let wrong_password = scene.tool("restore").stdin(wiped.as_str()).run();
    for ran in [gone, wrong_password] {
        assert_failed(&ran, 1, "the source cannot be checked for changes since the dump: ");
        assert!(ran.stderr.contains("--allow-unchecked-source"), "{ran}");
        assert!(scene.is_fenced());
    }

    let ran = scene
        .tool("restore")
        .args(["--allow-unchecked-source"])
        .stdin(unreachable.as_str())
        .run()
        .success();

    let section = &ran.json()["restore"];
    assert_eq!(section["source"]["state"], "unchecked", "{ran}");
    assert!(
        section["source"]["reason"].as_str().unwrap().contains("cannot connect"),
        "{ran}"
    );
    assert_eq!(section["overrides"], json!(["--allow-unchecked-source"]));
    let last = ran.stderr.lines().find(|line| line.starts_with("restore: ")).unwrap();
    assert!(
        last.contains("the source was not checked for changes since the dump"),
        "{last}"
    );
    assert!(!scene.is_fenced());
}

#[test]
fn a_source_that_was_never_named_is_reported_as_not_checked() {
    let scene = Scene::wiped();

    let ran = scene.restore().run().success();

    assert_eq!(ran.json()["restore"]["source"], json!({"state": "not-named"}));
    assert!(
        ran.stderr
            .contains("no source was named, so it was not checked for changes since the dump"),
        "{ran}"
    );
}

#[test]
fn verify_refuses_the_source_itself_as_the_target() {
    let scene = Scene::wiped();
    let before = scene.target_dump();
    let same = target_cluster().socket_url(&scene.target, "synapse_user");

    let ran = scene
        .tool("verify")
        .args(scene.target_args())
        .args(["--source", &same])
        .run();

    assert_failed(&ran, 1, "source and target are the same database");
    assert_eq!(scene.target_dump(), before);
    assert!(scene.is_fenced());
}

#[test]
fn verify_refuses_a_manifest_that_is_not_the_documents() {
    let scene = Scene::new();
    let dumped = scene.dump().success().stdout;
    let wiped = scene.wipe(dumped.as_str()).success().stdout;
    let restored = scene.tool("restore").stdin(wiped.as_str()).run().success().stdout;
    scene
        .world
        .shell(r#"sed -i 's/"pg_dump_version":"/&1/; s/,"seal":"[0-9a-f]*"//' export/dump/manifest.json"#)
        .success();

    let ran = scene.tool("verify").stdin(restored.as_str()).run();

    assert_failed(&ran, 65, "is not the one in the document");
}

#[test]
fn verify_refuses_a_target_in_use() {
    let scene = Scene::restored();
    let _visitor = crate::support::Visitor::new(target_cluster(), &scene.target, "synapse_user");

    let ran = scene.verify().run();

    assert_failed(&ran, 1, "1 other session is using the target: synapse_user (process ");
}

#[test]
fn a_server_name_that_contradicts_the_document_is_a_usage_error() {
    let scene = Scene::new();
    let dumped = scene.dump().success().stdout;
    let before = scene.target_dump();
    let target = scene.target_args();
    let wipe = scene
        .tool("ess-wipe")
        .args(&target[1..])
        .args([
            "--server-name",
            "other.example",
            "--execute",
            "--confirm",
            &format!("other.example/{}", scene.target),
        ])
        .stdin(dumped.as_str())
        .run();
    let dump = scene
        .tool("pgdump-wrap")
        .args(["--server-name", "other.example"])
        .stdin(dumped.as_str())
        .run();
    let well_known = scene
        .tool("well-known")
        .args([
            "--server-name",
            "other.example",
            "--host",
            "matrix.other.example",
            "--out",
            "well-known",
        ])
        .stdin(dumped.as_str())
        .run();

    for ran in [wipe, dump, well_known] {
        assert_failed(
            &ran,
            64,
            &format!("--server-name is other.example, but the document's `source.server_name` is {SERVER_NAME}"),
        );
    }
    assert_eq!(scene.target_dump(), before);
}

#[test]
fn a_target_that_is_written_to_while_it_is_proven_stays_fenced() {
    let scene = Scene::new();
    let dumped = scene.dump().success().stdout;
    let wiped = scene.wipe(dumped.as_str()).success().stdout;
    // The proof has read the table, and waits for the lock that ANALYZE needs.
    let restore = restore_that_waits(&scene, &wiped, "postgres", "SHARE UPDATE EXCLUSIVE");
    scene.on_target("SELECT nextval('events_stream_seq')");
    scene.on_target(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'ess-migrate/psql/hold'",
    );

    let ran = restore.wait();

    assert_failed(&ran, 1, "the target was written to while it was being proven");
    assert!(scene.is_fenced(), "{ran}");
}

#[test]
fn a_fence_falls_for_the_source_that_it_awaits_and_for_no_other() {
    let scene = Scene::new();
    let other = format!("{} other", scene.source.name);
    source_cluster().psql(
        "postgres",
        &format!("CREATE DATABASE \"{other}\" TEMPLATE \"{}\"", scene.source.name),
    );
    source_cluster().psql(&other, "UPDATE profiles SET displayname = 'stale'");
    let dumped = scene.dump().success().stdout;
    let wiped = scene.wipe(dumped.as_str()).success().stdout;
    let mut dump = source_cluster().program("pg_dump");
    dump.args(["-U", "postgres", "-Fc", "-d", &other, "-f"]);
    assert!(dump.arg(scene.world.path("x.dump")).status().unwrap().success());
    let url = scene
        .source_url()
        .replace(&scene.source.name, &other.replace(' ', "%20"));
    let target = scene.target_args();
    let restore = |more: &[&str]| {
        scene
            .tool("restore")
            .args(&target)
            .args(["--from", "x.dump"])
            .args(more)
            .run()
    };

    assert_failed(&restore(&["--source", &url]), 1, "the target is fenced for source ");
    assert!(scene.is_fenced());

    // A pipeline of another migration does not drop what this one has loaded.
    let ran = scene
        .wiper()
        .args(["--execute", "--confirm", &scene.confirmation()])
        .run();
    assert_failed(&ran, 1, "the target is fenced for another source");
    scene.tool("restore").stdin(wiped.as_str()).run().success();

    // What a person explicitly accepts without proof is not refused, but reported.
    let scene = Scene::wiped();
    pg_dump(&scene, "their.dump", &["-Fc"]);
    let ran = restore_from(&scene, "their.dump")
        .args(["--accept-unproven"])
        .run()
        .success();
    assert!(
        ran.stderr.contains("and nothing shows that this dump is of it"),
        "{ran}"
    );
}

#[test]
fn a_comment_with_unknown_keys_is_an_incomplete_fence() {
    let scene = Scene::wiped();
    scene.on_target(r#"COMMENT ON TABLE schema_version IS '{"ess-migrate":"fence","id":"x","extra":1}'"#);

    assert_failed(&scene.restore().run(), 1, "the target has an incomplete fence");
    assert!(scene.is_fenced());
}
