//! From a scalar's text to its type, as in `PyYAML`: the implicit resolvers of yaml/resolver.py choose the type, and
//! the `construct_yaml_*` methods of `SafeConstructor` (yaml/constructor.py) compute the value or raise.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::ScalarKind;

/// The meaning of a scalar's text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Resolved {
    Kind(ScalarKind),
    /// `<<`, which is valid only as a key.
    Merge,
    /// `=`, which is a string as a key and an error elsewhere.
    Default,
}

/// Python's `int()` refuses decimal numbers with more digits (`sys.int_info.default_max_str_digits`).
const MAX_DIGITS: usize = 4300;

/// Resolves a plain scalar without a tag.
///
/// An error means that the text matches the pattern of a type but is not a value of it, where `PyYAML` raises.
pub(crate) fn plain(text: &str) -> Result<Resolved, &'static str> {
    let kind = match text {
        "<<" => return Ok(Resolved::Merge),
        "=" => return Ok(Resolved::Default),
        "" | "~" | "null" | "Null" | "NULL" => ScalarKind::Null,
        "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => ScalarKind::Bool(true),
        "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => ScalarKind::Bool(false),
        _ if looks_like_int(text) => int(text)?,
        _ if looks_like_float(text) => float(text)?,
        _ if looks_like_timestamp(text) => timestamp(text)?,
        _ => ScalarKind::Text,
    };
    Ok(Resolved::Kind(kind))
}

/// Resolves a scalar with an explicit tag; `tag` is what follows `tag:yaml.org,2002:`.
pub(crate) fn tagged(tag: &str, text: &str) -> Result<Resolved, &'static str> {
    let kind = match tag {
        "null" => ScalarKind::Null,
        "bool" => match text.to_lowercase().as_str() {
            "yes" | "true" | "on" => ScalarKind::Bool(true),
            "no" | "false" | "off" => ScalarKind::Bool(false),
            _ => return Err("this is tagged as a boolean but is not one"),
        },
        "int" => int(text)?,
        "float" => float(text)?,
        "timestamp" => timestamp(text)?,
        "binary" => {
            let compact: String = text.split_ascii_whitespace().collect();
            STANDARD
                .decode(compact)
                .map_err(|_| "this is tagged as binary but is not base64")?;
            ScalarKind::Binary
        }
        "str" => ScalarKind::Text,
        "merge" => return Ok(Resolved::Merge),
        "value" => return Ok(Resolved::Default),
        _ => return Err("a tag that Synapse does not accept here"),
    };
    Ok(Resolved::Kind(kind))
}

fn unsigned(text: &str) -> &str {
    text.strip_prefix(['-', '+']).unwrap_or(text)
}

fn all(text: &str, allowed: impl Fn(u8) -> bool) -> bool {
    !text.is_empty() && text.bytes().all(allowed)
}

fn digit(byte: u8) -> bool {
    byte.is_ascii_digit()
}

fn digit_or_underscore(byte: u8) -> bool {
    byte.is_ascii_digit() || byte == b'_'
}

/// `[0-5]?[0-9]`: one part of a sexagesimal number, after a colon.
fn sixtieth(text: &str) -> bool {
    all(text, digit) && (text.len() == 1 || (text.len() == 2 && text.as_bytes()[0] <= b'5'))
}

fn looks_like_int(text: &str) -> bool {
    let text = unsigned(text);
    if let Some(digits) = text.strip_prefix("0b") {
        return all(digits, |byte| matches!(byte, b'0' | b'1' | b'_'));
    }
    if let Some(digits) = text.strip_prefix("0x") {
        return all(digits, |byte| byte.is_ascii_hexdigit() || byte == b'_');
    }
    if let Some(digits) = text.strip_prefix('0') {
        return digits.bytes().all(|byte| matches!(byte, b'0'..=b'7' | b'_'));
    }
    let mut parts = text.split(':');
    let first = parts.next().unwrap_or_default();
    first.starts_with(|first: char| first.is_ascii_digit()) && all(first, digit_or_underscore) && parts.all(sixtieth)
}

fn looks_like_float(text: &str) -> bool {
    let bare = unsigned(text);
    if matches!(bare, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return true;
    }
    let Some((whole, rest)) = bare.split_once('.') else {
        return false;
    };
    let (fraction, exponent) = match rest.split_once(['e', 'E']) {
        Some((fraction, exponent)) => (fraction, Some(exponent)),
        None => (rest, None),
    };
    // The resolver's pattern demands a sign in the exponent: `1.0e5` is a string.
    if exponent.is_some_and(|exponent| !(exponent.starts_with(['-', '+']) && all(unsigned(exponent), digit)))
        || !fraction.bytes().all(digit_or_underscore)
    {
        return false;
    }
    if whole.is_empty() {
        return text.starts_with('.') && fraction.starts_with(|first: char| first.is_ascii_digit());
    }
    let mut parts = whole.split(':');
    let first = parts.next().unwrap_or_default();
    first.starts_with(|first: char| first.is_ascii_digit())
        && all(first, digit_or_underscore)
        && parts.all(sixtieth)
        && (exponent.is_none() || !whole.contains(':'))
}

/// `construct_yaml_int`: binary, hexadecimal, octal, decimal or sexagesimal. `ScalarKind::Int(None)` is one of over 128
/// bits.
fn int(text: &str) -> Result<ScalarKind, &'static str> {
    const NOT_INT: &str = "this looks like an integer but has no valid digits";
    let text = text.replace('_', "");
    let digits = unsigned(&text);
    let radix = |digits: &str, radix: u32| -> Result<Option<i128>, &'static str> {
        if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(radix)) {
            return Err(NOT_INT);
        }
        if radix == 10 && digits.len() > MAX_DIGITS {
            return Err("this integer has more digits than Python accepts");
        }
        Ok(i128::from_str_radix(digits, radix).ok())
    };
    let value = if let Some(digits) = digits.strip_prefix("0b") {
        radix(digits, 2)?
    } else if let Some(digits) = digits.strip_prefix("0x") {
        radix(digits, 16)?
    } else if digits.starts_with('0') {
        radix(digits, 8)?
    } else {
        digits.split(':').try_fold(Some(0i128), |sum, part| {
            let part = radix(part, 10)?;
            Ok(sum.and_then(|sum| sum.checked_mul(60)?.checked_add(part?)))
        })?
    };
    let sign = if text.starts_with('-') { -1 } else { 1 };
    Ok(ScalarKind::Int(value.map(|value| sign * value)))
}

/// `construct_yaml_float`.
fn float(text: &str) -> Result<ScalarKind, &'static str> {
    let text = text.replace('_', "").to_lowercase();
    let sign = if text.starts_with('-') { -1.0 } else { 1.0 };
    let value = match unsigned(&text) {
        ".inf" => f64::INFINITY,
        ".nan" => f64::NAN,
        // Added from the right, as `construct_yaml_float` does, so that rounding is the same.
        digits => {
            let (mut sum, mut base) = (0.0, 1.0);
            for part in digits.rsplit(':') {
                let part: f64 = part.parse().map_err(|_| "this looks like a number but is not one")?;
                if digits.contains(':') {
                    sum += part * base;
                } else {
                    sum = part;
                }
                base *= 60.0;
            }
            sum
        }
    };
    Ok(ScalarKind::Float(sign * value))
}

/// The parts of `2001-12-14t21:59:43.10-05:00`, as digits.
struct Moment<'a> {
    date: [&'a str; 3],
    time: Option<[&'a str; 3]>,
    zone: Option<(&'a str, &'a str)>,
}

/// Parses a timestamp by `SafeConstructor.timestamp_regexp`, written out.
fn moment(text: &str) -> Option<Moment<'_>> {
    let short = |text: &str| all(text, digit) && text.len() <= 2;
    let two = |text: &str| all(text, digit) && text.len() == 2;
    let (date, rest) = match text.find(['T', 't', ' ', '\t']) {
        Some(at) => (&text[..at], Some(&text[at..])),
        None => (text, None),
    };
    let date: [&str; 3] = date.split('-').collect::<Vec<_>>().try_into().ok()?;
    if !(all(date[0], digit) && date[0].len() == 4 && short(date[1]) && short(date[2])) {
        return None;
    }
    let Some(rest) = rest else {
        return Some(Moment {
            date,
            time: None,
            zone: None,
        });
    };
    let rest = rest
        .strip_prefix(['T', 't'])
        .unwrap_or_else(|| rest.trim_start_matches([' ', '\t']));
    let end = rest.find(['Z', '+', '-', ' ', '\t']).unwrap_or(rest.len());
    let (clock, zone) = rest.split_at(end);
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, ""));
    let time: [&str; 3] = clock.split(':').collect::<Vec<_>>().try_into().ok()?;
    if !(short(time[0]) && two(time[1]) && two(time[2]) && fraction.bytes().all(digit)) {
        return None;
    }
    let blank = zone.starts_with([' ', '\t']);
    let zone = zone.trim_start_matches([' ', '\t']);
    let zone = match zone {
        "" if blank => return None,
        "" | "Z" => None,
        _ => {
            let (hour, minute) = match zone.strip_prefix(['-', '+'])?.split_once(':') {
                Some((hour, minute)) if two(minute) => (hour, minute),
                Some(_) => return None,
                None => (unsigned(zone), "0"),
            };
            if !short(hour) {
                return None;
            }
            Some((hour, minute))
        }
    };
    Some(Moment {
        date,
        time: Some(time),
        zone,
    })
}

/// Without a time, the resolver needs two digits for month and day; the constructor accepts one.
fn looks_like_timestamp(text: &str) -> bool {
    moment(text).is_some_and(|moment| moment.time.is_some() || (moment.date[1].len() == 2 && moment.date[2].len() == 2))
}

/// `construct_yaml_timestamp`: an error if Python's `datetime` would raise.
fn timestamp(text: &str) -> Result<ScalarKind, &'static str> {
    let moment = moment(text).ok_or("this is tagged as a date but is not one")?;
    let number = |digits: &str| digits.parse::<u32>().unwrap_or(u32::MAX);
    let [year, month, day] = moment.date.map(number);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    let date = year >= 1 && (1..=12).contains(&month) && (1..=days).contains(&day);
    let time = moment.time.is_none_or(|time| {
        let [hour, minute, second] = time.map(number);
        hour < 24 && minute < 60 && second < 60
    });
    let zone = moment
        .zone
        .is_none_or(|(hour, minute)| number(hour) * 60 + number(minute) < 24 * 60);
    if date && time && zone {
        Ok(ScalarKind::Timestamp)
    } else {
        Err("this looks like a date but is not a valid one")
    }
}
