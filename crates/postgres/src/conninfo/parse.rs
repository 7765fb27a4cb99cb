//! Parses the two forms of a libpq connection string: a URL, and `keyword=value` words
//! (`conninfo_uri_parse_options` and `conninfo_parse` in `fe-connect.c`).
//!
//! No message repeats a value, which could contain part of a badly quoted password.

use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;

use super::ConninfoError;

pub(super) type Params = BTreeMap<String, String>;

pub(super) fn parse(text: &str) -> Result<Params, ConninfoError> {
    let mut params = Params::new();
    if let Some(rest) = text
        .strip_prefix("postgresql://")
        .or_else(|| text.strip_prefix("postgres://"))
    {
        parse_url(rest, &mut params)?;
    } else if text.contains('=') {
        parse_words(text, &mut params)?;
    } else {
        return Err(ConninfoError::NotConninfo);
    }
    Ok(params)
}

fn store(params: &mut Params, keyword: &str, value: String) -> Result<(), ConninfoError> {
    // First, before any other error can be reported.
    if keyword == "password" {
        return Err(ConninfoError::PasswordInText);
    }
    super::keyword::check(keyword, &value)?;
    params.insert(keyword.to_owned(), value);
    Ok(())
}

/// Parses what follows the scheme: `[user[:password]@][host][:port][,...][/dbname][?keyword=value[&...]]`.
fn parse_url(text: &str, params: &mut Params) -> Result<(), ConninfoError> {
    let mut rest = text;
    if let Some(at) = rest.find(['@', '/']).filter(|&at| rest.as_bytes()[at] == b'@') {
        let (user, password) = rest[..at].split_once(':').unwrap_or((&rest[..at], ""));
        if !password.is_empty() {
            return Err(ConninfoError::PasswordInText);
        }
        if !user.is_empty() {
            store(params, "user", decode(user)?)?;
        }
        rest = &rest[at + 1..];
    }

    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    loop {
        let host;
        if let Some(inside) = rest.strip_prefix('[') {
            let end = inside.find(']').filter(|&end| end > 0);
            let end = end.ok_or(ConninfoError::Syntax("an IPv6 address in a URL must be in [brackets]"))?;
            (host, rest) = inside.split_at(end);
            rest = &rest[1..];
            if !rest.is_empty() && !rest.starts_with([':', '/', '?', ',']) {
                return Err(ConninfoError::Syntax("unexpected text after the ] of an IPv6 address"));
            }
        } else {
            (host, rest) = rest.split_at(rest.find([':', '/', '?', ',']).unwrap_or(rest.len()));
        }
        hosts.push(decode(host)?);
        let mut port = "";
        if let Some(after) = rest.strip_prefix(':') {
            (port, rest) = after.split_at(after.find(['/', '?', ',']).unwrap_or(after.len()));
        }
        ports.push(decode(port)?);
        match rest.strip_prefix(',') {
            Some(next) => rest = next,
            None => break,
        }
    }
    for (keyword, list) in [("host", hosts.join(",")), ("port", ports.join(","))] {
        if !list.is_empty() {
            store(params, keyword, list)?;
        }
    }

    if let Some(path) = rest.strip_prefix('/') {
        let (dbname, after) = path.split_at(path.find('?').unwrap_or(path.len()));
        if !dbname.is_empty() {
            store(params, "dbname", decode(dbname)?)?;
        }
        rest = after;
    }
    let Some(query) = rest.strip_prefix('?').filter(|query| !query.is_empty()) else {
        return Ok(());
    };
    for pair in query.split('&') {
        let (keyword, value) = pair
            .split_once('=')
            .filter(|(_, value)| !value.contains('='))
            .ok_or(ConninfoError::Syntax("each parameter in a URL must be keyword=value"))?;
        let (keyword, value) = (decode(keyword)?, decode(value)?);
        // The only alias in libpq, for compatibility with JDBC's URLs.
        if keyword == "ssl" && value == "true" {
            store(params, "sslmode", "require".to_owned())?;
        } else {
            store(params, &keyword, value)?;
        }
    }
    Ok(())
}

fn decode(text: &str) -> Result<String, ConninfoError> {
    let encoded = |after: &str| after.len() >= 2 && after.bytes().take(2).all(|b| b.is_ascii_hexdigit());
    if !text.split('%').skip(1).all(encoded) {
        return Err(ConninfoError::Syntax(
            "a % in a URL must be followed by two hexadecimal digits",
        ));
    }
    let decoded = percent_decode_str(text).decode_utf8();
    Ok(decoded
        .map_err(|_| ConninfoError::Syntax("percent-encoded text in a URL must be UTF-8"))?
        .into_owned())
}

fn parse_words(text: &str, params: &mut Params) -> Result<(), ConninfoError> {
    let mut rest = text.trim_start_matches(is_space);
    while !rest.is_empty() {
        let (keyword, after) = rest.split_at(rest.find(|c| c == '=' || is_space(c)).unwrap_or(rest.len()));
        let after = after.trim_start_matches(is_space);
        let after = after.strip_prefix('=').ok_or(ConninfoError::Syntax(
            "each parameter must be keyword=value, with single quotes around a value that contains spaces",
        ))?;
        let mut chars = after.trim_start_matches(is_space).chars();
        let quoted = chars.as_str().starts_with('\'');
        if quoted {
            chars.next();
        }
        let mut value = String::new();
        loop {
            match chars.next() {
                Some('\\') => value.extend(chars.next()),
                Some('\'') if quoted => break,
                Some(c) if !quoted && is_space(c) => break,
                Some(c) => value.push(c),
                None if quoted => {
                    // Check the keyword first: if it is `password`, that is the error to report.
                    store(params, keyword, String::new())?;
                    return Err(ConninfoError::Syntax("a single quote is not closed"));
                }
                None => break,
            }
        }
        store(params, keyword, value)?;
        rest = chars.as_str().trim_start_matches(is_space);
    }
    Ok(())
}

/// C's `isspace`.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t'..='\r')
}

/// Quotes `keyword='value'`, so that `parse` and libpq read back the same value.
pub(super) fn word(keyword: &str, value: &str) -> String {
    format!("{keyword}='{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
mod tests;
