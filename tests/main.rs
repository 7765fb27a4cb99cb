//! End-to-end tests of the programs with real PostgreSQL servers and a real Synapse, in rooms by what they are about.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bench;
mod cluster;
mod docs;
mod faults;
mod pipeline;
mod programs;
mod support;

use std::fs;

use walkdir::WalkDir;

/// Every source file below `tests` by its path, with its text.
fn files() -> Vec<(String, String)> {
    let paths = WalkDir::new("tests")
        .into_iter()
        .map(|entry| entry.unwrap().into_path());
    let rust = paths.filter(|path| path.extension().is_some_and(|end| end == "rs"));
    rust.map(|path| (path.to_str().unwrap().to_owned(), fs::read_to_string(&path).unwrap()))
        .collect()
}

/// A file that no module lists is not compiled, and none of its tests runs.
#[test]
fn every_file_of_tests_is_listed_above() {
    let files = files();
    for (path, _) in &files {
        let module = path.strip_suffix("/mod.rs").or(path.strip_suffix(".rs")).unwrap();
        if module == "tests/main" {
            continue;
        }
        let (above, name) = module.rsplit_once('/').unwrap();
        let listings = [
            format!("{above}/main.rs"),
            format!("{above}/mod.rs"),
            format!("{above}.rs"),
        ];
        let listing = files.iter().find(|(path, _)| listings.contains(path));
        let (listing, text) = listing.unwrap_or_else(|| panic!("no file lists {path}"));
        let declared = format!("mod {name};");
        assert!(
            text.lines()
                .any(|line| line.trim_start_matches("pub(crate) ") == declared),
            "{listing} lacks `{declared}`"
        );
    }
}
