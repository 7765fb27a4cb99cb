//! Verifies the server's certificate with rustls, by the rules of libpq with OpenSSL.
//!
//! rustls alone refuses three kinds of certificates that libpq accepts, and that the instructions in PostgreSQL's
//! manual produce: those of X.509 version 1, self-signed ones that are their own root, and those that contain the host
//! only as the subject's common name.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{
    WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature, verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use x509_cert::der::oid::db::rfc4519::COMMON_NAME;
use x509_cert::der::{Decode, Encode, Reader, SliceReader};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::spki::SubjectPublicKeyInfoOwned;
use x509_cert::{Certificate, Version};

/// How much is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Nothing,
    Chain,
    ChainAndName,
}

#[derive(Debug)]
pub(super) struct Verifier {
    level: Level,
    roots: Vec<CertificateDer<'static>>,
    anchors: RootCertStore,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    pub(super) fn new(
        level: Level,
        roots: Vec<CertificateDer<'static>>,
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Self {
        let mut anchors = RootCertStore::empty();
        anchors.add_parsable_certificates(roots.iter().cloned());
        Self {
            level,
            roots,
            anchors,
            algorithms,
        }
    }

    fn chain(
        &self,
        der: &CertificateDer<'_>,
        parsed: &Certificate,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let subject = &parsed.tbs_certificate.subject;
        let issuer = &parsed.tbs_certificate.issuer;
        if issuer == subject && self.roots.iter().any(|root| root.as_ref() == der.as_ref()) {
            return in_time(parsed, now);
        }
        if parsed.tbs_certificate.version != Version::V1 {
            let certificate = ParsedCertificate::try_from(der)?;
            return verify_server_cert_signed_by_trust_anchor(
                &certificate,
                &self.anchors,
                intermediates,
                now,
                self.algorithms.all,
            );
        }
        // Version 1 has no extensions that could restrict its use: check issuer, signature and validity.
        let signed = self
            .roots
            .iter()
            .filter_map(|root| Certificate::from_der(root).ok())
            .any(|root| {
                root.tbs_certificate.subject == *issuer
                    && in_time(&root, now).is_ok()
                    && self.signed_by(der, parsed, &root.tbs_certificate.subject_public_key_info)
            });
        if signed {
            in_time(parsed, now)
        } else {
            Err(CertificateError::UnknownIssuer.into())
        }
    }

    fn signed_by(&self, der: &[u8], parsed: &Certificate, key: &SubjectPublicKeyInfoOwned) -> bool {
        let Ok(signed) = signed_part(der) else {
            return false;
        };
        let algorithm = contents(&parsed.signature_algorithm);
        let key_algorithm = contents(&key.algorithm);
        self.algorithms.all.iter().any(|candidate| {
            candidate.signature_alg_id().as_ref() == algorithm
                && candidate.public_key_alg_id().as_ref() == key_algorithm
                && candidate
                    .verify_signature(key.subject_public_key.raw_bytes(), signed, parsed.signature.raw_bytes())
                    .is_ok()
        })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.level != Level::Nothing {
            let parsed = parse(end_entity)?;
            self.chain(end_entity, &parsed, intermediates, now)?;
            if self.level == Level::ChainAndName && !names(&parsed, server_name)? {
                return Err(CertificateError::NotValidForName.into());
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    // The signatures prove that the server has the certificate's private key. They are verified even if the
    // certificate itself is not, because channel binding depends on them.

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let parsed = parse(cert)?;
        if parsed.tbs_certificate.version != Version::V1 {
            return verify_tls12_signature(message, cert, dss, &self.algorithms);
        }
        let key = &parsed.tbs_certificate.subject_public_key_info;
        let key_algorithm = contents(&key.algorithm);
        let schemes = self
            .algorithms
            .mapping
            .iter()
            .filter(|(scheme, _)| *scheme == dss.scheme);
        let valid = schemes.flat_map(|(_, algorithms)| *algorithms).any(|algorithm| {
            algorithm.public_key_alg_id().as_ref() == key_algorithm
                && algorithm
                    .verify_signature(key.subject_public_key.raw_bytes(), message, dss.signature())
                    .is_ok()
        });
        if valid {
            Ok(HandshakeSignatureValid::assertion())
        } else {
            Err(CertificateError::BadSignature.into())
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let parsed = parse(cert)?;
        if parsed.tbs_certificate.version != Version::V1 {
            return verify_tls13_signature(message, cert, dss, &self.algorithms);
        }
        let key = parsed
            .tbs_certificate
            .subject_public_key_info
            .to_der()
            .map_err(|_| bad())?;
        verify_tls13_signature_with_raw_key(message, &SubjectPublicKeyInfoDer::from(key), dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn bad() -> Error {
    CertificateError::BadEncoding.into()
}

fn parse(der: &[u8]) -> Result<Certificate, Error> {
    Certificate::from_der(der).map_err(|_| bad())
}

fn in_time(certificate: &Certificate, now: UnixTime) -> Result<(), Error> {
    let validity = &certificate.tbs_certificate.validity;
    if now.as_secs() < validity.not_before.to_unix_duration().as_secs() {
        Err(CertificateError::NotValidYet.into())
    } else if now.as_secs() > validity.not_after.to_unix_duration().as_secs() {
        Err(CertificateError::Expired.into())
    } else {
        Ok(())
    }
}

/// The signed bytes: the first element of the certificate (`tbsCertificate`), exactly as received.
fn signed_part(der: &[u8]) -> x509_cert::der::Result<&[u8]> {
    let mut reader = SliceReader::new(der)?;
    x509_cert::der::Header::decode(&mut reader)?;
    reader.tlv_bytes()
}

/// An algorithm identifier without its outer tag, as rustls stores it.
fn contents(algorithm: &impl Encode) -> Vec<u8> {
    let Ok(der) = algorithm.to_der() else {
        return Vec::new();
    };
    let Ok(mut reader) = SliceReader::new(&der) else {
        return Vec::new();
    };
    match x509_cert::der::Header::decode(&mut reader) {
        Ok(header) => der[der.len() - usize::try_from(header.length).unwrap_or(0)..].to_vec(),
        Err(_) => Vec::new(),
    }
}

/// libpq's rule (`pgtls_verify_peer_name_matches_certificate_guts` in `fe-secure-openssl.c`): any subject alternative
/// name may match. The common name is compared only if there is no alternative name of the host's own kind, DNS name
/// or IP address.
fn names(certificate: &Certificate, server_name: &ServerName<'_>) -> Result<bool, Error> {
    let host = server_name.to_str();
    let address: Option<std::net::IpAddr> = host.parse().ok();
    let alternatives = certificate.tbs_certificate.get::<SubjectAltName>().map_err(|_| bad())?;
    let mut common_name_counts = true;
    for name in alternatives.iter().flat_map(|(_, names)| &names.0) {
        match name {
            GeneralName::DnsName(pattern) => {
                common_name_counts &= address.is_some();
                if name_matches(pattern.as_str(), &host) {
                    return Ok(true);
                }
            }
            GeneralName::IpAddress(octets) => {
                common_name_counts &= address.is_none();
                let same = match address {
                    Some(std::net::IpAddr::V4(address)) => octets.as_bytes() == address.octets(),
                    Some(std::net::IpAddr::V6(address)) => octets.as_bytes() == address.octets(),
                    None => false,
                };
                if same {
                    return Ok(true);
                }
            }
            _ => {}
        }
    }
    let attributes = certificate
        .tbs_certificate
        .subject
        .0
        .iter()
        .flat_map(|part| part.0.iter());
    let common_name = attributes
        .filter(|attribute| attribute.oid == COMMON_NAME)
        .map(|cn| cn.value.value())
        .next();
    let common_name = common_name.and_then(|bytes| std::str::from_utf8(bytes).ok());
    Ok(common_name_counts && common_name.is_some_and(|name| name_matches(name, &host)))
}

/// Compares without regard to case. A leading `*.` matches exactly one label.
fn name_matches(pattern: &str, host: &str) -> bool {
    if pattern.contains('\0') {
        return false;
    }
    pattern.eq_ignore_ascii_case(host)
        || pattern
            .strip_prefix('*')
            .filter(|rest| rest.len() > 1 && rest.starts_with('.'))
            .is_some_and(|rest| {
                host.split_once('.')
                    .is_some_and(|(label, domain)| !label.is_empty() && rest[1..].eq_ignore_ascii_case(domain))
            })
}
