//! The target's Synapse itself, if `--target-endpoint` gives its URL.

use std::net::SocketAddr;

use ess_document::Finding;
use ess_web::Detour;
use serde_json::Value;

use super::health;
use super::versions::SynapseVersion;
use crate::finding::{Detail, blocker, info};
use crate::ids::{NOT_CHECKED, TARGET_SERVER_NAME, TARGET_SYNAPSE};

/// Paths that return the version, and the JSON pointer to it. Reverse proxies often block the first path.
const VERSIONS: [(&str, &str); 2] = [
    ("/_synapse/admin/v1/server_version", "/server_version"),
    ("/_matrix/federation/v1/version", "/server/version"),
];

/// A URL, such as `http://127.0.0.1:8008` of a port-forward, and how its host name is resolved.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    pub(crate) url: String,
    pub(crate) resolver: Option<SocketAddr>,
    pub(crate) detours: Vec<Detour>,
}

/// What the target's Synapse reports about itself.
#[derive(Debug, Clone)]
pub(crate) struct Reported {
    pub(crate) version: Option<String>,
    pub(crate) server_name: Option<String>,
    /// Why there is no version.
    failed: Option<String>,
}

impl Reported {
    /// The schema that this version has.
    pub(crate) fn schema(&self) -> Option<SynapseVersion> {
        SynapseVersion::parse(self.version.as_deref()?).ok()
    }
}

/// Parses the argument of `--target-endpoint`.
pub(crate) fn parse(url: &str) -> Result<String, String> {
    match url.split_once("://") {
        Some(("http" | "https", host)) if !host.is_empty() => Ok(url.trim_end_matches('/').to_owned()),
        _ => Err("not a URL such as http://127.0.0.1:8008".to_owned()),
    }
}

/// Queries the version and the server name.
pub(crate) fn query(endpoint: &Endpoint) -> Reported {
    let agent = if endpoint.url.starts_with("https://") {
        ess_web::agent(endpoint.detours.clone(), endpoint.resolver)
    } else {
        health::agent()
    };
    let mut failed = None;
    let mut get = |path: &str| -> Option<Value> {
        match ess_web::get(&agent, &format!("{}{path}", endpoint.url)) {
            Ok(answer) if answer.status == 200 => serde_json::from_str(&answer.body).ok(),
            Ok(answer) => {
                failed.get_or_insert_with(|| format!("it returns HTTP status {}", answer.status));
                None
            }
            Err(error) => {
                failed.get_or_insert_with(|| error.to_string());
                None
            }
        }
    };
    let keys = get("/_matrix/key/v2/server");
    let text = |value: &Value, at: &str| Some(value.pointer(at)?.as_str()?.to_owned());
    let mut version = None;
    for (path, at) in VERSIONS {
        // If the server did not return its keys, try only the path of the federation API: it may not respond at all.
        if version.is_none() && (keys.is_some() || path == VERSIONS[1].0) {
            version = get(path).and_then(|answer| text(&answer, at));
        }
    }
    Reported {
        server_name: keys.and_then(|keys| text(&keys, "/server_name")),
        failed: failed.filter(|_| version.is_none()),
        version,
    }
}

/// Compares the server name with `own_name`, that of the homeserver being migrated, if known.
pub(crate) fn check(url: &str, reported: &Reported, own_name: Option<&str>) -> Vec<Finding> {
    let Some(version) = &reported.version else {
        let why = reported.failed.as_deref().unwrap_or("it does not report its version");
        return vec![
            blocker(
                &NOT_CHECKED,
                format!("not checked: the target's Synapse at {url}: {why}"),
            )
            .hint("check --target-endpoint; kubectl port-forward connects to a pod of ESS"),
        ];
    };
    let serves = reported
        .server_name
        .as_ref()
        .map_or_else(String::new, |name| format!(" and serves {name}"));
    let mut found = vec![
        info(&TARGET_SYNAPSE, format!("the target's Synapse is {version}{serves}"))
            .with("version", version.as_str())
            .with("server_name", reported.server_name.as_deref()),
    ];
    if let (Some(other_name), Some(own_name)) = (&reported.server_name, own_name)
        && other_name != own_name
    {
        found.push(
            blocker(
                &TARGET_SERVER_NAME,
                format!(
                    "the target's Synapse at {url} serves {other_name}, but the homeserver being migrated is {own_name}"
                ),
            )
            .hint("check --target-endpoint, or install ESS with the old server name"),
        );
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_url_and_its_answer_is_judged() {
        assert_eq!(parse("http://127.0.0.1:8008/").as_deref(), Ok("http://127.0.0.1:8008"));
        assert!(parse("127.0.0.1:8008").is_err() && parse("ftp://a").is_err() && parse("https://").is_err());
        let ids = |version: Option<&str>, name: &str| -> Vec<String> {
            let reported = Reported {
                version: version.map(str::to_owned),
                server_name: Some(name.to_owned()),
                failed: None,
            };
            let found = check("http://x", &reported, Some("example.org"));
            found.into_iter().map(|found| found.id).collect()
        };
        assert_eq!(ids(Some("1.157.1"), "example.org"), ["target-synapse"]);
        assert_eq!(
            ids(Some("1.157.1"), "other.org"),
            ["target-synapse", "target-server-name"]
        );
        assert_eq!(ids(None, "example.org"), ["not-checked"]);
    }
}
