//! Queries to name servers, one at a time, each with a timeout.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};
use hickory_resolver::{TokioResolver, system_conf};
use tokio::runtime::{Builder, Runtime};

/// Time limit of one query, over UDP and TCP together; a server that works answers sooner.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Maximum number of CNAME records that are followed for one name.
const ALIASES: usize = 8;

/// One record, with the value and TTL that its zone publishes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The owner name of the record, without the final dot.
    pub name: String,
    /// `A`, `AAAA`, `CNAME`, `NS` or `SRV`.
    pub kind: &'static str,
    /// Time to live, in seconds.
    pub ttl: u32,
    /// An address, a name, or `HOST:PORT`.
    pub value: String,
    /// The name that a CNAME or SRV record points to.
    pub target: Option<String>,
    /// Whether the record is in another zone, reached by an alias. On the day of the move the alias changes, not this
    /// record, which belongs to another party.
    pub foreign: bool,
}

/// A recursive resolver, and the authoritative servers of each zone that was queried.
pub struct Dns {
    runtime: Runtime,
    recursive: TokioResolver,
    port: u16,
    zones: RefCell<BTreeMap<String, Arc<Zone>>>,
}

/// A zone and its authoritative servers.
struct Zone {
    name: String,
    /// The names of all its authoritative servers.
    servers: Vec<String>,
    /// Queries some of them, and uses the first answer.
    resolver: TokioResolver,
}

/// Maximum number of servers of a zone whose addresses are looked up where an answer from any of them is enough.
const ENOUGH: usize = 3;

impl Dns {
    /// Uses the given recursive resolver, or the system's.
    pub fn new(resolver: Option<SocketAddr>) -> Result<Self, NetError> {
        let config = match resolver {
            Some(address) => config(&[address.ip()], address.port()),
            None => system_conf::read_system_conf()?.0,
        };
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(NetError::from)?;
        Ok(Self {
            runtime,
            recursive: build(config, true)?,
            port: resolver.map_or(53, |address| address.port()),
            zones: RefCell::default(),
        })
    }

    /// The records of these kinds from the zone's authoritative servers, and the aliases that lead to them.
    pub fn records(&self, name: &str, kinds: &[RecordType]) -> Result<Vec<Answer>, NetError> {
        self.follow(name, kinds, None)
    }

    /// The records that each authoritative server of the zone has, with the server's name: a secondary can be outdated.
    ///
    /// A server that does not answer is left out. An error if none answers.
    pub fn records_at_each(&self, name: &str, kinds: &[RecordType]) -> Result<Vec<(String, Vec<Answer>)>, NetError> {
        let zone = self.authority(name)?;
        let (mut all, mut failed) = (Vec::new(), None);
        for server in &zone.servers {
            let answers = self.addresses(server).and_then(|addresses| {
                let resolver = build(config(&addresses, self.port), false)?;
                self.follow(name, kinds, Some(&resolver))
            });
            match answers {
                Ok(answers) => all.push((server.clone(), answers)),
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            Some(error) if all.is_empty() => Err(error),
            _ => Ok(all),
        }
    }

    /// Follows aliases from `name`. `home` is queried in place of the servers of the name's own zone.
    fn follow(&self, name: &str, kinds: &[RecordType], home: Option<&TokioResolver>) -> Result<Vec<Answer>, NetError> {
        let (mut all, mut name) = (Vec::new(), name.to_owned());
        let own = self.authority(&name)?;
        for _ in 0..ALIASES {
            let zone = self.authority(&name)?;
            let foreign = zone.name != own.name;
            let servers = home.filter(|_| !foreign).unwrap_or(&zone.resolver);
            let alias = self.query(servers, &name, RecordType::CNAME)?;
            let Some(target) = alias.first().and_then(|alias| alias.target.clone()) else {
                for kind in kinds {
                    let answers = self.query(servers, &name, *kind)?;
                    all.extend(answers.into_iter().map(|answer| Answer { foreign, ..answer }));
                }
                break;
            };
            all.extend(alias.into_iter().map(|answer| Answer { foreign, ..answer }));
            name = target;
        }
        Ok(all)
    }

    /// The addresses of a host, from the recursive resolver.
    pub fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, NetError> {
        match self.wait(self.recursive.lookup_ip(absolute(host))) {
            Ok(found) => Ok(found.iter().collect()),
            Err(error) if error.is_no_records_found() => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// The authoritative servers of the zone that contains a name. They are needed because a cache answers with the
    /// TTL that remains, not with the one in the zone.
    fn authority(&self, name: &str) -> Result<Arc<Zone>, NetError> {
        let mut zone = name.trim_end_matches('.');
        loop {
            if let Some(known) = self.zones.borrow().get(zone) {
                return Ok(Arc::clone(known));
            }
            let mut servers = self.look(&self.recursive, zone, RecordType::NS)?;
            // A resolver follows an alias and returns the servers of its target's zone.
            servers.retain(|server| server.kind == "NS" && server.name.eq_ignore_ascii_case(zone));
            if !servers.is_empty() {
                let servers: Vec<String> = servers.into_iter().map(|server| server.value).collect();
                let (mut addresses, mut failed) = (Vec::new(), None);
                for server in servers.iter().take(ENOUGH) {
                    match self.addresses(server) {
                        Ok(found) => addresses.extend(found),
                        Err(error) => failed = Some(error),
                    }
                }
                if addresses.is_empty() {
                    let none = || NetError::from(format!("the name servers of {zone} have no address"));
                    return Err(failed.unwrap_or_else(none));
                }
                let known = Arc::new(Zone {
                    name: zone.to_owned(),
                    servers,
                    resolver: build(config(&addresses, self.port), false)?,
                });
                self.zones.borrow_mut().insert(zone.to_owned(), Arc::clone(&known));
                return Ok(known);
            }
            match zone.split_once('.') {
                Some((_, parent)) if parent.contains('.') => zone = parent,
                _ => return Err(NetError::from(format!("no zone was found for {name}"))),
            }
        }
    }

    /// Runs one query, over UDP and then TCP, within `TIMEOUT`.
    fn wait<T>(&self, question: impl Future<Output = Result<T, NetError>>) -> Result<T, NetError> {
        let limited = async { tokio::time::timeout(TIMEOUT, question).await };
        self.runtime
            .block_on(limited)
            .unwrap_or_else(|_| Err(NetError::from("no name server answered")))
    }

    fn query(&self, servers: &TokioResolver, name: &str, kind: RecordType) -> Result<Vec<Answer>, NetError> {
        let mut all = self.look(servers, name, kind)?;
        // The answer section can also hold records of other kinds, such as the target of an alias.
        all.retain(|answer| answer.kind == kind_name(kind));
        Ok(all)
    }

    fn look(&self, resolver: &TokioResolver, name: &str, kind: RecordType) -> Result<Vec<Answer>, NetError> {
        match self.wait(resolver.lookup(absolute(name), kind)) {
            Ok(found) => {
                let answers = found.answers().iter();
                Ok(answers
                    .filter_map(|record| answer(&record.name.to_ascii(), record.ttl, &record.data))
                    .collect())
            }
            Err(error) if error.is_no_records_found() => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

/// The name with a final dot, so that no search domain is tried.
fn absolute(name: &str) -> String {
    format!("{}.", name.trim_end_matches('.'))
}

fn plain(name: &str) -> String {
    name.trim_end_matches('.').to_owned()
}

fn kind_name(kind: RecordType) -> &'static str {
    kind.into()
}

fn answer(name: &str, ttl: u32, data: &RData) -> Option<Answer> {
    let (kind, value, target) = match data {
        RData::A(address) => ("A", address.to_string(), None),
        RData::AAAA(address) => ("AAAA", address.to_string(), None),
        RData::CNAME(to) => ("CNAME", plain(&to.to_ascii()), Some(plain(&to.to_ascii()))),
        RData::NS(to) => ("NS", plain(&to.to_ascii()), None),
        RData::SRV(srv) => {
            let host = plain(&srv.target.to_ascii());
            ("SRV", format!("{host}:{}", srv.port), Some(host))
        }
        _ => return None,
    };
    Some(Answer {
        name: plain(name),
        kind,
        ttl,
        value,
        target,
        foreign: false,
    })
}

fn config(addresses: &[IpAddr], port: u16) -> ResolverConfig {
    let server = |address: &IpAddr| {
        let mut server = NameServerConfig::udp_and_tcp(*address);
        let set = |connection: &mut ConnectionConfig| connection.port = port;
        server.connections.iter_mut().for_each(set);
        server
    };
    ResolverConfig::from_parts(None, Vec::new(), addresses.iter().map(server).collect())
}

fn build(config: ResolverConfig, recursive: bool) -> Result<TokioResolver, NetError> {
    let mut options = ResolverOpts::default();
    options.timeout = TIMEOUT / 2;
    options.attempts = 1;
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    options.recursion_desired = recursive;
    // Keep the TTL as published: by default hickory-resolver limits it to a day (`MAX_TTL`).
    options.positive_max_ttl = Some(Duration::from_secs(u32::MAX.into()));
    TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        .with_options(options)
        .build()
}
