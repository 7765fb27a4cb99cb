//! `--help` and the options in the manual pages agree.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::pages::{check_commands, commands, help, is_number, page_of, pages, section, statuses};
use crate::support::{Stdin, TOOLS, World};

/// Help up to its examples, and from there on.
fn split_at_examples(help: &str) -> (&str, &str) {
    help.split_once("\nExamples:\n")
        .unwrap_or_else(|| panic!("no examples in {help}"))
}

/// The part of help that lists options.
fn option_list(help: &str) -> &str {
    let (before, _) = split_at_examples(help);
    let (_, list) = before.split_once("\nUsage: ").expect("help has a usage line");
    list
}

/// Whether a line of help names an option, such as `-c, --config <PATH>`.
fn is_option_line(line: &str) -> bool {
    let text = line.trim_start();
    text.starts_with('-') && line.len() - text.len() < 8
}

/// The lines of help that name an option.
fn option_lines(help: &str) -> impl Iterator<Item = &str> {
    let lines = option_list(help).lines();
    lines.filter(|line| is_option_line(line)).map(str::trim)
}

/// The options that a line of help names, short and long, such as `-c` and `--config`.
fn options_in_line(line: &str) -> impl Iterator<Item = &str> {
    let words = line.split_whitespace().filter(|word| word.starts_with('-'));
    words.map(|word| word.trim_end_matches(','))
}

/// The options that help lists.
fn options_in_help(help: &str) -> BTreeSet<&str> {
    option_lines(help).flat_map(options_in_line).collect()
}

/// What help contains of each option: its line and its description.
fn described_in_help(help: &str) -> BTreeMap<&str, &str> {
    let mut all = BTreeMap::new();
    // Within an entry, an empty line is indented.
    for entry in option_list(help).split("\n\n") {
        let Some(line) = entry.lines().find(|line| is_option_line(line)) else {
            continue;
        };
        let (_, description) = entry.split_once(line).unwrap();
        for option in options_in_line(line) {
            all.insert(option, description);
        }
    }
    all
}

/// The options in the macros `Fl` of a text.
fn flags(text: &str) -> BTreeSet<String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let pairs = words.windows(2).filter(|pair| pair[0].trim_start_matches('.') == "Fl");
    pairs.map(|pair| format!("-{}", pair[1])).collect()
}

/// The options that a page describes.
fn options_in_page(page: &str) -> BTreeSet<String> {
    let lines = page.lines().filter(|line| line.starts_with(".It Fl "));
    lines.flat_map(flags).collect()
}

/// The options for which a page refers to ess-options(7).
fn referred_in_page(page: &str) -> BTreeSet<String> {
    let (_, list) = page.split_once("\n.Ss Shared options\n").expect("a page lists them");
    assert!(list.contains("described in\n.Xr ess-options 7 :\n"), "{list}");
    let is_in_list = |line: &&str| !line.starts_with(".Ss ") && !line.starts_with(".Sh ");
    list.lines().take_while(is_in_list).flat_map(flags).collect()
}

#[test]
fn every_option_is_described_in_the_page_of_its_program_or_in_the_one_that_all_share() {
    let world = World::new();
    let shared = options_in_page(&pages()["ess-options.7"]);
    let mut referred = BTreeSet::new();
    let mut descriptions: BTreeMap<String, String> = BTreeMap::new();
    for (tool, _) in TOOLS {
        let (help, page) = (help(&world, tool), page_of(tool));
        let has: BTreeSet<String> = options_in_help(&help).into_iter().map(str::to_owned).collect();
        let (described, named) = (options_in_page(&page), referred_in_page(&page));

        let all: BTreeSet<String> = described.union(&named).cloned().collect();
        assert_eq!(has, all, "man/{tool}.1 does not have the options of `{tool} --help`");
        let twice: Vec<&String> = described.intersection(&named).collect();
        assert!(twice.is_empty(), "man/{tool}.1 describes what it refers to: {twice:?}");
        let nowhere: Vec<&String> = named.difference(&shared).collect();
        assert!(nowhere.is_empty(), "man/ess-options.7 lacks {nowhere:?} of {tool}");
        let synopsis = flags(section(&page, "SYNOPSIS"));
        // What follows `--` is a command.
        let unknown: Vec<&String> = synopsis.difference(&has).filter(|flag| *flag != "--").collect();
        assert!(unknown.is_empty(), "man/{tool}.1 has {unknown:?} in its synopsis");
        // One description for several programs is correct only if the option is the same in all of them.
        for (option, description) in described_in_help(&help) {
            if named.contains(option) {
                let first = descriptions
                    .entry(option.to_owned())
                    .or_insert_with(|| description.to_owned());
                assert_eq!(*first, description, "{tool} has another {option}");
            }
        }
        assert!(
            named.iter().all(|option| descriptions.contains_key(option)),
            "{tool}: {help}"
        );
        referred.extend(named);
    }
    assert_eq!(shared, referred, "man/ess-options.7 describes what no program has");
    for (name, page) in pages() {
        let is_of_tool = TOOLS.iter().any(|(tool, _)| name == format!("{tool}.1"));
        if !is_of_tool && name != "ess-options.7" {
            assert_eq!(options_in_page(&page), BTreeSet::new(), "man/{name}");
        }
    }
}

#[test]
fn help_begins_with_what_is_nearly_always_given_and_ends_with_what_all_programs_have() {
    let world = World::new();
    for (tool, _) in TOOLS {
        let first = match tool {
            "rehearse" | "preflight" | "extract-secrets" | "pgdump-wrap" | "media-sync" => "-c, --config <PATH>",
            "ess-wipe" | "restore" | "verify" => "--target <URL>",
            "ess-scale" => "--target <PLACE>",
            "well-known" => "--host <HOST>",
            "ess-job" => "--image <IMAGE>",
            other => panic!("which option of {other} comes first?"),
        };
        let help = help(&world, tool);

        let options: Vec<&str> = option_lines(&help).collect();

        assert_eq!(options.first(), Some(&first), "{tool}");
        assert!(
            options.ends_with(&["-h, --help", "-V, --version"]),
            "{tool}: {options:?}"
        );
        let places = |heading: &str| -> Vec<usize> {
            let line = format!("\n{heading}:\n");
            help.match_indices(&line).map(|(at, _)| at).collect()
        };
        for heading in ["Arguments", "Source", "Target", "Options", "Common options"] {
            assert!(places(heading).len() < 2, "{tool} has several lists of {heading}");
        }
        let (own, common) = (places("Options"), places("Common options"));
        assert!(!own.is_empty() && own < common, "{tool}: {help}");
    }
}

#[test]
fn an_option_that_would_have_no_effect_is_refused() {
    let world = World::new();
    let refused = |tool: &str, args: &[&str]| {
        let ran = world.run(tool, args, Stdin::Null);
        assert_eq!(ran.status.code(), Some(64), "{tool} {args:?}: {ran}");
        let because = |why: &str| ran.stderr.contains(why);
        assert!(
            because("unexpected argument") || because("cannot be used with"),
            "{tool} {args:?}: {ran}"
        );
    };
    refused(
        "ess-job",
        &["-n", "--image", "x", "--claim", "x", "--export", "x", "true"],
    );
    for option in ["--out=new", "--old=saved"] {
        refused("well-known", &["-n", "--check", option]);
    }
    for option in [
        "--config=x",
        "--source=x",
        "--source-dir=x",
        "--out=x",
        "--target=kube:x",
        "--kube-context=x",
        "--without=remote",
        "--delete",
        "--verify",
        "--owner=1",
        "--jobs=2",
        "--export=x",
    ] {
        refused("media-sync", &["-n", "--receive", "copy", option]);
    }
}

#[test]
fn help_ends_with_examples_exit_statuses_and_pages() {
    let world = World::new();
    for (tool, _) in TOOLS {
        let help = help(&world, tool);
        let (_, end) = split_at_examples(&help);
        let (examples, end) = end.split_once("\n\nExit status: ").expect(tool);
        let (exit, pages) = end.split_once("\n\n").expect(tool);

        check_commands(&world, &format!("{tool} --help"), examples);
        let is_example = |command: &&Vec<String>| command.first().is_some_and(|word| word == tool);
        let shown = commands(examples).iter().filter(is_example).count();
        assert!((1..=3).contains(&shown), "{tool} has {shown} examples: {examples}");
        for line in examples.lines() {
            assert!(line.len() < 80, "a terminal would wrap: {line}");
        }
        let named: BTreeSet<&str> = exit.split_whitespace().filter(|word| is_number(word)).collect();
        assert_eq!(named, statuses(), "{tool}: {exit}");
        let own = format!("man {tool},");
        for page in [own.as_str(), "ess-options(7)", "ess-migrate(7)"] {
            assert!(pages.contains(page), "{tool}: {pages}");
        }
    }
}
