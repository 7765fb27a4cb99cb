//! Text as Python's `open()` and `str.strip` treat it.

use std::io;
use std::path::Path;

use zeroize::Zeroizing;

/// Reads a file of one secret as Synapse's `read_file` does: UTF-8, with every line ending as `\n`.
pub(crate) fn read(path: &Path) -> io::Result<Zeroizing<String>> {
    Ok(newlines(&ess_files::read_text(path, ess_files::SECRET)?))
}

/// Replaces `\r\n` and `\r` by `\n`: the universal newlines of Python's text mode.
pub(crate) fn newlines(text: &str) -> Zeroizing<String> {
    let mut plain = Zeroizing::new(String::with_capacity(text.len()));
    let mut rest = text;
    while let Some(at) = rest.find('\r') {
        plain.push_str(&rest[..at]);
        plain.push('\n');
        rest = &rest[at + 1..];
        rest = rest.strip_prefix('\n').unwrap_or(rest);
    }
    plain.push_str(rest);
    plain
}

/// What Python's `str.isspace` accepts, and `str.strip` removes: in addition to Unicode's `White_Space`, also the ASCII
/// separators U+001C to U+001F.
pub(crate) fn is_space(character: char) -> bool {
    character.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&character)
}

/// Python's `str.strip()`.
pub(crate) fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}
