use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, RevokedCertParams, SanType, SerialNumber,
    SignatureAlgorithm,
};
use time::Duration;
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::*;

/// As Envoy's foreign function does it, by another library.
struct AwsLc;

impl Signatures for AwsLc {
    fn verify(&self, hash: &str, key: &[u8], message: &[u8], signature: &[u8]) -> Option<bool> {
        let (_, key) = SubjectPublicKeyInfo::from_der(key).ok()?;
        let rsa = key.algorithm.algorithm.to_id_string() == "1.2.840.113549.1.1.1";
        let algorithm: &'static dyn VerificationAlgorithm = match (rsa, hash) {
            (true, "sha256") => &signature::RSA_PKCS1_2048_8192_SHA256,
            (false, "sha256") => &signature::ECDSA_P256_SHA256_ASN1,
            (false, "sha384") => &signature::ECDSA_P384_SHA384_ASN1,
            _ => return None,
        };
        Some(
            UnparsedPublicKey::new(algorithm, &key.subject_public_key.data)
                .verify(message, signature)
                .is_ok(),
        )
    }
}

type Authority = CertifiedIssuer<'static, KeyPair>;

fn parameters(name: &str, from: i64, until: i64) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.not_before = now() + Duration::days(from);
    parameters.not_after = now() + Duration::days(until);
    parameters
}

fn authority(
    name: &str,
    algorithm: &'static SignatureAlgorithm,
    change: impl FnOnce(&mut CertificateParams),
) -> Authority {
    let mut parameters = parameters(name, -10, 10);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    change(&mut parameters);
    CertifiedIssuer::self_signed(parameters, KeyPair::generate_for(algorithm).unwrap()).unwrap()
}

fn leaf(issuer: &Authority, change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut parameters = parameters("leaf", -1, 1);
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    parameters.serial_number = Some(SerialNumber::from(0x00AB_u64));
    parameters.subject_alt_names = vec![
        SanType::DnsName("pay.example".try_into().unwrap()),
        SanType::URI("spiffe://mesh/pay".try_into().unwrap()),
        SanType::IpAddress("192.0.2.7".parse().unwrap()),
    ];
    change(&mut parameters);
    parameters.signed_by(&KeyPair::generate().unwrap(), issuer).unwrap().der().to_vec()
}

fn crl(issuer: &Authority, serial: u64, from: i64, until: i64) -> String {
    CertificateRevocationListParams {
        this_update: now() + Duration::days(from),
        next_update: now() + Duration::days(until),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: vec![RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: now() - Duration::days(1),
            reason_code: None,
            invalidity_date: None,
        }],
        key_identifier_method: KeyIdMethod::Sha256,
    }
    .signed_by(issuer)
    .unwrap()
    .pem()
    .unwrap()
}

fn now() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(1_795_000_000).unwrap()
}

fn demands(ca: &Authority) -> Untrusted {
    Untrusted { ca: ca.pem(), ..Untrusted::default() }
}

fn found(leaf: &[u8], demands: &Untrusted) -> Option<SubReason> {
    verify(leaf, demands, now(), &AwsLc).0.map(|failure| failure.sub_reason)
}

#[test]
fn each_fault_is_found_again() {
    let ca = authority("CA", &PKCS_ECDSA_P256_SHA256, |_| {});
    let same_name = authority("CA", &PKCS_ECDSA_P256_SHA256, |_| {});
    let other = authority("Other CA", &PKCS_ECDSA_P256_SHA256, |_| {});
    let no_ca = authority("CA", &PKCS_ECDSA_P256_SHA256, |parameters| parameters.is_ca = IsCa::NoCa);
    let no_signer = authority("CA", &PKCS_ECDSA_P256_SHA256, |parameters| {
        parameters.key_usages = vec![KeyUsagePurpose::CrlSign];
    });
    let sound = leaf(&ca, |_| {});
    let plain = demands(&ca);
    let expired = leaf(&ca, |parameters| parameters.not_after = now() - Duration::HOUR);
    let early = leaf(&ca, |parameters| parameters.not_before = now() + Duration::HOUR);
    let server =
        leaf(&ca, |parameters| parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
    let any = leaf(&ca, |parameters| parameters.extended_key_usages.clear());
    let with_crl = |crl| Untrusted { crl: Some(crl), ..demands(&ca) };
    let named = |name: &str| Untrusted { sans: vec![name.to_owned()], ..demands(&ca) };
    let pinned = |pin: String| Untrusted { pins: vec![pin], ..demands(&ca) };
    let digest = Certificate::from_der(&sound).unwrap().sha256;
    let mut altered = sound.clone();
    let serial = altered.windows(4).position(|bytes| bytes == [0x02, 0x02, 0x00, 0xAB]).unwrap() + 3;
    altered[serial] ^= 1;
    let itself = other.der().to_vec();
    let both = Untrusted { ca: same_name.pem() + &ca.pem(), ..Untrusted::default() };
    use SubReason::*;
    for (name, leaf, demands, expected) in [
        ("sound", &sound, plain.clone(), None),
        ("two CAs of one name", &sound, both, None),
        ("any purpose", &any, plain.clone(), None),
        ("expired", &expired, plain.clone(), Some(Expired)),
        ("not yet valid", &early, plain.clone(), Some(NotYetValid)),
        ("for servers", &server, plain.clone(), Some(WrongPurpose)),
        ("another CA", &sound, Untrusted { ca: other.pem(), ..Untrusted::default() }, Some(UnknownIssuer)),
        ("no CA at all", &sound, Untrusted::default(), Some(UnknownIssuer)),
        ("self-signed", &itself, plain.clone(), Some(SelfSigned)),
        (
            "another CA of that name",
            &sound,
            Untrusted { ca: same_name.pem(), ..Untrusted::default() },
            Some(BadSignature),
        ),
        ("altered", &altered, plain.clone(), Some(BadSignature)),
        ("issued by a leaf", &leaf(&no_ca, |_| {}), demands(&no_ca), Some(InvalidCa)),
        ("issued without the right to", &leaf(&no_signer, |_| {}), demands(&no_signer), Some(InvalidCa)),
        ("revoked", &sound, with_crl(crl(&ca, 0xAB, -1, 1)), Some(Revoked)),
        ("expired and revoked", &expired, with_crl(crl(&ca, 0xAB, -1, 1)), Some(Revoked)),
        ("another revoked", &sound, with_crl(crl(&ca, 0xAC, -1, 1)), None),
        ("CRL expired", &sound, with_crl(crl(&ca, 0xAC, -9, -1)), Some(CrlExpired)),
        ("CRL of tomorrow", &sound, with_crl(crl(&ca, 0xAC, 1, 2)), Some(CrlNotYetValid)),
        ("CRL of another CA", &sound, with_crl(crl(&other, 0xAC, -1, 1)), Some(CrlMissing)),
        ("CRL of another CA of that name", &sound, with_crl(crl(&same_name, 0xAC, -1, 1)), Some(CrlInvalid)),
        ("its DNS name", &sound, named("pay.example"), None),
        ("its URI", &sound, named("spiffe://mesh/pay"), None),
        ("its address", &sound, named("192.0.2.7"), None),
        ("another name", &sound, named("other.example"), Some(SanMismatch)),
        ("its pin", &sound, pinned(digest), None),
        ("another pin", &sound, pinned("00".repeat(32)), Some(PinMismatch)),
        ("rubbish", &b"rubbish".to_vec(), plain.clone(), Some(MalformedCertificate)),
    ] {
        assert_eq!(found(leaf, &demands), expected, "{name}");
    }
}

#[test]
fn signatures_of_the_usual_kinds_are_checked_and_the_others_said() {
    for (algorithm, checked) in [
        (&PKCS_ECDSA_P256_SHA256, true),
        (&PKCS_ECDSA_P384_SHA384, true),
        (&PKCS_RSA_SHA256, true),
        (&PKCS_ED25519, false),
    ] {
        let ca = authority("CA", algorithm, |_| {});
        let demands = Untrusted { crl: Some(crl(&ca, 1, -1, 1)), ..demands(&ca) };
        let (failure, unchecked) = verify(&leaf(&ca, |_| {}), &demands, now(), &AwsLc);
        assert_eq!(failure, None);
        for what in ["signature", "crl_signature"] {
            assert_eq!(unchecked.contains(&what), !checked, "{algorithm:?}");
        }
        assert!(unchecked.starts_with(&NEVER_CHECKED));
    }
}

#[test]
fn an_issuer_that_is_not_in_the_bundle_may_have_been_sent_along() {
    let ca = authority("CA", &PKCS_ECDSA_P256_SHA256, |_| {});
    let other = authority("Other CA", &PKCS_ECDSA_P256_SHA256, |_| {});
    let (failure, _) = verify(&leaf(&other, |_| {}), &demands(&ca), now(), &AwsLc);
    assert_eq!(failure.unwrap().certainty, Certainty::Likely);
}
