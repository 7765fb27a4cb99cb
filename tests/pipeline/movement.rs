//! Whether a source has changed since its dump: every change is detected, and nothing else is mistaken for one.

use std::fs;

use serde_json::{Value, json};

use crate::support::{
    Call, Cluster, Database, ESS_PASSWORD, Ran, Scene, Sleeper, Stdin, World, assert_failed, place, source_cluster,
    target_cluster, wait_until,
};

/// A source on a server of its own, so that a test can advance its transaction counter.
struct Old {
    world: World,
    cluster: Cluster,
    source: Database,
}

impl Old {
    fn new() -> Self {
        let world = World::new();
        let cluster = Cluster::new(&world, "source");
        let source = Database::awkward(&cluster);
        cluster.load_synapse(&source.name, &source.role);
        cluster.psql(
            &source.name,
            "SET ROLE synapse; CREATE TABLE extra (a int PRIMARY KEY, b text, c text);
             INSERT INTO extra VALUES (1, 'x', 'y'), (2, 'x', 'z'), (3, 'v', 'w');
             ALTER TABLE extra CLUSTER ON extra_pkey;
             CREATE SCHEMA \"other one\"; CREATE TABLE \"other one\".parted (n int) PARTITION BY LIST (n);
             CREATE TABLE \"other one\".part PARTITION OF \"other one\".parted FOR VALUES IN (1, 2);
             CREATE UNLOGGED TABLE \"other one\".unlogged (n int);
             INSERT INTO \"other one\".parted VALUES (1), (2); INSERT INTO \"other one\".unlogged VALUES (1)",
        );
        cluster.psql("postgres", "CREATE DATABASE elsewhere");
        let password = source.password.replace('\\', r"\\").replace(':', r"\:");
        world.write("pgpass", format!("127.0.0.1:*:*:{}:{password}\n", source.role));
        world.write("target.pw", ESS_PASSWORD);
        Self { world, cluster, source }
    }

    /// Makes `xid` the server's next transaction id; it must be less than 2^31 after the last one.
    fn advance(&self, xid: u64) {
        self.cluster
            .psql("postgres", "ALTER DATABASE template0 ALLOW_CONNECTIONS true");
        for database in [&self.source.name, "postgres", "elsewhere", "template0", "template1"] {
            self.cluster.psql(database, "VACUUM FREEZE");
        }
        let data = self.cluster.dir.join("data");
        let run = |program: &str, args: &[&str]| {
            let mut command = place().command(place().pgbin.join(program), &data);
            command.args(args).arg("-D").arg(&data);
            let output = command.output().unwrap();
            assert!(
                output.status.success(),
                "{command:?}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        };
        run("pg_ctl", &["stop", "--mode=fast", "--wait"]);
        self.cluster.stop();
        run("pg_resetwal", &["-x", &xid.to_string()]);
        // As pg_resetwal(1) demands, the pg_xact page of the new id must exist; a file holds 2^20 ids.
        let segment = data.join(format!("pg_xact/{:04X}", xid >> 20));
        fs::write(&segment, vec![0; 256 * 1024]).unwrap();
        place().give(&segment);
        self.cluster.start();
    }

    fn on_source(&self, sql: &str) -> String {
        self.cluster.psql(&self.source.name, sql)
    }

    /// Uses transaction ids without writing to the source database.
    fn write_elsewhere(&self, transactions: usize) {
        self.cluster
            .psql("elsewhere", &"SELECT txid_current();\n".repeat(transactions));
    }

    fn url(&self) -> String {
        self.cluster.url(&self.source.name, &self.source.role)
    }

    /// Runs pgdump-wrap, which dumps the source or keeps the existing dump.
    fn dump(&self) -> Ran {
        self.dumper(&self.url()).run()
    }

    fn dumper<'a>(&self, source: &str) -> Call<'a> {
        let dumper = self
            .world
            .tool("pgdump-wrap")
            .env("PGPASSFILE", self.world.path("pgpass"));
        dumper.args([
            "-n",
            "--source",
            source,
            "--export",
            "export",
            "--server-name",
            "example.org",
        ])
    }

    #[track_caller]
    fn has_not_moved(&self) {
        assert_eq!(self.dump().success().json()["dump"]["kept"], true);
    }

    #[track_caller]
    fn has_moved(&self, change: &str) {
        assert_failed(&self.dump(), 1, &format!("the source has changed since: {change}"));
    }

    /// Applies every kind of change to a table, and reverts it.
    fn each_change_is_seen(&self) {
        for (change, seen, back) in [
            (
                "DELETE FROM extra WHERE a = 3",
                "\"public\".\"extra\" has 2 rows, not 3",
                "INSERT INTO extra VALUES (3, 'v', 'w')",
            ),
            (
                "UPDATE extra SET b = 'other' WHERE a = 3",
                "\"public\".\"extra\" has different contents in its 3 rows",
                "UPDATE extra SET b = 'v' WHERE a = 3",
            ),
            (
                "INSERT INTO extra VALUES (4)",
                "\"public\".\"extra\" has 4 rows, not 3",
                "DELETE FROM extra WHERE a = 4",
            ),
            (
                "DELETE FROM extra WHERE a = 3; INSERT INTO extra VALUES (4)",
                "\"public\".\"extra\" has different contents in its 3 rows",
                "DELETE FROM extra WHERE a = 4; INSERT INTO extra VALUES (3, 'v', 'w')",
            ),
            (
                "CREATE TABLE kept AS TABLE extra; TRUNCATE extra; ALTER TABLE kept SET SCHEMA pg_catalog",
                "\"public\".\"extra\" has 0 rows, not 3",
                "INSERT INTO extra TABLE pg_catalog.kept",
            ),
            (
                "ALTER TABLE extra RENAME b TO d; ALTER TABLE extra RENAME c TO b; ALTER TABLE extra RENAME d TO c",
                "\"public\".\"extra\" has different contents in its 3 rows",
                "ALTER TABLE extra RENAME b TO d; ALTER TABLE extra RENAME c TO b; ALTER TABLE extra RENAME d TO c",
            ),
            (
                "DELETE FROM \"other one\".part WHERE n = 2",
                "\"other one\".\"part\" has 1 row, not 2",
                "INSERT INTO \"other one\".parted VALUES (2)",
            ),
            (
                "UPDATE \"other one\".unlogged SET n = 2",
                "\"other one\".\"unlogged\" has different contents",
                "UPDATE \"other one\".unlogged SET n = 1",
            ),
            (
                "CREATE INDEX added ON extra (b)",
                "its structure has changed: index CREATE INDEX added",
                "DROP INDEX added",
            ),
        ] {
            // allow_system_table_mods lets a superuser move a table into pg_catalog.
            self.on_source(&format!("SET allow_system_table_mods = on; {change}"));
            self.has_moved(seen);
            self.on_source(back);
            // The content is the same again, although it was rewritten.
            self.has_not_moved();
        }
        self.on_source("DROP TABLE pg_catalog.kept");
    }
}

#[test]
fn a_source_of_more_than_two_to_the_31_transactions_arrives_and_is_watched() {
    let old = Old::new();
    // In steps, because no database can be 2^31 transactions behind.
    old.advance(1_500_000_000);
    old.advance(3_000_000_000);
    old.dump().success();
    old.has_not_moved();
    old.write_elsewhere(3);
    old.has_not_moved();
    let target = "arrives_from_an_old_server";
    target_cluster().create_database(target, "synapse_user");
    let tool = |name: &str| {
        old.world
            .tool(name)
            .env("PGPASSFILE", old.world.path("pgpass"))
            .args(["-n", "--source", &old.url(), "--from", "export/dump", "--target"])
            .args([
                &target_cluster().url(target, "synapse_user"),
                "--target-password-file",
                "target.pw",
            ])
    };
    tool("restore").run().success();
    tool("verify").run().success();
    old.each_change_is_seen();
    old.on_source("DELETE FROM user_ips");
    assert_failed(
        &tool("verify").run(),
        1,
        "the old Synapse ran after the dump: \"public\".\"user_ips\" has 0 rows",
    );
}

#[test]
fn a_counter_that_passes_two_to_the_32_after_the_dump_is_not_a_change() {
    let old = Old::new();
    old.advance(1_500_000_000);
    old.advance(3_000_000_000);
    old.advance((1 << 32) - 300);
    old.dump().success();
    old.write_elsewhere(600);
    let next: u64 = old.on_source("SELECT txid_current()").parse().unwrap();
    assert!(next > 1 << 32, "{next}");
    old.has_not_moved();
    old.on_source("DELETE FROM user_ips");
    old.has_moved("\"public\".\"user_ips\" has 0 rows, not ");
}

#[test]
fn what_the_server_does_by_itself_is_not_a_change() {
    let old = Old::new();
    old.dump().success();
    for sql in [
        "VACUUM FULL",
        "VACUUM FREEZE",
        "ANALYZE",
        "CLUSTER extra",
        "REINDEX TABLE events",
        "BEGIN; UPDATE users SET name = name || '!'; ROLLBACK",
        "SELECT FROM users FOR UPDATE",
        "CREATE TABLE copied AS TABLE extra; DROP TABLE copied",
    ] {
        old.on_source(sql);
        old.has_not_moved();
    }
    // On another timeline the same ids are used again, and an older manifest does not name one: then the content
    // decides.
    let mut manifest: Value = serde_json::from_str(&old.world.read("export/dump/manifest.json")).unwrap();
    manifest.as_object_mut().unwrap().remove("seal").unwrap();
    manifest["inventory"]["mark"]["timeline"] = json!("00000002");
    old.world.write("export/dump/manifest.json", manifest.to_string());
    old.has_not_moved();
    let mark = manifest["inventory"]["mark"].as_object_mut().unwrap();
    mark.remove("timeline").unwrap();
    mark.remove("snapshot").unwrap();
    mark.insert("next_xid".to_owned(), json!("1"));
    old.world.write("export/dump/manifest.json", manifest.to_string());
    old.has_not_moved();
    old.on_source("UPDATE extra SET b = 'other' WHERE a = 3");
    old.has_moved("\"public\".\"extra\" has different contents in its 3 rows");
}

#[test]
fn a_lone_delete_between_dump_and_restore_is_seen() {
    let scene = Scene::new();
    scene.dump().success();
    scene.wipe(Stdin::Null).success();
    scene.on_source("DELETE FROM user_ips");

    let ran = scene.restore().args(["--source", &scene.source_url()]).run();

    assert_failed(
        &ran,
        1,
        "the old Synapse ran after the dump: \"public\".\"user_ips\" has 0 rows, not ",
    );
}

#[test]
fn a_source_with_writes_that_no_dump_sees_is_refused() {
    let old = Old::new();
    old.cluster
        .psql("postgres", "ALTER SYSTEM SET max_prepared_transactions = 5");
    old.cluster.stop();
    old.cluster.start();

    let standby = old.cluster.standby("standby");
    let ran = old.dumper(&standby.url(&old.source.name, &old.source.role)).run();
    assert_failed(
        &ran,
        1,
        "is a standby: writes to its primary in the meantime cannot be detected",
    );
    assert!(ran.stderr.contains("hint: use the primary"), "{ran}");
    drop(standby);

    old.on_source("BEGIN; INSERT INTO extra VALUES (9); PREPARE TRANSACTION 'half-done'");
    for more in [&[][..], &["--allow-running"]] {
        let ran = old.dumper(&old.url()).args(more).run();
        assert_failed(
            &ran,
            1,
            "the source has prepared transactions, whose changes are not in any dump: half-done",
        );
    }
    old.on_source("ROLLBACK PREPARED 'half-done'");

    old.on_source(
        "CREATE SUBSCRIPTION fed CONNECTION 'host=127.0.0.1 port=9 dbname=gone' PUBLICATION p WITH (connect = false)",
    );
    old.on_source("ALTER SUBSCRIPTION fed ENABLE");
    assert_failed(
        &old.dump(),
        1,
        "logical replication writes to the source, by these subscriptions: fed",
    );
    old.on_source("ALTER SUBSCRIPTION fed DISABLE");
    wait_until("the worker ended", || {
        let workers = "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'logical replication%worker'";
        old.on_source(workers) == "0"
    });
    old.dump().success();
}

#[test]
fn a_dump_of_a_server_that_works_is_proven_against_what_it_holds() {
    let old = Old::new();
    old.on_source("SET ROLE synapse; CREATE TABLE log (n bigserial, t timestamptz DEFAULT now())");
    let write = "while :; do
        psql -qXAt -c 'INSERT INTO log DEFAULT VALUES' -c \"SELECT nextval('events_stream_seq')\" >written || exit; echo wrote >&2
    done";
    let writer = old
        .world
        .script(write)
        .env("PGHOST", &old.cluster.dir)
        .env("PGUSER", "postgres");
    let mut writer = writer
        .env("PGPORT", old.cluster.port.to_string())
        .env("PGDATABASE", &old.source.name)
        .start();
    writer.wait_for("wrote");

    let ran = old.dumper(&old.url()).args(["--allow-running"]).run().success();

    assert_eq!(ran.json()["dump"]["source_was_running"], true);
    let manifest: Value = serde_json::from_str(&old.world.read("export/dump/manifest.json")).unwrap();
    let sequences = manifest["inventory"]["mark"]["sequences"].as_array().unwrap();
    let dumped = sequences
        .iter()
        .find(|sequence| sequence["name"] == "events_stream_seq")
        .unwrap();
    let dumped: i64 = dumped["last_value"].as_str().unwrap().parse().unwrap();
    // The server was written to before, during and after the dump.
    wait_until("the server worked on", || {
        let now: i64 = old
            .on_source("SELECT last_value FROM events_stream_seq")
            .parse()
            .unwrap();
        now > dumped
    });
    writer.kill();
    let target = "of_a_server_that_works";
    target_cluster().create_database(target, "synapse_user");
    let tool = |name: &str| {
        let tool = old.world.tool(name).args(["-n", "--from", "export/dump", "--target"]);
        tool.args([
            &target_cluster().url(target, "synapse_user"),
            "--target-password-file",
            "target.pw",
        ])
        .run()
    };
    let restored = tool("restore");
    let verified = tool("verify");
    assert_eq!(verified.json()["verify"]["equal"], true, "{restored}{verified}");
    assert_eq!(
        target_cluster().psql(target, "SELECT last_value FROM events_stream_seq"),
        dumped.to_string()
    );
}

#[test]
fn a_transaction_that_is_open_on_the_source_may_have_written() {
    let scene = Scene::new();
    let dumped = scene.dump().success().stdout;
    let writer = Sleeper::new(&scene, "BEGIN; UPDATE profiles SET displayname = 'later';");

    let ran = scene.wipe(dumped.as_str());

    assert_failed(
        &ran,
        1,
        "the old Synapse ran after the dump: a transaction of postgres is open",
    );
    drop(writer);
    scene.on_source("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND backend_xid IS NOT NULL");
    let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_xid IS NOT NULL";
    wait_until("it has ended", || scene.on_source(open) == "0");
    scene.wipe(dumped.as_str()).success();
}

#[test]
fn a_copy_under_the_sources_name_is_not_the_source() {
    let scene = Scene::new();
    let name = &scene.source.name;
    let server = |sql: &str| source_cluster().psql("postgres", sql);
    // Sequences, streams and counts of the copy are equal, and all its rows are older than the dump.
    server(&format!("CREATE DATABASE \"{name} copy\" TEMPLATE \"{name}\""));
    source_cluster().psql(
        &format!("{name} copy"),
        "UPDATE profiles SET displayname = displayname || '!'",
    );
    let dumped = scene.dump().success().stdout;
    server(&format!("ALTER DATABASE \"{name}\" RENAME TO \"{name} old\""));
    server(&format!("ALTER DATABASE \"{name} copy\" RENAME TO \"{name}\""));

    let ran = scene.wipe(dumped.as_str());

    assert_failed(&ran, 1, "the old Synapse ran after the dump: ");
    assert!(ran.stderr.contains("has different contents"), "{ran}");
}
