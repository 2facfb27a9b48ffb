//! Leaf certificates: one name, a day, a key of their own.

use std::net::IpAddr;
use std::time::Duration;

use aws_lc_rs::digest;
use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;
use zeroize::Zeroizing;

use crate::ca::key::SignError;
use crate::ca::{BACKDATE, Ca};
use crate::certificate::der::{Writer, tag};
use crate::certificate::{Serial, Template, extension, hex, oid};
use crate::pem;
use outgate_policy::HostName;

/// The shortest and the longest life that `--leaf-ttl` may give.
pub const TTL_RANGE: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(3600)..=Duration::from_secs(7 * 24 * 3600);

/// A certificate and the key that only it has.
pub struct Leaf {
    /// The leaf, the issuing CA and its intermediates as PEM.
    pub chain_pem: String,
    /// The private key as PKCS#8 PEM.
    pub key_pem: Zeroizing<String>,
    /// The leaf in DER.
    pub der: Vec<u8>,
    /// Its serial number.
    pub serial: Serial,
    /// Its first second.
    pub not_before: OffsetDateTime,
    /// Its last second.
    pub not_after: OffsetDateTime,
}

impl Leaf {
    /// The fingerprint, in lower-case hexadecimal.
    pub fn sha256(&self) -> String {
        hex(digest::digest(&digest::SHA256, &self.der).as_ref())
    }
}

/// Mints a leaf for one host.
pub fn mint(ca: &Ca, host: &HostName, ttl: Duration, now: OffsetDateTime) -> Result<Leaf, SignError> {
    // Certificates know no fractions of seconds.
    let now = now.replace_nanosecond(0).unwrap_or(now);
    let pair =
        EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(|_| SignError::NoRandomness)?;
    let key_document = pair.to_pkcs8v1().map_err(|_| SignError::Failed)?;
    let public_key_info: PublicKeyX509Der<'_> = pair.public_key().as_der().map_err(|_| SignError::Failed)?;
    let ttl = time::Duration::try_from(ttl).unwrap_or(time::Duration::DAY);
    let serial = Serial::random()?;
    let not_before = now.saturating_sub(BACKDATE).max(ca.not_before());
    let not_after = now.saturating_add(ttl).min(ca.not_after());
    let template = Template {
        serial,
        issuer: ca.subject(),
        not_before,
        not_after,
        // No subject: clients read the alternative name alone, which is then critical.
        subject: &[tag::SEQUENCE, 0],
        public_key_info: public_key_info.as_ref(),
    };
    let der = template.sign(ca.key(), |list| {
        // digitalSignature, the first bit.
        extension(list, oid::KEY_USAGE, true, |value| value.bit_string(7, &[0x80]));
        extension(list, oid::EXTENDED_KEY_USAGE, false, |value| {
            value.nested(tag::SEQUENCE, |purposes| {
                purposes.primitive(tag::OBJECT_IDENTIFIER, oid::SERVER_AUTH);
            });
        });
        extension(list, oid::SUBJECT_ALTERNATIVE_NAME, true, |value| {
            value.nested(tag::SEQUENCE, |names| alternative_name(names, host));
        });
        extension(list, oid::AUTHORITY_KEY_IDENTIFIER, false, |value| {
            value.nested(tag::SEQUENCE, |identifier| {
                identifier.primitive(tag::implicit(0), ca.key_id());
            });
        });
    })?;
    let mut chain_pem = pem::encode("CERTIFICATE", &der).to_string();
    chain_pem.push_str(ca.chain_pem());
    Ok(Leaf {
        chain_pem,
        key_pem: pem::encode("PRIVATE KEY", key_document.as_ref()),
        der,
        serial,
        not_before,
        not_after,
    })
}

/// Mints a leaf for nobody and reads it as a client would; `Err` says what is wrong.
pub(crate) fn probe(ca: &Ca, now: OffsetDateTime) -> Result<(), String> {
    const NAME: &str = "probe.outgate.invalid";
    let host = HostName::parse(NAME).map_err(|error| error.to_string())?;
    let leaf = mint(ca, &host, *TTL_RANGE.start(), now).map_err(|error| error.to_string())?;
    let (rest, read) = X509Certificate::from_der(&leaf.der).map_err(|error| error.to_string())?;
    let (_, issuer) = X509Certificate::from_der(ca.issuing_der()).map_err(|error| error.to_string())?;
    if !rest.is_empty() {
        return Err("there are bytes after its end".to_owned());
    }
    if read.issuer().as_raw() != issuer.subject().as_raw() {
        return Err(format!("its issuer `{}` is not the CA's subject", read.issuer()));
    }
    let names = read.subject_alternative_name().map_err(|error| error.to_string())?;
    if !names.is_some_and(|found| found.value.general_names == [GeneralName::DNSName(NAME)]) {
        return Err("its name is not the one that was asked".to_owned());
    }
    read.verify_signature(Some(issuer.public_key()))
        .map_err(|error| format!("its signature does not verify with the CA's key ({error})"))
}

fn alternative_name(names: &mut Writer, host: &HostName) {
    const DNS_NAME: u8 = tag::implicit(2);
    const IP_ADDRESS: u8 = tag::implicit(7);
    match host.ip() {
        Some(IpAddr::V4(address)) => names.primitive(IP_ADDRESS, &address.octets()),
        Some(IpAddr::V6(address)) => names.primitive(IP_ADDRESS, &address.octets()),
        None => names.primitive(DNS_NAME, host.as_str().as_bytes()),
    }
}
