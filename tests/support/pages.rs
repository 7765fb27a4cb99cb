//! Manual pages and shell text, read as a person reads them: sections, examples and the commands in them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use super::{Stdin, TOOLS, World};

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
        command.retain(|word| !["@daily", "@weekly"].contains(&word.as_str()));
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

/// The text of a section.
pub(crate) fn section<'a>(page: &'a str, title: &str) -> &'a str {
    let start = page
        .find(&format!(".Sh {title}\n"))
        .unwrap_or_else(|| panic!("no section {title}"));
    let body = &page[start + 4..];
    &body[..body.find("\n.Sh ").unwrap_or(body.len())]
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

/// Every page, by its file name.
pub(crate) fn pages() -> BTreeMap<String, String> {
    fs::read_dir("man")
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let text = fs::read_to_string(entry.path()).unwrap();
            (entry.file_name().into_string().unwrap(), text)
        })
        .collect()
}

pub(crate) fn page_of(tool: &str) -> String {
    fs::read_to_string(format!("man/{tool}.1")).unwrap_or_else(|error| panic!("man/{tool}.1: {error}"))
}

pub(crate) fn help(world: &World, tool: &str) -> String {
    world.run(tool, ["--help"], Stdin::Null).success().stdout
}

pub(crate) fn is_number(word: &str) -> bool {
    word.bytes().all(|byte| byte.is_ascii_digit())
}

/// The exit statuses of the table in the code.
pub(crate) fn statuses() -> BTreeSet<&'static str> {
    let table: BTreeSet<&str> = include_str!("../../crates/stop/src/lib.rs")
        .lines()
        .filter_map(|line| line.trim().strip_suffix(',')?.split_once(" = "))
        .map(|(_, number)| number)
        .filter(|number| is_number(number))
        .collect();
    assert!(table.contains("0") && table.contains("64"), "{table:?}");
    table
}
