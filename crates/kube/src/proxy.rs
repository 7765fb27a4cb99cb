//! `NO_PROXY`: which API servers are reached without the environment's proxy. The client library does not support it.

use std::net::IpAddr;

/// Whether a list such as `.example.org,10.0.0.0/8,host:6443` contains the host, by the rules of Go programs such as
/// kubectl (golang.org/x/net/http/httpproxy).
pub(crate) fn is_exempt(list: &str, host: &str, port: u16) -> bool {
    let host = host.trim_matches(['[', ']']).to_lowercase();
    let address: Option<IpAddr> = host.parse().ok();
    if host == "localhost" || address.is_some_and(|address| address.is_loopback()) {
        return true;
    }
    let mut entries = list.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    entries.any(|entry| {
        let entry = entry.to_lowercase();
        if entry == "*" {
            return true;
        }
        if let Some(address) = address {
            let (wanted, ends) = match entry.rsplit_once(':') {
                Some((wanted, ends)) if wanted.parse::<IpAddr>().is_ok() || wanted.starts_with('[') => {
                    (wanted, Some(ends))
                }
                _ => (entry.as_str(), None),
            };
            return match wanted.trim_matches(['[', ']']).split_once('/') {
                Some((network, bits)) => is_within(address, network, bits),
                None if entry.parse() == Ok(address) => true,
                None => {
                    wanted.trim_matches(['[', ']']).parse() == Ok(address)
                        && ends.is_none_or(|ends| ends.parse() == Ok(port))
                }
            };
        }
        let (name, ends) = entry
            .split_once(':')
            .map_or((entry.as_str(), None), |(name, ends)| (name, Some(ends)));
        let name = name.trim_start_matches("*.");
        let suffix = name.trim_start_matches('.');
        let fits = host
            .strip_suffix(suffix)
            .is_some_and(|before| before.ends_with('.') || before.is_empty() && !name.starts_with('.'));
        fits && ends.is_none_or(|ends| ends.parse() == Ok(port))
    })
}

fn is_within(address: IpAddr, network: &str, bits: &str) -> bool {
    let (Ok(network), Ok(bits)) = (network.parse::<IpAddr>(), bits.parse::<u32>()) else {
        return false;
    };
    let (differ, unused) = match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u128::from(a.to_bits() ^ b.to_bits()), 32_u32.checked_sub(bits)),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits(), 128_u32.checked_sub(bits)),
        _ => return false,
    };
    unused.is_some_and(|unused| differ.checked_shr(unused).unwrap_or(0) == 0)
}

#[cfg(test)]
mod tests {
    use super::is_exempt;

    #[test]
    fn a_list_names_hosts_domains_and_networks() {
        let list = "localhost, .example.org,k8s.internal:6443,10.0.0.0/8,192.0.2.7,fd00::/8,2001:db8::1";
        for yes in [
            "api.example.org",
            "API.example.org",
            "k8s.internal",
            "a.k8s.internal",
            "10.96.0.1",
            "192.0.2.7",
            "[fd00::1]",
            "[2001:db8::1]",
            "127.0.0.1",
        ] {
            assert!(is_exempt(list, yes, 6443), "{yes}");
        }
        for no in [
            "example.org",
            "badexample.org",
            "11.0.0.1",
            "192.0.2.8",
            "[2001:db8::2]",
        ] {
            assert!(!is_exempt(list, no, 6443), "{no}");
        }
        assert!(!is_exempt(list, "k8s.internal", 443));
        assert!(is_exempt("*", "anything", 443));
        assert!(!is_exempt("", "anything", 443));
    }
}
