//! Reads a document strictly: it must be complete, of the supported format, and without unknown fields.

use std::fmt;

use serde_json::Value;

use crate::{Document, FORMAT};

/// The largest document that is read, in bytes. Real ones have at most a few hundred kilobytes; a larger input is
/// something else, such as a dump.
pub const MAX_BYTES: u64 = 16 << 20;

/// Why the input is not a valid document.
#[derive(Debug)]
pub enum ReadError {
    /// The input is empty: the previous program of the pipeline failed.
    Empty,
    /// It is larger than [`MAX_BYTES`].
    TooLarge,
    /// It is truncated JSON.
    Truncated { line: usize, column: usize },
    /// It is not JSON.
    Syntax(String),
    /// It is JSON, but not a migration document.
    Foreign(String),
    /// It is a document of another version of the format.
    OtherFormat(String),
    /// A field is invalid or unknown.
    Field {
        place: String,
        message: String,
        section: Option<String>,
        written_by: Option<String>,
    },
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "it is empty: the previous program wrote nothing"),
            Self::TooLarge => write!(f, "it is larger than {} MiB", MAX_BYTES >> 20),
            Self::Truncated { line, column } => {
                write!(f, "it is truncated at line {line}, column {column}")
            }
            Self::Syntax(message) => write!(f, "it is not JSON: {message}"),
            Self::Foreign(what) => write!(f, "it is not a migration document: {what}"),
            Self::OtherFormat(found) => {
                write!(f, "its format is {found:?}, but this version reads {FORMAT:?}")
            }
            Self::Field {
                place,
                message,
                section,
                written_by,
            } => {
                write!(f, "at `{place}`: {message}")?;
                if let (Some(section), Some(version)) = (section, written_by) {
                    let own = env!("CARGO_PKG_VERSION");
                    write!(
                        f,
                        " (section `{section}` was written by version {version}, this is version {own})"
                    )?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for ReadError {}

impl ReadError {
    /// The next step, if there is one.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::OtherFormat(_) => Some("use the tools of one release for one migration"),
            Self::Field { message, .. } if message.starts_with("unknown field") => {
                Some("put your own data under `annotations`")
            }
            _ => None,
        }
    }
}

impl Document {
    /// Parses one complete document.
    ///
    /// # Errors
    ///
    /// The input is anything else, or contains unknown fields or a password.
    pub fn parse(bytes: &[u8]) -> Result<Self, ReadError> {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Err(ReadError::Empty);
        }
        let value: Value = serde_json::from_slice(bytes).map_err(|error| {
            if error.is_eof() {
                ReadError::Truncated {
                    line: error.line(),
                    column: error.column(),
                }
            } else {
                ReadError::Syntax(error.to_string())
            }
        })?;
        match value.get("format") {
            Some(Value::String(format)) if format == FORMAT => {}
            Some(Value::String(format)) if format.starts_with("ess-migration/") => {
                return Err(ReadError::OtherFormat(format.clone()));
            }
            Some(other) => return Err(ReadError::Foreign(format!("its `format` is {other}"))),
            None if value.is_object() => {
                return Err(ReadError::Foreign("it has no `format`".to_owned()));
            }
            None => return Err(ReadError::Foreign("it is not an object".to_owned())),
        }
        // Parse the text again rather than convert `value`, which would hide duplicate fields.
        let mut reader = serde_json::Deserializer::from_slice(bytes);
        let document: Self = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
            let place = error.path().to_string();
            let section = place.split('.').next().filter(|s| !s.is_empty() && *s != "?");
            let written_by = section
                .and_then(|section| value.get(section)?.get("version")?.as_str())
                .map(str::to_owned);
            ReadError::Field {
                message: error.inner().to_string(),
                section: section.map(str::to_owned),
                place,
                written_by,
            }
        })?;
        for (place, connection) in [
            ("source", document.source.as_ref().map(|s| &s.connection)),
            ("target", document.target.as_ref().map(|t| &t.connection)),
        ] {
            if connection.is_some_and(|c| c.contains_key("password")) {
                return Err(ReadError::Field {
                    place: format!("{place}.connection.password"),
                    message: "a document never contains a password".to_owned(),
                    section: None,
                    written_by: None,
                });
            }
        }
        Ok(document)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        Document::parse(text.as_bytes())
            .err()
            .map_or_else(|| "accepted".to_owned(), |error| error.to_string())
    }

    #[test]
    fn the_smallest_document_is_its_format() {
        assert_eq!(refused(r#"{"format":"ess-migration/1"}"#), "accepted");
    }

    #[test]
    fn an_invalid_document_is_refused_with_its_place() {
        assert_eq!(refused(" \n"), "it is empty: the previous program wrote nothing");
        assert_eq!(
            refused(r#"{"format":"ess-migration/1","#),
            "it is truncated at line 1, column 28"
        );
        assert_eq!(refused("{}"), "it is not a migration document: it has no `format`");
        assert_eq!(refused("[]"), "it is not a migration document: it is not an object");
        assert_eq!(
            refused(r#"{"format":"ess-migration/2"}"#),
            r#"its format is "ess-migration/2", but this version reads "ess-migration/1""#
        );
        assert!(refused(r#"{"format":"ess-migration/1"} {}"#).contains("trailing characters"));
        assert!(refused(r#"{"format":"ess-migration/1","id":"a","id":"b"}"#).contains("duplicate field `id`"));
    }

    #[test]
    fn an_unknown_field_names_section_and_versions() {
        let text = r#"{"format":"ess-migration/1","wipe":{"version":"9.9.9","started_at":"","finished_at":"","executed":true,"objects":{},"fence":"absent","sneaky":1}}"#;
        let message = refused(text);
        assert!(
            message.starts_with("at `wipe.sneaky`: unknown field `sneaky`"),
            "{message}"
        );
        assert!(message.contains("written by version 9.9.9"), "{message}");
    }

    #[test]
    fn annotations_are_the_users_own() {
        let document = Document::parse(br#"{"format":"ess-migration/1","annotations":{"ticket":[1,{"a":null}]}}"#)
            .expect("annotations may hold anything");
        let again = serde_json::to_string(&document).expect("it is JSON");
        assert_eq!(
            again,
            r#"{"format":"ess-migration/1","annotations":{"ticket":[1,{"a":null}]}}"#
        );
    }

    #[test]
    fn a_password_in_a_connection_is_refused() {
        let text = r#"{"format":"ess-migration/1","target":{"connection":{"password":"x"}}}"#;
        assert_eq!(
            refused(text),
            "at `target.connection.password`: a document never contains a password"
        );
    }
}
