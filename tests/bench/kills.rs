//! `just bench-kills`: kills the data path at each stage, re-runs the same command, and compares the time with that
//! of an undisturbed run.
//!
//! `BENCH_MB` is the size of the source. Asserts that the pipeline completes, that the target equals the source, and
//! that a complete dump or backup is never made a second time. Times are only printed.
#![expect(clippy::print_stdout, reason = "it is there to be read")]

use std::time::{Duration, Instant};
use std::{env, fs, thread};

use rustix::process::Signal;

use crate::support::measure::{WIDE, fill};
use crate::support::{Call, Cluster, Database, ESS_PASSWORD, Running, TOOLS, World, names_in, wait_until};

const LINE: &str = "set -o pipefail; pgdump-wrap -v -n --source \"$S\" --export export --server-name example.org \\
    | ess-wipe -v --target \"$T\" --execute --confirm example.org/synapse --allow-used | restore -v > migration.json";

/// A stage: its name, the message when it begins, and the message when it ends.
const STAGES: [(&str, &str, &str); 8] = [
    ("during the dump", DUMP, "one-time keys kept"),
    ("after the dump", "one-time keys kept", ""),
    (
        "during the backup of the target",
        BACKUP,
        "ess-wipe: backed up the target",
    ),
    ("after the backup", "ess-wipe: backed up the target", ""),
    ("after the wipe", "ess-wipe: erased", ""),
    (
        "while rows are loaded and indexes built",
        "--section=data --section=post-data",
        PROOF,
    ),
    ("during the proof", PROOF, LIFTED),
    ("after the fence was lifted", LIFTED, ""),
];
const DUMP: &str = "pgdump-wrap: dumping and hashing every table";
const BACKUP: &str = "ess-wipe: dumping and hashing every table";
const PROOF: &str = "restore: comparing every table";
const LIFTED: &str = "; Synapse can start";

/// Two servers and the source; the target is created again for each stage.
struct Bench {
    world: World,
    source: Cluster,
    target: Cluster,
    from: Database,
}

#[test]
#[ignore = "it takes long and asserts nothing about time: `just bench-kills`"]
fn bench_kills() {
    let megabytes: u64 = env::var("BENCH_MB").map_or(200, |text| text.parse().unwrap());
    let world = World::new();
    let source = Cluster::new(&world, "source");
    let target = Cluster::ess(&world, "target");
    let (from, _) = fill(&source, &WIDE, megabytes);
    let bench = Bench {
        world,
        source,
        target,
        from,
    };

    bench.world.write("pgpass", format!("*:*:*:*:{ESS_PASSWORD}\n"));
    bench.fresh();
    let start = Instant::now();
    let mut running = bench.line().start();
    let said = |running: &mut Running, what: &str| {
        running.wait_for(what);
        start.elapsed()
    };
    let times: Vec<(Duration, Duration)> = STAGES
        .iter()
        .map(|(_, begins, ends)| {
            let begin = said(&mut running, begins);
            (
                begin,
                if ends.is_empty() {
                    begin
                } else {
                    said(&mut running, ends)
                },
            )
        })
        .collect();
    running.wait().success();
    let whole = start.elapsed();
    bench.arrived("undisturbed");
    println!("{megabytes} MB, undisturbed: {:.1} s\n", whole.as_secs_f64());
    println!("| killed | after s | the same line again s | more than undisturbed s |");
    println!("| --- | --- | --- | --- |");

    for ((stage, begins, _), (begin, end)) in STAGES.iter().zip(times) {
        bench.fresh();
        let start = Instant::now();
        let mut running = bench.line().start();
        running.wait_for(begins);
        thread::sleep(end.saturating_sub(begin) / 2);
        let killed_after = start.elapsed();
        running.kill();
        for (tool, _) in TOOLS {
            bench.world.signal(tool, Signal::KILL);
            wait_until("the tools ended", || bench.world.running(tool).is_empty());
        }
        let whole_dump = bench.manifest("dump");
        let whole_backup = bench.manifest("ess-before-wipe");

        let start = Instant::now();
        let again = bench.line().run().success();

        let took = start.elapsed();
        bench.arrived(stage);
        assert!(
            whole_dump.is_none() || whole_dump == bench.manifest("dump"),
            "{stage}: dumped twice"
        );
        assert!(
            whole_backup.is_none() || whole_backup == bench.manifest("ess-before-wipe"),
            "{stage}: backed up twice"
        );
        assert_eq!(again.stderr.contains(DUMP), whole_dump.is_none(), "{stage}: {again}");
        let names = names_in(&bench.world, "export");
        assert_eq!(names, [".lock", "documents", "dump", "ess-before-wipe"], "{stage}");
        println!(
            "| {stage} | {:.1} | {:.1} | {:.1} |",
            killed_after.as_secs_f64(),
            took.as_secs_f64(),
            (killed_after + took).saturating_sub(whole).as_secs_f64()
        );
    }
}

impl Bench {
    /// Creates a target as Element Server Suite leaves it, and deletes the export.
    fn fresh(&self) {
        self.target
            .psql("postgres", "DROP DATABASE IF EXISTS synapse WITH (FORCE)");
        self.target.create_database("synapse", "synapse_user");
        self.target.load_fresh();
        for cluster in [&self.source, &self.target] {
            cluster.psql("postgres", "CHECKPOINT");
        }
        self.world.shell("rm -rf export").success();
    }

    fn line(&self) -> Call<'_> {
        self.world
            .script(LINE)
            .env("S", self.source.socket_url(&self.from.name, &self.from.role))
            .env("T", self.target.socket_url("synapse", "synapse_user"))
            .env("PGPASSFILE", self.world.path("pgpass"))
    }

    /// The manifest of the dump with this final name in the export.
    fn manifest(&self, name: &str) -> Option<Vec<u8>> {
        fs::read(self.world.path(format!("export/{name}/manifest.json"))).ok()
    }

    #[track_caller]
    fn arrived(&self, stage: &str) {
        let of = |cluster: &Cluster, database: &str| {
            cluster.psql(
                database,
                "SELECT count(*), sum(hashtextextended(e.json, 0)) FROM event_json e; \
                 SELECT version, compat_version FROM schema_version, schema_compat_version; \
                 SELECT count(*) FROM e2e_one_time_keys_json; SELECT last_value FROM events_stream_seq",
            )
        };
        assert_eq!(
            of(&self.source, &self.from.name),
            of(&self.target, "synapse"),
            "{stage}"
        );
    }
}
