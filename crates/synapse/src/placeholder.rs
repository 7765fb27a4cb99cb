//! Values that a template left in the configuration: `${PASSWORD}`, `%%SECRET%%`, `{{ secret }}`, `CHANGEME`.
//!
//! Synapse uses such a value as it is. If the running homeserver has another one, a program fills in the file at each
//! start, and this file is not the one that Synapse reads.

use secrecy::ExposeSecret as _;

use crate::config::{Config, Database};
use crate::secrets::Secrets;
use crate::yaml::Value;

/// Words that stand for a value to be chosen, without their separators.
const TO_CHOOSE: [&str; 6] = ["changeme", "changethis", "fixme", "replaceme", "replacethis", "todo"];

/// The options, among the secrets and those that name the homeserver and its database, that contain a placeholder.
pub fn options(config: &Config, secrets: &Secrets) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut check = |option: &str, value: &str| {
        if is_placeholder(option, value) {
            found.push(option.to_owned());
        }
    };
    check("server_name", config.server_name());
    if let Some(url) = config.get("public_baseurl").and_then(Value::as_str) {
        check("public_baseurl", url);
    }
    if let Ok(Database::Postgres { args, password, .. }) = config.database() {
        for (name, value) in &args {
            check(&format!("database.args.{name}"), value);
        }
        if let Some(password) = &password {
            check("database.args.password", password.expose_secret());
        }
    }
    for secret in &secrets.secrets {
        if let Ok(text) = std::str::from_utf8(secret.value.expose_secret()) {
            check(&secret.origin.option, text);
        }
    }
    found
}

/// Whether a value is a placeholder.
fn is_placeholder(option: &str, value: &str) -> bool {
    let value = value.trim();
    let is_within = |open: &str, close: &str| {
        value
            .split_once(open)
            .is_some_and(|(_, rest)| rest.split_once(close).is_some_and(|(name, _)| is_name(name)))
    };
    // `<` and `>` only around the complete value.
    let in_brackets = value.strip_prefix('<').and_then(|rest| rest.strip_suffix('>'));
    let plain: String = value.chars().filter(char::is_ascii_alphanumeric).collect();
    let last = option
        .rsplit('.')
        .find(|part| part.parse::<usize>().is_err())
        .unwrap_or(option);
    let own = last.strip_suffix("_path").unwrap_or(last).to_uppercase();
    is_within("${", "}")
        || is_within("{{", "}}")
        || is_within("%%", "%%")
        || in_brackets.is_some_and(is_name)
        || TO_CHOOSE.contains(&plain.to_lowercase().as_str())
        || value == own
        || value.strip_prefix("YOUR_") == Some(own.as_str())
}

/// Whether a text is the name of a variable, as the words between the marks of a template are.
fn is_name(text: &str) -> bool {
    let text = text.trim();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-. :?".contains(c);
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '.' || c == '_') && text.chars().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::is_placeholder;

    #[test]
    fn what_a_template_left_is_recognised() {
        for value in [
            "${TURN_SECRET}",
            "{{ turn_secret }}",
            "%%TURN_SECRET%%",
            "<your turn secret>",
            "CHANGEME",
            "change-me",
            "replace_me\n",
            "TODO",
            "TURN_SHARED_SECRET",
            "YOUR_TURN_SHARED_SECRET",
            "prefix-${TURN_SECRET:-default}",
        ] {
            assert!(is_placeholder("turn_shared_secret", value), "{value}");
        }
    }

    #[test]
    fn secrets_that_only_look_odd_are_no_placeholders() {
        for value in [
            "${",
            "a%%b%c",
            "<>",
            "x<y>z",
            "{{}}",
            "${#*!}",
            "turn_shared_secret",
            "todos",
            "p%%41%%",
            "",
        ] {
            assert!(!is_placeholder("turn_shared_secret", value), "{value}");
        }
        assert!(is_placeholder("oidc_providers.0.client_secret", "CLIENT_SECRET"));
        assert!(is_placeholder("form_secret_path", "FORM_SECRET"));
    }
}
