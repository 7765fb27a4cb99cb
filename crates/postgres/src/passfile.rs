//! libpq's password file: lines of `host:port:database:user:password` (`passwordFromFile` in `fe-connect.c`).

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use secrecy::SecretString;
use zeroize::Zeroizing;

use crate::conninfo::error::ConninfoError;

/// The state of a password file.
pub(crate) enum Passfile {
    Text(Zeroizing<String>),
    Absent,
    /// libpq would print a warning and ignore it, for this reason.
    Ignored(&'static str),
}

pub(crate) fn read(path: &Path) -> Result<Passfile, ConninfoError> {
    // Like libpq, treat any error as a missing file.
    let Ok(meta) = fs::metadata(path) else {
        return Ok(Passfile::Absent);
    };
    if !meta.is_file() {
        return Ok(Passfile::Ignored("it is not a regular file"));
    }
    if meta.mode() & 0o077 != 0 {
        return Ok(Passfile::Ignored(
            "it is accessible by group or others; its mode should be 0600",
        ));
    }
    match ess_files::read_text(path, ess_files::CONFIGURATION) {
        Ok(text) => Ok(Passfile::Text(text)),
        Err(source) if source.kind() == io::ErrorKind::PermissionDenied => {
            Ok(Passfile::Ignored("this account is not allowed to read it"))
        }
        Err(source) => Err(ConninfoError::io(path, source)),
    }
}

/// The password of the first line whose four fields match; `None` if it is empty.
pub(crate) fn find(text: &str, wanted: [&str; 4]) -> Option<SecretString> {
    text.split('\n')
        .filter(|line| !line.starts_with('#'))
        .find_map(|line| {
            let mut rest = line.trim_end_matches('\r');
            for value in wanted {
                rest = if let Some(rest) = rest.strip_prefix("*:") {
                    rest
                } else {
                    let (field, rest) = field(rest);
                    rest.filter(|_| *field == value)?
                };
            }
            Some(field(rest).0)
        })
        .filter(|password| !password.is_empty())
        .map(|password| SecretString::from(password.as_str()))
}

/// The first field, unescaped, and the text after its colon.
fn field(text: &str) -> (Zeroizing<String>, Option<&str>) {
    let mut field = Zeroizing::new(String::with_capacity(text.len()));
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            ':' => return (field, Some(chars.as_str())),
            // A backslash at the very end is literal.
            '\\' => field.push(chars.next().unwrap_or('\\')),
            _ => field.push(c),
        }
    }
    (field, None)
}

/// A line with this password for every server, or `None` if no line can contain it.
pub(crate) fn line(password: &str) -> Option<Zeroizing<String>> {
    if password.contains(['\n', '\r', '\0']) {
        return None;
    }
    let mut line = Zeroizing::new(String::with_capacity(2 * password.len() + 9));
    line.push_str("*:*:*:*:");
    for c in password.chars() {
        if matches!(c, ':' | '\\') {
            line.push('\\');
        }
        line.push(c);
    }
    line.push('\n');
    Some(line)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;
    use secrecy::ExposeSecret;

    use super::*;

    fn look(text: &str, wanted: [&str; 4]) -> Option<String> {
        find(text, wanted).map(|password| password.expose_secret().to_owned())
    }

    #[test]
    fn the_first_line_that_matches_counts() {
        let text = "# h:5432:d:u:comment\n\nh:5432:d:other:no\nh:*:d:u:first\r\n*:*:*:*:second\n";
        assert_eq!(look(text, ["h", "5432", "d", "u"]).as_deref(), Some("first"));
        assert_eq!(look(text, ["H", "5432", "d", "u"]).as_deref(), Some("second"));
        assert_eq!(look("h:1:d:u:x", ["h", "2", "d", "u"]), None);
        assert_eq!(look("h:1:d:u", ["h", "1", "d", "u"]), None);
        assert_eq!(look("h:1:d:u:", ["h", "1", "d", "u"]), None);
    }

    #[test]
    fn backslashes_take_the_meaning_of_a_colon_away() {
        assert_eq!(
            look(r"\:\:1:1:a\\b:u:p\:q\\r:ignored", ["::1", "1", r"a\b", "u"]).as_deref(),
            Some(r"p:q\r")
        );
        assert_eq!(look(r"h:1:d:u:end\", ["h", "1", "d", "u"]).as_deref(), Some(r"end\"));
        assert_eq!(look(r"\*:1:d:u:x", ["*", "1", "d", "u"]).as_deref(), Some("x"));
        assert_eq!(look("h*:1:d:u:x", ["host", "1", "d", "u"]), None);
    }

    #[test]
    fn a_file_that_others_can_read_is_ignored() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(matches!(read(file.path()).unwrap(), Passfile::Text(_)));
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(read(file.path()).unwrap(), Passfile::Ignored(_)));
        assert!(matches!(read(Path::new("/")).unwrap(), Passfile::Ignored(_)));
        assert!(matches!(read(Path::new("/nowhere")).unwrap(), Passfile::Absent));
    }

    proptest! {
        #[test]
        fn every_password_survives_its_line(password in "[^\0\r\n]{1,40}") {
            let line = line(&password).unwrap();
            prop_assert_eq!(look(&line, ["any", "1", "d", "u"]), Some(password));
        }

        #[test]
        fn no_text_makes_it_panic(text in ".*", host in ".*") {
            look(&text, [&host, "5432", "d", "u"]);
        }
    }
}
