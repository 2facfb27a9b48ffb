//! Makes CAs of every kind, good and bad, with DER written here: no library makes the bad ones.

use aws_lc_rs::encoding::{AsDer, EcPrivateKeyRfc5915Der, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256,
    RsaKeyPair,
};
use cert_service::pem;
use time::OffsetDateTime;

pub enum Key {
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

impl Key {
    pub fn p256() -> Key {
        Key::P256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap())
    }

    pub fn p384() -> Key {
        Key::P384(EcdsaKeyPair::generate(&ECDSA_P384_SHA384_ASN1_SIGNING).unwrap())
    }

    pub fn rsa() -> Key {
        Key::Rsa(RsaKeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap())
    }

    pub fn pkcs8(&self) -> String {
        let der = match self {
            Key::P256(pair) | Key::P384(pair) => pair.to_pkcs8v1().unwrap().as_ref().to_vec(),
            Key::Rsa(pair) => AsDer::<Pkcs8V1Der<'_>>::as_der(pair).unwrap().as_ref().to_vec(),
        };
        pem::encode("PRIVATE KEY", &der).to_string()
    }

    /// SEC1 or PKCS#1.
    pub fn traditional(&self) -> String {
        match self {
            Key::P256(pair) | Key::P384(pair) => {
                let der: EcPrivateKeyRfc5915Der<'_> = pair.private_key().as_der().unwrap();
                pem::encode("EC PRIVATE KEY", der.as_ref()).to_string()
            }
            Key::Rsa(pair) => {
                // What PKCS#8 wraps begins after 26 bytes in keys of 2048 bits.
                let der: Pkcs8V1Der<'_> = pair.as_der().unwrap();
                pem::encode("RSA PRIVATE KEY", &der.as_ref()[26..]).to_string()
            }
        }
    }

    fn public_key_info(&self) -> Vec<u8> {
        let der: PublicKeyX509Der<'_> = match self {
            Key::P256(pair) | Key::P384(pair) => pair.public_key().as_der().unwrap(),
            Key::Rsa(pair) => pair.public_key().as_der().unwrap(),
        };
        der.as_ref().to_vec()
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Key::P256(pair) | Key::P384(pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Key::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).unwrap();
                signature
            }
        }
    }

    fn algorithm(&self) -> Vec<u8> {
        match self {
            Key::P256(_) => sequence(&[&oid(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2])]),
            Key::P384(_) => sequence(&[&oid(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3])]),
            Key::Rsa(_) => sequence(&[&oid(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 1, 11]), &tlv(0x05, &[])]),
        }
    }
}

/// What a CA's certificate is to say; the default is a sound root.
#[derive(Clone)]
pub struct Recipe {
    pub subject: Vec<u8>,
    pub is_ca: bool,
    pub path_length: Option<u8>,
    pub key_usage: Option<u8>,
    pub key_id: bool,
    /// From and to, from now.
    pub valid: (time::Duration, time::Duration),
    pub claims_sha1: bool,
}

pub const CERT_SIGN: u8 = 0x04;
pub const CRL_SIGN: u8 = 0x02;

impl Default for Recipe {
    fn default() -> Recipe {
        Recipe {
            subject: common_name("Test CA"),
            is_ca: true,
            path_length: None,
            key_usage: Some(CERT_SIGN | CRL_SIGN),
            key_id: true,
            valid: days(-1, 365),
            claims_sha1: false,
        }
    }
}

pub struct Authority {
    pub subject: Vec<u8>,
    pub key: Key,
    pub der: Vec<u8>,
    key_id: Vec<u8>,
}

impl Authority {
    pub fn root(key: Key, recipe: Recipe) -> Authority {
        Authority::make(key, recipe, None)
    }

    pub fn below(&self, key: Key, recipe: Recipe) -> Authority {
        Authority::make(key, recipe, Some(self))
    }

    pub fn pem(&self) -> String {
        pem::encode("CERTIFICATE", &self.der).to_string()
    }

    fn make(key: Key, recipe: Recipe, issuer: Option<&Authority>) -> Authority {
        let info = key.public_key_info();
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &info);
        let key_id = digest.as_ref()[..20].to_vec();
        let signer = issuer.map_or(&key, |issuer| &issuer.key);
        let algorithm = if recipe.claims_sha1 {
            // ecdsa-with-SHA1
            sequence(&[&oid(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1])])
        } else {
            signer.algorithm()
        };
        let mut extensions = Vec::new();
        let mut constraints = Vec::new();
        if recipe.is_ca {
            constraints.extend(tlv(0x01, &[0xff]));
        }
        if let Some(length) = recipe.path_length {
            constraints.extend(tlv(0x02, &[length]));
        }
        extensions.extend(extension(19, true, &tlv(0x30, &constraints)));
        if let Some(usage) = recipe.key_usage {
            extensions.extend(extension(15, true, &tlv(0x03, &[usage.trailing_zeros() as u8, usage])));
        }
        if recipe.key_id {
            extensions.extend(extension(14, false, &tlv(0x04, &key_id)));
        }
        if let Some(issuer) = issuer {
            let id = tlv(0x80, &issuer.key_id);
            extensions.extend(extension(35, false, &sequence(&[&id])));
        }
        let now = OffsetDateTime::now_utc();
        let body = sequence(&[
            &tlv(0xa0, &tlv(0x02, &[2])),
            &tlv(0x02, &[&[0x41], &key_id[..8]].concat()),
            &algorithm,
            issuer.map_or(&recipe.subject, |issuer| &issuer.subject),
            &sequence(&[&moment(now + recipe.valid.0), &moment(now + recipe.valid.1)]),
            &recipe.subject,
            &info,
            &tlv(0xa3, &tlv(0x30, &extensions)),
        ]);
        let signature = [&[0][..], &signer.sign(&body)].concat();
        let der = sequence(&[&body, &algorithm, &tlv(0x03, &signature)]);
        Authority { subject: recipe.subject, key, der, key_id }
    }
}

/// A validity in days from now.
pub fn days(from: i64, to: i64) -> (time::Duration, time::Duration) {
    (time::Duration::days(from), time::Duration::days(to))
}

/// `CN=…` as UTF8String.
pub fn common_name(text: &str) -> Vec<u8> {
    name(&[&[(&[0x55, 4, 3], 0x0c, text.as_bytes())]])
}

/// Type, tag of the string, string.
pub type Attribute<'a> = (&'a [u8], u8, &'a [u8]);

/// A distinguished name.
pub fn name(relative: &[&[Attribute<'_>]]) -> Vec<u8> {
    let mut names = Vec::new();
    for attributes in relative {
        let attributes: Vec<u8> = attributes
            .iter()
            .flat_map(|(kind, tag, text)| sequence(&[&oid(kind), &tlv(*tag, text)]))
            .collect();
        names.extend(tlv(0x31, &attributes));
    }
    tlv(0x30, &names)
}

pub const DOMAIN_COMPONENT: &[u8] = &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25];
pub const COMMON_NAME: &[u8] = &[0x55, 4, 3];
pub const ORGANISATIONAL_UNIT: &[u8] = &[0x55, 4, 11];
pub const ORGANISATION: &[u8] = &[0x55, 4, 10];

/// The name that every CA of Active Directory has.
pub fn active_directory() -> Vec<u8> {
    name(&[
        &[(DOMAIN_COMPONENT, 0x16, b"com")],
        &[(DOMAIN_COMPONENT, 0x16, b"corp")],
        &[(COMMON_NAME, 0x13, b"Corp Issuing CA 1")],
    ])
}

fn moment(time: OffsetDateTime) -> Vec<u8> {
    let text = format!(
        "{:02}{:02}{:02}{:02}{:02}{:02}Z",
        time.year() % 100,
        u8::from(time.month()),
        time.day(),
        time.hour(),
        time.minute(),
        time.second()
    );
    tlv(0x17, text.as_bytes())
}

fn extension(number: u8, critical: bool, value: &[u8]) -> Vec<u8> {
    let critical = if critical { tlv(0x01, &[0xff]) } else { Vec::new() };
    sequence(&[&oid(&[0x55, 29, number]), &critical, &tlv(0x04, value)])
}

fn oid(bytes: &[u8]) -> Vec<u8> {
    tlv(0x06, bytes)
}

fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tlv(0x30, &parts.concat())
}

fn tlv(tag: u8, contents: &[u8]) -> Vec<u8> {
    let length = contents.len();
    let header = match length {
        0..128 => vec![tag, length as u8],
        128..256 => vec![tag, 0x81, length as u8],
        _ => vec![tag, 0x82, (length >> 8) as u8, length as u8],
    };
    [header, contents.to_vec()].concat()
}
