//! The public names of the homeserver: where they lead, and for how long resolvers cache them.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ess_document::Finding;
use ess_run::text::count;
use ess_synapse::{Config, yaml};
use ess_web::{Answer, Detour, Dns, NetError, RecordType, agent, host_and_port, host_of_url};
use serde_json::{Value, json};

use super::well_known::{self, Delegation};
use crate::finding::{Detail, info, some_of, warning};
use crate::ids::{DELEGATION, DNS, DNS_NO_ADDRESS, DNS_NOT_CHECKED, DNS_TTL};

/// The configuration that contains the names, and how they are looked up.
pub(crate) struct Names {
    pub(crate) config: Arc<Config>,
    pub(crate) resolver: Option<SocketAddr>,
    pub(crate) detours: Vec<Detour>,
    /// Longest accepted TTL of a record, in seconds.
    pub(crate) max_ttl: u32,
}

/// Whether an id is that of a finding of these checks.
pub(crate) fn finds(id: &str) -> bool {
    id == "delegation" || id.starts_with("dns") || id.starts_with("well-known")
}

/// Checks the `.well-known` documents first, because they name further hosts, and then the DNS records.
pub(crate) fn check(names: Names) -> Vec<Finding> {
    let server_name = names.config.server_name();
    let (host, port) = host_and_port(server_name);
    if host == "localhost" || is_address(host) {
        return vec![info(&DNS, format!("the server name {server_name} is not in the DNS"))];
    }
    let agent = agent(names.detours, names.resolver);
    let served = names.config.get("serve_server_wellknown");
    let (mut found, delegation) = well_known::check(&agent, host, served.is_some_and(yaml::Value::is_true));
    let base = names.config.get("public_baseurl").and_then(|value| value.as_str());
    let looked = Dns::new(names.resolver).and_then(|dns| records(&dns, host, &delegation, base));
    match looked {
        Ok(looked) => {
            found.push(delegated(host, port, &delegation, &looked.records));
            found.extend(judge(&looked, names.max_ttl));
        }
        Err(error) => found.push(
            warning(&DNS_NOT_CHECKED, format!("the DNS could not be queried: {error}"))
                .hint("run preflight where name servers can be reached, or name one with --resolver ADDR"),
        ),
    }
    found
}

fn is_address(host: &str) -> bool {
    host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
}

/// Services whose SRV records lead to a homeserver; `_matrix` is deprecated, so it comes second.
const SERVICES: [&str; 2] = ["_matrix-fed._tcp", "_matrix._tcp"];

/// What was found in the DNS.
struct Looked {
    records: Vec<Answer>,
    /// Hosts that should have an address.
    without_address: Vec<String>,
}

fn records(dns: &Dns, host: &str, delegation: &Delegation, base: Option<&str>) -> Result<Looked, NetError> {
    let mut looked = Looked {
        records: Vec::new(),
        without_address: Vec::new(),
    };
    let mut hosts: BTreeSet<String> = [delegation.server.as_deref().map(|server| host_and_port(server).0)]
        .into_iter()
        .chain([delegation.client.as_deref(), base].map(|url| url.and_then(host_of_url)))
        .flatten()
        .map(str::to_owned)
        .collect();
    // A delegated name without a port can have SRV records of its own.
    let delegated = delegation.server.as_deref().map(host_and_port);
    let delegated = delegated.filter(|(name, port)| port.is_none() && *name != host && !is_address(name));
    let served = [Some(host), delegated.map(|(name, _)| name)].into_iter().flatten();
    for (service, of) in served.flat_map(|of| SERVICES.map(|service| (service, of))) {
        let answers = dns.records(&format!("{service}.{of}"), &[RecordType::SRV])?;
        hosts.extend(
            answers
                .iter()
                .filter(|answer| answer.kind == "SRV")
                .filter_map(|answer| answer.target.clone()),
        );
        looked.records.extend(answers);
    }
    hosts.retain(|name| name != host && !is_address(name));
    // The server name itself needs no address if it is delegated to other hosts.
    let own = dns.records(host, &[RecordType::A, RecordType::AAAA])?;
    if own.is_empty() && hosts.is_empty() {
        looked.without_address.push(host.to_owned());
    }
    looked.records.extend(own);
    for name in hosts {
        let answers = dns.records(&name, &[RecordType::A, RecordType::AAAA])?;
        if !answers.iter().any(|answer| matches!(answer.kind, "A" | "AAAA")) {
            looked.without_address.push(name);
        }
        looked.records.extend(answers);
    }
    Ok(looked)
}

fn judge(looked: &Looked, max_ttl: u32) -> Vec<Finding> {
    let data: Vec<Value> = looked
        .records
        .iter()
        .map(|record| json!({"name": record.name, "type": record.kind, "ttl": record.ttl, "value": record.value}))
        .collect();
    let mut found = Vec::new();
    let own = || looked.records.iter().filter(|record| !record.foreign);
    let long: Vec<&Answer> = own().filter(|record| record.ttl > max_ttl).collect();
    if let Some(longest) = long.iter().map(|record| record.ttl).max() {
        let shown: Vec<String> = long
            .iter()
            .map(|record| format!("{} {} for {} s", record.name, record.kind, record.ttl))
            .collect();
        found.push(
            warning(
                &DNS_TTL,
                format!(
                    "resolvers cache DNS records of the homeserver for longer than {max_ttl} s: {}",
                    some_of(&shown)
                ),
            )
            .hint(format!(
                "set the TTL of these records to {max_ttl} s or less now, then wait {}: until then, caches contain \
                 the old one",
                hours(longest)
            ))
            .with("records", data.as_slice())
            .with("wait_seconds", longest),
        );
    } else {
        let longest = own().map(|record| record.ttl).max().unwrap_or(0);
        found.push(
            info(
                &DNS,
                format!(
                    "resolvers cache {} of the homeserver for at most {longest} s",
                    count(data.len(), "DNS record")
                ),
            )
            .with("records", data),
        );
    }
    if !looked.without_address.is_empty() {
        found.push(
            warning(
                &DNS_NO_ADDRESS,
                format!(
                    "names that should lead to the homeserver have no address: {}",
                    some_of(&looked.without_address)
                ),
            )
            .hint("correct public_baseurl, .well-known or SRV records, or add the address")
            .with("names", looked.without_address.as_slice()),
        );
    }
    found
}

/// Finds the address by the rules for resolving server names in the Matrix server-server API; the first match wins.
fn delegated(host: &str, port: Option<u16>, delegation: &Delegation, records: &[Answer]) -> Finding {
    let srv = |of: &str| {
        SERVICES.iter().find_map(|service| {
            let wanted = format!("{service}.{of}");
            let is = |record: &&Answer| record.kind == "SRV" && record.name.eq_ignore_ascii_case(&wanted);
            let found = records.iter().find(is)?;
            Some((found.value.clone(), format!("the SRV record of {wanted}")))
        })
    };
    let (to, by) = if let Some(port) = port {
        (format!("{host}:{port}"), "the port in the server name".to_owned())
    } else if let Some(server) = &delegation.server {
        match host_and_port(server) {
            (_, Some(_)) => (server.clone(), ".well-known".to_owned()),
            (delegated, None) => match srv(delegated) {
                Some((to, by)) => (to, format!(".well-known and {by}")),
                None => (format!("{server}:8448"), ".well-known and the default port".to_owned()),
            },
        }
    } else {
        srv(host).unwrap_or_else(|| (format!("{host}:8448"), "the default port".to_owned()))
    };
    let found = info(
        &DELEGATION,
        format!("other servers reach the homeserver at {to} ({by})"),
    )
    .with("server", to.as_str())
    .with("by", by.as_str());
    if to.ends_with(":443") {
        found
    } else {
        found.hint(
            "ESS listens on port 443 only: on the day of the migration, let .well-known/matrix/server name HOST:443",
        )
    }
}

/// A duration, rounded up to minutes or hours.
fn hours(seconds: u32) -> String {
    match seconds {
        0..7_200 => count(seconds.div_ceil(60), "minute"),
        _ => format!("{} hours", seconds.div_ceil(3_600)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str, kind: &'static str, ttl: u32, value: &str) -> Answer {
        Answer {
            name: name.to_owned(),
            kind,
            ttl,
            value: value.to_owned(),
            target: None,
            foreign: false,
        }
    }

    fn shown(found: &[Finding]) -> Vec<&str> {
        found.iter().map(|found| found.id.as_str()).collect()
    }

    #[test]
    fn a_long_memory_is_a_warning_with_the_time_to_wait() {
        let looked = |ttl, without_address: &[&str]| Looked {
            records: vec![
                record("example.org", "A", 60, "192.0.2.1"),
                record("example.org", "AAAA", ttl, "::1"),
            ],
            without_address: without_address.iter().map(|&name| name.to_owned()).collect(),
        };
        assert_eq!(shown(&judge(&looked(300, &[]), 300)), ["dns"]);
        let mut behind_an_alias = looked(86_400, &[]);
        behind_an_alias.records[1].foreign = true;
        assert_eq!(shown(&judge(&behind_an_alias, 300)), ["dns"]);
        let found = judge(&looked(86_400, &["matrix.example.org"]), 300);
        assert_eq!(shown(&found), ["dns-ttl", "dns-no-address"]);
        assert!(
            found[0].message.ends_with("example.org AAAA for 86400 s"),
            "{}",
            found[0].message
        );
        assert!(
            found[0]
                .hint
                .as_deref()
                .is_some_and(|hint| hint.contains("wait 24 hours"))
        );
    }

    #[test]
    fn delegation_follows_the_specification() {
        let to = |port, server: Option<&str>, records: &[Answer]| {
            let delegation = Delegation {
                server: server.map(str::to_owned),
                client: None,
            };
            let found = delegated("example.org", port, &delegation, records);
            found.data["server"]
                .as_str()
                .map(str::to_owned)
                .expect("it leads somewhere")
        };
        let srv = [
            record("_matrix._tcp.example.org", "SRV", 60, "old.example.org:8448"),
            record("_matrix-fed._tcp.example.org", "SRV", 60, "fed.example.org:443"),
        ];
        assert_eq!(to(Some(8080), Some("a:1"), &srv), "example.org:8080");
        assert_eq!(to(None, Some("matrix.example.org:443"), &srv), "matrix.example.org:443");
        assert_eq!(to(None, None, &srv), "fed.example.org:443");
        assert_eq!(to(None, None, &srv[..1]), "old.example.org:8448");
        assert_eq!(to(None, None, &[]), "example.org:8448");
        let further = [record(
            "_matrix-fed._tcp.m.example.org",
            "SRV",
            60,
            "fed.example.org:443",
        )];
        assert_eq!(to(None, Some("m.example.org"), &further), "fed.example.org:443");
        assert_eq!(to(None, Some("m.example.org:8448"), &further), "m.example.org:8448");
        assert_eq!(to(None, Some("m.example.org"), &srv), "m.example.org:8448");
        assert_eq!(to(None, Some("[::1]"), &srv), "[::1]:8448");
    }

    #[test]
    fn a_duration_is_written_for_people() {
        assert_eq!(hours(300), "5 minutes");
        assert_eq!(hours(86_400), "24 hours");
    }
}
