use clap::Parser;

use super::*;

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    args: ExplainTlsArgs,
}

fn asked(arguments: &[&str]) -> Result<String, ExplainTlsError> {
    let arguments = ["explain-tls"].iter().chain(arguments);
    explain(&Command::try_parse_from(arguments).unwrap().args)
}

#[test]
fn a_reason_is_explained_in_full() {
    let reason = "TLS_error:|268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:verify cert failed: X509_verify_cert: certificate verification error at depth 0: CRL has expired:TLS_error_end";
    assert_eq!(
        asked(&[reason]).unwrap(),
        "\
\x20 taken for Envoy's reason (%DOWNSTREAM_TRANSPORT_FAILURE_REASON%)
  what      certificate_revocation / crl_expired
  class     revocation
  noticed   by the server, which refused
  where     the client's own certificate (depth 0)
  means     The listener's CRL is past its nextUpdate, so that Envoy trusts no
            certificate of its CA any more.
  who       whoever runs this listener
  fix       Publish a fresh CRL and have this listener load it: until then every client
            of that CA is refused.
  more      docs/tls/certificate_revocation.md#crl_expired
"
    );
    let json: serde_json::Value = serde_json::from_str(&asked(&[reason, "--json"]).unwrap()).unwrap();
    assert_eq!((&json["kind"], &json["input"]), (&"reason".into(), &reason.into()));
    let [reading] = &json["readings"].as_array().unwrap()[..] else { panic!("{json}") };
    for (member, expected) in [
        ("category", "certificate_revocation"),
        ("reason", "crl_expired"),
        ("class", "revocation"),
        ("detected_by", "server"),
        ("certainty", "exact"),
        ("blame", "operator"),
        ("documentation", "docs/tls/certificate_revocation.md#crl_expired"),
    ] {
        assert_eq!(reading[member], expected, "{member}");
    }
    assert_eq!((&reading["depth"], &reading["code"]), (&0.into(), &268_435_581_u32.into()));
}

#[test]
fn words_may_come_apart() {
    for arguments in [&["alert", "48"][..], &["certificate", "has", "expired"], &["10"]] {
        assert!(asked(arguments).unwrap().contains("docs/tls/"), "{arguments:?}");
    }
}

#[test]
fn files_are_logs_certificates_or_a_single_question() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let reason = "TLS_error:|268435612:SSL_routines:OPENSSL_internal:HTTP_REQUEST:TLS_error_end\n";
    let (one, two) = (file("one", reason), file("two", &reason.repeat(2)));
    assert!(asked(&[&one]).unwrap().starts_with("  taken for Envoy's reason"));
    assert!(asked(&[&two]).unwrap().starts_with("2 failed handshakes in 2 lines\n"));
    assert!(asked(&[&one, &two]).unwrap().starts_with("3 failed handshakes in 3 lines\n"));
    let pem = include_str!("../../../handshake/src/certificate/fixtures/sans.pem");
    for text in [pem.to_owned(), format!("{}{pem}", "a line before it\n".repeat(1_000))] {
        let certificate = asked(&[&file("pem", &text), "--at", "2040-01-01"]).unwrap();
        assert!(certificate.contains("its time ended 2036-11-20T04:13:46Z"), "{certificate}");
    }
}

#[test]
fn what_cannot_be_explained_says_what_would_help() {
    let folder = tempfile::tempdir().unwrap();
    let quiet = folder.path().join("quiet");
    std::fs::write(&quiet, "GET / 200\n{\"a\":\n").unwrap();
    let missing = folder.path().join("missing.pem");
    let pem = include_str!("../../../handshake/src/certificate/fixtures/sans.pem");
    for (arguments, expected) in [
        (vec!["my dog ate it"], "`my dog ate it` is no reason of Envoy"),
        (vec!["\u{1b}[2J"], "`\\u{1b}[2J`"),
        (
            vec![quiet.to_str().unwrap()],
            "2 lines, 1 of them broken JSON, and none tells of a failed handshake",
        ),
        (vec!["--ca", missing.to_str().unwrap(), "--", pem], "missing.pem"),
    ] {
        let error = asked(&arguments).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn times_are_read_in_three_forms() {
    for text in ["2026-11-23T00:00:00Z", "2026-11-23", "1795392000"] {
        assert_eq!(parse_time(text).unwrap().unix_timestamp(), 1_795_392_000, "{text}");
    }
    assert!(parse_time("tomorrow").is_err());
}
