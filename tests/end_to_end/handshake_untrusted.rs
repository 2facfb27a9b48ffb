//! A listener that completes handshakes with certificates that it does not trust, and refuses their requests.

use serde_json::Value;

use crate::handshake_setting::{Client, Envoy, Leaf, Pki, Starting, minor_version, openssl};

/// The head and the body of an answer.
fn answer(address: std::net::SocketAddr, client: Option<&Client>) -> (String, String) {
    let output = openssl(address, client, &["-quiet"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{text} {output:?}"));
    (head.to_owned(), body.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_client_is_told_and_logged_with_the_cause_that_envoy_swallows() {
    let pki = Pki::new();
    if minor_version() < 39 {
        // Envoy does not say whether a certificate is valid: there, nobody is let in.
        let envoy = Envoy::start(&pki, "accept_untrusted: true\n");
        let (head, body) = answer(envoy.address(), Some(&pki.sound()));
        assert!(head.contains(" 403 ") && body.contains("server_misconfigured"), "{head} {body}");
        return;
    }
    let envoy = Envoy::start_all(
        &pki,
        &[
            "name: crl\naccept_untrusted: true\ncrl: crl.pem\n",
            "name: early\naccept_untrusted: true\ncrl: crl-early.pem\n",
            "name: expired\naccept_untrusted: true\ncrl: crl-expired.pem\n",
            "name: stranger\naccept_untrusted: true\ncrl: crl-stranger.pem\n",
            "name: san\naccept_untrusted: true\nsans: [pay.example]\n",
            "name: pin\naccept_untrusted: true\npins: [df6ff72fe9116521268f6f2dd4966f51df479883fe7037b39f75916ac3049d1a]\n",
        ],
        Starting::default(),
    );
    let root = |leaf: Leaf<'_>| Some(pki.client(&pki.root, &leaf, &[]));
    let stranger = Some(pki.client(&pki.stranger, &Leaf::default(), &[]));
    let alone = Some(pki.client(&pki.intermediate, &Leaf::default(), &[]));
    let scenarios = [
        (0, root(Leaf::expired()), "expired", "exact"),
        (0, root(Leaf::not_yet_valid()), "not_yet_valid", "exact"),
        (0, root(Leaf::revoked()), "revoked", "exact"),
        (0, root(Leaf { until: -60, ..Leaf::revoked() }), "revoked", "exact"),
        (0, root(Leaf::for_servers()), "wrong_purpose", "exact"),
        (0, Some(pki.self_signed(&Leaf::default())), "self_signed", "exact"),
        (0, stranger, "unknown_issuer", "likely"),
        (0, alone, "unknown_issuer", "likely"),
        (0, None, "no_client_certificate", "exact"),
        (1, root(Leaf::default()), "crl_not_yet_valid", "exact"),
        (2, root(Leaf::default()), "crl_expired", "exact"),
        (3, root(Leaf::default()), "crl_missing", "exact"),
        (4, root(Leaf::default()), "san_mismatch", "exact"),
        (5, root(Leaf::default()), "pin_mismatch", "exact"),
    ];
    for (index, (listener, client, reason, certainty)) in scenarios.iter().enumerate() {
        let (head, body) = answer(envoy.listeners[*listener], client.as_ref());
        let about = format!("{reason}: {head}\n{body}");
        assert!(head.contains(" 403 Forbidden") && head.contains("application/problem+json"), "{about}");
        let line = envoy.failure(index);
        let problem: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(problem["reason"], *reason, "{about}");
        assert_eq!(
            (&problem["category"], &problem["detail"]),
            (&line["error"]["type"], &line["mtls"]["remedy"])
        );
        assert_eq!(line["event"]["reason"], *reason, "{line:#}");
        assert_eq!(line["mtls"]["certainty"], *certainty, "{line:#}");
        assert_eq!((&line["mtls"]["refused"], &line["tls"]["established"]), (&true.into(), &true.into()));
        assert_eq!(line["tls"]["version"], "1.3", "{line:#}");
        assert_eq!(line["tls"]["client"].get("subject").is_some(), client.is_some(), "{line:#}");
        let unchecked = line["mtls"].get("unchecked").is_some();
        // Names and pins are judged of certificates that Envoy found valid.
        assert_eq!(unchecked, client.is_some() && *listener < 4, "{line:#}");
    }
    let (head, _) = answer(envoy.address(), Some(&pki.sound()));
    assert!(head.contains(" 200 OK"), "{head}");
    let named = pki.client(&pki.root, &Leaf { names: vec!["pay.example"], ..Leaf::default() }, &[]);
    assert!(answer(envoy.listeners[4], Some(&named)).0.contains(" 200 OK"));
    assert_eq!(envoy.failures().len(), scenarios.len());
    for (series, count) in [
        ("outgate_tls_handshakes_total{listener=\"crl\",outcome=\"refused\"}", 9),
        ("outgate_tls_handshakes_total{listener=\"crl\",outcome=\"finished\"}", 1),
        ("outgate_tls_handshakes_total{listener=\"crl\",outcome=\"failed\"}", 0),
    ] {
        assert_eq!(envoy.metric(series).await, Some(count), "{series}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_may_be_a_page_and_may_keep_silent() {
    let pki = Pki::new();
    let envoy = Envoy::start_all(
        &pki,
        &[
            "name: page\naccept_untrusted: true\nanswer: html\n",
            "name: silent\naccept_untrusted: true\ntell: [category]\n",
        ],
        Starting::default(),
    );
    let (head, body) = answer(envoy.address(), None);
    assert!(head.contains(" 403 Forbidden") && head.contains("text/html"), "{head}");
    assert!(body.contains("no_client_certificate") && body.contains("Configure the client"), "{body}");
    let (_, body) = answer(envoy.listeners[1], None);
    let problem: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(problem["category"], "client_certificate_missing");
    assert_eq!((problem.get("reason"), problem.get("detail")), (None, None));
    envoy.failure(1);
    if minor_version() < 37 {
        // Nothing marks a handshake without a request as finished there.
        return;
    }
    // A client that sends no request is logged all the same.
    let mut python = std::process::Command::new("python3");
    python.args(["-c", "
import socket, ssl, sys
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
context.wrap_socket(socket.create_connection(('127.0.0.1', int(sys.argv[1]))), server_hostname='localhost').close()
"]);
    assert!(python.arg(envoy.address().port().to_string()).status().unwrap().success());
    assert_eq!(envoy.failure(2)["event"]["reason"], "no_client_certificate");
}
