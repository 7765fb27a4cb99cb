//! What the benchmarks share: sources of a size, processor time, and figures of several rounds.

use std::fs;
use std::thread;

use super::{Cluster, Database};

/// A kind of homeserver data.
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    /// Fills Synapse's schema with `:events` messages.
    sql: &'static str,
    /// Size of one message with its indexes, in bytes.
    per_message: u64,
}

/// Few, wide rows: mostly messages.
pub(crate) const WIDE: Shape = Shape {
    name: "wide",
    sql: include_str!("../data/bench.sql"),
    per_message: 5_500,
};

/// Many narrow rows: mostly state of rooms, as on a server that has run for years.
pub(crate) const MIX: Shape = Shape {
    name: "mix",
    sql: include_str!("../data/bench_mix.sql"),
    per_message: 11_100,
};

/// Fills a source of about `megabytes`, and returns it with the number of messages.
pub(crate) fn fill(source: &Cluster, shape: &Shape, megabytes: u64) -> (Database, u64) {
    let from = Database::awkward(source);
    source.load_synapse(&from.name, &from.role);
    let events = megabytes * 1_000_000 / shape.per_message;
    source.psql(&from.name, &shape.sql.replace(":events", &events.to_string()));
    (from, events)
}

pub(crate) fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

pub(crate) fn median(sorted: &[f64]) -> f64 {
    let (low, high) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
    f64::midpoint(low, high)
}

/// The numbers below `len` in random order.
pub(crate) fn shuffled(len: usize) -> Vec<usize> {
    let mut order: Vec<(u64, usize)> = (0..len)
        .map(|index| {
            let random = fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap();
            (u64::from_str_radix(&random[..8], 16).unwrap(), index)
        })
        .collect();
    order.sort_unstable();
    order.into_iter().map(|(_, index)| index).collect()
}

/// CPU seconds of the complete machine: servers and programs together.
pub(crate) fn busy() -> f64 {
    processor_seconds(fs::read_to_string("/proc/stat").unwrap().lines().next().unwrap())
}

/// Parses the first line of /proc/stat.
pub(crate) fn processor_seconds(stat: &str) -> f64 {
    let fields = stat.split_whitespace().skip(1).take(3);
    fields.map(|n| n.parse::<f64>().unwrap()).sum::<f64>() / 100.0
}

pub(crate) fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}
