//! restore: it loads only a complete dump, only into a target that ess-wipe has fenced, and Synapse starts only when
//! all of it is proven.

use std::fs;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::support::dumps::{pg_dump, restore_from};
use crate::support::{
    Identity, Scene, Stdin, Synapse, Visitor, assert_failed, seeded, source_cluster, target_cluster, wait_until,
};

/// The row count of every table.
const COUNTS: &str = "SELECT table_name, (xpath('/row/c/text()', query_to_xml(format('SELECT count(*) AS c FROM %I', \
    table_name), false, true, '')))[1]::text FROM information_schema.tables WHERE table_schema = 'public' ORDER BY 1";

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
fn archives_of_others_are_proven_against_the_stopped_source() {
    for (format, from) in [("-Fc", "their.dump"), ("-Fd", "their.dir"), ("-Ft", "their.tar")] {
        let scene = Scene::wiped();
        pg_dump(&scene, from, &[format]);

        let ran = restore_from(&scene, from)
            .args(["--source", &scene.source_url()])
            .run()
            .success();

        assert_eq!(ran.json()["restore"]["proven_against"], "source", "{format}");
        assert_eq!(
            scene.on_target(COUNTS),
            source_cluster().psql("seeded", COUNTS),
            "{format}"
        );
        let version = "SELECT version, upgraded, compat_version FROM schema_version, schema_compat_version";
        assert_eq!(
            scene.on_target(version),
            source_cluster().psql("seeded", version),
            "{format}"
        );
    }
}

#[test]
fn plain_dumps_of_others_are_proven_against_the_stopped_source() {
    for (args, from) in [(&[][..], "their.sql"), (&["-C", "-Z9"], "their.sql.gz")] {
        let scene = Scene::wiped();
        pg_dump(&scene, from, args);

        let ran = restore_from(&scene, from)
            .args(["--source", &scene.source_url()])
            .run()
            .success();

        assert_eq!(ran.json()["restore"]["proven_against"], "source", "{from}");
        assert_eq!(
            scene.on_target(COUNTS),
            source_cluster().psql("seeded", COUNTS),
            "{from}"
        );
        let version = "SELECT version, upgraded, compat_version FROM schema_version, schema_compat_version";
        assert_eq!(
            scene.on_target(version),
            source_cluster().psql("seeded", version),
            "{from}"
        );
    }
}

#[test]
fn a_plain_dump_that_is_cut_off_or_runs_programs_changes_nothing() {
    let scene = Scene::wiped();
    let before = scene.target_dump();
    pg_dump(&scene, "their.sql", &[]);
    for (damage, said) in [
        ("head -c -3000 their.sql >bad.sql", "truncated: it ends in line"),
        (
            r"{ echo '\! touch ran'; cat their.sql; } >bad.sql",
            r"psql command \! in a dump; it was not run",
        ),
        (
            r"{ echo '\connect one'; echo '\connect two'; cat their.sql; } >bad.sql",
            "a second database, \"two\"",
        ),
        ("gzip -c their.sql | head -c 20000 >bad.sql", "amaged"),
    ] {
        scene.world.shell(damage).success();

        let ran = restore_from(&scene, "bad.sql").args(["--accept-unproven"]).run();

        assert_failed(&ran, 65, said);
        assert!(!scene.world.path("ran").exists());
        assert_eq!(scene.target_dump(), before, "{damage}");
    }
}

#[test]
fn without_a_manifest_or_a_source_nothing_is_loaded_unless_a_person_accepts_it() {
    let scene = Scene::wiped();
    pg_dump(&scene, "their.dump", &["-Fc"]);
    let before = scene.target_dump();

    assert_failed(
        &restore_from(&scene, "their.dump").run(),
        1,
        "nothing shows what this dump should contain",
    );
    let gone = restore_from(&scene, "their.dump").args(["--source", "postgresql://synapse@127.0.0.1:9/x"]);
    assert_failed(
        &gone.run(),
        1,
        "nothing shows what this dump should contain: it has no manifest, and cannot connect",
    );
    assert_eq!(scene.target_dump(), before);

    let ran = restore_from(&scene, "their.dump")
        .args(["--accept-unproven"])
        .run()
        .success();
    assert_eq!(ran.json()["restore"]["proven_against"], "nothing");
    // It is also unknown whether a Synapse ran when the dump was taken.
    assert_eq!(ran.json()["restore"]["one_time_keys"]["kept"], false);
    let reason = "one-time keys left out: it is unknown whether the source was in use";
    assert!(ran.stderr.contains(reason), "{ran}");
    assert_eq!(scene.on_target("SELECT count(*) FROM e2e_one_time_keys_json"), "0");
    assert!(ran.stderr.contains("accepted without proof"), "{ran}");
    let version = "SELECT version, upgraded, compat_version FROM schema_version, schema_compat_version";
    assert_eq!(scene.on_target(version), source_cluster().psql("seeded", version));
}

#[test]
fn a_dump_that_is_not_of_the_named_source_leaves_the_fence_standing() {
    let mut scene = Scene::dumped();
    // A wipe that names no source.
    scene.wipe(Stdin::Null).success();
    let other = Scene::new();
    pg_dump(&scene, "their.dump", &["-Fc"]);
    other.on_source("UPDATE profiles SET displayname = 'somebody else' WHERE user_id = 'alice'");
    scene.source.name.clone_from(&other.source.name);

    let ran = restore_from(&scene, "their.dump")
        .args(["--source", &scene.source_url()])
        .run();

    assert_failed(&ran, 1, "table public.profiles has different contents in its ");
    assert!(scene.is_fenced());
}

#[test]
fn what_belongs_to_the_sources_server_is_left_out_and_listed() {
    let scene = Scene::new();
    scene.wipe(Stdin::Null).success();
    scene.on_source(
        "CREATE FUNCTION audit() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
         CREATE EVENT TRIGGER watch ON ddl_command_end EXECUTE FUNCTION audit();
         CREATE PUBLICATION pub FOR TABLE users; CREATE EXTENSION pg_trgm;
         COMMENT ON EXTENSION pg_trgm IS 'theirs'; CREATE ROLE reader_of_one;
         GRANT SELECT ON users TO reader_of_one;
         COMMENT ON TABLE users IS 'kept'",
    );
    pg_dump(&scene, "their.dump", &["-Fc"]);

    let ran = restore_from(&scene, "their.dump")
        .args(["--accept-unproven"])
        .run()
        .success();

    let dropped: Vec<String> = ran.json()["restore"]["dropped"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            format!(
                "{} ({})",
                entry["entry"].as_str().unwrap(),
                entry["reason"].as_str().unwrap()
            )
        })
        .collect();
    insta::assert_snapshot!(dropped.join("\n"), @r"
    EXTENSION - pg_trgm (the target has its own extensions)
    COMMENT - EXTENSION pg_trgm (a comment on an object that the target's role does not own)
    ACL public TABLE users synapse (privileges are not carried)
    PUBLICATION - pub postgres (replication has to be set up again)
    PUBLICATION TABLE public pub users postgres (replication has to be set up again)
    EVENT TRIGGER - watch postgres (event triggers need a superuser)
    TABLE DATA public e2e_one_time_keys_json (it is unknown whether the source was in use, and a key that is handed out twice makes messages unreadable; clients upload new ones)
    ");
    assert_eq!(scene.on_target("SELECT obj_description('users'::regclass)"), "kept");
    source_cluster().psql(
        &scene.source.name,
        "DROP OWNED BY reader_of_one; DROP ROLE reader_of_one",
    );
}

#[test]
fn a_custom_archive_that_ends_early_leaves_the_fence_standing() {
    let scene = Scene::wiped();
    pg_dump(&scene, "their.dump", &["-Fc", "-Z0"]);
    let size = fs::metadata(scene.world.path("their.dump")).unwrap().len();
    scene
        .world
        .shell(&format!("truncate -s {} their.dump", size * 3 / 4))
        .success();

    let ran = restore_from(&scene, "their.dump").args(["--accept-unproven"]).run();

    assert!(matches!(ran.status.code(), Some(65 | 69)), "{ran}");
    assert!(ran.stderr.contains("re-run the same command"), "{ran}");
    assert!(scene.is_fenced());
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

#[test]
fn a_file_that_is_not_a_dump_is_refused() {
    let scene = Scene::wiped();
    scene.world.write("dir/file", "x");
    scene.world.write("empty.sql", "");
    scene.world.write("page.html", "<html>503</html>");

    for (from, status) in [("missing", 74), ("dir", 65), ("empty.sql", 65), ("page.html", 65)] {
        let ran = restore_from(&scene, from).args(["--accept-unproven"]).run();
        assert_failed(&ran, status, from);
        assert!(ran.stderr.contains("\nhint: "), "{ran}");
    }
    assert!(scene.is_fenced());
}

#[test]
fn a_dump_of_a_running_source_brings_no_one_time_keys_back() {
    let scene = Scene::new();
    // Fallback keys, which can be handed out repeatedly.
    scene.on_source(
        "INSERT INTO e2e_fallback_keys_json (user_id, device_id, algorithm, key_id, key_json, used) \
         VALUES ('@alice:example.org', 'D', 'signed_curve25519', 'AAAAFA', '{}', true)",
    );
    let visitor = Visitor::new(source_cluster(), &scene.source.name, "synapse");
    let dumped = scene.dumper().args(["--allow-running"]).run().success();
    drop(visitor);
    let why =
        "one-time keys left out: the source was in use, and a key that is handed out twice makes messages unreadable";
    assert!(dumped.stderr.contains(why), "{dumped}");
    let refused = scene.wipe(dumped.stdout.as_str());
    assert_failed(&refused, 1, "the dump was taken while the source was in use");
    let wipe = scene.tool("ess-wipe").args(&scene.target_args()[1..]);
    let wiped = wipe
        .args(["--export", "export", "--allow-running-source", "--execute", "--confirm"])
        .args([scene.confirmation()])
        .stdin(dumped.stdout.as_str())
        .run()
        .success();

    let restore = || scene.tool("restore").stdin(wiped.stdout.as_str());
    let proven = restore().run();
    assert_eq!(proven.status.code(), Some(1), "{proven}");
    assert_eq!(proven.json()["restore"]["fence"], "standing");
    assert!(scene.is_fenced(), "a proof of a live server's dump is no migration");
    let restored = restore().args(["--allow-running-source"]).run().success();

    let verified = scene.tool("verify").stdin(restored.stdout.as_str()).run().success();
    for (ran, section) in [(&dumped, "dump"), (&restored, "restore"), (&verified, "verify")] {
        assert!(ran.stderr.contains(why), "{ran}");
        assert_eq!(ran.json()[section]["one_time_keys"]["kept"], false);
    }
    let keys = "SELECT count(*) FROM e2e_one_time_keys_json";
    assert_eq!(
        (scene.on_source(keys), scene.on_target(keys)),
        (seeded().one_time_keys.to_string(), "0".to_owned())
    );
    let fallback = "SELECT * FROM e2e_fallback_keys_json";
    assert_eq!(scene.on_target(fallback), scene.on_source(fallback));
    let synapse = Synapse::new(&scene.world, "ess", &scene.target_database(), &Identity::old());
    synapse.start();
    // A count of zero makes the client upload new keys.
    assert_eq!(seeded().one_time_keys_on(&synapse), 0);
    synapse.stop();

    // The proof must also detect keys that arrived in another way.
    scene.on_target(
        "INSERT INTO e2e_one_time_keys_json (user_id, device_id, algorithm, key_id, ts_added_ms, key_json) \
         VALUES ('@alice:example.org', 'D', 'signed_curve25519', 'AAAAAQ', 1, '{}')",
    );
    let again = scene.tool("verify").stdin(restored.stdout.as_str()).run();
    let difference = "table public.e2e_one_time_keys_json contains rows, although one-time keys are not carried";
    assert!(again.stderr.contains(difference), "{again}");
}

#[test]
fn a_dump_taken_after_a_clean_stop_keeps_one_time_keys_and_reports_why() {
    let scene = Scene::new();
    let dumped = scene.dump().success();
    let wiped = scene.wipe(dumped.stdout.as_str()).success();

    let restored = scene.tool("restore").stdin(wiped.stdout.as_str()).run().success();

    let verified = scene.tool("verify").stdin(restored.stdout.as_str()).run().success();
    for (ran, section) in [(&dumped, "dump"), (&restored, "restore"), (&verified, "verify")] {
        let why = "one-time keys kept: no other session used the source during the dump";
        assert!(ran.stderr.contains(why), "{ran}");
        assert_eq!(ran.json()[section]["one_time_keys"]["kept"], true);
    }
    let keys = "SELECT * FROM e2e_one_time_keys_json ORDER BY key_id";
    assert_eq!(scene.on_target(keys), scene.on_source(keys));
}

#[test]
fn a_dump_of_another_program_keeps_the_one_time_keys_of_the_stopped_source() {
    let scene = Scene::wiped();
    pg_dump(&scene, "their.dump", &["-Fc"]);

    let ran = restore_from(&scene, "their.dump")
        .args(["--source", &scene.source_url()])
        .run()
        .success();

    assert_eq!(ran.json()["restore"]["one_time_keys"]["kept"], true);
    assert_eq!(
        scene.on_target("SELECT count(*) FROM e2e_one_time_keys_json"),
        seeded().one_time_keys.to_string()
    );
}
