//! Signing key files: one key per line, `ed25519 <version> <unpadded base64 of the seed>`.
//!
//! Reads what `read_signing_keys` of signedjson 1.1 (signedjson/key.py) accepts, as Synapse calls it in
//! `synapse/config/key.py`.

use std::fmt;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD_NO_PAD};
use ed25519_dalek::SigningKey as Ed25519;
use zeroize::Zeroizing;

/// Synapse decodes with `unpaddedbase64.decode_base64`, which accepts both alphabets, with or without padding, and
/// ignores the unused bits at the end.
const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);

/// The public half of one signing key. The seed is only checked, and not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningKey {
    /// The key id that other servers see: `ed25519:a_abcd`.
    pub id: String,
    /// The verify key, unpadded base64.
    pub public_key: String,
}

impl SigningKey {
    /// From the bytes of a verify key.
    pub fn of_verify_key(id: String, bytes: &[u8]) -> Self {
        Self {
            id,
            public_key: STANDARD_NO_PAD.encode(bytes),
        }
    }
}

/// Why a file does not contain signing keys. Never quotes a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SigningKeyError {
    /// Not UTF-8.
    NotText,
    /// Only blank lines, or none.
    Empty,
    /// The old format, without an id, which `KeyConfig.generate_files` converts.
    OneField {
        /// Counted from 1.
        line: usize,
    },
    /// Neither three fields nor one.
    Fields {
        /// Counted from 1.
        line: usize,
        /// The number of fields.
        fields: usize,
    },
    /// Not `ed25519`.
    Algorithm {
        /// Counted from 1.
        line: usize,
    },
    /// Not the base64 of 32 bytes.
    Key {
        /// Counted from 1.
        line: usize,
    },
}

impl SigningKeyError {
    /// The next step, if there is an obvious one.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::OneField { .. } => Some(
                "this key has no id yet: start Synapse once, which gives it one and rewrites the file; or write the line \
                 as `ed25519 <id> <key>` with the id that /_matrix/key/v2/server shows",
            ),
            _ => None,
        }
    }
}

impl fmt::Display for SigningKeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotText => write!(f, "the file is not UTF-8"),
            Self::Empty => write!(f, "it contains no key"),
            Self::OneField { line } => {
                write!(f, "line {line} is a key in the old format, without an id")
            }
            Self::Fields { line, fields } => {
                write!(
                    f,
                    "line {line} has {fields} fields instead of `ed25519`, an id and a key"
                )
            }
            Self::Algorithm { line } => write!(f, "the algorithm in line {line} is not ed25519"),
            Self::Key { line } => write!(f, "the key in line {line} is not the base64 of 32 bytes"),
        }
    }
}

impl std::error::Error for SigningKeyError {}

/// Reads the keys of a file, in its order: Synapse signs events with the first.
pub fn parse(text: &str) -> Result<Vec<SigningKey>, SigningKeyError> {
    let keys = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(index, line)| parse_line(line, index + 1))
        .collect::<Result<Vec<_>, _>>()?;
    if keys.is_empty() {
        Err(SigningKeyError::Empty)
    } else {
        Ok(keys)
    }
}

/// The keys in a response of `/_matrix/key/v2/server`; `None` if the JSON is something else.
pub fn published(answer: &serde_json::Value) -> Option<Vec<SigningKey>> {
    let keys = answer.get("verify_keys")?.as_object()?.iter();
    let key = |(id, key): (&String, &serde_json::Value)| SigningKey {
        id: id.clone(),
        public_key: key
            .get("key")
            .and_then(serde_json::Value::as_str)
            .unwrap_or_default()
            .to_owned(),
    };
    Some(keys.map(key).collect())
}

/// Reads one key from its three fields. In the configuration itself (`signing_key`) they may be on several lines.
pub(crate) fn parse_line(text: &str, line: usize) -> Result<SigningKey, SigningKeyError> {
    let fields: Vec<&str> = text.split_whitespace().collect();
    let (algorithm, version, key) = match fields[..] {
        [algorithm, version, key] => (algorithm, version, key),
        [_] => return Err(SigningKeyError::OneField { line }),
        _ => {
            return Err(SigningKeyError::Fields {
                line,
                fields: fields.len(),
            });
        }
    };
    if algorithm != "ed25519" {
        return Err(SigningKeyError::Algorithm { line });
    }
    let engine = if key.contains(['-', '_']) { URL_SAFE } else { STANDARD };
    let seed = engine
        .decode(key)
        .map(Zeroizing::new)
        .map_err(|_| SigningKeyError::Key { line })?;
    let seed = seed.as_slice().try_into().map_err(|_| SigningKeyError::Key { line })?;
    let public = Ed25519::from_bytes(seed).verifying_key();
    Ok(SigningKey::of_verify_key(
        format!("ed25519:{version}"),
        public.as_bytes(),
    ))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::{SigningKey, SigningKeyError, parse};

    /// The first test vector of RFC 8032.
    const SEED: &str = "nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A";
    const PUBLIC: &str = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo";

    #[test]
    fn keys_come_in_the_order_of_the_file() {
        let text = format!("ed25519 a_one {SEED}\n\n  ed25519\ttwo  {SEED}=\r\n");

        let keys = parse(&text).unwrap();

        let key = |id: &str| SigningKey {
            id: id.into(),
            public_key: PUBLIC.into(),
        };
        assert_eq!(keys, [key("ed25519:a_one"), key("ed25519:two")]);
    }

    #[test]
    fn the_url_safe_alphabet_is_read() {
        let keys = parse(&format!("ed25519 1 {}", SEED.replace('/', "_"))).unwrap();

        assert_eq!(keys[0].public_key, PUBLIC);
    }

    #[test]
    fn an_invalid_key_is_refused_without_quoting_it() {
        let cases = [
            ("", SigningKeyError::Empty),
            (" \n\n", SigningKeyError::Empty),
            (SEED, SigningKeyError::OneField { line: 1 }),
            ("\ned25519 key", SigningKeyError::Fields { line: 2, fields: 2 }),
            (
                &format!("ed25519 a {SEED} x"),
                SigningKeyError::Fields { line: 1, fields: 4 },
            ),
            (&format!("rsa a {SEED}"), SigningKeyError::Algorithm { line: 1 }),
            ("ed25519 a AAAA", SigningKeyError::Key { line: 1 }),
            ("ed25519 a $$$", SigningKeyError::Key { line: 1 }),
        ];

        for (text, error) in cases {
            assert_eq!(parse(text), Err(error.clone()));
            assert!(!error.to_string().contains(SEED));
        }
        assert!(
            SigningKeyError::OneField { line: 1 }
                .hint()
                .unwrap()
                .contains("/_matrix/key/v2/server")
        );
    }
}
