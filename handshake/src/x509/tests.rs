//! `x509-parser` is the judge: it reads whatever is read here, and says the same of it.
//!
//! It reads more: it ignores the classes of tags, and what follows in a sequence.

use std::ops::Range;

use proptest::collection::vec;
use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, CustomExtension,
    DnType, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, RevokedCertParams, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::asn1_rs::{Any, Oid, Tag, ToDer};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey as Key;
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::x509::X509Name;

use super::*;
use crate::certificate::tests::hostile;
use crate::der::NUMBER;

const FIXTURES: [&[u8]; 10] = [
    include_bytes!("../certificate/fixtures/bmp.pem"),
    include_bytes!("../certificate/fixtures/broken.pem"),
    include_bytes!("../certificate/fixtures/ed.pem"),
    include_bytes!("../certificate/fixtures/empty.pem"),
    include_bytes!("../certificate/fixtures/latin.pem"),
    include_bytes!("../certificate/fixtures/names.pem"),
    include_bytes!("../certificate/fixtures/nosan.pem"),
    include_bytes!("../certificate/fixtures/rsa.pem"),
    include_bytes!("../certificate/fixtures/sans.pem"),
    include_bytes!("../certificate/fixtures/teletex.pem"),
];

type Bytes = Vec<u8>;

/// All that is asked of a certificate.
#[derive(Debug, PartialEq)]
struct Told {
    signed: [Bytes; 3],
    serial: Bytes,
    names: [ToldName; 2],
    validity: [OffsetDateTime; 2],
    key: Bytes,
    key_algorithm: Bytes,
    curve: Option<Bytes>,
    modulus_size: Option<usize>,
    alternative_names: Vec<Option<Vec<(u32, Bytes)>>>,
    is_ca: bool,
    signs_certificates: Option<bool>,
    authenticates_clients: Option<bool>,
}

/// A name as it is, and of each attribute whether it begins an RDN, its type, the number of its tag, and its value.
type ToldName = (Bytes, Vec<(bool, Bytes, u32, Bytes)>);

/// All that is asked of a revocation list.
#[derive(Debug, PartialEq)]
struct ToldList {
    signed: [Bytes; 3],
    issuer: ToldName,
    this_update: OffsetDateTime,
    next_update: Option<OffsetDateTime>,
    serials: Vec<Bytes>,
}

fn signed(signed: &Signed<'_>) -> [Bytes; 3] {
    [signed.body, signed.algorithm, signed.signature].map(<[u8]>::to_vec)
}

fn number(element: &Element<'_>) -> u32 {
    u32::from(element.tag & NUMBER)
}

fn name(name: &Name<'_>) -> ToldName {
    let attribute = |attribute: &Attribute<'_>| {
        let value = attribute.value;
        (attribute.begins, attribute.identifier.to_vec(), number(&value), value.content.to_vec())
    };
    (name.raw.to_vec(), name.attributes.iter().map(attribute).collect())
}

fn told(der: &[u8]) -> Option<Told> {
    let certificate = X509Certificate::read(der)?;
    let names = |names: Vec<Element<'_>>| {
        names.iter().map(|name| (number(name), name.content.to_vec())).collect::<Vec<_>>()
    };
    let key = &certificate.key;
    Some(Told {
        signed: signed(&certificate.signed),
        serial: certificate.serial.to_vec(),
        names: [name(&certificate.issuer), name(&certificate.subject)],
        validity: [certificate.not_before, certificate.not_after],
        key: key.raw.to_vec(),
        key_algorithm: key.algorithm.identifier.to_vec(),
        curve: key.curve().map(<[u8]>::to_vec),
        modulus_size: key.modulus_size().filter(|_| key.algorithm.identifier == RSA),
        alternative_names: certificate.alternative_names().map(|parsed| parsed.map(names)).collect(),
        is_ca: certificate.is_ca(),
        signs_certificates: certificate.signs_certificates(),
        authenticates_clients: certificate.authenticates_clients(),
    })
}

fn told_list(der: &[u8]) -> Option<ToldList> {
    let list = RevocationList::read(der)?;
    Some(ToldList {
        signed: signed(&list.signed),
        issuer: name(&list.issuer),
        this_update: list.this_update,
        next_update: list.next_update,
        serials: list.serials.iter().map(|serial| serial.to_vec()).collect(),
    })
}

/// 1.2.840.113549.1.1.1
const RSA: &[u8] = &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, 1];

fn judged_name(name: &X509Name<'_>) -> ToldName {
    let mut attributes = Vec::new();
    for relative in name.iter() {
        for (index, attribute) in relative.iter().enumerate() {
            let value = attribute.attr_value();
            attributes.push((
                index == 0,
                attribute.attr_type().as_bytes().to_vec(),
                value.tag().0,
                value.data.to_vec(),
            ));
        }
    }
    (name.as_raw().to_vec(), attributes)
}

fn judged_alternative(name: &GeneralName<'_>) -> (u32, Bytes) {
    match name {
        GeneralName::OtherName(oid, value) => (0, [oid.to_der_vec().unwrap(), value.to_vec()].concat()),
        GeneralName::RFC822Name(text) => (1, text.as_bytes().to_vec()),
        GeneralName::DNSName(text) => (2, text.as_bytes().to_vec()),
        GeneralName::X400Address(any) => (3, any.data.to_vec()),
        GeneralName::DirectoryName(name) => (4, name.as_raw().to_vec()),
        GeneralName::EDIPartyName(any) => (5, any.data.to_vec()),
        GeneralName::URI(text) => (6, text.as_bytes().to_vec()),
        GeneralName::IPAddress(octets) => (7, octets.to_vec()),
        GeneralName::RegisteredID(oid) => (8, oid.as_bytes().to_vec()),
        GeneralName::Invalid(tag, bytes) => (tag.0, bytes.to_vec()),
    }
}

/// As RFC 3279 means it; the judge counts octets.
fn judged_modulus(key: &Key<'_>) -> Option<usize> {
    let Key::RSA(key) = key else { return None };
    let bits: String = key.modulus.iter().map(|octet| format!("{octet:08b}")).collect();
    Some(if bits.starts_with('1') { 0 } else { bits.trim_start_matches('0').len() })
}

fn judged(der: &[u8]) -> Option<Told> {
    let (_, certificate) = x509_parser::certificate::X509Certificate::from_der(der).ok()?;
    let key = certificate.public_key();
    // The judge would take anything for an object identifier.
    let is_identifier =
        |any: &&Any<'_>| any.tag() == Tag::Oid && any.header.is_universal() && any.header.is_primitive();
    let parameters = key.algorithm.parameters.as_ref().filter(is_identifier);
    let alternative_names =
        certificate.extensions().iter().filter(|extension| extension.oid.as_bytes() == [0x55, 0x1D, 17]);
    Some(Told {
        signed: [
            certificate.tbs_certificate.as_ref().to_vec(),
            certificate.signature_algorithm.algorithm.as_bytes().to_vec(),
            certificate.signature_value.data.to_vec(),
        ],
        serial: certificate.raw_serial().to_vec(),
        names: [judged_name(certificate.issuer()), judged_name(certificate.subject())],
        validity: [certificate.validity().not_before, certificate.validity().not_after]
            .map(|time| time.to_datetime()),
        key: key.raw.to_vec(),
        key_algorithm: key.algorithm.algorithm.as_bytes().to_vec(),
        curve: parameters.map(|any| any.data.to_vec()),
        modulus_size: key.parsed().ok().as_ref().and_then(judged_modulus),
        alternative_names: alternative_names
            .map(|extension| match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(parsed) => {
                    Some(parsed.general_names.iter().map(judged_alternative).collect())
                }
                _ => None,
            })
            .collect(),
        is_ca: certificate.is_ca(),
        signs_certificates: certificate.key_usage().ok().flatten().map(|usage| usage.value.key_cert_sign()),
        authenticates_clients: certificate
            .extended_key_usage()
            .ok()
            .flatten()
            .map(|usage| usage.value.client_auth || usage.value.any),
    })
}

fn judged_list(der: &[u8]) -> Option<ToldList> {
    let (_, list) = CertificateRevocationList::from_der(der).ok()?;
    Some(ToldList {
        signed: [
            list.tbs_cert_list.as_ref().to_vec(),
            list.signature_algorithm.algorithm.as_bytes().to_vec(),
            list.signature_value.data.to_vec(),
        ],
        issuer: judged_name(list.issuer()),
        this_update: list.last_update().to_datetime(),
        next_update: list.next_update().map(|time| time.to_datetime()),
        serials: list.iter_revoked_certificates().map(|entry| entry.raw_serial().to_vec()).collect(),
    })
}

/// Certificates with everything that is asked of them, by several CAs.
fn certificates() -> Vec<Bytes> {
    let mut certificates: Vec<Bytes> =
        FIXTURES.iter().map(|pem| CertificateDer::from_pem_slice(pem).unwrap().to_vec()).collect();
    certificates.push(CertificateDer::from_pem_slice(hostile().as_bytes()).unwrap().to_vec());
    for algorithm in [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519, &PKCS_RSA_SHA256] {
        let issuer = authority(algorithm);
        certificates.push(issuer.der().to_vec());
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::CommonName, "leaf");
        parameters.serial_number = Some(SerialNumber::from(0x00AB_u64));
        parameters.not_before = time::OffsetDateTime::UNIX_EPOCH - time::Duration::days(1);
        parameters.subject_alt_names = vec![
            SanType::DnsName("pay.example".try_into().unwrap()),
            SanType::URI("spiffe://mesh/pay".try_into().unwrap()),
            SanType::Rfc822Name("pay@example.com".try_into().unwrap()),
            SanType::IpAddress("2001:db8::7".parse().unwrap()),
            SanType::OtherName((vec![1, 3, 6, 1, 4, 1, 311, 20, 2, 3], "pay@corp".to_owned().into())),
        ];
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        parameters.custom_extensions.push(CustomExtension::from_oid_content(&[1, 2, 3], vec![5, 0]));
        certificates.push(
            parameters.signed_by(&KeyPair::generate_for(algorithm).unwrap(), &issuer).unwrap().der().to_vec(),
        );
    }
    certificates
}

fn authority(algorithm: &'static rcgen::SignatureAlgorithm) -> CertifiedIssuer<'static, KeyPair> {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name.push(DnType::CommonName, "CA");
    parameters.distinguished_name.push(DnType::OrganizationName, "Jürgen & Co");
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any];
    CertifiedIssuer::self_signed(parameters, KeyPair::generate_for(algorithm).unwrap()).unwrap()
}

fn revocation_lists() -> Vec<Bytes> {
    let issuer = authority(&PKCS_ECDSA_P256_SHA256);
    let list = |serials: &[u64], until: i64| {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: OffsetDateTime::UNIX_EPOCH,
            reason_code: serial.is_multiple_of(2).then_some(rcgen::RevocationReason::KeyCompromise),
            invalidity_date: None,
        };
        let parameters = CertificateRevocationListParams {
            this_update: OffsetDateTime::UNIX_EPOCH,
            next_update: OffsetDateTime::UNIX_EPOCH + Duration::days(until),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        parameters.signed_by(&issuer).unwrap().der().to_vec()
    };
    // Until 2032 and 2106.
    vec![list(&[], 23_000), list(&[0xAB], 23_000), list(&[1, 2, 0xFFFF_FFFF_FFFF_FFFF], 50_000)]
}

/// Where the values of a certificate are: not their tags and lengths, nor times, versions and unused bits.
fn values(elements: Vec<Element<'_>>, whole: &[u8], found: &mut Vec<Range<usize>>) {
    for element in elements {
        let inner = match element.tag {
            UTC_TIME | GENERALIZED_TIME | BIT_STRING => continue,
            INTEGER if element.content.len() == 1 => continue,
            OCTET_STRING => Der(element.content).elements(),
            tag if tag & 0x20 != 0 => Der(element.content).elements(),
            _ => None,
        };
        let end = element.content.as_ptr_range().end as usize - whole.as_ptr() as usize;
        match inner {
            Some(inner) => values(inner, whole, found),
            None => found.push(end - element.content.len()..end),
        }
    }
}

#[test]
fn real_authorities_are_read() {
    for der in webpki_root_certs::TLS_SERVER_ROOT_CERTS {
        let told = told(der);
        assert!(told.as_ref().is_some_and(|told| told.is_ca && told.signs_certificates != Some(false)));
        assert_eq!(told, judged(der));
    }
}

#[test]
fn the_judge_says_the_same() {
    for der in certificates() {
        let told = told(&der);
        assert!(told.is_some());
        assert_eq!(told, judged(&der));
        assert!(X509Certificate::read(&der[..der.len() - 1]).is_none());
        let followed = [der.as_slice(), &[0]].concat();
        assert_eq!(self::told(&followed), told);
        if let [SEQUENCE, 0x82, length @ ..] = der.as_slice() {
            let padded = [&[SEQUENCE, 0x83, 0], length].concat();
            assert_eq!(self::told(&padded), told);
            assert_eq!(judged(&padded), told);
        }
    }
    for der in revocation_lists() {
        let told = told_list(&der);
        assert!(told.is_some());
        assert_eq!(told, judged_list(&der));
    }
    assert_eq!(told_list(&certificates()[0]), None);
    assert_eq!(told(&revocation_lists()[0]), None);
}

/// What the judge says, but of what is no DER in all its tags: it goes on there.
fn as_strict(mut judged: Told, told: &Told) -> Told {
    for (judged, told) in judged.alternative_names.iter_mut().zip(&told.alternative_names) {
        if told.is_none() {
            *judged = None;
        }
        for (judged, told) in judged.iter_mut().flatten().zip(told.iter().flatten()) {
            let broken = match told.0 {
                0 => Der(&told.1).expect(OBJECT_IDENTIFIER).is_none(),
                4 => Name::read(&mut Der(&told.1)).is_none(),
                _ => false,
            };
            if broken {
                judged.1.clone_from(&told.1);
            }
        }
    }
    judged.modulus_size = judged.modulus_size.filter(|_| told.modulus_size.is_some());
    judged.is_ca &= told.is_ca;
    judged.signs_certificates = judged.signs_certificates.filter(|_| told.signs_certificates.is_some());
    judged.authenticates_clients =
        judged.authenticates_clients.filter(|_| told.authenticates_clients.is_some());
    judged
}

/// Nothing is read here that the judge does not read, and it says the same of it.
fn compare(der: &[u8]) -> Result<(), TestCaseError> {
    if let Some(told) = told(der) {
        let judged = judged(der).map(|judged| as_strict(judged, &told));
        prop_assert_eq!(Some(told), judged);
    }
    if let Some(told) = told_list(der) {
        prop_assert_eq!(Some(told), judged_list(der));
    }
    Ok(())
}

#[test]
fn the_judge_says_the_same_of_each_damage() {
    // What is hostile is long.
    for der in certificates().into_iter().chain(revocation_lists()).filter(|der| der.len() < 2000) {
        let mut found = Vec::new();
        values(Der(&der).elements().unwrap(), &der, &mut found);
        for index in 0..der.len() {
            for mask in [0x01, 0x02, 0x80, 0xff] {
                let mut damaged = der.clone();
                damaged[index] ^= mask;
                compare(&damaged).unwrap();
                if found.iter().any(|range| range.contains(&index)) {
                    assert_eq!(told(&damaged), judged(&damaged), "octet {index} of {der:x?}");
                    assert_eq!(told_list(&damaged), judged_list(&damaged), "octet {index} of {der:x?}");
                }
            }
            compare(&der[..index]).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_judge_says_the_same_of_hostile_bytes(
        original in prop::sample::select(FIXTURES.to_vec()),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        rubbish in vec(any::<u8>(), 0..400),
    ) {
        compare(&rubbish)?;
        let mut der = CertificateDer::from_pem_slice(original).unwrap().to_vec();
        for (place, octet) in changes {
            *place.get_mut(&mut der) = octet;
        }
        compare(&der)?;
    }
}

#[test]
fn times_are_those_of_rfc_5280_and_before() {
    let read = |tag: u8, text: &str| {
        let der = [&[tag, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
        time(&mut Der(&der)).map(|time| crate::presented::timestamp(time).unwrap())
    };
    for (tag, text, expected) in [
        (UTC_TIME, "491231235959Z", Some("2049-12-31T23:59:59Z")),
        (UTC_TIME, "500101000000Z", Some("1950-01-01T00:00:00Z")),
        (UTC_TIME, "000229120000Z", Some("2000-02-29T12:00:00Z")),
        (UTC_TIME, "9912312359Z", Some("1999-12-31T23:59:00Z")),
        (UTC_TIME, "000101000000+0130", Some("1999-12-31T22:30:00Z")),
        (UTC_TIME, "991231235959-0030", Some("2000-01-01T00:29:59Z")),
        (UTC_TIME, "010229120000Z", None),
        (UTC_TIME, "001301000000Z", None),
        (UTC_TIME, "000100000000Z", None),
        (UTC_TIME, "000101240000Z", None),
        (UTC_TIME, "000101000060Z", None),
        (UTC_TIME, "000101000000", None),
        (UTC_TIME, "000101000000+01300", None),
        (UTC_TIME, "000101000000+2400", None),
        (UTC_TIME, "0001010000 0Z", None),
        (GENERALIZED_TIME, "20500101000000Z", Some("2050-01-01T00:00:00Z")),
        (GENERALIZED_TIME, "99991231235959Z", Some("9999-12-31T23:59:59Z")),
        (GENERALIZED_TIME, "20500101000000.5Z", None),
        (GENERALIZED_TIME, "20500101000000+0100", None),
        (GENERALIZED_TIME, "20500101000000", None),
        (INTEGER, "20500101000000Z", None),
    ] {
        assert_eq!(read(tag, text).as_deref(), expected, "{text}");
    }
}

#[test]
fn object_identifiers_are_told_in_dots() {
    let uuid: Vec<u8> = [[0x69, 0x83].as_slice(), &[0xFF; 17], &[0x7F]].concat();
    for (identifier, expected) in [
        ([0x55, 4, 3].as_slice(), "2.5.4.3"),
        (&[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, 1], "1.2.840.113549.1.1.1"),
        (&[0x00], "0.0"),
        (&[0x27], "0.39"),
        (&[0x4F], "1.39"),
        (&[0x88, 0x37, 3], "2.999.3"),
        (&uuid, "2.25.340282366920938463463374607431768211455"),
        (&[], ""),
        (&[0x2A, 0x86], "#2A86"),
        (&[0x80], "#80"),
        (&[[0x2A].as_slice(), &[0xFF; 19], &[1]].concat(), "#2AFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF01"),
    ] {
        assert_eq!(dotted(identifier), expected);
        if expected.starts_with("1.2") {
            assert_eq!(Oid::new(identifier.into()).to_id_string(), expected);
        }
    }
}

#[test]
fn an_rsa_key_has_the_bits_of_its_modulus() {
    for (modulus, expected) in [
        ([0, 0xFF, 0xFF].as_slice(), Some(16)),
        (&[0x7F, 0xFF], Some(15)),
        (&[0x01], Some(1)),
        (&[0, 0x01], None),
        (&[0xFF, 0xFF], Some(0)),
        (&[0], Some(0)),
    ] {
        let integer = [&[INTEGER, u8::try_from(modulus.len()).unwrap()], modulus, &[INTEGER, 1, 3]].concat();
        let bits = [&[SEQUENCE, u8::try_from(integer.len()).unwrap()], integer.as_slice()].concat();
        let algorithm = Algorithm { identifier: RSA, parameters: None };
        assert_eq!(PublicKey { raw: &[], algorithm, bits: &bits }.modulus_size(), expected);
    }
    let algorithm = Algorithm { identifier: RSA, parameters: None };
    assert_eq!(PublicKey { raw: &[], algorithm, bits: &[5, 0] }.modulus_size(), None);
}
