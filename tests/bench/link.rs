//! `just bench-link`: measures the data path from an old host to a new one over a link of 200 Mbit/s, with the programs
//! on either host, and with each compression that `pg_dump` supports.
//!
//! The hosts are two network namespaces. `BENCH_MB` is the size of the source, `BENCH_MBIT` the rate of the link.
//! Asserts that the target equals the source. Times are only printed.
#![expect(clippy::print_stdout, reason = "it is there to be read")]

use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::Command;
use std::time::Instant;
use std::{env, thread};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::support::measure::{WIDE, fill};
use crate::support::{Cluster, World};

/// Where each part of the pipeline runs. `$S` and `$T` are the databases as reached from that host.
const ROUTES: [(&str, &[(Host, &str)]); 3] = [
    (
        "dump at the old host, carry the dump",
        &[
            (Host::Old, DUMP),
            (Host::New, "rsync -a rsync://$OLD:8730/world/dump/ carried"),
            (Host::New, WIPE),
            (Host::New, "restore -q -n --from carried --target \"$T\" > 3.json"),
        ],
    ),
    (
        "all at the new host",
        &[(Host::New, DUMP), (Host::New, WIPE), (Host::New, RESTORE)],
    ),
    (
        "all at the old host",
        &[(Host::Old, DUMP), (Host::Old, WIPE), (Host::Old, RESTORE)],
    ),
];
const DUMP: &str = "pgdump-wrap -q -n --source \"$S\" --out dump --server-name example.org --compress \"$C\" > 1.json";
const WIPE: &str = "ess-wipe -q -n --target \"$T\" --server-name example.org --backup backup --execute \\
    --confirm example.org/synapse --allow-used > 2.json";
const RESTORE: &str = "restore -q -n --from dump --target \"$T\" > 3.json";

#[derive(Clone, Copy, PartialEq)]
enum Host {
    Old,
    New,
}

impl Host {
    fn address(self) -> &'static str {
        match self {
            Self::Old => "10.99.0.1",
            Self::New => "10.99.0.2",
        }
    }
}

/// Two hosts and the link between them, until it is dropped.
struct Link {
    names: [String; 2],
}

impl Link {
    fn new(mbit: u64) -> Self {
        let id = std::process::id();
        let names = [format!("ess-old-{id}"), format!("ess-new-{id}")];
        let link = Self { names };
        let [old, new] = &link.names;
        ip(&format!("netns add {old}"));
        ip(&format!("netns add {new}"));
        ip(&format!(
            "link add eth0 netns {old} type veth peer name eth0 netns {new}"
        ));
        for host in [Host::Old, Host::New] {
            let name = link.name(host);
            ip(&format!("-n {name} addr add {}/24 dev eth0", host.address()));
            ip(&format!("-n {name} link set lo up"));
            ip(&format!("-n {name} link set eth0 up"));
            let limit = format!("-n {name} qdisc add dev eth0 root tbf rate {mbit}mbit burst 128kb latency 50ms");
            root("tc", &limit);
        }
        link
    }

    fn name(&self, host: Host) -> &str {
        &self.names[usize::from(host == Host::New)]
    }

    /// Runs `what`, and every process that it starts, in the network namespace of a host.
    fn at<T: Send>(&self, host: Host, what: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(Path::new("/run/netns").join(self.name(host))).unwrap();
        thread::scope(|scope| {
            let there = scope.spawn(|| {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                what()
            });
            there.join().unwrap()
        })
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

fn ip(arguments: &str) {
    root("ip", arguments);
}

#[track_caller]
fn root(program: &str, arguments: &str) {
    let ran = Command::new(program).args(arguments.split(' ')).output();
    let ran = ran.unwrap_or_else(|error| panic!("{program}: {error}; install iproute2"));
    let why = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{program} {arguments}: {why} (this needs root)");
}

#[test]
#[ignore = "it needs root, and asserts nothing about time: `just bench-link`"]
fn bench_link() {
    let number = |name: &str, other| env::var(name).map_or(other, |text| text.parse::<u64>().unwrap());
    let (megabytes, mbit) = (number("BENCH_MB", 500), number("BENCH_MBIT", 200));
    let link = Link::new(mbit);
    let world = World::new();
    let source = Cluster::new(&world, "source");
    let target = Cluster::ess(&world, "target");
    let (from, events) = fill(&source, &WIDE, megabytes);
    for (host, cluster) in [(Host::Old, &source), (Host::New, &target)] {
        cluster.psql("postgres", "ALTER SYSTEM SET shared_buffers = '128MB'");
        cluster.psql("postgres", "ALTER SYSTEM SET listen_addresses = '*'");
        let access = cluster.dir.join("data/pg_hba.conf");
        fs::write(&access, "local all all trust\nhost all all samenet trust\n").unwrap();
        cluster.stop();
        link.at(host, || cluster.start());
    }
    world.write(
        "rsyncd.conf",
        format!("use chroot = no\n[world]\npath = {}\n", world.path("").display()),
    );
    let daemon = "exec rsync --daemon --no-detach --config=rsyncd.conf --port=8730";
    let daemon = link.at(Host::Old, || world.script(daemon).start());

    println!(
        "source: {}, {events} messages, {mbit} Mbit/s",
        source.psql(
            &from.name,
            "SELECT pg_size_pretty(pg_database_size(current_database()))"
        )
    );
    println!("\n| where | compression | dump s | carry s | restore s | all s | MB of dump |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for (route, parts) in ROUTES {
        for compression in compressions(&world) {
            target.psql("postgres", "DROP DATABASE IF EXISTS synapse WITH (FORCE)");
            target.create_database("synapse", "synapse_user");
            target.load_fresh();
            world.shell("rm -rf dump carried backup .*.lock *.json").success();
            let url = |cluster: &Cluster, place: Host, host: Host, database: &str, role: &str| {
                if place == host {
                    cluster.socket_url(database, role)
                } else {
                    cluster.url(database, role).replace("127.0.0.1", place.address())
                }
            };
            let seconds: Vec<f64> = parts
                .iter()
                .map(|(host, part)| {
                    let start = Instant::now();
                    link.at(*host, || {
                        world
                            .script(part)
                            .env("S", url(&source, Host::Old, *host, &from.name, &from.role))
                            .env("T", url(&target, Host::New, *host, "synapse", "synapse_user"))
                            .env("OLD", Host::Old.address())
                            .env("C", compression)
                            .run()
                            .success();
                    });
                    start.elapsed().as_secs_f64()
                })
                .collect();
            let count = |cluster: &Cluster, database: &str| cluster.psql(database, "SELECT count(*) FROM event_json");
            assert_eq!(count(&source, &from.name), count(&target, "synapse"));
            let all: f64 = seconds.iter().sum();
            let carry = if parts.len() == 4 { seconds[1] } else { 0.0 };
            let restore = seconds[seconds.len() - 2] + seconds[seconds.len() - 1];
            let disk = world.shell("du -sm dump | cut -f 1").stdout;
            println!(
                "| {route} | {compression} | {:.1} | {carry:.1} | {restore:.1} | {all:.1} | {} |",
                seconds[0],
                disk.trim()
            );
        }
    }
    drop(daemon);
}

/// The compressions that this machine's `pg_dump` supports.
fn compressions(world: &World) -> &'static [&'static str] {
    let version = world.shell("pg_dump --version").stdout;
    let major = version.split_whitespace().nth(2).and_then(|v| v.split('.').next());
    let major: u32 = major.and_then(|major| major.parse().ok()).unwrap();
    if major >= 16 {
        &["none", "lz4", "zstd:1", "gzip:1"]
    } else {
        &["none", "gzip:1"]
    }
}
