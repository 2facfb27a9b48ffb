//! Load balancers in front, sessions that are resumed, connections without TLS, and a logger that dies.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::handshake_setting::{Client, Envoy, Leaf, Pki, Starting, openssl};

/// A PROXY header (text, or hexadecimal digits) and then Python's TLS; prints the answer.
fn behind(address: SocketAddr, header: &[u8], client: Option<&Client>) -> String {
    const SCRIPT: &str = "
import socket, ssl, sys
port, header, certificate, key = sys.argv[1:]
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
if certificate: context.load_cert_chain(certificate, key)
stream = socket.create_connection(('127.0.0.1', int(port)), 5)
stream.sendall(bytes.fromhex(header))
try:
    stream = context.wrap_socket(stream, server_hostname='localhost')
    stream.sendall(b'GET /who HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n')
    print(stream.recv(65536).decode())
except OSError as error: print('error:', error)
";
    let header: String = header.iter().map(|byte| format!("{byte:02x}")).collect();
    let output = Command::new("python3")
        .args(["-c", SCRIPT, &address.port().to_string(), &header])
        .arg(client.map(|client| client.certificate.clone()).unwrap_or_default())
        .arg(client.map(|client| client.key.clone()).unwrap_or_default())
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_load_balancer_the_true_client_and_the_peer_are_told_apart() {
    let pki = Pki::new();
    let envoy = Envoy::start(&pki, "proxy_protocol: true\nlog: {window_seconds: 1}\n");
    let address = envoy.address();
    let version_1 = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n".to_vec();
    let version_1_6 = b"PROXY TCP6 2001:db8:1:2::7 2001:db8::1 4711 443\r\n".to_vec();
    let mut version_2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    version_2.extend([192, 0, 2, 8, 198, 51, 100, 1, 0x12, 0x68, 1, 0xbb]);
    for (count, (header, ip, port)) in [
        (&version_1, "192.0.2.7", 4711),
        (&version_2, "192.0.2.8", 4712),
        (&version_1_6, "2001:db8:1:2::7", 4711),
    ]
    .into_iter()
    .enumerate()
    {
        assert!(behind(address, header, Some(&pki.sound())).contains("200 OK"));
        behind(address, header, None);
        let line = envoy.failure(count);
        assert_eq!(line["event"]["reason"], "no_client_certificate", "{line:#}");
        assert_eq!(line["client"], json!({"ip": ip, "port": port}), "{line:#}");
        assert_eq!(line["source"]["ip"], "127.0.0.1", "{line:#}");
        assert!(line["source"]["port"].as_u64().is_some_and(|port| port > 1024 && port != 4711));
    }
    // Sources are counted by the true client.
    let summary = envoy.nth("tls.handshake.summary", 0, Duration::from_secs(5));
    let source = summary["mtls"]["top"]["sources"][0]["key"].as_str().unwrap_or_default().to_owned();
    assert!(source.starts_with("192.0.2.") || source == "2001:db8:1:2::/64", "{summary:#}");

    // TLS without the header: Envoy closes, and tells its loggers nothing that a port scan would not leave as well.
    assert!(behind(address, b"", Some(&pki.sound())).contains("error"));
    let line = envoy.failure(3);
    assert_eq!(
        (&line["event"]["reason"], &line["mtls"]["certainty"]),
        (&json!("closed_before_hello"), &json!("likely")),
        "{line:#}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_does_not_outlive_its_certificate() {
    let pki = Pki::new();
    let envoy = Envoy::start(&pki, "name: mtls\n");
    let short = pki.client(&pki.root, &Leaf { until: 5, ..Leaf::default() }, &[]);
    let session = |version: &str| pki.path(&format!("session{version}")).to_str().unwrap().to_owned();
    for version in ["-tls1_2", "-tls1_3"] {
        let output = openssl(envoy.address(), Some(&short), &[version, "-sess_out", &session(version)]);
        assert!(String::from_utf8_lossy(&output.stdout).contains("200 OK"), "{version}: {output:?}");
    }
    std::thread::sleep(Duration::from_secs(6));
    for (count, version) in ["-tls1_2", "-tls1_3"].into_iter().enumerate() {
        let file = session(version);
        let mut more = vec![version];
        // No ticket was given out, or there is one to try.
        if std::path::Path::new(&file).exists() {
            more.extend(["-sess_in", &file]);
        }
        let output = openssl(envoy.address(), Some(&short), &more);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(!text.contains("200 OK") && !text.contains("Reused,"), "{version}: {text}");
        let line = envoy.failure(count);
        assert!(["expired", "unspecified"].contains(&line["event"]["reason"].as_str().unwrap()), "{line:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_tls_that_works_is_no_failure() {
    let pki = Pki::new();
    // The same port speaks TLS and plain text, by what tls_inspector sees.
    let edit = |text: String| {
        text.replacen(
            "    filter_chains:\n    - name: \"mtls\"\n",
            "    filter_chains:
    - name: plain
      filter_chain_match: {transport_protocol: raw_buffer}
      filters:
      - name: answer
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.direct_response.v3.Config
          response: {inline_string: plain text works here}
    - name: \"mtls\"
      filter_chain_match: {transport_protocol: tls}
",
            1,
        )
    };
    let envoy =
        Envoy::start_all(&pki, &["name: mtls\n"], Starting { edit: Some(&edit), ..Starting::default() });
    let mut stream = TcpStream::connect(envoy.address()).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = String::new();
    let _end = stream.read_to_string(&mut answer);
    assert_eq!(answer, "plain text works here");
    drop(stream);
    assert!(
        String::from_utf8_lossy(&openssl(envoy.address(), Some(&pki.sound()), &[]).stdout).contains("200 OK")
    );
    openssl(envoy.address(), None, &[]);
    envoy.failure(0);
    assert_eq!(envoy.failures().len(), 1, "{:#?}", envoy.failures());
    assert_eq!(
        envoy.total("outgate_tls_handshakes_total").await,
        2,
        "the one in plain text had no handshake"
    );
}

/// A logger that traps on every connection.
const DEADLY: &str = r#"(module
  (memory (export "memory") 1)
  (global $next (mut i32) (i32.const 1024))
  (func (export "_initialize"))
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "proxy_on_memory_allocate") (param $size i32) (result i32)
    (local $at i32)
    (local.set $at (global.get $next))
    (global.set $next (i32.add (global.get $next) (local.get $size)))
    (local.get $at))
  (func (export "proxy_on_context_create") (param i32 i32))
  (func (export "proxy_on_vm_start") (param i32 i32) (result i32) (i32.const 1))
  (func (export "proxy_on_configure") (param i32 i32) (result i32) (i32.const 1))
  (func (export "proxy_on_log") (param i32) unreachable)
  (func (export "proxy_on_done") (param i32) (result i32) (i32.const 1))
  (func (export "proxy_on_delete") (param i32)))"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_logger_that_dies_takes_no_traffic_with_it() {
    let pki = Pki::new();
    let module = pki.path("deadly.wasm");
    std::fs::write(&module, wat::parse_str(DEADLY).unwrap()).unwrap();
    let edit = |text: String| -> String {
        text.lines()
            .map(|line| {
                if !line.contains("\"outgate-handshake\"") {
                    return format!("{line}\n");
                }
                let (before, rest) = line.split_once("\"filename\":\"").unwrap();
                let (_, after) = rest.split_once('"').unwrap();
                format!("{before}\"filename\":\"{}\"{after}\n", module.display())
            })
            .collect()
    };
    let envoy =
        Envoy::start_all(&pki, &["name: mtls\n"], Starting { edit: Some(&edit), ..Starting::default() });
    let sound = pki.sound();
    for _ in 0..5 {
        openssl(envoy.address(), None, &[]);
        let output = openssl(envoy.address(), Some(&sound), &[]);
        assert!(String::from_utf8_lossy(&output.stdout).contains("200 OK"), "{output:?}");
    }
    let said = envoy.said().join("\n");
    assert!(said.contains("unreachable") || said.contains("proxy_on_log"), "the logger did not die: {said}");
}
