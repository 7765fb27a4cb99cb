//! A connection pooler between the programs and a server: settings never reach other clients of the pool.

use std::io::Write as _;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::{Cluster, Pooler, SERVER_NAME, Scene, assert_failed, source_cluster, target_cluster, text_of};

/// Common pools: one session for all clients, or several that are handed out last-in-first-out or in turn.
const POOLS: [(u32, &str); 3] = [(1, ""), (10, ""), (10, "server_round_robin = 1\nmin_pool_size = 3")];

/// Settings that would affect the next client of the pool.
const LEFT: &str = "SELECT current_setting('transaction_read_only'), current_setting('search_path'), \
    current_setting('statement_timeout'), current_setting('application_name'), \
    (SELECT count(*) FROM pg_locks JOIN pg_database AS d ON d.oid = database WHERE locktype = 'advisory' AND datname = current_database())";

/// psql through the pool, as another client.
fn through(pooler: &Pooler, cluster: &Cluster, database: &str, role: &str) -> std::process::Command {
    let mut psql = cluster.program("psql");
    psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p"]);
    psql.args([&pooler.port.to_string(), "-U", role, "-d", database]);
    psql.env_remove("PGAPPNAME");
    psql
}

/// Writes through the pool while `work` runs, as a Synapse would. Fails if one of the writes fails.
fn while_somebody_writes<T>(pooler: &Pooler, scene: &Scene, work: impl FnOnce() -> T) -> T {
    let mut psql = through(pooler, source_cluster(), &scene.source.name, &scene.source.role);
    let mut writer = psql.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut pipe = writer.stdin.take().unwrap();
    let over = AtomicBool::new(false);
    let done = thread::scope(|scope| {
        let over = &over;
        let writing = scope.spawn(move || {
            let mut count = 0;
            while !over.load(Ordering::Relaxed) && pipe.write_all(b"INSERT INTO written VALUES (1);\n").is_ok() {
                count += 1;
                thread::sleep(Duration::from_millis(2));
            }
            count
        });
        let done = work();
        over.store(true, Ordering::Relaxed);
        assert!(writing.join().unwrap() > 1);
        done
    });
    assert!(writer.wait().unwrap().success(), "a write failed: see above");
    done
}

/// Settings of several clients of the pool that differ from those of a new session.
fn left(pooler: &Pooler, scene: &Scene) -> Vec<String> {
    let found = |_| {
        let mut psql = through(pooler, source_cluster(), &scene.source.name, &scene.source.role);
        psql.args(["-c", LEFT]);
        text_of(psql).trim().to_owned()
    };
    let mut found: Vec<String> = (0..12).map(found).collect();
    found.retain(|found| found != "off|\"$user\", public|0|psql|0");
    found
}

#[test]
fn a_pooler_that_shares_sessions_is_refused_before_anything_is_set() {
    for (size, more) in POOLS {
        let scene = Scene::new();
        let (database, role) = (&scene.source.name, &scene.source.role);
        scene.on_source(&format!(
            "CREATE TABLE written (n int); ALTER TABLE written OWNER TO {role}"
        ));
        let pooler = Pooler::new(&scene.world, source_cluster(), &[role], "transaction", size, more);
        let url = pooler.url(database, role);

        let (checked, dumped) = while_somebody_writes(&pooler, &scene, || {
            let checked = scene.tool("preflight").args(["-n", "--source", &url]).run();
            let dumper = scene
                .tool("pgdump-wrap")
                .args(["-n", "--source", &url, "--allow-running"]);
            (checked, dumper.args(["--out", "dump"]).run())
        });

        let said = "is a connection pooler that gives sessions to other clients between transactions";
        assert_eq!(checked.status.code(), Some(1), "{size} {more}: {checked}");
        for ran in [&checked, &dumped] {
            assert!(ran.stderr.contains(said), "{size} {more}: {ran}");
            assert!(
                ran.stderr.contains("hint: connect to the PostgreSQL server itself"),
                "{ran}"
            );
        }
        assert_failed(&dumped, 1, said);
        assert!(!scene.world.path("dump").exists());
        assert_eq!(left(&pooler, &scene), [""; 0], "{size} {more}");
    }
}

#[test]
fn a_pooler_of_statements_is_refused() {
    let scene = Scene::new();
    let (database, role) = (&scene.source.name, &scene.source.role);
    let pooler = Pooler::new(&scene.world, source_cluster(), &[role], "statement", 2, "");

    let dumper = scene
        .tool("pgdump-wrap")
        .args(["-n", "--source", &pooler.url(database, role)]);
    let ran = dumper.args(["--out", "dump"]).run();

    assert_failed(&ran, 1, "(a transaction cannot be started)");
}

#[test]
fn a_target_behind_a_pooler_that_shares_sessions_is_not_touched() {
    let scene = Scene::dumped();
    let pooler = Pooler::new(&scene.world, target_cluster(), &["synapse_user"], "transaction", 10, "");
    let url = pooler.url(&scene.target, "synapse_user");
    let before = scene.target_dump();

    for tool in ["ess-wipe", "restore", "verify"] {
        let call = scene.tool(tool).args(["-n", "--target", &url]);
        let ran = if tool == "ess-wipe" {
            call.args([
                "--execute",
                "--confirm",
                &scene.confirmation(),
                "--server-name",
                SERVER_NAME,
            ])
            .args(["--backup", "backup"])
            .run()
        } else {
            call.args(["--from", "export/dump"]).run()
        };
        assert_failed(&ran, 1, "is a connection pooler that gives sessions to other clients");
    }

    assert_eq!(scene.target_dump(), before);
}

#[test]
fn a_whole_line_works_through_poolers_that_give_a_session_to_one_client() {
    let scene = Scene::new();
    let (database, role) = (&scene.source.name, &scene.source.role);
    let world = &scene.world;
    let source = Pooler::new(world, source_cluster(), &[role], "session", 20, "");
    let target = Pooler::new(world, target_cluster(), &["synapse_user"], "session", 20, "");

    let line = format!(
        "set -o pipefail
         pgdump-wrap -n --source \"$SOURCE\" --export export --server-name {SERVER_NAME} \
         | ess-wipe --target \"$TARGET\" --execute --confirm \"$CONFIRM\" | restore | verify >migration.json"
    );
    let call = world.script(&line).env("SOURCE", source.url(database, role));
    let call = call.env("TARGET", target.url(&scene.target, "synapse_user"));
    call.env("CONFIRM", scene.confirmation()).run().success();

    assert!(!scene.is_fenced());
}
