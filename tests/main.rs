//! End-to-end tests of the programs with real PostgreSQL servers and a real Synapse. Most files test one program or one
//! subject.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod alone;
mod bench;
mod bench_kills;
mod bench_link;
mod bench_media;
mod bench_preflight;
mod canary;
mod clients;
mod crates;
mod demo;
mod ess_job;
mod ess_scale;
mod ess_wipe;
mod extract_secrets;
mod extract_secrets_peer;
mod faults;
mod fence;
mod harness;
mod hostile;
mod hostile_dumps;
mod kills;
mod kube;
mod kube_stand_in;
mod limits;
mod majors;
mod man;
mod media_sync;
mod media_sync_cluster;
mod movement;
mod odd_files;
mod old_databases;
mod pgdump_wrap;
mod pipeline;
mod poolers;
mod preflight;
mod preflight_cluster;
mod preflight_each;
mod readme;
mod restore;
mod soak;
mod support;
mod verify;
mod way_back;
mod well_known;
mod wipe_guards;
mod words;

#[test]
fn every_file_of_tests_is_listed_above() {
    let listed = include_str!("main.rs");
    for entry in std::fs::read_dir("tests").unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let module = name.strip_suffix(".rs").filter(|module| *module != "main");
        if let Some(module) = module {
            assert!(
                listed.contains(&format!("\nmod {module};\n")),
                "tests/main.rs lacks `mod {module};`"
            );
        }
    }
}
