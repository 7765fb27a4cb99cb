//! `.well-known/matrix/*`: which server serves the documents, what they contain, whether browsers can read them.

use ess_document::Finding;
use ess_web::{Agent, Served, get, read, readable};
use serde_json::{Map, json};

use crate::finding::{Detail, info, warning};
use crate::ids::{WELL_KNOWN, WELL_KNOWN_BROKEN, WELL_KNOWN_NOT_CHECKED};

/// The addresses of the homeserver in the documents.
#[derive(Debug, Default)]
pub(crate) struct Delegation {
    /// `m.server`: the address for other servers.
    pub(crate) server: Option<String>,
    /// `m.homeserver.base_url`: the address for clients.
    pub(crate) client: Option<String>,
}

/// Fetches the three documents of a server name. `served` is whether Synapse is configured to serve `server`.
pub(crate) fn check(agent: &Agent, server_name: &str, served: bool) -> (Vec<Finding>, Delegation) {
    let (mut found, mut delegation) = (Vec::new(), Delegation::default());
    let (mut documents, mut shown) = (Map::new(), Vec::new());
    for name in ["server", "client", "support"] {
        let url = format!("https://{server_name}/.well-known/matrix/{name}");
        let response = match get(agent, &url) {
            Ok(response) => response,
            Err(error) => {
                found.push(
                    warning(&WELL_KNOWN_NOT_CHECKED, format!("{url} cannot be fetched: {error}")).hint(
                        "check that this machine can reach the public names; otherwise check from another machine",
                    ),
                );
                // The other documents are on the same server.
                break;
            }
        };
        match read(name, &response) {
            Served::Absent => drop(documents.insert(name.to_owned(), json!({"status": response.status}))),
            Served::Broken(why) => found.push(broken(&url, &why)),
            Served::Valid(value) => {
                match name {
                    "server" => delegation.server = value["m.server"].as_str().map(str::to_owned),
                    "client" => delegation.client = value["m.homeserver"]["base_url"].as_str().map(str::to_owned),
                    _ => {}
                }
                found.extend(readable(name, &response).map(|why| broken(&url, &why)));
                let by = served_by(response.server.as_deref(), served && name == "server");
                shown.push(format!("{name} by {by}"));
                documents.insert(name.to_owned(), json!({"served_by": by, "says": value}));
            }
        }
    }
    if !documents.is_empty() {
        let message = match shown.as_slice() {
            [] => format!("https://{server_name} serves no .well-known/matrix"),
            some => format!("https://{server_name} serves .well-known/matrix: {}", some.join(", ")),
        };
        found.push(
            info(&WELL_KNOWN, message)
                .hint(
                    "on the day of the migration, let m.server and base_url name ESS's host (wellKnownDelegation \
                     serves them); where another server serves them, add org.matrix.msc4143.rtc_foci by hand",
                )
                .with("documents", documents),
        );
    }
    (found, delegation)
}

/// The server that generates the document. If it is Synapse, ESS takes over; on any other server, the document must be
/// edited.
fn served_by(server: Option<&str>, by_synapse: bool) -> String {
    let server = server.unwrap_or("a server without a name");
    match server {
        _ if server.starts_with("Synapse") => "Synapse itself".to_owned(),
        _ if by_synapse => format!("Synapse itself, behind {server}"),
        _ => server.to_owned(),
    }
}

fn broken(url: &str, why: &str) -> Finding {
    warning(&WELL_KNOWN_BROKEN, format!("{url} is invalid: {why}"))
        .hint("let ESS serve it (wellKnownDelegation), or correct it on its present server")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_is_reported() {
        assert_eq!(served_by(Some("nginx"), false), "nginx");
        assert_eq!(served_by(Some("nginx"), true), "Synapse itself, behind nginx");
        assert_eq!(served_by(Some("Synapse/1.157.1"), false), "Synapse itself");
        assert_eq!(served_by(None, false), "a server without a name");
    }
}
