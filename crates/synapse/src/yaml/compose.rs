//! From parser events to one [`Value`], with anchors and merges, and with limits so that a hostile file is harmless.
//!
//! The parser is a port of libyaml, which accepts some files that `PyYAML` refuses (tabs, `|#`) and reads a few others
//! differently. Each function that makes up for such a difference names it.

use std::collections::HashMap;
use std::ops::Range;
use std::panic::{self, AssertUnwindSafe};

use libyaml_safer::{Event, EventData, Mark, Parser, ScalarStyle};
use zeroize::Zeroizing;

use super::resolve::{self, Resolved};
use super::{Error, Map, Scalar, ScalarKind, Value};

/// Largest file that is read. A configuration is far smaller; a larger file was named by mistake.
const MAX_BYTES: usize = 2 << 20;
/// Deepest nesting. No hand-written file comes near it, and Python's own recursion limit is not much higher.
const MAX_DEPTH: usize = 100;
/// Limit for the copies of all anchors and aliases of a file, in bytes, by [`Value::weight`].
const MAX_COPIES: usize = 16 << 20;

const TAG_PREFIX: &str = "tag:yaml.org,2002:";
/// The tag is not quoted, because an unquoted password that begins with `!` reads as a tag.
const FOREIGN_TAG: &str = "a tag that Synapse does not accept; a value that begins with `!` needs quotes";

/// Reads a file with one document, as `yaml.safe_load` does. An empty file is null.
pub fn load(source: &[u8]) -> Result<Value, Error> {
    if source.len() > MAX_BYTES {
        return Err(at_start(format!("the file is larger than {} MiB", MAX_BYTES >> 20)));
    }
    let text = std::str::from_utf8(source).map_err(|error| {
        let before = &source[..error.valid_up_to()];
        let line = before.split(|byte| *byte == b'\n').count() as u64;
        let column = before.rsplit(|byte| *byte == b'\n').next().map_or(0, <[u8]>::len) as u64 + 1;
        Error {
            line,
            column,
            message: "the file is not UTF-8".into(),
        }
    })?;
    // Synapse opens the file in text mode: every line ending is a newline before PyYAML reads it.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut text = crate::text::newlines(text);
    refuse_unprintable(&text)?;
    let unfinished = unfinished_line(&text);
    if unfinished.is_some() {
        // The parser needs a final newline; `end_unfinished` removes it from a block scalar that ends with the file.
        text.push('\n');
    }

    let mut bytes = text.as_bytes();
    let mut parser = Parser::new();
    parser.set_input(&mut bytes);
    let mut composer = Composer {
        parser,
        anchors: HashMap::new(),
        copies: 0,
        text: &text,
        scalars: Vec::new(),
        unfinished,
    };
    // The parser panics on a few malformed inputs (`[!tag, x]`), and a file must not crash the program.
    let value = panic::catch_unwind(AssertUnwindSafe(|| composer.document()))
        .unwrap_or_else(|_| Err(at_start("the YAML parser failed on this file".into())))?;
    refuse_tabs(&text, &composer.scalars)?;
    Ok(value)
}

/// The characters after the last newline.
#[derive(Clone, Copy)]
enum Unfinished {
    Text,
    Blanks,
}

/// `None` if the text is empty or ends with a line break.
fn unfinished_line(text: &str) -> Option<Unfinished> {
    let last = text
        .rsplit(['\n', '\u{85}', '\u{2028}', '\u{2029}'])
        .next()
        .filter(|last| !last.is_empty())?;
    Some(if last.trim_matches(' ').is_empty() {
        Unfinished::Blanks
    } else {
        Unfinished::Text
    })
}

fn at_start(message: String) -> Error {
    Error {
        line: 1,
        column: 1,
        message,
    }
}

fn at(mark: Mark, message: impl Into<String>) -> Error {
    Error {
        line: mark.line + 1,
        column: mark.column + 1,
        message: message.into(),
    }
}

fn at_byte(text: &str, index: usize, message: &str) -> Error {
    let before = &text[..index];
    let line = before.matches('\n').count() as u64 + 1;
    let column = before.rsplit('\n').next().map_or(0, |start| start.chars().count()) as u64 + 1;
    Error {
        line,
        column,
        message: message.into(),
    }
}

/// `Reader.check_printable` (yaml/reader.py): the characters that `NON_PRINTABLE` does not match.
fn refuse_unprintable(text: &str) -> Result<(), Error> {
    let printable = |c: char| matches!(c, '\t' | '\n' | ' '..='~' | '\u{85}' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..);
    match text.char_indices().find(|(_, c)| !printable(*c)) {
        Some((index, _)) => Err(at_byte(text, index, "a control character, which YAML does not allow")),
        None => Ok(()),
    }
}

/// `PyYAML` accepts tabs only inside quotes, block scalars and comments; the parser accepts more.
fn refuse_tabs(text: &str, scalars: &[(Range<usize>, bool)]) -> Result<(), Error> {
    let mut comment = false;
    let mut blank_before = true;
    let mut scalars = scalars.iter().peekable();
    for (index, character) in text.char_indices() {
        while scalars.next_if(|(bytes, _)| bytes.end <= index).is_some() {
            // A comment may follow a quoted scalar without a space between them.
            blank_before = true;
        }
        let scalar = scalars.peek().filter(|(bytes, _)| bytes.contains(&index));
        let allowed = scalar.map_or(comment, |(_, allowed)| *allowed);
        if character == '\t' && !allowed {
            return Err(at_byte(text, index, "a tab, where YAML allows only spaces"));
        }
        if scalar.is_none() {
            match character {
                '\n' | '\u{85}' | '\u{2028}' | '\u{2029}' => comment = false,
                '#' if blank_before => comment = true,
                _ => {}
            }
            blank_before = character.is_whitespace() || matches!(character, '[' | ']' | '{' | '}' | ',');
        }
    }
    Ok(())
}

struct Composer<'a, 'b> {
    parser: Parser<&'b mut &'a [u8]>,
    /// Values by anchor; `None` while the anchored value is still being read.
    anchors: HashMap<String, Option<Value>>,
    /// Bytes copied for anchors and aliases so far; see [`MAX_COPIES`].
    copies: usize,
    text: &'b str,
    /// The byte ranges of all scalars, in order, and whether a scalar may contain tabs.
    scalars: Vec<(Range<usize>, bool)>,
    unfinished: Option<Unfinished>,
}

impl Composer<'_, '_> {
    fn next(&mut self) -> Result<Event, Error> {
        self.parser.parse().map_err(|error| {
            let mark = error.problem_mark().unwrap_or_default();
            let context = error.context().map(|context| format!(" {context}")).unwrap_or_default();
            at(mark, format!("{}{context}", error.problem()))
        })
    }

    fn document(&mut self) -> Result<Value, Error> {
        let mut value = None;
        loop {
            let event = self.next()?;
            match event.data {
                EventData::StreamEnd => break,
                EventData::DocumentStart { .. } if value.is_some() => {
                    let message = "a second document, where Synapse accepts only one";
                    return Err(at(event.start_mark, message));
                }
                EventData::StreamStart { .. } | EventData::DocumentStart { .. } | EventData::DocumentEnd { .. } => {}
                _ => value = Some(self.value(event, 0)?),
            }
        }
        Ok(value.unwrap_or_else(|| {
            Value::Scalar(Scalar {
                text: String::new().into(),
                kind: ScalarKind::Null,
            })
        }))
    }

    fn value(&mut self, event: Event, depth: usize) -> Result<Value, Error> {
        let mark = event.start_mark;
        match self.node(event, depth)? {
            Node::Value(value) => Ok(value),
            Node::Merge | Node::Default(_) => {
                Err(at(mark, "`<<` and `=` have a meaning only as keys; put them in quotes"))
            }
        }
    }

    fn node(&mut self, event: Event, depth: usize) -> Result<Node, Error> {
        let mark = event.start_mark;
        if depth > MAX_DEPTH {
            return Err(at(mark, format!("nested deeper than {MAX_DEPTH} levels")));
        }
        let (anchor, node) = match event.data {
            EventData::Alias { anchor } => {
                return self.alias(&anchor, mark, depth).map(Node::Value);
            }
            EventData::Scalar {
                anchor,
                tag,
                mut value,
                plain_implicit,
                style,
                ..
            } => {
                self.announce(anchor.as_deref(), mark)?;
                let bytes = index(event.start_mark)..index(event.end_mark);
                if matches!(style, ScalarStyle::Literal | ScalarStyle::Folded) {
                    self.check_header(&bytes).map_err(|message| at(mark, message))?;
                    if bytes.end == self.text.len() {
                        self.end_unfinished(&mut value).map_err(|message| at(mark, message))?;
                    }
                }
                self.scalars.extend(content(self.text, bytes, style));
                (
                    anchor,
                    scalar(tag.as_deref(), value, plain_implicit).map_err(|message| at(mark, message))?,
                )
            }
            EventData::SequenceStart { anchor, tag, .. } => {
                self.announce(anchor.as_deref(), mark)?;
                expect_tag(tag.as_deref(), "seq").map_err(|message| at(mark, message))?;
                (anchor, Node::Value(self.list(depth)?))
            }
            EventData::MappingStart { anchor, tag, .. } => {
                self.announce(anchor.as_deref(), mark)?;
                expect_tag(tag.as_deref(), "map").map_err(|message| at(mark, message))?;
                (anchor, Node::Value(self.map(depth)?))
            }
            // Cannot happen: `list` and `map` consume the end events of what they started.
            _ => return Err(at(mark, "a value is missing")),
        };
        if let (Some(anchor), Node::Value(value)) = (anchor, &node) {
            self.copies = self.copies.saturating_add(value.weight());
            self.check_copies(mark)?;
            self.anchors.insert(anchor, Some(value.clone()));
        }
        Ok(node)
    }

    /// Records an anchor before its value is read, so that an alias inside that value is recognised.
    fn announce(&mut self, anchor: Option<&str>, mark: Mark) -> Result<(), Error> {
        match anchor {
            Some(name) if self.anchors.insert(name.to_owned(), None).is_some() => {
                Err(at(mark, "this anchor was defined before"))
            }
            _ => Ok(()),
        }
    }

    fn alias(&mut self, anchor: &str, mark: Mark, depth: usize) -> Result<Value, Error> {
        let value = match self.anchors.get(anchor) {
            Some(Some(value)) => value,
            Some(None) => return Err(at(mark, "an alias inside the value of its own anchor")),
            None => {
                return Err(at(
                    mark,
                    "an alias without an anchor; a value that begins with `*` needs quotes",
                ));
            }
        };
        let value = value.clone();
        if depth + value.depth() > MAX_DEPTH {
            return Err(at(
                mark,
                format!("an alias that nests its value deeper than {MAX_DEPTH} levels"),
            ));
        }
        self.copies = self.copies.saturating_add(value.weight());
        self.check_copies(mark)?;
        Ok(value)
    }

    fn check_copies(&self, mark: Mark) -> Result<(), Error> {
        if self.copies > MAX_COPIES {
            return Err(at(
                mark,
                "anchors and aliases that expand to more data than any real configuration",
            ));
        }
        Ok(())
    }

    fn list(&mut self, depth: usize) -> Result<Value, Error> {
        let mut list = Vec::new();
        loop {
            let event = self.next()?;
            if matches!(event.data, EventData::SequenceEnd) {
                return Ok(Value::List(list));
            }
            list.push(self.value(event, depth + 1)?);
        }
    }

    fn map(&mut self, depth: usize) -> Result<Value, Error> {
        let mut merged = Vec::new();
        let mut own = Vec::new();
        loop {
            let event = self.next()?;
            if matches!(event.data, EventData::MappingEnd) {
                break;
            }
            let mark = event.start_mark;
            let key = self.node(event, depth + 1)?;
            let event = self.next()?;
            let value_mark = event.start_mark;
            let value = self.value(event, depth + 1)?;
            match key {
                Node::Merge => {
                    merged.extend(to_merge(value).map_err(|message| at(value_mark, message))?);
                }
                Node::Default(text) => own.push((
                    Scalar {
                        text,
                        kind: ScalarKind::Text,
                    },
                    value,
                )),
                Node::Value(Value::Scalar(key)) => own.push((key, value)),
                Node::Value(_) => return Err(at(mark, "a list or mapping as a key")),
            }
        }
        // Merged keys come first, so that the mapping's own keys win (`SafeConstructor.flatten_mapping`).
        merged.extend(own);
        Ok(Value::Map(last_wins(merged)))
    }

    /// Refuses `|#`: to `PyYAML` it is an error, to the parser the beginning of a comment.
    fn check_header(&self, bytes: &Range<usize>) -> Result<(), &'static str> {
        let header = self
            .text
            .get(bytes.clone())
            .and_then(|scalar| scalar.lines().next())
            .unwrap_or_default();
        match header.split_once('#') {
            Some((before, _)) if !before.ends_with(' ') => Err("a comment needs a space before it here"),
            _ => Ok(()),
        }
    }

    /// Removes the newline that `load` appended, if this block scalar ends with the file.
    fn end_unfinished(&self, value: &mut String) -> Result<(), &'static str> {
        match self.unfinished {
            None => Ok(()),
            Some(Unfinished::Text) => {
                if value.ends_with('\n') {
                    value.pop();
                }
                Ok(())
            }
            Some(Unfinished::Blanks) => {
                Err("this block ends with a line of spaces and no newline; end the file with a newline")
            }
        }
    }
}

/// The bytes of a scalar without its anchor, tag and block header, and whether they may contain tabs.
fn content(text: &str, bytes: Range<usize>, style: ScalarStyle) -> Option<(Range<usize>, bool)> {
    let scalar = text.get(bytes.clone())?;
    let start = match style {
        ScalarStyle::Literal | ScalarStyle::Folded => scalar.find('\n')?,
        ScalarStyle::SingleQuoted => opening(scalar, '\'')?,
        ScalarStyle::DoubleQuoted => opening(scalar, '"')?,
        _ => return Some((bytes, false)),
    };
    Some((bytes.start + start..bytes.end, true))
}

/// The offset of the opening quote: the first at the beginning of a word, because a tag may contain quotes.
fn opening(scalar: &str, quote: char) -> Option<usize> {
    scalar
        .match_indices(quote)
        .map(|(at, _)| at)
        .find(|at| scalar[..*at].chars().next_back().is_none_or(char::is_whitespace))
}

fn index(mark: Mark) -> usize {
    usize::try_from(mark.index).unwrap_or(usize::MAX)
}

/// A value, or one of the two plain scalars that are special as keys: `<<` and `=`.
enum Node {
    Value(Value),
    Merge,
    Default(Zeroizing<String>),
}

fn scalar(tag: Option<&str>, text: String, plain: bool) -> Result<Node, &'static str> {
    let text = Zeroizing::new(text);
    let resolved = match tag {
        None if !plain => Resolved::Kind(ScalarKind::Text),
        // PyYAML ignores the tag `!`, even before quotes: `! "1"` is an integer.
        None | Some("!") => resolve::plain(&text)?,
        Some(tag) => match tag.strip_prefix(TAG_PREFIX) {
            Some(name) => resolve::tagged(name, &text)?,
            None => return Err(FOREIGN_TAG),
        },
    };
    Ok(match resolved {
        Resolved::Kind(kind) => Node::Value(Value::Scalar(Scalar { text, kind })),
        Resolved::Merge => Node::Merge,
        Resolved::Default => Node::Default(text),
    })
}

fn expect_tag(tag: Option<&str>, name: &str) -> Result<(), &'static str> {
    match tag {
        None | Some("!") => Ok(()),
        Some(tag) if tag.strip_prefix(TAG_PREFIX) == Some(name) => Ok(()),
        Some(_) => Err(FOREIGN_TAG),
    }
}

/// The pairs that `<<` merges. Of a list of mappings the first wins, so it comes last.
fn to_merge(value: Value) -> Result<Vec<(Scalar, Value)>, &'static str> {
    const EXPECTED: &str = "`<<` needs a mapping or a list of mappings";
    match value {
        Value::Map(map) => Ok(map.0),
        Value::List(list) => {
            let mut merged = Vec::new();
            for value in list.into_iter().rev() {
                let Value::Map(map) = value else {
                    return Err(EXPECTED);
                };
                merged.extend(map.0);
            }
            Ok(merged)
        }
        Value::Scalar(_) => Err(EXPECTED),
    }
}

/// Builds the mapping as Python builds a `dict`: a repeated key keeps its first place and gets its last value.
fn last_wins(pairs: Vec<(Scalar, Value)>) -> Map {
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut map: Vec<(Scalar, Value)> = Vec::with_capacity(pairs.len());
    for (key, value) in pairs {
        let place = *places.entry(identity(&key)).or_insert(map.len());
        match map.get_mut(place) {
            Some(entry) => entry.1 = value,
            None => map.push((key, value)),
        }
    }
    Map(map)
}

/// A text that is equal for keys that are equal in Python: `1`, `0x1`, `1.0` and `yes` are one key, `"1"` is another.
fn identity(key: &Scalar) -> String {
    match key.kind {
        ScalarKind::Text => format!("s{}", *key.text),
        ScalarKind::Null => "null".into(),
        ScalarKind::Bool(value) => format!("n{}", i32::from(value)),
        ScalarKind::Int(Some(value)) => format!("n{value}"),
        ScalarKind::Float(value) => format!("n{value}"),
        ScalarKind::Int(None) | ScalarKind::Timestamp | ScalarKind::Binary => format!("x{}", *key.text),
    }
}
