//! Each program alone, as in a runbook of your own: with flags only, and a standard input that belongs to the script.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use crate::support::{
    Call, Identity, OFFLINE, Scene, Stdin, Synapse, TOOLS, World, assert_failed, names_in, target_cluster,
};

/// Each program with flags only, as typed by a person. `$1` is replaced where a name must differ between calls.
const LINES: [(&str, &str); 5] = [
    (
        "extract-secrets",
        "extract-secrets -c old/homeserver.yaml -c old/conf.d --out secrets$1",
    ),
    ("pgdump-wrap", r#"pgdump-wrap --source "$SOURCE" --out here/dump$1"#),
    (
        "ess-wipe",
        r#"ess-wipe --target "$TARGET" --target-password-file target.pw --server-name example.org --allow-used"#,
    ),
    (
        "verify",
        r#"verify --target "$TARGET" --target-password-file target.pw --from export/dump"#,
    ),
    (
        "restore",
        r#"restore --target "$EMPTY" --target-password-file target.pw --from export/dump"#,
    ),
];

/// The files and databases that all commands need.
fn scene() -> Scene {
    let own = Scene::new();
    let scene = Scene {
        source: own.source,
        ..Scene::restored()
    };
    Synapse::debian(&scene.world, "old", &scene.source, &Identity::old());
    scene.world.shell("mkdir -m 700 here").success();
    target_cluster().create_database(&format!("{}_empty", scene.target), "synapse_user");
    scene
}

fn with_names<'a>(scene: &Scene, call: Call<'a>) -> Call<'a> {
    call.env("PGPASSFILE", scene.world.path("pgpass"))
        .env("SOURCE", scene.source_url())
        .env("TARGET", scene.target_url())
        .env(
            "EMPTY",
            target_cluster().url(&format!("{}_empty", scene.target), "synapse_user"),
        )
}

/// A script of all commands, each with `-n` and its output in a file named after it.
fn script(wrap: impl Fn(&str) -> String) -> String {
    let lines = LINES.map(|(tool, line)| {
        let line = line.replacen(tool, &format!("{tool} -n"), 1).replace("$1", "");
        format!("{} || echo '{tool} failed'\n", wrap(&format!("{line} >{tool}.json")))
    });
    format!("{}echo end\n", lines.concat())
}

#[track_caller]
fn assert_documents(scene: &Scene) {
    for (tool, _) in LINES {
        let text = scene.world.read(&format!("{tool}.json"));
        let document: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(document["format"], "ess-migration/1", "{tool}");
    }
    assert!(scene.world.path("here/dump/manifest.json").is_file());
    let restored: serde_json::Value = serde_json::from_str(&scene.world.read("restore.json")).unwrap();
    assert_eq!(restored["restore"]["proven_against"], "manifest");
}

#[test]
fn a_script_on_standard_input_is_left_alone() {
    let scene = scene();
    let script = script(str::to_owned);

    let ran = with_names(&scene, scene.world.script("exec bash -s"))
        .stdin(script.as_str())
        .run();

    assert_eq!(ran.stdout, "end\n", "{ran}");
    assert_documents(&scene);
}

#[test]
fn a_loop_that_reads_is_left_alone() {
    let scene = scene();
    let script = script(|line| {
        format!(
            "printf '%s\\n' one two three | while read -r word; do [[ $word != two ]] || {line}; echo $word >>words; done"
        )
    });

    let ran = with_names(&scene, scene.world.script(&script)).run();

    assert_eq!(ran.stdout, "end\n", "{ran}");
    assert_eq!(scene.world.read("words"), "one\ntwo\nthree\n".repeat(LINES.len()));
    assert_documents(&scene);
}

#[test]
fn an_empty_pipe_is_an_upstream_that_failed() {
    let scene = scene();
    for (tool, line) in LINES {
        let ran = with_names(&scene, scene.world.script(line)).stdin("").run();
        assert_failed(
            &ran,
            65,
            &format!("{tool}: standard input contains no document: the previous program failed, or -n is missing\n"),
        );
        assert!(!ran.stderr.contains("hint:"), "{ran}");
    }
    assert_eq!(names_in(&scene.world, "here"), [""; 0]);
    assert!(!scene.world.path("secrets").exists());
}

#[test]
fn preflight_runs_under_cron_whose_input_is_an_empty_pipe() {
    let scene = scene();

    let line = format!("preflight --check {OFFLINE} -c old/homeserver.yaml -c old/conf.d");
    let ran = scene.world.script(&line).stdin("").run();

    assert!(matches!(ran.status.code(), Some(0 | 1)), "{ran}");
    assert!(!ran.stderr.contains("standard input"), "{ran}");
}

#[test]
fn no_document_is_looked_for_where_none_can_be() {
    let scene = scene();
    for (stdin, mark) in [(Stdin::Null, "a"), (Stdin::Closed, "b"), (Stdin::Socket, "c")] {
        // restore can run only once: it needs a target that has been wiped.
        for (_, line) in &LINES[..4] {
            let line = line.replace("$1", mark);
            with_names(&scene, scene.world.script(&line))
                .stdin(stdin)
                .run()
                .success();
        }
    }
    assert_eq!(
        names_in(&scene.world, "here")
            .iter()
            .filter(|name| !name.starts_with('.'))
            .count(),
        3
    );
}

#[test]
fn the_environment_may_name_the_target() {
    let scene = Scene::restored();
    let verify = scene.world.tool("verify").args(["-n", "--from", "export/dump"]);

    let ran = verify
        .env("PGHOST", "127.0.0.1")
        .env("PGPORT", target_cluster().port.to_string())
        .env("PGUSER", "synapse_user")
        .env("PGDATABASE", &scene.target)
        .env("PGPASSWORD", crate::support::ESS_PASSWORD)
        .run()
        .success();

    let password = &ran.json()["target"]["password"];
    assert_eq!(
        *password,
        serde_json::json!({"from": "environment", "name": "PGPASSWORD"})
    );
}

#[test]
fn a_document_that_nothing_reads_is_named() {
    let scene = Scene::restored();
    let verify = |ending: &str| {
        let call = scene.world.script(&format!(
            "exec verify -n --from export/dump --target \"$TARGET\" --target-password-file target.pw {ending}"
        ));
        call.env("TARGET", scene.target_url())
            .env("PGPASSFILE", scene.world.path("pgpass"))
            .run()
    };
    let said = "verify: standard output is closed or discarded, so the document is not passed on";

    let closed = verify(">&-");
    assert!(closed.stderr.contains(said), "{closed}");
    let discarded = verify(">/dev/null");
    assert!(
        discarded.status.success() && !discarded.stderr.contains(said),
        "{discarded}"
    );
}

#[test]
fn a_path_that_is_not_utf8_is_refused_before_anything_is_written() {
    let scene = Scene::new();
    let ran = scene
        .world
        .script("exec pgdump-wrap -n --source \"$SOURCE\" --out $'out\\xff'")
        .env("SOURCE", scene.source_url())
        .env("PGPASSFILE", scene.world.path("pgpass"))
        .run();
    assert_failed(&ran, 64, "the path is not UTF-8, so the document cannot contain it");
    assert!(
        !names_in(&scene.world, "").iter().any(|name| name.starts_with("out")),
        "{ran}"
    );
}

#[test]
fn a_missing_password_is_reported_with_its_option() {
    let scene = Scene::new();
    let pgdump = |more: &[&str]| {
        let url = scene.source_url();
        let call = scene
            .world
            .tool("pgdump-wrap")
            .args(["-n", "--source", &url, "--out", "dump"]);
        call.args(more).run()
    };
    assert_failed(
        &pgdump(&[]),
        69,
        "password missing\nhint: give the password with --source-password-file",
    );
    scene.world.write("source.pw", "wrong\n");
    fs::set_permissions(scene.world.path("source.pw"), Permissions::from_mode(0o644)).unwrap();
    let said = "other users can access the password file ";
    assert_failed(&pgdump(&["--source-password-file", "source.pw"]), 77, said);
    let text = scene.source_url().replace("//", "//synapse:secret@");
    let inside = scene
        .world
        .tool("pgdump-wrap")
        .args(["-n", "--out", "dump", "--source", &text])
        .run();
    assert_failed(
        &inside,
        64,
        "--source: connection string: it must not contain a password",
    );
    assert!(inside.stderr.contains("--source-password-file"), "{inside}");
    let empty = scene.world.tool("verify").args(["-n", "--target", ""]).run();
    assert_failed(&empty, 64, "--target is empty\nhint: check that the variable");
}

#[test]
fn a_target_that_no_document_names_is_missed_before_the_dump() {
    let scene = Scene::new();
    let url = scene.source_url();
    let dump = |document: &str| {
        let call = scene.tool("pgdump-wrap").args(["--source", &url, "--out", "dump"]);
        call.stdin(document).run()
    };
    let said = "the document names no target; ess-wipe and restore will need --target";
    let ran = dump("{\"format\":\"ess-migration/1\"}").success();
    assert!(ran.stderr.contains(said), "{ran}");
    let named = "{\"format\":\"ess-migration/1\",\"target\":{\"connection\":{\"dbname\":\"x\"}}}";
    let ran = dump(named).success();
    assert!(!ran.stderr.contains(said), "{ran}");
    let ran = scene.dumper().run().success();
    assert!(!ran.stderr.contains(said), "{ran}");
}

#[test]
fn a_document_that_n_ignores_is_noted() {
    let scene = scene();
    let note = "pgdump-wrap: the document on standard input was ignored, because of -n\n";
    let document = r#"{"format": "ess-migration/1"}"#;
    scene.world.write("migration.json", document);
    let line = r#"pgdump-wrap -n --source "$SOURCE" --out here/dump"#;

    let piped = with_names(&scene, scene.world.script(line))
        .stdin(document)
        .run()
        .success();
    let from_file = with_names(&scene, scene.world.script(&format!("{line} <migration.json")))
        .run()
        .success();
    let other = with_names(&scene, scene.world.script(line)).stdin("{}").run().success();

    assert!(piped.stderr.contains(note), "{piped}");
    assert!(from_file.stderr.contains(note), "{from_file}");
    assert!(!other.stderr.contains("ignored"), "{other}");
}

#[test]
fn the_file_that_contains_all_programs_is_the_one_that_it_is_called_as() {
    let world = World::new();
    let all = env!("CARGO_BIN_EXE_ess-migrate");
    for (name, built) in TOOLS {
        let link = format!("links/{name}");
        world.write("links/.keep", "");
        symlink(all, world.path(&link)).unwrap();
        let help = |program: &Path| world.shell(&format!("{} --help", program.display())).success().stdout;
        assert_eq!(help(&world.path(&link)), help(Path::new(built)), "{name}");
    }

    let ran = world.shell(all);

    assert_eq!(ran.status.code(), Some(64), "{ran}");
    let names = TOOLS.map(|(name, _)| name);
    assert!(names.iter().all(|name| ran.stderr.contains(name)), "{ran}");
}
