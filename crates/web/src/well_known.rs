//! `.well-known/matrix/*`, read as clients and other servers read it.

use serde_json::Value;

use crate::https::Response;

/// What was found at the URL of a document.
pub enum Served {
    /// Nothing is served there: status 404 or 410.
    Absent,
    /// The content of a valid document.
    Valid(Value),
    /// Something is served, but it is not a valid document; with the reason.
    Broken(String),
}

/// Reads the response to a request for the document `name`: `server`, `client` or `support`.
pub fn read(name: &str, response: &Response) -> Served {
    match response.status {
        404 | 410 => return Served::Absent,
        200 => {}
        status => return Served::Broken(format!("the server returns HTTP status {status}")),
    }
    let Ok(value) = serde_json::from_str::<Value>(&response.body) else {
        return Served::Broken("it is not JSON".to_owned());
    };
    let needed = match name {
        "server" => Some(("m.server", value["m.server"].is_string())),
        "client" => Some(("m.homeserver.base_url", value["m.homeserver"]["base_url"].is_string())),
        _ => None,
    };
    match needed {
        Some((field, false)) => Served::Broken(format!("it lacks {field}")),
        _ => Served::Valid(value),
    }
}

/// Why a client in a browser cannot read the document, if it cannot. Other servers read `server` without these headers.
pub fn readable(name: &str, response: &Response) -> Option<String> {
    if name == "server" {
        return None;
    }
    if response.origin.as_deref() != Some("*") {
        return Some("browsers cannot read it because the header Access-Control-Allow-Origin: * is missing".to_owned());
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
    fn a_document_is_read_as_clients_and_servers_do() {
        let of = |name: &str, status, body: &str| match read(name, &response(status, body)) {
            Served::Absent => "absent".to_owned(),
            Served::Valid(_) => "valid".to_owned(),
            Served::Broken(why) => why,
        };
        assert_eq!(of("server", 404, ""), "absent");
        assert_eq!(of("server", 503, ""), "the server returns HTTP status 503");
        assert_eq!(of("server", 200, "<html>"), "it is not JSON");
        assert_eq!(of("server", 200, "{}"), "it lacks m.server");
        assert_eq!(of("server", 200, r#"{"m.server": "a:443"}"#), "valid");
        assert_eq!(
            of("client", 200, r#"{"m.homeserver": {}}"#),
            "it lacks m.homeserver.base_url"
        );
        assert_eq!(of("support", 200, "{}"), "valid");

        let mut of_browser = response(200, "{}");
        assert_eq!(readable("client", &of_browser), None);
        of_browser.content_type = "text/plain".to_owned();
        assert!(readable("client", &of_browser).is_some_and(|why| why.contains("text/plain")));
        of_browser.origin = None;
        assert!(readable("client", &of_browser).is_some_and(|why| why.contains("Allow-Origin")));
        assert_eq!(readable("server", &of_browser), None);
    }
}
