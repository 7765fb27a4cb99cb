//! The manual pages agree with the programs: options, descriptions, exit statuses, findings and fields.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::support::pages::{
    check_commands, commands, help, is_number, literals, page_of, pages, section, statuses, typed,
};
use crate::support::{TOOLS, World};

/// The first word of each list entry in a text.
fn entries<'a>(text: &'a str, mark: &str) -> BTreeSet<&'a str> {
    let entry = |line: &'a str| line.strip_prefix(mark)?.split(' ').next();
    text.lines().filter_map(entry).collect()
}

#[test]
fn every_program_has_the_same_one_line_description_everywhere() {
    let world = World::new();
    let readme = fs::read_to_string("README.md").unwrap();
    for (tool, _) in TOOLS {
        let about = help(&world, tool).lines().next().unwrap().to_owned();
        let about = about[..1].to_lowercase() + &about[1..];
        let page = page_of(tool);
        assert!(
            page.contains(&format!("\n.Nm {tool}\n.Nd {about}\n")),
            "man/{tool}.1: {about}"
        );
        assert!(
            readme.contains(&format!("`{tool}` | {about} |")),
            "README.md: {tool}: {about}"
        );
    }
}

#[test]
fn every_page_has_the_sections_that_one_opens_it_for() {
    for (tool, _) in TOOLS {
        let page = page_of(tool);
        for title in [
            "NAME",
            "SYNOPSIS",
            "DESCRIPTION",
            "ENVIRONMENT",
            "FILES",
            "EXIT STATUS",
            "EXAMPLES",
            "IN YOUR OWN RUNBOOK",
            "SEE ALSO",
        ] {
            assert!(page.contains(&format!("\n.Sh {title}\n")), "man/{tool}.1 lacks {title}");
        }
        let see = section(&page, "SEE ALSO");
        assert!(see.contains(".Xr ess-options 7"), "man/{tool}.1 does not lead to it");
    }
    let shared = &pages()["ess-options.7"];
    for title in [
        "SOURCE",
        "TARGET",
        "COMMON OPTIONS",
        "ENVIRONMENT",
        "EXIT STATUS",
        "SEE ALSO",
    ] {
        assert!(
            shared.contains(&format!("\n.Sh {title}\n")),
            "man/ess-options.7 lacks {title}"
        );
    }
}

#[test]
fn the_runbook_leads_to_every_other_page() {
    let pages = pages();
    let see = section(&pages["ess-migrate.7"], "SEE ALSO");
    let named: BTreeSet<String> = see
        .lines()
        .filter_map(|line| line.strip_prefix(".Xr "))
        .map(|line| line.split(' ').take(2).collect::<Vec<_>>().join("."))
        .collect();

    let others: BTreeSet<String> = pages.into_keys().filter(|name| name != "ess-migrate.7").collect();
    assert_eq!(named, others);
    for (tool, _) in TOOLS {
        assert!(named.contains(&format!("{tool}.1")), "{tool} has no page");
    }
}

/// The exit statuses that a page lists. Several can share an entry, such as `.It 64, 69, 128+ Ns Ar n`.
fn statuses_in_page(page: &str) -> Vec<&str> {
    let lines = section(page, "EXIT STATUS").lines();
    let listed = lines.filter_map(|line| line.strip_prefix(".It "));
    let words = listed.flat_map(|line| line.split([' ', ',']));
    words
        .filter(|word| *word == "128+" || !word.is_empty() && is_number(word))
        .collect()
}

#[test]
fn every_page_has_the_exit_statuses_of_the_table() {
    let table = statuses();
    let pages = pages();
    for (name, page) in &pages {
        if name == "ess-migration.5" {
            continue;
        }
        let listed = statuses_in_page(page);
        let mut says: BTreeSet<&str> = listed.iter().copied().collect();
        assert_eq!(says.len(), listed.len(), "man/{name} lists a status twice");
        assert!(says.remove("128+"), "man/{name} does not say what a signal does");
        assert_eq!(says, table, "man/{name}");
        let refers = section(page, "EXIT STATUS").contains(".Xr ess-options 7");
        assert_eq!(refers, name != "ess-options.7", "man/{name}");
    }
    // The page to which the others refer describes each on its own.
    let mut described = entries(section(&pages["ess-options.7"], "EXIT STATUS"), ".It ");
    assert!(described.remove("128+"), "{described:?}");
    assert_eq!(described, table);
}

#[test]
fn every_command_in_a_page_is_one_that_its_program_takes() {
    let world = World::new();
    let mut found = BTreeSet::new();
    for (name, page) in pages() {
        for example in literals(&page) {
            found.append(&mut check_commands(&world, &format!("man/{name}"), &typed(&example)));
        }
        // Commands within a sentence, such as `.Nm restore Fl -role Ar role`.
        for line in page.lines().filter_map(|line| line.strip_prefix(".Nm ")) {
            let line = line.replace("Fl ", "-").replace("Ar ", "").replace("Cm ", "");
            check_commands(
                &world,
                &format!("man/{name}"),
                line.trim_end_matches([' ', ',', ';', ':', '.']),
            );
        }
    }
    assert_eq!(found.len(), TOOLS.len(), "{found:?}");
}

#[test]
fn the_findings_in_the_runbook_are_those_of_preflight() {
    let pages = pages();
    let known = entries(section(&pages["preflight.1"], "FINDINGS"), ".It Sy ");
    let steps: Vec<&str> = section(&pages["ess-migrate.7"], "EACH STEP OF THE USUAL RUNBOOK")
        .lines()
        .collect();
    let mut found = 0;
    for lines in steps.windows(2) {
        let is_finding = ["finding", "findings", "blocker", "warning"]
            .iter()
            .any(|word| lines[0].ends_with(word));
        if let Some(rest) = lines[1].strip_prefix(".Ql ").filter(|_| is_finding) {
            let id = rest.split(' ').next().unwrap();
            assert!(known.contains(id), "{id}");
            found += 1;
        }
    }
    assert!(found > 5);
}

#[test]
fn the_document_s_page_has_every_field() {
    let page = &pages()["ess-migration.5"];
    let says: BTreeSet<&str> = page
        .lines()
        .filter(|line| line.starts_with(".Sy ") || line.starts_with(".It Sy "))
        .flat_map(|line| line.split(' '))
        .collect();
    let schema: Value = serde_json::from_str(include_str!("../../crates/document/schema.json")).unwrap();

    let mut fields = BTreeSet::new();
    collect_fields(&schema, &mut fields);
    let missing: Vec<&String> = fields.iter().filter(|field| !says.contains(field.as_str())).collect();
    assert!(fields.contains("format") && missing.is_empty(), "{missing:?}");
}

fn collect_fields(schema: &Value, fields: &mut BTreeSet<String>) {
    if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
        fields.extend(properties.keys().cloned());
    }
    match schema {
        Value::Object(all) => all.values().for_each(|value| collect_fields(value, fields)),
        Value::Array(all) => all.iter().for_each(|value| collect_fields(value, fields)),
        _ => {}
    }
}

#[test]
fn the_document_in_its_page_is_one() {
    let page = &pages()["ess-migration.5"];
    let example = literals(section(page, "EXAMPLES")).remove(0);
    let world = World::new();

    let ran = world.run("ess-wipe", [""; 0], example.as_str());

    assert_eq!(ran.status.code(), Some(64), "it was read, and names no target: {ran}");
}

#[test]
fn shell_text_is_read_as_a_shell_reads_it() {
    let text = "a -x 'b c' \"$D\" \\\n  e | f <g && h i>j;k\n";
    let read: Vec<String> = commands(text).iter().map(|words| words.join("_")).collect();
    assert_eq!(read, ["a_-x_b c_$D_e", "f_<g", "", "h_i>j", "k", ""]);
}

/// Each page as a terminal shows it, without overstrikes.
fn rendered() -> BTreeMap<String, String> {
    let render = |name: &String| {
        let out = Command::new("mandoc")
            .args(["-T", "ascii", "-O", "width=500"])
            .arg(format!("man/{name}"))
            .output()
            .expect("mandoc runs");
        assert!(out.status.success(), "man/{name}");
        let text = String::from_utf8(out.stdout).unwrap();
        let mut plain = String::new();
        for next in text.chars() {
            if next == '\u{8}' {
                plain.pop();
            } else {
                plain.push(next);
            }
        }
        plain
    };
    pages().keys().map(|name| (name.clone(), render(name))).collect()
}

/// What roff made of a sentence that it read as macros: words with a hyphen each, an included file, nested quotes.
fn misread(line: &str) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    let is_flag = |word: &&str| {
        let name = word.trim_start_matches('-').trim_end_matches([',', '.', ';', ')']);
        word.starts_with('-')
            && !word.starts_with("--")
            && name.len() > 2
            && name.bytes().all(|byte| byte.is_ascii_lowercase())
    };
    let prose_as_flags = words.windows(3).any(|three| three.iter().all(is_flag));
    let is_heading = line.starts_with("   ") && !line.starts_with("    ") || !line.starts_with(' ');
    prose_as_flags
        || is_heading && line.contains('<')
        || line.contains("[`")
        || line.contains("'['")
        || line.contains("``")
}

#[test]
fn every_page_reads_well_as_it_is_rendered() {
    for (name, page) in rendered() {
        assert!(page.contains("\nNAME\n"), "man/{name}: {page}");
        for line in page.lines() {
            assert!(!misread(line), "man/{name} is rendered as: {line}");
        }
    }
    for line in [
        "     with --plan; -not -while -anyone -is -connected; not what",
        "   <a> cluster",
        "     Which ESS: `kube:NAMESPACE[`/RELEASE']', see",
    ] {
        assert!(misread(line), "{line}");
    }
    assert!(!misread("     -n, --no-input"));
}
