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

use crate::certificate::{Certificate, ip_address};
use crate::classify::Failure;
use crate::der::NUMBER;
use crate::taxonomy::{Certainty, SubReason};
use crate::x509::{RevocationList, Signed, X509Certificate};

/// What is never checked here: it takes the chain that the client sent.
const NEVER_CHECKED: [&str; 3] = ["intermediates", "path_length", "name_constraints"];

/// What ECDSA (1.2.840.10045.4.3) and RSA (1.2.840.113549.1.1) sign.
const HASHES: [(&[u8], &str); 6] = [
    (&[0x2A, 0x86, 0x48, 0xCE, 0x3D, 4, 3, 2], "sha256"),
    (&[0x2A, 0x86, 0x48, 0xCE, 0x3D, 4, 3, 3], "sha384"),
    (&[0x2A, 0x86, 0x48, 0xCE, 0x3D, 4, 3, 4], "sha512"),
    (&[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, 11], "sha256"),
    (&[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, 12], "sha384"),
    (&[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, 13], "sha512"),
];

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
    let certificate = X509Certificate::read(leaf).ok_or_else(|| exact(SubReason::MalformedCertificate))?;
    let bundle: Vec<CertificateDer<'_>> = blocks(&demands.ca);
    let issuers: Vec<X509Certificate<'_>> = bundle
        .iter()
        .filter_map(|der| X509Certificate::read(der))
        .filter(|issuer| issuer.subject.raw == certificate.issuer.raw)
        .collect();
    // Of several CAs of one name it is the one whose key signed it, if that can be told.
    let signed_by =
        |issuer: &&X509Certificate<'_>| checked(&certificate.signed, issuer, signatures) == Some(true);
    let Some(issuer) = issuers.iter().find(signed_by).or(issuers.first()) else {
        return Err(if certificate.is_self_issued() {
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
    match checked(&certificate.signed, issuer, signatures) {
        Some(true) => {}
        Some(false) => return Err(exact(SubReason::BadSignature)),
        None => unchecked.push("signature"),
    }
    if now < certificate.not_before {
        return Err(exact(SubReason::NotYetValid));
    }
    if certificate.not_after < now {
        return Err(exact(SubReason::Expired));
    }
    identity(leaf, demands)
}

/// Whether a certificate is one of those that are wanted, whoever issued it.
pub fn identity(leaf: &[u8], demands: &Untrusted) -> Result<(), Failure> {
    if demands.sans.is_empty() && demands.pins.is_empty() {
        return Ok(());
    }
    let certificate =
        X509Certificate::read(leaf).ok_or_else(|| Failure::exact(SubReason::MalformedCertificate))?;
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
        .filter_map(|der| RevocationList::read(der))
        .find(|list| list.issuer.raw == issuer.subject.raw)
        .ok_or(SubReason::CrlMissing)?;
    match checked(&list.signed, issuer, signatures) {
        Some(true) => {}
        Some(false) => return Err(SubReason::CrlInvalid),
        None => unchecked.push("crl_signature"),
    }
    if now < list.this_update {
        return Err(SubReason::CrlNotYetValid);
    }
    if list.next_update.is_some_and(|until| until < now) {
        return Err(SubReason::CrlExpired);
    }
    let revoked = |serial: &&[u8]| significant(serial) == significant(certificate.serial);
    if list.serials.iter().any(revoked) {
        return Err(SubReason::Revoked);
    }
    Ok(())
}

/// Whether the issuer's key signed it.
fn checked(signed: &Signed<'_>, issuer: &X509Certificate<'_>, signatures: &impl Signatures) -> Option<bool> {
    let (_, hash) = HASHES.iter().find(|(algorithm, _)| *algorithm == signed.algorithm)?;
    signatures.verify(hash, issuer.key.raw, signed.body, signed.signature)
}

fn may_sign(issuer: &X509Certificate<'_>) -> bool {
    issuer.is_ca() && issuer.signs_certificates().unwrap_or(true)
}

fn for_clients(certificate: &X509Certificate<'_>) -> bool {
    certificate.authenticates_clients().unwrap_or(true)
}

fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let names = certificate.alternative_names().flatten().flatten();
    names
        .filter_map(|name| match name.tag & NUMBER {
            1 | 2 | 6 => str::from_utf8(name.content).ok().map(str::to_owned),
            7 => ip_address(name.content),
            _ => None,
        })
        .collect()
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
