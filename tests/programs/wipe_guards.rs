//! ess-wipe refuses to erase a database with unknown content, or for a dump that is missing or damaged.

use crate::support::{
    Scene, Stdin, Visitor, assert_failed, target_cluster, undo_from_export, wait_for_a_waiter, wait_until,
};

#[test]
fn nothing_is_erased_before_the_dump_of_the_document_is_here_and_whole() {
    let scene = Scene::new();
    let dumped = scene.dump().success().stdout;
    let before = scene.target_dump();
    let largest = "$(ls -S export/dump/data/*.dat* | head -1)";
    for (damage, status, said) in [
        (
            "rm -r export/dump".to_owned(),
            74,
            "nothing was erased: cannot read the dump",
        ),
        (
            format!("F={largest}; printf X | dd of=$F bs=1 seek=100 conv=notrunc"),
            65,
            "does not match its SHA-256",
        ),
        (
            // Damage with unchanged size and mtime, as from a restored backup or a faulty disk.
            format!("F={largest}; touch -r $F ref; printf X | dd of=$F bs=1 seek=100 conv=notrunc; touch -r ref $F"),
            65,
            "does not match its SHA-256",
        ),
        (format!("truncate -s -1 {largest}"), 65, "bytes, the manifest records"),
        (format!("rm {largest}"), 65, "is missing"),
        (
            "printf X | dd of=export/dump/manifest.json bs=1 seek=100 conv=notrunc".to_owned(),
            65,
            "manifest",
        ),
        (
            r#"sed -i 's/"pg_dump_version":"/&1/; s/,"seal":"[0-9a-f]*"//' export/dump/manifest.json"#.to_owned(),
            65,
            "is not the one in the document",
        ),
    ] {
        scene.world.shell("rm -rf kept; cp -a export/dump kept").success();
        scene.world.shell(&damage).success();

        let ran = scene.wipe(dumped.as_str());

        assert_failed(&ran, status, said);
        assert!(ran.stderr.contains("nothing was erased"), "{ran}");
        assert_eq!(scene.target_dump(), before, "{damage}");
        scene.world.shell("rm -rf export/dump; mv kept export/dump").success();
    }
    // A complete copy is accepted, and is read again.
    scene.wipe(dumped.as_str()).success();
}

#[test]
fn tables_that_are_not_synapses_are_refused_unless_they_are_named() {
    let scene = Scene::dumped();
    scene.on_target(
        "SET ROLE synapse_user; CREATE TABLE portal (mxid text); CREATE SCHEMA bridge; CREATE TABLE bridge.puppet (id int)",
    );
    let before = scene.target_dump();
    let confirm = scene.confirmation();
    let wipe = |more: &[&str]| {
        scene
            .wiper()
            .args(["--execute", "--confirm", &confirm])
            .args(more)
            .run()
    };

    assert_failed(
        &wipe(&[]),
        1,
        "the target contains 2 tables that are not Synapse's: bridge.puppet, public.portal",
    );
    assert_failed(
        &wipe(&["--also-erase", "public.portal"]),
        1,
        "the target contains 1 table that is not Synapse's: bridge.puppet",
    );
    assert_eq!(scene.target_dump(), before);

    let ran = wipe(&["--also-erase", "public.portal", "--also-erase", "bridge.puppet"]).success();
    assert!(
        ran.json()["wipe"]["overrides"].to_string().contains("--also-erase"),
        "{ran}"
    );
    assert!(scene.is_fenced());
}

#[test]
fn a_database_without_synapses_tables_is_not_called_unused() {
    let scene = Scene::dumped();
    scene.on_target("DROP SCHEMA public CASCADE; CREATE SCHEMA public; GRANT ALL ON SCHEMA public TO synapse_user; SET ROLE synapse_user; CREATE TABLE orders (id int)");
    let before = scene.target_dump();

    let ran = scene.wipe(Stdin::Null);

    assert_failed(
        &ran,
        1,
        "the target contains none of Synapse's tables, but 1 table that is not Synapse's: public.orders",
    );
    assert_eq!(scene.target_dump(), before);
}

#[test]
fn synapses_tables_in_another_schema_are_found_and_refused() {
    let scene = Scene::dumped();
    scene.on_target(
        "ALTER SCHEMA public RENAME TO matrix; CREATE SCHEMA public; GRANT ALL ON SCHEMA public TO synapse_user",
    );
    let before = scene.target_dump();

    let ran = scene.wipe(Stdin::Null);

    assert_failed(
        &ran,
        1,
        "Synapse's tables are in schema matrix of the target, not in public",
    );
    assert_eq!(scene.target_dump(), before);
}

#[test]
fn a_search_path_that_leads_past_public_is_refused() {
    let scene = Scene::dumped();
    let target = &scene.target;
    scene.on_target(&format!(
        "CREATE SCHEMA elsewhere; GRANT ALL ON SCHEMA elsewhere TO synapse_user;
         ALTER ROLE synapse_user IN DATABASE {target} SET search_path = elsewhere"
    ));
    let before = scene.target_dump();

    let ran = scene.wipe(Stdin::Null);

    assert_failed(
        &ran,
        1,
        "the search_path of role synapse_user on the target is elsewhere",
    );
    assert_eq!(scene.target_dump(), before);
}

#[test]
fn a_source_whose_tables_are_not_in_public_is_refused_at_the_dump() {
    let scene = Scene::new();
    scene.on_source("ALTER SCHEMA public RENAME TO matrix; CREATE SCHEMA public");

    let ran = scene.dump();

    assert_failed(
        &ran,
        1,
        "Synapse's tables are in schema matrix of the source, not in public",
    );
    assert!(!scene.world.path("export/dump").exists());
}

#[test]
fn a_dump_is_not_a_backup() {
    let scene = Scene::dumped();
    let before = scene.target_dump();
    scene
        .tool("pgdump-wrap")
        .args([
            "-n",
            "--source",
            &scene.target_url(),
            "--source-password-file",
            "target.pw",
        ])
        .args(["--out", "export/ess-before-wipe"])
        .run()
        .success();

    let ran = scene.wipe(Stdin::Null);

    assert_failed(&ran, 1, "it is a dump made by pgdump-wrap, which --undo cannot load");
    assert_eq!(scene.target_dump(), before);
}

#[test]
fn a_fence_that_falls_while_the_wipe_waits_keeps_what_is_behind_it() {
    let scene = Scene::wiped();
    scene.on_target("SET ROLE synapse_user; CREATE TABLE profiles (name text); INSERT INTO profiles VALUES ('alice')");
    // An administrator puts version rows back by hand, after the checks and before the wipe.
    let mut admin = Visitor::named(target_cluster(), &scene.target, "postgres", "ess-migrate/psql/live");
    admin.types("BEGIN; LOCK TABLE profiles IN SHARE MODE;");
    let held =
        "SELECT count(*) > 0 FROM pg_locks WHERE relation = 'profiles'::regclass AND mode = 'ShareLock' AND granted";
    wait_until("it is held", || scene.on_target(held) == "t");
    let wipe = scene.wiper().args(["--execute", "--confirm", &scene.confirmation()]);
    let running = wipe.args(["--allow-other-migration"]).start();
    wait_for_a_waiter(target_cluster(), &scene.target, "ess-migrate/ess-wipe");
    admin
        .types("UPDATE schema_version SET version = 94; UPDATE schema_compat_version SET compat_version = 84; COMMIT;");

    let ran = running.wait();

    assert_ne!(ran.status.code(), Some(0), "{ran}");
    assert!(ran.stderr.contains("nothing was erased"), "{ran}");
    assert!(ran.stderr.contains("the fence is no longer complete"), "{ran}");
    assert_eq!(scene.on_target("SELECT name FROM profiles"), "alice");
}

#[test]
fn a_database_without_version_rows_comes_back_as_it_was() {
    let scene = Scene::dumped();
    scene.on_target("DROP TABLE schema_version, schema_compat_version");
    let before = scene.target_dump();
    scene.wipe(Stdin::Null).success();
    assert!(scene.is_fenced());

    undo_from_export(&scene, &["--execute", "--confirm", &scene.confirmation()]).success();

    assert_eq!(scene.target_dump(), before);
}

#[test]
fn a_user_without_a_name_does_not_stop_the_guards() {
    let scene = Scene::dumped();
    scene.on_target("INSERT INTO users (name) VALUES (NULL)");

    scene.wipe(Stdin::Null).success();
}

#[test]
fn a_role_whose_rights_are_not_inherited_is_refused() {
    let scene = Scene::dumped();
    let before = scene.target_dump();
    target_cluster().psql(
        "postgres",
        "DO $$ BEGIN CREATE ROLE not_inheriting LOGIN NOINHERIT PASSWORD 'pw'; GRANT synapse_user TO not_inheriting;
         EXCEPTION WHEN duplicate_object THEN NULL; END $$",
    );
    scene.world.write("other.pw", "pw\n");
    let url = target_cluster().url(&scene.target, "not_inheriting");
    let wipe = scene
        .tool("ess-wipe")
        .args([
            "-n",
            "--target",
            &url,
            "--target-password-file",
            "other.pw",
            "--role",
            "synapse_user",
        ])
        .args(["--export", "export", "--server-name", "example.org"])
        .args(["--execute", "--confirm", &scene.confirmation()]);

    assert_failed(&wipe.run(), 77, "but does not inherit its privileges");
    assert_eq!(scene.target_dump(), before);
}

#[test]
fn the_source_of_the_dump_is_never_the_target_whatever_the_document_leaves_out() {
    let scene = Scene::new();
    let document = scene.dump().success().json();
    let mut silent = document.clone();
    silent
        .as_object_mut()
        .unwrap()
        .retain(|section, _| !["source", "target"].contains(&section.as_str()));
    let dumped = silent.to_string();
    scene.on_source("INSERT INTO profiles (user_id, full_user_id) VALUES ('zed', '@zed:example.org')");
    let source = scene.source_url();

    for moved in [true, false] {
        if !moved {
            scene.on_source("DELETE FROM profiles WHERE user_id = 'zed'");
        }
        let ran = scene
            .tool("ess-wipe")
            .args(["--target", &source, "--backup", "backup", "--execute", "--confirm"])
            .args([format!("example.org/{}", scene.source.name)])
            .stdin(dumped.as_str())
            .run();
        assert_failed(&ran, 1, "source and target are the same database");
    }
    let mut edited = document;
    edited["source"]["identity"]["database"] = "other".into();
    let ran = scene.wipe(edited.to_string().as_str());
    assert_failed(&ran, 65, "but the document's source is");
}

#[test]
fn tables_of_others_behind_a_fence_are_refused_by_name() {
    let scene = Scene::new();
    let dumped = scene.dump().success().stdout;
    let wiped = scene.wipe(dumped.as_str()).success().stdout;
    scene.on_target("SET ROLE synapse_user; CREATE SCHEMA app; CREATE TABLE app.orders AS SELECT 1 AS x");
    let stays = |ran: &crate::support::Ran| {
        assert_eq!(ran.status.code(), Some(1), "{ran}");
        assert!(ran.stderr.contains("app.orders"), "{ran}");
        assert_eq!(scene.on_target("SELECT x FROM app.orders"), "1");
    };

    stays(&scene.tool("restore").stdin(wiped.as_str()).run());
    stays(&scene.wipe(dumped.as_str()));
    stays(&undo_from_export(
        &scene,
        &["--execute", "--confirm", &scene.confirmation()],
    ));

    scene.on_target("DROP SCHEMA app CASCADE");
    scene.tool("restore").stdin(wiped.as_str()).run().success();
}

#[test]
fn what_a_backup_could_not_bring_back_is_refused_before_the_wipe() {
    let scene = Scene::dumped();
    let refused = |said: &str| {
        let before = scene.target_dump();
        assert_failed(&scene.wipe(Stdin::Null), 1, said);
        assert_eq!(scene.target_dump(), before);
    };
    for attributes in [
        "LEAKPROOF",
        "SET log_statement = 'none'",
        "SUPPORT pg_catalog.textlike_support",
    ] {
        scene.on_target(&format!(
            "CREATE FUNCTION odd(int) RETURNS bool IMMUTABLE LANGUAGE sql {attributes} AS 'SELECT true';
             ALTER FUNCTION odd OWNER TO synapse_user"
        ));
        refused(
            "the target could not be brought back from a backup: loading it would need right SUPERUSER for function \
             public.odd",
        );
        scene.on_target("DROP FUNCTION odd");
    }
    scene.on_target(
        "CREATE FUNCTION noop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
         CREATE TRIGGER odd BEFORE INSERT ON schema_version FOR EACH ROW EXECUTE FUNCTION noop(); ALTER FUNCTION noop OWNER TO synapse_user",
    );
    refused(
        "the target could not be brought back from a backup: public.schema_version is not a plain table, or has a \
         rule, trigger",
    );
    scene.on_target("DROP FUNCTION noop CASCADE");
    scene.on_target(
        "ALTER TABLE schema_version DROP CONSTRAINT schema_version_lock_key, DROP CONSTRAINT schema_version_lock_check;
         INSERT INTO schema_version (lock, version, upgraded) VALUES ('Y', 1, true)",
    );
    refused(
        "the target could not be brought back from a backup: public.schema_version contains rows that Synapse never \
         writes",
    );
}

#[test]
fn an_ess_whose_first_start_was_cut_off_comes_back_as_it_was() {
    let scene = Scene::dumped();
    scene.on_target("DELETE FROM schema_version");
    let before = scene.target_dump();
    scene.wipe(Stdin::Null).success();

    undo_from_export(&scene, &["--execute", "--confirm", &scene.confirmation()]).success();

    assert_eq!(scene.target_dump(), before);
}

#[test]
fn the_dump_alone_names_the_homeserver_to_which_it_belongs() {
    let scene = Scene::new();
    let dumped = scene
        .tool("pgdump-wrap")
        .args(["-n", "--source", &scene.source_url(), "--export", "export"])
        .run()
        .success();
    assert_eq!(dumped.json()["source"]["server_name"], "example.org");
    scene.on_target("UPDATE users SET name = '@ess-test:other.org'");
    let target = scene.target_args();

    let ran = scene
        .tool("ess-wipe")
        .args(&target[1..])
        .args(["--execute", "--confirm"])
        .args([format!("other.org/{}", scene.target)])
        .stdin(dumped.stdout.as_str())
        .run();

    assert_failed(&ran, 1, "the target serves other.org, not example.org");
}

#[test]
fn a_role_that_may_create_nothing_is_refused_before_the_backup() {
    let scene = Scene::dumped();
    scene.on_target("ALTER SCHEMA public OWNER TO postgres; REVOKE CREATE ON SCHEMA public FROM PUBLIC, synapse_user");

    let ran = scene.wipe(Stdin::Null);

    assert_failed(&ran, 77, "cannot create objects in the target's schema public");
    assert!(!scene.world.path("export/ess-before-wipe").exists());
}

#[test]
fn an_export_that_cannot_be_written_is_refused_before_anything_is_loaded() {
    let scene = Scene::new();
    let dumped = scene.dump().success().stdout;
    let wiped = scene.wipe(dumped.as_str()).success().stdout;
    scene.world.shell("chmod 500 export/documents").success();

    let ran = scene.tool("restore").stdin(wiped.as_str()).run();

    assert_failed(&ran, 77, "this user cannot write to ");
    assert!(scene.is_fenced());
    scene.world.shell("chmod 700 export/documents").success();
    scene.tool("restore").stdin(wiped.as_str()).run().success();
}
