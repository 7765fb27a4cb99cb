//! The DNS records that change, with what they say now and what they have to say.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ess_document::RecordChange;
use ess_web::{Answer, Dns, NetError, RecordType};

/// Where the names are to lead.
pub(crate) struct Wanted<'a> {
    /// The homeserver's name, without a port.
    pub(crate) server: &'a str,
    /// Synapse's host in ESS, and those of the other parts.
    pub(crate) hosts: BTreeSet<String>,
    /// Hosts that clients or servers have noted.
    pub(crate) noted: BTreeSet<String>,
    /// Of ESS's ingress; empty when nobody said it.
    pub(crate) addresses: &'a [IpAddr],
    /// Synapse's host in ESS.
    pub(crate) to: &'a str,
}

impl Wanted<'_> {
    /// Every record that changes, or may have to.
    pub(crate) fn changes(&self, dns: &Dns) -> Result<Vec<RecordChange>, NetError> {
        let mut changes = Vec::new();
        for host in &self.hosts {
            changes.extend(self.addresses_of(dns, host, "ESS is there")?);
        }
        let noted = "clients and servers that have noted this name go on using it: let it lead to ESS too, \
                     with an ingress for it";
        for host in self.noted.difference(&self.hosts).filter(|host| *host != self.server) {
            changes.extend(self.addresses_of(dns, host, noted)?);
        }
        if !self.hosts.contains(self.server) {
            let own = "only if ESS is to serve the well-known documents itself; where they are served elsewhere, \
                       leave it";
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
                    reason: "asked where .well-known/matrix/server is not served; remove it, or let it say the same"
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
        // An alias stands alone: it goes, or what it leads to changes.
        let alias = values(&now, "CNAME");
        let mut changes = Vec::new();
        if let Some(first) = now.iter().find(|record| record.kind == "CNAME") {
            let reached: BTreeSet<IpAddr> = now.iter().filter_map(|record| record.value.parse().ok()).collect();
            if self.addresses.is_empty() || reached != self.addresses.iter().copied().collect() {
                let mut change = change("CNAME", alias, Vec::new());
                change.name.clone_from(&first.name);
                change.new = self.addresses.iter().map(ToString::to_string).collect();
                change.reason = format!("{reason}; or let it be an alias of another name that leads there");
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

/// What records of a kind say, in order.
fn values(records: &[Answer], kind: &str) -> Vec<String> {
    let of_kind = records.iter().filter(|record| record.kind == kind);
    let mut values: Vec<String> = of_kind.map(|record| record.value.clone()).collect();
    values.sort_unstable();
    values
}

/// One line a change, for people.
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
