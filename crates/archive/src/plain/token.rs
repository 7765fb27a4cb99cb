//! The tokens of SQL, divided as in `psql`'s lexer (`psqlscan.l`).

/// How many bytes of a token are stored.
pub(super) const LIMIT: usize = 1024;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// A keyword or an unquoted name, in lower case.
    Word(String),
    /// A quoted name.
    Name(String),
    /// A string.
    Text(String),
    /// A number.
    Number(String),
    /// Any other byte.
    Symbol(char),
}

impl Token {
    /// The text to match keywords and symbols by. Quoted tokens match neither.
    pub(super) fn key(&self) -> &str {
        match self {
            Self::Word(word) => word,
            Self::Name(_) => "\"",
            Self::Text(_) => "'",
            Self::Number(_) => "0",
            Self::Symbol('(') => "(",
            Self::Symbol(')') => ")",
            Self::Symbol('.') => ".",
            Self::Symbol(',') => ",",
            Self::Symbol('=') => "=",
            Self::Symbol('*') => "*",
            Self::Symbol('-') => "-",
            Self::Symbol(_) => "?",
        }
    }

    /// The name, if this token can be one, quoted or not.
    pub(super) fn name(&self) -> Option<&str> {
        match self {
            Self::Word(name) | Self::Name(name) => Some(name),
            _ => None,
        }
    }
}

pub(super) fn starts_word(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

pub(super) fn in_word(byte: u8) -> bool {
    starts_word(byte) || byte.is_ascii_digit() || byte == b'$'
}

/// Whether a byte can be in the tag of a dollar quote.
pub(super) fn in_tag(byte: u8, first: bool) -> bool {
    starts_word(byte) || (!first && byte.is_ascii_digit())
}
