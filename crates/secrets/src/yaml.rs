//! YAML that every reader understands alike: PyYAML (1.1) in Synapse, yaml.v3 (1.2 with habits of 1.1) in Helm and in
//! ESS's renderer. serde_yaml lays it out; what two readers could take for two things is quoted by us.

use std::cell::RefCell;
use std::fmt::Write as _;

use ess_synapse::yaml::{Kind, Scalar, Value};
use serde::ser::{Serialize, SerializeMap as _, SerializeSeq as _, Serializer};
use zeroize::Zeroizing;

/// What a file will say.
#[derive(Clone, PartialEq)]
pub(crate) enum Node {
    Null,
    Bool(bool),
    /// A number, written so that it is one to everybody.
    Number(String),
    Text(Zeroizing<String>),
    /// A text of several lines, for people to read: another file inside this one.
    Block(Zeroizing<String>),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

impl Node {
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::Text(Zeroizing::new(text.into()))
    }

    /// A mapping of names that we choose.
    pub(crate) fn map<'a>(pairs: impl IntoIterator<Item = (&'a str, Self)>) -> Self {
        Self::Map(pairs.into_iter().map(|(name, node)| (name.to_owned(), node)).collect())
    }

    /// What Synapse has read, meaning the same.
    pub(crate) fn of(value: &Value) -> Self {
        match value {
            Value::Scalar(scalar) => Self::of_scalar(scalar),
            Value::List(list) => Self::List(list.iter().map(Self::of).collect()),
            Value::Map(map) => Self::Map(
                map.iter()
                    .map(|(name, value)| (name.text.to_string(), Self::of(value)))
                    .collect(),
            ),
        }
    }

    fn of_scalar(scalar: &Scalar) -> Self {
        match scalar.kind {
            Kind::Null => Self::Null,
            Kind::Bool(value) => Self::Bool(value),
            Kind::Int(Some(value)) => Self::Number(value.to_string()),
            Kind::Float(value) => Self::Number(float(value)),
            // A date is one to Synapse only; where it wants a string, it turns a date into this one.
            Kind::Int(None) | Kind::Timestamp | Kind::Binary | Kind::Text => Self::Text(scalar.text.clone()),
        }
    }

    /// Finds or makes the place of a dotted option. None where a list is too short or a scalar is in the way.
    pub(crate) fn at(&mut self, option: &str) -> Option<&mut Self> {
        option.split('.').try_fold(self, |node, name| match node {
            Self::List(list) => list.get_mut(name.parse::<usize>().ok()?),
            Self::Map(map) => {
                let index = map.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
                    map.push((name.to_owned(), Self::Map(Vec::new())));
                    map.len() - 1
                });
                Some(&mut map[index].1)
            }
            _ => None,
        })
    }

    /// Takes a dotted option out of its mapping.
    pub(crate) fn remove(&mut self, option: &str) {
        let (parent, name) = match option.rsplit_once('.') {
            Some((parent, name)) => (self.at(parent), name),
            None => (Some(self), option),
        };
        if let Some(Self::Map(map)) = parent {
            map.retain(|(known, _)| known != name);
        }
    }
}

/// With a point and a signed exponent: YAML 1.1 takes `1e20` for a string.
fn float(value: f64) -> String {
    if value.is_nan() {
        return ".nan".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { ".inf" } else { "-.inf" }.to_owned();
    }
    let text = format!("{value:?}");
    match text.split_once('e') {
        None => text,
        Some((digits, power)) => {
            let point = if digits.contains('.') { "" } else { ".0" };
            let sign = if power.starts_with('-') { "" } else { "+" };
            format!("{digits}{point}e{sign}{power}")
        }
    }
}

/// The text of a file.
pub(crate) fn write(node: &Node) -> anyhow::Result<Zeroizing<String>> {
    let mut mark = "ESS".to_owned();
    while any_text(node, &|text| text.contains(&mark)) {
        mark.push('S');
    }
    let layout = Layout {
        mark: &mark,
        held: RefCell::default(),
    };
    let text = Zeroizing::new(serde_yaml::to_string(&Laid { node, layout: &layout })?);
    Ok(fill(&text, &mark, &layout.held.into_inner()))
}

/// Puts what was held back into its places.
fn fill(text: &str, mark: &str, held: &[Zeroizing<String>]) -> Zeroizing<String> {
    let mut pieces = text.split(mark);
    let mut whole = Zeroizing::new(pieces.next().unwrap_or_default().to_owned());
    for piece in pieces {
        // Always there: `Layout::hold` wrote it.
        let (index, rest) = piece.split_once('_').unwrap_or_default();
        if let Some(held) = index.parse::<usize>().ok().and_then(|index| held.get(index)) {
            whole.push_str(held);
        }
        whole.push_str(rest);
    }
    whole
}

fn any_text(node: &Node, is: &impl Fn(&str) -> bool) -> bool {
    match node {
        Node::Null | Node::Bool(_) | Node::Number(_) => false,
        Node::Text(text) | Node::Block(text) => is(text),
        Node::List(list) => list.iter().any(|node| any_text(node, is)),
        Node::Map(map) => map.iter().any(|(name, node)| is(name) || any_text(node, is)),
    }
}

/// serde_yaml chooses its quotes itself, by version 1.2. So it gets a mark in place of every text and number; secrets,
/// too, pass it by.
struct Layout<'a> {
    mark: &'a str,
    held: RefCell<Vec<Zeroizing<String>>>,
}

impl Layout<'_> {
    fn hold(&self, text: Zeroizing<String>) -> String {
        let mut held = self.held.borrow_mut();
        held.push(text);
        format!("{}{}_", self.mark, held.len() - 1)
    }

    /// All of it: serde_yaml does not wipe its buffers.
    fn text(&self, text: &str) -> String {
        self.hold(if is_plain(text) {
            Zeroizing::new(text.to_owned())
        } else {
            quoted(text)
        })
    }
}

struct Laid<'a> {
    node: &'a Node,
    layout: &'a Layout<'a>,
}

impl Serialize for Laid<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { node, layout } = *self;
        match node {
            Node::Null => serializer.serialize_unit(),
            Node::Bool(value) => serializer.serialize_bool(*value),
            Node::Number(text) => serializer.serialize_str(&layout.hold(text.clone().into())),
            Node::Text(text) => serializer.serialize_str(&layout.text(text)),
            Node::Block(text) => serializer.serialize_str(text),
            Node::List(list) => {
                let mut seq = serializer.serialize_seq(Some(list.len()))?;
                for node in list {
                    seq.serialize_element(&Laid { node, layout })?;
                }
                seq.end()
            }
            Node::Map(pairs) => {
                let mut map = serializer.serialize_map(Some(pairs.len()))?;
                for (name, node) in pairs {
                    map.serialize_entry(&layout.text(name), &Laid { node, layout })?;
                }
                map.end()
            }
        }
    }
}

/// A word that is nothing else to any version: no number, date, boolean or null.
fn is_plain(text: &str) -> bool {
    const WORDS: [&str; 9] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text
            .chars()
            .all(|character| character.is_ascii_alphanumeric() || "_-./".contains(character))
        && !WORDS.contains(&text.to_ascii_lowercase().as_str())
}

/// Double quotes, with only escapes that all versions have. `${` is broken up, because ESS replaces `${NAME}` in every
/// file before it reads it as YAML, and understands `\${NAME}` only since 26.8.1.
fn quoted(text: &str) -> Zeroizing<String> {
    let mut quoted = Zeroizing::new(String::with_capacity(6 * text.len() + 2));
    quoted.push('"');
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            '\r' => quoted.push_str("\\r"),
            '$' if characters.peek() == Some(&'{') => quoted.push_str("\\u0024"),
            '\0'..='\x1f' | '\x7f'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(character));
            }
            _ => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
#[path = "yaml_tests.rs"]
mod tests;
