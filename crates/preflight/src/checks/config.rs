//! The keys and secrets that the configuration names.

use ess_document::Finding;
use ess_synapse::secrets::{Macaroon, Secrets};
use ess_synapse::signing_key::SigningKey;
use ess_synapse::{Config, ConfigError};
use serde_json::json;

use crate::finding::{Blocker, Detail, blocker, count, info};

/// Every secret that Synapse would read, and the public side of its signing keys.
pub(crate) fn secrets(config: &Config) -> (Vec<Finding>, Vec<SigningKey>) {
    let secrets = match Secrets::read(config) {
        Ok(secrets) => secrets,
        Err(error) => return (vec![unreadable(&error)], Vec::new()),
    };
    let keys: Vec<_> = secrets
        .signing_keys
        .iter()
        .map(|key| json!({"id": key.id, "public_key": key.public_key}))
        .collect();
    let ids: Vec<&str> = secrets.signing_keys.iter().map(|key| key.id.as_str()).collect();
    let options: Vec<&str> = secrets.secrets.iter().map(|secret| secret.option.as_str()).collect();
    let mut found = vec![
        info("signing-key", format!("the signing key is {}", ids.join(", "))).with("keys", keys),
        info(
            "secrets",
            format!("{} in the configuration can be read", count(options.len(), "secret")),
        )
        .with("options", options),
    ];
    match secrets.macaroon {
        Macaroon::Own => {}
        Macaroon::RegistrationSharedSecret => found.push(info(
            "macaroon-secret",
            "there is no macaroon_secret_key: Synapse uses registration_shared_secret, and extract-secrets does too",
        )),
        Macaroon::DerivedFromSigningKey => found.push(info(
            "macaroon-secret",
            "there is no macaroon_secret_key, and what Synapse derives in its place cannot move: guests are logged out, and links in old mails to unsubscribe stop working",
        )),
    }
    found.extend(secrets.notes.into_iter().map(|note| info("configuration-note", note)));
    (found, secrets.signing_keys)
}

fn unreadable(error: &ConfigError) -> Finding {
    let of_the_key = match error {
        ConfigError::SigningKey { .. } => true,
        ConfigError::File { option, .. } | ConfigError::Option { option, .. } => option.starts_with("signing_key"),
        _ => false,
    };
    let id = if of_the_key {
        Blocker::SigningKey
    } else {
        Blocker::Secrets
    };
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
    fn a_signing_key_is_told_from_the_other_secrets() {
        let dir = tempfile::tempdir().expect("there is room");
        assert_eq!(shown(&secrets(&config(dir.path(), "")).0), ["Blocker signing-key"]);
        fs::write(dir.path().join("example.org.signing.key"), KEY).expect("it is writable");
        assert_eq!(
            shown(&secrets(&config(dir.path(), "")).0),
            ["Info signing-key", "Info secrets"]
        );
        let missing = config(dir.path(), "form_secret_path: nowhere\n");
        assert_eq!(shown(&secrets(&missing).0), ["Blocker secrets"]);
        let short = config(dir.path(), "signing_key: ed25519 a_1 AAAA\n");
        assert_eq!(shown(&secrets(&short).0), ["Blocker signing-key"]);
    }
}
