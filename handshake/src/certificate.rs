//! Reads the certificate that a client presented: hostile input, since most of it was refused.

use std::net::{Ipv4Addr, Ipv6Addr};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use crate::der::{Der, Element, NUMBER, OBJECT_IDENTIFIER};
use crate::distinguished_name::{self, push_hexadecimal};
use crate::visible::{cut, visible};
use crate::x509::{Name, PublicKey, X509Certificate, dotted};

/// Larger certificates are not read.
const MAXIMUM_PEM: usize = 256 * 1024;
/// Characters of one name.
const MAXIMUM_NAME: usize = 256;
/// How many alternative names are told.
const MAXIMUM_ALTERNATIVE_NAMES: usize = 32;
/// Characters of all alternative names.
const MAXIMUM_ALTERNATIVE_TEXT: usize = 4096;
/// Characters of a serial number; RFC 5280 allows 40.
const MAXIMUM_SERIAL: usize = 64;

/// 1.2.840.113549.1.1.1, 1.2.840.10045.2.1, 1.3.101.112 and 113
const KEY_ALGORITHMS: [(&[u8], &str); 4] = [
    (&[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, 1], "RSA"),
    (&[0x2A, 0x86, 0x48, 0xCE, 0x3D, 2, 1], "EC"),
    (&[0x2B, 0x65, 112], "Ed25519"),
    (&[0x2B, 0x65, 113], "Ed448"),
];

/// 1.2.840.10045.3.1.7, 1.3.132.0.34 and 35, with their bits
const CURVES: [(&[u8], usize); 3] = [
    (&[0x2A, 0x86, 0x48, 0xCE, 0x3D, 3, 1, 7], 256),
    (&[0x2B, 0x81, 0x04, 0, 34], 384),
    (&[0x2B, 0x81, 0x04, 0, 35], 521),
];

/// 1.2.840.10045.4, 1.2.840.113549.1.1, 1.3.101
const SIGNATURE_ALGORITHMS: [(&[u8], &str); 12] = [
    (&[0x2A, 0x86, 0x48, 0xCE, 0x3D, 4, 1], "ecdsa-with-SHA1"),
    (&[0x2A, 0x86, 0x48, 0xCE, 0x3D, 4, 3, 2], "ecdsa-with-SHA256"),
    (&[0x2A, 0x86, 0x48, 0xCE, 0x3D, 4, 3, 3], "ecdsa-with-SHA384"),
    (&[0x2A, 0x86, 0x48, 0xCE, 0x3D, 4, 3, 4], "ecdsa-with-SHA512"),
    (&[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, 4], "md5WithRSAEncryption"),
    (&[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, 5], "sha1WithRSAEncryption"),
    (&[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, 10], "rsassaPss"),
    (&[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, 11], "sha256WithRSAEncryption"),
    (&[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, 12], "sha384WithRSAEncryption"),
    (&[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, 13], "sha512WithRSAEncryption"),
    (&[0x2B, 0x65, 112], "ED25519"),
    (&[0x2B, 0x65, 113], "ED448"),
];

/// What a certificate says of itself. All text is printable ASCII (but the mark of a cut) and bounded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// As Envoy's `connection.subject_peer_certificate`.
    pub subject: String,
    /// In the same form.
    pub issuer: String,
    /// As `openssl x509 -serial` prints it.
    pub serial: String,
    /// The first second of its time.
    pub not_before: OffsetDateTime,
    /// The last second of its time.
    pub not_after: OffsetDateTime,
    /// Upper-case hexadecimal digits.
    pub sha256: String,
    /// The first of them.
    pub alternative_names: Vec<AlternativeName>,
    /// How many alternative names more there were.
    pub alternative_names_omitted: usize,
    /// Whether it names itself as its issuer.
    pub self_signed: bool,
    /// Whether it may sign others.
    pub is_ca: bool,
    /// `RSA`, `EC`, `Ed25519` or an object identifier.
    pub key_algorithm: String,
    /// Bits, where that means something.
    pub key_size: Option<usize>,
    /// As openssl names it, or an object identifier.
    pub signature_algorithm: String,
    /// What could not be read, though the certificate could.
    pub defect: Option<&'static str>,
}

/// A subject alternative name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlternativeName {
    /// Its type.
    pub kind: NameKind,
    /// Its text.
    pub text: String,
}

/// The type of a subject alternative name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameKind {
    /// A host.
    Dns,
    /// Among them SPIFFE ids.
    Uri,
    /// A mailbox.
    Email,
    /// An address.
    Ip,
    /// Anything else.
    Other,
}

impl NameKind {
    /// `dns`, `uri`, `email`, `ip`, `other`
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Uri => "uri",
            Self::Email => "email",
            Self::Ip => "ip",
            Self::Other => "other",
        }
    }
}

/// Why a certificate could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// More than any real one.
    #[error("the certificate is larger than 256 KiB")]
    TooLarge,
    /// No PEM block of a certificate.
    #[error("the certificate is not in PEM")]
    NotPem,
    /// The block's content is something else.
    #[error("the certificate does not parse as X.509")]
    NotX509,
}

impl Certificate {
    /// Reads a PEM block, as it is or URL-encoded, as Envoy's versions differ.
    pub fn from_pem(pem: &[u8]) -> Result<Self, CertificateError> {
        if pem.len() > MAXIMUM_PEM {
            return Err(CertificateError::TooLarge);
        }
        let decoded;
        let pem = if pem.starts_with(b"-----BEGIN%20") {
            decoded = percent_decoded(pem);
            &decoded
        } else {
            pem
        };
        let der = CertificateDer::from_pem_slice(pem).map_err(|_| CertificateError::NotPem)?;
        Self::from_der(&der)
    }

    /// Reads DER.
    pub fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        let certificate = X509Certificate::read(der).ok_or(CertificateError::NotX509)?;
        let names = AlternativeNames::read(&certificate);
        let (key_algorithm, key_size) = key(&certificate.key);
        Ok(Self {
            subject: bounded(distinguished_name::render(&certificate.subject), MAXIMUM_NAME),
            issuer: bounded(distinguished_name::render(&certificate.issuer), MAXIMUM_NAME),
            serial: bounded(serial(certificate.serial), MAXIMUM_SERIAL),
            not_before: certificate.not_before,
            not_after: certificate.not_after,
            sha256: hexadecimal(&Sha256::digest(der)),
            alternative_names: names.told,
            alternative_names_omitted: names.omitted,
            self_signed: certificate.is_self_issued(),
            is_ca: certificate.is_ca(),
            key_algorithm,
            key_size,
            signature_algorithm: named(&SIGNATURE_ALGORITHMS, certificate.signed.algorithm),
            defect: names.defect,
        })
    }

    /// The SPIFFE id: the only URI among the alternative names, if it is one.
    pub fn spiffe_id(&self) -> Option<&str> {
        let mut uris = self.alternative_names.iter().filter(|name| name.kind == NameKind::Uri);
        match (uris.next(), uris.next(), self.alternative_names_omitted) {
            (Some(only), None, 0) => Some(only.text.as_str()).filter(|text| text.starts_with("spiffe://")),
            _ => None,
        }
    }
}

#[derive(Default)]
struct AlternativeNames {
    told: Vec<AlternativeName>,
    omitted: usize,
    defect: Option<&'static str>,
}

impl AlternativeNames {
    fn read(certificate: &X509Certificate<'_>) -> Self {
        let mut names = Self::default();
        let mut length = 0;
        for parsed in certificate.alternative_names() {
            match parsed {
                Some(parsed) => parsed.iter().for_each(|name| names.add(name, &mut length)),
                None => names.defect = Some("the subject alternative names do not parse"),
            }
        }
        names
    }

    fn add(&mut self, name: &Element<'_>, length: &mut usize) {
        if self.told.len() == MAXIMUM_ALTERNATIVE_NAMES || *length >= MAXIMUM_ALTERNATIVE_TEXT {
            self.omitted += 1;
            return;
        }
        let room = MAXIMUM_NAME.min(MAXIMUM_ALTERNATIVE_TEXT - *length);
        let name = alternative_name(name, room);
        *length += name.text.len();
        self.told.push(name);
    }
}

/// A `GeneralName`; as it is, where it breaks the rules of its type.
fn alternative_name(name: &Element<'_>, room: usize) -> AlternativeName {
    let content = name.content;
    let (kind, text) = match name.tag & NUMBER {
        0 => {
            let identifier = Der(content).expect(OBJECT_IDENTIFIER);
            (NameKind::Other, identifier.map(|identifier| format!("otherName:{}", dotted(identifier))))
        }
        1 => (NameKind::Email, None),
        2 => (NameKind::Dns, None),
        3 => (NameKind::Other, Some("x400Address".to_owned())),
        4 => {
            let mut der = Der(content);
            let name = Name::read(&mut der).filter(|_| der.0.is_empty());
            (NameKind::Other, name.map(|name| format!("dirName:{}", distinguished_name::render(&name))))
        }
        5 => (NameKind::Other, Some("ediPartyName".to_owned())),
        6 => (NameKind::Uri, None),
        7 => {
            (NameKind::Ip, Some(ip_address(content).unwrap_or_else(|| format!("#{}", hexadecimal(content)))))
        }
        8 => (NameKind::Other, Some(format!("rid:{}", dotted(content)))),
        _ => (NameKind::Other, None),
    };
    AlternativeName { kind, text: text.map_or_else(|| visible(content, room), |text| bounded(text, room)) }
}

/// The text of an address, if these are the octets of one.
pub(crate) fn ip_address(octets: &[u8]) -> Option<String> {
    if let Ok(octets) = <[u8; 4]>::try_from(octets) {
        return Some(Ipv4Addr::from(octets).to_string());
    }
    <[u8; 16]>::try_from(octets).ok().map(|octets| Ipv6Addr::from(octets).to_string())
}

/// The digits of an ASN.1 INTEGER: no leading zero octets, a sign if it is negative.
fn serial(octets: &[u8]) -> String {
    let negative = octets.first().is_some_and(|first| first & 0x80 != 0);
    let mut magnitude = octets.to_vec();
    if negative {
        // Two's complement: invert and add one.
        let mut carry = true;
        for octet in magnitude.iter_mut().rev() {
            let (sum, overflow) = (!*octet).overflowing_add(u8::from(carry));
            *octet = sum;
            carry = overflow;
        }
    }
    let significant = magnitude.iter().position(|octet| *octet != 0);
    let digits = match significant {
        Some(start) => hexadecimal(magnitude.get(start..).unwrap_or_default()),
        None => "00".to_owned(),
    };
    if negative { format!("-{digits}") } else { digits }
}

/// What a key is called, and its bits.
fn key(key: &PublicKey<'_>) -> (String, Option<usize>) {
    let name = named(&KEY_ALGORITHMS, key.algorithm.identifier);
    let size = match name.as_str() {
        "RSA" => key.modulus_size(),
        "EC" => CURVES.iter().find(|(curve, _)| key.curve() == Some(*curve)).map(|(_, size)| *size),
        _ => None,
    };
    (name, size)
}

/// The name of an object identifier, or its numbers.
fn named(names: &[(&[u8], &str)], identifier: &[u8]) -> String {
    match names.iter().find(|(known, _)| *known == identifier) {
        Some((_, name)) => (*name).to_owned(),
        None => bounded(dotted(identifier), MAXIMUM_NAME),
    }
}

fn hexadecimal(octets: &[u8]) -> String {
    let mut text = String::with_capacity(octets.len() * 2);
    for octet in octets {
        push_hexadecimal(&mut text, *octet);
    }
    text
}

/// Cuts ASCII text.
fn bounded(mut text: String, maximum: usize) -> String {
    let gone = text.len().saturating_sub(maximum);
    if gone == 0 {
        return text;
    }
    text.truncate(maximum);
    cut(text, gone)
}

fn percent_decoded(text: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        let (byte, after) = escaped(rest).unwrap_or((first, tail));
        decoded.push(byte);
        rest = after;
    }
    decoded
}

/// The byte of a leading `%XX`, and what follows.
fn escaped(text: &[u8]) -> Option<(u8, &[u8])> {
    let [b'%', high, low, after @ ..] = text else { return None };
    let digit = |character: u8| char::from(character).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some((digit(*high)? * 16 + digit(*low)?, after))
}

#[cfg(test)]
pub mod tests;
