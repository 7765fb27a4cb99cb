//! The README is correct as far as it can be run.

use std::fs;

use crate::support::pages::{check_commands, commands};
use crate::support::readme::typed;
use crate::support::{TOOLS, World};

#[test]
fn our_programs_take_what_the_readme_gives_them() {
    let world = World::new();

    let found = check_commands(&world, "README.md", &typed(&fs::read_to_string("README.md").unwrap()));

    let missing: Vec<&str> = TOOLS
        .map(|(tool, _)| tool)
        .into_iter()
        .filter(|tool| !found.contains(*tool))
        .collect();
    assert!(missing.is_empty(), "no example has {missing:?}");
}

#[test]
fn every_recipe_and_page_of_the_readme_is_there() {
    let justfile = fs::read_to_string("justfile").unwrap();
    let typed = typed(&fs::read_to_string("README.md").unwrap());
    let mut recipes = 0;
    for command in commands(&typed) {
        match command.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["just", recipe, ..] => {
                recipes += 1;
                let is =
                    |line: &str| line.starts_with(&format!("{recipe}:")) || line.starts_with(&format!("{recipe} "));
                assert!(justfile.lines().any(is), "just {recipe}");
            }
            ["man", page] => assert!(fs::exists(page).unwrap(), "{page}"),
            _ => {}
        }
    }
    assert!(recipes >= 2, "demo and test are there");
}

#[test]
fn the_pipeline_is_the_same_in_the_readme_and_in_the_runbook() {
    let pipelines = |text: &str| -> Vec<String> {
        let text = text.replace("\\e\n", "\\\n");
        let ends = text.split_inclusive("> migration.json");
        let starts = ends.filter_map(|text| Some(&text[text.rfind("preflight -c /etc")?..]));
        let words = starts.map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "));
        words.filter(|line| line.contains("| pgdump-wrap")).take(2).collect()
    };
    let readme = pipelines(&fs::read_to_string("README.md").unwrap());
    let page = pipelines(&fs::read_to_string("man/ess-migrate.7").unwrap());
    assert!(readme.len() == 2 && readme[1].contains("kube:ess"), "{readme:?}");
    assert_eq!(readme, page);
}
