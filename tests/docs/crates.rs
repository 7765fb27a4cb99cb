//! The crates depend on each other as `crates/README.md` draws them.

use std::env;
use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::support::TOOLS;

/// The crates in the order of the table, with the number of the group to which each belongs.
fn floors() -> Vec<(String, usize)> {
    let page = fs::read_to_string("crates/README.md").unwrap();
    let mut group = 0;
    let mut all = Vec::new();
    for row in page.lines() {
        group += usize::from(row.starts_with("| **"));
        if let Some(name) = row.strip_prefix("| `").and_then(|row| row.split_once('`')) {
            all.push((name.0.to_owned(), group));
        }
    }
    all
}

/// Each crate of the workspace with those that it uses, development dependencies included.
fn dependencies() -> Vec<(String, Vec<String>)> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--no-deps", "--offline", "--format-version", "1"]);
    let out = cargo.output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let metadata: Value = serde_json::from_slice(&out.stdout).unwrap();
    let name = |value: &Value| value["name"].as_str().unwrap().strip_prefix("ess-").map(str::to_owned);
    let packages = metadata["packages"].as_array().unwrap().iter();
    packages
        .filter_map(|package| {
            let uses = package["dependencies"].as_array().unwrap().iter();
            let ours = uses.filter(|used| used["path"].is_string());
            Some((
                name(package).filter(|name| name != "migrate")?,
                ours.filter_map(name).collect(),
            ))
        })
        .collect()
}

#[test]
fn no_crate_uses_one_above_it() {
    let floors = floors();
    let place = |name: &str| {
        let at = floors.iter().position(|(known, _)| known == name);
        at.unwrap_or_else(|| panic!("crates/README.md does not list `{name}`"))
    };
    let dependencies = dependencies();
    for (name, _) in &dependencies {
        place(name);
    }
    assert_eq!(
        dependencies.len(),
        floors.len(),
        "crates/README.md lists a crate that does not exist"
    );
    for (name, uses) in &dependencies {
        for used in uses {
            let (upper, lower) = (place(name), place(used));
            assert!(
                upper < lower,
                "`{name}` uses `{used}`, which is above it in crates/README.md"
            );
            let programs = floors[upper].1 == 1 && floors[lower].1 == 1;
            assert!(!programs, "the program `{name}` uses the program `{used}`");
        }
    }
}

#[test]
fn only_programs_and_what_they_share_know_the_command_line() {
    let floors = floors();
    for (name, uses) in dependencies() {
        let (_, group) = floors.iter().find(|(known, _)| *known == name).unwrap();
        assert!(
            *group < 3 || !uses.iter().any(|used| used == "cli"),
            "`{name}` uses `cli`"
        );
    }
}

#[test]
fn every_program_is_a_tool_of_the_tests() {
    let files = fs::read_dir("bin").unwrap().map(|entry| entry.unwrap().file_name());
    let mut files: Vec<String> = files
        .map(|file| file.into_string().unwrap())
        .filter(|file| !["programs.rs", "ess-migrate.rs"].contains(&file.as_str()))
        .map(|file| {
            file.strip_suffix(".rs")
                .expect("bin/ contains programs only")
                .to_owned()
        })
        .collect();
    let mut functions = ess_migrate::ALL.map(|(name, _)| name);
    let mut tools = TOOLS.map(|(name, _)| name);
    files.sort_unstable();
    functions.sort_unstable();
    tools.sort_unstable();

    assert_eq!(functions.to_vec(), files, "the list in bin/programs.rs");
    assert_eq!(tools.to_vec(), files, "the list in tests/support/place.rs");
}
