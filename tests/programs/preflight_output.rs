//! What preflight prints and writes: the order of findings, what is selected of them, tables, figures, and an estimate.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::json;

use crate::support::findings::{data, fires, found, serious};
use crate::support::installation::{Stage, public};
use crate::support::internet::{DOCUMENTS, Internet};
use crate::support::{code, names_in};

#[test]
fn findings_are_selected_but_blockers_are_not_skipped() {
    let stage = Stage::new();
    let internet = Internet::new(
        &stage.scene.world,
        "@ 86400 A 127.0.0.1\nmatrix A 127.0.0.1\n",
        &DOCUMENTS,
    );
    stage
        .scene
        .on_source("INSERT INTO users (name) VALUES ('@mallory:elsewhere.org')");

    let ran = public(
        &stage,
        &internet,
        &["--skip", "dns*", "--skip", "foreign-*", "--skip", "carry-*"],
    );
    assert_eq!(serious(&ran), ["blocker foreign-users"], "{ran}");
    assert!(!ran.stderr.contains("carry-"), "{ran}");

    let ran = public(&stage, &internet, &["--check", "--only", "dns*", "--report"]).success();
    insta::assert_snapshot!(ran, @r"
    -- stderr --
    warning   dns-ttl  resolvers cache DNS records of the homeserver for longer than 300 s: example.org A for 86400 s
                       -> set the TTL of these records to 300 s or less now, then wait 24 hours: until then, caches contain the old one
    preflight: 0 blockers, 0 accepted, 1 warning, 0 infos
    -- exit status: 0 --
    ");
    // With these flags the network is not queried.
    let skipping = ["dns*", "well-known*", "delegation"]
        .iter()
        .flat_map(|id| ["--skip", id]);
    let ran = stage
        .scene
        .tool("preflight")
        .args(["-n"])
        .args(stage.synapse.config_args())
        .args(skipping)
        .run();
    assert_eq!(serious(&ran), ["blocker foreign-users"], "{ran}");
    assert_eq!(
        code(&public(&stage, &internet, &["--only", "dns*"])),
        64,
        "a part is nothing to build on"
    );
    assert_eq!(code(&public(&stage, &internet, &["--skip", "no-such"])), 64);
}

#[test]
fn findings_are_a_table_and_a_file_for_prometheus() {
    let stage = Stage::new();
    stage.scene.on_target("UPDATE users SET name = '@a:elsewhere.org'");
    let look = || {
        stage
            .preflight()
            .args(["--check", "--report", "--metrics", "preflight.prom"])
    };

    let ran = look().run();

    assert_eq!(code(&ran), 1);
    assert!(
        ran.stderr
            .starts_with("BLOCKER   target-server-name  the target serves elsewhere.org"),
        "{ran}"
    );
    let world = &stage.scene.world;
    let text = world.read("preflight.prom");
    for line in [
        "ess_migrate_preflight_findings{severity=\"blocker\"} 1",
        "ess_migrate_preflight_finding{id=\"target-server-name\",severity=\"blocker\"} 1",
        "ess_migrate_preflight_open_blockers 1",
    ] {
        assert!(text.contains(&format!("{line}\n")), "{text}");
    }
    let mode = fs::metadata(world.path("preflight.prom")).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o644);
    stage.scene.on_target("UPDATE users SET name = '@a:example.org'");
    look().run().success();
    assert!(
        world
            .read("preflight.prom")
            .contains("ess_migrate_preflight_open_blockers 0\n")
    );
    assert_eq!(
        code(&look().args(["--metrics", "nowhere/preflight.prom"]).run()),
        64,
        "given twice"
    );
    let ran = stage
        .preflight()
        .args(["--check", "--metrics", "nowhere/preflight.prom"])
        .run();
    assert_eq!(code(&ran), 74, "{ran}");
}

#[test]
fn findings_come_in_the_same_order_each_time() {
    let stage = Stage::new();
    let order = || {
        found(
            &stage.preflight().args(["--export", "export"]).run(),
            &["blocker", "warning", "info"],
        )
    };
    let first = order();
    for _ in 0..3 {
        assert_eq!(order(), first);
    }
}

#[test]
fn each_step_is_reckoned_from_samples_of_both_servers() {
    let stage = Stage::new();

    let alone = data(&stage.source_only().run().success(), "downtime");
    let ran = stage.preflight().args(["--report"]).run().success();

    let both = data(&ran, "downtime");
    for (figures, servers) in [(&alone, 1), (&both, 2)] {
        let steps = figures["steps"].as_object().unwrap();
        let names: Vec<&String> = steps.keys().collect();
        assert_eq!(names, ["dump", "proof", "restore", "wipe"]);
        let sum: u64 = steps.values().map(|seconds| seconds.as_u64().unwrap()).sum();
        assert_eq!(figures["seconds"], json!(sum));
        let measured = ["source_bytes_per_second", "target_bytes_per_second"].map(|server| figures[server].as_object());
        assert_eq!(measured.iter().flatten().count(), servers);
        let rates = measured.iter().flatten().flat_map(|rates| rates.values());
        assert!(
            rates.map(|rate| rate.as_u64().unwrap()).all(|rate| rate > 0),
            "{figures}"
        );
    }
    let row = ran.stderr.lines().find(|line| line.contains(" downtime ")).unwrap();
    for step in [
        "estimated from short samples of both servers",
        "dump ",
        "wipe ",
        "restore ",
        "proof ",
    ] {
        assert!(row.contains(step), "{step} in {row}");
    }
}

#[test]
fn an_estimate_that_cannot_be_made_is_unknown_and_blocks_nothing() {
    let stage = Stage::new();
    // The largest table cannot be sampled: its rows have no text.
    stage.scene.on_source(
        "CREATE TABLE large AS SELECT n, (SELECT string_agg(md5(n::text || m), '') FROM generate_series(1, 50) m) AS t
             FROM generate_series(1, 4000) n;
         CREATE FUNCTION textless(large) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE 'too large'; END $$;
         CREATE CAST (large AS text) WITH FUNCTION textless(large);
         ALTER TABLE large OWNER TO synapse; ALTER FUNCTION textless OWNER TO synapse",
    );

    let ran = stage.preflight().run().success();

    assert_eq!(serious(&ran), [""; 0], "{ran}");
    fires(&ran, &["info unknown"]);
    assert!(
        ran.stderr.contains("not checked: the estimate of the downtime"),
        "{ran}"
    );
}

#[test]
fn a_check_is_silent_until_something_blocks() {
    let stage = Stage::new();
    let internet = Internet::new(
        &stage.scene.world,
        "@ 86400 A 127.0.0.1\nmatrix A 127.0.0.1\n",
        &DOCUMENTS,
    );
    let check = |args: &[&str]| {
        let call = internet.seen_by(stage.scene.tool("preflight")).args(["-n", "--check"]);
        call.args(stage.synapse.config_args()).args(args).run()
    };
    for args in [
        &[][..],
        &["--accept", "target-used"],
        &["--only", "dns*"],
        &["--skip", "media*"],
    ] {
        let ran = check(args).success();
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""), "{args:?}");
    }
    // --report prints the table.
    let table = check(&["--only", "dns*", "--report"]).success();
    assert!(table.stderr.starts_with("warning   dns-ttl  "), "{table}");

    stage
        .scene
        .on_source("INSERT INTO users (name) VALUES ('@mallory:elsewhere.org')");
    let ran = check(&[]);
    assert_eq!((code(&ran), ran.stdout.as_str()), (1, ""));
    assert!(
        ran.stderr.starts_with("preflight: blocker: 1 user does not belong to"),
        "{ran}"
    );
    assert!(
        ran.stderr.contains("warning: ") && ran.stderr.contains("(dns-ttl)"),
        "{ran}"
    );
    assert!(check(&["--accept", "foreign-users"]).success().stderr.is_empty());
}

#[test]
fn a_table_has_colours_and_fits_the_terminal() {
    let stage = Stage::new();
    let on_a_terminal = |more: &str| {
        let config = stage.synapse.config_args().join(" ");
        let line = format!("stty columns 90; {more} preflight -n --check --report --only 'carry-*' {config}");
        let script = format!("script -qec \"{line}\" /dev/null < /dev/null");
        stage.scene.world.shell(&script).success().stdout.replace('\r', "")
    };

    let table = on_a_terminal("");

    assert!(table.contains("\u{1b}[32minfo    \u{1b}[0m  carry-pepper"), "{table}");
    let widest = |table: &str| table.lines().map(|line| line.chars().count()).max().unwrap();
    let plain = on_a_terminal("NO_COLOR=1");
    assert!(
        !plain.contains('\u{1b}') && plain.contains("info      carry-pepper"),
        "{plain}"
    );
    assert!(widest(&plain) <= 90, "{plain}");
    let unread = stage
        .source_only()
        .args(["--check", "--report", "--only", "carry-*"])
        .run()
        .success();
    assert!(
        !unread.stderr.contains('\u{1b}') && widest(&unread.stderr) > 90,
        "{unread}"
    );
}

#[test]
fn figures_for_prometheus_are_replaced_as_a_whole() {
    let stage = Stage::new();
    let world = &stage.scene.world;
    world.write("metrics/preflight.prom", "old\n");
    fs::hard_link(world.path("metrics/preflight.prom"), world.path("same")).unwrap();

    stage
        .source_only()
        .args(["--check", "--metrics", "metrics/preflight.prom"])
        .run()
        .success();

    // A reader that opened the file before it was replaced still reads the old content.
    assert_eq!(world.read("same"), "old\n");
    assert!(
        world
            .read("metrics/preflight.prom")
            .contains("ess_migrate_preflight_open_blockers 0\n")
    );
    assert_eq!(names_in(world, "metrics"), ["preflight.prom"]);
}
