//! What an operator may bring as a CA, and what is refused with which words.

use std::os::unix::fs::PermissionsExt as _;

use cert_service::ca::{Ca, CaError};
use time::OffsetDateTime;

use crate::authorities::{Authority, CRL_SIGN, Key, Recipe, active_directory, common_name, days};
use crate::support::{Directory, openssl};

#[test]
fn the_development_ca_is_made_once() {
    let directory = Directory::new();
    let state = directory.path("state");
    let first = Ca::development(&state, now()).unwrap();
    let second = Ca::development(&state, now()).unwrap();
    assert!(first.created() && !second.created());
    assert_eq!(first.trust_der(), second.trust_der());
    let mode = |name: &str| std::fs::metadata(state.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("ca-key.pem"), mode("ca.pem")), (0o600, 0o644));
    assert_eq!(std::fs::read_to_string(state.join("ca.pem")).unwrap(), first.trust_pem());
    // A leaf's chain ends below the root, and this CA is the root.
    assert_eq!(first.chain_pem(), "");
    assert!(first.subject_text().starts_with("CN=Outgate development CA "));
    assert!(first.not_after() - now() > time::Duration::days(3640));
}

#[test]
fn the_development_ca_passes_for_a_ca() {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let directory = Directory::new();
    let ca = Ca::development(&directory.path("state"), now()).unwrap();
    let (_, certificate) = X509Certificate::from_der(ca.trust_der()).unwrap();
    let constraints = certificate.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical && constraints.value.ca);
    assert_eq!(constraints.value.path_len_constraint, Some(0));
    let usage = certificate.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.key_cert_sign() && usage.value.crl_sign());
    assert_eq!(usage.value.flags.count_ones(), 2);
    certificate.verify_signature(None).unwrap();
}

#[test]
fn a_run_with_another_ca_does_not_spoil_the_development_ca() {
    let directory = Directory::new();
    let state = directory.path("state");
    let development = Ca::development(&state, now()).unwrap();
    let root = Authority::root(Key::p256(), Recipe::default());
    let (chain, key) = files(&directory, &root.pem(), &root.key.pkcs8());
    Ca::supplied(&chain, &key, &state, now()).unwrap();
    assert_eq!(std::fs::read_to_string(state.join("ca.pem")).unwrap(), root.pem());
    let again = Ca::development(&state, now()).unwrap();
    assert_eq!(again.id(), development.id());
    assert_eq!(std::fs::read_to_string(state.join("ca.pem")).unwrap(), development.trust_pem());
}

#[test]
fn a_key_beside_its_certificate_is_taken_as_the_development_ca() {
    let directory = Directory::new();
    let root = Authority::root(Key::p256(), Recipe::default());
    directory.write("ca.pem", root.pem(), 0o644);
    directory.write("ca-key.pem", root.key.pkcs8(), 0o600);
    let ca = Ca::development(&directory.path(""), now()).unwrap();
    assert_eq!(ca.trust_der(), root.der);
}

#[test]
fn keys_of_every_kind_and_form() {
    let parameters = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
    for (kind, key) in [("P-256", Key::p256()), ("P-384", Key::p384()), ("RSA-2048", Key::rsa())] {
        let root = Authority::root(key, Recipe::default());
        for (form, text) in [
            ("PKCS#8", root.key.pkcs8()),
            ("SEC1 or PKCS#1", root.key.traditional()),
            ("parameters first", format!("{parameters}{}", root.key.traditional())),
            ("Windows line ends", root.key.pkcs8().replace('\n', "\r\n")),
            ("text around it", format!("Key: 1\n{}\ntrailing", root.key.pkcs8())),
            ("certificate in the same file", format!("{}{}", root.pem(), root.key.pkcs8())),
        ] {
            let directory = Directory::new();
            let (chain, path) = files(&directory, &root.pem(), &text);
            let ca = Ca::supplied(&chain, &path, &directory.path("state"), now());
            let ca = ca.unwrap_or_else(|error| panic!("{kind}, {form}: {error}"));
            assert_eq!(ca.key().kind().to_string(), kind, "{form}");
        }
    }
}

#[test]
fn keys_as_openssl_writes_them() {
    let directory = Directory::new();
    let here = directory.path("");
    for (kind, steps) in [
        ("P-256", &["ecparam -name prime256v1 -genkey -out key"][..]),
        ("P-384", &["ecparam -name secp384r1 -genkey -out key"]),
        ("P-256", &["genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out key"]),
        ("RSA-2048", &["genrsa -out key 2048"]),
        ("RSA-2048", &["genrsa -traditional -out key 2048"]),
    ] {
        let request = "req -x509 -new -key key -subj /DC=com/DC=corp/CN=Corp -days 30 -out ca -addext keyUsage=critical,keyCertSign";
        for step in steps.iter().chain([&request]) {
            let words: Vec<&str> = step.split(' ').collect();
            let Some(said) = openssl(&words, &here) else { return };
            said.unwrap();
        }
        let _ = std::fs::set_permissions(directory.path("key"), std::fs::Permissions::from_mode(0o600));
        let ca = Ca::supplied(&directory.path("ca"), &directory.path("key"), &directory.path("state"), now());
        let ca = ca.unwrap_or_else(|error| panic!("{steps:?}: {error}"));
        assert_eq!(ca.key().kind().to_string(), kind);
    }
    for (steps, message) in [
        (&["genpkey -algorithm ED25519 -out key"][..], "none that can sign here"),
        (&["ecparam -name secp521r1 -genkey -out key"], "none that can sign here"),
        (&["genrsa -out key 1024"], "none that can sign here"),
        (&["genrsa -aes128 -passout pass:secret -out key 2048"], "encrypted"),
        (&["genrsa -aes128 -traditional -passout pass:secret -out key 2048"], "encrypted"),
    ] {
        for step in steps {
            let words: Vec<&str> = step.split(' ').collect();
            let Some(said) = openssl(&words, &here) else { return };
            said.unwrap();
        }
        let _ = std::fs::set_permissions(directory.path("key"), std::fs::Permissions::from_mode(0o600));
        let error =
            Ca::supplied(&directory.path("ca"), &directory.path("key"), &directory.path("state"), now());
        let error = error.err().unwrap().to_string();
        assert!(error.contains(message), "{steps:?}: {error}");
    }
}

#[test]
fn a_chain_in_any_order_and_with_its_root_or_without() {
    let root = Authority::root(Key::rsa(), Recipe { subject: common_name("Root"), ..Recipe::default() });
    let middle = root.below(Key::p384(), Recipe { subject: common_name("Middle"), ..Recipe::default() });
    let issuing = middle.below(Key::p256(), Recipe { subject: active_directory(), ..Recipe::default() });
    let stranger =
        Authority::root(Key::p256(), Recipe { subject: common_name("Stranger"), ..Recipe::default() });
    let sent = format!("{}{}", issuing.pem(), middle.pem());
    for (file, trusted) in [
        (vec![&issuing, &middle, &root], &root),
        (vec![&root, &middle, &issuing], &root),
        (vec![&middle, &root, &issuing], &root),
        (vec![&stranger, &issuing, &middle, &root], &root),
        (vec![&issuing, &middle], &middle),
    ] {
        let directory = Directory::new();
        let text: String = file.iter().map(|one| one.pem()).collect();
        let (chain, key) = files(&directory, &text, &issuing.key.pkcs8());
        let ca = Ca::supplied(&chain, &key, &directory.path("state"), now()).unwrap();
        assert_eq!(ca.chain_pem(), sent);
        assert_eq!(ca.trust_der(), trusted.der);
        assert_eq!(ca.subject(), issuing.subject);
        let warned = |words: &str| ca.warnings().iter().any(|warning| warning.contains(words));
        assert_eq!(warned("ends below its root"), file.len() == 2);
        assert_eq!(warned("not part of the chain"), file.len() == 4);
    }
}

#[test]
fn what_cannot_sign_is_refused_with_the_remedy() {
    let sound = Recipe::default();
    for (case, recipe, message) in [
        (
            "no CA",
            Recipe { is_ca: false, ..sound.clone() },
            "`CN=Test CA` is not a CA certificate (no basicConstraints CA:TRUE): issue it from",
        ),
        (
            "no keyCertSign",
            Recipe { key_usage: Some(CRL_SIGN), ..sound.clone() },
            "may not sign certificates (its keyUsage lacks keyCertSign): issue it again",
        ),
        ("no keyUsage", Recipe { key_usage: None, ..sound.clone() }, "may not sign certificates"),
        (
            "no SKI",
            Recipe { key_id: false, ..sound.clone() },
            "has no subject key identifier, so strict clients would refuse its leaves: issue it again",
        ),
        ("expired", Recipe { valid: days(-10, -1), ..sound.clone() }, "renew it, or set the clock"),
        ("not yet valid", Recipe { valid: days(1, 10), ..sound.clone() }, "renew it, or set the clock"),
    ] {
        let directory = Directory::new();
        let root = Authority::root(Key::p256(), recipe);
        let (chain, key) = files(&directory, &root.pem(), &root.key.pkcs8());
        refused(case, &directory, Ca::supplied(&chain, &key, &directory.path("state"), now()), message);
    }
}

#[test]
fn a_chain_that_cannot_hold_is_refused() {
    let root = |path_length| {
        let subject = common_name("Root");
        Authority::root(Key::p256(), Recipe { subject, path_length, ..Recipe::default() })
    };
    let sha1 = Recipe { claims_sha1: true, ..Recipe::default() };
    for (case, root, recipe, message) in [
        ("path length", root(Some(0)), Recipe::default(), "`CN=Root` allows 0 CAs below it and there are 1"),
        ("SHA-1", root(None), sha1, "is signed with SHA-1, which clients refuse"),
    ] {
        let directory = Directory::new();
        let issuing = root.below(Key::p256(), recipe);
        let text = issuing.pem() + &root.pem();
        let (chain, key) = files(&directory, &text, &issuing.key.pkcs8());
        refused(case, &directory, Ca::supplied(&chain, &key, &directory.path("state"), now()), message);
    }
}

#[test]
fn files_that_are_something_else_are_refused_by_name() {
    let root = Authority::root(Key::p256(), Recipe::default());
    let (certificate, key) = (root.pem(), root.key.pkcs8());
    let cut = certificate.get(..certificate.len() / 2).unwrap();
    let broken = cert_service::pem::encode("CERTIFICATE", &root.der[..100]);
    for (case, chain_text, key_text, mode, message) in [
        (
            "another key",
            certificate.as_str(),
            Key::p256().pkcs8(),
            0o600,
            "the private key belongs to none of the certificates of `",
        ),
        (
            "another kind of key",
            &certificate,
            Key::rsa().pkcs8(),
            0o600,
            "give the key of the issuing CA, whose subject is `CN=Test CA`",
        ),
        ("exposed to all", &certificate, key.clone(), 0o644, "(mode 0644): run `chmod 600 "),
        ("exposed to the group", &certificate, key.clone(), 0o640, "(mode 0640): run `chmod 600 "),
        ("DER", "\u{1}\u{2}", key.clone(), 0o600, "openssl x509 -inform der"),
        ("empty", "", key.clone(), 0o600, "holds no PEM block"),
        ("cut off", cut, key.clone(), 0o600, "is the file cut off?"),
        ("broken", &broken, key.clone(), 0o600, "certificate 1 of `"),
        ("swapped", &key, key.clone(), 0o600, "holds no certificate: it must hold the issuing CA's"),
        ("no key", &certificate, certificate.clone(), 0o600, "it holds no private key, only `CERTIFICATE`"),
        ("two keys", &certificate, format!("{key}{}", Key::p256().pkcs8()), 0o600, "it holds 2 private keys"),
        (
            "garbage key",
            &certificate,
            cert_service::pem::encode("PRIVATE KEY", b"nothing").to_string(),
            0o600,
            "none that can sign here",
        ),
    ] {
        let directory = Directory::new();
        let chain = directory.write("chain.pem", chain_text, 0o644);
        let key = directory.write("key.pem", key_text, mode);
        refused(case, &directory, Ca::supplied(&chain, &key, &directory.path("state"), now()), message);
    }
    let directory = Directory::new();
    let missing =
        Ca::supplied(&directory.path("none"), &directory.path("none"), &directory.path("state"), now());
    refused("missing", &directory, missing, "cannot read `");
}

#[test]
fn what_works_but_should_not_stay_so_is_warned_of() {
    let directory = Directory::new();
    let root = Authority::root(Key::rsa(), Recipe { valid: days(-1, 20), ..Recipe::default() });
    let (chain, key) = files(&directory, &root.pem(), &root.key.pkcs8());
    let ca = Ca::supplied(&chain, &key, &directory.path("state"), now()).unwrap();
    for words in ["the CA's key is RSA-2048", "expires in 19 days", "constrains names"] {
        assert!(ca.warnings().iter().any(|warning| warning.contains(words)), "{words}");
    }
}

fn files(directory: &Directory, chain: &str, key: &str) -> (std::path::PathBuf, std::path::PathBuf) {
    (directory.write("chain.pem", chain, 0o644), directory.write("key.pem", key, 0o600))
}

fn refused(case: &str, directory: &Directory, result: Result<Ca, CaError>, message: &str) {
    let error = result.err().unwrap_or_else(|| panic!("{case} was accepted")).to_string();
    assert!(error.contains(message), "{case}: {error}");
    assert!(!directory.path("state").join("ca.pem").exists(), "{case}: something was published");
}

fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}
