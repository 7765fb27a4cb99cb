//! Sources that Synapse would never create: everything in them is moved and proven equal, or refused by name.

use crate::support::{Ran, Scene, Stdin, assert_failed, source_cluster, target_cluster};

/// Runs the pipeline, without `verify`.
fn moved(scene: &Scene) -> Ran {
    let dumped = scene.dump().success();
    let wiped = scene.wipe(dumped.stdout.as_str()).success();
    scene.tool("restore").stdin(wiped.stdout.as_str()).run()
}

/// Fails unless a query has the same result on source and target.
#[track_caller]
fn assert_same(scene: &Scene, sql: &str) {
    let source = scene.on_source(sql);
    assert!(!source.is_empty(), "{sql}");
    assert_eq!(scene.on_target(sql), source, "{sql}");
}

#[test]
fn names_that_need_care_wherever_they_are_written_arrive() {
    let scene = Scene::new();
    let names = [
        "quo\"te",
        "it's",
        "new\nline",
        "tab\tand\rreturn",
        "50% %s %I %L %n",
        "back\\slash \\. \\N",
        "; DROP TABLE users; --",
        "$$ $1 :name ?",
        "users x",
        "schema_version x",
        "r",
        "UPPER lower",
        "-- Name: x; Type: TABLE",
        &("ü".repeat(31) + "x"),
        "select",
        " ",
    ];
    let sql = |make: &dyn Fn(&str, usize) -> String| -> String {
        let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
        let each = names
            .iter()
            .enumerate()
            .map(|(number, name)| make(&quoted(name), number));
        each.collect()
    };
    scene.on_source("SET ROLE synapse; CREATE SCHEMA \"public x\"; CREATE SCHEMA \"Extra % \"\"schema\"\"\"");
    for schema in ["public", "\"public x\"", "\"Extra % \"\"schema\"\"\""] {
        scene.on_source(&sql(&|name, number| {
            let start = number + 7;
            format!(
                "SET ROLE synapse;
                 CREATE TABLE {schema}.{name} ({name} text PRIMARY KEY, n int CHECK (n > 0));
                 INSERT INTO {schema}.{name} SELECT 'row ' || n || e'\\\\.\\n\\t', n FROM generate_series(1, {number} + 1) n;
                 CREATE SEQUENCE {schema}.\"seq{number} %\" START {start};
                 CREATE INDEX \"index {number} %s\" ON {schema}.{name} (n);
                 COMMENT ON TABLE {schema}.{name} IS 'it''s \"odd\"; -- \\.';\n"
            )
        }));
    }

    moved(&scene).success();

    scene.verify().run().success();
    for schema in ["public", "\"public x\"", "\"Extra % \"\"schema\"\"\""] {
        let queries = sql(&|name, _| {
            format!(
                "SELECT count(*), sum(hashtextextended({name} || n, 0)), obj_description('{schema}.{}'::regclass) FROM {schema}.{name};",
                name.replace('\'', "''")
            )
        });
        assert_same(&scene, &queries);
    }
    // None of them was treated as part of the fence, and a different row is still detected.
    scene.on_target("UPDATE \"schema_version x\" SET n = 8 WHERE n = 1");
    let ran = scene.verify().run();
    assert_eq!(ran.status.code(), Some(1));
    assert!(
        ran.stderr
            .contains("table public.schema_version x has different contents in its 10 rows"),
        "{ran}"
    );
}

#[test]
fn tables_of_every_shape_arrive() {
    let scene = Scene::new();
    scene.on_source(
        "SET ROLE synapse;
         CREATE TABLE empty (x int);
         CREATE TABLE nothing (); INSERT INTO nothing DEFAULT VALUES; INSERT INTO nothing DEFAULT VALUES;
         CREATE TABLE twins (x int, y text); INSERT INTO twins SELECT 1, NULL FROM generate_series(1, 5); INSERT INTO twins VALUES (NULL, '');
         CREATE TABLE dropped (a int, gone text, b int); INSERT INTO dropped VALUES (1, 'gone', 2);
         ALTER TABLE dropped DROP COLUMN gone; ALTER TABLE dropped ADD COLUMN late jsonb DEFAULT '{\"a\": 1.0}';
         CREATE TABLE made (a int, b int GENERATED ALWAYS AS (a * 2) STORED, id int GENERATED ALWAYS AS IDENTITY);
         INSERT INTO made (a) VALUES (3), (4);
         CREATE TYPE mood AS ENUM ('sad', 'it''s, ok'); CREATE DOMAIN word AS text CHECK (VALUE <> '');
         CREATE TYPE pair AS (a int, b text); CREATE TYPE span AS RANGE (subtype = int8);
         CREATE TABLE typed (m mood, w word, p pair, s span, n numeric, f float8, c char(5), j json, a int[], t timestamptz, i interval, v tsvector);
         INSERT INTO typed VALUES ('sad', 'w', '(1,x)', '[1,5)', 1.10, '-0', 'a ', '{\"k\" :  1}', '{{1,2},{3,4}}', now(), '1 mon', 'a:1 b:2'); INSERT INTO typed (m) VALUES ('it''s, ok');
         DO $$ BEGIN EXECUTE (SELECT 'CREATE TABLE wide (' || string_agg('c' || n || ' int DEFAULT ' || n % 7, ',') || ')' FROM generate_series(1, 1600) n); END $$;
         INSERT INTO wide DEFAULT VALUES;
         CREATE TABLE parent (k int, v text) PARTITION BY LIST (k);
         CREATE TABLE one PARTITION OF parent FOR VALUES IN (1); CREATE TABLE rest PARTITION OF parent DEFAULT;
         INSERT INTO parent VALUES (1, 'a'), (2, 'b'); CREATE INDEX ON parent (v);
         CREATE TABLE heir (extra int) INHERITS (twins); INSERT INTO heir VALUES (9, 'h', 1);
         CREATE UNLOGGED TABLE fast (x int); INSERT INTO fast VALUES (1);
         CREATE VIEW seen AS SELECT t.x, u.name FROM twins t JOIN users u ON true WHERE t.x > 0;
         CREATE MATERIALIZED VIEW kept AS SELECT count(*) AS n FROM users;
         CREATE RULE silent AS ON DELETE TO empty DO INSTEAD NOTHING;
         ALTER TABLE dropped ENABLE ROW LEVEL SECURITY; CREATE POLICY mine ON dropped USING (a > 0);
         CREATE STATISTICS pairs ON x, y FROM twins;
         CREATE UNIQUE INDEX part ON twins (x, (lower(y))) WHERE x > 1",
    );

    moved(&scene).success();

    scene.verify().run().success();
    for table in [
        "nothing", "twins", "dropped", "made", "typed", "wide", "parent", "heir", "seen", "kept", "fast",
    ] {
        assert_same(
            &scene,
            &format!("SELECT count(*), sum(hashtextextended(t::text, 0)) FROM {table} t"),
        );
    }
    scene.on_target("INSERT INTO made (a) VALUES (5)");
    assert_eq!(scene.on_target("SELECT b, id FROM made WHERE a = 5"), "10|3");
}

#[test]
fn large_objects_arrive_and_are_compared_by_what_is_in_them() {
    let scene = Scene::new();
    scene.on_source(
        "SET ROLE synapse; SELECT lo_from_bytea(4001, ''), lo_from_bytea(4002, decode(repeat('00ff', 1500000), 'hex')),
             lo_create(4003), lo_put(4003, 5000000, 'after a hole');
         COMMENT ON LARGE OBJECT 4001 IS 'empty'",
    );

    moved(&scene).success();

    scene.verify().run().success();
    assert_same(
        &scene,
        "SELECT oid, length(lo_get(oid)), md5(lo_get(oid)) FROM pg_largeobject_metadata ORDER BY 1",
    );
    // In the last chunk that is read.
    scene.on_target("SELECT lo_put(4002, 2999999, 'x')");
    let ran = scene.verify().run();
    assert_eq!(ran.status.code(), Some(1), "{ran}");
    assert!(ran.stderr.contains("missing: large objects 3 contents"), "{ran}");
}

#[test]
fn a_large_object_that_may_not_be_read_is_named() {
    let scene = Scene::new();
    scene.on_source("SELECT lo_create(4711), lo_create(4712); GRANT SELECT ON LARGE OBJECT 4712 TO synapse");

    assert_failed(&scene.dump(), 77, "role synapse cannot read large object 4711");

    assert!(!scene.world.path("export/dump").exists());
}

#[test]
fn functions_and_triggers_with_synapses_names_are_not_taken_for_them() {
    let scene = Scene::new();
    let function = scene.on_source(
        "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prorettype = 'trigger'::regtype ORDER BY 1 LIMIT 1",
    );
    let trigger = scene.on_source("SELECT tgname FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1 LIMIT 1");
    scene.on_source(&format!(
        "SET ROLE synapse; CREATE SCHEMA other;
         CREATE FUNCTION other.{function}() RETURNS trigger LANGUAGE plpgsql AS $x$ BEGIN NEW.n = 1; RETURN NEW; END $x$;
         CREATE FUNCTION public.{function}(int, text DEFAULT 'a;b') RETURNS int LANGUAGE sql AS 'SELECT $1';
         CREATE TABLE other.users (n int); CREATE TABLE other.schema_version (n int);
         CREATE TRIGGER {trigger} BEFORE INSERT ON other.users FOR EACH ROW EXECUTE FUNCTION other.{function}();
         ALTER TABLE other.users ENABLE ALWAYS TRIGGER {trigger};
         INSERT INTO other.users VALUES (7); INSERT INTO other.schema_version VALUES (1), (2)"
    ));

    moved(&scene).success();

    scene.verify().run().success();
    assert_same(
        &scene,
        "SELECT n FROM other.users; SELECT count(*) FROM other.schema_version",
    );
    assert_same(
        &scene,
        "SELECT p.oid::regprocedure::text, md5(prosrc) FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace
          WHERE nspname IN ('public', 'other') ORDER BY 1;
         SELECT tgrelid::regclass::text, tgname, tgenabled FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1, 2",
    );
    // A disabled trigger differs from an enabled one of the same name.
    scene.on_target(&format!("ALTER TABLE other.users DISABLE TRIGGER {trigger}"));
    assert_eq!(scene.verify().run().status.code(), Some(1));
}

#[test]
fn what_only_a_superuser_can_make_is_left_out_and_listed() {
    let scene = Scene::new();
    scene.on_source(
        "CREATE EXTENSION pg_trgm;
         CREATE FUNCTION audit() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'; ALTER FUNCTION audit() OWNER TO synapse;
         CREATE EVENT TRIGGER watch ON ddl_command_end EXECUTE FUNCTION audit();
         CREATE PUBLICATION everything FOR ALL TABLES",
    );

    let restored = moved(&scene).success();

    let dropped: Vec<String> = restored.json()["restore"]["dropped"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["entry"].as_str().unwrap().to_owned())
        .collect();
    for entry in [
        "EXTENSION - pg_trgm",
        "EVENT TRIGGER - watch postgres",
        "PUBLICATION - everything postgres",
    ] {
        assert!(
            dropped.iter().any(|dropped| dropped == entry),
            "{entry} is not in {dropped:?}"
        );
    }
    scene.verify().run().success();
    scene.on_source("DROP EVENT TRIGGER watch");
}

#[test]
fn an_extension_that_the_source_needs_is_named_and_used_once_it_is_there() {
    let scene = Scene::new();
    scene.on_source(
        "CREATE EXTENSION citext; SET ROLE synapse; CREATE TABLE shouts (word public.citext PRIMARY KEY);
         INSERT INTO shouts VALUES ('Hey')",
    );

    let before = scene.target_dump();
    let dumped = scene.dump().success();

    let ran = scene.wipe(dumped.stdout.as_str());

    assert_failed(
        &ran,
        1,
        "the target lacks what the dump needs: extension citext in schema public",
    );
    assert_eq!(scene.target_dump(), before);
    scene.on_target("CREATE EXTENSION citext");
    let wiped = scene.wipe(dumped.stdout.as_str()).success();
    scene.tool("restore").stdin(wiped.stdout.as_str()).run().success();
    scene.verify().run().success();
    assert_same(&scene, "SELECT * FROM shouts WHERE word = 'HEY'");
}

#[test]
fn databases_of_other_owners_are_dumped_and_refused_as_targets() {
    let scene = Scene::new();
    // An administrator owns the source's database, Synapse's role owns its tables.
    let give = |cluster: &crate::support::Cluster, database: &str, owner: &str| {
        cluster.psql("postgres", &format!("ALTER DATABASE \"{database}\" OWNER TO {owner}"));
    };
    give(source_cluster(), &scene.source.name, "postgres");
    scene.dump().success();
    let before = scene.target_dump();
    give(target_cluster(), &scene.target, "postgres");

    let ran = scene.wipe(Stdin::Null);

    let refused = "role synapse_user cannot act as postgres, which must own everything on the target";
    assert_failed(&ran, 77, refused);
    assert_eq!(scene.target_dump(), before);
    give(target_cluster(), &scene.target, "synapse_user");
    scene.wipe(Stdin::Null).success();
    give(target_cluster(), &scene.target, "postgres");
    assert_failed(&scene.restore().run(), 77, refused);
    assert!(scene.is_fenced());
    give(target_cluster(), &scene.target, "synapse_user");
    scene.restore().run().success();
    scene.verify().run().success();
}

#[test]
fn a_sequence_that_may_not_be_read_is_a_blocker_and_no_half_dump() {
    let scene = Scene::new();
    scene.on_source("CREATE SCHEMA hidden; CREATE TABLE hidden.t (x int); CREATE SEQUENCE of_others");

    assert_failed(&scene.dump(), 77, "role synapse cannot read hidden.t, public.of_others");

    assert!(!scene.world.path("export/dump").exists());
}
