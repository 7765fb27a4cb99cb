//! ess-wipe: it erases all that it should and nothing else, and the wipe can be undone.

use serde_json::json;

use crate::support::{
    Call, Cluster, ESS_PASSWORD, Identity, SERVER_NAME, Scene, Stdin, Synapse, Visitor, World, assert_failed,
    assert_private, link_programs, names_in, pgbin, target_cluster, text_of, wait_for_session, write_program,
};

/// SQL that copies an existing event `count` times, with other ids and these values.
fn more_events(count: u32, change: &str) -> String {
    format!(
        "INSERT INTO events SELECT (jsonb_populate_record(s.e, jsonb_build_object('event_id', '$more' || n, \
         'stream_ordering', 1000000 + n) || {change})).* \
         FROM (SELECT e FROM events e LIMIT 1) s, generate_series(1, {count}) n"
    )
}

#[test]
fn without_execute_the_plan_is_printed_and_nothing_is_changed() {
    let scene = Scene::dumped();
    let before = scene.target_dump();

    let ran = scene.wiper().run().success();

    let document = ran.json();
    assert_eq!(document["wipe"]["executed"], false);
    assert_eq!(scene.target_dump(), before);
    assert_eq!(names_in(&scene.world, "export"), [".lock", "documents", "dump"]);
    let said = ran.to_string();
    let (_, said) = said.split_once("-- stderr --\n").unwrap();
    let size = said.split_once(", ").unwrap().1.split_once(')').unwrap().0;
    let cluster = said.split_once("(cluster ").unwrap().1.split_once(',').unwrap().0;
    let plan = document["wipe"]["plan"].as_str().unwrap();
    insta::assert_snapshot!(said.replace(size, "$SIZE").replace(cluster, "$CLUSTER").replace(plan, "$PLAN"), @r"
    target: example.org/$TARGET at synapse_user@127.0.0.1:$TARGET_PORT/$TARGET (cluster $CLUSTER, $SIZE)
    to be erased: 4 functions, 22 sequences, 176 tables
    plan: $PLAN
    nothing was changed; to carry out the plan, add: --execute --confirm 'example.org/$TARGET' --plan $PLAN
    -- exit status: 0 --
    ");
}

#[test]
fn a_plan_in_a_pipeline_stops_the_next_program() {
    let scene = Scene::dumped();
    let plan = scene.wiper().run().success().stdout;
    let before = scene.target_dump();

    let ran = scene.tool("restore").stdin(plan.as_str()).run();

    assert_failed(
        &ran,
        1,
        "cannot continue with this document: `wipe` was only a plan, so nothing was erased",
    );
    assert_eq!(scene.target_dump(), before);
}

#[test]
fn execute_needs_the_right_confirmation() {
    let scene = Scene::dumped();
    let before = scene.target_dump();

    assert_failed(&scene.wiper().args(["--execute"]).run(), 64, "--confirm");
    let wrong = scene
        .wiper()
        .args(["--execute", "--confirm", "example.org/other"])
        .run();
    assert_failed(
        &wrong,
        1,
        &format!(
            "--confirm is example.org/other, but this target is {}",
            scene.confirmation()
        ),
    );
    assert_eq!(scene.target_dump(), before);
    assert_eq!(names_in(&scene.world, "export"), [".lock", "dump"]);
}

#[test]
fn a_plan_is_the_same_as_long_as_nothing_changes_and_is_carried_out() {
    let scene = Scene::dumped();
    let plan = |args: &[&str]| scene.wiper().args(args).run().success().json()["wipe"]["plan"].clone();
    let hash = plan(&[]);
    // Autovacuum does this to any database.
    scene.on_target("VACUUM FREEZE ANALYZE");
    assert_eq!(plan(&["--plan", hash.as_str().unwrap()]), hash);

    let confirmation = scene.confirmation();
    let carried_out = [
        "--execute",
        "--confirm",
        &confirmation,
        "--plan",
        hash.as_str().unwrap(),
    ];
    assert_eq!(plan(&carried_out), hash);

    assert!(scene.is_fenced());
}

#[test]
fn a_plan_that_drifted_is_refused_with_what_differs() {
    target_cluster().psql("postgres", "CREATE ROLE other_owner; GRANT other_owner TO synapse_user");
    for (change, was, is) in [
        (
            "SET ROLE synapse_user; CREATE VIEW more AS SELECT 1 AS x",
            "target: found: view public.more owned by synapse_user",
            "",
        ),
        (
            "INSERT INTO users (name, is_guest) VALUES ('@second:example.org', 0)",
            "planned: table public.users owned by synapse_user, 1 row;",
            "found: table public.users owned by synapse_user, 2 rows",
        ),
        (
            "SELECT nextval('events_stream_seq')",
            "planned: sequence public.events_stream_seq at ",
            "found: sequence public.events_stream_seq at ",
        ),
        (
            "DROP FUNCTION check_partial_state_events() CASCADE",
            "planned: function public.check_partial_state_events() owned by synapse_user",
            "",
        ),
        (
            "GRANT CREATE ON SCHEMA public TO other_owner; ALTER TABLE rooms OWNER TO other_owner",
            "planned: table public.rooms owned by synapse_user, ",
            "found: table public.rooms owned by other_owner, ",
        ),
    ] {
        let scene = Scene::dumped();
        let plan = scene.wiper().run().success().json()["wipe"]["plan"].clone();
        scene.on_target(change);
        let before = scene.target_dump();

        let ran = scene
            .wiper()
            .args(["--execute", "--confirm", &scene.confirmation()])
            .args(["--plan", plan.as_str().unwrap()])
            .run();

        assert_failed(&ran, 1, "the plan no longer matches the target: ");
        assert!(ran.stderr.contains(was) && ran.stderr.contains(is), "{ran}");
        let hint = "hint: check the plan above; if it is what you want, use --plan ";
        assert!(ran.stderr.contains(hint), "{ran}");
        assert_eq!(scene.target_dump(), before, "{change}");
        assert_eq!(names_in(&scene.world, "export"), [".lock", "documents", "dump"]);
    }
}

#[test]
fn the_same_command_runs_again_with_the_hash_of_the_plan_that_it_carried_out() {
    let scene = Scene::dumped();
    let planned = scene.wiper().run().success();
    let plan = planned.json()["wipe"]["plan"].as_str().unwrap().to_owned();
    let confirmation = scene.confirmation();
    let wipe = |document: &str| {
        let call = scene.tool("ess-wipe").args(&scene.target_args()[1..]);
        let call = call.args([
            "--export",
            "export",
            "--execute",
            "--confirm",
            &confirmation,
            "--plan",
            &plan,
        ]);
        call.stdin(document).run().success()
    };
    let first = wipe(&planned.stdout);

    let again = wipe(&planned.stdout);

    assert!(again.stderr.contains("--plan is not compared"), "{again}");
    assert_eq!(again.json()["wipe"]["backup"], first.json()["wipe"]["backup"]);
    assert!(scene.is_fenced());
}

#[test]
fn a_plan_is_of_one_database() {
    let (scene, other) = (Scene::dumped(), Scene::dumped());
    let planned = scene.wiper().run().success();
    let plan = planned.json()["wipe"]["plan"].as_str().unwrap().to_owned();
    let before = other.target_dump();
    let wiper = || other.wiper().args(["--plan", &plan]);

    let by_document = other
        .tool("ess-wipe")
        .args(&other.target_args()[1..])
        .args(["--plan", &plan])
        .stdin(planned.stdout.as_str())
        .run();
    assert_failed(&by_document, 64, "the document's `target.connection.dbname` is ");

    // First only the plan's hash is known; then the export contains the plan.
    assert_failed(
        &wiper().run(),
        1,
        "the differences are unknown, since no document contains that plan",
    );
    let kept = scene.world.path("export/documents");
    other
        .world
        .shell(&format!("cp -a {} export/documents", kept.display()))
        .success();
    let by_export = wiper().run();
    assert_failed(
        &by_export,
        1,
        "the plan no longer matches the target: planned: database ",
    );
    assert_eq!(by_export.stderr.matches("database ").count(), 2, "{by_export}");
    assert_eq!(other.target_dump(), before);
}

#[test]
fn what_is_written_while_the_backup_is_taken_is_seen_under_the_locks() {
    for (change, said) in [
        (
            "INSERT INTO users (name, is_guest) VALUES ('@second:example.org', 0)",
            "found: table public.users owned by synapse_user, 2 rows",
        ),
        (
            "UPDATE users SET password_hash = 'another'",
            "\"public\".\"users\" has different contents in its 1 row",
        ),
    ] {
        let scene = Scene::dumped();
        let change = format!(
            "psql -qX -h {} -p {} -U postgres -d {} -c \"{change}\" >&2",
            target_cluster().dir.display(),
            target_cluster().port,
            scene.target
        );
        let script = format!("[[ $1 = --version ]] || {change}\nexec {}/pg_restore \"$@\"\n", pgbin());
        write_program(&scene.world, "bin/pg_restore", &script);
        link_programs(&scene.world, "bin");

        let ran = scene
            .wiper()
            .args(["--pg-bin", "bin", "--execute", "--confirm", &scene.confirmation()])
            .run();

        assert_failed(
            &ran,
            1,
            "nothing was erased: the target changed after the plan was made: ",
        );
        assert!(ran.stderr.contains(said), "{ran}");
        assert!(!scene.is_fenced());
    }
}

#[test]
fn synapses_own_role_is_not_to_be_ignored() {
    let scene = Scene::dumped();
    let _visitor = Visitor::new(target_cluster(), &scene.target, "synapse_user");

    let ran = scene
        .wiper()
        .args(["--ignore-role", "synapse_user", "--execute", "--confirm"])
        .args([scene.confirmation()])
        .run();

    assert_failed(
        &ran,
        64,
        "--ignore-role synapse_user is not allowed: it owns the tables",
    );
    assert!(!scene.is_fenced());
}

#[test]
fn a_used_database_is_refused_by_each_measure() {
    let cases = [
        (
            "INSERT INTO users (name, is_guest) SELECT '@u' || n || ':example.org', 0 FROM generate_series(1, 5) n"
                .to_owned(),
            "people have used the target: it contains more than 5 users",
        ),
        (more_events(1001, "'{}'"), "it contains more than 1000 events"),
        (
            "INSERT INTO users (name, is_guest) VALUES ('@second:example.org', 0); ".to_owned()
                + &more_events(1, r#"'{"type": "m.room.message", "sender": "@second:example.org"}'"#),
            "it contains messages from several of its users",
        ),
        (
            "INSERT INTO local_media_repository (media_id) SELECT n::text FROM generate_series(1, 101) n".to_owned(),
            "it contains more than 100 uploaded media",
        ),
    ];
    for (use_it, said) in cases {
        let scene = Scene::dumped();
        scene.on_target(&use_it);
        let before = scene.target_dump();
        assert_failed(&scene.wipe(Stdin::Null), 1, said);
        assert_eq!(scene.target_dump(), before, "{said}");
    }
}

#[test]
fn guests_and_a_trial_are_not_use() {
    let scene = Scene::dumped();
    scene.on_target(
        "INSERT INTO users (name, is_guest) SELECT '@g' || n || ':example.org', 1 FROM generate_series(1, 50) n",
    );

    scene.wipe(Stdin::Null).success();
}

#[test]
fn a_used_database_goes_when_a_person_allows_it() {
    let scene = Scene::dumped();
    scene.on_target(&more_events(1001, "'{}'"));

    let ran = scene
        .wiper()
        .args(["--execute", "--allow-used", "--confirm", &scene.confirmation()])
        .run()
        .success();

    assert_eq!(ran.json()["wipe"]["overrides"], json!(["--allow-used"]));
    assert!(scene.is_fenced());
}

#[test]
fn another_homeservers_database_is_refused() {
    let scene = Scene::dumped();
    scene.on_target("UPDATE users SET name = replace(name, 'example.org', 'other.example')");
    let before = scene.target_dump();

    let ran = scene
        .wiper()
        .args(["--allow-used", "--execute", "--confirm", &scene.confirmation()])
        .run();

    assert_failed(&ran, 1, "the target serves other.example, not example.org");
    assert_eq!(scene.target_dump(), before);
}

#[test]
fn a_database_in_use_is_refused_and_the_user_named() {
    let scene = Scene::dumped();
    let before = scene.target_dump();
    let _visitor = Visitor::new(target_cluster(), &scene.target, "synapse_user");

    let ran = scene.wipe(Stdin::Null);

    assert_failed(&ran, 1, "1 other session is using the target: synapse_user (process ");
    assert_eq!(scene.target_dump(), before);
}

#[test]
fn who_leaves_within_seconds_is_waited_for() {
    let scene = Scene::dumped();
    let visitor = Visitor::new(target_cluster(), &scene.target, "postgres");
    let confirmation = scene.confirmation();
    let running = scene.wiper().args(["--execute", "--confirm", &confirmation]).start();
    wait_for_session(target_cluster(), &scene.target, "ess-migrate/ess-wipe/");

    drop(visitor);

    running.wait().success();
    assert!(scene.is_fenced());
}

#[test]
fn the_source_is_never_the_target() {
    let scene = Scene::dumped();
    let before = scene.target_dump();
    let dumped = scene
        .world
        .tool("pgdump-wrap")
        .args([
            "-n",
            "--source",
            &scene.target_url(),
            "--source-password-file",
            "target.pw",
        ])
        .args(["--server-name", SERVER_NAME, "--export", "other"])
        .run()
        .success();
    let same = target_cluster().socket_url(&scene.target, "synapse_user");
    let confirmation = scene.confirmation();
    let erase = ["--execute", "--allow-used", "--confirm", &confirmation];

    let by_document = scene
        .tool("ess-wipe")
        .args(["--target", &same])
        .args(erase)
        .stdin(dumped.stdout.as_str())
        .run();
    let by_flag = scene.wiper().args(["--source", &same]).args(erase).run();

    for ran in [by_document, by_flag] {
        assert_failed(&ran, 1, "source and target are the same database");
    }
    assert_eq!(scene.target_dump(), before);
}

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

#[test]
fn what_people_read_of_a_wipe() {
    let scene = Scene::dumped();
    let ran = scene.wipe(Stdin::Null).success();

    let said = ran.to_string();
    let (_, said) = said.split_once("-- stderr --\n").unwrap();
    let said: Vec<&str> = said.lines().skip(3).collect();

    insta::assert_snapshot!(said.join("\n"), @r"
    ess-wipe: backed up the target to $WORLD/export/ess-before-wipe
    ess-wipe: erased 202 objects; Synapse cannot start on the target until a restore is proven
    to undo the wipe: ess-wipe -n --undo --export '$WORLD/export' --confirm 'example.org/$TARGET' --execute
    -- exit status: 0 --
    ");
    assert_eq!(ran.json()["wipe"]["fence"], "standing");
}

/// `ess-wipe --undo` with only the target and the export; it only plans.
fn undoer<'a>(scene: &Scene) -> Call<'a> {
    scene
        .tool("ess-wipe")
        .args(scene.target_args())
        .args(["--undo", "--export", "export"])
}

/// The same, carried out.
fn undo<'a>(scene: &Scene) -> Call<'a> {
    undoer(scene).args(["--execute", "--confirm", &scene.confirmation()])
}

/// A target that was wiped and restored, and its content before the wipe.
fn migrated() -> (Scene, String) {
    let scene = Scene::dumped();
    let before = scene.target_dump();
    scene.wipe(Stdin::Null).success();
    scene.restore().run().success();
    (scene, before)
}

#[test]
fn undo_brings_back_what_was_there_before_the_wipe() {
    let (scene, before) = migrated();
    let restored = scene.target_dump();

    let planned = undoer(&scene).run().success();

    assert_eq!(scene.target_dump(), restored);
    assert!(planned.stderr.contains("to be brought back: 172 tables, "), "{planned}");
    assert!(
        planned
            .stderr
            .contains("nothing was changed; to carry out the plan, add: --execute"),
        "{planned}"
    );
    let plan = planned.json()["wipe"]["plan"].clone();
    assert_failed(&undoer(&scene).args(["--execute"]).run(), 64, "--confirm");
    let wrong = undoer(&scene)
        .args(["--execute", "--confirm", "example.org/other"])
        .run();
    assert_failed(&wrong, 1, "--confirm is example.org/other");
    assert_eq!(scene.target_dump(), restored);

    let ran = undo(&scene).args(["--plan", plan.as_str().unwrap()]).run().success();

    assert_eq!(scene.target_dump(), before);
    assert!(
        ran.stderr
            .contains("all equal to what was there before the wipe; Synapse can start"),
        "{ran}"
    );
    let wipe = &ran.json()["wipe"];
    assert_eq!((&wipe["undone"], &wipe["fence"]), (&json!(true), &json!("lifted")));
    assert_eq!(wipe["overrides"], serde_json::Value::Null);
    assert_failed(
        &scene.tool("restore").stdin(ran.stdout.as_str()).run(),
        1,
        "cannot continue with this document: `wipe` was undone",
    );
    // There is nothing left to do, and nothing is done.
    let again = undo(&scene).run().success();
    assert!(
        again
            .stderr
            .contains("the target already holds what it held before the wipe, proven"),
        "{again}"
    );
    assert_eq!(scene.target_dump(), before);
    assert_eq!(
        names_in(&scene.world, "export"),
        [".lock", "documents", "dump", "ess-before-wipe"]
    );
}

#[test]
fn the_undo_command_works_until_people_use_the_target() {
    let scene = Scene::new();
    let before = scene.target_dump();
    let dumped = scene.dump().success().stdout;
    let wiped = scene.wipe(dumped.as_str()).success().stdout;
    let restored = scene.tool("restore").stdin(wiped.as_str()).run().success();
    let line = restored.json()["restore"]["next"]["go_back"]
        .as_str()
        .unwrap()
        .to_owned();

    scene.world.shell(&format!("cd /; {line} >/dev/null")).success();

    assert_eq!(scene.target_dump(), before);
}

#[test]
fn undo_is_refused_after_a_synapse_ran_on_the_target() {
    let (scene, before) = migrated();
    let synapse = Synapse::new(&scene.world, "ess", &scene.target_database(), &Identity::old());
    synapse.start();
    crate::support::seeded().goes_on(&synapse);
    synapse.stop();
    let used = scene.target_dump();

    let ran = undo(&scene).run();

    assert_failed(&ran, 1, "the target has been used since it was restored: ");
    assert_eq!(scene.target_dump(), used);
    // Without the dump, the users in the target decide whether it was used.
    let alone = scene
        .tool("ess-wipe")
        .args(scene.target_args())
        .args(["--undo", "--backup"]);
    let alone = alone.args(["export/ess-before-wipe"]).run();
    assert_failed(&alone, 1, "people have used the target: ");

    let ran = undo(&scene).args(["--allow-used"]).run().success();

    assert_eq!(ran.json()["wipe"]["overrides"], json!(["--allow-used"]));
    assert_eq!(scene.target_dump(), before);
    // What users have written is not lost.
    scene
        .wiper()
        .args(["--no-backup", "--execute", "--confirm", &scene.confirmation()])
        .run()
        .success();
    scene
        .tool("restore")
        .args(scene.target_args())
        .args(["--from", "export/ess-before-wipe.undone"])
        .run()
        .success();
    assert_eq!(scene.target_dump(), used);
}

#[test]
fn undo_is_as_careful_as_the_wipe() {
    let (scene, _) = migrated();
    let restored = scene.target_dump();

    let visitor = Visitor::new(target_cluster(), &scene.target, "synapse_user");
    assert_failed(
        &undo(&scene).run(),
        1,
        "1 other session is using the target: synapse_user",
    );
    drop(visitor);

    let other = Scene::dumped();
    other.wipe(Stdin::Null).success();
    let backup = other.world.path("export/ess-before-wipe").display().to_string();
    let foreign = undo(&scene).args(["--backup", &backup]).run();
    assert_failed(&foreign, 1, "is a backup of ");
    let dump = undo(&scene).args(["--backup", "export/dump"]).run();
    assert_failed(&dump, 65, "is not a backup made by ess-wipe");

    scene
        .world
        .shell("cd export/ess-before-wipe/data; truncate -s -1 $(ls -S *.dat* | head -1)")
        .success();
    assert_failed(&undo(&scene).run(), 65, "bytes, the manifest records");
    assert_eq!(scene.target_dump(), restored);
    let nothing = scene.tool("ess-wipe").args(scene.target_args()).args(["--undo"]).run();
    assert_failed(&nothing, 64, "there is no backup to bring back");
}

#[test]
fn one_changed_row_is_use() {
    let (scene, _) = migrated();
    scene.on_target("UPDATE profiles SET displayname = 'Alice!' WHERE user_id = 'alice'");

    let ran = undo(&scene).run();

    assert_failed(
        &ran,
        1,
        "the target has been used since it was restored: table public.profiles has different contents in its 3 rows",
    );
}
