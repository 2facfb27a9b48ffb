//! Leaves, judged by those who must accept them.

use std::cell::Cell;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use cert_service::ca::Ca;
use cert_service::leaf::{self, Leaf};
use cert_service::xds::DELTA_ADS;
use cert_service::xds::messages::Secret;
use outgate_policy::HostName;
use proptest::prelude::{Strategy, any, prop_oneof};
use proptest::test_runner::{Config, TestRunner};
use prost::Message as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate, X509Version};

use crate::authorities::{
    Authority, COMMON_NAME, Key, ORGANISATION, ORGANISATIONAL_UNIT, Recipe, active_directory, common_name,
    days, name,
};
use crate::envoy::{Running, parts};
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

/// Firefox refuses a second certificate of one issuer and serial (`SEC_ERROR_REUSED_ISSUER_AND_SERIAL`). A service that
/// starts anew, or another replica, knows nothing of what was minted, and may be asked for the same names at once.
#[test]
fn no_serial_repeats_over_names_restarts_and_replicas() {
    let directory = Directory::new();
    let mut serials = HashMap::new();
    for _restart in 0..3 {
        let minted: Vec<(Vec<u8>, Leaf)> = std::thread::scope(|scope| {
            let replica = || {
                let ca = Ca::development(&directory.path("state"), now()).unwrap();
                let names = ["a.example", "b.example"].iter().cycle().take(200);
                names.map(|name| (ca.subject().to_vec(), mint(&ca, name))).collect::<Vec<_>>()
            };
            let replicas: Vec<_> = (0..3).map(|_| scope.spawn(replica)).collect();
            replicas.into_iter().flat_map(|replica| replica.join().unwrap()).collect()
        });
        for (issuer, leaf) in minted {
            let before = serials.insert((issuer, leaf.serial.to_hex()), leaf.der);
            assert!(before.is_none(), "issuer and serial of two certificates are the same");
        }
    }
    assert_eq!(serials.len(), 3 * 3 * 200);
    let issuers: HashSet<&Vec<u8>> = serials.keys().map(|(issuer, _)| issuer).collect();
    assert_eq!(issuers.len(), 1, "it is one CA all the while");
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
        match (HostName::parse_for_certificate(name), expected) {
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

/// Names from what parsers of names have tripped over.
fn hostile_name() -> impl Strategy<Value = String> {
    let piece = proptest::sample::select(vec![
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
        ".example",
    ]);
    let likely = proptest::sample::select(vec!["a", "Z", "9", "-", "_", "ü", "ß", "xn--bcher-kva", "b.c"]);
    let parts = |part, most| proptest::collection::vec(part, 1..most).prop_map(|parts| parts.concat());
    prop_oneof![parts(piece.boxed(), 8), parts(likely.boxed(), 4)]
}

/// Another spelling of the same host, mostly.
fn respelt(name: &str, way: u8) -> String {
    match way {
        0 => name.to_owned(),
        1 => name.to_uppercase(),
        2 => format!("{name}."),
        _ => format!("a{name}"),
    }
}

#[test]
fn what_is_granted_is_minted_exactly_and_nothing_else_is() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let directory = Directory::new();
    let running = runtime.block_on(Running::start(&directory, &[]));
    let granted = proptest::collection::vec(hostile_name(), 1..4);
    // What Envoy asks for: other names, and up to three spellings of those that are granted.
    let asked = proptest::collection::vec((hostile_name(), any::<bool>(), any::<usize>(), 0..4_u8), 1..4);
    let configuration = Config { cases: 300, failure_persistence: None, ..Config::default() };
    let minted = Cell::new(0);
    TestRunner::new(configuration)
        .run(&(granted, asked), |(granted, asked)| {
            let asked = asked.iter().map(|(other, fresh, which, way)| {
                if *fresh { other.clone() } else { respelt(&granted[which % granted.len()], *way) }
            });
            // Alone it is every resource there is, not a name.
            let asked: BTreeSet<String> = asked.filter(|name| name != "*").collect();
            minted.set(minted.get() + runtime.block_on(exchange(&running, &granted, &asked)));
            Ok(())
        })
        .unwrap();
    assert!(minted.get() > 50, "only {} names were good", minted.get());
    runtime.block_on(running.stop());
}

/// Grants names, has Envoy ask for others, and holds each answer against what was granted; returns how many leaves came.
async fn exchange(running: &Running, granted: &[String], asked: &BTreeSet<String>) -> usize {
    running.post("/v1/withdrawals", r#"{"all": true}"#).await;
    let mut hosts = BTreeSet::new();
    for name in granted {
        let host = HostName::parse_for_certificate(name).ok();
        let expected = if host.is_some() { 200 } else { 400 };
        assert_eq!(running.grant("main", name).await.0, expected, "{name:?}");
        hosts.extend(host.map(|host| host.as_str().to_owned()));
    }
    let mut envoy = running.envoy(DELTA_ADS).await;
    envoy.subscribe(&asked.iter().map(String::as_str).collect::<Vec<_>>());
    let (mut left, mut minted) = (asked.clone(), 0);
    while !left.is_empty() {
        let answer = envoy.next().await;
        let wanted = |name: &str| {
            HostName::parse_for_certificate(name).ok().filter(|host| hosts.contains(host.as_str()))
        };
        for name in &answer.removed_resources {
            assert!(left.remove(name) && wanted(name).is_none(), "{name:?} was refused, of {granted:?}");
        }
        for resource in &answer.resources {
            let name = &resource.name;
            let host = wanted(name).filter(|_| left.remove(name));
            let host = host.unwrap_or_else(|| panic!("{name:?} was minted, of {granted:?}"));
            let secret = Secret::decode(resource.resource.as_ref().unwrap().value.as_slice()).unwrap();
            assert_eq!(secret.name, *name);
            assert_eq!(only_name(&parts(&secret).0), host.as_str(), "{name:?}");
            minted += 1;
        }
    }
    minted
}

/// The only name that the first certificate is for, as [`HostName`] writes it.
fn only_name(chain: &str) -> String {
    let blocks = cert_service::pem::decode(chain.as_bytes()).unwrap();
    let (rest, certificate) = X509Certificate::from_der(&blocks[0].der).unwrap();
    assert!(rest.is_empty() && certificate.subject().iter().next().is_none());
    let names = certificate.subject_alternative_name().unwrap().unwrap().value.general_names.clone();
    match names.as_slice() {
        [GeneralName::DNSName(name)] => (*name).to_owned(),
        [GeneralName::IPAddress(octets)] => match <[u8; 4]>::try_from(*octets) {
            Ok(four) => std::net::Ipv4Addr::from(four).to_string(),
            Err(_) => format!("[{}]", std::net::Ipv6Addr::from(<[u8; 16]>::try_from(*octets).unwrap())),
        },
        _ => panic!("{names:?}"),
    }
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
    HostName::parse_for_certificate(name).unwrap()
}

fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}
