//! Does the world see it? Zones, resolvers, documents, and the server behind them.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use ess_document::SigningKey;
use ess_web::{Agent, Dns, Document, NetError, RecordType, get, read, readable};
use serde_json::Value;

use crate::documents::{Documents, lacks};

/// What is to be seen.
pub(crate) struct Check<'a> {
    /// The server name without a port: where the documents are served.
    pub(crate) server: &'a str,
    pub(crate) documents: &'a Documents,
    /// Hosts in ESS; the first is Synapse's.
    pub(crate) hosts: &'a [String],
    /// Where those lead.
    pub(crate) addresses: &'a [IpAddr],
    /// What the server publishes, when a document says it.
    pub(crate) signing_keys: &'a [SigningKey],
    /// Finds the zones' own servers.
    pub(crate) resolver: Option<SocketAddr>,
    /// Asked besides: those of the world.
    pub(crate) public: &'a [SocketAddr],
    pub(crate) agent: &'a Agent,
}

impl Check<'_> {
    /// Everything that is not yet as it should be, a sentence each.
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
                let says = self.differ(&found)?;
                Some(format!("{server}, which serves the zone, says of {host} {says}"))
            });
            Ok(lags.collect())
        };
        look().unwrap_or_else(|error| vec![format!("the zone of {host} cannot be asked: {error}")])
    }

    fn cache(&self, resolver: SocketAddr, host: &str) -> Option<String> {
        let found = Dns::new(Some(resolver)).and_then(|dns| dns.addresses(host));
        match found {
            Ok(found) => self
                .differ(&found)
                .map(|says| format!("the resolver {resolver} finds {host} at {says}")),
            Err(error) => Some(format!("the resolver {resolver} does not find {host}: {error}")),
        }
    }

    /// How addresses differ from those of ESS.
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
            Document::Absent => Some("is not there".to_owned()),
            Document::Broken(why) => Some(format!("is not as it should be: {why}")),
            Document::Says(value) => lacks(&value, wanted)
                .map(|why| format!("says something else: {why}"))
                .or_else(|| readable(name, &response).map(|why| format!("is not as it should be: {why}"))),
        };
        why.map(|why| format!("{url} {why}"))
    }

    /// A server answers there, and it is the one that moved.
    fn homeserver(&self, host: &str) -> Option<String> {
        let url = format!("https://{host}/_matrix/client/versions");
        match get(self.agent, &url) {
            Ok(response) if response.status == 200 => {}
            Ok(response) => return Some(format!("{url} answers {}", response.status)),
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
        let says: Value = serde_json::from_str(&response.body).unwrap_or_default();
        let lacks = self
            .signing_keys
            .iter()
            .find(|key| says["verify_keys"][&key.id]["key"] != key.public_key.as_str());
        lacks.map(|key| {
            format!(
                "{url} does not publish the key {} {}: it is not the homeserver that moved",
                key.id, key.public_key
            )
        })
    }
}
