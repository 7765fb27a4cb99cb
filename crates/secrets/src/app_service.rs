//! Checks registrations of application services: errors that Synapse refuses (`load_appservices` in
//! `synapse/config/appservice.py`), and weak or repeated tokens, which it does not notice.

use ess_synapse::secrets::Secret;
use ess_synapse::yaml::{self, Value};
use secrecy::ExposeSecret as _;
use zeroize::Zeroizing;

/// Describes what is wrong, in sentences that quote no token.
pub(crate) fn notes(secrets: &[Secret]) -> Vec<String> {
    let mut notes = Vec::new();
    let mut seen: Vec<(&str, Zeroizing<String>, &str)> = Vec::new();
    for secret in secrets
        .iter()
        .filter(|secret| secret.option.starts_with("app_service_config_files."))
    {
        let option = secret.option.as_str();
        let Ok(Value::Map(registration)) = yaml::load(secret.value.expose_secret()) else {
            notes.push(format!(
                "`{option}` is not a registration: Synapse needs a mapping in it"
            ));
            continue;
        };
        for name in ["id", "as_token", "hs_token", "sender_localpart"] {
            let Some(text) = registration.get(name).and_then(Value::as_str) else {
                notes.push(format!(
                    "`{option}` has no `{name}` that is a string: Synapse refuses to start with it"
                ));
                continue;
            };
            if name.ends_with("_token") && (text.len() < 16 || text.contains(char::is_whitespace)) {
                notes.push(format!(
                    "`{name}` in `{option}` is a weak token: it is shorter than 16 bytes or contains whitespace"
                ));
            }
            let so = match name {
                "id" | "as_token" => "Synapse refuses to start with both",
                "hs_token" => "each could pose as Synapse to the other",
                _ => continue,
            };
            if let Some((_, _, other)) = seen.iter().find(|(known, value, _)| *known == name && **value == text) {
                notes.push(format!("`{name}` is the same in `{option}` and `{other}`: {so}"));
            }
            seen.push((name, text.to_owned().into(), option));
        }
        let token = |name| registration.get(name).and_then(Value::as_str);
        if let (Some(as_token), Some(hs_token)) = (token("as_token"), token("hs_token"))
            && as_token == hs_token
        {
            notes.push(format!(
                "`as_token` and `hs_token` in `{option}` are the same: each side could pose as the other"
            ));
        }
    }
    notes
}

#[cfg(test)]
mod tests {
    use ess_synapse::secrets::{Origin, Secret, SecretId};

    use super::notes;

    fn registrations(texts: &[&str]) -> Vec<Secret> {
        let secret = |(index, text): (usize, &&str)| Secret {
            id: SecretId::AppServiceRegistration,
            option: format!("app_service_config_files.{index}"),
            value: text.as_bytes().to_vec().into(),
            origin: Origin {
                option: String::new(),
                config: None,
                file: None,
            },
        };
        texts.iter().enumerate().map(secret).collect()
    }

    const GOOD: &str = "{id: irc, as_token: CANARY-0123456789ab, hs_token: CANARY-ba9876543210, sender_localpart: irc}";

    #[test]
    fn a_good_registration_is_not_mentioned() {
        let other = GOOD
            .replace("irc", "slack")
            .replace("0123", "4567")
            .replace("ba98", "7654");
        assert!(notes(&registrations(&[GOOD, &other])).is_empty());
    }

    #[test]
    fn mistakes_are_named_without_the_tokens() {
        let same = GOOD.replace("CANARY-ba9876543210", "CANARY-0123456789ab");
        for (texts, wanted) in [
            (
                vec![GOOD, GOOD],
                "`as_token` is the same in `app_service_config_files.1` and `app_service_config_files.0`",
            ),
            (
                vec![GOOD, GOOD],
                "`hs_token` is the same in `app_service_config_files.1` and `app_service_config_files.0`",
            ),
            (vec!["[CANARY]"], "is not a registration"),
            (vec!["CANARY: [\t"], "is not a registration"),
            (vec!["{id: irc, as_token: 12345}"], "has no `as_token` that is a string"),
            (
                vec!["{id: irc, as_token: CANARY}"],
                "is shorter than 16 bytes or contains whitespace",
            ),
            (vec![&same], "are the same"),
        ] {
            let notes = notes(&registrations(&texts)).join("\n");
            assert!(notes.contains(wanted) && !notes.contains("CANARY"), "{notes}");
        }
    }
}
