//! Damaged or malicious dumps: they are refused before anything on the target is changed, and nothing in them runs on
//! this host.

use std::fs;
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::dumps::{pg_dump, restore_from};
use crate::support::{
    Cluster, ESS_PASSWORD, Scene, World, assert_failed, programs_of, source_cluster, target_cluster, text_of,
    wait_until,
};

/// Contents of the version tables that Synapse never writes, and the message about each.
const IMPLAUSIBLE: [(&str, &str); 8] = [
    (
        "DELETE FROM schema_version",
        "schema_version contains no row, so Synapse would set up a new, empty homeserver",
    ),
    (
        "UPDATE schema_version SET version = 2147483647",
        "schema_version contains version 2147483647, which Synapse never writes",
    ),
    (
        "UPDATE schema_version SET version = 0",
        "schema_version contains version 0, which Synapse never writes",
    ),
    (
        "ALTER TABLE schema_version ALTER version DROP NOT NULL; UPDATE schema_version SET version = NULL",
        "schema_version contains version NULL, which Synapse never writes",
    ),
    (
        "ALTER TABLE schema_version DROP CONSTRAINT schema_version_lock_key; INSERT INTO schema_version VALUES ('X', 1, true)",
        "schema_version contains more than one row",
    ),
    (
        "DELETE FROM schema_compat_version",
        "schema_compat_version contains no row, although Synapse writes one from version 60 on",
    ),
    (
        "UPDATE schema_compat_version SET compat_version = 2147483647",
        "schema_compat_version contains version 2147483647, which Synapse never writes",
    ),
    (
        "CREATE RULE quiet AS ON INSERT TO schema_version DO INSTEAD NOTHING",
        "has a rule, trigger or policy",
    ),
];

#[test]
fn a_source_without_one_plausible_version_row_is_not_dumped() {
    for (sabotage, said) in IMPLAUSIBLE {
        let scene = Scene::new();
        scene.on_source(sabotage);

        let ran = scene.dump();

        assert_failed(&ran, 1, said);
        assert!(!scene.world.path("export/dump").exists(), "{sabotage}");
    }
}

/// Dumps one scene's source, as an archive and as plain SQL, into another scene's world.
fn dump_for(scene: &Scene, theirs: &Scene) {
    for (from, args) in [("x.dump", &["-Fc"][..]), ("x.sql", &[])] {
        pg_dump(theirs, from, args);
        fs::copy(theirs.world.path(from), scene.world.path(from)).unwrap();
    }
}

#[test]
fn a_dump_of_others_without_one_plausible_version_row_changes_nothing() {
    let scene = Scene::wiped();
    let before = scene.target_dump();
    let no_one_row = "the schema version is not a single row as Synapse writes it";
    for (number, said) in [
        (0, "schema_version contains no row"),
        (1, "schema_version contains version 2147483647"),
        (4, no_one_row),
        (7, "has a rule, trigger or policy"),
    ] {
        let sabotage = IMPLAUSIBLE[number].0;
        let theirs = Scene::new();
        theirs.on_source(sabotage);
        dump_for(&scene, &theirs);
        for from in ["x.dump", "x.sql"] {
            let ran = restore_from(&scene, from).args(["--accept-unproven"]).run();

            assert_failed(&ran, 65, said);
            assert_eq!(scene.target_dump(), before, "{sabotage}");
        }
    }
    let closing = "--\n-- PostgreSQL database dump complete\n--\n\n";
    scene.world.write("closing.sql", closing);
    let ran = restore_from(&scene, "closing.sql").args(["--accept-unproven"]).run();
    assert_failed(&ran, 65, "schema_version contains no row");
    assert_eq!(scene.target_dump(), before);
}

/// Replaces text in an archive's table of contents, which is not compressed.
fn patch(dump: &Path, changes: &[(&str, &str)]) {
    let mut bytes = fs::read(dump).unwrap();
    for (from, to) in changes {
        assert_eq!(from.len(), to.len());
        let starts = |at: &usize| bytes[*at..].starts_with(from.as_bytes());
        let at = (0..bytes.len()).find(starts).unwrap();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    }
    fs::write(dump, bytes).unwrap();
}

/// The tables that Synapse reads first in a database.
const VERSION_TABLES: &str = "CREATE TABLE schema_version (lock char(1) DEFAULT 'X' NOT NULL UNIQUE CHECK (lock = 'X'),
        version int NOT NULL, upgraded bool NOT NULL);
    CREATE TABLE schema_compat_version (lock char(1) DEFAULT 'X' NOT NULL UNIQUE CHECK (lock = 'X'),
        compat_version int NOT NULL);
    INSERT INTO schema_version (version, upgraded) VALUES (94, true);
    INSERT INTO schema_compat_version (compat_version) VALUES (84);";

#[test]
fn nothing_in_an_archive_runs_on_this_host() {
    let world = World::new();
    // Neither pg_restore nor psql of this version refuses psql's meta-commands.
    let server = Cluster::of(&world, "old", programs_of(13)).into_ess();
    server.psql("postgres", "CREATE DATABASE theirs");
    let comment = "COMMENT ON TABLE schema_version IS E'x''\n\\\\! touch ran\n--'";
    server.psql("theirs", &format!("{VERSION_TABLES} {comment}"));
    let mut dump = server.program("pg_dump");
    dump.args(["-U", "postgres", "-d", "theirs", "-Fc", "-Z0", "-f"]);
    dump.arg(world.path("x.dump"));
    text_of(dump);
    patch(&world.path("x.dump"), &[("IS 'x''\n", "IS 'x';\n")]);
    world.write("target.pw", ESS_PASSWORD);
    let target = server.url("synapse", "synapse_user");
    let bin = programs_of(13).display().to_string();

    let ran = world
        .tool("restore")
        .args([
            "-n",
            "--target",
            &target,
            "--target-password-file",
            "target.pw",
            "--pg-bin",
            &bin,
        ])
        .args(["--from", "x.dump", "--accept-unproven"])
        .run();

    assert!(!world.path("ran").exists());
    assert_failed(&ran, 65, r"psql command \! in a dump; it was not run");
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'";
    assert_eq!(server.psql("synapse", tables), "0");
}

#[test]
fn statements_that_pg_dump_does_not_write_are_refused_in_every_part_of_an_archive() {
    let scene = Scene::wiped();
    let before = scene.target_dump();
    for (comment, statement) in [
        // In the structure, and in what follows the rows.
        ("TABLE users", "COMMIT"),
        ("TABLE users", "DO 'begin end'"),
        ("INDEX users_creation_ts", "COMMIT"),
        ("INDEX users_creation_ts", "SET ROLE postgres"),
        ("INDEX users_creation_ts", "COPY users FROM PROGRAM 'id'"),
    ] {
        let quoted = statement.replace('\'', "''");
        let theirs = Scene::new();
        theirs.on_source(&format!("COMMENT ON {comment} IS 'x''\n{quoted};--'"));
        pg_dump(&theirs, "x.dump", &["-Fc", "-Z0"]);
        let statement_of_its_length = format!("{statement:width$}", width = quoted.len());
        let changes = [("IS 'x''\n", "IS 'x';\n"), (&*quoted, &*statement_of_its_length)];
        patch(&theirs.world.path("x.dump"), &changes);
        fs::copy(theirs.world.path("x.dump"), scene.world.path("x.dump")).unwrap();

        let ran = restore_from(&scene, "x.dump").args(["--accept-unproven"]).run();

        assert_failed(&ran, 65, "not a statement that pg_dump writes");
        assert_eq!(scene.target_dump(), before, "{statement}");
    }
}

#[test]
fn comments_and_names_of_several_lines_arrive_as_they_are() {
    let scene = Scene::wiped();
    let theirs = Scene::new();
    let text = "x'\n\\! touch ran\n\\connect nowhere\n$$ -- /*\n\\restrict a\n\\.\n";
    theirs.on_source(&format!(
        "SET ROLE synapse; CREATE TABLE \"a\n\\! touch ran\n--\" (\"b\n\\! touch ran\" int);
         INSERT INTO \"a\n\\! touch ran\n--\" VALUES (7);
         CREATE FUNCTION twice(n int) RETURNS int BEGIN ATOMIC SELECT CASE WHEN n > 0 THEN 2 * n ELSE 0 END; END;
         CREATE RULE two AS ON DELETE TO \"a\n\\! touch ran\n--\" DO INSTEAD (DELETE FROM users WHERE false; SELECT 1);
         COMMENT ON TABLE users IS '{0}'; COMMENT ON INDEX users_creation_ts IS '{0}'",
        text.replace('\'', "''")
    ));
    dump_for(&scene, &theirs);
    let look = "SELECT obj_description('users'::regclass) || obj_description('users_creation_ts'::regclass),
        twice(4), (SELECT string_agg(relname || attname, '') FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
                    WHERE attnum > 0 AND relname LIKE 'a%--' AND relkind = 'r')";
    for from in ["x.dump", "x.sql"] {
        restore_from(&scene, from).args(["--accept-unproven"]).run().success();

        assert_eq!(scene.on_target(look), theirs.on_source(look), "{from}");
        assert!(!scene.world.path("ran").exists());
        scene
            .wiper()
            .args([
                "--execute",
                "--no-backup",
                "--allow-used",
                "--confirm",
                &scene.confirmation(),
            ])
            .args(["--also-erase", "public.\"a\n\\! touch ran\n--\""])
            .run()
            .success();
    }
}

#[test]
fn rows_that_the_server_does_not_take_are_missed() {
    let scene = Scene::wiped();
    let before = scene.target_dump();
    pg_dump(&scene, "their.sql", &[]);
    pg_dump(&scene, "inserts.sql", &["--inserts"]);
    let rule = "CREATE RULE quiet AS ON INSERT TO public.users DO INSTEAD NOTHING;\n";
    let trigger = "CREATE FUNCTION public.none() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
        CREATE TRIGGER t BEFORE INSERT ON public.users FOR EACH ROW EXECUTE FUNCTION public.none();\n";
    for (from, added, said) in [
        // An end mark for a server that does not know the line ending yet.
        ("their.sql", "\\.\r", "a row that begins with an end mark"),
        ("their.sql", trigger, "read, 0 stored by the server"),
        (
            "inserts.sql",
            rule,
            "rows of table public.users: 1 read, 0 stored by the server",
        ),
    ] {
        let mut text = scene.world.read(from);
        let rows = ["\nCOPY public.users ", "\nINSERT INTO public.users "];
        let mut at = rows.iter().find_map(|rows| text.find(rows)).unwrap() + 1;
        if added.starts_with('\\') {
            at += text[at..].find('\n').unwrap() + 1;
        }
        text.insert_str(at, added);
        scene.world.write("bad.sql", text);

        let ran = restore_from(&scene, "bad.sql").args(["--accept-unproven"]).run();

        assert_failed(&ran, 65, said);
        assert_eq!(scene.target_dump(), before, "{said}");
    }
}

#[test]
fn a_dump_that_went_through_windows_loads() {
    let scene = Scene::wiped();
    pg_dump(&scene, "their.sql", &[]);
    scene.world.shell("sed 's/$/\\r/' their.sql >windows.sql").success();

    restore_from(&scene, "windows.sql")
        .args(["--accept-unproven"])
        .run()
        .success();

    let rows = "SELECT count(*), sum(hashtextextended(t::text, 0)) FROM event_json t";
    assert_eq!(scene.on_target(rows), source_cluster().psql("seeded", rows));
}

#[test]
fn what_is_not_a_file_is_refused_at_once() {
    let scene = Scene::wiped();
    scene.world.write("archive/.keep", "");
    scene.world.shell("mkfifo fifo archive/3000.dat").success();
    let _socket = UnixListener::bind(scene.world.path("socket")).unwrap();
    pg_dump(&scene, "their.dir", &["-Fd"]);
    scene
        .world
        .shell("cp their.dir/* archive/; cp -a export/dump ours; rm ours/manifest.json; mkfifo ours/manifest.json")
        .success();
    for (from, said) in [
        ("fifo", "fifo is a named pipe, not a file"),
        ("socket", "socket is a socket, not a file"),
        ("/dev/zero", "/dev/zero is a device, not a file"),
        ("archive", "archive/3000.dat is a named pipe"),
        ("ours", "ours/manifest.json is a named pipe"),
    ] {
        let start = Instant::now();

        let ran = restore_from(&scene, from).args(["--accept-unproven"]).run();

        assert_failed(&ran, 65, said);
        assert!(start.elapsed() < Duration::from_secs(60), "{from}: {ran}");
    }
    assert!(scene.is_fenced());
}

#[test]
fn one_signal_ends_the_reading_of_a_dump_that_inflates_without_end() {
    let scene = Scene::wiped();
    let before = scene.target_dump();
    scene
        .world
        .shell("head -c 1G /dev/zero | tr '\\0' - | gzip -1 >bomb.sql.gz")
        .success();
    let running = restore_from(&scene, "bomb.sql.gz").args(["--accept-unproven"]).start();
    let reads = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND state = 'idle in transaction'",
        scene.target
    );
    wait_until("it reads", || target_cluster().psql("postgres", &reads) != "0");

    let start = Instant::now();
    running.signal(Signal::TERM);
    let ran = running.wait();

    assert_eq!(ran.status.signal(), Some(15), "{ran}");
    assert!(start.elapsed() < Duration::from_secs(10), "{ran}");
    assert_eq!(scene.target_dump(), before);
}

#[test]
fn a_manifest_of_another_program_next_to_a_dump_is_ignored() {
    let scene = Scene::wiped();
    scene.world.write("web/manifest.json", "");
    pg_dump(&scene, "web/their.dump", &["-Fc"]);
    for manifest in [
        "{\"name\": \"a web application\"}",
        "not JSON",
        "{\"format\":\"ess-dump/1\",\"data\":\"another.dump\"}",
    ] {
        scene.world.write("web/manifest.json", manifest);
        let call = restore_from(&scene, "web/their.dump");
        let ran = call.run();
        assert_failed(
            &ran,
            1,
            "nothing shows what this dump should contain: it has no manifest",
        );
    }

    // The data directory of a dump is still compared with its manifest, even if that is damaged.
    scene.world.shell("truncate -s -9 export/dump/manifest.json").success();
    let ran = restore_from(&scene, "export/dump/data")
        .args(["--accept-unproven"])
        .run();
    assert_failed(&ran, 65, "is not the manifest of a dump");
}

#[test]
fn a_plain_dump_cannot_make_itself_another_role_or_another_schema() {
    let scene = Scene::wiped();
    let before = scene.target_dump();
    pg_dump(&scene, "their.sql", &[]);
    for (statement, said) in [
        (
            "SELECT pg_catalog.set_config('search_path', '', false), pg_catalog.set_config('role', 'none', false);",
            "not a statement that pg_dump writes",
        ),
        (
            "SELECT pg_catalog.setval(evil(), 1, true);",
            "not a statement that pg_dump writes",
        ),
        ("SET ROLE postgres;", "not a statement that pg_dump writes"),
        (
            "COPY public.users FROM PROGRAM 'id';",
            "not a statement that pg_dump writes",
        ),
        ("DO 'begin end';", "not a statement that pg_dump writes"),
        ("COMMIT;", "not a statement that pg_dump writes"),
        (
            "CREATE TRIGGER t BEFORE INSERT ON public.schema_version FOR EACH ROW EXECUTE FUNCTION x();",
            "has a rule, trigger or policy",
        ),
    ] {
        scene.world.write("one.sql", format!("{statement}\n"));
        scene.world.shell("cat one.sql their.sql >bad.sql").success();

        let ran = restore_from(&scene, "bad.sql").args(["--accept-unproven"]).run();

        assert_failed(&ran, 65, said);
        assert_eq!(scene.target_dump(), before, "{statement}");
    }
}
