//! The running Synapse, through its plain HTTP listeners.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use ess_document::Finding;
use ess_synapse::Config;
use ess_synapse::config::reachable;
use ess_synapse::signing_key::{self, SigningKey};
use serde_json::Value;
use ureq::{Agent, Error, Timeout};

use crate::finding::{Detail, blocker, info, warning};
use crate::ids::{SIGNING_KEY, SYNAPSE_NOT_ASKED, SYNAPSE_RUNS, SYNAPSE_STOPPED, SYNAPSE_UNWELL};

/// The result of a request to a listener's `/health`.
enum Answer {
    /// Synapse is healthy.
    Healthy,
    /// The connection was accepted, but Synapse did not report that it is healthy; with the reason.
    Unwell(String),
    /// No process listens there.
    Silent,
}

/// Queries each plain HTTP listener in the configuration. `keys` are the signing keys in it, if they could be read.
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
            &SYNAPSE_NOT_ASKED,
            "Synapse has no plain HTTP listener whose health could be queried",
        )];
    }
    let agent = agent();
    let mut silent = Vec::new();
    let mut found = Vec::new();
    for address in addresses {
        let url = format!("http://{address}/health");
        match probe(&agent, &url) {
            Answer::Silent => silent.push(url),
            Answer::Unwell(why) => found.push(
                warning(
                    &SYNAPSE_UNWELL,
                    format!("{url} does not report that Synapse is healthy: {why}"),
                )
                .hint("check Synapse's log, and repair it before the migration"),
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
            &SYNAPSE_STOPPED,
            format!("no Synapse responds at {}", silent.join(", ")),
        ));
    }
    found
}

fn running(agent: &Agent, address: SocketAddr) -> Finding {
    let version = json(agent, address, "/_synapse/admin/v1/server_version")
        .and_then(|body| Some(body.get("server_version")?.as_str()?.to_owned()));
    let found = match &version {
        Some(version) => info(&SYNAPSE_RUNS, format!("Synapse {version} is running and healthy")),
        None => info(&SYNAPSE_RUNS, "Synapse is running and healthy"),
    };
    found.with("address", address.to_string()).with("version", version)
}

/// A finding if Synapse publishes a key that is not in the configuration: the configuration is that of another server,
/// or was changed after Synapse started.
fn other_keys(published: &Value, keys: &[SigningKey]) -> Option<Finding> {
    let SigningKey { id, .. } = signing_key::published(published)?
        .into_iter()
        .find(|key| !keys.contains(key))?;
    // If there are no keys to compare, another check has reported a blocker.
    (!keys.is_empty()).then(|| {
        blocker(
            &SIGNING_KEY,
            format!("the running Synapse uses signing key {id}, which is not the one in the configuration"),
        )
        .hint("check that -c names the configuration that this Synapse was started with")
    })
}

fn probe(agent: &Agent, url: &str) -> Answer {
    match get(agent, url) {
        Ok((200, _)) => Answer::Healthy,
        Ok((status, _)) => Answer::Unwell(format!("it returns HTTP status {status}")),
        Err(Error::ConnectionFailed | Error::HostNotFound | Error::Timeout(Timeout::Connect)) => Answer::Silent,
        // An address inside a container does not exist on this host.
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

/// An HTTP client for plain HTTP to an IP address, without proxy and redirects.
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
    fn a_server_that_answers_is_distinguished_from_one_that_does_not() {
        let agent = agent();
        assert!(matches!(probe(&agent, &listening("200 OK")), Answer::Healthy));
        assert!(
            matches!(probe(&agent, &listening("503 Busy")), Answer::Unwell(why) if why == "it returns HTTP status 503")
        );
        let free = TcpListener::bind("127.0.0.1:0")
            .and_then(|l| l.local_addr())
            .expect("there is a port");
        assert!(matches!(
            probe(&agent, &format!("http://{free}/health")),
            Answer::Silent
        ));
    }
}
