//! Undo: it brings back what the wipe erased, and the command is printed whenever a run ends, short enough to type, and
//! safe to run.

use std::fs;

use rustix::process::Signal;
use serde_json::json;

use crate::support::pages::{literals, section};
use crate::support::{
    Call, Identity, Scene, Stdin, Synapse, Visitor, assert_failed, link_programs, names_in, pgbin, target_cluster,
    undo_from_export, write_program,
};

#[test]
fn an_interrupted_restore_prints_the_undo_command_and_the_export_is_enough_for_it() {
    let scene = Scene::new();
    let before = scene.target_dump();
    let dumped = scene.dump().success().stdout;
    let wiped = scene.wipe(dumped.as_str()).success().stdout;
    let script = format!(
        "[[ $* != *--section=data* ]] || sleep 1000\nexec {}/pg_restore \"$@\"\n",
        pgbin()
    );
    write_program(&scene.world, "bin/pg_restore", &script);
    link_programs(&scene.world, "bin");
    let mut restore = scene
        .tool("restore")
        .args(["-v", "--pg-bin", "bin"])
        .stdin(wiped.as_str())
        .start();
    restore.wait_for("--section=data");
    restore.signal(Signal::TERM);
    let ran = restore.wait();
    assert_eq!(ran.stdout, "", "{ran}");
    let line = ran
        .stderr
        .lines()
        .find_map(|line| line.strip_prefix("to undo the wipe: "));
    let line = line.unwrap_or_else(|| panic!("no way back in {ran}")).to_owned();
    assert!(scene.is_fenced());

    // It prints the command that carries it out, and changes nothing before.
    let planned = undo_from_export(&scene, &[]).success();
    let confirm = format!("--execute --confirm '{}'", scene.confirmation());
    assert!(planned.stderr.contains(&confirm), "{planned}");
    assert!(scene.is_fenced());
    scene.world.shell(&format!("set -e; {line} >/dev/null")).success();

    assert_eq!(scene.target_dump(), before);
}

#[test]
fn every_failure_after_the_wipe_prints_the_undo_command() {
    let scene = Scene::new();
    let dumped = scene.dump().success().stdout;
    let wiped = scene.wipe(dumped.as_str()).success().stdout;
    let fails = |restore: crate::support::Ran| {
        assert!(!restore.status.success(), "{restore}");
        assert!(
            restore.stderr.contains("to undo the wipe: ess-wipe -n --undo "),
            "{restore}"
        );
        assert!(scene.is_fenced(), "{restore}");
    };
    let restore = || scene.tool("restore").stdin(wiped.as_str());

    let visitor = Visitor::new(target_cluster(), &scene.target, "synapse_user");
    fails(restore().run());
    drop(visitor);
    scene.world.shell("mv export/dump/data export/dump/gone").success();
    fails(restore().run());
    scene.world.shell("mv export/dump/gone export/dump/data").success();
    scene.on_source("UPDATE profiles SET displayname = displayname || '!'");
    fails(restore().run());
}

#[test]
fn a_synapse_that_started_once_without_users_does_not_block_an_undo() {
    let scene = Scene::dumped();
    let before = scene.target_dump();
    scene.wipe(Stdin::Null).success();
    scene.restore().run().success();
    let synapse = Synapse::new(&scene.world, "ess", &scene.target_database(), &Identity::old());
    synapse.start();
    let verify = scene.verify().run();
    assert_failed(&verify, 1, "using the target: ");
    synapse.stop();

    let confirm = scene.confirmation();
    undo_from_export(&scene, &["--execute", "--confirm", &confirm]).success();

    assert_eq!(scene.target_dump(), before);
}

#[test]
fn the_numbered_steps_of_the_runbook_undo_a_migration() {
    let scene = Scene::new();
    let before = scene.target_dump();
    let dumped = scene.dump().success().stdout;
    let wiped = scene.wipe(dumped.as_str()).success().stdout;
    scene.tool("restore").stdin(wiped.as_str()).run().success();
    let page = fs::read_to_string("man/ess-migrate.7").unwrap();
    let commands = literals(section(&page, "HOW TO UNDO"));
    assert_eq!(commands.len(), 2, "{commands:?}");

    for command in commands {
        let typed = command.replace("example.org/synapse", &scene.confirmation());
        scene.world.shell(&typed).success();
    }

    assert_eq!(scene.target_dump(), before);
}

#[test]
fn the_same_line_runs_again_after_it_was_undone() {
    let scene = Scene::new();
    let before = scene.target_dump();
    let line = || {
        let dumped = scene.dump().success().stdout;
        let wiped = scene.wipe(dumped.as_str()).success().stdout;
        scene.tool("restore").stdin(wiped.as_str()).run().success();
    };
    line();
    let restored = scene.target_dump();
    let confirm = scene.confirmation();
    undo_from_export(&scene, &["--execute", "--confirm", &confirm]).success();
    assert_eq!(scene.target_dump(), before);

    line();

    assert_eq!(scene.target_dump(), restored);
    undo_from_export(&scene, &["--execute", "--confirm", &confirm]).success();
    assert_eq!(scene.target_dump(), before);
}

#[test]
fn a_preflight_of_another_target_does_not_mislead_an_undo() {
    let scene = Scene::new();
    let before = scene.target_dump();
    let dumped = scene.dump().success().stdout;
    scene.wipe(dumped.as_str()).success();
    target_cluster().create_database("trial", "synapse_user");
    let trial = target_cluster().url("trial", "synapse_user");
    let source = scene.source_url();
    let look = scene
        .tool("preflight")
        .args(["-n", "--source", &source, "--export", "export"]);
    look.args(["--target", &trial, "--target-password-file", "target.pw"])
        .run();
    assert_eq!(
        names_in(&scene.world, "export/documents").last().unwrap(),
        "03-preflight.json"
    );

    undo_from_export(&scene, &["--execute", "--confirm", &scene.confirmation()]).success();

    assert_eq!(scene.target_dump(), before);
}

#[test]
fn an_export_that_was_carried_elsewhere_leads_back() {
    let scene = Scene::new();
    let before = scene.target_dump();
    let dumped = scene.dump().success().stdout;
    scene.wipe(dumped.as_str()).success();
    scene.world.shell("mv export elsewhere").success();

    let undo = scene.tool("ess-wipe").args([
        "-n",
        "--undo",
        "--export",
        "elsewhere",
        "--execute",
        "--confirm",
        &scene.confirmation(),
    ]);
    undo.run().success();

    assert_eq!(scene.target_dump(), before);
}

#[test]
fn the_only_copy_of_what_was_restored_is_kept() {
    let scene = Scene::new();
    let dumped = scene.dump().success().stdout;
    let wiped = scene.wipe(dumped.as_str()).success().stdout;
    scene.tool("restore").stdin(wiped.as_str()).run().success();
    scene.world.shell("rm export/dump/data/*.dat*").success();

    let ran = undo_from_export(&scene, &["--execute", "--confirm", &scene.confirmation()]).success();

    assert!(ran.stderr.contains("the target is backed up first"), "{ran}");
    assert!(scene.world.path("export/ess-before-wipe.undone/manifest.json").exists());
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
