//! `just bench-preflight`: measures complete runs of preflight on a healthy small server, with everything that it
//! checks in place.
//!
//! `BENCH_ROUNDS` is the number of rounds.
#![expect(clippy::print_stdout, reason = "it is there to be read")]

use std::env;
use std::time::Instant;

use crate::support::findings::serious;
use crate::support::installation::Stage;

#[test]
#[ignore = "it asserts nothing about time: `just bench-preflight`"]
fn bench_preflight() {
    let rounds = env::var("BENCH_ROUNDS").map_or(10, |text| text.parse::<usize>().unwrap());
    let stage = Stage::new();
    stage.synapse.start();
    let mut all = Vec::new();
    let mut said = String::new();
    for _ in 0..rounds {
        let start = Instant::now();
        let ran = stage.preflight().args(["--export", "export"]).run().success();
        all.push(start.elapsed().as_secs_f64());
        assert_eq!(serious(&ran), [""; 0], "it is not healthy: {ran}");
        said = ran.stderr;
    }
    stage.synapse.stop();
    all.sort_by(f64::total_cmp);
    let median = f64::midpoint(all[(rounds - 1) / 2], all[rounds / 2]);
    let findings = said.lines().last().unwrap_or_default();
    println!("source and target, a Synapse that runs, DNS and HTTPS, media, the export; {findings}\n");
    println!("| runs | fastest s | median s | slowest s |\n| --- | --- | --- | --- |");
    println!("| {rounds} | {:.2} | {median:.2} | {:.2} |", all[0], all[rounds - 1]);
    println!("\n{}", serde_json::json!({"wall": all}));
}
