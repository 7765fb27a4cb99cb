//! Makes control characters visible before text is printed: a server's message, a file name or a document may contain
//! some that move the cursor, change the window's title or fill the clipboard.

use std::borrow::Cow;
use std::fmt::Write as _;

/// A message with every control character made visible.
///
/// A line break is kept only before two spaces, as these tools print the quoted output of a program. So no quoted text
/// can look like a line of these tools.
pub(crate) fn message(text: &str) -> Cow<'_, str> {
    shown(text, |rest| rest.starts_with("  "))
}

/// The same for text that these tools have laid out themselves: all line breaks are kept.
pub(crate) fn lines(text: &str) -> Cow<'_, str> {
    shown(text, |_| true)
}

/// JSON text with control characters replaced by `\u` escapes. Its value is unchanged: they can only be in strings.
pub(crate) fn json(text: String) -> String {
    if !text.contains(steers_in_json) {
        return text;
    }
    let mut plain = String::with_capacity(text.len() + 64);
    for character in text.chars() {
        if steers_in_json(character) {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                let _ = write!(plain, "\\u{unit:04x}");
            }
        } else {
            plain.push(character);
        }
    }
    plain
}

fn shown(text: &str, is_ours: impl Fn(&str) -> bool) -> Cow<'_, str> {
    if !text.contains(steers) {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len() + 64);
    for (at, character) in text.char_indices() {
        match character {
            '\n' if is_ours(&text[at + 1..]) => plain.push('\n'),
            '\n' => plain.push_str("\\n"),
            '\r' => plain.push_str("\\r"),
            '\0'..='\x7f' if steers(character) => {
                let _ = write!(plain, "\\x{:02x}", u32::from(character));
            }
            _ if steers(character) => {
                let _ = write!(plain, "\\u{{{:x}}}", u32::from(character));
            }
            _ => plain.push(character),
        }
    }
    Cow::Owned(plain)
}

/// Line breaks are excepted: they are the indentation of the JSON text itself.
fn steers_in_json(character: char) -> bool {
    character != '\n' && steers(character)
}

/// Whether a character can control a terminal or disguise text: controls of ASCII and Latin-1 (except the tab), line
/// and paragraph separators, and characters that change the direction of text or are invisible (Unicode's
/// `Bidi_Control`, the byte order mark and tags).
fn steers(character: char) -> bool {
    character.is_control() && character != '\t'
        || matches!(
            character,
            '\u{61c}'
                | '\u{200e}'
                | '\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2066}'..='\u{2069}'
                | '\u{feff}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_control_character_is_left() {
        let all: String = ('\0'..='\u{2100}').chain('\u{e0000}'..='\u{e0100}').collect();
        for text in [message(&all), json(all.clone()).into()] {
            let left: Vec<char> = text
                .chars()
                .filter(|c| c.is_control() && !"\t\n".contains(*c) || ('\u{2028}'..='\u{202e}').contains(c))
                .collect();
            assert!(left.is_empty(), "{left:?}");
        }
        assert_eq!(
            message("\x1b]0;title\x07\u{9b}2J\x7f\r\u{202e}"),
            r"\x1b]0;title\x07\u{9b}2J\x7f\r\u{202e}"
        );
    }

    #[test]
    fn ordinary_text_is_as_it_was() {
        for text in [
            "",
            "tab\there",
            "Zürich 🦀 👩‍🚀 \"quoted\" \\n",
            "ends\n  | line\n  | other",
        ] {
            assert_eq!(message(text), text);
        }
        assert_eq!(lines("error\n\nUsage: x\n"), "error\n\nUsage: x\n");
    }

    #[test]
    fn a_line_break_of_others_makes_no_line() {
        assert_eq!(
            message("cannot read a\nhint: rm -rf /\n  | quoted"),
            "cannot read a\\nhint: rm -rf /\n  | quoted"
        );
    }

    #[test]
    fn json_means_the_same() {
        let value = serde_json::json!({"k\u{7f}": "\u{9b}31m\u{e0041}\u{202e}\u{1b}"});
        for text in [serde_json::to_string(&value), serde_json::to_string_pretty(&value)] {
            let text = json(text.expect("it is written"));
            assert!(!text.contains(['\u{7f}', '\u{9b}', '\u{e0041}', '\u{202e}']), "{text}");
            assert_eq!(
                serde_json::from_str::<serde_json::Value>(&text).ok(),
                Some(value.clone())
            );
        }
    }
}
