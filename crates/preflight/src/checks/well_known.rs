//! `.well-known/matrix/*`: who serves it, what it says, whether everybody can read it.

use ess_document::Finding;
use serde_json::{Map, Value, json};
use ureq::Agent;

use crate::finding::{Detail, info, warning};
use crate::web::{Response, get};

/// What the documents say of where the homeserver is.
#[derive(Debug, Default)]
pub(crate) struct Delegation {
    /// `m.server`: where other servers go.
    pub(crate) server: Option<String>,
    /// `m.homeserver.base_url`: where clients go.
    pub(crate) client: Option<String>,
}

/// A document, or that there is none.
enum Document {
    Absent,
    Says(Value),
    /// It is there, and something is wrong with it.
    Broken(String),
}

/// Fetches the three documents of a server name. `served`: Synapse's configuration says that it serves the first.
pub(crate) fn check(agent: &Agent, server_name: &str, served: bool) -> (Vec<Finding>, Delegation) {
    let (mut found, mut delegation) = (Vec::new(), Delegation::default());
    let (mut says, mut shown) = (Map::new(), Vec::new());
    for name in ["server", "client", "support"] {
        let url = format!("https://{server_name}/.well-known/matrix/{name}");
        let response = match get(agent, &url) {
            Ok(response) => response,
            Err(error) => {
                found.push(
                    warning("well-known-not-checked", format!("{url} cannot be fetched: {error}"))
                        .hint("see whether this machine reaches the public names; otherwise look at it from elsewhere"),
                );
                // It is one server.
                break;
            }
        };
        match read(name, &response) {
            Document::Absent => drop(says.insert(name.to_owned(), json!({"status": response.status}))),
            Document::Broken(why) => found.push(broken(&url, &why)),
            Document::Says(value) => {
                match name {
                    "server" => delegation.server = value["m.server"].as_str().map(str::to_owned),
                    "client" => delegation.client = value["m.homeserver"]["base_url"].as_str().map(str::to_owned),
                    _ => {}
                }
                found.extend(readable(name, &response).map(|why| broken(&url, &why)));
                let by = who(response.server.as_deref(), served && name == "server");
                shown.push(format!("{name} by {by}"));
                says.insert(name.to_owned(), json!({"served_by": by, "says": value}));
            }
        }
    }
    if !says.is_empty() {
        let message = match shown.as_slice() {
            [] => format!("https://{server_name} serves no .well-known/matrix"),
            some => format!("https://{server_name} serves .well-known/matrix: {}", some.join(", ")),
        };
        found.push(
            info("well-known", message)
                .hint("on the day: m.server and base_url name ESS's host (wellKnownDelegation serves them); where they are served elsewhere, add org.matrix.msc4143.rtc_foci by hand")
                .with("documents", says),
        );
    }
    (found, delegation)
}

/// Whose work the document is: Synapse's moves with it, another's stays and must be edited there.
fn who(server: Option<&str>, ours: bool) -> String {
    let server = server.unwrap_or("a server without a name");
    match server {
        _ if server.starts_with("Synapse") => "Synapse itself".to_owned(),
        _ if ours => format!("Synapse itself, behind {server}"),
        _ => server.to_owned(),
    }
}

fn broken(url: &str, why: &str) -> Finding {
    warning("well-known-broken", format!("{url} is not as it should be: {why}"))
        .hint("let ESS serve it (wellKnownDelegation), or correct it where it is")
}

fn read(name: &str, response: &Response) -> Document {
    match response.status {
        404 | 410 => return Document::Absent,
        200 => {}
        status => return Document::Broken(format!("it answers {status}")),
    }
    let Ok(value) = serde_json::from_str::<Value>(&response.body) else {
        return Document::Broken("it is no JSON".to_owned());
    };
    let needed = match name {
        "server" => Some(("m.server", value["m.server"].is_string())),
        "client" => Some(("m.homeserver.base_url", value["m.homeserver"]["base_url"].is_string())),
        _ => None,
    };
    match needed {
        Some((field, false)) => Document::Broken(format!("it lacks {field}")),
        _ => Document::Says(value),
    }
}

/// Browsers read it only when it lets them; servers do not ask.
fn readable(name: &str, response: &Response) -> Option<String> {
    if name == "server" {
        return None;
    }
    if response.origin.as_deref() != Some("*") {
        return Some("browsers may not read it, because it lacks Access-Control-Allow-Origin: *".to_owned());
    }
    let kind = response.content_type.split(';').next().unwrap_or_default().trim();
    (kind != "application/json").then(|| format!("its content type is {kind:?}, not application/json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: u16, body: &str) -> Response {
        Response {
            status,
            content_type: "application/json; charset=utf-8".to_owned(),
            origin: Some("*".to_owned()),
            server: None,
            body: body.to_owned(),
        }
    }

    #[test]
    fn who_serves_is_told() {
        assert_eq!(who(Some("nginx"), false), "nginx");
        assert_eq!(who(Some("nginx"), true), "Synapse itself, behind nginx");
        assert_eq!(who(Some("Synapse/1.157.1"), false), "Synapse itself");
        assert_eq!(who(None, false), "a server without a name");
    }

    #[test]
    fn a_document_is_read_as_clients_and_servers_do() {
        let of = |name: &str, status, body: &str| match read(name, &response(status, body)) {
            Document::Absent => "absent".to_owned(),
            Document::Says(_) => "says".to_owned(),
            Document::Broken(why) => why,
        };
        assert_eq!(of("server", 404, ""), "absent");
        assert_eq!(of("server", 503, ""), "it answers 503");
        assert_eq!(of("server", 200, "<html>"), "it is no JSON");
        assert_eq!(of("server", 200, "{}"), "it lacks m.server");
        assert_eq!(of("server", 200, r#"{"m.server": "a:443"}"#), "says");
        assert_eq!(
            of("client", 200, r#"{"m.homeserver": {}}"#),
            "it lacks m.homeserver.base_url"
        );
        assert_eq!(of("support", 200, "{}"), "says");

        let mut of_browser = response(200, "{}");
        assert_eq!(readable("client", &of_browser), None);
        of_browser.content_type = "text/plain".to_owned();
        assert!(readable("client", &of_browser).is_some_and(|why| why.contains("text/plain")));
        of_browser.origin = None;
        assert!(readable("client", &of_browser).is_some_and(|why| why.contains("Allow-Origin")));
        assert_eq!(readable("server", &of_browser), None);
    }
}
