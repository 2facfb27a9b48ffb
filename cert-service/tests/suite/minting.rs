//! Leaves, judged by those who must accept them.

use std::collections::HashSet;
use std::time::Duration;

use cert_service::ca::Ca;
use cert_service::leaf::{self, Leaf};
use outgate_policy::HostName;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate, X509Version};

use crate::authorities::{
    Authority, COMMON_NAME, Key, ORGANISATION, ORGANISATIONAL_UNIT, Recipe, active_directory, common_name,
    days, name,
};
use crate::support::{Directory, directory_of, openssl};

const DAY: Duration = Duration::from_secs(24 * 3600);

#[test]
fn the_profile() {
    let directory = Directory::new();
    let ca = Ca::development(&directory.path("state"), now()).unwrap();
    let start = now();
    let leaf = mint(&ca, "www.Example.com.");
    let (rest, certificate) = X509Certificate::from_der(&leaf.der).unwrap();
    assert!(rest.is_empty());
    assert_eq!(certificate.version(), X509Version::V3);
    assert_eq!(certificate.raw_serial().len(), 16);
    assert_eq!(certificate.raw_serial()[0] & 0xc0, 0x40);
    assert_eq!(certificate.issuer().as_raw(), ca.subject());
    assert_eq!(certificate.subject().iter().count(), 0);
    let validity = certificate.validity();
    let begins = validity.not_before.to_datetime() - start;
    let ends = validity.not_after.to_datetime() - start;
    assert!((begins + time::Duration::HOUR).abs() < time::Duration::seconds(5), "{begins}");
    assert!((ends - time::Duration::DAY).abs() < time::Duration::seconds(5), "{ends}");
    assert_eq!(
        (leaf.not_before, leaf.not_after),
        (validity.not_before.to_datetime(), validity.not_after.to_datetime())
    );

    let shown: Vec<(String, bool)> = certificate
        .extensions()
        .iter()
        .map(|extension| (extension.oid.to_id_string(), extension.critical))
        .collect();
    let expected = [("2.5.29.15", true), ("2.5.29.37", false), ("2.5.29.17", true), ("2.5.29.35", false)];
    assert_eq!(shown, expected.map(|(oid, critical)| (oid.to_owned(), critical)));
    let usage = certificate.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && usage.flags.count_ones() == 1);
    let purposes = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(purposes.server_auth && !purposes.client_auth && !purposes.any && purposes.other.is_empty());
    let names = &certificate.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert_eq!(*names, [GeneralName::DNSName("www.example.com")]);
    let authority = certificate.extensions()[3].parsed_extension();
    let ParsedExtension::AuthorityKeyIdentifier(authority) = authority else { panic!("no AKI") };
    assert_eq!(authority.key_identifier.as_ref().unwrap().0, ca.key_id());
    assert!(authority.authority_cert_issuer.is_none() && authority.authority_cert_serial.is_none());

    assert_ne!(certificate.public_key().subject_public_key.data, ca.key().public_key());
    let other = mint(&ca, "www.example.com");
    let (_, other) = X509Certificate::from_der(&other.der).unwrap();
    assert_ne!(certificate.public_key(), other.public_key(), "each leaf has a key of its own");
}

#[test]
fn addresses_are_addresses() {
    let directory = Directory::new();
    let ca = Ca::development(&directory.path("state"), now()).unwrap();
    for (text, octets) in [
        ("192.0.2.7", vec![192, 0, 2, 7]),
        ("[2001:db8::1]", vec![0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
    ] {
        let leaf = mint(&ca, text);
        let (_, certificate) = X509Certificate::from_der(&leaf.der).unwrap();
        let names = &certificate.subject_alternative_name().unwrap().unwrap().value.general_names;
        assert_eq!(*names, [GeneralName::IPAddress(&octets)], "{text}");
    }
}

#[test]
fn validity_stays_within_the_cas() {
    let directory = Directory::new();
    let root = Authority::root(Key::p256(), Recipe { valid: days(0, 1), ..Recipe::default() });
    let (chain, key) =
        (directory.write("c", root.pem(), 0o644), directory.write("k", root.key.pkcs8(), 0o600));
    let ca = Ca::supplied(&chain, &key, &directory.path("state"), now()).unwrap();
    let leaf = leaf::mint(&ca, &host("a.example"), 7 * DAY, now()).unwrap();
    assert_eq!((leaf.not_before, leaf.not_after), (ca.not_before(), ca.not_after()));
    assert!(ca.can_sign(now()) && !ca.can_sign(ca.not_after()));
}

#[test]
fn the_issuer_is_copied_byte_for_byte_and_strict_clients_accept() {
    let odd_strings = name(&[
        &[(ORGANISATION, 0x14, b"Telet\xe9x")],
        &[(ORGANISATIONAL_UNIT, 0x1e, b"\0B\0M\0P")],
        &[(COMMON_NAME, 0x0c, "Zertifikatsstelle Köln".as_bytes())],
    ]);
    let multi_valued = name(&[
        &[(ORGANISATION, 0x13, b"Corp")],
        &[(COMMON_NAME, 0x13, b"Issuing CA"), (ORGANISATIONAL_UNIT, 0x13, b"Security")],
    ]);
    let repeated = name(&[
        &[(ORGANISATIONAL_UNIT, 0x13, b"One")],
        &[(ORGANISATIONAL_UNIT, 0x13, b"Two")],
        &[(ORGANISATIONAL_UNIT, 0x0c, b"One")],
    ]);
    for (case, subject) in [
        ("DC=com, DC=corp, CN", active_directory()),
        ("repeated OUs", repeated),
        ("multi-valued", multi_valued),
        ("T61 and BMP strings", odd_strings),
    ] {
        let root = Authority::root(Key::p256(), Recipe { subject: common_name("Root"), ..Recipe::default() });
        for authority in [
            Authority::root(Key::p256(), Recipe { subject: subject.clone(), ..Recipe::default() }),
            root.below(
                Key::p256(),
                Recipe { subject: subject.clone(), path_length: Some(0), ..Recipe::default() },
            ),
        ] {
            let directory = Directory::new();
            let above = if authority.der == root.der { String::new() } else { root.pem() };
            let chain = directory.write("c", authority.pem() + &above, 0o644);
            let key = directory.write("k", authority.key.pkcs8(), 0o600);
            let ca = Ca::supplied(&chain, &key, &directory.path("state"), now()).unwrap();
            let leaf = mint(&ca, "a.example");
            let (_, certificate) = X509Certificate::from_der(&leaf.der).unwrap();
            assert_eq!(certificate.issuer().as_raw(), subject, "{case}");
            judge(case, &ca, &leaf, "a.example");
        }
    }
}

#[test]
fn cas_of_every_kind_make_leaves_that_clients_accept() {
    for (case, root, issuing) in [
        ("P-256 below RSA", Key::rsa(), Key::p256()),
        ("RSA below P-384", Key::p384(), Key::rsa()),
        ("P-384 below P-256", Key::p256(), Key::p384()),
    ] {
        let directory = Directory::new();
        let root = Authority::root(root, Recipe { subject: common_name("Root"), ..Recipe::default() });
        let issuing = root.below(issuing, Recipe::default());
        let chain = directory.write("c", issuing.pem() + &root.pem(), 0o644);
        let key = directory.write("k", issuing.key.traditional(), 0o600);
        let ca = Ca::supplied(&chain, &key, &directory.path("state"), now()).unwrap();
        for name in ["a.example", "xn--bcher-kva.example", "192.0.2.1", "[2001:db8::1]"] {
            judge(case, &ca, &mint(&ca, name), name);
        }
    }
    let directory = Directory::new();
    let ca = Ca::development(&directory.path("state"), now()).unwrap();
    judge("development CA", &ca, &mint(&ca, "a.example"), "a.example");
}

#[test]
fn the_judges_are_no_pushovers() {
    let (first, second) = (Directory::new(), Directory::new());
    let ca = Ca::development(&first.path("state"), now()).unwrap();
    let stranger = Ca::development(&second.path("state"), now()).unwrap();
    let leaf = mint(&ca, "a.example");
    for (judge, name) in [(&stranger, "a.example"), (&ca, "b.example")] {
        assert!(judge_by_webpki(judge, &leaf, name).is_err());
        if openssl(&["version"], &first.path("")).is_some() {
            assert!(judge_by_openssl(judge, &leaf, name).is_err());
        }
    }
}

/// Firefox refuses two certificates of one issuer with the same serial number (`SEC_ERROR_REUSED_ISSUER_AND_SERIAL`):
/// for one name or many, after a restart, of replicas that mint at the same time.
#[test]
fn serials_never_repeat() {
    const LEAVES: usize = 2_000;
    let directory = Directory::new();
    let state = directory.path("state");
    let replicas = [(); 4].map(|()| Ca::development(&state, now()).unwrap());
    let mint_all = |ca: &Ca| -> Vec<String> {
        let names = ["a.example", "b.example"].iter().cycle().take(LEAVES);
        names.map(|name| mint(ca, name).serial.to_hex()).collect()
    };
    let serials: Vec<String> = std::thread::scope(|scope| {
        let minting = replicas.each_ref().map(|ca| scope.spawn(|| mint_all(ca)));
        minting.into_iter().flat_map(|serials| serials.join().unwrap()).collect()
    });
    assert!(replicas.iter().all(|ca| ca.id() == replicas[0].id()), "they have one issuer");
    assert_eq!(serials.iter().collect::<HashSet<_>>().len(), replicas.len() * LEAVES);
}

#[test]
fn names_are_minted_rightly_or_refused() {
    let directory = Directory::new();
    let ca = Ca::development(&directory.path("state"), now()).unwrap();
    let label = |length: usize| "a".repeat(length);
    let long = |last: usize| format!("{}.{}.{}.{}", label(63), label(63), label(63), label(last));
    for (name, expected) in [
        ("a.example", Some("a.example")),
        ("A.EXAMPLE.", Some("a.example")),
        ("bücher.example", Some("xn--bcher-kva.example")),
        ("BÜCHER.example", Some("xn--bcher-kva.example")),
        ("xn--bcher-kva.example", Some("xn--bcher-kva.example")),
        (&format!("{}.example", label(63)), Some(&format!("{}.example", label(63)))),
        (&format!("{}.example", label(64)), None),
        (&long(61), Some(&long(61))),
        (&long(62), None),
        ("", None),
        (".", None),
        ("a..example", None),
        ("*.example", None),
        ("*", None),
        ("a b.example", None),
        (" a.example", None),
        ("a.example ", None),
        ("a.example\0", None),
        ("a\0b.example", None),
        ("a.example\n", None),
        ("a.example:443", None),
        ("1.2.3.4:443", None),
        ("user@a.example", None),
        ("a.example/x", None),
        ("[a.example]", None),
        ("[::1", None),
        ("1.2.3", None),
        ("0x7f.1", None),
        ("256.1.1.1", None),
        ("xn--", None),
    ] {
        match (HostName::parse(name), expected) {
            (Ok(host), Some(expected)) => {
                assert_eq!(host.as_str(), expected, "{name:?}");
                judge_by_webpki(&ca, &mint(&ca, name), expected).unwrap();
            }
            (Err(_), None) => {}
            (Ok(host), None) => panic!("{name:?} was read as {host}"),
            (Err(error), Some(_)) => panic!("{name:?} was refused: {error}"),
        }
    }
}

#[test]
fn nothing_panics_on_hostile_names() {
    let directory = Directory::new();
    let ca = Ca::development(&directory.path("state"), now()).unwrap();
    let pieces = [
        "a",
        "Z",
        "9",
        "-",
        "_",
        ".",
        "..",
        "*",
        ":",
        "[",
        "]",
        "%",
        "@",
        "/",
        "\\",
        " ",
        "\0",
        "\u{7f}",
        "ß",
        "İ",
        "ü",
        "。",
        "\u{200d}",
        "\u{202e}",
        "xn--",
        "XN--",
        "xn--a",
        "1.2.3.4",
        "::1",
        "\u{10ffff}",
        "😀",
        "ẞ",
    ];
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut minted = 0;
    for _ in 0..20_000 {
        let mut name = String::new();
        for _ in 0..(1 + state % 12) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            name.push_str(pieces[(state % pieces.len() as u64) as usize]);
        }
        let Ok(host) = HostName::parse(&name) else { continue };
        assert!(host.as_str().is_ascii() && !host.as_str().contains('*'), "{name:?}");
        if minted < 500 {
            minted += 1;
            let leaf = leaf::mint(&ca, &host, DAY, now()).unwrap();
            assert!(X509Certificate::from_der(&leaf.der).unwrap().0.is_empty(), "{name:?}");
        }
    }
    assert!(minted > 50, "only {minted} names were good");
}

fn judge(case: &str, ca: &Ca, leaf: &Leaf, name: &str) {
    judge_by_webpki(ca, leaf, name).unwrap_or_else(|error| panic!("{case}, {name}: webpki: {error}"));
    judge_by_openssl(ca, leaf, name).unwrap_or_else(|error| panic!("{case}, {name}: openssl: {error}"));
}

fn judge_by_webpki(ca: &Ca, leaf: &Leaf, name: &str) -> Result<(), webpki::Error> {
    let trusted = CertificateDer::from(ca.trust_der());
    let anchors = [webpki::anchor_from_trusted_cert(&trusted)?];
    let chain = cert_service::pem::decode(leaf.chain_pem.as_bytes()).unwrap();
    let chain: Vec<CertificateDer<'_>> =
        chain.iter().map(|block| CertificateDer::from(block.der.as_slice())).collect();
    assert_eq!(chain[0].as_ref(), leaf.der);
    let end_entity = webpki::EndEntityCert::try_from(&chain[0])?;
    end_entity.verify_for_usage(
        webpki::ALL_VERIFICATION_ALGS,
        &anchors,
        &chain[1..],
        UnixTime::now(),
        webpki::KeyUsage::server_auth(),
        None,
        None,
    )?;
    let name = name.trim_matches(['[', ']']);
    end_entity.verify_is_valid_for_subject_name(&ServerName::try_from(name).unwrap())
}

fn judge_by_openssl(ca: &Ca, leaf: &Leaf, name: &str) -> Result<(), String> {
    let directory = Directory::new();
    let root = directory.write("root.pem", ca.trust_pem(), 0o644);
    directory.write("chain.pem", &leaf.chain_pem, 0o644);
    let name = name.trim_matches(['[', ']']);
    let kind = if name.parse::<std::net::IpAddr>().is_ok() { "-verify_ip" } else { "-verify_hostname" };
    let arguments = [
        "verify",
        "-x509_strict",
        "-purpose",
        "sslserver",
        "-CAfile",
        "root.pem",
        "-untrusted",
        "chain.pem",
        kind,
        name,
        "chain.pem",
    ];
    openssl(&arguments, directory_of(&root)).unwrap_or(Ok(String::new())).map(|_| ())
}

fn mint(ca: &Ca, name: &str) -> Leaf {
    leaf::mint(ca, &host(name), DAY, now()).unwrap()
}

fn host(name: &str) -> HostName {
    HostName::parse(name).unwrap()
}

fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}
