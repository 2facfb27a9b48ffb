//! Handshakes that fail on the mTLS listener, each with its line, compared with what openssl says of the certificate.

use std::fs;
use std::path::Path;
use std::process::Command;

use outgate_tests::certificates::{Authority, Identity, Profile};
use outgate_tests::client::{self, Ask, Tls};
use outgate_tests::origin::Origin;
use outgate_tests::outgate::{Options, Outgate, executable, free_address};
use rcgen::ExtendedKeyUsagePurpose;
use rustls::SupportedProtocolVersion;
use rustls::version::{TLS12, TLS13};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const DENY_ALL: &str = "name: deny-all\nrules: []\n";
const REVOKED: u64 = 0x4711;

/// A proxy with an mTLS listener, and the CA of its clients.
struct Listener {
    outgate: Outgate,
    clients: Authority,
    folder: tempfile::TempDir,
}

impl Listener {
    fn start(more: &[&str]) -> Self {
        let clients = Authority::new("Clients CA");
        let folder = tempfile::tempdir().unwrap();
        let ca = folder.path().join("clients.pem");
        let crl = folder.path().join("clients.crl");
        fs::write(&ca, clients.pem()).unwrap();
        fs::write(&crl, clients.revocation_list(REVOKED)).unwrap();
        let options = Options::default().mtls(&ca).with(&["--mtls-crl", crl.to_str().unwrap()]).with(more);
        Self { outgate: Outgate::start(DENY_ALL, options), clients, folder }
    }

    fn tls(&self) -> Tls {
        Tls::new("localhost", self.outgate.roots()).http1()
    }

    /// A handshake and a request; whether the listener refused.
    async fn ask(&self, tls: Tls) -> Result<client::Reply, std::io::Error> {
        let exchange = async {
            let stream = TcpStream::connect(self.outgate.mtls).await.unwrap();
            let stream = tls.handshake(stream).await?;
            client::over_tls(stream, Ask::get("/who").at("localhost")).await
        };
        let limit = std::time::Duration::from_secs(30);
        tokio::time::timeout(limit, exchange).await.expect("an answer or an end within half a minute")
    }

    fn failures(&self) -> Vec<Value> {
        self.outgate
            .log()
            .into_iter()
            .filter(|line| line["event"]["action"] == "tls.handshake.failure")
            .collect()
    }

    /// The line of the failure after the first `count`.
    async fn failure(&self, count: usize) -> Value {
        for _ in 0..100 {
            if let Some(line) = self.failures().into_iter().nth(count) {
                return line;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        panic!("no line within two seconds: {:#?}", self.outgate.log());
    }
}

/// What `openssl x509` prints of a field.
fn openssl(folder: &Path, identity: &Identity, field: &[&str]) -> String {
    let file = folder.join("shown.pem");
    fs::write(&file, &identity.certificate_pem).unwrap();
    let output =
        Command::new("openssl").args(["x509", "-noout"]).args(field).arg("-in").arg(&file).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.trim().split_once('=').map(|(_, value)| value.to_owned()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_of_a_certificate_is_named_in_both_versions() {
    let listener = Listener::start(&[]);
    let stranger = Authority::new("Stranger CA");
    let name = ["spiffe://mesh/ns/a/sa/b", "client.example"];
    let profile = Profile::client();
    let faults: [(&str, &str, &str, Option<Identity>); 7] = [
        (
            "certificate_expired",
            "expired",
            "certificate_expired",
            Some(listener.clients.issue(&name, &profile.clone().expired())),
        ),
        (
            "certificate_expired",
            "not_yet_valid",
            "certificate_expired",
            Some(listener.clients.issue(&name, &profile.clone().not_yet_valid())),
        ),
        (
            "chain_verification_failed",
            "unknown_issuer",
            "chain_verification",
            Some(stranger.issue(&name, &profile)),
        ),
        (
            "chain_verification_failed",
            "self_signed",
            "chain_verification",
            Some(Identity::self_signed(&name, &profile)),
        ),
        (
            "certificate_revocation",
            "revoked",
            "revocation",
            Some(listener.clients.issue(&name, &Profile { serial: Some(REVOKED), ..profile.clone() })),
        ),
        (
            "chain_verification_failed",
            "wrong_purpose",
            "chain_verification",
            Some(
                listener
                    .clients
                    .issue(&name, &Profile { purpose: ExtendedKeyUsagePurpose::ServerAuth, ..profile }),
            ),
        ),
        ("client_certificate_missing", "no_client_certificate", "other", None),
    ];
    let mut count = 0;
    for (category, reason, class, identity) in faults {
        let identity = identity.map(std::sync::Arc::new);
        for (version, written) in [(&TLS12, "1.2"), (&TLS13, "1.3")] {
            let version: &'static SupportedProtocolVersion = version;
            let tls = Tls { identity: identity.clone(), ..listener.tls().version(version) };
            assert!(listener.ask(tls).await.is_err(), "{reason} in {written}");
            let line = listener.failure(count).await;
            count += 1;
            assert_eq!(line["error"]["type"], category, "{line}");
            assert_eq!(line["event"]["reason"], reason, "{line}");
            assert_eq!(line["mtls"]["class"], class, "{line}");
            assert_eq!(line["tls"]["version"], written, "{line}");
            assert_eq!(line["tls"]["established"], false);
            assert_eq!(line["tls"]["client"]["server_name"], "localhost");
            assert_eq!(
                (&line["event"]["kind"], &line["event"]["outcome"]),
                (&"event".into(), &"failure".into())
            );
            assert_eq!((&line["client"]["ip"], line["client"]["port"].is_u64()), (&"127.0.0.1".into(), true));
            assert_eq!(
                (&line["server"]["ip"], &line["server"]["port"]),
                (&"127.0.0.1".into(), &listener.outgate.mtls.port().into())
            );
            assert!(line["event"]["duration"].as_u64().unwrap() > 0);
            assert!(line["error"]["message"].as_str().unwrap().starts_with("TLS_error"));
            if let Some(identity) = &identity {
                let shown = |field: &[&str]| openssl(listener.folder.path(), identity, field);
                let certificate = &line["tls"]["client"];
                assert_eq!(certificate["x509"]["serial_number"], shown(&["-serial"]), "{line}");
                assert_eq!(certificate["subject"], shown(&["-subject", "-nameopt", "RFC2253"]));
                assert_eq!(certificate["issuer"], shown(&["-issuer", "-nameopt", "RFC2253"]));
                assert_eq!(
                    certificate["hash"]["sha256"],
                    shown(&["-fingerprint", "-sha256"]).replace(':', "")
                );
                assert_eq!(certificate["x509"]["alternative_names"], json!(name));
                for time in ["not_before", "not_after"] {
                    let written = certificate[time].as_str().unwrap();
                    time::OffsetDateTime::parse(written, &time::format_description::well_known::Rfc3339)
                        .unwrap();
                }
            } else {
                assert_eq!(line["tls"]["client"]["x509"], Value::Null, "{line}");
            }
        }
    }
    assert_eq!(listener.failures().len(), count);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_fault_of_a_certificate_is_named_too() {
    let listener = Listener::start(&[]);
    let good = || listener.clients.client("client.example");
    let address = listener.outgate.mtls;

    // Plain HTTP on the TLS port.
    client::raw(address, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let line = listener.failure(0).await;
    assert_eq!(
        (&line["error"]["type"], &line["event"]["reason"]),
        (&"not_tls".into(), &"plain_http".into()),
        "{line}"
    );
    assert_eq!(line["tls"]["version"], Value::Null);

    // Closed before a byte, and in the middle.
    drop(TcpStream::connect(address).await.unwrap());
    let line = listener.failure(1).await;
    assert_eq!(
        (&line["error"]["type"], &line["event"]["reason"]),
        (&"transport".into(), &"closed_before_hello".into()),
        "{line}"
    );

    // A client that refuses our certificate, in both versions.
    let stranger = Authority::new("Stranger CA");
    for (index, version) in [&TLS12, &TLS13].into_iter().enumerate() {
        let suspicious =
            Tls { roots: vec![stranger.der()], ..listener.tls() }.version(version).identity(good());
        assert!(listener.ask(suspicious).await.is_err());
        let line = listener.failure(2 + index).await;
        assert_eq!(line["error"]["type"], "peer_alert", "{line}");
        assert_eq!(line["event"]["reason"], "client_rejected_server_certificate", "{line}");
        assert_eq!(line["mtls"]["detected_by"], "client");
    }

    // TLS 1.1 alone: Python still speaks it, where the system's OpenSSL lets it.
    let script = "
import socket, ssl, sys, warnings
warnings.simplefilter('ignore')
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
context.set_ciphers('ALL:@SECLEVEL=0')
context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
try: context.wrap_socket(socket.create_connection(('127.0.0.1', int(sys.argv[1]))))
except ssl.SSLError as error: print(error.reason)
";
    let said = Command::new("python3").args(["-c", script, &address.port().to_string()]).output().unwrap();
    let said = String::from_utf8_lossy(&said.stdout);
    if said.contains("PROTOCOL_VERSION") {
        let line = listener.failure(4).await;
        assert_eq!(
            (&line["error"]["type"], &line["mtls"]["class"]),
            (&"protocol_version_mismatch".into(), &"protocol_version".into()),
            "{line}"
        );
        assert_eq!(line["tls"]["version"], Value::Null, "none was negotiated");
    } else {
        eprintln!("skipped: this Python offers no TLS 1.1: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn good_clients_are_answered_with_the_identity_that_was_seen_and_not_logged() {
    let listener = Listener::start(&[]);
    let identity = listener.clients.client("spiffe://mesh/ns/a/sa/b");
    let serial = openssl(listener.folder.path(), &identity, &["-serial"]);
    let reply = listener.ask(listener.tls().identity(identity)).await.unwrap();
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("application/json")));
    let seen = reply.json();
    assert_eq!(
        (&seen["mtls"], &seen["serial"], &seen["spiffeId"]),
        (&true.into(), &serial.into(), &"spiffe://mesh/ns/a/sa/b".into()),
        "{seen}"
    );

    // A good connection that ends by a reset is no failure.
    let stream = TcpStream::connect(listener.outgate.mtls).await.unwrap();
    let mut stream =
        listener.tls().identity(listener.clients.client("client.example")).handshake(stream).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    client::read_until_quiet(&mut stream).await;
    let (stream, _) = stream.into_inner();
    rustix::net::sockopt::set_socket_linger(&stream, Some(std::time::Duration::ZERO)).unwrap();
    drop(stream);
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    assert_eq!(listener.failures(), Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn good_requests_go_to_the_upstream() {
    let origin = Origin::plain().await;
    let server = Authority::new("Servers CA");
    let certificate = server.server(&["localhost"]);
    let folder = tempfile::tempdir().unwrap();
    let (chain, key) = (folder.path().join("server.pem"), folder.path().join("server.key"));
    fs::write(&chain, &certificate.certificate_pem).unwrap();
    fs::write(&key, &certificate.key_pem).unwrap();
    let upstream = origin.address.to_string();
    let listener = Listener::start(&[
        "--mtls-upstream",
        &upstream,
        "--mtls-cert",
        chain.to_str().unwrap(),
        "--mtls-key",
        key.to_str().unwrap(),
    ]);
    let tls = Tls { roots: vec![server.der()], ..listener.tls() };
    let stream = TcpStream::connect(listener.outgate.mtls).await.unwrap();
    let stream =
        tls.clone().identity(listener.clients.client("client.example")).handshake(stream).await.unwrap();
    let lies = [("x-forwarded-for", "192.0.2.1"), ("x-forwarded-client-cert", "Subject=evil")];
    let reply = client::over_tls(stream, Ask::get("/who").at("localhost").with(&lies)).await.unwrap();
    assert_eq!((reply.status, reply.json()["target"].as_str()), (200, Some("/who")));
    assert_eq!(origin.last().header("x-forwarded-for"), Some("127.0.0.1"));
    let forwarded = origin.last().header("x-forwarded-client-cert").unwrap_or_default().to_owned();
    assert!(forwarded.contains("client.example") && !forwarded.contains("evil"), "{forwarded}");
    assert!(listener.ask(tls).await.is_err(), "no certificate");
    assert_eq!(origin.received().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_say_what_the_options_do_not() {
    let folder = tempfile::tempdir().unwrap();
    let settings = folder.path().join("settings.yaml");
    fs::write(
        &settings,
        "sans: [spiffe://mesh/pay]\nlog: {service: payments, window_seconds: 1, alarm: 2, fields: {drop: [client.port]}}\n",
    )
    .unwrap();
    let listener = Listener::start(&["--mtls-settings", settings.to_str().unwrap()]);
    for _ in 0..3 {
        let tls = listener.tls().identity(listener.clients.client("client.example"));
        assert!(listener.ask(tls).await.is_err());
    }
    for index in 0..3 {
        let line = listener.failure(index).await;
        assert_eq!(line["event"]["reason"], "san_mismatch", "{line}");
        assert_eq!((&line["service"]["name"], line["client"].get("port")), (&"payments".into(), None));
    }
    let tls = listener.tls().identity(listener.clients.client("spiffe://mesh/pay"));
    assert_eq!(listener.ask(tls).await.unwrap().status, 200);
    // What is about many handshakes is in the same log.
    for action in ["tls.handshake.alarm", "tls.handshake.summary"] {
        let line = listener.outgate.line(|line| line["event"]["action"] == action).await;
        assert_eq!(line["observer"]["ingress"]["interface"]["name"], "mtls", "{line}");
    }

    for (text, expected) in [
        ("sens: [a]\n", "unknown field `sens`"),
        ("log: {fields: {drop: [client.pi]}}\n", "`client.pi` is no field"),
        ("log: {top: 99}\n", "top: `99` is out of range"),
        ("upstream: a b\n", "`upstream`"),
    ] {
        fs::write(&settings, text).unwrap();
        let ca = folder.path().join("ca.pem");
        fs::write(&ca, listener.clients.pem()).unwrap();
        let policy = listener.outgate.policy_file();
        let mut command = Command::new("timeout");
        command.arg("60").arg(executable()).args(["run", "--policy", policy.to_str().unwrap(), "--state"]);
        command.arg(folder.path().join("state"));
        for option in ["--listen", "--admin", "--cert-http", "--mtls-listen"] {
            command.args([option, &free_address().to_string()]);
        }
        let output = command
            .args(["--mtls-ca", ca.to_str().unwrap(), "--mtls-settings"])
            .arg(&settings)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(expected) && output.status.code() == Some(1), "{text}: {said}");
    }
}
