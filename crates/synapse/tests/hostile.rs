//! Malformed and hostile configuration files are read or refused: without a panic, and in bounded time.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use ess_synapse::{signing_key, yaml};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// Fragments of YAML in random order.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let piece = select(vec![
        "a",
        "b: ",
        ": ",
        "- ",
        "? ",
        "\n",
        "\n  ",
        "\n    ",
        "\t",
        "[",
        "]",
        "{",
        "}",
        ",",
        "&a ",
        "*a",
        "&a",
        "<<: ",
        "|",
        "|-\n",
        ">+2\n",
        "\"",
        "'",
        "\\",
        "\\x",
        "\\u12",
        "#",
        " #",
        "!",
        "!!",
        "!!str ",
        "!<x>",
        "%YAML 1.1\n",
        "%TAG ! x\n",
        "---",
        "---\n",
        "...",
        "...\n",
        "\r",
        "\r\n",
        "\u{85}",
        "\u{2028}",
        "\u{feff}",
        "\u{1f980}",
        "~",
        "yes",
        "0x",
        "1:30",
        "1e5",
        "0o7",
        ".inf",
        "2024-01-01",
        "=",
        "@",
        "`",
    ]);
    vec(
        prop_oneof![8 => piece.prop_map(|piece| piece.as_bytes().to_vec()), 1 => any::<u8>().prop_map(|byte| vec![byte])],
        0..60,
    )
    .prop_map(|pieces| pieces.concat())
}

fn corpus() -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut paths: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Loads the source; an error must have a place within the file and a message.
fn read_or_refused(source: &[u8]) {
    if let Err(error) = yaml::load(source) {
        let lines = String::from_utf8_lossy(source)
            .split(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}'])
            .count();
        assert!(
            error.line >= 1 && error.line <= lines as u64 + 1,
            "{error} of {lines} lines"
        );
        assert!(!error.message.is_empty());
    }
}

#[test]
fn a_file_that_grows_when_it_is_read_is_refused() {
    // Each line doubles the size of the line before it.
    let grown =
        |first: &str, line: fn(u32) -> String| first.to_owned() + &(1..60).map(line).collect::<Vec<_>>().concat();
    let laughs = grown("a0: &a0 [ha, ha]\n", |level| {
        format!("a{level}: &a{level} [*a{b}, *a{b}]\n", b = level - 1)
    });
    assert!(yaml::load(laughs.as_bytes()).is_err());
    let merges = grown("a0: &a0 {k: v}\n", |level| {
        format!(
            "a{level}: &a{level} {{<<: [*a{b}, *a{b}], k{level}: *a{b}}}\n",
            b = level - 1
        )
    });
    assert!(yaml::load(merges.as_bytes()).is_err());
}

#[test]
fn a_file_that_nests_without_end_is_refused() {
    for open in ["[", "{a: ", "- ", "? ", "[{", "- - - "] {
        assert!(yaml::load(open.repeat(100_000).as_bytes()).is_err(), "{open}");
    }
    let steps: Vec<String> = (0..2000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
    assert!(yaml::load(steps.concat().as_bytes()).is_err());
}

#[test]
fn a_file_cut_off_anywhere_is_read_or_refused() {
    for source in corpus() {
        for end in 0..source.len() {
            read_or_refused(&source[..end]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_pieces_of_yaml_make_it_panic(source in pieces()) {
        read_or_refused(&source);
    }

    #[test]
    fn no_changed_file_makes_it_panic(
        which in any::<Index>(), changes in vec((any::<Index>(), any::<u8>()), 1..6), inserted in pieces(),
    ) {
        let corpus = corpus();
        let mut source = which.get(&corpus).clone();
        for (place, byte) in changes {
            if !source.is_empty() {
                let place = place.index(source.len());
                source[place] = byte;
            }
        }
        read_or_refused(&source);
        let place = which.index(source.len() + 1);
        source.splice(place..place, inserted);
        read_or_refused(&source);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in vec(any::<u8>(), 0..200)) {
        read_or_refused(&bytes);
        let _ = signing_key::parse(&String::from_utf8_lossy(&bytes));
    }
}
