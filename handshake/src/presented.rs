//! What is known of a presented certificate, whichever way Envoy's version tells it.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::certificate::{AlternativeName, Certificate, NameKind};
use crate::visible::visible;

/// The facts of a certificate that go into a line; what is not known is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Presented {
    /// The subject's name.
    pub subject: Option<String>,
    /// The issuer's name.
    pub issuer: Option<String>,
    /// The serial number.
    pub serial: Option<String>,
    /// RFC 3339.
    pub not_before: Option<String>,
    /// RFC 3339.
    pub not_after: Option<String>,
    /// Upper-case hexadecimal digits.
    pub sha256: Option<String>,
    /// Alternative names.
    pub alternative_names: Vec<AlternativeName>,
    /// How many alternative names more there were.
    pub alternative_names_omitted: usize,
    /// `RSA`, `EC`, `Ed25519` or an object identifier.
    pub key_algorithm: Option<String>,
    /// Bits.
    pub key_size: Option<usize>,
    /// As openssl names it.
    pub signature_algorithm: Option<String>,
    /// What is wrong with the certificate whatever the TLS stack says, if the certificate itself is there.
    pub facts: Option<Facts>,
    /// What could not be read.
    pub defect: Option<String>,
}

/// What can be seen in a certificate alone. Stacks stop at the first fault, and not all at the same one: of a
/// certificate that is expired *and* revoked, BoringSSL says revoked and rustls expired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Its last second has passed.
    pub expired: bool,
    /// Its first second has not come.
    pub not_yet_valid: bool,
    /// It names itself as its issuer.
    pub self_signed: bool,
    /// It may sign others.
    pub ca: bool,
    /// RSA of less than 2048 bits, or an elliptic curve of less than 256.
    pub weak_key: bool,
    /// Signed over MD5 or SHA-1.
    pub weak_signature: bool,
}

impl Facts {
    fn of(certificate: &Certificate, at: OffsetDateTime) -> Self {
        let least = if certificate.key_algorithm == "RSA" { 2048 } else { 256 };
        Self {
            expired: certificate.not_after < at,
            not_yet_valid: at < certificate.not_before,
            self_signed: certificate.self_signed,
            ca: certificate.is_ca,
            weak_key: certificate.key_size.is_some_and(|size| size < least),
            weak_signature: ["md5WithRSAEncryption", "sha1WithRSAEncryption", "ecdsa-with-SHA1"]
                .contains(&certificate.signature_algorithm.as_str()),
        }
    }
}

/// What Envoy before 1.38 tells of a certificate: these attributes instead of the certificate itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attributes<'a> {
    /// `connection.subject_peer_certificate`
    pub subject: Option<&'a [u8]>,
    /// `connection.sha256_peer_certificate_digest`
    pub sha256: Option<&'a [u8]>,
    /// `connection.uri_san_peer_certificate`: the first.
    pub uri: Option<&'a [u8]>,
    /// `connection.dns_san_peer_certificate`: the first.
    pub dns: Option<&'a [u8]>,
}

impl Presented {
    /// The texts of its alternative names.
    pub fn names(&self) -> Vec<&str> {
        self.alternative_names.iter().map(|name| name.text.as_str()).collect()
    }

    /// With this many alternative names at most.
    pub fn limited(mut self, names: usize) -> Self {
        self.alternative_names_omitted += self.alternative_names.len().saturating_sub(names);
        self.alternative_names.truncate(names);
        self
    }

    /// From the certificate, or from the attributes if it is not there or does not parse.
    pub fn read(pem: Option<&[u8]>, attributes: Attributes<'_>, at: OffsetDateTime) -> Self {
        match pem.map(Certificate::from_pem) {
            Some(Ok(certificate)) => {
                Self { facts: Some(Facts::of(&certificate, at)), ..Self::from(certificate) }
            }
            Some(Err(error)) => Self { defect: Some(error.to_string()), ..Self::from(attributes) },
            None => Self::from(attributes),
        }
    }
}

impl From<Certificate> for Presented {
    fn from(certificate: Certificate) -> Self {
        Self {
            subject: Some(certificate.subject),
            issuer: Some(certificate.issuer),
            serial: Some(certificate.serial),
            not_before: timestamp(certificate.not_before),
            not_after: timestamp(certificate.not_after),
            sha256: Some(certificate.sha256),
            alternative_names: certificate.alternative_names,
            alternative_names_omitted: certificate.alternative_names_omitted,
            key_algorithm: Some(certificate.key_algorithm),
            key_size: certificate.key_size,
            signature_algorithm: Some(certificate.signature_algorithm),
            facts: None,
            defect: certificate.defect.map(str::to_owned),
        }
    }
}

impl From<Attributes<'_>> for Presented {
    fn from(attributes: Attributes<'_>) -> Self {
        let text = |bytes: &[u8]| visible(bytes, 256);
        Self {
            subject: attributes.subject.map(text),
            sha256: attributes.sha256.map(|digest| text(digest).to_ascii_uppercase()),
            alternative_names: [(NameKind::Dns, attributes.dns), (NameKind::Uri, attributes.uri)]
                .into_iter()
                .filter_map(|(kind, bytes)| Some(AlternativeName { kind, text: text(bytes?) }))
                .collect(),
            ..Self::default()
        }
    }
}

/// RFC 3339, if the year has four digits.
pub fn timestamp(at: OffsetDateTime) -> Option<String> {
    at.format(&Rfc3339).ok()
}
