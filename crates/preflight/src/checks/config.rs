//! The keys and secrets that the configuration refers to.

use ess_document::Finding;
use ess_run::text::count;
use ess_synapse::secrets::{Macaroon, Secrets};
use ess_synapse::signing_key::SigningKey;
use ess_synapse::{Config, ConfigError, placeholder};
use serde_json::json;

use crate::finding::{Detail, blocker, info, some_of, warning};
use crate::ids::{CONFIGURATION_NOTE, MACAROON_SECRET, PLACEHOLDER, SECRETS, SIGNING_KEY};

/// Findings about every secret that Synapse would read, and its signing keys, for comparison with the published ones.
pub(crate) fn secrets(config: &Config) -> (Vec<Finding>, Vec<SigningKey>) {
    let (secrets, errors) = Secrets::look(config);
    let mut found: Vec<Finding> = errors.iter().map(unreadable).collect();
    let is_complete = errors.is_empty();
    let keys: Vec<_> = secrets
        .signing_keys
        .iter()
        .map(|key| json!({"id": key.id, "public_key": key.public_key}))
        .collect();
    if !keys.is_empty() {
        let ids: Vec<&str> = secrets.signing_keys.iter().map(|key| key.id.as_str()).collect();
        found.push(info(&SIGNING_KEY, format!("the signing key is {}", ids.join(", "))).with("keys", keys));
    }
    let options: Vec<&str> = secrets.secrets.iter().map(|secret| secret.option.as_str()).collect();
    let of = if is_complete {
        "in the configuration"
    } else {
        "of the configuration (not all)"
    };
    found.push(info(&SECRETS, format!("{} {of} can be read", count(options.len(), "secret"))).with("options", options));
    match secrets.macaroon {
        Macaroon::Own => {}
        // A file that cannot be read may be the one with this secret.
        _ if !is_complete => {}
        Macaroon::RegistrationSharedSecret => found.push(info(
            &MACAROON_SECRET,
            "macaroon_secret_key is not set: Synapse uses registration_shared_secret in its place, and so does \
             extract-secrets",
        )),
        Macaroon::DerivedFromSigningKey => found.push(info(
            &MACAROON_SECRET,
            "macaroon_secret_key is not set, and the key that Synapse derives in its place cannot be carried: guests \
             are logged out, and links to unsubscribe in old mails stop working",
        )),
    }
    let unfilled = placeholder::options(config, &secrets);
    if !unfilled.is_empty() {
        let message = format!("the value of {} is what a template left", some_of(&unfilled));
        found.push(
            warning(&PLACEHOLDER, message)
                .hint(
                    "give -c the configuration that the running Synapse reads (in a container: kubectl exec or docker exec, \
                     cat /data/homeserver.yaml), or set the options to the values that are in use",
                )
                .with("options", unfilled),
        );
    }
    found.extend(secrets.notes.into_iter().map(|note| info(&CONFIGURATION_NOTE, note)));
    (found, secrets.signing_keys)
}

fn unreadable(error: &ConfigError) -> Finding {
    let of_the_key = match error {
        ConfigError::SigningKey { .. } => true,
        ConfigError::File { option, .. } | ConfigError::Option { option, .. } => option.starts_with("signing_key"),
        _ => false,
    };
    let id = if of_the_key { &SIGNING_KEY } else { &SECRETS };
    let found = blocker(id, error.to_string());
    match error.hint() {
        Some(hint) => found.hint(hint),
        None if error.is_permission() => found.hint("run preflight as root, or as the user that Synapse runs as"),
        None => found,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use ess_synapse::Options;

    use super::*;

    const KEY: &str = "ed25519 a_1 nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A\n";

    fn config(dir: &Path, more: &str) -> Config {
        let file = dir.join("homeserver.yaml");
        let text = format!(
            "server_name: example.org\ndatabase: {{name: psycopg2, args: {{}}}}\nmacaroon_secret_key: m\n{more}"
        );
        fs::write(&file, text).expect("it is writable");
        let options = Options {
            configs: vec![file],
            working_directory: Some(dir.to_owned()),
            ..Options::default()
        };
        Config::load(&options).expect("it is a configuration")
    }

    fn shown(found: &[Finding]) -> Vec<String> {
        found.iter().map(|f| format!("{:?} {}", f.severity, f.id)).collect()
    }

    #[test]
    fn a_signing_key_is_distinguished_from_the_other_secrets() {
        let dir = tempfile::tempdir().expect("there is room");
        let shown = |more: &str| shown(&secrets(&config(dir.path(), more)).0);
        assert_eq!(shown(""), ["Blocker signing-key", "Info secrets"]);
        assert_eq!(
            shown("form_secret_path: nowhere\nturn_shared_secret_path: nowhere/else\n"),
            [
                "Blocker signing-key",
                "Blocker secrets",
                "Blocker secrets",
                "Info secrets"
            ]
        );
        fs::write(dir.path().join("example.org.signing.key"), KEY).expect("it is writable");
        assert_eq!(shown(""), ["Info signing-key", "Info secrets"]);
        assert_eq!(
            shown("form_secret_path: nowhere\n"),
            ["Blocker secrets", "Info signing-key", "Info secrets"]
        );
        assert_eq!(
            shown("signing_key: ed25519 a_1 AAAA\n"),
            ["Blocker signing-key", "Info secrets"]
        );
    }
}
