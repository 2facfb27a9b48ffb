//! What `openssl x509 -subject -nameopt RFC2253 -serial -dates -fingerprint -sha256` says of the certificates in
//! `fixtures/` (made by openssl), and certificates that nobody would issue.

use super::*;
use crate::presented::timestamp;
use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, DnType, DnValue, KeyPair, SanType,
    string::Ia5String,
};

macro_rules! fixture {
    ($name:literal) => {
        include_bytes!(concat!("fixtures/", $name, ".pem")).as_slice()
    };
}

fn read(pem: &[u8]) -> Certificate {
    Certificate::from_pem(pem).unwrap()
}

fn names(certificate: &Certificate) -> Vec<&str> {
    certificate.alternative_names.iter().map(|name| name.text.as_str()).collect()
}

#[test]
fn subject_serial_and_fingerprint_are_what_openssl_prints() {
    for (pem, subject, serial, sha256) in [
        (
            // Repeated, multi-valued and unknown attributes, and every character that is escaped.
            fixture!("names"),
            r#"1.2.3.4.5=#0C0568656C6C6F,emailAddress=j@x.example,CN=J\C3\BCrgen \E6\97\A5\E6\9C\AC+UID=jj,OU=\#hash,O=\ Lead\, \"Quote\" \+ \<Angle\>\; \\Back,C=DE,DC=corp,DC=com"#,
            "0102030405060708090A0B0C0D0E0F1011121314",
            "31B94B95ADDC8D3C88320B7243EA1D256E1F21D689F00BB6A8480C6A7CCD624E",
        ),
        (
            fixture!("latin"),
            r"O=Zo\C3\AB",
            "80FF",
            "490C2E267F06A8803BD57162953B21D3DA97E0C186FD3EAEAAA4867CFD045B00",
        ),
        (
            // TeletexString; serial zero.
            fixture!("teletex"),
            r"CN=plain,O=Zo\C3\AB",
            "00",
            "C0381E9ECC14A3143099E3017F824DDC016B2B4D1F6DB0DBAB3463544F16E145",
        ),
        (
            // BMPString; a negative serial.
            fixture!("bmp"),
            r"CN=\D0\96anna",
            "-012C",
            "971B4F518941DAD7EE8C6984E3C9FC459347B5ED1289FBA1B6EDCC2D23A70181",
        ),
        (
            fixture!("sans"),
            "CN=sans",
            "ABCD",
            "10B3BB64F196B20C2416D59E008F8481AB6E021AC09EF531557E9BB6D8D577F8",
        ),
        (fixture!("empty"), "", "80", "0FA12E508734DF9AFD61DC5070F415ACA7D2B0315FCE22550A32792F46C1DED3"),
    ] {
        let certificate = read(pem);
        assert_eq!(certificate.subject, subject);
        assert_eq!(certificate.issuer, subject);
        assert!(certificate.self_signed);
        assert_eq!((certificate.serial.as_str(), certificate.sha256.as_str()), (serial, sha256), "{subject}");
        assert_eq!(timestamp(certificate.not_before).unwrap(), "2026-11-23T04:13:46Z");
    }
    assert_eq!(timestamp(read(fixture!("sans")).not_after).unwrap(), "2036-11-20T04:13:46Z");
    assert_eq!(timestamp(read(fixture!("empty")).not_after).unwrap(), "2081-08-26T04:13:46Z");
}

#[test]
fn keys_and_signatures_are_named() {
    for (pem, key, size, signature, is_ca) in [
        (fixture!("latin"), "EC", Some(256), "ecdsa-with-SHA256", true),
        (fixture!("rsa"), "RSA", Some(2048), "sha256WithRSAEncryption", false),
        (fixture!("ed"), "Ed25519", None, "ED25519", false),
    ] {
        let certificate = read(pem);
        assert_eq!((certificate.key_algorithm.as_str(), certificate.key_size), (key, size));
        assert_eq!((certificate.signature_algorithm.as_str(), certificate.is_ca), (signature, is_ca));
    }
}

#[test]
fn alternative_names_of_all_types_are_told() {
    let certificate = read(fixture!("sans"));
    assert_eq!(
        names(&certificate),
        [
            "a.example",
            "spiffe://mesh/ns/x",
            "a@b.example",
            "192.0.2.1",
            "2001:db8::5",
            "rid:1.2.3.4",
            "otherName:1.2.3",
            r"dirName:O=dir,CN=in\, side",
        ]
    );
    assert_eq!(certificate.spiffe_id(), Some("spiffe://mesh/ns/x"));
    assert_eq!(certificate.alternative_names_omitted, 0);
}

#[test]
fn names_that_break_their_types_rules_are_escaped() {
    let certificate = read(fixture!("broken"));
    assert_eq!(names(&certificate), [r"\xff\xfe\u{0}", "#010203", r"a\u{a}\u{1b}[2J\u{0}b"]);
    assert_eq!(certificate.defect, None);
}

#[test]
fn a_broken_extension_is_a_defect_and_not_the_end() {
    let certificate = read(fixture!("nosan"));
    assert_eq!(certificate.subject, "CN=broken extension");
    assert!(certificate.alternative_names.is_empty());
    assert_eq!(certificate.defect, Some("the subject alternative names do not parse"));
}

#[test]
fn envoy_may_url_encode_the_pem() {
    let pem = fixture!("sans");
    let encoded: String = pem
        .iter()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' => char::from(*byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect();
    assert_eq!(Certificate::from_pem(encoded.as_bytes()), Certificate::from_pem(pem));
}

#[test]
fn what_is_no_certificate_says_what_is_wrong() {
    let key = KeyPair::generate().unwrap().serialize_pem();
    for (pem, expected) in [
        (b"".as_slice(), CertificateError::NotPem),
        (b"certificate has expired", CertificateError::NotPem),
        (key.as_bytes(), CertificateError::NotPem),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", CertificateError::NotX509),
        (b"-----BEGIN%20CERTIFICATE-----%0", CertificateError::NotPem),
        (&[b'A'; MAXIMUM_PEM + 1], CertificateError::TooLarge),
    ] {
        assert_eq!(Certificate::from_pem(pem), Err(expected));
    }
}

/// A certificate as hostile as rcgen can make one.
pub fn hostile() -> String {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    let name = format!("\u{202e}\u{7}\r\n{{\"event\":1}} {} ", "ü".repeat(5000));
    parameters.distinguished_name.push(DnType::CommonName, DnValue::Utf8String(name));
    let uri = "spiffe://x/certificate has expired:TLS_error_end|268435648:\"\\";
    let long = "\"".repeat(3000);
    parameters.subject_alt_names = vec![
        SanType::URI(Ia5String::try_from(uri).unwrap()),
        SanType::DnsName(Ia5String::try_from("a\u{1b}[2Jb\r\n").unwrap()),
        SanType::DnsName(Ia5String::try_from(long.as_str()).unwrap()),
    ];
    parameters.subject_alt_names.extend(
        (0..1000).map(|index| SanType::DnsName(Ia5String::try_from(format!("{index:0>150}")).unwrap())),
    );
    parameters.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
}

#[test]
fn hostile_text_is_escaped_and_bounded() {
    let certificate = read(hostile().as_bytes());
    assert!(
        certificate.subject.starts_with(r#"CN=\E2\80\AE\07\0D\0A{\"event\":1} \C3\BC"#),
        "{}",
        certificate.subject
    );
    assert!(certificate.subject.contains("…(+") && certificate.subject.len() < 300);
    let names = names(&certificate);
    assert_eq!(
        names.get(..2).unwrap(),
        [r#"spiffe://x/certificate has expired:TLS_error_end|268435648:"\"#, r"a\u{1b}[2Jb\u{d}\u{a}",]
    );
    assert!(names.len() <= MAXIMUM_ALTERNATIVE_NAMES);
    assert_eq!(names.len() + certificate.alternative_names_omitted, 1003);
    assert!(names.iter().all(|name| name.len() <= MAXIMUM_NAME + 12), "{names:?}");
    assert!(names.concat().len() <= MAXIMUM_ALTERNATIVE_TEXT + 12 * MAXIMUM_ALTERNATIVE_NAMES);
    assert_eq!(certificate.spiffe_id(), None, "other names were not read to the end");
}

#[test]
fn two_uris_are_no_spiffe_id() {
    let uri = |text: &str| SanType::URI(Ia5String::try_from(text).unwrap());
    for (uris, expected) in [
        (vec![uri("spiffe://a/b")], Some("spiffe://a/b")),
        (vec![uri("spiffe://a/b"), uri("spiffe://a/c")], None),
        (vec![uri("https://a/b")], None),
        (vec![], None),
    ] {
        let mut parameters = CertificateParams::default();
        parameters.subject_alt_names = uris;
        let pem = parameters.self_signed(&KeyPair::generate().unwrap()).unwrap().pem();
        assert_eq!(read(pem.as_bytes()).spiffe_id(), expected);
    }
}

#[test]
fn extensions_without_sense_do_no_harm() {
    let mut parameters = CertificateParams::default();
    for identifier in [17, 15, 19, 30, 31, 32, 35, 37] {
        parameters.custom_extensions.push(CustomExtension::from_oid_content(
            &[2, 5, 29, identifier],
            vec![0x30, 0x84, 0xff, 0xff, 0xff, 0xff],
        ));
    }
    let pem = parameters.self_signed(&KeyPair::generate().unwrap()).unwrap().pem();
    assert!(read(pem.as_bytes()).defect.is_some());
}

#[test]
fn damaged_certificates_never_panic() {
    let originals = [fixture!("names"), fixture!("sans"), fixture!("broken"), fixture!("rsa")];
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    for original in originals {
        let der = CertificateDer::from_pem_slice(original).unwrap().to_vec();
        for length in 0..der.len() {
            let _any = Certificate::from_der(&der[..length]);
        }
        for index in 0..der.len() {
            for mask in [0x01, 0x80, 0xff] {
                let mut damaged = der.clone();
                damaged[index] ^= mask;
                let _any = Certificate::from_der(&damaged);
            }
        }
        for _round in 0..2000 {
            let mut damaged = der.clone();
            for _change in 0..4 {
                // Xorshift: the same damage in every run.
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                let [index, byte, ..] = seed.to_le_bytes();
                let place = (usize::from(index) | usize::from(byte) << 8) % damaged.len();
                damaged[place] = seed.to_be_bytes()[0];
            }
            let _any = Certificate::from_der(&damaged);
        }
    }
}
