//! The manual pages agree with the programs: options, descriptions, exit statuses, findings and fields.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::support::{Stdin, TOOLS, World};

/// The simple commands in shell text of a page or the README, each as a list of words.
pub(crate) fn commands(text: &str) -> Vec<Vec<String>> {
    let mut commands = vec![Vec::new()];
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut rest = text.chars().peekable();
    while let Some(next) = rest.next() {
        match (quote, next) {
            (Some(open), _) if next == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(next);
                word.get_or_insert_default();
            }
            (None, '\\') if rest.peek() == Some(&'\n') => drop(rest.next()),
            (None, ' ' | '\t' | '\n' | '|' | '&' | ';') => {
                commands.last_mut().unwrap().extend(word.take());
                if !" \t".contains(next) {
                    commands.push(Vec::new());
                }
            }
            _ => word.get_or_insert_default().push(next),
        }
    }
    commands.last_mut().unwrap().extend(word);
    commands
}

/// The commands of an example: all of it, or if it has prompts, only the lines after them without the output.
pub(crate) fn typed(example: &str) -> String {
    if !example.lines().any(|line| line.starts_with("$ ")) {
        return example.to_owned();
    }
    let mut text = String::new();
    let mut goes_on = false;
    for line in example.lines() {
        let command = line.strip_prefix("$ ").or(goes_on.then_some(line));
        goes_on = command.is_some_and(|line| line.ends_with('\\'));
        if let Some(command) = command {
            text += command;
            text.push('\n');
        }
    }
    text
}

/// Fails unless each of our programs in shell text accepts its arguments there. Returns the programs that were found.
#[track_caller]
pub(crate) fn check_commands(world: &World, whence: &str, text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for mut command in commands(text) {
        // The time field of a crontab.
        command.retain(|word| word != "@daily");
        let Some(tool) = command
            .first()
            .filter(|word| TOOLS.iter().any(|(tool, _)| tool == word))
        else {
            continue;
        };
        let mut words = command[1..].iter();
        let mut args = Vec::new();
        while let Some(word) = words.next() {
            if word == "<" || word == ">" {
                words.next();
            } else if !word.starts_with(['<', '>']) {
                args.push(word.as_str());
            }
        }
        // With --help at the end, everything before it is parsed; what follows `--` belongs to another program.
        args.truncate(args.iter().position(|word| *word == "--").unwrap_or(args.len()));
        args.push("--help");
        let ran = world.run(tool, &args, Stdin::Null);
        assert!(ran.status.success(), "{whence}: {}\n{ran}", command.join(" "));
        found.insert(tool.clone());
    }
    found
}

/// Every page, by its file name.
fn pages() -> BTreeMap<String, String> {
    fs::read_dir("man")
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let text = fs::read_to_string(entry.path()).unwrap();
            (entry.file_name().into_string().unwrap(), text)
        })
        .collect()
}

fn page_of(tool: &str) -> String {
    fs::read_to_string(format!("man/{tool}.1")).unwrap_or_else(|error| panic!("man/{tool}.1: {error}"))
}

fn help(world: &World, tool: &str) -> String {
    world.run(tool, ["--help"], Stdin::Null).success().stdout
}

/// The text of a section.
pub(crate) fn section<'a>(page: &'a str, title: &str) -> &'a str {
    let start = page
        .find(&format!(".Sh {title}\n"))
        .unwrap_or_else(|| panic!("no section {title}"));
    let body = &page[start + 4..];
    &body[..body.find("\n.Sh ").unwrap_or(body.len())]
}

/// The first word of each list entry in a text.
fn entries<'a>(text: &'a str, mark: &str) -> BTreeSet<&'a str> {
    let entry = |line: &'a str| line.strip_prefix(mark)?.split(' ').next();
    text.lines().filter_map(entry).collect()
}

/// The literal blocks of a page, without roff's escapes.
pub(crate) fn literals(page: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut literal = false;
    for line in page.lines() {
        if line.starts_with(".Bd -literal") {
            blocks.push(String::new());
            literal = true;
        } else if line == ".Ed" {
            literal = false;
        } else if literal {
            let block = blocks.last_mut().unwrap();
            *block += &line.replace("\\(aq", "'").replace("\\e", "\\");
            block.push('\n');
        }
    }
    blocks
}

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
            "preflight" | "extract-secrets" | "pgdump-wrap" | "media-sync" => "-c, --config <PATH>",
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

fn is_number(word: &str) -> bool {
    word.bytes().all(|byte| byte.is_ascii_digit())
}

/// The exit statuses of the table in the code.
fn statuses() -> BTreeSet<&'static str> {
    let table: BTreeSet<&str> = include_str!("../crates/stop/src/lib.rs")
        .lines()
        .filter_map(|line| line.trim().strip_suffix(',')?.split_once(" = "))
        .map(|(_, number)| number)
        .filter(|number| is_number(number))
        .collect();
    assert!(table.contains("0") && table.contains("64"), "{table:?}");
    table
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
    let schema: Value = serde_json::from_str(include_str!("../crates/document/schema.json")).unwrap();

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
