//! Every way in which a handshake fails, by openssl, Python and rustls, in TLS 1.2 and 1.3, field by field.
//!
//! What is coarser on older Envoys is said where it is, and in `docs/mtls-listener.md`.

use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustls::version::{TLS12, TLS13};
use serde_json::{Value, json};

use crate::handshake_setting::{Client, Envoy, Leaf, Pki, Starting, minor_version, openssl, python, rustls};

const CHAIN: &str = "chain_verification_failed";
const REVOCATION: &str = "certificate_revocation";

/// A certificate, and what becomes of it on a listener.
struct Scenario {
    name: &'static str,
    /// The number of the listener.
    listener: usize,
    client: Option<Client>,
    category: &'static str,
    reason: &'static str,
    depth: Option<u64>,
    /// Whether the certificate has expired, whatever the stack says.
    expired: bool,
}

const LISTENERS: [&str; 7] = [
    "name: strict\ncrl: crl.pem\nmax_verify_depth: 1\n",
    "name: crl-missing\ncrl: crl-stranger.pem\n",
    "name: crl-expired\ncrl: crl-expired.pem\n",
    "name: crl-early\ncrl: crl-early.pem\n",
    "name: san\nsans: [spiffe://mesh/ns/pay/sa/batch, pay.example]\n",
    "name: pin\npins: [df6ff72fe9116521268f6f2dd4966f51df479883fe7037b39f75916ac3049d1a]\n",
    "name: depth\nmax_verify_depth: 2\n",
];

fn scenarios(pki: &Pki) -> Vec<Scenario> {
    let root = |leaf: Leaf<'_>| Some(pki.client(&pki.root, &leaf, &[]));
    let of = |name, listener, client, category, reason, depth| Scenario {
        name,
        listener,
        client,
        category,
        reason,
        depth,
        expired: false,
    };
    let expired = |scenario| Scenario { expired: true, ..scenario };
    let stranger = |leaf: Leaf<'_>| Some(pki.client(&pki.stranger, &leaf, &[]));
    let deep = pki.client(&pki.below, &Leaf::default(), &[&pki.below, &pki.intermediate]);
    let alone = pki.client(&pki.intermediate, &Leaf::default(), &[]);
    let leaf = Some(0);
    vec![
        expired(of("expired", 0, root(Leaf::expired()), "certificate_expired", "expired", leaf)),
        of("not yet valid", 0, root(Leaf::not_yet_valid()), "certificate_expired", "not_yet_valid", leaf),
        of("revoked", 0, root(Leaf::revoked()), REVOCATION, "revoked", leaf),
        expired(of(
            "expired and revoked",
            0,
            root(Leaf { until: -60, ..Leaf::revoked() }),
            REVOCATION,
            "revoked",
            leaf,
        )),
        of("another CA", 0, stranger(Leaf::default()), CHAIN, "unknown_issuer", leaf),
        expired(of("expired, of another CA", 0, stranger(Leaf::expired()), CHAIN, "unknown_issuer", leaf)),
        of("self-signed", 0, Some(pki.self_signed(&Leaf::default())), CHAIN, "self_signed", leaf),
        of("for servers", 0, root(Leaf::for_servers()), CHAIN, "wrong_purpose", leaf),
        of("without its intermediate", 0, Some(alone), CHAIN, "unknown_issuer", leaf),
        // BoringSSL stops to look for issuers where the depth ends.
        of("too deep", 6, Some(deep), CHAIN, "unknown_issuer", Some(2)),
        of("no CRL of its CA", 1, Some(pki.sound()), REVOCATION, "crl_missing", leaf),
        of("CRL expired", 2, Some(pki.sound()), REVOCATION, "crl_expired", leaf),
        of("CRL not yet valid", 3, Some(pki.sound()), REVOCATION, "crl_not_yet_valid", leaf),
        of("another name", 4, Some(pki.sound()), "identity_rejected", "san_mismatch", None),
        of("another fingerprint", 5, Some(pki.sound()), "identity_rejected", "pin_mismatch", None),
        of("no certificate", 0, None, "client_certificate_missing", "no_client_certificate", None),
    ]
}

/// What `openssl x509` prints of a field.
fn shown(certificate: &Path, field: &[&str]) -> String {
    let output =
        Command::new("openssl").args(["x509", "-noout"]).args(field).arg("-in").arg(certificate).output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    text.trim().split_once('=').map(|(_, value)| value.to_owned()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_of_a_certificate_is_told_field_by_field() {
    let pki = Pki::new();
    let envoy = Envoy::start_all(&pki, &LISTENERS, Starting::default());
    let minor = minor_version();
    let mut count = 0;
    for scenario in scenarios(&pki) {
        let address = envoy.listeners[scenario.listener];
        let client = scenario.client.as_ref();
        for version in ["1.2", "1.3"] {
            let (flag, python_version, rustls_version) = match version {
                "1.2" => ("-tls1_2", "TLSv1_2", &TLS12),
                _ => ("-tls1_3", "TLSv1_3", &TLS13),
            };
            openssl(address, client, &[flag]);
            check(&scenario, &envoy.failure(count), version, address, minor);
            assert!(!python(address, client, python_version).contains("200 OK"), "{}", scenario.name);
            check(&scenario, &envoy.failure(count + 1), version, address, minor);
            let answer = rustls(address, client, rustls_version).await;
            assert!(answer.is_err(), "{}: {answer:?}", scenario.name);
            check(&scenario, &envoy.failure(count + 2), version, address, minor);
            count += 3;
        }
    }
    assert_eq!(envoy.failures().len(), count);
    assert_eq!(envoy.total("outgate_tls_handshake_failures_total").await, count as u64);

    // The listener that is as strict as any takes a sound one.
    assert!(
        String::from_utf8_lossy(&openssl(envoy.address(), Some(&pki.sound()), &[]).stdout).contains("200 OK")
    );
    let through = pki.client(&pki.intermediate, &Leaf::default(), &[&pki.intermediate]);
    let answer = python(envoy.listeners[6], Some(&through), "TLSv1_3");
    assert!(answer.contains("200 OK"), "{answer} {:?}", envoy.failures().last());
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(envoy.failures().len(), count);
}

fn check(scenario: &Scenario, line: &Value, version: &str, address: SocketAddr, minor: u32) {
    let name = scenario.name;
    let about = format!("{name} in {version}: {line:#}");
    // Before 1.37 Envoy says that verification failed, and not why.
    let coarse = minor < 37 && scenario.client.is_some();
    let (category, reason) =
        if coarse { (CHAIN, "unspecified") } else { (scenario.category, scenario.reason) };
    assert_eq!(
        (&line["error"]["type"], &line["event"]["reason"]),
        (&json!(category), &json!(reason)),
        "{about}"
    );
    let class = match category {
        "certificate_expired" => "certificate_expired",
        CHAIN => "chain_verification",
        REVOCATION => "revocation",
        _ => "other",
    };
    assert_eq!(line["mtls"]["class"], class, "{about}");
    assert_eq!(line["mtls"]["detected_by"], "server", "{about}");
    assert_eq!(line["mtls"]["certainty"], if coarse { "likely" } else { "exact" }, "{about}");
    assert_eq!(
        line["mtls"]["blame"],
        if reason.starts_with("crl_") { "operator" } else { "client" },
        "{about}"
    );
    assert!(line["mtls"]["remedy"].as_str().is_some_and(|remedy| remedy.ends_with('.')), "{about}");
    let depth = if coarse { Value::Null } else { json!(scenario.depth) };
    assert_eq!(line["mtls"].get("depth").cloned().unwrap_or_default(), depth, "{about}");
    assert_eq!(line["event"]["outcome"], "failure", "{about}");
    assert_eq!(line["event"]["type"], json!(["connection", "denied"]), "{about}");
    assert!(line["event"]["duration"].as_u64().is_some_and(|duration| duration > 0), "{about}");
    assert!(line["event"]["id"].as_str().is_some_and(|id| id.parse::<u64>().is_ok()), "{about}");
    assert_eq!(
        (&line["client"]["ip"], line["client"]["port"].is_u64()),
        (&json!("127.0.0.1"), true),
        "{about}"
    );
    assert_eq!(line.get("source"), None, "the client is the peer itself: {about}");
    assert_eq!(line["server"], json!({"ip": "127.0.0.1", "port": address.port()}), "{about}");
    assert_eq!(line["tls"]["established"], false, "{about}");
    assert_eq!(line["tls"]["version"], version, "{about}");
    assert_eq!(line["mtls"]["offered"]["version"], version, "{about}");
    assert_eq!(line["tls"]["client"]["server_name"], "localhost", "{about}");
    assert_eq!(line["tls"]["client"]["ja3"].as_str().map(str::len), Some(32), "{about}");
    let ja4 = line["mtls"]["ja4"].as_str().unwrap_or_default();
    assert!(ja4.starts_with(&format!("t{}d", version.replace('.', ""))), "{about}");
    assert!(
        line["error"]["message"].as_str().is_some_and(|message| message.starts_with("TLS_error:|")),
        "{about}"
    );
    let told = &line["tls"]["client"];
    let Some(client) = &scenario.client else {
        assert_eq!((told.get("subject"), told.get("x509")), (None, None), "{about}");
        return;
    };
    let shown = |field: &[&str]| shown(&client.certificate, field);
    assert_eq!(told["subject"], shown(&["-subject", "-nameopt", "RFC2253"]), "{about}");
    assert_eq!(told["hash"]["sha256"], shown(&["-fingerprint", "-sha256"]).replace(':', ""), "{about}");
    assert_eq!(told["x509"]["alternative_names"], json!(["client.example"]), "{about}");
    assert_eq!(line["mtls"]["alternative_names"], json!({"dns": ["client.example"]}), "{about}");
    if minor < 38 {
        // The certificate itself comes with 1.38.
        assert_eq!(line["mtls"].get("certificate"), None, "{about}");
        return;
    }
    assert_eq!(told["issuer"], shown(&["-issuer", "-nameopt", "RFC2253"]), "{about}");
    assert_eq!(told["x509"]["serial_number"], shown(&["-serial"]), "{about}");
    assert_eq!(told["x509"]["public_key_algorithm"], "EC", "{about}");
    assert_eq!(told["x509"]["public_key_size"], 256, "{about}");
    assert_eq!(told["x509"]["signature_algorithm"], "ecdsa-with-SHA256", "{about}");
    for (time, field) in [("not_before", "-startdate"), ("not_after", "-enddate")] {
        let written = told[time].as_str().unwrap();
        let at =
            time::OffsetDateTime::parse(written, &time::format_description::well_known::Rfc3339).unwrap();
        assert_eq!(at.unix_timestamp(), seconds(&shown(&[field, "-dateopt", "iso_8601"])), "{about}");
    }
    let facts = &line["mtls"]["certificate"];
    assert_eq!(facts["expired"], scenario.expired, "{about}");
    assert_eq!(facts["not_yet_valid"], scenario.reason == "not_yet_valid", "{about}");
    assert_eq!(facts["self_signed"], scenario.reason == "self_signed", "{about}");
    assert_eq!(
        (&facts["ca"], &facts["weak_key"], &facts["weak_signature"]),
        (&json!(false), &json!(false), &json!(false))
    );
}

/// `2026-11-21 07:00:00Z`
fn seconds(iso: &str) -> i64 {
    let text = iso.replace(' ', "T");
    time::OffsetDateTime::parse(&text, &time::format_description::well_known::Rfc3339)
        .unwrap()
        .unix_timestamp()
}

/// Each fault, and the line that follows it.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_fault_of_a_certificate_is_told_too() {
    let pki = Pki::new();
    let envoy = Envoy::start_all(
        &pki,
        &[
            "name: plain\nhandshake_timeout: 1s\n",
            "name: old\ntls_maximum: TLSv1_2\ncipher_suites: [ECDHE-ECDSA-AES256-GCM-SHA384]\n",
        ],
        Starting::default(),
    );
    let [plain, old] = envoy.listeners[..] else { panic!("two listeners") };
    let sound = pki.sound();
    let stranger = pki.path("stranger-ca.pem");
    let stranger = stranger.to_str().unwrap();
    let connect = |address: SocketAddr| TcpStream::connect(address).unwrap();
    let send = |address: SocketAddr, bytes: &[u8]| {
        let mut stream = connect(address);
        stream.write_all(bytes).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        stream
    };
    let hello = client_hello();
    let half = &hello[..hello.len() / 2];
    let distrust = |flag| openssl(plain, Some(&sound), &[flag, "-verify_return_error", "-CAfile", stranger]);
    let scenarios: [(&str, &str, &str, &dyn Fn()); 13] = [
        ("not_tls", "plain_http", "server", &|| drop(send(plain, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"))),
        ("not_tls", "http_proxy_connect", "server", &|| drop(send(plain, b"CONNECT a:443 HTTP/1.1\r\n\r\n"))),
        ("not_tls", "garbage", "server", &|| {
            drop(send(plain, b"SSH-2.0-OpenSSH_9.6\r\nwhat is this port?\r\n"))
        }),
        ("transport", "closed_before_hello", "transport", &|| drop(connect(plain))),
        ("transport", "closed_before_hello", "transport", &|| drop(send(plain, half))),
        ("transport", "closed_mid_handshake", "transport", &|| {
            let stream = send(plain, &hello);
            stream.shutdown(Shutdown::Write).unwrap();
            std::thread::sleep(Duration::from_millis(300));
        }),
        ("transport", "reset", "transport", &|| {
            let stream = send(plain, &hello);
            rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
        }),
        ("transport", "timeout", "transport", &|| {
            let _stream = send(plain, &hello);
            std::thread::sleep(Duration::from_millis(1_500));
        }),
        ("peer_alert", "client_rejected_server_certificate", "client", &|| drop(distrust("-tls1_2"))),
        ("peer_alert", "client_rejected_server_certificate", "client", &|| drop(distrust("-tls1_3"))),
        ("protocol_version_mismatch", "client_version_too_new", "server", &|| {
            openssl(old, Some(&sound), &["-tls1_3"]);
        }),
        ("negotiation_error", "no_shared_cipher", "server", &|| {
            openssl(old, Some(&sound), &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"]);
        }),
        ("protocol_version_mismatch", "client_version_too_old", "server", &|| {
            drop(python(plain, Some(&sound), "TLSv1_1"));
        }),
    ];
    for (count, (category, reason, detected_by, fail)) in scenarios.iter().enumerate() {
        fail();
        let line = envoy.failure(count);
        let about = format!("{count}: {line:#}");
        assert_eq!(
            (&line["error"]["type"], &line["event"]["reason"]),
            (&json!(category), &json!(reason)),
            "{about}"
        );
        assert_eq!(line["mtls"]["detected_by"], *detected_by, "{about}");
        // Whoever was refused before a version was agreed on has none; Envoy would say TLSv1.2.
        let negotiated = *category == "peer_alert";
        assert_eq!(line["tls"].get("version").is_some(), negotiated, "{about}");
        assert_eq!(line["tls"]["client"].get("x509"), None, "{about}");
        let offered = match *reason {
            "client_version_too_old" => json!("1.1"),
            "client_version_too_new" => json!("1.3"),
            _ => line["mtls"]["offered"]["version"].clone(),
        };
        assert_eq!(line["mtls"]["offered"]["version"], offered, "{about}");
    }

    // What works is no failure: served, closed without a request, ended by a reset, a protocol that nobody has.
    for more in [&["-tls1_3"][..], &["-tls1_2"], &["-alpn", "nobody/1"]] {
        let answer = openssl(plain, Some(&sound), more);
        assert!(String::from_utf8_lossy(&answer.stdout).contains("200 OK"), "{answer:?}");
    }
    rustls(plain, Some(&sound), &TLS13).await.unwrap();
    reset_after_answer(&pki, plain, &sound);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(envoy.failures().len(), scenarios.len(), "{:#?}", envoy.failures().last());
    let finished =
        envoy.metric("outgate_tls_handshakes_total{listener=\"plain\",outcome=\"finished\"}").await;
    assert_eq!(finished, Some(5));
}

/// A request that was answered, on a connection that Python ends by a reset.
fn reset_after_answer(pki: &Pki, address: SocketAddr, client: &Client) {
    const SCRIPT: &str = "
import socket, ssl, struct, sys
port, roots, certificate, key = sys.argv[1:]
context = ssl.create_default_context(cafile=roots)
context.load_cert_chain(certificate, key)
stream = context.wrap_socket(socket.create_connection(('127.0.0.1', int(port)), 5), server_hostname='localhost')
stream.sendall(b'GET /who HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n')
assert b'200 OK' in stream.recv(65536)
stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
stream.close()
";
    let output = Command::new("python3")
        .args(["-c", SCRIPT, &address.port().to_string()])
        .args([&pki.path("servers-ca.pem"), &client.certificate, &client.key])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The first flight of a client that goes no further.
fn client_hello() -> Vec<u8> {
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let configuration = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let mut connection =
        rustls::ClientConnection::new(std::sync::Arc::new(configuration), "localhost".try_into().unwrap())
            .unwrap();
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).unwrap();
    hello
}
