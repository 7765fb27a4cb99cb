//! Whether a source was written to after its dump: every change is seen, and nothing else is taken for one.

use std::fs;

use crate::scene::{Scene, assert_failed, target_cluster};
use crate::support::{Cluster, Database, ESS_PASSWORD, Ran, Stdin, World, place};

/// A source on a server of its own, whose transaction counter a test may move.
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
             CREATE SCHEMA \"other one\"; CREATE TABLE \"other one\".parted (n int) PARTITION BY LIST (n);
             CREATE TABLE \"other one\".part PARTITION OF \"other one\".parted FOR VALUES IN (1, 2);
             CREATE UNLOGGED TABLE \"other one\".unlogged (n int);
             INSERT INTO \"other one\".parted VALUES (1), (2); INSERT INTO \"other one\".unlogged VALUES (1)",
        );
        cluster.psql("postgres", "CREATE DATABASE elsewhere");
        let password = source.password.replace('\\', r"\\").replace(':', r"\:");
        world.write(
            "pgpass",
            format!("127.0.0.1:{}:*:{}:{password}\n", cluster.port, source.role),
        );
        world.write("target.pw", ESS_PASSWORD);
        Self { world, cluster, source }
    }

    /// Makes `xid` the server's next transaction id, less than 2^31 after the last.
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
        // pg_resetwal(1): the page of the new id must exist, and there are 2^20 ids in a file.
        let segment = data.join(format!("pg_xact/{:04X}", xid >> 20));
        fs::write(&segment, vec![0; 256 * 1024]).unwrap();
        place().give(&segment);
        self.cluster.start();
    }

    fn on_source(&self, sql: &str) -> String {
        self.cluster.psql(&self.source.name, sql)
    }

    /// Uses up some transaction ids without a write to the source.
    fn write_elsewhere(&self, transactions: usize) {
        self.cluster
            .psql("elsewhere", &"SELECT txid_current();\n".repeat(transactions));
    }

    fn url(&self) -> String {
        self.cluster.url(&self.source.name, &self.source.role)
    }

    /// Takes a dump, or finds the one that is there still good.
    fn dump(&self) -> Ran {
        self.world
            .tool("pgdump-wrap")
            .env("PGPASSFILE", self.world.path("pgpass"))
            .args([
                "-n",
                "--source",
                &self.url(),
                "--export",
                "export",
                "--server-name",
                "example.org",
            ])
            .run()
    }

    #[track_caller]
    fn has_not_moved(&self) {
        assert_eq!(self.dump().success().json()["dump"]["kept"], true);
    }

    #[track_caller]
    fn has_moved(&self, change: &str) {
        assert_failed(&self.dump(), 1, &format!("the source has moved since: {change}"));
    }

    /// Everything that is done to a table, and done again the other way round.
    fn each_change_is_seen(&self) {
        for (change, seen, back) in [
            (
                "DELETE FROM extra WHERE a = 3",
                "\"public\".\"extra\" has 2 rows, not 3",
                "INSERT INTO extra VALUES (3, 'v', 'w')",
            ),
            (
                "UPDATE extra SET b = 'other' WHERE a = 3",
                "\"public\".\"extra\" has other contents in its 3 rows",
                "UPDATE extra SET b = 'v' WHERE a = 3",
            ),
            (
                "INSERT INTO extra VALUES (4)",
                "\"public\".\"extra\" has 4 rows, not 3",
                "DELETE FROM extra WHERE a = 4",
            ),
            (
                "DELETE FROM extra WHERE a = 3; INSERT INTO extra VALUES (4)",
                "\"public\".\"extra\" has other contents in its 3 rows",
                "DELETE FROM extra WHERE a = 4; INSERT INTO extra VALUES (3, 'v', 'w')",
            ),
            (
                "CREATE TABLE kept AS TABLE extra; TRUNCATE extra; ALTER TABLE kept SET SCHEMA pg_catalog",
                "\"public\".\"extra\" has 0 rows, not 3",
                "INSERT INTO extra TABLE pg_catalog.kept",
            ),
            (
                "ALTER TABLE extra RENAME b TO d; ALTER TABLE extra RENAME c TO b; ALTER TABLE extra RENAME d TO c",
                "\"public\".\"extra\" has other contents in its 3 rows",
                "ALTER TABLE extra RENAME b TO d; ALTER TABLE extra RENAME c TO b; ALTER TABLE extra RENAME d TO c",
            ),
            (
                "DELETE FROM \"other one\".part WHERE n = 2",
                "\"other one\".\"part\" has 1 rows, not 2",
                "INSERT INTO \"other one\".parted VALUES (2)",
            ),
            (
                "UPDATE \"other one\".unlogged SET n = 2",
                "\"other one\".\"unlogged\" has other contents",
                "UPDATE \"other one\".unlogged SET n = 1",
            ),
            (
                "CREATE INDEX added ON extra (b)",
                "its structure has changed: index CREATE INDEX added",
                "DROP INDEX added",
            ),
        ] {
            // The superuser may put a table out of the way.
            self.on_source(&format!("SET allow_system_table_mods = on; {change}"));
            self.has_moved(seen);
            self.on_source(back);
            // The same contents, written anew, are the same.
            self.has_not_moved();
        }
        self.on_source("DROP TABLE pg_catalog.kept");
    }
}

#[test]
fn a_source_of_more_than_two_to_the_31_transactions_arrives_and_is_watched() {
    let old = Old::new();
    // In steps: no database may fall 2^31 behind.
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
fn a_counter_that_passes_two_to_the_32_after_the_dump_is_no_movement() {
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
fn what_the_server_does_by_itself_is_no_movement() {
    let old = Old::new();
    old.dump().success();
    for sql in [
        "VACUUM FULL",
        "VACUUM FREEZE",
        "ANALYZE",
        "CLUSTER extra USING extra_pkey",
        "REINDEX TABLE events",
        "UPDATE users SET name = name || '!'; ROLLBACK",
        "SELECT FROM users FOR UPDATE",
        "CREATE TABLE copied AS TABLE extra; DROP TABLE copied",
    ] {
        if sql.contains("ROLLBACK") {
            old.on_source(&format!("BEGIN; {sql}"));
        } else {
            old.on_source(sql);
        }
        old.has_not_moved();
    }
    // A server that recovered to some point of its past gives the same ids again.
    let edited = old
        .world
        .read("export/dump/manifest.json")
        .replace("\"timeline\":\"00000001\"", "\"timeline\":\"00000002\"");
    let seal = edited.find("\"seal\":\"").unwrap();
    let unsealed = format!("{}}}", edited[..seal].trim_end_matches(','));
    old.world.write("export/dump/manifest.json", &unsealed);
    old.has_not_moved();
    // A dump of an older version of these programs has neither snapshot nor timeline: the contents decide.
    let (start, rest) = unsealed.split_once("\"snapshot\":").unwrap();
    let older = format!(
        "{start}\"next_xid\":\"1\",{}",
        rest.split_once("\"sequences\"")
            .map(|(_, rest)| format!("\"sequences\"{rest}"))
            .unwrap()
    );
    old.world.write("export/dump/manifest.json", &older);
    old.has_not_moved();
    old.each_change_is_seen_by_contents();
}

impl Old {
    fn each_change_is_seen_by_contents(&self) {
        self.on_source("UPDATE extra SET b = 'other' WHERE a = 3");
        self.has_moved("\"public\".\"extra\" has other contents in its 3 rows");
    }
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
