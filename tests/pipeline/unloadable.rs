//! What no restore could load, or the target lacks: it is refused before the dump and before the wipe.

use crate::support::findings::fires;
use crate::support::{Cluster, Ran, Scene, assert_failed, code, names_in, source_cluster, target_cluster};

/// Runs preflight on the source and the target.
fn looked(scene: &Scene) -> Ran {
    let source = scene.source_url();
    let call = scene.tool("preflight").args(["-n", "--source", &source]);
    call.args(&scene.target_args()[1..]).run()
}

#[test]
fn what_the_target_lacks_is_refused_before_the_wipe() {
    let scene = Scene::new();
    source_cluster().psql(
        "postgres",
        "DO $$ BEGIN CREATE ROLE grafana; EXCEPTION WHEN duplicate_object THEN NULL; END $$",
    );
    scene.on_source("CREATE EXTENSION pg_trgm");
    scene.on_source("CREATE FUNCTION sealed(int) RETURNS int LEAKPROOF LANGUAGE sql AS 'SELECT 1'; ALTER FUNCTION sealed OWNER TO synapse");
    scene.as_synapse(
        "CREATE TABLE searched (a text); CREATE INDEX ON searched USING gin (a public.gin_trgm_ops);
         CREATE TABLE guarded (a int); ALTER TABLE guarded ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON guarded TO grafana USING (true)",
    );
    scene.dump().success();
    let before = scene.target_dump();
    let wipe = || {
        let mut dumped = names_in(&scene.world, "export/documents");
        dumped.retain(|name| name.ends_with("-pgdump-wrap.json"));
        let document = scene
            .world
            .read(&format!("export/documents/{}", dumped.last().unwrap()));
        scene.wipe(document.as_str())
    };
    let steps = [
        ("extension pg_trgm in schema public", "CREATE EXTENSION pg_trgm"),
        ("right SUPERUSER for function public.sealed(integer)", ""),
        ("role grafana", "CREATE ROLE grafana"),
    ];

    let ran = looked(&scene);
    for (need, _) in steps {
        assert!(
            ran.stderr
                .contains(&format!("the target lacks what the source's data need: {need}")),
            "{need} in {ran}"
        );
    }
    fires(&ran, &["blocker target-lacks"]);
    for (need, remedy) in steps {
        let ran = wipe();
        assert_failed(&ran, 1, &format!("the target lacks what the dump needs: {need}"));
        if remedy.is_empty() {
            scene.on_source("DROP FUNCTION sealed");
            scene.world.shell("rm -r export/dump").success();
            scene.dump().success();
        } else {
            scene.on_target(remedy);
        }
    }
    assert_eq!(
        scene.target_dump().contains("schema_version"),
        before.contains("schema_version")
    );
    wipe().success();
    scene.restore().run().success();
    target_cluster().psql(
        "postgres",
        &format!(
            "DROP OWNED BY grafana; DROP DATABASE \"{}\" WITH (FORCE); DROP ROLE grafana",
            scene.target
        ),
    );
}

/// Checks the findings of preflight after a change of the source, which pgdump-wrap refuses too.
#[track_caller]
fn refused(scene: &Scene, make: &str, said: &str, unmake: &str) -> Ran {
    scene.on_source(&format!(
        "SET allow_system_table_mods = on; {make};
         DO $$ DECLARE t regclass; BEGIN
             FOR t IN SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relowner = 10
             LOOP EXECUTE 'ALTER TABLE ' || t || ' OWNER TO synapse'; END LOOP;
         END $$"
    ));
    let looked = looked(scene);
    assert!(looked.stderr.contains(said), "{said:?} is not in {looked}");
    let ran = scene.dump();
    assert!([1, 77].contains(&code(&ran)), "{ran}");
    assert!(
        ran.stderr.contains(said) && ran.stderr.contains("hint: "),
        "{said:?} is not in {ran}"
    );
    assert!(
        !ran.stderr.contains("secret") && !looked.stderr.contains("secret'"),
        "{ran}"
    );
    assert!(!scene.world.path("export/dump").exists(), "{ran}");
    scene.on_source(unmake);
    looked
}

#[test]
fn a_source_that_no_restore_could_load_is_refused_before_the_dump() {
    let scene = Scene::new();
    let ran = refused(
        &scene,
        "CREATE TABLE twice (a text); CREATE UNIQUE INDEX twice_key ON twice (a);
         UPDATE pg_index SET indisunique = false WHERE indexrelid = 'twice_key'::regclass;
         INSERT INTO twice VALUES ('secret'), ('secret'), ('once');
         UPDATE pg_index SET indisunique = true WHERE indexrelid = 'twice_key'::regclass",
        "unique index public.twice_key of table public.twice: duplicate rows exist for 1 key",
        "DROP TABLE twice",
    );
    fires(&ran, &["blocker duplicates"]);
    let ran = refused(
        &scene,
        "CREATE TABLE parent (a int PRIMARY KEY); CREATE TABLE child (a int CONSTRAINT of_parent REFERENCES parent);
         SET session_replication_role = replica; INSERT INTO child VALUES (7)",
        "foreign key of_parent of table public.child: 1 row without a matching row in public.parent",
        "DROP TABLE child, parent",
    );
    fires(&ran, &["blocker orphans"]);
    let ran = refused(
        &scene,
        "CREATE TABLE bounded (a int); INSERT INTO bounded VALUES (-1);
         ALTER TABLE bounded ADD CONSTRAINT positive CHECK (a > 0) NOT VALID;
         UPDATE pg_constraint SET convalidated = true WHERE conname = 'positive'",
        "violated by 1 row",
        "DROP TABLE bounded",
    );
    fires(&ran, &["blocker unsound-rows"]);
    let ran = refused(
        &scene,
        "CREATE FUNCTION helper(t text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT t';
         CREATE FUNCTION norm(t text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN helper(t); END';
         CREATE TABLE normal (a text, b text GENERATED ALWAYS AS (norm(a)) STORED); INSERT INTO normal VALUES ('x')",
        "generated column b",
        "DROP TABLE normal; DROP FUNCTION norm; DROP FUNCTION helper",
    );
    fires(&ran, &["blocker unsound-rows"]);
    let ran = refused(
        &scene,
        "CREATE EXTENSION postgres_fdw; CREATE SERVER other FOREIGN DATA WRAPPER postgres_fdw;
         CREATE FOREIGN TABLE elsewhere (a int) SERVER other; CREATE VIEW there AS SELECT * FROM elsewhere",
        "rule _RETURN on view public.there needs foreign table public.elsewhere",
        "DROP EXTENSION postgres_fdw CASCADE",
    );
    fires(&ran, &["blocker source-parts", "info left-behind"]);
    let ran = refused(
        &scene,
        "CREATE TABLE forced (a int); ALTER TABLE forced OWNER TO synapse; ALTER TABLE forced ENABLE ROW LEVEL SECURITY;
         ALTER TABLE forced FORCE ROW LEVEL SECURITY",
        "public.forced",
        "DROP TABLE forced",
    );
    fires(&ran, &["blocker source-unreadable"]);
    scene.dump().success();
}

#[test]
fn a_source_of_no_encoding_is_refused_with_the_column_that_is_not_utf8() {
    let scene = Scene::new();
    let name = format!("ascii-{}", scene.source.name);
    let create = format!(
        "CREATE DATABASE \"{name}\" ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0 OWNER synapse"
    );
    source_cluster().psql("postgres", &create);
    source_cluster().psql_as(
        "synapse",
        &name,
        "CREATE TABLE whole (a text); INSERT INTO whole VALUES ('plain');
         CREATE TABLE broken (n int, ok text, \"Bad\" varchar(9)); INSERT INTO broken VALUES (1, 'x', E'\\xff')",
    );
    let url = source_cluster().url(&name, "synapse");
    let said = "the source's encoding is SQL_ASCII, and Synapse needs UTF8; column Bad of table public.broken contains bytes that are not UTF-8";

    let dump = scene
        .tool("pgdump-wrap")
        .args(["-n", "--source", &url, "--out", "dump"])
        .run();
    let looked = scene.tool("preflight").args(["-n", "--source", &url]).run();

    assert_failed(&dump, 1, said);
    assert!(looked.stderr.contains(said), "{looked}");
    fires(&looked, &["blocker source-encoding"]);
}

#[test]
fn a_target_that_icu_sorts_is_refused_although_its_collation_is_c() {
    let scene = Scene::dumped();
    let name = format!("{}_icu", scene.target);
    target_cluster().psql(
        "postgres",
        &format!("CREATE DATABASE {name} ENCODING 'UTF8' LOCALE 'C' LOCALE_PROVIDER icu ICU_LOCALE 'en-US' TEMPLATE template0 OWNER synapse_user"),
    );
    let target = target_cluster().url(&name, "synapse_user");
    let args = ["-n", "--target", &target, "--target-password-file", "target.pw"];
    let said = "UTF8/C/C, sorted by ICU, but Synapse requires UTF8/C/C";

    let look = scene.tool("preflight").args(args).run();
    let wipe = scene
        .tool("ess-wipe")
        .args(args)
        .args(["--server-name", "example.org"])
        .run();
    let restore = scene.tool("restore").args(args).args(["--from", "export/dump"]).run();

    assert!(look.stderr.contains(said), "{look}");
    fires(&look, &["blocker target-locale"]);
    for ran in [&wipe, &restore] {
        assert_failed(ran, 1, said);
    }
}

#[test]
fn a_source_of_more_tables_than_its_server_can_lock_is_refused_with_the_number_to_set() {
    let scene = Scene::new();
    let cluster = Cluster::new(&scene.world, "many");
    cluster.create_role("app", "pw");
    cluster.load_synapse("many", "app");
    cluster.psql_as(
        "app",
        "many",
        "DO $$ BEGIN FOR n IN 1..300 LOOP EXECUTE 'CREATE TABLE t' || n || ' (a int)'; END LOOP; END $$",
    );
    for setting in [
        "max_locks_per_transaction = 10",
        "max_connections = 20",
        "max_wal_senders = 0",
    ] {
        cluster.psql("postgres", &format!("ALTER SYSTEM SET {setting}"));
    }
    cluster.stop();
    cluster.start();
    scene.world.write(
        "pgpass",
        format!("*:*:*:app:pw\n*:*:*:synapse_user:{}\n", crate::support::ESS_PASSWORD),
    );
    let url = cluster.url("many", "app");
    let dump = || {
        scene
            .tool("pgdump-wrap")
            .args(["-n", "--source", &url, "--out", "dump"])
            .run()
    };

    let ran = dump();

    assert_failed(&ran, 1, "locks, but a dump needs about ");
    let (_, rest) = ran.stderr.split_once("set max_locks_per_transaction to ").unwrap();
    let wanted: u32 = rest.split(' ').next().unwrap().parse().unwrap();
    fires(
        &scene.tool("preflight").args(["-n", "--source", &url]).run(),
        &["blocker source-locks"],
    );
    cluster.psql(
        "postgres",
        &format!("ALTER SYSTEM SET max_locks_per_transaction = {wanted}"),
    );
    cluster.stop();
    cluster.start();
    dump().success();
}
