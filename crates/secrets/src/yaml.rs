//! Writes YAML that its readers parse alike: PyYAML (YAML 1.1) in Synapse, and yaml.v3 (YAML 1.2 with parts of 1.1) in
//! Helm and in ESS's renderer. serde_yaml does the layout; this module quotes every text that two of them could read
//! differently.

use std::cell::RefCell;
use std::fmt::Write as _;

use ess_synapse::yaml::{Scalar, ScalarKind, Value};
use serde::ser::{Serialize, SerializeMap as _, SerializeSeq as _, Serializer};
use zeroize::Zeroizing;

/// A value to be written.
#[derive(Clone, PartialEq)]
pub(crate) enum Node {
    Null,
    Bool(bool),
    /// A number, in a notation that every reader parses as one.
    Number(String),
    Text(Zeroizing<String>),
    /// A text of several lines, written as a block scalar so that it stays readable: another file inside this one.
    Block(Zeroizing<String>),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

impl Node {
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::Text(Zeroizing::new(text.into()))
    }

    /// A mapping from names that are constants in this program.
    pub(crate) fn map<'a>(pairs: impl IntoIterator<Item = (&'a str, Self)>) -> Self {
        Self::Map(pairs.into_iter().map(|(name, node)| (name.to_owned(), node)).collect())
    }

    /// A value of Synapse's configuration, with the same meaning.
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
            ScalarKind::Null => Self::Null,
            ScalarKind::Bool(value) => Self::Bool(value),
            ScalarKind::Int(Some(value)) => Self::Number(value.to_string()),
            ScalarKind::Float(value) => Self::Number(float(value)),
            // Only Synapse's reader has dates, and where Synapse needs a string, it converts the date to this text.
            ScalarKind::Int(None) | ScalarKind::Timestamp | ScalarKind::Binary | ScalarKind::Text => {
                Self::Text(scalar.text.clone())
            }
        }
    }

    /// Finds or creates the node of a dotted option. `None` if a list is too short or a scalar is in its place.
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

    /// Removes a dotted option from its mapping.
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

/// Writes a float with a point and a signed exponent, because `1e20` is a string in YAML 1.1.
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
    let layout = Placeholders {
        mark: &mark,
        held: RefCell::default(),
    };
    let text = Zeroizing::new(serde_yaml::to_string(&Laid { node, layout: &layout })?);
    Ok(fill(&text, &mark, &layout.held.into_inner()))
}

/// Replaces the marks in the layout by the texts that they stand for.
fn fill(text: &str, mark: &str, held: &[Zeroizing<String>]) -> Zeroizing<String> {
    let mut pieces = text.split(mark);
    let mut filled = Zeroizing::new(pieces.next().unwrap_or_default().to_owned());
    for piece in pieces {
        // Always succeeds: `Placeholders::hold` wrote the index and `_`.
        let (index, rest) = piece.split_once('_').unwrap_or_default();
        if let Some(held) = index.parse::<usize>().ok().and_then(|index| held.get(index)) {
            filled.push_str(held);
        }
        filled.push_str(rest);
    }
    filled
}

fn any_text(node: &Node, is: &impl Fn(&str) -> bool) -> bool {
    match node {
        Node::Null | Node::Bool(_) | Node::Number(_) => false,
        Node::Text(text) | Node::Block(text) => is(text),
        Node::List(list) => list.iter().any(|node| any_text(node, is)),
        Node::Map(map) => map.iter().any(|(name, node)| is(name) || any_text(node, is)),
    }
}

/// Keeps texts and numbers away from serde_yaml, which would quote them by the rules of YAML 1.2 and does not wipe its
/// buffers. It gets a mark in place of each, and [`fill`] replaces the marks.
struct Placeholders<'a> {
    mark: &'a str,
    held: RefCell<Vec<Zeroizing<String>>>,
}

impl Placeholders<'_> {
    fn hold(&self, text: Zeroizing<String>) -> String {
        let mut held = self.held.borrow_mut();
        held.push(text);
        format!("{}{}_", self.mark, held.len() - 1)
    }

    /// Holds a text, quoted unless it is plain.
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
    layout: &'a Placeholders<'a>,
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

/// Whether a text needs no quotes: a word that no version of YAML reads as a number, date, boolean or null.
fn is_plain(text: &str) -> bool {
    const WORDS: [&str; 9] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text
            .chars()
            .all(|character| character.is_ascii_alphanumeric() || "_-./".contains(character))
        && !WORDS.contains(&text.to_ascii_lowercase().as_str())
}

/// Puts a text in double quotes, with only the escapes that all versions have. The `$` of `${` is escaped, because ESS
/// replaces `${NAME}` in a file before parsing it as YAML, and supports `\${NAME}` only since 26.8.1.
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

pub(crate) fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

#[cfg(test)]
mod tests;
