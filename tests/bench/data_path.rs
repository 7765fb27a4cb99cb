//! `just bench`: measures the data path and its alternatives, on the same servers, in one run.
//!
//! `BENCH_MB` is the size of the source, `BENCH_ROUNDS` the number of rounds; `BENCH_LINES` and `BENCH_SHAPES` select
//! commands and shapes of the source, by default all. Ratios are computed within one round, so that a slow minute of
//! the machine affects both sides.
#![expect(clippy::print_stdout, reason = "it is there to be read")]
#![expect(clippy::cast_precision_loss, reason = "figures for people")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use crate::support::measure::{MIX, Shape, WIDE, busy, cores, fill, median, processor_seconds, shuffled, sorted};
use crate::support::{Cluster, Database, ESS_PASSWORD, SERVER_NAME, TOOLS, World};

/// The commands that are compared, in phases. `$S` and `$T` are the databases. Each leaves `$T` complete and analyzed,
/// or as the guide that it follows leaves it. Our programs run one after the other, as they do in a pipeline.
const LINES: [Line; 6] = [
    Line {
        name: "ess-migrate",
        phases: &[
            (
                "dump",
                "pgdump-wrap -q -n --source \"$S\" --out dump --server-name example.org > 1.json",
            ),
            (
                "wipe",
                "ess-wipe -q --target \"$T\" --target-password-file target.pw --backup backup --execute --confirm example.org/synapse --allow-used \
                   < 1.json > 2.json",
            ),
            ("restore", "restore -q < 2.json > 3.json"),
        ],
    },
    // The same work without digests, hashes and comparisons.
    Line {
        name: "unproven",
        phases: &[
            ("dump", "pg_dump -Fd -j 2 -Z 0 --no-owner --no-acl -d \"$S\" -f dump"),
            (
                "wipe",
                "ess-wipe -q -n --target \"$T\" --target-password-file target.pw --server-name example.org --backup backup --execute \
                   --confirm example.org/synapse --allow-used --no-fence > /dev/null",
            ),
            (
                "restore",
                "PGOPTIONS='-c synchronous_commit=off -c maintenance_work_mem=256MB -c max_parallel_maintenance_workers=0' \
                   pg_restore --exit-on-error --no-owner --no-acl -j 2 -d \"$T\" dump",
            ),
            ("analyze", "vacuumdb -q --analyze-only -j 2 -d \"$T\" 2> /dev/null"),
        ],
    },
    Line {
        name: "runbook",
        phases: &[
            ("dump", "pg_dump -Fc -O -d \"$S\" -f synapse.dump"),
            ("copy", "mkdir dump; cp synapse.dump dump/"),
            (
                "restore",
                "pg_restore --no-owner --role=synapse_user -d \"$T\" dump/synapse.dump",
            ),
        ],
    },
    Line {
        name: "plain",
        phases: &[(
            "all",
            "mkdir dump; pg_dump -O -d \"$S\" | tee dump/synapse.sql | psql -q -d \"$T\" > /dev/null",
        )],
    },
    Line {
        name: "hand-tuned",
        phases: &[
            ("dump", "pg_dump -Fd -j 2 -Z 0 -O -d \"$S\" -f dump"),
            ("restore", "pg_restore --no-owner -j 2 -d \"$T\" dump"),
            ("analyze", "vacuumdb -q --analyze-only -j 2 -d \"$T\" 2> /dev/null"),
        ],
    },
    Line {
        name: "pgcopydb",
        phases: &[(
            "all",
            "pgcopydb clone --no-owner --no-acl --source \"$S\" --target \"$T\" --table-jobs 2 --index-jobs 2 \
               --dir dump > pgcopydb.log 2>&1",
        )],
    },
];

struct Line {
    name: &'static str,
    phases: &'static [(&'static str, &'static str)],
}

#[derive(Clone, Default)]
struct Figures {
    wall: Vec<f64>,
    cpu: Vec<f64>,
    /// Wall and CPU seconds of each phase, one pair per round.
    phases: Vec<Vec<(f64, f64)>>,
    disk: u64,
    memory: u64,
}

#[test]
#[ignore = "it takes long and asserts nothing about time: `just bench`"]
fn bench() {
    let number = |name: &str, other| env::var(name).map_or(other, |text| text.parse::<u64>().unwrap());
    let (megabytes, rounds) = (number("BENCH_MB", 2000), number("BENCH_ROUNDS", 9));
    let wanted = |list: &str, name: &str| {
        let list = env::var(list).unwrap_or_default();
        list.is_empty() || list.split(' ').any(|wanted| wanted == name)
    };
    for shape in [WIDE, MIX].iter().filter(|shape| wanted("BENCH_SHAPES", shape.name)) {
        compare(shape, megabytes, rounds, &|line| wanted("BENCH_LINES", line));
    }
}

/// Runs every command `rounds` times with a source of one shape.
fn compare(shape: &Shape, megabytes: u64, rounds: u64, wanted: &dyn Fn(&str) -> bool) {
    let world = World::new();
    let source = Cluster::new(&world, "source");
    let target = Cluster::ess(&world, "target");
    for cluster in [&source, &target] {
        // PostgreSQL's default; the servers of the tests have less.
        cluster.psql("postgres", "ALTER SYSTEM SET shared_buffers = '128MB'");
        cluster.stop();
        cluster.start();
    }
    world.write("target.pw", ESS_PASSWORD);
    // Not PGPASSWORD: it serves the target only, and ess-wipe and restore check the source too.
    world.write("pgpass", format!("*:*:*:*:{ESS_PASSWORD}\n"));
    let (from, events) = fill(&source, shape, megabytes);
    let size = source.psql(
        &from.name,
        "SELECT pg_size_pretty(pg_database_size(current_database()))",
    );
    println!(
        "\n## {}: {size}, {events} messages, {rounds} rounds, {} processors\n\n{}\n",
        shape.name,
        cores(),
        source.psql(&from.name, LARGEST)
    );

    let estimate = world
        .script("preflight -n --check --report --only downtime --source \"$S\" --target \"$T\"")
        .env("S", source.socket_url(&from.name, &from.role))
        .env("T", target.socket_url("synapse", "synapse_user"))
        .run()
        .success();
    println!("{}", estimate.stderr);

    let lines: Vec<&Line> = LINES
        .iter()
        .filter(|line| wanted(line.name))
        .filter(|line| line.name != "pgcopydb" || world.shell("command -v pgcopydb").status.success())
        .collect();
    let mut figures: BTreeMap<&str, Figures> = BTreeMap::new();
    for round in 0..rounds {
        for index in shuffled(lines.len()) {
            let line = lines[index];
            let of_line = figures.entry(line.name).or_default();
            let seconds = run(&world, &source, &target, &from, line, of_line);
            println!("round {}: {} {seconds:.1} s", round + 1, line.name);
        }
    }
    tell(&lines, &figures);
    if let (Some(proven), Some(unproven)) = (figures.get("ess-migrate"), figures.get("unproven")) {
        let rows = "SELECT sum(pg_table_size(oid)) FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace";
        let read = 2.0 * source.psql(&from.name, rows).parse::<f64>().unwrap();
        let costs = median(&sorted(proven.cpu.clone())) - median(&sorted(unproven.cpu.clone()));
        println!(
            "\nthe proof reads {:.2} GB of rows at both ends for {costs:.1} s of CPU: {:.2} GB/s a core",
            read / 1e9,
            read / 1e9 / costs
        );
    }
}

/// The largest tables with their indexes, and their share of the database.
const LARGEST: &str = "SELECT round(100.0 * pg_total_relation_size(oid) / sum(pg_total_relation_size(oid)) OVER (), 1) || ' %',
       relname, pg_size_pretty(pg_total_relation_size(oid)), reltuples::bigint || ' rows',
       (SELECT count(*) FROM pg_index WHERE indrelid = c.oid) || ' indexes'
  FROM pg_class c WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY pg_total_relation_size(oid) DESC LIMIT 10";

fn run(world: &World, source: &Cluster, target: &Cluster, from: &Database, line: &Line, figures: &mut Figures) -> f64 {
    target.psql("postgres", "DROP DATABASE IF EXISTS synapse WITH (FORCE)");
    target.create_database("synapse", "synapse_user");
    if line.phases.iter().any(|(phase, _)| *phase == "wipe") {
        target.load_fresh();
    }
    for cluster in [source, target] {
        cluster.psql("postgres", "CHECKPOINT");
    }
    world
        .shell("rm -rf dump synapse.dump backup .*.lock *.json marks")
        .success();
    let over = AtomicBool::new(false);
    let memory = AtomicU64::new(0);
    let phases = line.phases.iter().map(|(_, phase)| format!("{phase}\nmark\n"));
    let script = format!("set -eo pipefail; {MARK}\nmark\n{}", phases.collect::<String>());
    let (cpu, start) = (busy(), Instant::now());
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                memory.fetch_max(largest_of_ours(), Ordering::Relaxed);
                thread::sleep(Duration::from_millis(50));
            }
        });
        let ran = world
            .script(&script)
            .env("S", source.socket_url(&from.name, &from.role))
            .env("T", target.socket_url("synapse", "synapse_user"))
            .env("PGPASSFILE", world.path("pgpass"))
            .run();
        over.store(true, Ordering::Relaxed);
        ran.success();
    });
    let seconds = start.elapsed().as_secs_f64();
    figures.wall.push(seconds);
    figures.cpu.push(busy() - cpu);
    let marks: Vec<(f64, f64)> = world.read("marks").lines().map(mark_of).collect();
    let phase = |pair: &[(f64, f64)]| (pair[1].0 - pair[0].0, pair[1].1 - pair[0].1);
    figures.phases.push(marks.windows(2).map(phase).collect());
    figures.memory = figures.memory.max(memory.into_inner());
    figures.disk = size_of(&world.path("dump"));
    let count = |cluster: &Cluster, database: &str| cluster.psql(database, "SELECT count(*) FROM event_json");
    assert_eq!(
        count(source, &from.name),
        count(target, "synapse"),
        "{SERVER_NAME} did not arrive"
    );
    seconds
}

fn tell(lines: &[&Line], figures: &BTreeMap<&str, Figures>) {
    let ours = &figures["ess-migrate"];
    println!("\n| line | wall s | CPU s | peak MB of ours | MB on disk | ours / this (median, min-max) |");
    println!("| --- | --- | --- | --- | --- | --- |");
    let mut json = Vec::new();
    for Line { name, .. } in lines {
        let one = &figures[name];
        let ratios = sorted(ours.wall.iter().zip(&one.wall).map(|(a, b)| a / b).collect());
        let (low, mid, high) = (ratios[0], median(&ratios), ratios[ratios.len() - 1]);
        let (wall, cpu) = (median(&sorted(one.wall.clone())), median(&sorted(one.cpu.clone())));
        let (memory, disk) = (one.memory as f64 / 1e3, one.disk as f64 / 1e6);
        println!("| {name} | {wall:.1} | {cpu:.1} | {memory:.0} | {disk:.0} | {mid:.2} ({low:.2}-{high:.2}) |");
        json.push(serde_json::json!({
            "line": name, "wall": one.wall, "cpu": one.cpu, "phases": one.phases, "peak_kb": one.memory,
            "disk_bytes": one.disk, "ratios": ratios,
        }));
    }
    println!("\n| line | phase | wall s | CPU s |\n| --- | --- | --- | --- |");
    for Line { name, phases } in lines {
        for (index, (phase, _)) in phases.iter().enumerate() {
            let all = |of: fn(&(f64, f64)) -> f64| {
                let values = figures[name].phases.iter().map(|round| of(&round[index]));
                median(&sorted(values.collect()))
            };
            println!(
                "| {name} | {phase} | {:.1} | {:.1} |",
                all(|pair| pair.0),
                all(|pair| pair.1)
            );
        }
    }
    println!("\n{}", serde_json::Value::from(json));
}

/// Shell function that appends the time and the CPU counters to the file `marks`.
const MARK: &str = r#"mark() { echo "$(date +%s.%N) $(head -n 1 /proc/stat)" >> marks; }"#;

fn mark_of(line: &str) -> (f64, f64) {
    let (time, stat) = line.split_once(' ').unwrap();
    (time.parse().unwrap(), processor_seconds(stat))
}

/// The largest peak resident size, in kB, among our programs that are running.
fn largest_of_ours() -> u64 {
    let status = |path: &Path| fs::read_to_string(path.join("status")).unwrap_or_default();
    let of = |text: &str, field: &str| {
        text.lines()
            .find_map(|line| {
                line.strip_prefix(field)
                    .map(|rest| rest.trim().trim_end_matches(" kB").to_owned())
            })
            .unwrap_or_default()
    };
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .map(|entry| status(&entry.path()))
        .filter(|text| TOOLS.iter().any(|(tool, _)| *tool == of(text, "Name:")))
        .filter_map(|text| of(&text, "VmHWM:").parse().ok())
        .max()
        .unwrap_or(0)
}

fn size_of(path: &Path) -> u64 {
    walkdir::WalkDir::new(path)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.metadata().ok())
        .map(|m| m.len())
        .sum()
}
