//! What is known of a presented certificate, whichever way Envoy's version tells it.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::certificate::Certificate;
use super::visible::visible;

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
    /// Alternative names, all types together.
    pub alternative_names: Vec<String>,
    /// How many alternative names more there were.
    pub alternative_names_omitted: usize,
    /// What could not be read.
    pub defect: Option<String>,
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
    /// From the certificate, or from the attributes if it is not there or does not parse.
    pub fn read(pem: Option<&[u8]>, attributes: Attributes<'_>) -> Self {
        match pem.map(Certificate::from_pem) {
            Some(Ok(certificate)) => Self::from(certificate),
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
            alternative_names: certificate.alternative_names.into_iter().map(|name| name.text).collect(),
            alternative_names_omitted: certificate.alternative_names_omitted,
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
            alternative_names: attributes.dns.into_iter().chain(attributes.uri).map(text).collect(),
            ..Self::default()
        }
    }
}

/// RFC 3339, if the year has four digits.
pub fn timestamp(at: OffsetDateTime) -> Option<String> {
    at.format(&Rfc3339).ok()
}
