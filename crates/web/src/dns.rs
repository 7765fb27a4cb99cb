//! Questions to name servers, one at a time, each with a limit.

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

/// Longer than any name server needs that is there.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Aliases of aliases.
const ALIASES: usize = 8;

/// One record, as its zone has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Whose record it is, without the last dot.
    pub name: String,
    /// `A`, `AAAA`, `CNAME`, `NS` or `SRV`.
    pub kind: &'static str,
    /// Seconds.
    pub ttl: u32,
    /// An address, a name, or `HOST:PORT`.
    pub value: String,
    /// Of a CNAME or SRV record: the name that it leads to.
    pub target: Option<String>,
    /// An alias led out of the zone: it changes on the day, not what somebody else has behind it.
    pub foreign: bool,
}

/// A resolver for questions about anything, and the servers that have the last word on each zone.
pub struct Dns {
    runtime: Runtime,
    recursive: TokioResolver,
    port: u16,
    zones: RefCell<BTreeMap<String, Arc<Zone>>>,
}

/// A zone and the servers that have the last word on it.
struct Zone {
    name: String,
    /// The names of all its servers.
    servers: Vec<String>,
    /// Asks some of them, whichever answers.
    resolver: TokioResolver,
}

/// So many servers of a zone are asked where one answer is enough.
const ENOUGH: usize = 3;

impl Dns {
    /// With the resolver that is named, or the system's.
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

    /// Every record of these kinds, from the zone's own servers, along the way of aliases.
    pub fn records(&self, name: &str, kinds: &[RecordType]) -> Result<Vec<Answer>, NetError> {
        self.follow(name, kinds, None)
    }

    /// What each of the zone's servers that answers says, by its name: a secondary may be behind.
    ///
    /// An error when none answers.
    pub fn records_at_each(&self, name: &str, kinds: &[RecordType]) -> Result<Vec<(String, Vec<Answer>)>, NetError> {
        let zone = self.authority(name)?;
        let (mut all, mut failed) = (Vec::new(), None);
        for server in &zone.servers {
            let said = self.addresses(server).and_then(|addresses| {
                let resolver = build(config(&addresses, self.port), false)?;
                self.follow(name, kinds, Some(&resolver))
            });
            match said {
                Ok(said) => all.push((server.clone(), said)),
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            Some(error) if all.is_empty() => Err(error),
            _ => Ok(all),
        }
    }

    /// `home` is asked in place of all servers of the name's own zone.
    fn follow(&self, name: &str, kinds: &[RecordType], home: Option<&TokioResolver>) -> Result<Vec<Answer>, NetError> {
        let (mut all, mut name) = (Vec::new(), name.to_owned());
        let own = self.authority(&name)?;
        for _ in 0..ALIASES {
            let zone = self.authority(&name)?;
            let foreign = zone.name != own.name;
            let servers = home.filter(|_| !foreign).unwrap_or(&zone.resolver);
            let alias = self.ask(servers, &name, RecordType::CNAME)?;
            let Some(target) = alias.first().and_then(|alias| alias.target.clone()) else {
                for kind in kinds {
                    let answers = self.ask(servers, &name, *kind)?;
                    all.extend(answers.into_iter().map(|answer| Answer { foreign, ..answer }));
                }
                break;
            };
            all.extend(alias.into_iter().map(|answer| Answer { foreign, ..answer }));
            name = target;
        }
        Ok(all)
    }

    /// Addresses of a host, as anybody finds them.
    pub fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, NetError> {
        match self.wait(self.recursive.lookup_ip(absolute(host))) {
            Ok(found) => Ok(found.iter().collect()),
            Err(error) if error.is_no_records_found() => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// The servers of the zone that a name is in: a cache's answer would count its time down.
    fn authority(&self, name: &str) -> Result<Arc<Zone>, NetError> {
        let mut zone = name.trim_end_matches('.');
        loop {
            if let Some(known) = self.zones.borrow().get(zone) {
                return Ok(Arc::clone(known));
            }
            let mut servers = self.look(&self.recursive, zone, RecordType::NS)?;
            // An alias answers with the servers of what it leads to.
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
                _ => return Err(NetError::from(format!("no zone has {name}"))),
            }
        }
    }

    /// UDP, then TCP, and no longer than that.
    fn wait<T>(&self, question: impl Future<Output = Result<T, NetError>>) -> Result<T, NetError> {
        let limited = async { tokio::time::timeout(TIMEOUT, question).await };
        self.runtime
            .block_on(limited)
            .unwrap_or_else(|_| Err(NetError::from("no name server answered")))
    }

    fn ask(&self, servers: &TokioResolver, name: &str, kind: RecordType) -> Result<Vec<Answer>, NetError> {
        let mut all = self.look(servers, name, kind)?;
        // Also sent along with an answer, but not asked for.
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

/// No search domain is tried.
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
    // The record's own time, however long.
    options.positive_max_ttl = Some(Duration::from_secs(u32::MAX.into()));
    TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        .with_options(options)
        .build()
}
