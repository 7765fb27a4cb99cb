//! The DNS records that change, with their current values and their new ones.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ess_document::RecordChange;
use ess_web::{Answer, Dns, NetError, RecordType};

/// The names of the homeserver, and where they have to lead.
pub(crate) struct Wanted<'a> {
    /// The homeserver's name, without a port.
    pub(crate) server: &'a str,
    /// The hosts of Synapse and of other components in ESS.
    pub(crate) hosts: BTreeSet<String>,
    /// Hosts that the old documents name, so that clients or servers may have cached them.
    pub(crate) noted: BTreeSet<String>,
    /// The addresses of ESS's ingress; empty if none was given.
    pub(crate) addresses: &'a [IpAddr],
    /// Synapse's host in ESS.
    pub(crate) to: &'a str,
}

impl Wanted<'_> {
    /// Every record that changes, or may have to change.
    pub(crate) fn changes(&self, dns: &Dns) -> Result<Vec<RecordChange>, NetError> {
        let mut changes = Vec::new();
        for host in &self.hosts {
            changes.extend(self.addresses_of(dns, host, "this host is in ESS")?);
        }
        let noted = "clients and servers that have cached this name continue to use it: let it lead to ESS too, \
                     with an ingress for it";
        for host in self.noted.difference(&self.hosts).filter(|host| *host != self.server) {
            changes.extend(self.addresses_of(dns, host, noted)?);
        }
        if !self.hosts.contains(self.server) {
            let own = "change this only if ESS is to serve the well-known documents itself; leave it if another server \
                       serves them";
            changes.extend(self.addresses_of(dns, self.server, own)?);
        }
        for service in ["_matrix-fed._tcp", "_matrix._tcp"] {
            let name = format!("{service}.{}", self.server);
            let now = dns.records(&name, &[RecordType::SRV])?;
            let new = format!("{}:443", self.to);
            let old = values(&now, "SRV");
            if !old.is_empty() && old != [new.clone()] {
                changes.push(RecordChange {
                    name,
                    kind: "SRV".to_owned(),
                    ttl: now.iter().map(|record| record.ttl).max(),
                    old,
                    new: vec![new],
                    reason: "used by servers that find no .well-known/matrix/server; remove it, or set the new value"
                        .to_owned(),
                });
            }
        }
        Ok(changes)
    }

    fn addresses_of(&self, dns: &Dns, host: &str, reason: &str) -> Result<Vec<RecordChange>, NetError> {
        if host.parse::<IpAddr>().is_ok() {
            return Ok(Vec::new());
        }
        let now = dns.records(host, &[RecordType::A, RecordType::AAAA])?;
        let ttl = now.iter().map(|record| record.ttl).max();
        let change = |kind: &str, old, new| RecordChange {
            name: host.to_owned(),
            kind: kind.to_owned(),
            ttl,
            old,
            new,
            reason: reason.to_owned(),
        };
        // A name with a CNAME record has no other records: either addresses replace the alias, or it has to point to
        // another name.
        let alias = values(&now, "CNAME");
        let mut changes = Vec::new();
        if let Some(first) = now.iter().find(|record| record.kind == "CNAME") {
            let reached: BTreeSet<IpAddr> = now.iter().filter_map(|record| record.value.parse().ok()).collect();
            if self.addresses.is_empty() || reached != self.addresses.iter().copied().collect() {
                let mut change = change("CNAME", alias, Vec::new());
                change.name.clone_from(&first.name);
                change.new = self.addresses.iter().map(ToString::to_string).collect();
                change.reason = format!("{reason}; or make it an alias of another name that leads there");
                changes.push(change);
            }
            return Ok(changes);
        }
        for (kind, is_of) in [
            ("A", IpAddr::is_ipv4 as fn(&IpAddr) -> bool),
            ("AAAA", IpAddr::is_ipv6 as fn(&IpAddr) -> bool),
        ] {
            let old = values(&now, kind);
            let mut new: Vec<String> = self
                .addresses
                .iter()
                .filter(|address| is_of(address))
                .map(ToString::to_string)
                .collect();
            new.sort_unstable();
            let is_unknown = self.addresses.is_empty() && (kind == "A" || !old.is_empty());
            if is_unknown || (!self.addresses.is_empty() && old != new) {
                changes.push(change(kind, old, new));
            }
        }
        Ok(changes)
    }
}

/// The sorted values of the records of a kind.
fn values(records: &[Answer], kind: &str) -> Vec<String> {
    let of_kind = records.iter().filter(|record| record.kind == kind);
    let mut values: Vec<String> = of_kind.map(|record| record.value.clone()).collect();
    values.sort_unstable();
    values
}

/// A change as one line for people.
pub(crate) fn shown(change: &RecordChange) -> String {
    let list = |values: &[String], none: &str| {
        if values.is_empty() {
            none.to_owned()
        } else {
            values.join(" ")
        }
    };
    let ttl = change.ttl.map_or_else(String::new, |ttl| format!(" (TTL {ttl} s)"));
    let new = match (change.kind.as_str(), change.old.is_empty()) {
        ("AAAA", false) if change.new.is_empty() => "(none)",
        _ => "(the address of ESS's ingress)",
    };
    format!(
        "{} {}: {}{ttl} -> {}: {}",
        change.name,
        change.kind,
        list(&change.old, "(none)"),
        list(&change.new, new),
        change.reason
    )
}
