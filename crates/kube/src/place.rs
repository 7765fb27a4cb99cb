//! `kube:NAMESPACE[/RELEASE]`: the address of an ESS.

use std::fmt;

use crate::error::{Error, ErrorKind};

/// The namespace of an ESS, and its release when one must be chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Where its workloads are.
    pub namespace: String,
    /// The Helm release, or the operator's custom resource.
    pub release: Option<String>,
}

impl Place {
    /// Parses `kube:NAMESPACE[/RELEASE]`; `None` if the text does not start with `kube:`.
    pub fn parse(text: &str) -> Result<Option<Self>, Error> {
        let Some(rest) = text.strip_prefix("kube:") else {
            return Ok(None);
        };
        let (namespace, release) = match rest.split_once('/') {
            Some((namespace, release)) => (namespace, Some(release)),
            None => (rest, None),
        };
        let wrong = |what: &str| {
            Error::new(ErrorKind::Usage, format!("cannot use {text:?}"), what)
                .hint("write kube:NAMESPACE or kube:NAMESPACE/RELEASE; the cluster is that of the kubeconfig")
        };
        if !is_label(namespace) {
            return Err(wrong("not a valid name of a namespace"));
        }
        if release.is_some_and(|release| !release.split('.').all(is_label)) {
            return Err(wrong("not a valid name of a release"));
        }
        Ok(Some(Self {
            namespace: namespace.to_owned(),
            release: release.map(str::to_owned),
        }))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kube:{}", self.namespace)?;
        self.release.iter().try_for_each(|release| write!(f, "/{release}"))
    }
}

/// Whether the text is a DNS label (RFC 1123), as Kubernetes requires of names.
fn is_label(text: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len()) && text.bytes().all(good) && !text.starts_with('-') && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::Place;

    #[test]
    fn a_place_is_a_namespace_and_perhaps_a_release() {
        let parse = |text| {
            Place::parse(text)
                .unwrap()
                .map(|place| (place.namespace, place.release))
        };
        assert_eq!(parse("kube:ess"), Some(("ess".to_owned(), None)));
        assert_eq!(
            parse("kube:ess/my-ess"),
            Some(("ess".to_owned(), Some("my-ess".to_owned())))
        );
        assert_eq!(parse("postgresql://kube:5432/ess"), None);
        assert_eq!(parse("host=kube"), None);
        assert_eq!(Place::parse("kube:ess/a").unwrap().unwrap().to_string(), "kube:ess/a");
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in [
            "kube:",
            "kube:/ess",
            "kube:ess/",
            "kube:Ess",
            "kube:-ess",
            "kube:ess/a/b",
            "kube:e ss",
            "kube:../x",
        ] {
            assert!(Place::parse(text).is_err(), "{text}");
        }
    }
}
