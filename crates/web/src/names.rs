//! Hosts in server names and URLs.

/// Splits a server name or the value of `m.server` at the last colon outside brackets; `None` where no port follows.
pub fn host_and_port(name: &str) -> (&str, Option<u16>) {
    match name.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') && port.parse::<u16>().is_ok() => (host, port.parse().ok()),
        _ => (name, None),
    }
}

/// The host of a URL, without its port; `None` if the text has no scheme or no host.
pub fn host_of_url(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let host = host_and_port(rest.split(['/', '?', '#']).next()?).0;
    (!host.is_empty()).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_found_in_names_and_urls() {
        assert_eq!(host_and_port("example.org:8448"), ("example.org", Some(8448)));
        assert_eq!(host_and_port("[::1]"), ("[::1]", None));
        assert_eq!(
            host_of_url("https://matrix.example.org:8443/x"),
            Some("matrix.example.org")
        );
        assert_eq!(host_of_url("matrix.example.org"), None);
    }
}
