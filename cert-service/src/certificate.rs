//! Writes X.509 v3 certificates: what is copied from a CA is copied byte for byte.

pub mod der;

use aws_lc_rs::rand;
use time::OffsetDateTime;

use crate::ca::key::{SignError, SigningKey};
use der::{Writer, tag};

/// 128 random bits, the top two `01`: positive, never zero, always sixteen bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Serial([u8; 16]);

impl Serial {
    /// Draws a new one.
    pub fn random() -> Result<Serial, SignError> {
        let mut bytes = [0; 16];
        rand::fill(&mut bytes).map_err(|_| SignError::NoRandomness)?;
        let [first, ..] = &mut bytes;
        *first = (*first & 0x3f) | 0x40;
        Ok(Serial(bytes))
    }

    /// Lower-case hexadecimal.
    pub fn to_hex(self) -> String {
        hex(&self.0)
    }
}

/// What a certificate says, in its DER parts.
pub(crate) struct Template<'a> {
    pub serial: Serial,
    pub issuer: &'a [u8],
    pub not_before: OffsetDateTime,
    pub not_after: OffsetDateTime,
    pub subject: &'a [u8],
    pub public_key_info: &'a [u8],
}

impl Template<'_> {
    /// Writes and signs the certificate.
    pub fn sign(&self, key: &SigningKey, extensions: impl FnOnce(&mut Writer)) -> Result<Vec<u8>, SignError> {
        let mut body = Writer::with_capacity(512);
        body.nested(tag::SEQUENCE, |body| {
            body.nested(tag::explicit(0), |version| version.primitive(tag::INTEGER, &[2]));
            body.primitive(tag::INTEGER, &self.serial.0);
            body.raw(key.signature_algorithm());
            body.raw(self.issuer);
            body.nested(tag::SEQUENCE, |validity| {
                validity.time(self.not_before);
                validity.time(self.not_after);
            });
            body.raw(self.subject);
            body.raw(self.public_key_info);
            body.nested(tag::explicit(3), |list| list.nested(tag::SEQUENCE, extensions));
        });
        let body = body.into_bytes();
        let signature = key.sign(&body)?;
        let mut certificate = Writer::with_capacity(body.len() + signature.len() + 64);
        certificate.nested(tag::SEQUENCE, |certificate| {
            certificate.raw(&body);
            certificate.raw(key.signature_algorithm());
            certificate.bit_string(0, &signature);
        });
        Ok(certificate.into_bytes())
    }
}

/// Object identifiers, without tag and length.
pub(crate) mod oid {
    pub const COMMON_NAME: &[u8] = &[0x55, 4, 3];
    pub const SUBJECT_KEY_IDENTIFIER: &[u8] = &[0x55, 29, 14];
    pub const KEY_USAGE: &[u8] = &[0x55, 29, 15];
    pub const SUBJECT_ALTERNATIVE_NAME: &[u8] = &[0x55, 29, 17];
    pub const BASIC_CONSTRAINTS: &[u8] = &[0x55, 29, 19];
    pub const AUTHORITY_KEY_IDENTIFIER: &[u8] = &[0x55, 29, 35];
    pub const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 29, 37];
    pub const SERVER_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 1];
}

/// Writes one extension; `value` writes what its OCTET STRING holds.
pub(crate) fn extension(list: &mut Writer, oid: &[u8], critical: bool, value: impl FnOnce(&mut Writer)) {
    list.nested(tag::SEQUENCE, |extension| {
        extension.primitive(tag::OBJECT_IDENTIFIER, oid);
        if critical {
            extension.primitive(tag::BOOLEAN, &[0xff]);
        }
        extension.nested(tag::OCTET_STRING, value);
    });
}

/// Lower-case hexadecimal of any bytes.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn serials_are_sixteen_bytes_positive_and_never_repeat() {
        let serials: HashSet<Serial> = (0..10_000).map(|_| Serial::random().unwrap()).collect();
        assert_eq!(serials.len(), 10_000);
        assert!(serials.iter().all(|serial| serial.0[0] & 0xc0 == 0x40));
    }
}
