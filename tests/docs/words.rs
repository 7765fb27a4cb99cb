//! The words that `docs/words.md` refuses are in no text that people read.

use std::fs;

use walkdir::WalkDir;

/// The left column of the table of refused words: a phrase is a list of lower-case words.
fn refused() -> Vec<Vec<String>> {
    let page = fs::read_to_string("docs/words.md").unwrap();
    let (_, rest) = page.split_once("## Refused words").unwrap();
    let table = rest.split("\n## ").next().unwrap();
    let rows = table
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" |").next());
    let phrases = rows.skip(1).flat_map(|row| row.split(", "));
    phrases.map(words).filter(|phrase| !phrase.is_empty()).collect()
}

/// The words of a text in lower case. A name in braces or backquotes is not one.
fn words(text: &str) -> Vec<String> {
    let mut plain = String::new();
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        rest = &rest[next.len_utf8()..];
        let end = match next {
            '`' => rest.find('`'),
            // `{{` is a brace in a format string.
            '{' if !rest.starts_with('{') => rest.find('}'),
            _ => None,
        };
        match end {
            Some(end) => rest = &rest[end + 1..],
            None => plain.extend(next.to_lowercase()),
        }
    }
    plain
        .split(|next: char| !(next.is_alphanumeric() || "'-_".contains(next)))
        .map(|word| word.trim_matches('\''))
        .filter(|word| word.contains(char::is_alphabetic))
        .map(str::to_owned)
        .collect()
}

/// The texts, and the end of each with the beginning of one that follows on the next line: a phrase can be wrapped.
fn with_seams<'a>(texts: &[(usize, &'a str)]) -> Vec<(usize, String)> {
    let seam = |pair: &[(usize, &'a str)]| {
        let end: Vec<&str> = pair[0].1.split_whitespace().rev().take(3).collect();
        let start: Vec<&str> = pair[1].1.split_whitespace().take(3).collect();
        let words = end.into_iter().rev().chain(start).collect::<Vec<_>>();
        (pair[1].0 == pair[0].0 + 1).then(|| (pair[0].0, words.join(" ")))
    };
    let whole = texts.iter().map(|(line, text)| (*line, (*text).to_owned()));
    whole.chain(texts.windows(2).filter_map(seam)).collect()
}

/// The refused phrases in a text.
fn found(refused: &[Vec<String>], text: &str) -> Vec<String> {
    let words = words(text);
    let mut found: Vec<String> = refused
        .iter()
        .filter(|phrase| words.windows(phrase.len()).any(|window| window == phrase.as_slice()))
        .map(|phrase| phrase.join(" "))
        .collect();
    let is_no = words.windows(2).enumerate().any(|(at, pair)| {
        let before = at.checked_sub(1).map(|at| words[at].as_str());
        let after = words.get(at + 2).map_or("", String::as_str);
        pair == ["is", "no"] && before.is_some_and(|before| before != "there") && !["longer", "more"].contains(&after)
    });
    found.extend(is_no.then(|| "is no".to_owned()));
    found
}

/// Comments and string literals of Rust, each with its line. A literal of one word is a name.
fn prose(rust: &str) -> Vec<(usize, &str)> {
    let mut all = Vec::new();
    let mut at = 0;
    while let Some(next) = rust[at..].chars().next() {
        let here = &rust[at..];
        let line = || 1 + rust[..at].matches('\n').count();
        let raw = here.strip_prefix('r').map(|text| text.trim_start_matches('#'));
        let is_name = rust[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_');
        if here.starts_with("//") {
            let end = here.find('\n').unwrap_or(here.len());
            all.push((line(), &here[2..end]));
            at += end;
        } else if let Some(text) = raw.and_then(|raw| raw.strip_prefix('"')).filter(|_| !is_name) {
            let start = here.len() - text.len();
            let close = format!("\"{}", "#".repeat(start - 2));
            let end = start + text.find(&close).expect("a raw string ends");
            all.push((line(), &here[start..end]));
            at += end + close.len();
        } else if next == '"' {
            let mut end = 1;
            while !here[end..].starts_with('"') {
                end += if here[end..].starts_with('\\') {
                    2
                } else {
                    here[end..].chars().next().unwrap().len_utf8()
                };
            }
            all.push((line(), &here[1..end]));
            at += end + 1;
        } else if let Some(length) = character(here) {
            at += length;
        } else {
            at += next.len_utf8();
        }
    }
    all.retain(|(_, text)| text.trim().contains(' '));
    all
}

/// The length of a character literal at the beginning of a text; a lifetime is none.
fn character(text: &str) -> Option<usize> {
    let inner = text.strip_prefix('\'')?;
    let skipped = if inner.starts_with('\\') {
        2
    } else {
        inner.chars().next()?.len_utf8()
    };
    let end = skipped + inner.get(skipped..)?.find('\'')?;
    (inner.starts_with('\\') && end < 12 || end == skipped).then_some(end + 2)
}

fn files_below(directory: &str, ending: &str) -> Vec<String> {
    let files = WalkDir::new(directory).sort_by_file_name().into_iter().flatten();
    files
        .filter(|file| file.file_type().is_file() && file.path().to_string_lossy().ends_with(ending))
        .map(|file| file.path().to_string_lossy().into_owned())
        .collect()
}

#[test]
fn no_text_contains_a_refused_word() {
    let refused = refused();
    assert!(refused.len() > 20, "{refused:?}");
    let mut all = Vec::new();
    let mut check = |path: &str, line: usize, text: &str| {
        for word in found(&refused, text) {
            all.push(format!("{path}:{line}: \"{word}\" in: {}", text.trim()));
        }
    };
    let rust = files_below("crates", ".rs")
        .into_iter()
        .chain(files_below("bin", ".rs"));
    for path in rust.filter(|path| !path.contains("/tests") && !path.ends_with("_tests.rs")) {
        let text = fs::read_to_string(&path).unwrap();
        for (line, text) in with_seams(&prose(&text)) {
            check(&path, line, &text);
        }
    }
    let pages = files_below("man", "").into_iter().chain(files_below("crates", ".md"));
    let others = [
        "README.md",
        "CHANGELOG.md",
        "docs/benchmarks.md",
        "tests/README.md",
        "justfile",
        "Cargo.toml",
    ]
    .map(str::to_owned);
    for path in pages.chain(others) {
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let lines: Vec<(usize, &str)> = text.lines().enumerate().map(|(at, text)| (at + 1, text)).collect();
        for (line, text) in with_seams(&lines) {
            check(&path, line, &text);
        }
    }
    for path in files_below("crates", ".sql") {
        let text = fs::read_to_string(&path).unwrap();
        for (at, text) in text.lines().enumerate() {
            check(&path, at + 1, text.split_once("--").map_or("", |(_, comment)| comment));
        }
    }
    assert!(all.is_empty(), "see docs/words.md:\n{}", all.join("\n"));
}

#[test]
fn a_refused_word_is_found_in_comments_and_literals_and_nowhere_else() {
    let rust = r##"
        fn says(beside: &'static str) -> char { /* */ '"' } // it says so
        const A: &str = "a \"quoted\" word that lies";
        const B: &str = r#"it "came" anew"#;
        const KEY: &str = "says";
        let text = format!("{says} and `beside` is no longer; there is no file; it is no file");
    "##;
    let refused = refused();
    let found: Vec<(usize, Vec<String>)> = prose(rust)
        .into_iter()
        .map(|(line, text)| (line, found(&refused, text)))
        .collect();
    let one = |word: &str| vec![word.to_owned()];
    let wrapped = with_seams(&[(1, "it goes"), (2, "on and"), (4, "on")]);
    assert_eq!(wrapped.len(), 4, "{wrapped:?}");
    assert_eq!(self::found(&refused, &wrapped[3].1), ["goes on"]);
    assert_eq!(
        found,
        [(2, one("says")), (3, one("lies")), (4, one("anew")), (6, one("is no"))]
    );
}
