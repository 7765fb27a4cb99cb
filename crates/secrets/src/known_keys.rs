//! Compares the signing keys of the configuration with those that the running server publishes, or with its database.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use ess_postgres::{Access, Conninfo, Session, newest_own_event, server_signature_keys};
use ess_synapse::Config;
use ess_synapse::config::{Database, reachable};
use ess_synapse::signing_key::{self, SigningKey};
use ess_synapse::yaml::Value as Yaml;
use serde_json::Value;
use ureq::Agent;

/// The result of the comparison in words; `None` if the running server publishes the same keys.
pub(crate) fn note(config: &Config, keys: &[SigningKey], application_name: &str) -> Option<String> {
    if let Some((address, answer)) = published(config) {
        return difference(&answer, config.server_name(), keys)
            .map(|difference| format!("Synapse at {address} {difference}"));
    }
    Some(match keys_in_database(config, application_name) {
        Ok(known) => format!(
            "Synapse does not answer, so the signing keys were compared with its database: {}",
            known.verdict(keys, &old_keys(config))
        ),
        Err(error) => format!(
            "the signing keys were not compared with those that Synapse uses: no plain HTTP listener of the \
             configuration answers, and its database cannot be queried: {error:#}"
        ),
    })
}

/// The response of the first listener that answers, and the listener's address.
fn published(config: &Config) -> Option<(SocketAddr, Value)> {
    let agent = Agent::config_builder()
        .proxy(None)
        .max_redirects(0)
        .timeout_connect(Some(Duration::from_secs(2)))
        .timeout_global(Some(Duration::from_secs(5)))
        .build()
        .new_agent();
    let mut addresses = config.listeners().into_iter().flat_map(|listener| {
        let addresses = listener.addresses.into_iter();
        addresses.map(move |address| SocketAddr::new(reachable(address), listener.port))
    });
    addresses.find_map(|address| {
        let url = format!("http://{address}/_matrix/key/v2/server");
        let mut answer = agent.get(url).call().ok()?;
        let body = answer.body_mut().with_config().limit(64 << 10).read_to_string().ok()?;
        let body: Value = serde_json::from_str(&body).ok()?;
        signing_key::published(&body).map(|_| (address, body))
    })
}

/// Compares the keys with a response. The result continues the sentence "Synapse at ADDRESS".
fn difference(answer: &Value, server_name: &str, keys: &[SigningKey]) -> Option<String> {
    let name = answer.get("server_name").and_then(Value::as_str).unwrap_or_default();
    if name != server_name {
        return Some(format!("is another server: {}", name.escape_debug()));
    }
    let published = signing_key::published(answer)?;
    let other = ids(keys, |key| !published.contains(key));
    let unknown = ids(&published, |key| !keys.contains(key));
    match (other.is_empty(), unknown.is_empty()) {
        (true, true) => None,
        (false, _) => Some(format!(
            "does not publish the signing key {other} of the configuration: is this the configuration that it was \
             started with?"
        )),
        (true, false) => Some(format!(
            "publishes a signing key {unknown} that the configuration does not name: it would be lost"
        )),
    }
}

fn ids(keys: &[SigningKey], is_one: impl Fn(&SigningKey) -> bool) -> String {
    let ids: Vec<&str> = keys.iter().filter(|key| is_one(key)).map(|key| &*key.id).collect();
    // A server or a database may contain anything, so control characters are escaped.
    ids.join(", ").escape_debug().to_string()
}

/// What the database contains about the server's keys.
#[derive(Default)]
struct KeysInDatabase {
    /// The server's own rows of `server_signature_keys`.
    keys: Vec<SigningKey>,
    /// The ids of the keys that the server's newest event is signed with.
    signed_by: Vec<String>,
}

fn keys_in_database(config: &Config, application_name: &str) -> anyhow::Result<KeysInDatabase> {
    let Database::Postgres { args, password, .. } = config.database()? else {
        anyhow::bail!("it is not a single PostgreSQL database");
    };
    let mut args = args;
    args.entry("connect_timeout".to_owned())
        .or_insert_with(|| "5".to_owned());
    // In a pipeline, libpq's variables apply to the target.
    let env = |name: &str| std::env::var(name).ok().filter(|_| !name.starts_with("PG"));
    let mut conninfo = Conninfo::from_params(args, password)?.resolve(&env, false)?;
    conninfo.find_password(&env)?;
    let session = Session::connect(&conninfo, application_name, Access::ReadOnly)?;
    session.batch(
        "set up the session",
        "SET statement_timeout = '5s'; SET lock_timeout = '5s'",
    )?;
    let name = config.server_name();
    let keys = server_signature_keys(&session, name)?;
    let event = newest_own_event(&session, name)?.unwrap_or_default();
    Ok(KeysInDatabase {
        keys: keys
            .into_iter()
            .map(|(id, bytes)| SigningKey::of_verify_key(id, &bytes))
            .collect(),
        signed_by: signatures(&event, name).context("cannot read the newest event")?,
    })
}

/// The ids of the server's keys that an event is signed with; empty if there is no event.
fn signatures(event: &str, server_name: &str) -> serde_json::Result<Vec<String>> {
    if event.is_empty() {
        return Ok(Vec::new());
    }
    let event: Value = serde_json::from_str(event)?;
    let signatures = event
        .get("signatures")
        .and_then(|all| all.get(server_name)?.as_object());
    Ok(signatures.map_or_else(Vec::new, |signatures| signatures.keys().cloned().collect()))
}

/// The ids in `old_signing_keys`.
fn old_keys(config: &Config) -> Vec<String> {
    let old = config.get("old_signing_keys").and_then(Yaml::as_map);
    old.into_iter()
        .flat_map(ess_synapse::yaml::Map::iter)
        .map(|(id, _)| id.text.to_string())
        .collect()
}

impl KeysInDatabase {
    /// Compares with the keys of the configuration and the ids in `old_signing_keys`.
    ///
    /// Synapse stores its own keys in `server_signature_keys` only in special cases, so a missing key proves nothing.
    /// The result continues the sentence "the signing keys were compared with its database:".
    fn verdict(&self, keys: &[SigningKey], old: &[String]) -> String {
        const QUESTION: &str = "is this the key file of this server?";
        let is_ours = |id: &String| keys.iter().any(|key| key.id == *id) || old.contains(id);
        let other = ids(&self.keys, |known| {
            keys.iter().any(|key| key.id == known.id && key != known)
        });
        let unknown = ids(&self.keys, |known| !is_ours(&known.id));
        let signed_by = self.signed_by.join(", ").escape_debug().to_string();
        if !other.is_empty() {
            format!(
                "it contains a different {other}, and servers that have that key reject what is signed with this one: \
                 {QUESTION}"
            )
        } else if !signed_by.is_empty() && !self.signed_by.iter().any(is_ours) {
            format!(
                "the newest event of this server is signed with {signed_by}, which is neither in the key file nor in \
                 `old_signing_keys`: {QUESTION}"
            )
        } else if !unknown.is_empty() {
            format!(
                "it also contains {unknown}, which is neither in the key file nor in `old_signing_keys`: what was \
                 signed with it cannot be verified without it"
            )
        } else if self.keys.iter().any(|known| keys.contains(known)) {
            "they match".to_owned()
        } else if signed_by.is_empty() {
            "it contains no key of this server, which is usual, and no recent event of it".to_owned()
        } else {
            format!(
                "it contains no key of this server, which is usual; the newest event is signed with {signed_by}, which \
                 the configuration contains"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{KeysInDatabase, SigningKey, difference, signatures};

    fn key(id: &str, public_key: &str) -> SigningKey {
        SigningKey {
            id: id.to_owned(),
            public_key: public_key.to_owned(),
        }
    }

    #[test]
    fn other_keys_and_other_servers_are_noticed() {
        let published = json!({"server_name": "a.example", "verify_keys": {"ed25519:a": {"key": "A"}}});
        let difference = |keys: &[SigningKey]| difference(&published, "a.example", keys);

        assert_eq!(difference(&[key("ed25519:a", "A")]), None);
        assert!(difference(&[key("ed25519:a", "B")]).is_some_and(|why| why.contains("does not publish")));
        assert!(difference(&[key("ed25519:b", "A")]).is_some_and(|why| why.contains("ed25519:b")));
        assert!(difference(&[]).is_some_and(|why| why.contains("ed25519:a that the configuration does not name")));
        let why = super::difference(&published, "b.example", &[]);
        assert_eq!(why.as_deref(), Some("is another server: a.example"));
    }

    #[test]
    fn the_database_is_taken_at_its_word_and_no_further() {
        let ours = [key("ed25519:a", "A")];
        for (keys, signed_by, wanted) in [
            (vec![key("ed25519:a", "A")], vec![], "they match"),
            (vec![key("ed25519:a", "B")], vec!["ed25519:a"], "a different ed25519:a"),
            (
                vec![],
                vec!["ed25519:a"],
                "signed with ed25519:a, which the configuration contains",
            ),
            (vec![], vec!["ed25519:b"], "signed with ed25519:b, which is neither in"),
            (
                vec![],
                vec!["ed25519:old"],
                "signed with ed25519:old, which the configuration contains",
            ),
            (vec![key("ed25519:b", "B")], vec![], "it also contains ed25519:b"),
            (vec![key("ed25519:old", "O")], vec![], "and no recent event of it"),
            (vec![], vec![], "and no recent event of it"),
        ] {
            let known = KeysInDatabase {
                keys,
                signed_by: signed_by.into_iter().map(str::to_owned).collect(),
            };
            let verdict = known.verdict(&ours, &["ed25519:old".to_owned()]);
            assert!(verdict.contains(wanted), "{verdict}");
        }
    }

    #[test]
    fn signatures_of_others_do_not_count() {
        let event = json!({"signatures": {"a.example": {"ed25519:a": "x"}, "b.example": {"ed25519:b": "y"}}});
        let of = |name| signatures(&event.to_string(), name).unwrap_or_default();

        assert_eq!(of("a.example"), ["ed25519:a"]);
        assert!(of("c.example").is_empty() && signatures("", "a.example").is_ok_and(|none| none.is_empty()));
    }
}
