//! Every finding that preflight(1) lists is one that a test provokes, and the reverse.

use std::collections::BTreeSet;
use std::fs;

use walkdir::WalkDir;

/// Every id in the manual page with its worst severity, such as `warning dns-ttl`.
fn listed() -> BTreeSet<String> {
    let page = fs::read_to_string("man/preflight.1").unwrap();
    let (_, list) = page.split_once(".Sh FINDINGS").unwrap();
    let (list, _) = list.split_once(".Sh ENVIRONMENT").unwrap();
    let mut severity = "";
    let mut all = BTreeSet::new();
    for line in list.lines() {
        severity = match line {
            _ if line.starts_with("A blocker ") => "blocker",
            _ if line.starts_with("A warning ") => "warning",
            _ if line.starts_with("An info ") => "info",
            _ => severity,
        };
        all.extend(line.strip_prefix(".It Sy ").map(|id| format!("{severity} {id}")));
    }
    all
}

/// The findings that tests demand: words such as `warning dns-ttl` in a call of `fires`, in a source that is declared as
/// `Refused`, or in a list that is compared with all findings.
fn demanded(source: &str) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for call in ["fires(", "Refused(", "assert_eq!("] {
        for (start, _) in source.match_indices(call) {
            let text = arguments(&source[start + call.len()..]);
            if call == "assert_eq!(" && !text.contains("serious(") && !text.contains("found(") {
                continue;
            }
            let quoted = text.split('"').skip(1).step_by(2);
            all.extend(quoted.filter(|word| is_finding(word)).map(str::to_owned));
        }
    }
    all
}

/// The text up to the parenthesis that closes a call.
fn arguments(text: &str) -> &str {
    let mut depth = 1;
    let end = text.find(|c| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        depth == 0
    });
    &text[..end.unwrap_or(text.len())]
}

fn is_finding(word: &str) -> bool {
    let Some((severity, id)) = word.split_once(' ') else {
        return false;
    };
    ["blocker", "warning", "info"].contains(&severity)
        && id
            .bytes()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
}

#[test]
fn each_finding_of_the_page_is_provoked_by_a_test() {
    let files = WalkDir::new("tests")
        .into_iter()
        .map(|entry| entry.unwrap().into_path());
    let rust = files.filter(|path| path.extension().is_some_and(|end| end == "rs"));
    // The examples below are no demands.
    let tests = rust.filter(|path| !path.ends_with("docs/findings.rs"));
    let demanded: BTreeSet<String> = tests
        .flat_map(|path| demanded(&fs::read_to_string(path).unwrap()))
        .collect();

    let listed = listed();
    let never: Vec<_> = listed.difference(&demanded).collect();
    assert!(never.is_empty(), "no test makes these fire: {never:?}");
    // Some findings can have different severities.
    let ids: BTreeSet<&str> = listed.iter().filter_map(|finding| finding.split(' ').nth(1)).collect();
    let unknown: Vec<_> = demanded
        .iter()
        .filter(|f| !ids.contains(f.split(' ').nth(1).unwrap()))
        .collect();
    assert!(unknown.is_empty(), "the page does not list these: {unknown:?}");
}

#[test]
fn what_is_demanded_is_read_from_what_tests_assert() {
    let source = r#"
        assert_eq!(serious(&ran), ["blocker sqlite", "warning dns-ttl"], "{ran}");
        assert_eq!(ran.stderr, "info media");
        assert!(!found(&ran).contains("info host"));
        fires(&look(1), &["info dns"]);"#;
    let demanded: Vec<String> = demanded(source).into_iter().collect();
    assert_eq!(demanded.join(", "), "blocker sqlite, info dns, warning dns-ttl");
}
