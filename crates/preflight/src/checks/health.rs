//! Synapse itself, when it runs: its plain HTTP listeners.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use ess_document::Finding;
use ess_synapse::Config;
use ess_synapse::config::reachable;
use ess_synapse::signing_key::{self, SigningKey};
use serde_json::Value;
use ureq::{Agent, Error, Timeout};

use crate::finding::{Blocker, Detail, blocker, info, warning};

/// What a listener says.
enum Answer {
    /// It is well.
    Healthy,
    /// Something answers, or nothing although it accepted the connection.
    Unwell(String),
    /// Nobody listens.
    Silent,
}

/// Asks each plain HTTP listener of the configuration. `keys`: those that it names, when they could be read.
pub(crate) fn synapse(config: &Config, keys: &[SigningKey]) -> Vec<Finding> {
    let addresses: Vec<SocketAddr> = config
        .listeners()
        .iter()
        .flat_map(|listener| {
            listener
                .addresses
                .iter()
                .map(|address| SocketAddr::new(reachable(*address), listener.port))
        })
        .collect();
    if addresses.is_empty() {
        return vec![info(
            "synapse-not-asked",
            "Synapse has no plain HTTP listener that could be asked for its health",
        )];
    }
    let agent = agent();
    let mut silent = Vec::new();
    let mut found = Vec::new();
    for address in addresses {
        let url = format!("http://{address}/health");
        match ask(&agent, &url) {
            Answer::Silent => silent.push(url),
            Answer::Unwell(why) => found.push(
                warning(
                    "synapse-unwell",
                    format!("{url} does not say that Synapse is well: {why}"),
                )
                .hint("see Synapse's log; a server that is ill is not moved well"),
            ),
            Answer::Healthy => {
                let mut found = vec![running(&agent, address)];
                if let Some(published) = json(&agent, address, "/_matrix/key/v2/server") {
                    found.extend(other_keys(&published, keys));
                }
                return found;
            }
        }
    }
    if found.is_empty() {
        found.push(info(
            "synapse-stopped",
            format!("no Synapse answers at {}", silent.join(", ")),
        ));
    }
    found
}

fn running(agent: &Agent, address: SocketAddr) -> Finding {
    let version = json(agent, address, "/_synapse/admin/v1/server_version")
        .and_then(|body| Some(body.get("server_version")?.as_str()?.to_owned()));
    let found = match &version {
        Some(version) => info("synapse-runs", format!("Synapse {version} runs and is well")),
        None => info("synapse-runs", "Synapse runs and is well"),
    };
    found.with("address", address.to_string()).with("version", version)
}

/// A key that Synapse publishes and the configuration does not name: the configuration is another server's,
/// or was changed since Synapse started.
fn other_keys(published: &Value, keys: &[SigningKey]) -> Option<Finding> {
    let SigningKey { id, .. } = signing_key::published(published)?
        .into_iter()
        .find(|key| !keys.contains(key))?;
    // Without keys to compare there is a blocker already.
    (!keys.is_empty()).then(|| {
        blocker(
            Blocker::SigningKey,
            format!("Synapse runs with a signing key {id} that is not the one in the configuration"),
        )
        .hint("see whether -c names the configuration that this Synapse was started with")
    })
}

fn ask(agent: &Agent, url: &str) -> Answer {
    match get(agent, url) {
        Ok((200, _)) => Answer::Healthy,
        Ok((status, _)) => Answer::Unwell(format!("it answers {status}")),
        Err(Error::ConnectionFailed | Error::HostNotFound | Error::Timeout(Timeout::Connect)) => Answer::Silent,
        // A container's own address is nobody's here.
        Err(Error::Io(error))
            if matches!(
                error.kind(),
                ErrorKind::ConnectionRefused
                    | ErrorKind::HostUnreachable
                    | ErrorKind::NetworkUnreachable
                    | ErrorKind::AddrNotAvailable
            ) =>
        {
            Answer::Silent
        }
        Err(error) => Answer::Unwell(error.to_string()),
    }
}

fn json(agent: &Agent, address: SocketAddr, path: &str) -> Option<Value> {
    let (_, body) = get(agent, &format!("http://{address}{path}")).ok()?;
    serde_json::from_str(&body).ok()
}

fn get(agent: &Agent, url: &str) -> Result<(u16, String), Error> {
    let mut answer = agent.get(url).call()?;
    let body = answer.body_mut().with_config().limit(64 << 10).read_to_string()?;
    Ok((answer.status().as_u16(), body))
}

/// For plain HTTP to an address.
pub(crate) fn agent() -> Agent {
    Agent::config_builder()
        .http_status_as_error(false)
        .proxy(None)
        .max_redirects(0)
        .timeout_connect(Some(Duration::from_secs(2)))
        .timeout_global(Some(Duration::from_secs(5)))
        .build()
        .new_agent()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// Answers one request with a status line.
    fn listening(status: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there is a port");
        let address = listener.local_addr().expect("it is bound");
        thread::spawn(move || {
            let (mut peer, _) = listener.accept().expect("someone comes");
            let _ = peer.read(&mut [0; 4096]);
            let _ = write!(
                peer,
                "HTTP/1.1 {status}\r\nContent-Length: 2\r\nConnection: close\r\n\r\nOK"
            );
        });
        format!("http://{address}/health")
    }

    #[test]
    fn a_key_of_another_server_is_noticed() {
        let keys = [SigningKey {
            id: "ed25519:a".to_owned(),
            public_key: "A".to_owned(),
        }];
        let other = |text: &str, keys: &[SigningKey]| {
            other_keys(&serde_json::from_str(text).expect("it is JSON"), keys).is_some()
        };
        assert!(!other(r#"{"verify_keys": {"ed25519:a": {"key": "A"}}}"#, &keys));
        assert!(other(r#"{"verify_keys": {"ed25519:a": {"key": "B"}}}"#, &keys));
        assert!(other(r#"{"verify_keys": {"ed25519:b": {"key": "A"}}}"#, &keys));
        assert!(!other(r#"{"verify_keys": {"ed25519:b": {"key": "A"}}}"#, &[]));
        assert!(!other(r#"{"errcode": "M_UNRECOGNIZED"}"#, &keys));
    }

    #[test]
    fn who_answers_is_told_from_who_does_not() {
        let agent = agent();
        assert!(matches!(ask(&agent, &listening("200 OK")), Answer::Healthy));
        assert!(matches!(ask(&agent, &listening("503 Busy")), Answer::Unwell(why) if why == "it answers 503"));
        let free = TcpListener::bind("127.0.0.1:0")
            .and_then(|l| l.local_addr())
            .expect("there is a port");
        assert!(matches!(ask(&agent, &format!("http://{free}/health")), Answer::Silent));
    }
}
