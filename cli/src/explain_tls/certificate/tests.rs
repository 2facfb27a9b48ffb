use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, CustomExtension,
    DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose,
    NameConstraints as Names, PKCS_ED25519, RevokedCertParams, SanType, SerialNumber,
};

use super::*;

type Authority = CertifiedIssuer<'static, KeyPair>;

const NOW: i64 = 1_795_219_200;
const DAY: i64 = 86_400;

fn at(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(seconds).unwrap()
}

fn parameters(name: &str) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.not_before = at(NOW - 30 * DAY);
    parameters.not_after = at(NOW + 90 * DAY);
    parameters
}

fn authority_parameters(name: &str) -> CertificateParams {
    let mut parameters = parameters(name);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    parameters
}

fn authority(name: &str) -> Authority {
    CertifiedIssuer::self_signed(authority_parameters(name), KeyPair::generate().unwrap()).unwrap()
}

fn leaf() -> CertificateParams {
    let mut parameters = parameters("client");
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    parameters.subject_alt_names = vec![SanType::DnsName("client.example".try_into().unwrap())];
    parameters
}

fn issue(parameters: &CertificateParams, authority: &Authority) -> String {
    parameters.signed_by(&KeyPair::generate().unwrap(), authority).unwrap().pem()
}

fn examine(pem: &str, authorities: Option<&str>) -> Examination {
    let trust = Trust { authorities: authorities.map(str::as_bytes), revocation_lists: None };
    Examination::of(pem.as_bytes(), at(NOW), trust).unwrap()
}

/// The reasons for which every server refuses, then those for which some do.
fn found(examination: &Examination) -> (Vec<&'static str>, Vec<&'static str>) {
    let of = |severity| {
        let findings = examination.findings.iter().filter(|finding| finding.severity == severity);
        findings.map(|finding| finding.sub_reason.as_str()).collect()
    };
    (of(Severity::Refused), of(Severity::Warning))
}

#[test]
fn each_fault_of_a_certificate_is_found() {
    let ca = authority("clients");
    let changed = |change: &dyn Fn(&mut CertificateParams)| {
        let mut parameters = leaf();
        change(&mut parameters);
        issue(&parameters, &ca)
    };
    let extension = |oid: &[u64], content: &[u8], critical| {
        let mut extension = CustomExtension::from_oid_content(oid, content.to_vec());
        extension.set_criticality(critical);
        extension
    };
    for (name, pem, refused, warned) in [
        ("sound", changed(&|_| {}), &[][..], &[][..]),
        ("expired", changed(&|p| p.not_after = at(NOW - DAY)), &["expired"], &[]),
        ("ends soon", changed(&|p| p.not_after = at(NOW + 3 * DAY)), &[], &["expired"]),
        ("early", changed(&|p| p.not_before = at(NOW + DAY)), &["not_yet_valid"], &[]),
        (
            "for servers",
            changed(&|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
            &["wrong_purpose"],
            &[],
        ),
        ("for anything", changed(&|p| p.extended_key_usages.clear()), &[], &[]),
        (
            "for signing certificates",
            changed(&|p| p.key_usages = vec![KeyUsagePurpose::KeyCertSign]),
            &["wrong_purpose"],
            &[],
        ),
        (
            "critical extension",
            changed(&|p| p.custom_extensions.push(extension(&[1, 2, 3, 4], &[5, 0], true))),
            &["unhandled_critical_extension"],
            &[],
        ),
        (
            "unknown extension",
            changed(&|p| p.custom_extensions.push(extension(&[1, 2, 3, 4], &[5, 0], false))),
            &[],
            &[],
        ),
        ("without names", changed(&|p| p.subject_alt_names.clear()), &[], &["san_mismatch"]),
        (
            "a CA",
            changed(&|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
            &[],
            &["ca_used_as_leaf"],
        ),
        (
            "self-signed",
            leaf().self_signed(&KeyPair::generate().unwrap()).unwrap().pem(),
            &["self_signed"],
            &[],
        ),
        (
            "Ed25519",
            leaf().signed_by(&KeyPair::generate_for(&PKCS_ED25519).unwrap(), &ca).unwrap().pem(),
            &[],
            &["no_client_certificate"],
        ),
    ] {
        let examination = examine(&pem, None);
        assert_eq!(found(&examination), (refused.to_vec(), warned.to_vec()), "{name}");
        let verdict = if refused.is_empty() { "unknown" } else { "refused" };
        assert_eq!(examination.verdict(), verdict, "{name}");
        assert!(examination.unchecked.iter().any(|unchecked| unchecked.contains("--ca")), "{name}");
    }
}

#[test]
fn weak_certificates_are_told() {
    // openssl makes what rcgen does not.
    let folder = tempfile::tempdir().unwrap();
    for (key, digest, expected) in
        [("rsa:1024", "-sha256", "1024 bits"), ("rsa:2048", "-sha1", "sha1WithRSAEncryption")]
    {
        let made = std::process::Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                key,
                "-nodes",
                digest,
                "-subj",
                "/CN=weak",
                "-keyout",
                "/dev/null",
                "-out",
            ])
            .arg(folder.path().join("weak.pem"))
            .output();
        let Ok(made) = made else {
            eprintln!("skipped: no openssl");
            return;
        };
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let examination = examine(&std::fs::read_to_string(folder.path().join("weak.pem")).unwrap(), None);
        let weak = examination.findings.iter().find(|finding| finding.sub_reason == WeakKeyOrSignature);
        assert!(weak.unwrap().detail.contains(expected), "{weak:?}");
    }
}

#[test]
fn the_chain_is_judged_by_the_cas_given() {
    let root = authority("root");
    let stranger = authority("stranger");
    let intermediate =
        CertifiedIssuer::signed_by(authority_parameters("intermediate"), KeyPair::generate().unwrap(), &root)
            .unwrap();
    let impostor = authority("root");
    let no_ca = CertifiedIssuer::signed_by(leaf(), KeyPair::generate().unwrap(), &root).unwrap();
    let mut constrained = authority_parameters("constrained");
    constrained.name_constraints = Some(Names {
        permitted_subtrees: vec![GeneralSubtree::DnsName("elsewhere.example".to_owned())],
        excluded_subtrees: Vec::new(),
    });
    let constrained = CertifiedIssuer::signed_by(constrained, KeyPair::generate().unwrap(), &root).unwrap();
    let mut short = authority_parameters("short");
    short.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let short = CertifiedIssuer::signed_by(short, KeyPair::generate().unwrap(), &root).unwrap();
    let below =
        CertifiedIssuer::signed_by(authority_parameters("below"), KeyPair::generate().unwrap(), &short)
            .unwrap();
    let mut expired = leaf();
    expired.not_after = at(NOW - DAY);
    let of = |authority: &Authority, along: &[&Authority]| {
        along.iter().fold(issue(&leaf(), authority), |chain, authority| chain + &authority.pem())
    };
    for (name, pem, authorities, refused) in [
        ("sound", of(&root, &[]), root.pem(), &[][..]),
        ("with its intermediate", of(&intermediate, &[&intermediate]), root.pem(), &[]),
        ("one of several CAs", of(&root, &[]), stranger.pem() + &root.pem(), &[]),
        ("another CA", of(&stranger, &[]), root.pem(), &["unknown_issuer"]),
        ("without its intermediate", of(&intermediate, &[]), root.pem(), &["unknown_issuer"]),
        ("two CAs of one name", of(&impostor, &[]), root.pem(), &["bad_signature"]),
        ("issued by a leaf", of(&no_ca, &[&no_ca]), root.pem(), &["invalid_ca"]),
        ("another name", of(&constrained, &[&constrained]), root.pem(), &["name_constraints"]),
        ("too long", of(&below, &[&below, &short]), root.pem(), &["chain_too_long"]),
        // One fault does not hide another.
        ("expired, of another CA", issue(&expired, &stranger), root.pem(), &["expired", "unknown_issuer"]),
    ] {
        let examination = examine(&pem, Some(&authorities));
        let (found, _) = found(&examination);
        assert_eq!(found, refused, "{name}: {:?}", examination.findings);
        assert_eq!(examination.verdict(), if refused.is_empty() { "accepted" } else { "refused" }, "{name}");
    }
    let itself = leaf().self_signed(&KeyPair::generate().unwrap()).unwrap().pem();
    assert_eq!(found(&examine(&itself, Some(&root.pem()))).0, ["self_signed"]);
}

#[test]
fn a_ca_that_has_ended_refuses_all_its_clients() {
    let mut parameters = authority_parameters("ended");
    parameters.not_after = at(NOW - DAY);
    let ended = CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap();
    let examination = examine(&issue(&leaf(), &ended), Some(&ended.pem()));
    assert_eq!(found(&examination).0, ["expired"]);
    assert!(examination.findings[0].detail.contains("the CA `CN=ended"), "{:?}", examination.findings);
}

#[test]
fn revocation_lists_are_asked_if_they_are_given() {
    let root = authority("root");
    let stranger = authority("stranger");
    let list = |authority: &Authority, until: i64| {
        CertificateRevocationListParams {
            this_update: at(NOW - 9 * DAY),
            next_update: at(until),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: SerialNumber::from(7),
                revocation_time: at(NOW - DAY),
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::Sha256,
        }
        .signed_by(authority)
        .unwrap()
        .pem()
        .unwrap()
    };
    let serial = |serial: u64| {
        let mut parameters = leaf();
        parameters.serial_number = Some(serial.into());
        issue(&parameters, &root)
    };
    for (name, pem, list, refused) in [
        ("not on it", serial(8), list(&root, NOW + DAY), &[][..]),
        ("on it", serial(7), list(&root, NOW + DAY), &["revoked"]),
        ("of another CA", serial(7), list(&stranger, NOW + DAY), &["crl_missing"]),
        ("expired", serial(8), list(&root, NOW - DAY), &["crl_expired"]),
    ] {
        let authorities = root.pem();
        let trust =
            Trust { authorities: Some(authorities.as_bytes()), revocation_lists: Some(list.as_bytes()) };
        let examination = Examination::of(pem.as_bytes(), at(NOW), trust).unwrap();
        assert_eq!(found(&examination).0, refused, "{name}");
        assert!(!examination.unchecked.iter().any(|unchecked| unchecked.contains("--crl")), "{name}");
    }
}

#[test]
fn text_and_json_say_the_same() {
    let ca = authority("clients");
    let mut parameters = leaf();
    parameters.not_after = at(NOW - 3 * DAY);
    let pem = issue(&parameters, &ca);
    let examination = examine(&format!("some words before\n{pem}"), None);
    let json = examination.json();
    assert_eq!((&json["kind"], &json["verdict"]), (&"certificate".into(), &"refused".into()));
    assert_eq!(json["at"], "2026-11-21T00:00:00Z");
    assert_eq!(json["certificates"][0]["subject"], "CN=client");
    assert_eq!(json["certificates"][0]["alternative_names"], json!(["client.example"]));
    assert_eq!(json["findings"][0]["reason"], "expired");
    assert_eq!(json["findings"][0]["documentation"], "docs/tls/certificate_expired.md#expired");
    let text = examination.text();
    for expected in [
        "  subject   CN=client\n",
        "(ended 3 days ago)",
        "A server REFUSES it:\n",
        "* certificate_expired / expired\n",
        "  found     its time ended 2026-11-18T00:00:00Z, 3 days ago\n",
        "Not checked: whether the client holds the private key;",
    ] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
}

#[test]
fn certificates_are_read_as_envoy_writes_them_too() {
    let pem = issue(&leaf(), &authority("clients"));
    let encoded = pem
        .replace('\n', "%0A")
        .replace(' ', "%20")
        .replace('+', "%2B")
        .replace('/', "%2F")
        .replace('=', "%3D");
    for text in [pem.replace('\n', "\r\n"), encoded, pem.replace('\n', "\\n")] {
        assert_eq!(found(&examine(&text, None)), (vec![], vec![]), "{text}");
    }
}

#[test]
fn what_is_no_certificate_is_told_apart() {
    let key = KeyPair::generate().unwrap().serialize_pem();
    let pem = issue(&leaf(), &authority("clients"));
    let cut = pem.replacen("MII", "AAA", 1);
    for (text, expected) in [
        (key.as_str(), "a private key, which should be shown to nobody"),
        (
            "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
            "a request for one",
        ),
        ("-----BEGIN CERTIFICATE-----\n", "was all of it copied?"),
        (cut.as_str(), "block 1 of the PEM does not parse"),
    ] {
        let error = Examination::of(text.as_bytes(), at(NOW), Trust::default()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    for (trust, expected) in [
        (Trust { authorities: Some(b"x"), revocation_lists: None }, "`--ca` cannot be used"),
        (Trust { authorities: Some(pem.as_bytes()), revocation_lists: Some(b"x") }, "`--crl` cannot be used"),
    ] {
        let error = Examination::of(pem.as_bytes(), at(NOW), trust).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}
