//! The certificates that clients will see once DNS leads to ESS.

use std::time::{Duration, SystemTime};

use ess_document::Finding;
use ess_kube::{Challenge, Error, ErrorKind, Stored, Tls};
use ess_run::quoted;
use ess_run::text::count;
use ess_servers::OnKube;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_cert::Certificate;
use x509_cert::der::Decode as _;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use crate::finding::{Detail, info, warning};
use crate::ids::CLUSTER_CERTIFICATES;

/// A certificate that expires sooner needs attention during the migration.
const SOON: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// Checks the certificate of each Ingress: present, for its hosts, valid for a while, and by what it is issued.
pub(super) fn check(on: &OnKube) -> Result<Vec<Finding>, Error> {
    let all = match on.cluster.certificates(&on.ess) {
        Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
        // What clients see later does not stop the migration of the data.
        Err(error) => {
            let message = format!(
                "the certificates of the Ingresses were not checked: {error}: {}",
                error.why()
            );
            return Ok(vec![info(&CLUSTER_CERTIFICATES, message)]);
        }
        Ok(all) => all,
    };
    if all.is_empty() {
        let message = "no Ingress of ESS has a certificate: something in front of the cluster must accept HTTPS";
        return Ok(vec![info(&CLUSTER_CERTIFICATES, message)]);
    }
    let now = SystemTime::now();
    let mut found: Vec<Finding> = Vec::new();
    let mut first_end: Option<SystemTime> = None;
    for tls in &all {
        match judge(tls, now) {
            Ok(end) => first_end = first_end.into_iter().chain(end).min(),
            Err(why) => found.push(
                warning(&CLUSTER_CERTIFICATES, format!("Ingress {}: {why}", tls.ingress))
                    .hint(remedy(tls, &on.ess.namespace))
                    .with("hosts", tls.hosts.clone()),
            ),
        }
    }
    if found.is_empty() {
        let days = first_end.and_then(|end| end.duration_since(now).ok());
        let end = days.map_or_else(String::new, |left| {
            format!("; the first expires in {}", count(left.as_secs() / 86_400, "day"))
        });
        let message = format!("{} for the Ingresses of ESS{end}", count(all.len(), "certificate"));
        found.push(info(&CLUSTER_CERTIFICATES, message));
    }
    Ok(found)
}

/// When the certificate expires, if that is known; an error if it is missing or will not do.
fn judge(tls: &Tls, now: SystemTime) -> Result<Option<SystemTime>, String> {
    let hosts = tls.hosts.join(", ");
    let Some(secret) = &tls.secret else {
        return Err(format!(
            "it names no Secret with a certificate for {hosts}, so the Ingress controller's own one is used"
        ));
    };
    let pem = match &tls.certificate {
        Stored::Pem(pem) => pem,
        Stored::Missing => {
            return Err(format!(
                "Secret {secret} with the certificate for {hosts} does not exist yet"
            ));
        }
        Stored::Unreadable => return Ok(None),
    };
    // The first one; those of its authorities follow.
    let first = CertificateDer::from_pem_slice(pem).ok();
    let certificate = first.and_then(|der| Certificate::from_der(&der).ok());
    let certificate = certificate.ok_or_else(|| format!("Secret {secret} contains no valid certificate"))?;
    let names = names(&certificate);
    let missing: Vec<&str> = tls
        .hosts
        .iter()
        .map(String::as_str)
        .filter(|host| !names.iter().any(|name| covers(name, host)))
        .collect();
    if !missing.is_empty() {
        return Err(format!(
            "the certificate in Secret {secret} is for {}, not for {}",
            names.join(", "),
            missing.join(", ")
        ));
    }
    let signed = &certificate.tbs_certificate;
    if signed.issuer == signed.subject {
        return Err(format!(
            "the certificate in Secret {secret} is self-signed, which other servers refuse"
        ));
    }
    let end = signed.validity.not_after.to_system_time();
    match end.duration_since(now) {
        Err(_) => Err(format!("the certificate in Secret {secret} for {hosts} has expired")),
        Ok(left) if left < SOON => Err(format!(
            "the certificate in Secret {secret} for {hosts} expires in {}",
            count(left.as_secs() / 86_400, "day")
        )),
        Ok(_) => Ok(Some(end)),
    }
}

/// The DNS names that a certificate is for.
fn names(certificate: &Certificate) -> Vec<String> {
    let alternatives = certificate.tbs_certificate.get::<SubjectAltName>().ok().flatten();
    let all = alternatives.into_iter().flat_map(|(_, names)| names.0);
    all.filter_map(|name| match name {
        GeneralName::DnsName(name) => Some(name.as_str().to_lowercase()),
        _ => None,
    })
    .collect()
}

/// Whether a name of a certificate covers a host; `*` stands for one label (RFC 9525, section 6.3).
fn covers(name: &str, host: &str) -> bool {
    let host = host.to_lowercase();
    match name.strip_prefix("*.") {
        Some(domain) => host.split_once('.').is_some_and(|(_, rest)| rest == domain),
        None => name == host,
    }
}

fn remedy(tls: &Tls, namespace: &str) -> String {
    let secret = quoted(tls.secret.as_deref().unwrap_or("NAME"));
    let copy = format!(
        "copy the old server's certificate: kubectl create secret tls {secret} -n {} --cert=fullchain.pem \
         --key=privkey.pem --dry-run=client -o yaml | kubectl apply --server-side --force-conflicts -f -",
        quoted(namespace)
    );
    match tls.issuer.as_ref().map(|issuer| (&issuer.name, issuer.challenge)) {
        Some((issuer, Challenge::Http01)) => format!(
            "{issuer} cannot issue it before DNS leads to this cluster (HTTP-01), and waits an hour and longer after \
             each failure: use a DNS-01 solver, or {copy}; after the switch, renew at once: cmctl renew -n {} --all",
            quoted(namespace)
        ),
        Some((issuer, _)) => format!(
            "see why {issuer} does not issue it: kubectl describe certificate,order,challenge -n {}; or {copy}",
            quoted(namespace)
        ),
        None => copy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_covers_one_label() {
        assert!(covers("matrix.example.com", "Matrix.example.com"));
        assert!(covers("*.example.com", "matrix.example.com"));
        assert!(!covers("*.example.com", "example.com"));
        assert!(!covers("*.example.com", "a.b.example.com"));
        assert!(!covers("example.com", "matrix.example.com"));
    }

    #[test]
    fn a_certificate_that_is_missing_is_reported_with_what_its_issuer_needs() {
        let mut tls = Tls {
            ingress: "ess-synapse".to_owned(),
            hosts: vec!["matrix.example.com".to_owned()],
            secret: Some("synapse-tls".to_owned()),
            certificate: Stored::Missing,
            issuer: Some(ess_kube::Issuer {
                name: "ClusterIssuer letsencrypt".to_owned(),
                challenge: Challenge::Http01,
            }),
        };
        let why = judge(&tls, SystemTime::now()).expect_err("it is missing");
        assert_eq!(
            why,
            "Secret synapse-tls with the certificate for matrix.example.com does not exist yet"
        );
        assert!(remedy(&tls, "ess").starts_with("ClusterIssuer letsencrypt cannot issue it before DNS leads"));
        tls.certificate = Stored::Pem(b"not PEM".to_vec());
        assert!(judge(&tls, SystemTime::now()).is_err());
        tls.certificate = Stored::Unreadable;
        assert_eq!(judge(&tls, SystemTime::now()), Ok(None));
    }
}
