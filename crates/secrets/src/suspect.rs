//! Recognises values that look like secrets, by name or by content, in options that no list names.

use crate::yaml::{Node, join};

/// Endings of names that suggest a secret.
const ENDS: &[&str] = &[
    "apikey",
    "credential",
    "credentials",
    "dsn",
    "key",
    "keys",
    "pass",
    "passwd",
    "passwords",
    "pepper",
    "pw",
    "pwd",
    "salt",
    "secrets",
    "token",
    "tokens",
];

/// Parts of names that suggest a secret anywhere in the name.
const PARTS: &[&str] = &[
    "secret",
    "password",
    "passphrase",
    "private_key",
    "privatekey",
    "signature",
];

/// Endings of names that rule a secret out, whatever else the name contains.
const HARMLESS_ENDS: &[&str] = &[
    "_claim",
    "_enabled",
    "_endpoint",
    "_file",
    "_interval",
    "_lifetime",
    "_method",
    "_path",
    "_period",
    "_uri",
    "_url",
    "public_key",
    "site_key",
];

/// Sections of Synapse whose names suggest a secret but whose content is public.
const PUBLIC: &[&str] = &["old_signing_keys", "perspectives", "trusted_key_servers"];

/// Names of values that look random but are visible to every user who logs in.
const PUBLIC_NAMES: &[&str] = &["audience", "audiences", "client_id", "idp_id", "issuer"];

/// Sections of Synapse whose names suggest a secret, although most of their options are none.
const PLAIN_SECTIONS: &[&str] = &["password_config", "password_providers"];

/// Visits every text and number in a node, with its dotted path.
pub(crate) fn walk(node: &Node, path: &str, visit: &mut impl FnMut(&str, &str)) {
    match node {
        Node::Null | Node::Bool(_) => {}
        Node::Number(text) => visit(path, text),
        Node::Text(text) | Node::Block(text) => visit(path, text),
        Node::List(list) => {
            for (index, node) in list.iter().enumerate() {
                walk(node, &join(path, &index.to_string()), visit);
            }
        }
        Node::Map(map) => {
            for (name, node) in map {
                walk(node, &join(path, name), visit);
            }
        }
    }
}

/// Whether an option looks like a secret, by name or by content.
pub(crate) fn is_secret(path: &str, text: &str) -> bool {
    let section = path.split('.').next().unwrap_or_default();
    if text.is_empty() || PUBLIC.contains(&section) {
        return false;
    }
    is_plainly_secret(path, text) || !is_public_name(path) && (is_random(text) || has_token(text))
}

/// Whether an option is a secret by name, or by a form that only secrets have: a PEM block, or a URL with a password.
pub(crate) fn is_plainly_secret(path: &str, text: &str) -> bool {
    !text.is_empty() && (has_password(text) || text.contains("-----BEGIN") || is_named_so(path))
}

fn is_public_name(path: &str) -> bool {
    let name = path.rsplit('.').find(|name| name.parse::<usize>().is_err());
    name.is_some_and(|name| PUBLIC_NAMES.contains(&name))
}

/// Whether the name or that of a section above it suggests a secret: `tokens.alice`.
fn is_named_so(path: &str) -> bool {
    let mut names = path
        .split('.')
        .filter(|name| name.parse::<usize>().is_err() && !PLAIN_SECTIONS.contains(name))
        .map(str::to_ascii_lowercase)
        .peekable();
    let mut announced = false;
    while let Some(name) = names.next() {
        let words = |end: &&&str| {
            let rest = name.strip_suffix(**end);
            rest.is_some_and(|rest| rest.is_empty() || rest.ends_with(['_', '-']) || end.len() > 4)
        };
        announced |= ENDS.iter().any(|end| words(&end)) || PARTS.iter().any(|part| name.contains(part));
        if names.peek().is_none() && HARMLESS_ENDS.iter().any(|end| name.ends_with(end)) {
            return false;
        }
    }
    announced
}

/// Whether a URL contains a password: `redis://user:password@host`.
fn has_password(text: &str) -> bool {
    let Some((_, rest)) = text.split_once("://") else {
        return false;
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'))
}

/// Whether a URL grants access by itself: `https://hooks.example.org/services/T0/Xm0bD2aNrX5tXc1kZ7cHq6Vg`,
/// `https://host/?access_token=abc`.
fn has_token(text: &str) -> bool {
    let Some((_, rest)) = text.split_once("://") else {
        return false;
    };
    let is_token = |text: &str| {
        let plain = |character: char| character.is_ascii_alphanumeric() || "-_".contains(character);
        text.chars().all(plain) && is_random(text)
    };
    let (authority, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let user = authority.rsplit_once('@').map_or("", |(user, _)| user);
    let mut parts = rest.split(['/', '?', '&', ';', '#']);
    is_token(user)
        || parts.any(|part| match part.split_once('=') {
            Some((name, value)) => is_token(value) || !value.is_empty() && is_named_so(name),
            None => is_token(part),
        })
}

/// Whether a text looks like output of `openssl rand` or `pwgen`: long, with letters and digits mixed, without words.
fn is_random(text: &str) -> bool {
    let is = |set: fn(&char) -> bool| text.chars().filter(set).count();
    let digits = is(char::is_ascii_digit);
    text.len() >= 20
        && text
            .chars()
            .all(|character| character.is_ascii_alphanumeric() || "+/=_-~*^&#!,;:.@".contains(character))
        && !text.contains("://")
        && !text.starts_with(['/', '.', '@', '#', '!'])
        && digits >= 3
        && is(char::is_ascii_alphabetic) >= 3
        && changes(text) * 4 >= text.len()
}

/// Counts changes between digits, lower case, upper case and other characters: few in words, hosts and paths.
fn changes(text: &str) -> usize {
    let class = |byte: u8| match byte {
        b'0'..=b'9' => 1,
        b'a'..=b'z' => 2,
        b'A'..=b'Z' => 3,
        _ => 0,
    };
    text.as_bytes()
        .windows(2)
        .filter(|pair| class(pair[0]) != class(pair[1]))
        .count()
}

#[cfg(test)]
mod tests {
    use super::is_secret;

    #[test]
    fn names_and_values_give_secrets_away() {
        for (path, text) in [
            ("third_party.api_key", "x"),
            ("apikey", "x"),
            ("x.tokens.alice", "abc"),
            ("modules.0.config.bind_password", "hunter2"),
            ("modules.0.config.uri", "ldap://admin:hunter2@host/x"),
            ("custom.url", "redis://:pw@host"),
            ("custom.thing", "-----BEGIN PRIVATE KEY-----\nxx"),
            ("custom.thing", "Xm0bD2aNrX5tXc1kZ7cHq6VgYw9uLp3e"),
            (
                "custom.hash",
                "9b871512327c09ce91dd649b3f96a63b7408ef267c8cc5710114e629730cb61f",
            ),
            (
                "custom.webhook",
                "https://hooks.example.org/services/T024BE7LD/B024BE7LD/Xm0bD2aNrX5tXc1kZ7cHq6Vg",
            ),
            ("custom.push", "https://push.example.org/?v=1&access_token=abc"),
            (
                "custom.report",
                "https://9b871512327c09ce91dd649b3f96a63b@sentry.example.org/1",
            ),
            ("smtp_pw", "x"),
            ("some_secret_thing", "1234"),
            ("auth_pass", "1"),
        ] {
            assert!(is_secret(path, text), "{path}: {text}");
        }
    }

    #[test]
    fn the_rest_of_a_configuration_does_not() {
        for (path, text) in [
            ("public_baseurl", "https://matrix.example.org:8448/"),
            ("password_config.policy.minimum_length", "15"),
            ("refresh_token_lifetime", "24h"),
            (
                "trusted_key_servers.0.verify_keys.ed25519:auto",
                "abcdefg+1234567890/ABCDEFGx",
            ),
            (
                "old_signing_keys.ed25519:id.key",
                "Noi6WqcDj0QmPxCNQqgezwTlBKrfqehY1u2FyWP9uYw",
            ),
            ("key_refresh_interval", "1d"),
            ("recaptcha_public_key", "6LcA3x"),
            ("email.smtp_host", "mail.example.org"),
            ("auto_join_rooms.0", "#lobby:matrix-2024.example.org"),
            ("server_notices.system_mxid_display_name", "Server Notices"),
            ("url_preview_ip_range_blacklist.3", "192.168.0.0/16"),
            ("custom.path", "/var/lib/matrix-synapse/2024-01-01/templates"),
            ("compass", "north"),
            ("oidc_providers.0.client_id", "3f2504e0-4f89-11d3-9a0c-0305e82c3301"),
            (
                "oidc_providers.0.issuer",
                "https://login.example.com/3f2504e0-4f89-11d3-9a0c-0305e82c3301/v2.0",
            ),
            ("jwt_config.audiences.0", "3f2504e0-4f89-11d3-9a0c-0305e82c3301"),
            (
                "custom.page",
                "https://matrix.example.org/docs/2024-01-01/how-to-begin.html?lang=en#part-2",
            ),
            ("form_secret", ""),
        ] {
            assert!(!is_secret(path, text), "{path}: {text}");
        }
    }
}
