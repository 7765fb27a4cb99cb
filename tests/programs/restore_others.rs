//! restore of dumps of other programs: they are proven against the source, and nothing in them runs or is guessed.

use std::fs;

use crate::support::dumps::{COUNTS, pg_dump, restore_from};
use crate::support::{Scene, Stdin, assert_failed, source_cluster};

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
