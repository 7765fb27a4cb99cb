//! Whether the new state is publicly visible: zones, resolvers, documents, and the server that they lead to.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use ess_document::SigningKey;
use ess_web::{Agent, Dns, NetError, RecordType, Served, get, read, readable};
use serde_json::Value;

use crate::documents::{Documents, lacks};

/// The state that is expected.
pub(crate) struct Check<'a> {
    /// The server name without a port: where the documents are served.
    pub(crate) server: &'a str,
    pub(crate) documents: &'a Documents,
    /// Hosts in ESS; the first is Synapse's.
    pub(crate) hosts: &'a [String],
    /// The addresses to which all of `hosts` must resolve: those of ESS's ingress.
    pub(crate) addresses: &'a [IpAddr],
    /// The signing keys that the server must publish; empty if the migration document does not contain them.
    pub(crate) signing_keys: &'a [SigningKey],
    /// The resolver that finds the zones' authoritative servers; the system's if `None`.
    pub(crate) resolver: Option<SocketAddr>,
    /// Public resolvers, which are checked in addition.
    pub(crate) public: &'a [SocketAddr],
    pub(crate) agent: &'a Agent,
}

impl Check<'_> {
    /// Runs every check, and returns a sentence for each thing that is not up to date.
    pub(crate) fn lagging(&self) -> Vec<String> {
        let mut lagging = Vec::new();
        for host in self.hosts {
            lagging.extend(self.zone(host));
            lagging.extend(self.public.iter().filter_map(|resolver| self.cache(*resolver, host)));
        }
        for (name, wanted) in self.documents {
            lagging.extend(self.document(name, wanted));
        }
        if let Some(host) = self.hosts.first() {
            lagging.extend(self.homeserver(host));
        }
        lagging
    }

    fn zone(&self, host: &str) -> Vec<String> {
        let look = || -> Result<Vec<String>, NetError> {
            let each = Dns::new(self.resolver)?.records_at_each(host, &[RecordType::A, RecordType::AAAA])?;
            let lags = each.into_iter().filter_map(|(server, records)| {
                let found: Vec<IpAddr> = records.iter().filter_map(|record| record.value.parse().ok()).collect();
                let other = self.differ(&found)?;
                Some(format!("the zone's name server {server} resolves {host} to {other}"))
            });
            Ok(lags.collect())
        };
        look().unwrap_or_else(|error| vec![format!("the zone of {host} cannot be queried: {error}")])
    }

    fn cache(&self, resolver: SocketAddr, host: &str) -> Option<String> {
        let found = Dns::new(Some(resolver)).and_then(|dns| dns.addresses(host));
        match found {
            Ok(found) => self
                .differ(&found)
                .map(|other| format!("the resolver {resolver} resolves {host} to {other}")),
            Err(error) => Some(format!("the resolver {resolver} cannot resolve {host}: {error}")),
        }
    }

    /// The addresses that were found, as text, if they are not exactly those of ESS.
    fn differ(&self, found: &[IpAddr]) -> Option<String> {
        let found: BTreeSet<&IpAddr> = found.iter().collect();
        let wanted: BTreeSet<&IpAddr> = self.addresses.iter().collect();
        (found != wanted).then(|| match found.len() {
            0 => "no address".to_owned(),
            _ => found.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
        })
    }

    fn document(&self, name: &str, wanted: &Value) -> Option<String> {
        let url = format!("https://{}/.well-known/matrix/{name}", self.server);
        let response = match get(self.agent, &url) {
            Ok(response) => response,
            Err(error) => return Some(format!("{url} cannot be fetched: {error}")),
        };
        let why = match read(name, &response) {
            Served::Absent => Some("is not served".to_owned()),
            Served::Broken(why) => Some(format!("is invalid: {why}")),
            Served::Valid(value) => lacks(&value, wanted)
                .map(|why| format!("differs from the new document: {why}"))
                .or_else(|| readable(name, &response).map(|why| format!("is not readable: {why}"))),
        };
        why.map(|why| format!("{url} {why}"))
    }

    /// Checks that a server answers at `host`, and that it is the migrated one by its signing keys.
    fn homeserver(&self, host: &str) -> Option<String> {
        let url = format!("https://{host}/_matrix/client/versions");
        match get(self.agent, &url) {
            Ok(response) if response.status == 200 => {}
            Ok(response) => return Some(format!("{url} returns HTTP status {}", response.status)),
            Err(error) => return Some(format!("{url} cannot be fetched: {error}")),
        }
        if self.signing_keys.is_empty() {
            return None;
        }
        let url = format!("https://{host}/_matrix/key/v2/server");
        let response = match get(self.agent, &url) {
            Ok(response) => response,
            Err(error) => return Some(format!("{url} cannot be fetched: {error}")),
        };
        let published: Value = serde_json::from_str(&response.body).unwrap_or_default();
        let lacks = self
            .signing_keys
            .iter()
            .find(|key| published["verify_keys"][&key.id]["key"] != key.public_key.as_str());
        lacks.map(|key| {
            format!(
                "{url} does not publish the key {} {}: it is not the migrated homeserver",
                key.id, key.public_key
            )
        })
    }
}
