//! HTTPS requests to public names, or to the addresses that `--resolve` gives for them.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ureq::config::Config;
use ureq::http::Uri;
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use ureq::{Agent, Error};

/// Largest body that is read, in bytes; documents of `.well-known` are far smaller.
const LIMIT: u64 = 64 << 10;

/// `HOST:PORT:ADDR:PORT`: connections to `HOST:PORT` go to `ADDR:PORT`, as with `--resolve` of curl.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detour {
    host: String,
    port: u16,
    to: SocketAddr,
}

impl Detour {
    /// Parses the argument of `--resolve`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || "not HOST:PORT:ADDR:PORT".to_owned();
        let (host, rest) = text.split_once(':').ok_or_else(wrong)?;
        let (port, to) = rest.split_once(':').ok_or_else(wrong)?;
        Ok(Self {
            host: host.to_lowercase(),
            port: port.parse().map_err(|_| wrong())?,
            to: to.parse().map_err(|_| wrong())?,
        })
    }
}

/// Parses the argument of `--resolver`: `ADDR[:PORT]`, with port 53 by default.
pub fn resolver(text: &str) -> Result<SocketAddr, String> {
    let alone = |text: &str| Some(SocketAddr::new(text.parse::<IpAddr>().ok()?, 53));
    alone(text)
        .or_else(|| text.parse().ok())
        .ok_or_else(|| "not ADDR or ADDR:PORT".to_owned())
}

/// The response of a server.
pub struct Response {
    /// HTTP status.
    pub status: u16,
    /// `Content-Type`; empty if the header is missing.
    pub content_type: String,
    /// `Access-Control-Allow-Origin`
    pub origin: Option<String>,
    /// `Server`
    pub server: Option<String>,
    /// Text of the body, up to `LIMIT` bytes.
    pub body: String,
}

/// A client that accepts the certificate authorities of the system, or those in `SSL_CERT_FILE` or `SSL_CERT_DIR`.
///
/// It accepts HTTPS only and uses no proxy.
pub fn agent(detours: Vec<Detour>, resolver: Option<SocketAddr>) -> Agent {
    let trusted = rustls_native_certs::load_native_certs().certs;
    let trusted: Vec<_> = trusted
        .iter()
        .map(|der| Certificate::from_der(der).to_owned())
        .collect();
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::new_with_certs(&trusted))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build();
    let config = Config::builder()
        .http_status_as_error(false)
        .https_only(true)
        .proxy(None)
        .max_redirects(5)
        .tls_config(tls)
        .timeout_resolve(Some(Duration::from_secs(3)))
        .timeout_connect(Some(Duration::from_secs(3)))
        .timeout_global(Some(Duration::from_secs(8)))
        .build();
    Agent::with_parts(config, DefaultConnector::new(), Way { detours, resolver })
}

/// Fetches a URL. A response with an error status is not an error; one with a longer body than `LIMIT` is.
pub fn get(agent: &Agent, url: &str) -> Result<Response, Error> {
    let mut answer = agent.get(url).call()?;
    let header = |name: &str| Some(answer.headers().get(name)?.to_str().ok()?.to_owned());
    let (content_type, origin, server) = (
        header("content-type").unwrap_or_default(),
        header("access-control-allow-origin"),
        header("server"),
    );
    Ok(Response {
        status: answer.status().as_u16(),
        content_type,
        origin,
        server,
        body: answer.body_mut().with_config().limit(LIMIT).read_to_string()?,
    })
}

/// Finds the address of a host: from a detour, else from the given resolver, else from the system.
struct Way {
    detours: Vec<Detour>,
    resolver: Option<SocketAddr>,
}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.detours.fmt(f)
    }
}

impl Resolver for Way {
    fn resolve(&self, uri: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let host = uri.host().unwrap_or_default().to_lowercase();
        let port = uri.port_u16().unwrap_or(443);
        let mut found = self.empty();
        if let Some(detour) = self
            .detours
            .iter()
            .find(|detour| detour.host == host && detour.port == port)
        {
            found.push(detour.to);
            return Ok(found);
        }
        let Some(resolver) = self.resolver.filter(|_| host.parse::<IpAddr>().is_err()) else {
            return DefaultResolver::default().resolve(uri, config, timeout);
        };
        let dns = crate::dns::Dns::new(Some(resolver)).map_err(|_| Error::HostNotFound)?;
        let addresses = dns.addresses(&host).map_err(|_| Error::HostNotFound)?;
        for address in addresses.iter().take(8) {
            found.push(SocketAddr::new(*address, port));
        }
        if addresses.is_empty() {
            Err(Error::HostNotFound)
        } else {
            Ok(found)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_for_curl_and_dig() {
        assert_eq!(resolver("192.0.2.1"), Ok("192.0.2.1:53".parse().expect("it is one")));
        assert_eq!(resolver("[::1]:5353"), Ok("[::1]:5353".parse().expect("it is one")));
        assert_eq!(resolver("::1"), Ok("[::1]:53".parse().expect("it is one")));
        assert!(resolver("ns.example.org").is_err());
        let detour = Detour::parse("Example.org:443:127.0.0.1:8443").expect("it is one");
        assert_eq!((detour.host.as_str(), detour.port), ("example.org", 443));
        for wrong in ["", "example.org:443", "example.org:443:localhost:1", "a:b:127.0.0.1:1"] {
            assert!(Detour::parse(wrong).is_err(), "{wrong}");
        }
    }
}
