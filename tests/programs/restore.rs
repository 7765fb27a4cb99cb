//! restore: it loads only a complete dump, only into a target that ess-wipe has fenced, and Synapse starts only when
//! all of it is proven.

use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::support::dumps::COUNTS;
use crate::support::{
    Identity, Scene, Stdin, Synapse, Visitor, assert_failed, seeded, source_cluster, target_cluster, wait_until,
};

#[test]
fn a_synapse_starts_on_the_result_and_is_the_old_one() {
    let scene = Scene::restored();
    let synapse = Synapse::new(&scene.world, "ess", &scene.target_database(), &Identity::old());

    synapse.start();

    seeded().check(&synapse);
    assert_eq!(seeded().one_time_keys_on(&synapse), seeded().one_time_keys);
    seeded().goes_on(&synapse);
    synapse.stop();
}

#[test]
fn a_restore_is_proven_against_the_manifest_and_lifts_the_fence() {
    let scene = Scene::wiped();

    let ran = scene.restore().run().success();

    let document = ran.json();
    assert_eq!(document["restore"]["proven_against"], "manifest");
    assert_eq!(document["restore"]["fence"], "lifted");
    assert_eq!(scene.on_target(COUNTS), source_cluster().psql("seeded", COUNTS));
    assert_eq!(
        scene.on_target("SELECT obj_description('schema_version'::regclass)"),
        ""
    );
    let analyzed = "SELECT count(*) > 0 FROM pg_stats WHERE tablename = 'event_json'";
    assert_eq!(scene.on_target(analyzed), "t");
    let rows = document["restore"]["rows"].to_string();
    scene.world.mask(format!("{rows} rows"), "$COUNT");
    let said = ran.to_string();
    let (_, said) = said.split_once("-- stderr --\n").unwrap();
    insta::assert_snapshot!(said, @r"
    restore: 172 tables, $COUNT, all equal to what the source held when it was dumped; no source was named, so it was not checked for changes since the dump; Synapse can start
    restore: one-time keys kept: no other session used the source during the dump, so no key was handed out meanwhile
    -- exit status: 0 --
    ");
}

#[test]
fn a_truly_empty_target_is_as_good_as_a_fenced_one() {
    let scene = Scene::dumped();
    scene
        .wiper()
        .args(["--no-fence", "--execute", "--confirm", &scene.confirmation()])
        .run()
        .success();

    scene.restore().run().success();

    assert_eq!(scene.on_target(COUNTS), source_cluster().psql("seeded", COUNTS));
}

#[test]
fn a_dump_of_one_file_is_restored_too() {
    let scene = Scene::new();
    scene.dumper().args(["--format", "custom"]).run().success();
    scene.wipe(Stdin::Null).success();

    scene.restore().run().success();

    assert_eq!(scene.on_target(COUNTS), scene.on_source(COUNTS));
}

#[test]
fn a_damaged_dump_never_reaches_the_target() {
    let scene = Scene::wiped();
    let before = scene.target_dump();
    let data = "export/dump/data";
    let largest = format!("$(ls -S {data}/*.dat* | head -1)");
    for (damage, said) in [
        (
            format!("printf X | dd of={largest} bs=1 seek=100 conv=notrunc"),
            "does not match its SHA-256",
        ),
        (format!("truncate -s -1 {largest}"), "bytes, the manifest records"),
        (format!("rm {largest}"), "is missing"),
        (format!("touch {data}/9999.dat.gz"), "is not in the manifest"),
        (
            format!("F={largest}; mv $F moved; ln -s $PWD/moved $F"),
            "is not a regular file",
        ),
        (
            "sed -i 's/\"kind\":/\"kinder\":1,&/' export/dump/manifest.json".into(),
            "is not the manifest of a dump: unknown field `kinder`",
        ),
        (
            "truncate -s -9 export/dump/manifest.json".into(),
            "is not the manifest of a dump: ",
        ),
        (format!("rm -r {data}"), "data is missing"),
    ] {
        scene.world.shell("rm -rf kept; cp -a export/dump kept").success();
        scene.world.shell(&damage).success();

        let ran = scene.restore().run();

        assert_failed(&ran, 65, said);
        scene.world.shell("rm -rf export/dump; mv kept export/dump").success();
    }
    assert_eq!(scene.target_dump(), before);
}

#[test]
fn a_table_that_changes_after_its_digest_was_read_is_read_again() {
    let scene = Scene::new();
    // An index that takes three seconds to build, while digests of other tables are read.
    let role = &scene.source.role;
    scene.on_source(&format!(
        "SET ROLE {role:?};
         CREATE FUNCTION slow(i int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN
             IF current_setting('application_name') LIKE 'ess-migrate/pg_restore/%' THEN PERFORM pg_sleep(3); END IF;
             RETURN i; END $$;
         CREATE TABLE slowly AS SELECT 1 AS i;
         CREATE INDEX slowly_i ON slowly (slow(i))"
    ));
    scene.dump().success();
    scene.wipe(Stdin::Null).success();
    let restore = scene.restore().start();
    let building = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX slowly_i%'";
    wait_until("the slow index is built", || scene.on_target(building) == "1");
    thread::sleep(Duration::from_secs(1));
    scene.on_target("UPDATE users SET is_guest = 1 - is_guest");

    let ran = restore.wait();

    assert_failed(&ran, 1, "table public.users has different contents in its");
    assert!(scene.is_fenced());
}

#[test]
fn another_manifest_than_the_documents_is_refused() {
    let scene = Scene::new();
    scene.wipe(Stdin::Null).success();
    let dump = scene.dump().success();
    scene
        .world
        .shell(r#"sed -i 's/"pg_dump_version":"/&1/; s/,"seal":"[0-9a-f]*"//' export/dump/manifest.json"#)
        .success();
    let target = scene.target_args();

    let ran = scene
        .tool("restore")
        .args(&target[1..])
        .stdin(dump.stdout.as_str())
        .run();

    assert_failed(&ran, 65, "is not the one in the document");
    assert!(scene.is_fenced());
}

#[test]
fn an_edited_manifest_is_found_out_by_the_proof() {
    let scene = Scene::wiped();
    let mut manifest = scene.manifest();
    let tables = manifest["inventory"]["tables"].as_array_mut().unwrap();
    let users = tables.iter_mut().find(|table| table["name"] == "users").unwrap();
    users["digest"]["rows"] = 4.into();
    let edited = |manifest: &serde_json::Value| scene.world.write("export/dump/manifest.json", manifest.to_string());
    edited(&manifest);
    assert_failed(&scene.restore().run(), 65, "manifest.json does not match its seal");
    manifest.as_object_mut().unwrap().remove("seal");
    edited(&manifest);

    let ran = scene.restore().run();

    assert_failed(&ran, 1, "table public.users has 3 rows, not 4");
    assert!(ran.stderr.contains("it stays fenced"), "{ran}");
    assert!(scene.is_fenced());
}

#[test]
fn a_target_that_is_not_empty_is_refused() {
    let scene = Scene::dumped();
    let before = scene.target_dump();

    assert_failed(&scene.restore().run(), 1, "the target is not empty");

    assert_eq!(scene.target_dump(), before);
}

#[test]
fn a_target_with_another_collation_is_refused() {
    let scene = Scene::wiped();
    let other = format!("{}_c", scene.target);
    let create = format!(
        "CREATE DATABASE {other} OWNER synapse_user TEMPLATE template0 LC_COLLATE 'C.UTF-8' LC_CTYPE 'C.UTF-8'"
    );
    target_cluster().psql("postgres", &create);
    let target = target_cluster().url(&other, "synapse_user");

    let ran = scene
        .tool("restore")
        .args([
            "-n",
            "--target",
            &target,
            "--target-password-file",
            "target.pw",
            "--from",
            "export/dump",
        ])
        .run();

    assert_failed(
        &ran,
        1,
        "the target database is UTF8/C.UTF-8/C.UTF-8, but Synapse requires UTF8/C/C",
    );
}

#[test]
fn a_target_in_use_is_refused() {
    let scene = Scene::wiped();
    let _visitor = Visitor::new(target_cluster(), &scene.target, "synapse_user");

    assert_failed(
        &scene.restore().run(),
        1,
        "1 other session is using the target: synapse_user (process ",
    );
    assert!(scene.is_fenced());
}

#[test]
fn a_superuser_makes_everything_the_owners() {
    let scene = Scene::wiped();
    let target = target_cluster().socket_url(&scene.target, "postgres");

    scene
        .tool("restore")
        .args(["-n", "--target", &target, "--from", "export/dump"])
        .run()
        .success();

    let owners = "SELECT relowner::regrole FROM pg_class WHERE relnamespace = 'public'::regnamespace \
        UNION SELECT proowner::regrole FROM pg_proc WHERE pronamespace = 'public'::regnamespace";
    assert_eq!(scene.on_target(owners), "synapse_user");
}

#[test]
fn an_export_that_was_carried_elsewhere_is_enough() {
    let scene = Scene::new();
    let synapse = Synapse::debian(&scene.world, "old", &scene.source, &Identity::old());
    let dump = scene
        .world
        .tool("pgdump-wrap")
        .args(["-n", "--export", "export"])
        .args(synapse.config_args())
        .run();
    let document = dump.success().stdout;
    // The other host has another path, no configuration and no route to the source.
    scene
        .world
        .shell("mkdir -m 700 other; mv export other/carried; rm -r old")
        .success();
    let document = document.replace(&format!("\"port\":\"{}\"", source_cluster().port), "\"port\":\"9\"");
    let target = scene.target_args();

    let wiped = scene
        .world
        .tool("ess-wipe")
        .args(&target[1..])
        .args([
            "--export",
            "other/carried",
            "--allow-unchecked-source",
            "--execute",
            "--confirm",
            &scene.confirmation(),
        ])
        .stdin(document.as_str())
        .run()
        .success();
    let restored = scene
        .world
        .tool("restore")
        .args(["--allow-unchecked-source"])
        .stdin(wiped.stdout.as_str())
        .run()
        .success();
    let verified = scene
        .world
        .tool("verify")
        .stdin(restored.stdout.as_str())
        .run()
        .success();

    for ran in [&wiped, &restored, &verified] {
        assert!(
            ran.stderr
                .contains("the source was not checked for changes since the dump"),
            "{ran}"
        );
    }
    assert!(
        scene
            .world
            .path("other/carried/ess-before-wipe/manifest.json")
            .is_file()
    );
    assert_eq!(verified.json()["verify"]["equal"], true);
    assert_eq!(verified.json()["dump"]["path"], "dump");
}

#[test]
fn the_whole_line_runs_as_one_pipeline_and_again() {
    let scene = Scene::new();
    let line = r#"set -o pipefail; pgdump-wrap -n --source "$SOURCE" --export export --server-name example.org \
        | ess-wipe --target "$TARGET" --target-password-file target.pw --execute --confirm "$CONFIRM" \
        | restore"#;
    let run = || {
        scene
            .world
            .script(line)
            .env("PGPASSFILE", scene.world.path("pgpass"))
            .env("SOURCE", scene.source_url())
            .env("TARGET", scene.target_url())
            .env("CONFIRM", scene.confirmation())
            .run()
    };

    let document: Value = run().success().json();

    assert_eq!(document["restore"]["proven_against"], "manifest");
    assert_eq!(
        document["restore"]["next"]["go_back"],
        document["wipe"]["next"]["go_back"]
    );
    assert!(!document.to_string().contains("s%w") && !document.to_string().contains("Zx8"));
    // What has been restored is kept.
    let again: Value = run().success().json();
    assert_eq!(again["restore"]["kept"], true);
    assert_eq!(again["restore"]["rows"], document["restore"]["rows"]);
    // Now people use the target: re-running the command must not erase what they write.
    scene.on_target("UPDATE profiles SET displayname = displayname || '!'");
    let again = run();
    assert_failed(&again, 65, "ess-wipe: people have used the target");
    assert_eq!(scene.on_target(COUNTS), scene.on_source(COUNTS));
}

#[test]
fn a_source_that_moved_after_the_wipe_is_refused() {
    let scene = Scene::new();
    let dumped = scene.dump().success().stdout;
    let wiped = scene.wipe(dumped.as_str()).success().stdout;
    scene.on_source("UPDATE profiles SET displayname = displayname || '!'");

    let ran = scene.tool("restore").stdin(wiped.as_str()).run();

    assert_failed(
        &ran,
        1,
        "the old Synapse ran after the dump: \"public\".\"profiles\" has different contents in its 3 rows",
    );
    assert!(scene.is_fenced());
}
