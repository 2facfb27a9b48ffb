//! What is wrong with a certificate that Envoy let in: on a listener that accepts untrusted certificates, Envoy says
//! that one is not valid and swallows why.
//!
//! The leaf is held against the listener's CA bundle, in the order of BoringSSL: issuer, purpose, revocation,
//! signature, time; then names and pins. What the client sent along is not visible here, so a leaf of an intermediate
//! that is not in the bundle has an issuer that is unknown *here*: such conclusions are `likely`, and what could not
//! be checked is told. Signatures are checked by whoever has the algorithms: [`Signatures`].

use outgate_policy::document::reader::{Item, Reader};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use serde::Serialize;
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::x509::AlgorithmIdentifier;

use crate::certificate::Certificate;
use crate::classify::Failure;
use crate::taxonomy::{Certainty, SubReason};

/// What is never checked here: it takes the chain that the client sent.
const NEVER_CHECKED: [&str; 3] = ["intermediates", "path_length", "name_constraints"];

/// What a listener that accepts untrusted certificates demands of them all the same.
#[derive(Clone, Debug, Default, Serialize, PartialEq, Eq)]
pub struct Untrusted {
    /// The CA bundle, as PEM.
    pub ca: String,
    /// Revocation lists, as PEM.
    pub crl: Option<String>,
    /// Names of which a certificate must have one.
    pub sans: Vec<String>,
    /// SHA-256 of certificates, one of which it must be.
    pub pins: Vec<String>,
    /// In which form a refusal is answered.
    pub answer: Answer,
    /// What a refusal tells the client.
    pub tell: Vec<Told>,
}

/// In which form a refusal is answered.
#[derive(Clone, Copy, Debug, Default, Serialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// `application/problem+json` (RFC 9457).
    #[default]
    Problem,
    /// A page.
    Html,
}

/// What a refusal may tell.
#[derive(Clone, Copy, Debug, Serialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// The coarse cause.
    Category,
    /// The exact cause.
    Reason,
    /// What to do.
    Remedy,
}

impl Untrusted {
    /// Reads the plugin JSON's key `untrusted`.
    pub(crate) fn read(reader: &mut Reader, item: &Item<'_>) -> Self {
        const TOLD: [(&str, Told); 3] =
            [("category", Told::Category), ("reason", Told::Reason), ("remedy", Told::Remedy)];
        let Some(object) = reader.object(item, &["ca", "crl", "sans", "pins", "answer", "tell"]) else {
            return Self::default();
        };
        let text = |text: &str| Ok::<_, String>(text.to_owned());
        Self {
            ca: reader.optional_text(&object, "ca").unwrap_or_default(),
            crl: reader.optional_text(&object, "crl"),
            sans: reader.parsed(&object, "sans", text),
            pins: reader.parsed(&object, "pins", text),
            answer: reader.optional_choice(
                &object,
                "answer",
                &[("problem", Answer::Problem), ("html", Answer::Html)],
            ),
            tell: reader.list(&object, "tell").iter().filter_map(|item| reader.choice(item, &TOLD)).collect(),
        }
    }
}

/// Why a certificate is refused, and what could not be checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// The cause.
    pub failure: Failure,
    /// What could not be checked.
    pub unchecked: Vec<&'static str>,
}

/// Who can check signatures.
pub trait Signatures {
    /// Whether `signature` over `message` is that of the key (DER of a SubjectPublicKeyInfo), with this hash; none if
    /// that cannot be told.
    fn verify(&self, hash: &str, key: &[u8], message: &[u8], signature: &[u8]) -> Option<bool>;
}

/// What is wrong with `leaf`, or nothing as far as can be seen here.
pub fn verify(
    leaf: &[u8],
    demands: &Untrusted,
    now: OffsetDateTime,
    signatures: &impl Signatures,
) -> (Option<Failure>, Vec<&'static str>) {
    let mut unchecked = NEVER_CHECKED.to_vec();
    let found = examine(leaf, demands, now, signatures, &mut unchecked);
    (found.err(), unchecked)
}

fn examine(
    leaf: &[u8],
    demands: &Untrusted,
    now: OffsetDateTime,
    signatures: &impl Signatures,
    unchecked: &mut Vec<&'static str>,
) -> Result<(), Failure> {
    let exact = |sub_reason| Failure { depth: Some(0), ..Failure::exact(sub_reason) };
    let (_, certificate) =
        X509Certificate::from_der(leaf).map_err(|_| exact(SubReason::MalformedCertificate))?;
    let bundle: Vec<CertificateDer<'_>> = blocks(&demands.ca);
    let issuers: Vec<X509Certificate<'_>> = bundle
        .iter()
        .filter_map(|der| Some(X509Certificate::from_der(der).ok()?.1))
        .filter(|issuer| issuer.subject().as_raw() == certificate.issuer().as_raw())
        .collect();
    // Of several CAs of one name it is the one whose key signed it, if that can be told.
    let signed_by = |issuer: &&X509Certificate<'_>| signed(&certificate, issuer, signatures) == Some(true);
    let Some(issuer) = issuers.iter().find(signed_by).or(issuers.first()) else {
        let itself = certificate.subject().as_raw() == certificate.issuer().as_raw();
        return Err(if itself {
            exact(SubReason::SelfSigned)
        } else {
            Failure { certainty: Certainty::Likely, ..exact(SubReason::UnknownIssuer) }
        });
    };
    if !may_sign(issuer) {
        return Err(Failure { depth: Some(1), ..exact(SubReason::InvalidCa) });
    }
    if !for_clients(&certificate) {
        return Err(exact(SubReason::WrongPurpose));
    }
    if let Some(crl) = &demands.crl {
        revocation(&certificate, issuer, crl, now, signatures, unchecked).map_err(exact)?;
    }
    match signed(&certificate, issuer, signatures) {
        Some(true) => {}
        Some(false) => return Err(exact(SubReason::BadSignature)),
        None => unchecked.push("signature"),
    }
    let validity = certificate.validity();
    if now < validity.not_before.to_datetime() {
        return Err(exact(SubReason::NotYetValid));
    }
    if validity.not_after.to_datetime() < now {
        return Err(exact(SubReason::Expired));
    }
    identity(leaf, demands)
}

/// Whether a certificate is one of those that are wanted, whoever issued it.
pub fn identity(leaf: &[u8], demands: &Untrusted) -> Result<(), Failure> {
    if demands.sans.is_empty() && demands.pins.is_empty() {
        return Ok(());
    }
    let (_, certificate) =
        X509Certificate::from_der(leaf).map_err(|_| Failure::exact(SubReason::MalformedCertificate))?;
    if !demands.sans.is_empty() && !names(&certificate).iter().any(|name| demands.sans.contains(name)) {
        return Err(Failure::exact(SubReason::SanMismatch));
    }
    if !demands.pins.is_empty() {
        let digest = Certificate::from_der(leaf).map(|certificate| certificate.sha256).unwrap_or_default();
        let pinned = |pin: &String| pin.replace(':', "").eq_ignore_ascii_case(&digest);
        if !demands.pins.iter().any(pinned) {
            return Err(Failure::exact(SubReason::PinMismatch));
        }
    }
    Ok(())
}

fn revocation(
    certificate: &X509Certificate<'_>,
    issuer: &X509Certificate<'_>,
    crls: &str,
    now: OffsetDateTime,
    signatures: &impl Signatures,
    unchecked: &mut Vec<&'static str>,
) -> Result<(), SubReason> {
    let lists: Vec<CertificateRevocationListDer<'_>> = blocks(crls);
    let list = lists
        .iter()
        .filter_map(|der| Some(CertificateRevocationList::from_der(der).ok()?.1))
        .find(|list| list.issuer().as_raw() == issuer.subject().as_raw())
        .ok_or(SubReason::CrlMissing)?;
    let list_body = list.tbs_cert_list.as_ref();
    match checked(issuer, &list.signature_algorithm, list_body, &list.signature_value.data, signatures) {
        Some(true) => {}
        Some(false) => return Err(SubReason::CrlInvalid),
        None => unchecked.push("crl_signature"),
    }
    if now < list.last_update().to_datetime() {
        return Err(SubReason::CrlNotYetValid);
    }
    if list.next_update().is_some_and(|until| until.to_datetime() < now) {
        return Err(SubReason::CrlExpired);
    }
    let revoked = |serial: &[u8]| significant(serial) == significant(certificate.raw_serial());
    if list.iter_revoked_certificates().any(|entry| revoked(entry.raw_serial())) {
        return Err(SubReason::Revoked);
    }
    Ok(())
}

fn signed(
    certificate: &X509Certificate<'_>,
    issuer: &X509Certificate<'_>,
    signatures: &impl Signatures,
) -> Option<bool> {
    let body = certificate.tbs_certificate.as_ref();
    checked(issuer, &certificate.signature_algorithm, body, &certificate.signature_value.data, signatures)
}

fn checked(
    issuer: &X509Certificate<'_>,
    algorithm: &AlgorithmIdentifier<'_>,
    message: &[u8],
    signature: &[u8],
    signatures: &impl Signatures,
) -> Option<bool> {
    let hash = match algorithm.algorithm.to_id_string().as_str() {
        "1.2.840.10045.4.3.2" | "1.2.840.113549.1.1.11" => "sha256",
        "1.2.840.10045.4.3.3" | "1.2.840.113549.1.1.12" => "sha384",
        "1.2.840.10045.4.3.4" | "1.2.840.113549.1.1.13" => "sha512",
        _ => return None,
    };
    signatures.verify(hash, issuer.public_key().raw, message, signature)
}

fn may_sign(issuer: &X509Certificate<'_>) -> bool {
    let usage = issuer.key_usage().ok().flatten();
    issuer.is_ca() && usage.is_none_or(|usage| usage.value.key_cert_sign())
}

fn for_clients(certificate: &X509Certificate<'_>) -> bool {
    let usage = certificate.extended_key_usage().ok().flatten();
    usage.is_none_or(|usage| usage.value.client_auth || usage.value.any)
}

fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let mut names = Vec::new();
    for extension in certificate.extensions() {
        let ParsedExtension::SubjectAlternativeName(parsed) = extension.parsed_extension() else { continue };
        for name in &parsed.general_names {
            match name {
                GeneralName::DNSName(text) | GeneralName::URI(text) | GeneralName::RFC822Name(text) => {
                    names.push((*text).to_owned());
                }
                GeneralName::IPAddress(octets) => names.extend(address(octets)),
                _ => {}
            }
        }
    }
    names
}

fn address(octets: &[u8]) -> Option<String> {
    use std::net::{Ipv4Addr, Ipv6Addr};
    if let Ok(octets) = <[u8; 4]>::try_from(octets) {
        return Some(Ipv4Addr::from(octets).to_string());
    }
    <[u8; 16]>::try_from(octets).ok().map(|octets| Ipv6Addr::from(octets).to_string())
}

/// A serial number without its leading zeros.
fn significant(serial: &[u8]) -> &[u8] {
    let zeros = serial.iter().take_while(|octet| **octet == 0).count();
    serial.get(zeros..).unwrap_or_default()
}

/// What is in those blocks of a PEM text that are of this kind.
fn blocks<T: PemObject>(pem: &str) -> Vec<T> {
    T::pem_slice_iter(pem.as_bytes()).filter_map(Result::ok).collect()
}

#[cfg(test)]
mod tests;
