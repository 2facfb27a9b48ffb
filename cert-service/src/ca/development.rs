//! Creates the development CA.

use std::path::Path;

use aws_lc_rs::digest;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::key::{GeneratedKey, SignError, SigningKey};
use super::{CaError, KEY_FILE, store};
use crate::certificate::der::{Writer, tag};
use crate::certificate::{Serial, Template, extension, hex, oid};
use crate::pem;

const LIFE: time::Duration = time::Duration::days(3650);

/// Creates the CA unless its key is there; true if it did.
pub(super) fn ensure(state: &Path, now: OffsetDateTime) -> Result<bool, CaError> {
    let path = state.join(KEY_FILE);
    if path.exists() {
        return Ok(false);
    }
    write_new(&path, now)?;
    Ok(true)
}

/// Writes a new CA to this file.
pub(super) fn write_new(path: &Path, now: OffsetDateTime) -> Result<(), CaError> {
    let file = create(now).map_err(|error| CaError::File {
        action: "create a CA for",
        path: path.to_owned(),
        source: std::io::Error::other(error),
    })?;
    store::write(path, file.as_bytes(), 0o600)
}

/// A key and its certificate in one PEM file, so that they are written together or not at all.
fn create(now: OffsetDateTime) -> Result<Zeroizing<String>, SignError> {
    let GeneratedKey { key, pem: key_pem, public_key_info } = SigningKey::generate()?;
    let fingerprint = digest::digest(&digest::SHA256, key.public_key());
    // RFC 7093: the leftmost 160 bits of the SHA-256 of the public key.
    let key_id: Vec<u8> = fingerprint.as_ref().iter().copied().take(20).collect();
    let short: String = hex(&key_id).chars().take(8).collect();
    let name = name(&format!("Outgate development CA {short}"));
    let template = Template {
        serial: Serial::random()?,
        issuer: &name,
        not_before: now.saturating_sub(time::Duration::DAY),
        not_after: now.saturating_add(LIFE),
        subject: &name,
        public_key_info: &public_key_info,
    };
    let der = template.sign(&key, |list| {
        extension(list, oid::BASIC_CONSTRAINTS, true, |value| {
            value.nested(tag::SEQUENCE, |constraints| {
                constraints.primitive(tag::BOOLEAN, &[0xff]);
                // It signs leaves and no CA.
                constraints.primitive(tag::INTEGER, &[0]);
            });
        });
        // keyCertSign and cRLSign, the sixth and seventh bit.
        extension(list, oid::KEY_USAGE, true, |value| value.bit_string(1, &[0x06]));
        extension(list, oid::SUBJECT_KEY_IDENTIFIER, false, |value| {
            value.primitive(tag::OCTET_STRING, &key_id);
        });
    })?;
    let certificate = pem::encode("CERTIFICATE", &der);
    let mut file = Zeroizing::new(String::with_capacity(key_pem.len() + certificate.len()));
    file.push_str(&key_pem);
    file.push_str(&certificate);
    Ok(file)
}

/// A distinguished name of one common name.
fn name(common_name: &str) -> Vec<u8> {
    let mut writer = Writer::with_capacity(64);
    writer.nested(tag::SEQUENCE, |name| {
        name.nested(tag::SET, |relative| {
            relative.nested(tag::SEQUENCE, |attribute| {
                attribute.primitive(tag::OBJECT_IDENTIFIER, oid::COMMON_NAME);
                attribute.primitive(tag::UTF8_STRING, common_name.as_bytes());
            });
        });
    });
    writer.into_bytes()
}
