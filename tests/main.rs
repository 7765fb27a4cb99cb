//! End-to-end tests of the programs with real PostgreSQL servers and a real Synapse, in rooms by what they are about.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bench;
mod cluster;
mod docs;
mod faults;
mod kubernetes;
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

/// What tests share is in `support`.
#[test]
fn no_test_uses_another_file_of_tests() {
    let modules = include_str!("main.rs")
        .lines()
        .filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';'));
    let rooms: Vec<String> = modules
        .filter(|module| *module != "support")
        .map(|room| format!("crate::{room}::"))
        .collect();
    assert!(rooms.len() > 1, "{rooms:?}");
    for (path, text) in files() {
        for room in &rooms {
            assert!(!text.contains(room), "{path} uses {room}");
        }
        let is_test = path != "tests/main.rs" && !path.starts_with("tests/support/");
        assert!(!is_test || !text.contains("super::"), "{path} uses super::");
    }
}

/// Files of more than 500 lines, each with the reason why it is not split by subject.
const LONG: &[(&str, &str)] = &[];

#[test]
fn no_file_of_tests_is_long_without_a_reason() {
    for (path, text) in files() {
        let lines = text.lines().count();
        let has_reason = LONG.iter().any(|(long, _)| *long == path);
        assert_eq!(lines > 500, has_reason, "{path} has {lines} lines");
    }
}
