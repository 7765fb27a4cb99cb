//! `just bench-media`: measures media-sync and rsync on one media store, first into an empty copy, then again when
//! nothing has changed.
//!
//! `BENCH_FILES` and `BENCH_MB` are the number of files and their total size, `BENCH_ROUNDS` the number of rounds.
//! media-sync compares the store with a database that contains every upload with its size and SHA-256. Ratios are
//! computed within one round. Asserts that each copy equals the store. Times are only printed.
#![expect(clippy::print_stdout, reason = "it is there to be read")]

use std::time::Instant;
use std::{env, fs};

use ess_files::hex;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::support::measure::{busy, cores, median, shuffled, sorted};
use crate::support::{Cluster, Database, World};

/// Commands that make `$COPY` equal to the store; each is run twice.
const LINES: [(&str, &str); 4] = [
    ("media-sync", OURS),
    (
        "media-sync --verify",
        "media-sync -q -n --source-dir store --source \"$S\" --out \"$COPY\" --verify > $COPY.json",
    ),
    ("rsync -a", "rsync -a store/ \"$COPY/\""),
    ("rsync -ac", "rsync -ac store/ \"$COPY/\""),
];
const OURS: &str = "media-sync -q -n --source-dir store --source \"$S\" --out \"$COPY\" > $COPY.json";

/// Wall and CPU seconds of both passes, per round.
#[derive(Clone, Default)]
struct Figures {
    wall: [Vec<f64>; 2],
    cpu: [Vec<f64>; 2],
}

#[test]
#[ignore = "it takes long and asserts nothing about time: `just bench-media`"]
fn bench_media() {
    let number = |name: &str, other| env::var(name).map_or(other, |text| text.parse::<u64>().unwrap());
    let (count, megabytes) = (number("BENCH_FILES", 20_000), number("BENCH_MB", 2000));
    let rounds = usize::try_from(number("BENCH_ROUNDS", 5)).unwrap();
    let world = World::new();
    let cluster = Cluster::new(&world, "source");
    let database = Database::awkward(&cluster);
    cluster.load_synapse(&database.name, &database.role);
    let bytes = fill(&world, &cluster, &database, count, megabytes * 1_000_000);
    println!(
        "{count} files, {bytes} bytes, {rounds} rounds, {} processors\n",
        cores()
    );

    let mut figures = vec![Figures::default(); LINES.len()];
    for round in 0..rounds {
        for index in shuffled(LINES.len()) {
            let (name, line) = LINES[index];
            world.shell("rm -rf copy copy.json").success();
            for pass in 0..2 {
                // Do not measure what the previous run has left in the page cache to be written.
                world.shell("sync").success();
                let (cpu, start) = (busy(), Instant::now());
                let call = world.script(&format!("set -e; umask 077; {line}")).env("COPY", "copy");
                call.env("S", cluster.socket_url(&database.name, &database.role))
                    .run()
                    .success();
                let (wall, cpu) = (start.elapsed().as_secs_f64(), busy() - cpu);
                figures[index].wall[pass].push(wall);
                figures[index].cpu[pass].push(cpu);
                println!("round {}: {name}, pass {}: {wall:.2} s", round + 1, pass + 1);
            }
            let same = world.shell("diff -r --exclude .media-sync store copy").success();
            assert_eq!(same.stdout, "");
        }
    }
    tell(&figures);
}

/// Creates files from a few hundred bytes to a few megabytes. Two thirds are uploads, each with a row in the database.
fn fill(world: &World, cluster: &Cluster, database: &Database, count: u64, bytes: u64) -> u64 {
    let mut random = Random(0x2545_F491_4F6C_DD1D);
    let weights: Vec<u64> = (0..count).map(|_| 1 << (random.next() % 14)).collect();
    let all: u64 = weights.iter().sum();
    cluster.psql(&database.name, "DELETE FROM local_media_repository");
    let (mut rows, mut sum) = (Vec::new(), 0);
    for (at, weight) in weights.iter().enumerate() {
        let size = usize::try_from(bytes * weight / all).unwrap() + 1;
        let id = hex(&[random.next().to_le_bytes(), random.next().to_le_bytes()].concat());
        let below = format!("{}/{}/{}", &id[..2], &id[2..4], &id[4..]);
        let path = match at % 6 {
            4 => format!("local_thumbnails/{below}/320-240-image-jpeg-scale"),
            5 => format!("remote_content/matrix.example/{below}"),
            _ => format!("local_content/{below}"),
        };
        let content: Vec<u8> = (0..size.div_ceil(8))
            .flat_map(|_| random.next().to_le_bytes())
            .take(size)
            .collect();
        if at % 6 < 4 {
            let sha256 = hex(&Sha256::digest(&content));
            rows.push(format!("('{id}', {size}, '{sha256}', 1, '@a:example.org')"));
        }
        let path = world.path("store").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        sum += size as u64;
    }
    for rows in rows.chunks(1_000) {
        cluster.psql(
            &database.name,
            &format!(
                "INSERT INTO local_media_repository (media_id, media_length, sha256, created_ts, user_id) VALUES {}",
                rows.join(", ")
            ),
        );
    }
    sum
}

/// An xorshift generator, so that every run has the same store.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

fn tell(figures: &[Figures]) {
    println!("\n| line | first pass s | CPU s | ours / this | unchanged s | CPU s | ours / this |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    let mut lines = Vec::new();
    for ((name, _), one) in LINES.iter().zip(figures) {
        let of = |pass: usize| {
            let ratios = figures[0].wall[pass]
                .iter()
                .zip(&one.wall[pass])
                .map(|(ours, this)| ours / this);
            let ratios = sorted(ratios.collect());
            format!(
                "{:.2} | {:.2} | {:.2} ({:.2}-{:.2})",
                median(&sorted(one.wall[pass].clone())),
                median(&sorted(one.cpu[pass].clone())),
                median(&ratios),
                ratios[0],
                ratios[ratios.len() - 1]
            )
        };
        println!("| {name} | {} | {} |", of(0), of(1));
        lines.push(json!({"line": name, "wall": one.wall, "cpu": one.cpu}));
    }
    println!("\n{}", serde_json::Value::from(lines));
}
