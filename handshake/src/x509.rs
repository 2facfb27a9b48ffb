//! X.509 certificates and revocation lists (RFC 5280), as much of them as is told or checked here.
//!
//! All of it are views of the input, and `None` where that is not DER. The tests judge them by `x509-parser`, which
//! was a tenth of outgate.wasm.

use std::fmt::Write as _;

use time::{Date, Duration, Month, OffsetDateTime};

use crate::der::{
    self, BIT_STRING, BOOLEAN, CLASS, CONTEXT, Der, Element, GENERALIZED_TIME, INTEGER, OBJECT_IDENTIFIER,
    OCTET_STRING, SEQUENCE, SET, UNIVERSAL, UTC_TIME,
};
use crate::distinguished_name::push_hexadecimal;

/// 2.5.29.15
const KEY_USAGE: &[u8] = &[0x55, 0x1D, 15];
/// 2.5.29.17
const SUBJECT_ALTERNATIVE_NAME: &[u8] = &[0x55, 0x1D, 17];
/// 2.5.29.19
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1D, 19];
/// 2.5.29.37
const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1D, 37];
/// 2.5.29.37.0
const ANY_PURPOSE: &[u8] = &[0x55, 0x1D, 37, 0];
/// 1.3.6.1.5.5.7.3.2
const CLIENT_AUTHENTICATION: &[u8] = &[0x2B, 6, 1, 5, 5, 7, 3, 2];

/// `Certificate` and `CertificateList` alike: something that is signed (4.1.1, 5.1.1).
#[derive(Clone, Copy, Debug)]
pub struct Signed<'a> {
    /// What is signed.
    pub body: &'a [u8],
    /// The object identifier of the signature's algorithm.
    pub algorithm: &'a [u8],
    /// The signature.
    pub signature: &'a [u8],
}

impl<'a> Signed<'a> {
    /// Also what is to be read of the body.
    fn read(der: &'a [u8]) -> Option<(Self, Der<'a>)> {
        // What follows it is not looked at.
        let mut fields = Der(der).sequence()?;
        let body = fields.element()?;
        let algorithm = Algorithm::read(&mut fields)?.identifier;
        let signature = der::bits(fields.expect(BIT_STRING)?)?;
        fields.end()?;
        Some((Self { body: body.raw, algorithm, signature }, body.fields()?))
    }
}

/// `TBSCertificate` (4.1.2) and its signature.
#[derive(Clone, Debug)]
pub struct X509Certificate<'a> {
    /// How it was signed.
    pub signed: Signed<'a>,
    /// Two's complement (4.1.2.2); some CAs have signed negative ones.
    pub serial: &'a [u8],
    /// Who signed it (4.1.2.4).
    pub issuer: Name<'a>,
    /// Its first second (4.1.2.5).
    pub not_before: OffsetDateTime,
    /// Its last second (4.1.2.5).
    pub not_after: OffsetDateTime,
    /// Whose it is (4.1.2.6).
    pub subject: Name<'a>,
    /// The subject's key (4.1.2.7).
    pub key: PublicKey<'a>,
    extensions: Vec<Extension<'a>>,
}

impl<'a> X509Certificate<'a> {
    /// Reads DER; what follows the certificate is not looked at.
    pub fn read(der: &'a [u8]) -> Option<Self> {
        let (signed, mut body) = Signed::read(der)?;
        if let Some(version) = body.optional(CONTEXT | 0x20)? {
            is_version(Der(version).expect(INTEGER)?)?;
        }
        let serial = body.expect(INTEGER)?;
        let _repeated = Algorithm::read(&mut body)?;
        let issuer = Name::read(&mut body)?;
        let mut validity = body.sequence()?;
        let (not_before, not_after) = (time(&mut validity)?, time(&mut validity)?);
        validity.end()?;
        let subject = Name::read(&mut body)?;
        let key = PublicKey::read(&mut body)?;
        // issuerUniqueID, subjectUniqueID (4.1.2.8)
        for tag in [CONTEXT | 1, CONTEXT | 2] {
            if let Some(identifier) = body.optional(tag)? {
                der::bits(identifier)?;
            }
        }
        let extensions = extensions(body, CONTEXT | 0x20 | 3)?;
        Some(Self { signed, serial, issuer, not_before, not_after, subject, key, extensions })
    }

    /// Whether it names itself as its issuer.
    pub fn is_self_issued(&self) -> bool {
        self.subject.raw == self.issuer.raw
    }

    /// The `GeneralName`s (4.2.1.6) of each `subjectAltName`, each of a class of its own; none of one that does not
    /// parse.
    pub fn alternative_names(&self) -> impl Iterator<Item = Option<Vec<Element<'a>>>> {
        let extensions = self.extensions.iter();
        extensions.filter(|extension| extension.identifier == SUBJECT_ALTERNATIVE_NAME).map(|extension| {
            let names = Der(extension.value).sequence()?.elements()?;
            names.iter().all(|name| name.tag & CLASS == CONTEXT).then_some(names)
        })
    }

    /// `cA` of `basicConstraints` (4.2.1.9).
    pub fn is_ca(&self) -> bool {
        self.extension(BASIC_CONSTRAINTS).and_then(authority).unwrap_or(false)
    }

    /// `keyCertSign` of `keyUsage` (4.2.1.3), if that is there and parses.
    pub fn signs_certificates(&self) -> Option<bool> {
        let bits = der::bits(Der(self.extension(KEY_USAGE)?).expect(BIT_STRING)?)?;
        Some(bits.first().is_some_and(|octet| octet & 0x04 != 0))
    }

    /// Whether `extKeyUsage` (4.2.1.12) has `id-kp-clientAuth` or any purpose, if that is there and parses.
    pub fn authenticates_clients(&self) -> Option<bool> {
        let purposes = Der(self.extension(EXTENDED_KEY_USAGE)?).sequence()?.elements()?;
        let fits = |purpose: &Element<'_>| [CLIENT_AUTHENTICATION, ANY_PURPOSE].contains(&purpose.content);
        let parses = purposes.iter().all(|purpose| purpose.tag == OBJECT_IDENTIFIER);
        parses.then(|| purposes.iter().any(fits))
    }

    /// The value of an extension, if it is there once: which of two counts, nobody says.
    fn extension(&self, identifier: &[u8]) -> Option<&'a [u8]> {
        let mut values = self.extensions.iter().filter(|extension| extension.identifier == identifier);
        let only = values.next()?;
        values.next().is_none().then_some(only.value)
    }
}

/// `TBSCertList` (5.1.2) and its signature.
#[derive(Clone, Debug)]
pub struct RevocationList<'a> {
    /// How it was signed.
    pub signed: Signed<'a>,
    /// Who signed it (5.1.2.3).
    pub issuer: Name<'a>,
    /// When it was made (5.1.2.4).
    pub this_update: OffsetDateTime,
    /// When the next one is made at the latest (5.1.2.5).
    pub next_update: Option<OffsetDateTime>,
    /// The serial numbers of `revokedCertificates` (5.1.2.6).
    pub serials: Vec<&'a [u8]>,
}

impl<'a> RevocationList<'a> {
    /// Reads DER; what follows the list is not looked at.
    pub fn read(der: &'a [u8]) -> Option<Self> {
        let (signed, mut body) = Signed::read(der)?;
        if let Some(version) = body.optional(INTEGER)? {
            is_version(version)?;
        }
        let _repeated = Algorithm::read(&mut body)?;
        let issuer = Name::read(&mut body)?;
        let this_update = time(&mut body)?;
        let next_update = match body.0.first() {
            Some(&(UTC_TIME | GENERALIZED_TIME)) => Some(time(&mut body)?),
            _ => None,
        };
        let revoked = Der(body.optional(SEQUENCE)?.unwrap_or_default()).elements()?;
        let serials = revoked.into_iter().map(revoked_serial).collect::<Option<_>>()?;
        extensions(body, CONTEXT | 0x20)?;
        Some(Self { signed, issuer, this_update, next_update, serials })
    }
}

/// The serial number of an entry; its own extensions are not looked at.
fn revoked_serial(entry: Element<'_>) -> Option<&[u8]> {
    let mut fields = entry.fields()?;
    let serial = fields.expect(INTEGER)?;
    time(&mut fields)?;
    Some(serial)
}

/// `Name` (4.1.2.4).
#[derive(Clone, Debug)]
pub struct Name<'a> {
    /// All of it, by which names are compared.
    pub raw: &'a [u8],
    /// In their order.
    pub attributes: Vec<Attribute<'a>>,
}

/// `AttributeTypeAndValue` (4.1.2.4).
#[derive(Clone, Copy, Debug)]
pub struct Attribute<'a> {
    /// The object identifier of its type.
    pub identifier: &'a [u8],
    /// Its value.
    pub value: Element<'a>,
    /// Whether it is the first of a `RelativeDistinguishedName`.
    pub begins: bool,
}

impl<'a> Name<'a> {
    /// Reads a name, which may be empty.
    pub fn read(der: &mut Der<'a>) -> Option<Self> {
        let name = der.element()?;
        let mut attributes = Vec::new();
        for relative in name.fields()?.elements()? {
            let set = Der(relative.content).elements()?;
            if relative.tag != SET || set.is_empty() {
                return None;
            }
            for (index, attribute) in set.into_iter().enumerate() {
                let mut fields = attribute.fields()?;
                let (identifier, value) = (fields.expect(OBJECT_IDENTIFIER)?, fields.element()?);
                fields.end()?;
                if value.tag & CLASS != UNIVERSAL {
                    return None;
                }
                attributes.push(Attribute { identifier, value, begins: index == 0 });
            }
        }
        Some(Self { raw: name.raw, attributes })
    }
}

/// `AlgorithmIdentifier` (4.1.1.2).
#[derive(Clone, Copy, Debug)]
pub struct Algorithm<'a> {
    /// Its object identifier.
    pub identifier: &'a [u8],
    /// What else it needs.
    pub parameters: Option<Element<'a>>,
}

impl<'a> Algorithm<'a> {
    fn read(der: &mut Der<'a>) -> Option<Self> {
        let mut fields = der.sequence()?;
        let identifier = fields.expect(OBJECT_IDENTIFIER)?;
        let parameters = if fields.0.is_empty() { None } else { Some(fields.element()?) };
        fields.end()?;
        Some(Self { identifier, parameters })
    }
}

/// `SubjectPublicKeyInfo` (4.1.2.7).
#[derive(Clone, Copy, Debug)]
pub struct PublicKey<'a> {
    /// All of it.
    pub raw: &'a [u8],
    /// Of what kind it is.
    pub algorithm: Algorithm<'a>,
    bits: &'a [u8],
}

impl<'a> PublicKey<'a> {
    fn read(der: &mut Der<'a>) -> Option<Self> {
        let key = der.element()?;
        let mut fields = key.fields()?;
        let algorithm = Algorithm::read(&mut fields)?;
        let bits = der::bits(fields.expect(BIT_STRING)?)?;
        fields.end()?;
        Some(Self { raw: key.raw, algorithm, bits })
    }

    /// The object identifier of an elliptic curve (RFC 5480, 2.1.1), if the curve is named.
    pub fn curve(&self) -> Option<&'a [u8]> {
        let parameters = self.algorithm.parameters?;
        (parameters.tag == OBJECT_IDENTIFIER).then_some(parameters.content)
    }

    /// The bits of the modulus of an `RSAPublicKey` (RFC 3279, 2.3.1); none are those of a negative one.
    pub fn modulus_size(&self) -> Option<usize> {
        let mut fields = Der(self.bits).sequence()?;
        let modulus = der::integer(fields.expect(INTEGER)?)?;
        let _exponent = der::integer(fields.expect(INTEGER)?)?;
        Some(match modulus {
            [0, digits @ ..] => digits.len() * 8,
            [first @ ..0x80, ..] => modulus.len() * 8 - usize::try_from(first.leading_zeros()).ok()?,
            _ => 0,
        })
    }
}

/// `Extension` (4.1.2.9); whether it is critical is nothing to us.
#[derive(Clone, Copy, Debug)]
struct Extension<'a> {
    identifier: &'a [u8],
    value: &'a [u8],
}

impl<'a> Extension<'a> {
    fn read(element: Element<'a>) -> Option<Self> {
        let mut fields = element.fields()?;
        let identifier = fields.expect(OBJECT_IDENTIFIER)?;
        if fields.optional(BOOLEAN)?.is_some_and(|critical| critical.len() != 1) {
            return None;
        }
        let value = fields.expect(OCTET_STRING)?;
        fields.end()?;
        Some(Self { identifier, value })
    }
}

/// `Extensions` with this explicit tag (4.1.2.9, 5.1.2.7): the last that may come.
fn extensions(mut rest: Der<'_>, tag: u8) -> Option<Vec<Extension<'_>>> {
    let extensions = rest.optional(tag)?;
    rest.end()?;
    let Some(extensions) = extensions else { return Some(Vec::new()) };
    let mut explicit = Der(extensions);
    let list = explicit.sequence()?;
    explicit.end()?;
    list.elements()?.into_iter().map(Extension::read).collect()
}

/// `BasicConstraints` (4.2.1.9).
fn authority(value: &[u8]) -> Option<bool> {
    let mut fields = Der(value).sequence()?;
    let authority = fields.optional(BOOLEAN)?;
    let length = fields.optional(INTEGER)?;
    fields.end()?;
    if let Some(length) = length {
        // BoringSSL takes no certificate with a negative one.
        der::integer(length)?.first().filter(|first| **first < 0x80)?;
    }
    match authority {
        None => Some(false),
        // Of those in BER, BoringSSL and others take each that is not zero.
        Some([octet]) => Some(*octet != 0),
        Some(_) => None,
    }
}

/// `Version` (4.1.2.1, 5.1.2.1): v1, v2 or v3.
fn is_version(number: &[u8]) -> Option<()> {
    matches!(number, [0..=2]).then_some(())
}

/// `Time` (4.1.2.5): with `Z`, or with an offset or without seconds as before RFC 2459.
fn time(der: &mut Der<'_>) -> Option<OffsetDateTime> {
    let Element { tag, content: mut text, .. } = der.element()?;
    let text = &mut text;
    let year = match tag {
        UTC_TIME => match digits(text)? {
            year @ 50.. => 1900 + i32::from(year),
            year => 2000 + i32::from(year),
        },
        GENERALIZED_TIME => i32::from(digits(text)?) * 100 + i32::from(digits(text)?),
        _ => return None,
    };
    let (month, day, hour, minute) = (digits(text)?, digits(text)?, digits(text)?, digits(text)?);
    let second = if *text == b"Z" { 0 } else { digits(text)? };
    let offset = match *text {
        [b'Z'] => 0,
        [sign @ (b'+' | b'-'), offset @ ..] if tag == UTC_TIME => {
            let mut offset = offset;
            let (hours @ ..24, minutes @ ..60) = (digits(&mut offset)?, digits(&mut offset)?) else {
                return None;
            };
            Der(offset).end()?;
            let minutes = i64::from(hours) * 60 + i64::from(minutes);
            if *sign == b'-' { -minutes } else { minutes }
        }
        _ => return None,
    };
    let date = Date::from_calendar_date(year, Month::try_from(month).ok()?, day).ok()?;
    let local = date.with_hms(hour, minute, second).ok()?.assume_utc();
    local.checked_sub(Duration::minutes(offset))
}

/// The number of two digits.
fn digits(text: &mut &[u8]) -> Option<u8> {
    let [tens @ b'0'..=b'9', ones @ b'0'..=b'9', rest @ ..] = *text else { return None };
    *text = rest;
    Some((tens - b'0') * 10 + (ones - b'0'))
}

/// An object identifier in dots; `#` and its octets if that cannot be.
pub fn dotted(identifier: &[u8]) -> String {
    let mut text = String::new();
    let mut arcs = identifier.split_inclusive(|octet| octet & 0x80 == 0);
    if arcs.all(|octets| push_arc(&mut text, octets).is_some()) {
        return text;
    }
    text = "#".to_owned();
    for octet in identifier {
        push_hexadecimal(&mut text, *octet);
    }
    text
}

fn push_arc(text: &mut String, octets: &[u8]) -> Option<()> {
    // UUIDs are arcs too, and none is longer.
    let number = |arc: u128, octet: &u8| Some(arc.checked_mul(0x80)? | u128::from(octet & 0x7F));
    let mut arc = octets.iter().try_fold(0, number)?;
    octets.last().filter(|last| **last < 0x80)?;
    if text.is_empty() {
        // The first two arcs are one number.
        let root = (arc / 40).min(2);
        arc -= root * 40;
        write!(text, "{root}").ok()?;
    }
    write!(text, ".{arc}").ok()
}

#[cfg(test)]
mod tests;
