//! Leaf certificates: one name, a day, a key of their own.

use std::net::IpAddr;
use std::time::Duration;

use aws_lc_rs::digest;
use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::X509Version;
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
    let host = HostName::parse("probe.outgate.invalid").map_err(|error| error.to_string())?;
    let leaf = mint(ca, &host, *TTL_RANGE.start(), now).map_err(|error| error.to_string())?;
    lint(ca, &host, &leaf)
}

/// What [`lint`] looks at.
pub const LINTED: &str = "version, serial, issuer, validity, subject, name, key usage, extended key usage, key identifier, signature";

/// Reads a leaf as a strict client would; `Err` says what is wrong.
pub fn lint(ca: &Ca, host: &HostName, leaf: &Leaf) -> Result<(), String> {
    let (rest, read) = X509Certificate::from_der(&leaf.der).map_err(|error| error.to_string())?;
    let (_, issuer) = X509Certificate::from_der(ca.issuing_der()).map_err(|error| error.to_string())?;
    let names = read.subject_alternative_name().map_err(|error| error.to_string())?;
    let address = host.ip().map(|ip| match ip {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    });
    let name = match &address {
        Some(octets) => GeneralName::IPAddress(octets),
        None => GeneralName::DNSName(host.as_str()),
    };
    let usage = read.key_usage().map_err(|error| error.to_string())?;
    let purpose = read.extended_key_usage().map_err(|error| error.to_string())?;
    let key_id = read.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(found) => Some(found.key_identifier.as_ref()?.0),
        _ => None,
    });
    let validity = read.validity();
    let within = validity.not_before.to_datetime() >= ca.not_before()
        && validity.not_after.to_datetime() <= ca.not_after()
        && validity.not_before < validity.not_after;
    for (right, wrong) in [
        (rest.is_empty(), "there are bytes after its end"),
        (read.version() == X509Version::V3, "it is not of version 3"),
        // RFC 5280, 4.1.2.2.
        (read.raw_serial().len() <= 20, "its serial number is longer than 20 bytes"),
        (
            read.raw_serial().first().is_some_and(|first| (1..0x80).contains(first)),
            "its serial number is not positive",
        ),
        (
            read.issuer().as_raw() == issuer.subject().as_raw(),
            "its issuer is not the CA's subject, byte for byte",
        ),
        (within, "it is valid when its CA is not"),
        (read.subject().iter().next().is_none(), "its subject is not empty"),
        // RFC 5280, 4.1.2.6: critical where the subject is empty.
        (
            names.is_some_and(|found| found.critical && found.value.general_names == [name]),
            "its name is not the one that was asked, alone and critical",
        ),
        (
            usage.is_some_and(|found| {
                found.critical && found.value.digital_signature() && found.value.flags == 1
            }),
            "its key usage is not digitalSignature alone",
        ),
        (purpose.is_some_and(|found| found.value.server_auth), "its extended key usage lacks serverAuth"),
        (key_id == Some(ca.key_id()), "its authority key identifier is not the CA's"),
        (!read.is_ca(), "it is a CA"),
    ] {
        if !right {
            return Err(wrong.to_owned());
        }
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
