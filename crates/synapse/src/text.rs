//! Text files as Python's `open()` reads them.

use std::io;
use std::path::Path;

use zeroize::Zeroizing;

/// Reads a file of one secret as UTF-8 with every line ending made one newline.
pub(crate) fn read(path: &Path) -> io::Result<Zeroizing<String>> {
    Ok(newlines(&ess_files::read_text(path, ess_files::SECRET)?))
}

/// Makes every line ending one newline.
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

/// What Python's `str.strip` removes.
pub(crate) fn is_space(character: char) -> bool {
    character.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&character)
}

/// Python's `str.strip()`.
pub(crate) fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}
