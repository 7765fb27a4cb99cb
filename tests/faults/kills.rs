//! Kills and signals at any moment: no child process keeps running, nothing incomplete looks complete, no Synapse
//! starts on a target that is not proven, and re-running the same command resumes.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{
    Call, Identity, Proxy, Scene, Stdin, Synapse, assert_failed, names_in, target_cluster, wait_for_session,
    wait_until, wait_until_all_ended,
};

/// A wipe with `-v`.
fn wiper<'a>(scene: &Scene) -> Call<'a> {
    scene
        .wiper()
        .args(["-v", "--execute", "--confirm", &scene.confirmation()])
}

#[test]
fn a_killed_dump_leaves_no_worker_and_no_dump() {
    let scene = Scene::new();
    // Large enough to keep a worker busy for seconds.
    scene.on_source(
        "SET ROLE synapse; CREATE TABLE big AS SELECT (SELECT string_agg(md5(n::text || m), '') FROM generate_series(1, 10) m) \
         FROM generate_series(1, 100000) n",
    );
    let dumper = || scene.dumper().args(["-v", "-j", "2", "--compress", "9"]);
    let running = dumper().start();
    let data = scene.world.path("export/.dump.partial/data");
    let large = || {
        let entries = fs::read_dir(&data).into_iter().flatten().flatten();
        entries
            .map(|entry| entry.path())
            .find(|path| fs::metadata(path).is_ok_and(|file| file.len() > 1 << 20))
    };
    wait_until("a worker is busy", || large().is_some());
    let large = large().unwrap();

    running.kill();

    wait_until_all_ended(&scene);
    assert!(!scene.world.path("export/dump").exists());
    let whole = scene.world.script("gzip -t \"$FILE\"").env("FILE", &large).run();
    assert!(!whole.status.success(), "the worker went on to the end");
    let again = dumper().run().success();
    assert_eq!(again.json()["dump"]["kept"], false);
    assert_eq!(names_in(&scene.world, "export"), [".lock", "documents", "dump"]);
}

#[test]
fn a_wipe_killed_before_it_commits_leaves_everything() {
    let scene = Scene::dumped();
    let before = scene.target_dump();
    for stage in ["to be erased: ", "/pg_dump --no-password", "--file=/dev/null"] {
        let mut running = wiper(&scene).start();
        running.wait_for(stage);

        running.kill();

        wait_until_all_ended(&scene);
        assert_eq!(scene.target_dump(), before, "{stage}");
        let backup = scene.world.path("export/ess-before-wipe");
        assert!(!backup.exists() || backup.join("manifest.json").is_file(), "{stage}");
    }

    let again = wiper(&scene).run().success();

    assert!(scene.is_fenced());
    // The last kill came when the backup was complete; this backup is kept.
    assert!(again.stderr.contains("kept the existing backup"), "{again}");
    assert_eq!(
        names_in(&scene.world, "export"),
        [".lock", "documents", "dump", "ess-before-wipe"]
    );
}

#[test]
fn a_wipe_killed_while_it_commits_has_done_all_or_nothing() {
    let scene = Scene::dumped();
    let before = scene.target_dump();
    let mut running = wiper(&scene).start();
    running.wait_for("ess-wipe: backed up the target");

    running.kill();

    wait_until_all_ended(&scene);
    assert!(scene.target_dump() == before || scene.is_fenced());
    wiper(&scene).run().success();
    assert!(scene.is_fenced());
    assert_eq!(
        names_in(&scene.world, "export"),
        [".lock", "documents", "dump", "ess-before-wipe"]
    );
}

#[test]
fn a_wipe_killed_before_it_erases_has_left_the_undo_command() {
    let scene = Scene::dumped();
    let before = scene.target_dump();
    let kept = scene.world.path("export/documents/01-ess-wipe.json");
    let mut running = wiper(&scene).start();
    running.wait_for("ess-wipe: backed up the target");
    wait_until("the plan is kept", || kept.exists());

    running.kill();

    wait_until_all_ended(&scene);
    let document: Value = serde_json::from_slice(&fs::read(&kept).unwrap()).unwrap();
    let line = document["wipe"]["next"]["go_back"].as_str().unwrap();
    assert!(line.contains("ess-wipe -n --undo --export"), "{line}");
    if scene.target_dump() != before {
        scene.world.shell(&format!("set -e; {line} >/dev/null")).success();
        assert_eq!(scene.target_dump(), before);
    }
}

#[test]
fn a_wipe_killed_after_it_committed_keeps_synapse_out() {
    let scene = Scene::dumped();
    let mut running = wiper(&scene).start();
    running.wait_for("ess-wipe: erased ");

    running.kill();

    wait_until_all_ended(&scene);
    let synapse = Synapse::new(&scene.world, "ess", &scene.target_database(), &Identity::ess());
    assert!(synapse.start_expecting_refusal().contains("too new for the server"));
    let backup = scene.world.read("export/ess-before-wipe/manifest.json");
    let again = wiper(&scene).run().success();
    assert_eq!(again.json()["wipe"]["backup"], "ess-before-wipe");
    assert_eq!(scene.world.read("export/ess-before-wipe/manifest.json"), backup);
}

#[test]
fn an_undo_killed_at_any_stage_leaves_the_target_unchanged_or_fenced_and_resumes() {
    let scene = Scene::dumped();
    let before = scene.target_dump();
    scene.wipe(Stdin::Null).success();
    scene.restore().run().success();
    let restored = scene.target_dump();
    let undo = || {
        let undo = scene.tool("ess-wipe").args(scene.target_args()).args(["-v", "--undo"]);
        undo.args(["--export", "export", "--execute", "--confirm", &scene.confirmation()])
    };
    for stage in [
        "to be brought back: ",
        "--list",
        "--data-only",
        "--section=pre-data",
        "--section=data --section=post-data",
        "ess-wipe: brought back ",
    ] {
        let mut running = undo().start();
        running.wait_for(stage);

        running.kill();

        wait_until_all_ended(&scene);
        let now = scene.target_dump();
        match stage {
            "to be brought back: " => assert!(now == restored || scene.is_fenced(), "{stage}"),
            "ess-wipe: brought back " => assert_eq!(now, before),
            _ => assert!(scene.is_fenced(), "{stage}"),
        }
        if stage == "--section=data --section=post-data" {
            // Neither restore nor ess-wipe continues with a target whose undo is incomplete.
            let restore = scene.restore().run();
            assert!(restore.stderr.contains("the target is fenced for source "), "{restore}");
            let wipe = scene.wipe(Stdin::Null);
            assert!(wipe.stderr.contains("finish it with ess-wipe --undo"), "{wipe}");
        }
    }

    let again = undo().run().success();

    assert_eq!(again.json()["wipe"]["undone"], true);
    assert_eq!(scene.target_dump(), before);
}

#[test]
fn an_undo_that_was_killed_runs_again_with_the_hash_of_its_plan() {
    let scene = Scene::dumped();
    let before = scene.target_dump();
    scene.wipe(Stdin::Null).success();
    scene.restore().run().success();
    let undo = || {
        let undo = scene.tool("ess-wipe").args(scene.target_args()).args(["-v", "--undo"]);
        undo.args(["--export", "export"])
    };
    let plan = undo().run().success().json()["wipe"]["plan"]
        .as_str()
        .unwrap()
        .to_owned();
    let execute = || undo().args(["--execute", "--confirm", &scene.confirmation(), "--plan", &plan]);
    let mut running = execute().start();
    running.wait_for("--section=data --section=post-data");
    running.kill();
    wait_until_all_ended(&scene);
    assert!(scene.is_fenced());

    let again = execute().run().success();

    assert_eq!(again.json()["wipe"]["undone"], true);
    assert_eq!(scene.target_dump(), before);
}

#[test]
fn a_killed_verify_changes_nothing() {
    let scene = Scene::restored();
    let before = scene.target_dump();
    let running = scene.verify().start();
    wait_for_session(target_cluster(), &scene.target, "ess-migrate/verify/");

    running.kill();

    wait_until_all_ended(&scene);
    assert_eq!(scene.target_dump(), before);
    scene.verify().run().success();
}

#[test]
fn a_killed_pipeline_resumes_without_a_second_dump_or_backup() {
    let scene = Scene::new();
    let line = r#"set -o pipefail; pgdump-wrap -n --source "$SOURCE" --export export --server-name example.org \
        | ess-wipe --target "$TARGET" --target-password-file target.pw --execute --confirm "$CONFIRM" \
        | restore -v | verify"#;
    let line = || {
        let call = scene.world.script(line).env("PGPASSFILE", scene.world.path("pgpass"));
        let call = call.env("SOURCE", scene.source_url()).env("TARGET", scene.target_url());
        call.env("CONFIRM", scene.confirmation())
    };
    let mut running = line().start();
    running.wait_for("--section=data");

    assert!(scene.world.signal("restore", Signal::KILL));

    let killed = running.wait();
    assert_eq!(killed.status.code(), Some(65), "{killed}");
    assert_eq!(killed.stdout, "");
    wait_until_all_ended(&scene);
    assert!(scene.is_fenced());
    let document = line().run().success().json();
    assert_eq!(document["dump"]["kept"], true);
    assert_eq!(document["wipe"]["backup"], "ess-before-wipe");
    assert_eq!(document["verify"]["equal"], true);
    assert_eq!(
        names_in(&scene.world, "export"),
        [".lock", "documents", "dump", "ess-before-wipe"]
    );
}

#[test]
fn a_pipeline_that_was_killed_when_the_fence_was_lifted_finds_its_work_done() {
    let scene = Scene::new();
    let line = r#"set -o pipefail; pgdump-wrap -n --source "$SOURCE" --export export --server-name example.org \
        | ess-wipe --target "$TARGET" --target-password-file target.pw --execute --confirm "$CONFIRM" \
        | restore"#;
    let line = || {
        let call = scene.world.script(line).env("PGPASSFILE", scene.world.path("pgpass"));
        let call = call.env("SOURCE", scene.source_url()).env("TARGET", scene.target_url());
        call.env("CONFIRM", scene.confirmation())
    };
    let mut running = line().start();
    running.wait_for("; Synapse can start");
    scene.world.signal("restore", Signal::KILL);
    running.wait();
    wait_until_all_ended(&scene);
    let restored = scene.target_dump();

    let document = line().run().success().json();

    for section in ["dump", "wipe", "restore"] {
        assert_eq!(document[section]["kept"], true, "{section}");
    }
    assert_eq!(document["wipe"]["backup"], "ess-before-wipe");
    assert_eq!(
        document["restore"]["next"]["go_back"],
        document["wipe"]["next"]["go_back"]
    );
    assert_eq!(scene.target_dump(), restored);
}

#[test]
fn a_commit_whose_answer_is_lost_is_found_done_by_the_same_line() {
    let scene = Scene::new();
    let proxy = Proxy::new(target_cluster().port);
    let line = r#"set -o pipefail; pgdump-wrap -n --source "$SOURCE" --export export --server-name example.org \
        | ess-wipe --target "$TARGET" --target-password-file target.pw --execute --confirm "$CONFIRM" \
        | restore"#;
    let (direct, through) = (target_cluster().port.to_string(), proxy.port.to_string());
    let line = || {
        let call = scene.world.script(line).env("PGPASSFILE", scene.world.path("pgpass"));
        let call = call.env("SOURCE", scene.source_url());
        let call = call.env("TARGET", scene.target_url().replace(&direct, &through));
        call.env("CONFIRM", scene.confirmation())
    };

    // The wipe's transaction is the first that creates the tables of the fence.
    proxy.lose_answer_to_commit_of("CREATE TABLE IF NOT EXISTS public.schema_version");
    let wiped = line().run();

    assert!(proxy.has_lost_answer());
    // The status of the pipeline is that of restore, which received no document.
    assert_failed(
        &wiped,
        65,
        "COMMIT failed, so it is unknown whether the target was erased",
    );
    assert_eq!(wiped.stdout, "");
    assert!(scene.is_fenced());
    let backup = scene.world.read("export/ess-before-wipe/manifest.json");

    proxy.lose_answer_to_commit_of("COMMENT ON TABLE public.schema_version IS NULL");
    let lifted = line().run();

    assert!(proxy.has_lost_answer());
    assert_failed(&lifted, 69, "the connection was lost while lifting the fence");
    assert_eq!(lifted.stdout, "");
    assert!(!scene.is_fenced());
    let restored = scene.target_dump();

    let document = line().run().success().json();

    for section in ["dump", "wipe", "restore"] {
        assert_eq!(document[section]["kept"], true, "{section}");
    }
    assert_eq!(document["wipe"]["backup"], "ess-before-wipe");
    assert_eq!(scene.world.read("export/ess-before-wipe/manifest.json"), backup);
    assert_eq!(scene.target_dump(), restored);
}

#[test]
fn a_dump_that_gets_a_signal_cleans_up_and_dies_of_it() {
    let scene = Scene::new();
    for signal in [Signal::TERM, Signal::INT] {
        let mut running = scene.dumper().args(["-v"]).start();
        running.wait_for("/pg_dump --no-password");

        running.signal(signal);

        let ran = running.wait();
        assert_eq!(ran.status.signal(), Some(signal.as_raw()), "{ran}");
        assert!(
            ran.stderr
                .contains("the dump failed, and its partial files were removed: "),
            "{ran}"
        );
        assert!(ran.stderr.contains(": interrupted by SIG"), "{ran}");
        assert_eq!(ran.stdout, "");
        wait_until_all_ended(&scene);
        assert_eq!(names_in(&scene.world, "export"), [".lock"]);
    }
}

#[test]
fn a_wipe_that_gets_a_signal_has_erased_nothing() {
    let scene = Scene::dumped();
    let before = scene.target_dump();
    let mut running = wiper(&scene).start();
    running.wait_for("/pg_dump --no-password");

    running.signal(Signal::TERM);

    let ran = running.wait();
    assert_eq!(ran.status.signal(), Some(15), "{ran}");
    assert!(ran.stderr.contains("nothing was erased"), "{ran}");
    wait_until_all_ended(&scene);
    assert_eq!(scene.target_dump(), before);
    assert_eq!(names_in(&scene.world, "export"), [".lock", "dump"]);
}

#[test]
fn a_restore_that_gets_a_signal_reports_that_the_target_is_fenced() {
    let scene = Scene::wiped();
    let mut running = scene.restore().args(["-v"]).start();
    running.wait_for("--section=data");

    running.signal(Signal::INT);

    let ran = running.wait();
    assert_eq!(ran.status.signal(), Some(2), "{ran}");
    assert!(ran.stderr.contains("the target is fenced or unchanged"), "{ran}");
    assert!(ran.stderr.contains("interrupted by SIGINT"), "{ran}");
    wait_until_all_ended(&scene);
    assert!(scene.is_fenced());
    scene.restore().run().success();
}

#[test]
fn a_restore_under_nohup_outlives_the_terminal() {
    let scene = Scene::wiped();
    let mut running = scene.restore().args(["-v"]).in_background().start();
    running.wait_for("--section=data");

    for signal in [Signal::HUP, Signal::INT, Signal::QUIT] {
        running.signal(signal);
    }

    running.wait().success();
    assert!(!scene.is_fenced());
}

#[test]
fn a_tool_that_waits_for_its_document_ends_at_once() {
    let scene = Scene::restored();
    let mut running = scene.world.script("sleep 1000 | exec verify -v").start();
    running.wait_for("verify: waiting for a document on standard input (use -n to read none)");

    assert!(scene.world.signal("verify", Signal::TERM));

    wait_until("verify ended", || scene.world.running("verify").is_empty());
    scene.world.signal("sleep", Signal::KILL);
    assert_eq!(running.wait().status.code(), Some(128 + 15));
}

#[test]
fn secrets_killed_at_any_moment_are_complete_or_missing_and_the_same_command_resumes() {
    let scene = Scene::new();
    let world = &scene.world;
    let config = |form: &str| {
        world.write(
            "one.yaml",
            format!(
                "server_name: example.org\nreport_stats: no\nmacaroon_secret_key: m\nsigning_key_path: {0}/key\n\
                 form_secret_path: {0}/{form}\ndatabase: {{name: psycopg2, args: {{dbname: d}}}}\n",
                world.path("").display().to_string().trim_end_matches('/')
            ),
        );
    };
    world.write("key", Identity::old().signing_key);
    world.write("form", "form");
    let line = ["-n", "-c", "one.yaml", "--out", "secrets"];

    // Kill while secrets are read and written, later each time, until a run finishes.
    config("form");
    for delay in 0.. {
        let running = world.tool("extract-secrets").args(line).start();
        std::thread::sleep(std::time::Duration::from_millis(delay));
        let ended = running.kill().status.success();
        let form = world.path("secrets/secrets/form_secret");
        assert!(!form.exists() || fs::read(&form).unwrap() == b"form");
        if ended || delay > 50 {
            break;
        }
    }

    let again = world.run("extract-secrets", line, Stdin::Null).success();
    assert_eq!(again.json()["secrets"]["entries"].as_array().unwrap().len(), 3);
    assert_eq!(
        names_in(world, "secrets/secrets"),
        ["form_secret", "index.json", "macaroon_secret_key", "signing_key"]
    );
}
