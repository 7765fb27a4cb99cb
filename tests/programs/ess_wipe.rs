//! ess-wipe: it erases all that it should and nothing else, behind a backup and a fence.

use serde_json::json;

use crate::support::{
    Cluster, ESS_PASSWORD, Identity, SERVER_NAME, Scene, Stdin, Synapse, World, assert_failed, assert_private,
    link_programs, names_in, pgbin, target_cluster, text_of, write_program,
};

#[test]
fn objects_of_another_role_are_refused_with_everything_intact() {
    let scene = Scene::dumped();
    scene.on_target("CREATE TABLE audit (x int); CREATE VIEW spy AS SELECT name FROM users");
    let before = scene.target_dump();

    let ran = scene
        .wiper()
        .args([
            "--execute",
            "--also-erase",
            "public.audit",
            "--confirm",
            &scene.confirmation(),
        ])
        .run();

    assert_failed(
        &ran,
        77,
        "the target contains objects that the connecting role cannot drop: view public.spy (owner postgres), \
         table public.audit (owner postgres)",
    );
    assert_eq!(scene.target_dump(), before);
    assert_eq!(names_in(&scene.world, "export"), [".lock", "dump"]);
}

#[test]
fn everything_goes_but_extensions_and_the_schema_itself() {
    let scene = Scene::dumped();
    scene.on_target(
        "CREATE EXTENSION pg_trgm; COMMENT ON SCHEMA public IS 'the administrator''s words';
         GRANT ALL ON SCHEMA public TO synapse_user; GRANT USAGE ON SCHEMA public TO pg_monitor;
         GRANT CREATE ON DATABASE \"$\" TO synapse_user; SET ROLE synapse_user;
         CREATE VIEW v AS SELECT name FROM users; CREATE MATERIALIZED VIEW mv AS SELECT * FROM v;
         CREATE TYPE mood AS ENUM ('ok'); CREATE TYPE pair AS (a int, b mood); CREATE TYPE span AS RANGE (subtype = int8);
         CREATE DOMAIN short AS text CHECK (length(value) < 9);
         CREATE TABLE a (x int PRIMARY KEY, m mood, s short); CREATE TABLE b (x int PRIMARY KEY REFERENCES a);
         ALTER TABLE a ADD FOREIGN KEY (x) REFERENCES b; CREATE TABLE p (x int) PARTITION BY LIST (x);
         CREATE TABLE p1 PARTITION OF p DEFAULT; CREATE TABLE g (x int GENERATED ALWAYS AS IDENTITY);
         CREATE FUNCTION f(int, mood) RETURNS int LANGUAGE sql AS 'SELECT $1';
         CREATE PROCEDURE pr() LANGUAGE sql AS ''; CREATE AGGREGATE agg(int) (sfunc = int4pl, stype = int);
         CREATE FUNCTION tr() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
         CREATE TRIGGER t BEFORE INSERT ON a FOR EACH ROW EXECUTE FUNCTION tr();
         CREATE OPERATOR ## (leftarg = int, rightarg = int, function = int4pl);
         CREATE COLLATION kol FROM \"C\"; CREATE TEXT SEARCH CONFIGURATION ts (COPY = simple);
         CREATE STATISTICS st ON x, m FROM a; CREATE SEQUENCE loose; CREATE SCHEMA \"Extra one\";
         CREATE TABLE \"Extra one\".\"t\"\"t\" (x serial); SELECT lo_create(4711)"
            .replace('$', &scene.target)
            .replace(&format!("SELECT {}1", scene.target), "SELECT $1")
            .as_str(),
    );
    let stays = "SELECT nspname, nspowner::regrole, nspacl, obj_description(oid, 'pg_namespace') FROM pg_namespace \
        WHERE nspname = 'public'; SELECT extname, extversion FROM pg_extension ORDER BY 1; \
        SELECT datacl FROM pg_database WHERE datname = current_database()";
    let before = scene.on_target(stays);

    let others = [
        "public.a",
        "public.b",
        "public.g",
        "public.p",
        "public.p1",
        "\"Extra one\".\"t\"\"t\"",
    ];
    scene
        .wiper()
        .args(["--no-fence", "--execute", "--confirm", &scene.confirmation()])
        .args(others.iter().flat_map(|name| ["--also-erase", name]))
        .run()
        .success();

    assert_eq!(scene.on_target(stays), before);
    let left = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace
        UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace
            AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = pg_proc.oid AND deptype = 'e')
        UNION ALL SELECT typname FROM pg_type WHERE typnamespace = 'public'::regnamespace
            AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = pg_type.oid AND deptype = 'e') AND typname <> '_gtrgm'
        UNION ALL SELECT nspname FROM pg_namespace WHERE nspname = 'Extra one'
        UNION ALL SELECT collname FROM pg_collation WHERE collnamespace = 'public'::regnamespace
        UNION ALL SELECT cfgname FROM pg_ts_config WHERE cfgnamespace = 'public'::regnamespace
        UNION ALL SELECT oid::text FROM pg_largeobject_metadata";
    assert_eq!(scene.on_target(left), "");
    assert_eq!(scene.on_target("SELECT similarity('a', 'a')"), "1");
}

#[test]
fn a_server_with_a_small_lock_table_is_refused_before_anything_is_dropped() {
    let world = World::new();
    let cluster = Cluster::ess(&world, "small");
    cluster.load_fresh();
    cluster.psql("postgres", "ALTER SYSTEM SET max_locks_per_transaction = 10");
    cluster.stop();
    cluster.start();
    world.write("target.pw", ESS_PASSWORD);
    let tables = cluster.psql("synapse", "SELECT count(*) FROM pg_class");
    let wipe = world
        .tool("ess-wipe")
        .args(["-n", "--target", &cluster.url("synapse", "synapse_user")]);

    let ran = wipe
        .args([
            "--target-password-file",
            "target.pw",
            "--no-backup",
            "--execute",
            "--confirm",
            "example.org/synapse",
        ])
        .run();

    assert_failed(&ran, 1, "the server has room for ");
    assert!(
        ran.stderr
            .contains("hint: on the target, set max_locks_per_transaction to "),
        "{ran}"
    );
    assert_eq!(cluster.psql("synapse", "SELECT count(*) FROM pg_class"), tables);
}

#[test]
fn nothing_is_erased_unless_the_backup_can_be_read() {
    let scene = Scene::dumped();
    let before = scene.target_dump();
    let fails = "echo 'pg_restore: error: could not uncompress data' >&2; exit 1";
    let script = format!(
        "[[ $* != *--file=/dev/null* ]] || {{ {fails}; }}\nexec {}/pg_restore \"$@\"\n",
        pgbin()
    );
    write_program(&scene.world, "bin/pg_restore", &script);
    link_programs(&scene.world, "bin");

    let ran = scene
        .wiper()
        .args(["--pg-bin", "bin", "--execute", "--confirm", &scene.confirmation()])
        .run();

    assert_failed(&ran, 69, "the backup cannot be read; nothing was erased");
    assert!(ran.stderr.contains("could not uncompress data"), "{ran}");
    assert_eq!(scene.target_dump(), before);
}

#[test]
fn there_must_be_a_place_for_the_backup_or_a_word_that_none_is_wanted() {
    let scene = Scene::dumped();
    let before = scene.target_dump();
    let erase = [
        "--server-name",
        SERVER_NAME,
        "--execute",
        "--confirm",
        &scene.confirmation(),
    ];
    let wipe = || scene.tool("ess-wipe").args(scene.target_args()).args(erase);

    assert_failed(
        &wipe().run(),
        64,
        "no directory is known for the backup of what will be erased",
    );
    assert_eq!(scene.target_dump(), before);

    let ran = wipe().args(["--no-backup"]).run().success();
    assert_eq!(ran.json()["wipe"]["overrides"], json!(["--no-backup"]));
    assert_eq!(ran.json()["wipe"].get("backup"), None);
    assert!(scene.is_fenced());
}

#[test]
fn no_synapse_starts_behind_the_fence() {
    let scene = Scene::wiped();
    assert!(scene.is_fenced());
    let synapse = Synapse::new(&scene.world, "ess", &scene.target_database(), &Identity::ess());

    let log = synapse.start_expecting_refusal();

    assert!(log.contains("too new for the server"), "{log}");
    assert_eq!(
        scene.on_target("SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"),
        "2"
    );
}

#[test]
fn without_a_fence_a_plain_pg_restore_meets_an_empty_database() {
    let scene = Scene::dumped();
    scene
        .wiper()
        .args(["--no-fence", "--execute", "--confirm", &scene.confirmation()])
        .run()
        .success();
    let mut restore = target_cluster().program("pg_restore");
    restore.args(["-e", "--no-owner", "-U", "synapse_user", "-d", &scene.target]);
    restore.arg(scene.world.path("export/dump/data"));

    text_of(restore);

    let events = "SELECT count(*) FROM event_json";
    assert_eq!(
        scene.on_target(events),
        crate::support::source_cluster().psql("seeded", events)
    );
}

#[test]
fn the_printed_line_brings_everything_back() {
    let scene = Scene::dumped();
    let before = scene.target_dump();
    let ran = scene.wipe(Stdin::Null).success();
    assert_ne!(scene.target_dump(), before);
    let undo = ran
        .stderr
        .lines()
        .find_map(|line| line.strip_prefix("to undo the wipe: "))
        .unwrap();
    assert_eq!(ran.json()["wipe"]["next"]["go_back"], undo);
    assert_private(&scene.world, "export/ess-before-wipe");

    scene
        .world
        .shell(&format!("set -eo pipefail; cd /; {undo} >/dev/null"))
        .success();

    assert_eq!(scene.target_dump(), before);
    let document = scene
        .tool("verify")
        .args(scene.target_args())
        .args(["--from", "export/ess-before-wipe"]);
    assert_eq!(document.run().success().json()["verify"]["equal"], true);
}

#[test]
fn the_same_line_again_takes_no_second_backup() {
    let scene = Scene::dumped();
    let first = scene.wipe(Stdin::Null).success();
    let backup = scene.world.read("export/ess-before-wipe/manifest.json");

    let second = scene.wipe(Stdin::Null).success();

    assert_eq!(scene.world.read("export/ess-before-wipe/manifest.json"), backup);
    assert_eq!(
        names_in(&scene.world, "export"),
        [".lock", "documents", "dump", "ess-before-wipe"]
    );
    assert_eq!(second.json()["wipe"]["backup"], first.json()["wipe"]["backup"]);
    assert_eq!(
        second.json()["wipe"]["next"]["go_back"],
        first.json()["wipe"]["next"]["go_back"]
    );
    assert!(scene.is_fenced());
}

#[test]
fn a_target_that_awaits_another_source_is_refused() {
    let scene = Scene::wiped();

    let ran = scene
        .wiper()
        .args([
            "--source-identity",
            "123/other",
            "--execute",
            "--confirm",
            &scene.confirmation(),
        ])
        .run();

    assert_failed(&ran, 1, "the target is fenced for another source, ");
    assert!(ran.stderr.contains("or --allow-other-migration to drop"), "{ran}");
    assert!(scene.is_fenced());

    let ran = scene
        .wiper()
        .args(["--source-identity", "123/other", "--allow-other-migration"])
        .args(["--execute", "--confirm", &scene.confirmation()])
        .run()
        .success();
    assert_eq!(ran.json()["wipe"]["overrides"], json!(["--allow-other-migration"]));
}

#[test]
fn a_source_that_moved_after_the_dump_is_refused() {
    let scene = Scene::new();
    let document = scene.dump().success().stdout;
    let before = scene.target_dump();
    scene.on_source("SELECT nextval('events_stream_seq')");

    let ran = scene.wipe(document.as_str());

    assert_failed(
        &ran,
        1,
        "the old Synapse ran after the dump: sequence events_stream_seq went from",
    );
    assert_eq!(scene.target_dump(), before);
}

#[test]
fn a_superuser_leaves_the_fence_to_the_owner() {
    let scene = Scene::dumped();
    let target = target_cluster().socket_url(&scene.target, "postgres");

    let ran = scene
        .tool("ess-wipe")
        .args([
            "-n",
            "--target",
            &target,
            "--export",
            "export",
            "--server-name",
            SERVER_NAME,
        ])
        .args(["--execute", "--confirm", &scene.confirmation()])
        .run()
        .success();

    assert!(scene.is_fenced(), "{ran}");
    let owners = "SELECT DISTINCT relowner::regrole FROM pg_class WHERE relnamespace = 'public'::regnamespace";
    assert_eq!(scene.on_target(owners), "synapse_user");
}

#[test]
fn a_second_run_on_the_same_target_is_sent_away() {
    let scene = Scene::dumped();
    write_program(
        &scene.world,
        "bin/pg_dump",
        "[[ $1 = --version ]] || sleep 1000\nexec pg_dump \"$@\"\n",
    );
    link_programs(&scene.world, "bin");
    let confirmation = scene.confirmation();
    let mut first = scene
        .wiper()
        .args(["-v", "--pg-bin", "bin", "--execute", "--confirm", &confirmation])
        .start();
    first.wait_for("/pg_dump --no-password");

    let same_export = scene.wiper().run();
    let same_target = scene.tool("ess-wipe").args(scene.target_args()).run();

    assert_failed(&same_export, 75, "holds the lock ");
    assert_failed(&same_target, 75, "another run is working on synapse_user@");
}
