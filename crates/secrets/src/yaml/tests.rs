#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use ess_synapse::yaml::{self, ScalarKind, Value};
use proptest::prelude::*;

use super::{Node, write};

/// The value that a YAML 1.1 reader parses, as a [`Node`], so that both readers can be compared.
fn by_1_1(text: &str) -> Node {
    fn node(value: &Value) -> Node {
        match value {
            Value::Scalar(scalar) => match scalar.kind {
                ScalarKind::Null => Node::Null,
                ScalarKind::Bool(value) => Node::Bool(value),
                ScalarKind::Int(value) => Node::Number(value.unwrap().to_string()),
                ScalarKind::Float(value) => Node::Number(format!("{value:?}")),
                ScalarKind::Text => Node::Text(scalar.text.clone()),
                ScalarKind::Timestamp | ScalarKind::Binary => panic!("something else than it was"),
            },
            Value::List(list) => Node::List(list.iter().map(node).collect()),
            Value::Map(map) => Node::Map(
                map.iter()
                    .map(|(name, value)| {
                        assert_eq!(name.kind, ScalarKind::Text);
                        (name.text.to_string(), node(value))
                    })
                    .collect(),
            ),
        }
    }
    node(&yaml::load(text.as_bytes()).unwrap())
}

fn by_1_2(text: &str) -> Node {
    fn node(value: &serde_yaml::Value) -> Node {
        match value {
            serde_yaml::Value::Null => Node::Null,
            serde_yaml::Value::Bool(value) => Node::Bool(*value),
            serde_yaml::Value::Number(value) if value.is_f64() => {
                Node::Number(format!("{:?}", value.as_f64().unwrap()))
            }
            serde_yaml::Value::Number(value) => Node::Number(value.to_string()),
            serde_yaml::Value::String(text) => Node::text(&**text),
            serde_yaml::Value::Sequence(list) => Node::List(list.iter().map(node).collect()),
            serde_yaml::Value::Mapping(map) => Node::Map(
                map.iter()
                    .map(|(name, value)| (name.as_str().unwrap().to_owned(), node(value)))
                    .collect(),
            ),
            serde_yaml::Value::Tagged(_) => panic!("a tag"),
        }
    }
    node(&serde_yaml::from_str(text).unwrap())
}

/// Asserts that both readers parse the value that was written.
fn holds(node: &Node) {
    let text = write(node).unwrap();
    assert!(by_1_1(&text) == *node, "1.1: {}", *text);
    assert!(by_1_2(&text) == *node, "1.2: {}", *text);
    assert!(!text.contains("${"), "{}", *text);
}

/// Texts that the versions of YAML read differently, and other texts that have caused bugs.
const AWKWARD: &[&str] = &[
    "yes",
    "No",
    "ON",
    "off",
    "y",
    "n",
    "true",
    "FALSE",
    "null",
    "~",
    "",
    " ",
    "0777",
    "0o17",
    "0x1F",
    "0b11",
    "1_000",
    "1:30",
    "190:20:30.15",
    "1e5",
    "1.5e3",
    "1e+5",
    ".5",
    "1.",
    ".inf",
    "-.INF",
    ".nan",
    "2001-01-01",
    "2001-12-14t21:59:43.10-05:00",
    "=",
    "<<",
    "- a",
    "a: b",
    "a #b",
    "#a",
    "&a",
    "*a",
    "!a",
    "%a",
    "@a",
    "`a",
    "|",
    ">",
    "[a",
    "{a",
    "a]",
    "'",
    "\"",
    "\\",
    "a\nb",
    "\n",
    "a\n",
    " a",
    "a ",
    "\ta",
    "a\r\nb",
    "\u{85}",
    "\u{2028}",
    "\u{feff}",
    "\u{7f}",
    "\0",
    "🦀",
    "ü",
    "---",
    "...",
    "--- a",
    "?",
    "? a",
    ":",
    "-",
    "ESS",
    "ESS0_",
    "ESSS1_",
    "${HOME}",
    "$${a${b}}",
    "\\${HOME}",
    "a$",
    "$",
    "123",
    "-1",
    "+1",
    "0",
    "00",
    "0.0",
    "12e03",
    "NaN",
    "inf",
    "None",
];

#[test]
fn both_readers_agree_on_the_awkward() {
    for text in AWKWARD {
        holds(&Node::text(*text));
        holds(&Node::Map(vec![(
            (*text).to_owned(),
            Node::List(vec![Node::text(*text)]),
        )]));
    }
    holds(&Node::Map(Vec::new()));
    holds(&Node::List(vec![
        Node::List(Vec::new()),
        Node::Null,
        Node::Bool(true),
        Node::Bool(false),
    ]));
}

#[test]
fn numbers_are_numbers_to_both() {
    for (source, written) in [
        ("0777", "511"),
        ("1:30", "90"),
        ("1_000", "1000"),
        ("-0x10", "-16"),
        ("1.0", "1.0"),
        ("1.0e+20", "1.0e+20"),
        ("6.8523015e+5", "685230.15"),
        ("1.5e-9", "1.5e-9"),
        ("190:20:30.15", "685230.15"),
        ("-.Inf", "-.inf"),
        (".NaN", ".nan"),
        ("yes", "true"),
        ("Off", "false"),
        ("~", "null"),
        ("2001-01-01", "\"2001-01-01\""),
    ] {
        let node = Node::of(&yaml::load(source.as_bytes()).unwrap());
        assert_eq!(write(&node).unwrap().trim_end(), written, "{source}");
    }
}

#[test]
fn a_file_inside_a_file_is_read_back() {
    let inner = Node::Map(
        AWKWARD
            .iter()
            .map(|text| (format!("k{text}"), Node::text(*text)))
            .collect(),
    );
    let inner_text = write(&inner).unwrap();
    let text = write(&Node::map([("config", Node::Block(inner_text.clone()))])).unwrap();

    assert!(text.starts_with("config: |\n"), "{}", *text);
    for outer in [by_1_1(&text), by_1_2(&text)] {
        let Node::Map(map) = outer else { panic!() };
        assert!(map[0].1 == Node::Text(inner_text.clone()));
    }
}

#[test]
fn a_place_is_made_and_removed() {
    let mut node = Node::of(&yaml::load(b"a: [{b: 1, c: 2}]").unwrap());
    *node.at("x.z").unwrap() = Node::text("w");
    *node.at("a.0.d").unwrap() = Node::text("e");
    node.remove("a.0.b");
    assert!(node.at("a.1").is_none() && node.at("a.0.c.d").is_none());
    assert_eq!(*write(&node).unwrap(), "a:\n- c: 2\n  d: e\nx:\n  z: w\n");
}

fn nodes() -> impl Strategy<Value = Node> {
    let text = prop_oneof![any::<String>(), "[0-9eExXoob_:.+~=<-]{1,8}", "(?s)[ -~\\n\\t]{0,20}"];
    let leaf = prop_oneof![
        text.clone().prop_map(Node::text),
        any::<bool>().prop_map(Node::Bool),
        any::<i64>().prop_map(|value| Node::Number(value.to_string())),
        Just(Node::Null),
    ];
    leaf.prop_recursive(3, 24, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Node::List),
            prop::collection::btree_map(text.clone(), inner, 0..4).prop_map(|map| Node::Map(map.into_iter().collect())),
        ]
    })
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&write(self).unwrap())
    }
}

proptest! {
    #[test]
    fn both_readers_agree_on_anything(node in nodes()) {
        holds(&node);
    }
}
