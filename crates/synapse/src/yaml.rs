//! YAML as Synapse reads it: version 1.1, with the types of `PyYAML`'s `SafeLoader` (read at 6.0.3).
//!
//! Unlike in most other YAML libraries, `yes` and `off` are booleans, `0777` is octal, `1:30` is ninety, `1e5` is a
//! string, the last of several equal keys wins, `<<` merges, and tabs are refused. Every scalar keeps its source text:
//! dates, binary data, integers of over 128 bits and keys that are not strings are carried as written.
//!
//! The parser, `libyaml-safer`, is hidden behind this module.

mod compose;
mod resolve;

use std::fmt;

use zeroize::Zeroizing;

pub use compose::load;

/// A value of a configuration file. Its `Debug` shows kinds, never content: any scalar may be a secret.
#[derive(Clone, PartialEq)]
pub enum Value {
    /// A string, number, boolean, date or null.
    Scalar(Scalar),
    /// `[a, b]`
    List(Vec<Value>),
    /// `{a: b}`
    Map(Map),
}

/// A scalar: its source text and the type that `PyYAML` gives it.
#[derive(Clone, PartialEq)]
pub struct Scalar {
    /// As in the file, after removing quotes and folding lines.
    pub text: Zeroizing<String>,
    /// Its type.
    pub kind: ScalarKind,
}

/// The Python type of a scalar.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ScalarKind {
    /// `None`
    Null,
    /// `True` or `False`
    Bool(bool),
    /// An `int`; `None` if it does not fit into 128 bits.
    Int(Option<i128>),
    /// A `float`
    Float(f64),
    /// A `date` or a `datetime`
    Timestamp,
    /// `bytes`; the text is still in base64.
    Binary,
    /// A `str`
    Text,
}

/// A mapping, in the order of the file. Keys are scalars of any kind.
#[derive(Clone, Default, PartialEq)]
pub struct Map(Vec<(Scalar, Value)>);

impl Map {
    /// The value of a string key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0
            .iter()
            .find(|(name, _)| name.kind == ScalarKind::Text && *name.text == key)
            .map(|(_, value)| value)
    }

    /// Keys and values, in order; consumes the mapping.
    pub fn into_pairs(self) -> impl Iterator<Item = (Scalar, Value)> {
        self.0.into_iter()
    }

    /// Keys and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&Scalar, &Value)> {
        self.0.iter().map(|(key, value)| (key, value))
    }
}

impl Value {
    /// The text, if this is a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Scalar(scalar) if scalar.kind == ScalarKind::Text => Some(&scalar.text),
            _ => None,
        }
    }

    /// The scalar, if this is one of any kind.
    pub fn as_scalar(&self) -> Option<&Scalar> {
        match self {
            Self::Scalar(scalar) => Some(scalar),
            _ => None,
        }
    }

    /// The items, if this is a list.
    pub fn as_list(&self) -> Option<&[Self]> {
        match self {
            Self::List(list) => Some(list),
            _ => None,
        }
    }

    /// The mapping, if this is one.
    pub fn as_map(&self) -> Option<&Map> {
        match self {
            Self::Map(map) => Some(map),
            _ => None,
        }
    }

    /// The integer, if this is one of at most 128 bits.
    pub fn as_int(&self) -> Option<i128> {
        match self.as_scalar()?.kind {
            ScalarKind::Int(value) => value,
            _ => None,
        }
    }

    /// Whether this is Python's `None`.
    pub fn is_null(&self) -> bool {
        self.as_scalar().is_some_and(|scalar| scalar.kind == ScalarKind::Null)
    }

    /// Python's `bool()` of the value, which is how Synapse tests whether most options are set.
    pub fn is_true(&self) -> bool {
        match self {
            Self::List(list) => !list.is_empty(),
            Self::Map(map) => !map.0.is_empty(),
            Self::Scalar(Scalar { text, kind }) => match kind {
                ScalarKind::Null => false,
                ScalarKind::Bool(value) => *value,
                ScalarKind::Int(value) => *value != Some(0),
                ScalarKind::Float(value) => *value != 0.0,
                ScalarKind::Timestamp => true,
                ScalarKind::Binary | ScalarKind::Text => !text.is_empty(),
            },
        }
    }

    /// The kind in words, for messages: `a string`, `an integer`.
    pub fn kind_name(&self) -> &'static str {
        match self {
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
            Self::Scalar(scalar) => match scalar.kind {
                ScalarKind::Null => "null",
                ScalarKind::Bool(_) => "a boolean",
                ScalarKind::Int(_) => "an integer",
                ScalarKind::Float(_) => "a number",
                ScalarKind::Timestamp => "a date",
                ScalarKind::Binary => "binary data",
                ScalarKind::Text => "a string",
            },
        }
    }

    /// The number of nested levels of lists and mappings; 0 for a scalar.
    fn depth(&self) -> usize {
        match self {
            Self::Scalar(_) => 0,
            Self::List(list) => 1 + list.iter().map(Self::depth).max().unwrap_or(0),
            Self::Map(map) => 1 + map.0.iter().map(|(_, value)| value.depth()).max().unwrap_or(0),
        }
    }

    /// Approximate size in memory, in bytes.
    fn weight(&self) -> usize {
        64 + match self {
            Self::Scalar(scalar) => scalar.text.len(),
            Self::List(list) => list.iter().map(Self::weight).sum(),
            Self::Map(map) => map
                .0
                .iter()
                .map(|(key, value)| 64 + key.text.len() + value.weight())
                .sum(),
        }
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scalar(_) => f.write_str(self.kind_name()),
            Self::List(list) => f.debug_list().entries(list).finish(),
            Self::Map(map) => map.fmt(f),
        }
    }
}

impl fmt::Debug for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.0.iter().map(|(key, value)| (&*key.text, value)))
            .finish()
    }
}

/// Where and why a file is not YAML that Synapse accepts. Never quotes the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// Counted from 1.
    pub line: u64,
    /// Counted from 1.
    pub column: u64,
    /// One sentence, lower case, no full stop.
    pub message: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: {}", self.line, self.column, self.message)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::{ScalarKind, load};

    #[test]
    fn a_scalar_keeps_its_source_text() {
        let value = load(b"a: 0x0A\nb: yes\n").unwrap();
        let map = value.as_map().unwrap();

        let a = map.get("a").unwrap().as_scalar().unwrap();
        assert_eq!((a.text.as_str(), a.kind), ("0x0A", ScalarKind::Int(Some(10))));
        let b = map.get("b").unwrap().as_scalar().unwrap();
        assert_eq!((b.text.as_str(), b.kind), ("yes", ScalarKind::Bool(true)));
    }

    #[test]
    fn truth_is_pythons() {
        let value = load(b"[0, 0.0, '', ~, no, [], {}, 1, ' ', 2024-01-01, [0], {a: }]").unwrap();

        let truth: Vec<bool> = value.as_list().unwrap().iter().map(super::Value::is_true).collect();
        assert_eq!(truth.iter().position(|truth| *truth), Some(7));
        assert!(truth[7..].iter().all(|truth| *truth));
    }

    #[test]
    fn errors_name_line_and_column_and_never_the_content() {
        for (source, message) in [
            (
                &b"a: 1\nb:\tcanary\n"[..],
                "line 2, column 3: a tab, where YAML allows only spaces",
            ),
            (
                b"a: canary\n---\nb: 1\n",
                "line 2, column 1: a second document, where Synapse accepts only one",
            ),
            (b"a: 1\nb: c\xffanary", "line 2, column 5: the file is not UTF-8"),
            (
                b"a: !canary\n",
                "line 1, column 4: a tag that Synapse does not accept; a value that begins with `!` needs quotes",
            ),
            (
                b"a: *canary\n",
                "line 1, column 4: an alias without an anchor; a value that begins with `*` needs quotes",
            ),
            (
                b"a: \"canary\n",
                "line 2, column 1: found unexpected end of stream while scanning a quoted scalar",
            ),
        ] {
            assert_eq!(load(source).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn debug_shows_no_scalar() {
        assert!(!format!("{:?}", load(b"a: [canary, {b: canary}]").unwrap()).contains("canary"));
    }
}
