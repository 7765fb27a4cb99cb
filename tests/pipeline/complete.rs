//! The pipeline of five programs: the target is the same homeserver as the source.

use crate::support::migration::Move;
use crate::support::{Cluster, OFFLINE, SERVER_NAME};

#[test]
fn a_homeserver_moves_and_is_the_same() {
    let it = Move::new();
    let keys = it
        .source
        .psql(&it.from.name, "SELECT count(*) FROM e2e_one_time_keys_json");

    let ran = it.line().success();

    assert_eq!(ran.stdout, "");
    assert_eq!(everything(&it.source, &it.from.name), everything(&it.target, "synapse"));
    let document: serde_json::Value = serde_json::from_str(&it.world.read("migration.json")).unwrap();
    assert_eq!(document["restore"]["proven_against"], "manifest");
    assert_eq!(document["restore"]["fence"], "lifted");
    let verified = it.world.shell("verify < migration.json").success();
    assert_eq!(verified.json()["verify"]["equal"], true);

    let synapse = it.new_synapse();
    copy(&it.old.media_store(), &synapse.media_store());
    synapse.start();
    it.seeded.check(&synapse);
    it.seeded.check_media_files(&synapse);
    assert_eq!(
        it.target.psql("synapse", "SELECT count(*) FROM e2e_one_time_keys_json"),
        keys,
        "a dump taken after a clean stop keeps one-time keys"
    );
    it.seeded.goes_on(&synapse);
    synapse.stop();
}

#[test]
fn the_same_line_again_finds_each_part_done() {
    let it = Move::new();
    it.line().success();
    let moved = everything(&it.target, "synapse");
    let said = "the target is in the same state as the source: it already contains this homeserver (target-restored)";

    let ran = it.line().success();

    assert!(ran.stderr.contains(said), "{ran}");
    let document: serde_json::Value = serde_json::from_str(&it.world.read("migration.json")).unwrap();
    for section in ["dump", "wipe", "restore"] {
        assert_eq!(document[section]["kept"], true, "{section}: {ran}");
    }
    assert_eq!(everything(&it.target, "synapse"), moved);

    // As if somebody used the target: it is then no longer a copy.
    it.target.psql("synapse", "SELECT nextval('events_stream_seq')");
    let ran = it.line();
    assert_eq!(ran.status.code(), Some(65), "{ran}");
    assert!(ran.stderr.contains("the target is in use"), "{ran}");
    assert!(!ran.stderr.contains("target-restored"), "{ran}");
}

#[test]
fn a_target_in_use_stops_the_line_before_anything_is_written() {
    let it = Move::new();
    it.target.psql(
        "synapse",
        &format!(
            "INSERT INTO users (name, creation_ts) SELECT '@u' || n || ':{SERVER_NAME}', 1 FROM generate_series(1, 9) n"
        ),
    );
    let before = everything(&it.target, "synapse");

    let ran = it.line();

    // The status is that of the last program, which read an empty pipe.
    assert_eq!(ran.status.code(), Some(65), "{ran}");
    assert!(
        ran.stderr
            .contains("cannot continue with this document: `preflight` found a blocker"),
        "{ran}"
    );
    assert_eq!(it.world.read("migration.json"), "");
    assert!(!it.world.path("export").exists());
    assert_eq!(everything(&it.target, "synapse"), before);
}

#[test]
fn a_source_that_ran_after_its_dump_is_noticed_before_the_wipe_and_before_the_load() {
    let it = Move::new();
    let part = |tools: &str| {
        let script = format!(
            "set -o pipefail; preflight {} {OFFLINE} --target \"$TARGET\" --target-password-file target.pw | {tools}",
            it.old.config_args().join(" ")
        );
        let url = it.target.url("synapse", "synapse_user");
        it.world.script(&script).env("TARGET", url).run()
    };
    part("extract-secrets --out export | pgdump-wrap > dumped.json").success();
    it.world
        .shell(&format!(
            "ess-wipe --execute --confirm {SERVER_NAME}/synapse < dumped.json > wiped.json"
        ))
        .success();

    it.old.start();
    it.seeded.goes_on(&it.old);
    it.old.stop();

    let wipe = it.world.shell("ess-wipe < dumped.json");
    let restore = it.world.shell("restore < wiped.json");
    let dump = it.world.shell("pgdump-wrap < dumped.json");
    for ran in [&wipe, &restore] {
        assert_eq!(ran.status.code(), Some(1), "{ran}");
        assert!(ran.stderr.contains("the old Synapse ran after the dump"), "{ran}");
    }
    assert_eq!(dump.status.code(), Some(1), "{dump}");
    assert!(dump.stderr.contains("the source has changed since"), "{dump}");
    assert_eq!(
        it.target
            .psql("synapse", "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"),
        "2"
    );

    part("extract-secrets --out export | pgdump-wrap --replace | ess-wipe --execute --confirm example.org/synapse | restore > migration.json")
        .success();
    assert_eq!(everything(&it.source, &it.from.name), everything(&it.target, "synapse"));
}

/// The output of pg_dump, sorted so that the physical order of rows does not matter.
fn everything(cluster: &Cluster, database: &str) -> Vec<String> {
    let mut dump = cluster.program("pg_dump");
    dump.args([
        "-U",
        "postgres",
        "--no-owner",
        "--no-acl",
        "--exclude-table-data=worker_read_write_locks*",
    ]);
    let output = dump
        .args(["--dbname", &format!("dbname='{database}'")])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    // pg_dump writes a random key into every dump (`\restrict`).
    let mut lines: Vec<String> = text
        .lines()
        .filter(|line| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict"))
        .map(str::to_owned)
        .collect();
    lines.sort_unstable();
    lines
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    let status = crate::support::place()
        .command(std::path::Path::new("/bin/cp"), from.parent().unwrap())
        .arg("-rT")
        .args([from, to])
        .status()
        .unwrap();
    assert!(status.success());
}
