//! Client programs of every version, with source and target servers of every version: they fit both servers, or are
//! refused before anything is changed.

use std::path::PathBuf;
use std::process::Stdio;
use std::thread;

use ess_run::Need;
use serde_json::Value;

use crate::support::findings::fires;
use crate::support::{
    Cluster, ESS_PASSWORD, Ran, SERVER_NAME, Scene, Stdin, World, assert_failed, code, names_in, pgbin, place,
    programs_of, target_cluster,
};

/// Every PostgreSQL version that the tests have, with the directory of its programs.
fn versions() -> Vec<(u32, PathBuf)> {
    let own = place().pgbin.clone();
    let mut version = place().command(own.join("pg_dump"), &place().dir);
    let text = String::from_utf8(version.arg("--version").output().unwrap().stdout).unwrap();
    let major = text.split_whitespace().nth(2).unwrap().split('.').next().unwrap();
    let wheels = [13, 14, 16, 17, 18].map(|major| (major, programs_of(major)));
    let mut all: Vec<(u32, PathBuf)> = wheels.into_iter().chain([(major.parse().unwrap(), own)]).collect();
    all.sort();
    all.dedup_by_key(|(major, _)| *major);
    all
}

/// Whether a program succeeds.
fn succeeds(program: PathBuf, server: &Cluster, args: &[&str]) -> bool {
    let mut command = place().command(program, &server.dir);
    command
        .env("PGHOST", &server.dir)
        .env("PGPORT", server.port.to_string());
    command.env("PGUSER", "postgres").env("PGDATABASE", "postgres");
    command
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().unwrap().success()
}

#[test]
fn the_programs_of_every_version_behave_as_the_rule_assumes() {
    let world = World::new();
    let versions = versions();
    assert_eq!(
        versions.iter().map(|(major, _)| *major).collect::<Vec<_>>(),
        [13, 14, 15, 16, 17, 18]
    );
    let servers: Vec<(u32, Cluster)> = thread::scope(|scope| {
        let start = |(major, bin): &(u32, PathBuf)| (*major, Cluster::of(&world, &format!("of{major}"), bin.clone()));
        let starting: Vec<_> = versions
            .iter()
            .map(|version| scope.spawn(move || start(version)))
            .collect();
        starting.into_iter().map(|server| server.join().unwrap()).collect()
    });
    let oldest = &servers[0].1;
    oldest.psql(
        "postgres",
        "CREATE TABLE plain (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a text); INSERT INTO plain (a) VALUES ('x');
         SELECT lo_from_bytea(77, 'large')",
    );
    let archive = |major: u32| world.path(format!("of{major}/archive")).display().to_string();
    for (major, bin) in &versions {
        // Into the directory of its own server, where it has permission to write.
        assert!(
            succeeds(bin.join("pg_dump"), oldest, &["-Fc", "-f", &archive(*major)]),
            "{major}"
        );
    }

    for (client, bin) in &versions {
        for (server, cluster) in &servers {
            let dump = Need::Dump {
                source: *server,
                target: None,
            };
            let dumps = succeeds(bin.join("pg_dump"), cluster, &["-s", "-f", "/dev/null"]);
            assert_eq!(dumps, dump.fits(*client), "pg_dump {client} dumps a server of {server}");
            let read = Need::Load {
                written_by: Some(*server),
                compression: None,
                target: 18,
            };
            let reads = succeeds(bin.join("pg_restore"), cluster, &["--list", &archive(*server)]);
            assert_eq!(
                reads,
                read.fits(*client),
                "pg_restore {client} reads an archive of pg_dump {server}"
            );
            let load = Need::Load {
                written_by: Some(*client),
                compression: None,
                target: *server,
            };
            let anew = [
                "--exit-on-error",
                "--clean",
                "--if-exists",
                "--dbname",
                "postgres",
                &archive(*client),
            ];
            let loads = succeeds(bin.join("pg_restore"), cluster, &anew);
            assert_eq!(
                loads,
                load.fits(*client),
                "pg_restore {client} loads into a server of {server}"
            );
        }
    }
}

fn bin(major: u32) -> String {
    programs_of(major).display().to_string()
}

/// Runs preflight with the source and the target of a scene.
fn looked(scene: &Scene, args: &[&str]) -> Ran {
    let look = scene.tool("preflight").args(["-n", "--source", &scene.source_url()]);
    look.args(&scene.target_args()[1..]).args(args).run()
}

#[test]
fn preflight_blocks_where_no_programs_serve_both_ends() {
    let scene = Scene::new();

    let ran = looked(&scene, &["--pg-bin", &bin(18)]);

    fires(&ran, &["blocker client-programs"]);
    assert_eq!(code(&ran), 1);
    assert!(
        ran.stderr
            .contains("newer ones send SET transaction_timeout, which that target refuses"),
        "{ran}"
    );
    assert!(ran.stderr.contains(&format!("use --pg-bin {}", pgbin())), "{ran}");
    let ran = looked(&scene, &[]).success();
    fires(&ran, &["info client-programs"]);
    let version = ran.json()["target"]["server_version"].clone();
    assert_eq!(version, target_cluster().psql("postgres", "SHOW server_version"));
    // As long as the target is unknown, programs for newer servers are accepted, with a note.
    let source = scene.tool("preflight").args(["-n", "--source", &scene.source_url()]);
    let ran = source.args(["--pg-bin", &bin(18)]).run().success();
    let said = ran.to_string();
    assert!(
        said.contains("which requires PostgreSQL 17 or newer on the target"),
        "{said}"
    );
}

#[test]
fn nothing_is_dumped_by_programs_that_do_not_serve_the_known_target() {
    let scene = Scene::new();
    let document = looked(&scene, &[]).success().stdout;
    let dump = |args: &[&str]| {
        let dumper = scene
            .tool("pgdump-wrap")
            .args(["--export", "export", "--server-name", SERVER_NAME]);
        dumper.args(args).stdin(document.as_str()).run()
    };

    let ran = dump(&["--pg-bin", &bin(17)]);

    assert_failed(
        &ran,
        69,
        "dumping this source (PostgreSQL 15) for this target (PostgreSQL 15) requires client programs",
    );
    assert!(!scene.world.path("export/dump").exists());

    // A dump that such programs made when the target was unknown is not reused for this target.
    let alone = scene.dumper().args(["--pg-bin", &bin(17)]).run().success();
    assert!(
        alone.stderr.contains(
            "can be loaded into PostgreSQL 17 or newer only; for an older target, install \
             postgresql-client-15 and dump again"
        ),
        "{alone}"
    );
    let ran = dump(&[]);
    assert_failed(
        &ran,
        1,
        "export/dump already exists: the dump was written by pg_dump 17.",
    );
    assert!(ran.stderr.contains("hint: give --replace"), "{ran}");
    dump(&["--replace"]).success();
    assert!(scene.manifest()["pg_dump_version"].as_str().unwrap().starts_with("15."));
}

#[test]
fn nothing_is_erased_for_a_dump_that_cannot_be_loaded() {
    let scene = Scene::new();
    let document = scene.dumper().args(["--pg-bin", &bin(18)]).run().success().stdout;
    let before = scene.target_dump();

    let ran = scene.wipe(document.as_str());

    let said = "the dump was written by pg_dump 18.";
    assert_failed(&ran, 1, said);
    assert!(ran.stderr.contains("then run pgdump-wrap --replace"), "{ran}");
    // Whichever programs are installed.
    let other = scene
        .tool("ess-wipe")
        .args(&scene.target_args()[1..])
        .args(["--pg-bin", &bin(18)]);
    assert_failed(&other.stdin(document.as_str()).run(), 1, said);
    assert_eq!(scene.target_dump(), before);
    assert!(!scene.world.path("export/ess-before-wipe").exists());

    scene.wipe(Stdin::Null).success();
    let fenced = scene.target_dump();
    assert_failed(&scene.restore().run(), 1, said);
    assert_failed(&scene.restore().args(["--pg-bin", &bin(18)]).run(), 1, said);
    assert_eq!(scene.target_dump(), fenced);
}

#[test]
fn nothing_is_erased_or_brought_back_by_programs_that_the_target_refuses() {
    let scene = Scene::dumped();
    let before = scene.target_dump();
    let confirmation = scene.confirmation();
    let execute = ["--pg-bin", &bin(18), "--execute", "--confirm", &confirmation];

    let ran = scene.wiper().args(execute).run();

    assert_failed(
        &ran,
        69,
        "backing up this target (PostgreSQL 15) requires client programs of version 15 to 16",
    );
    assert_eq!(scene.target_dump(), before);
    assert_eq!(names_in(&scene.world, "export"), [".lock", "dump"]);

    scene.wipe(Stdin::Null).success();
    scene.restore().run().success();
    scene.on_target("INSERT INTO users (name, is_guest) VALUES ('@new:example.org', 0)");
    let restored = scene.target_dump();
    let undo = |args: &[&str]| {
        let undo = scene.tool("ess-wipe").args(scene.target_args());
        undo.args(["--undo", "--export", "export", "--allow-used"])
            .args(args)
            .run()
    };
    let said = "loading this dump (of pg_dump 15) into this target (PostgreSQL 15) requires client programs of version 12 to \
         16";
    assert_failed(&undo(&execute), 69, said);
    assert_eq!(scene.target_dump(), restored);
    assert!(!scene.world.path("export/ess-before-wipe.undone").exists());

    // With the programs of 16 it succeeds.
    undo(&["--pg-bin", &bin(16), "--execute", "--confirm", &confirmation]).success();
    assert_eq!(scene.target_dump(), before);
}

/// A PATH in which programs of these versions come before the system's.
fn path(majors: &[u32]) -> String {
    let dirs: Vec<String> = majors.iter().map(|major| bin(*major)).collect();
    format!("{}:/usr/bin:/bin", dirs.join(":"))
}

#[test]
fn of_several_programs_the_fitting_ones_are_taken() {
    let world = World::new();
    let target = Cluster::of(&world, "ess16", programs_of(16)).into_ess();
    target.load_fresh();
    let scene = Scene::new();
    scene.world.write("target.pw", ESS_PASSWORD);
    let before = target.psql("synapse", "SELECT count(*), sum(hashtext(name)) FROM users");
    let url = target.url("synapse", "synapse_user");
    let run = |script: &str, majors: &[u32]| {
        let call = scene.world.script(&format!("set -o pipefail\n{script}"));
        let call = call.env("PGPASSFILE", scene.world.path("pgpass")).env("TARGET", &url);
        let shipped = place().bin.display().to_string();
        call.env("SOURCE", scene.source_url())
            .env("PATH", format!("{shipped}:{}", path(majors)))
            .run()
    };
    let look = "preflight -n --source \"$SOURCE\" --target \"$TARGET\" --target-password-file target.pw";
    let line = "pgdump-wrap -n --source \"$SOURCE\" --export export --server-name example.org \
        | ess-wipe --target \"$TARGET\" --target-password-file target.pw --execute --confirm example.org/synapse | restore";

    // The source's own version and one that is too new: the source could be dumped, but the target not backed up.
    let ran = run(look, &[18]);
    fires(&ran, &["blocker client-programs"]);
    assert!(
        ran.stderr
            .contains("hint: install postgresql-client-16, from apt.postgresql.org"),
        "{ran}"
    );
    let ran = run(line, &[18]);
    assert_ne!(code(&ran), 0, "{ran}");
    let said = "ess-wipe: backing up this target (PostgreSQL 16) requires client programs of version 16 (newer ones";
    assert!(ran.stderr.contains(said), "{ran}");
    assert_eq!(
        target.psql("synapse", "SELECT count(*), sum(hashtext(name)) FROM users"),
        before
    );
    assert!(!scene.world.path("export/ess-before-wipe").exists());

    // A version that fits both servers is used wherever it is in PATH.
    fires(&run(look, &[18, 16]), &["info client-programs"]);
    run(line, &[18, 16]).success();
    let backup: Value = serde_json::from_str(&scene.world.read("export/ess-before-wipe/manifest.json")).unwrap();
    assert!(
        backup["pg_dump_version"].as_str().unwrap().starts_with("16."),
        "{}",
        backup["pg_dump_version"]
    );
    let undo = "ess-wipe -n --undo --target \"$TARGET\" --target-password-file target.pw --export export \
        --execute --confirm example.org/synapse";
    run(undo, &[18, 16]).success();
    assert_eq!(
        target.psql("synapse", "SELECT count(*), sum(hashtext(name)) FROM users"),
        before
    );
}

#[test]
fn a_target_that_is_older_than_the_source_is_refused_before_the_dump_and_before_the_wipe() {
    let world = World::new();
    let source = Cluster::of(&world, "ess16", programs_of(16)).into_ess();
    source.load_fresh();
    source.psql(
        "synapse",
        "INSERT INTO users (name, is_guest) VALUES ('@there:example.org', 0)",
    );
    let scene = Scene::new();
    scene.world.write("source.pw", ESS_PASSWORD);
    let before = scene.target_dump();
    let url = source.url("synapse", "synapse_user");
    let dump = |known: Stdin<'_>| {
        let dumper = scene
            .tool("pgdump-wrap")
            .args(["--source", &url, "--source-password-file", "source.pw"]);
        let dumper = dumper.args(["--export", "export", "--server-name", SERVER_NAME, "--pg-bin", &bin(16)]);
        dumper.stdin(known).run()
    };
    let target = scene.tool("preflight").args(scene.target_args()).run().success().stdout;

    let ran = dump(Stdin::from(target.as_str()));

    assert_failed(&ran, 1, "the source is PostgreSQL 16.");
    assert!(ran.stderr.contains(", which is older"), "{ran}");
    assert!(!scene.world.path("export/dump").exists());
    let document = dump(Stdin::Null).success().stdout;
    assert_failed(&scene.wipe(document.as_str()), 1, "the dump is of PostgreSQL 16.");
    assert_eq!(scene.target_dump(), before);
    assert!(!scene.world.path("export/ess-before-wipe").exists());
}

#[test]
fn an_archive_from_elsewhere_is_refused_before_anything_is_changed_and_loads_as_sql() {
    let scene = Scene::wiped();
    let before = scene.target_dump();
    let source = scene.source_url();
    let write = |script: &str| {
        let call = scene.world.script(script).env("PGPASSFILE", scene.world.path("pgpass"));
        call.env("SOURCE", &source).env("BIN", bin(17)).run().success();
    };
    for (format, path) in [("c", "x.dump"), ("t", "x.tar"), ("d", "x")] {
        write(&format!("\"$BIN/pg_dump\" -w -F{format} -f {path} \"$SOURCE\""));
        let load = || {
            scene
                .tool("restore")
                .args(scene.target_args())
                .args(["--accept-unproven", "--from", path])
        };
        for ran in [load().run(), load().args(["--pg-bin", &bin(17)]).run()] {
            assert_failed(
                &ran,
                1,
                "the dump was written by pg_dump 17.11, and the target is PostgreSQL 15.",
            );
            assert!(
                ran.stderr.contains("write it as SQL with pg_restore --file=FILE.sql "),
                "{ran}"
            );
        }
        assert_eq!(scene.target_dump(), before);
    }

    write("\"$BIN/pg_restore\" --file=x.sql x.dump");
    let load = scene
        .tool("restore")
        .args(scene.target_args())
        .args(["--accept-unproven", "--from", "x.sql"]);
    load.run().success();
    assert_eq!(
        scene.on_target("SELECT count(*) FROM event_json"),
        scene.on_source("SELECT count(*) FROM event_json")
    );
}

#[test]
fn on_a_newer_target_undo_works_and_programs_that_cannot_unpack_a_dump_are_passed_over() {
    let world = World::new();
    let target = Cluster::of(&world, "ess18", programs_of(18)).into_ess();
    target.load_fresh();
    let scene = Scene::new();
    // With a build that has zstd; the build of 18 lacks it.
    let document = scene.dumper().args(["--pg-bin", &bin(17)]).run().success().stdout;
    let before = target.psql("synapse", "SELECT count(*), sum(hashtext(name)) FROM users");
    let url = target.url("synapse", "synapse_user");
    let wipe = || {
        let wiper = scene
            .tool("ess-wipe")
            .args(["--target", &url, "--target-password-file", "target.pw"]);
        let wiper = wiper.args(["--export", "export", "--server-name", SERVER_NAME, "--pg-bin", &bin(18)]);
        wiper.args(["--execute", "--confirm", "example.org/synapse"])
    };

    let ran = wipe().stdin(document.as_str()).run();

    let said = "requires client programs of version 17 or newer with zstd support; found in ";
    assert_failed(&ran, 69, said);
    assert!(ran.stderr.contains(" without zstd\n"), "{ran}");
    assert_eq!(
        target.psql("synapse", "SELECT count(*), sum(hashtext(name)) FROM users"),
        before
    );
    wipe().run().success();
    let restore = || {
        let restore = scene
            .tool("restore")
            .args(["-n", "--target", &url, "--target-password-file", "target.pw"]);
        restore.args(["--from", "export/dump"])
    };
    assert_failed(&restore().args(["--pg-bin", &bin(18)]).run(), 69, said);
    // pg_restore 17 reads the archive and can load it into the target of 18; it is found after 18 in PATH.
    restore().env("PATH", path(&[18, 17])).run().success();
    wipe().args(["--undo"]).run().success();
    assert_eq!(
        target.psql("synapse", "SELECT count(*), sum(hashtext(name)) FROM users"),
        before
    );
}
