//! The signing keys that the running server publishes, beside those of the configuration.

use std::net::SocketAddr;
use std::time::Duration;

use ess_synapse::Config;
use ess_synapse::config::reachable;
use ess_synapse::signing_key::SigningKey;
use serde_json::Value;
use ureq::Agent;

/// What the comparison tells a person, if anything.
pub(crate) fn note(config: &Config, keys: &[SigningKey]) -> Option<String> {
    let agent = Agent::config_builder()
        .proxy(None)
        .max_redirects(0)
        .timeout_connect(Some(Duration::from_secs(2)))
        .timeout_global(Some(Duration::from_secs(5)))
        .build()
        .new_agent();
    let addresses = config.listeners().into_iter().flat_map(|listener| {
        let addresses = listener.addresses.into_iter();
        addresses.map(move |address| SocketAddr::new(reachable(address), listener.port))
    });
    let published = addresses.into_iter().find_map(|address| {
        let url = format!("http://{address}/_matrix/key/v2/server");
        let mut answer = agent.get(url).call().ok()?;
        let body = answer.body_mut().with_config().limit(64 << 10).read_to_string().ok()?;
        let body: Value = serde_json::from_str(&body).ok()?;
        body.get("verify_keys")?.is_object().then_some((address, body))
    });
    match published {
        Some((address, published)) => difference(&published, config.server_name(), keys)
            .map(|difference| format!("Synapse at {address} {difference}")),
        None => Some(
            "the signing keys were not compared with those that Synapse publishes: no plain HTTP listener of the \
             configuration answers"
                .to_owned(),
        ),
    }
}

/// In the words that follow "Synapse at ...".
fn difference(published: &Value, server_name: &str, keys: &[SigningKey]) -> Option<String> {
    let name = published.get("server_name").and_then(Value::as_str).unwrap_or_default();
    if name != server_name {
        return Some(format!("is another server: {}", name.escape_debug()));
    }
    let verify_keys = published.get("verify_keys").and_then(Value::as_object)?;
    let public = |id: &str| verify_keys.get(id)?.get("key")?.as_str();
    let other: Vec<&str> = keys
        .iter()
        .filter(|key| public(&key.id) != Some(key.public_key.as_str()))
        .map(|key| &*key.id)
        .collect();
    let unknown: Vec<&str> = verify_keys
        .keys()
        .map(String::as_str)
        .filter(|id| keys.iter().all(|key| key.id != *id))
        .collect();
    match (other.is_empty(), unknown.is_empty()) {
        (true, true) => None,
        (false, _) => Some(format!(
            "does not publish the signing key {} of the configuration: is this the configuration that it was started \
             with?",
            other.join(", ")
        )),
        (true, false) => Some(format!(
            "publishes a signing key {} that the configuration does not name: it would be lost",
            unknown.join(", ")
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{SigningKey, difference};

    #[test]
    fn other_keys_and_other_servers_are_noticed() {
        let key = |id: &str, public_key: &str| SigningKey {
            id: id.to_owned(),
            public_key: public_key.to_owned(),
        };
        let published = json!({"server_name": "a.example", "verify_keys": {"ed25519:a": {"key": "A"}}});
        let difference = |keys: &[SigningKey]| difference(&published, "a.example", keys);

        assert_eq!(difference(&[key("ed25519:a", "A")]), None);
        assert!(difference(&[key("ed25519:a", "B")]).is_some_and(|said| said.contains("does not publish")));
        assert!(difference(&[key("ed25519:b", "A")]).is_some_and(|said| said.contains("ed25519:b")));
        assert!(difference(&[]).is_some_and(|said| said.contains("ed25519:a that the configuration does not name")));
        let said = super::difference(&published, "b.example", &[]);
        assert_eq!(said.as_deref(), Some("is another server: a.example"));
    }
}
