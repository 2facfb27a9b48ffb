use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::json;

use super::*;
use crate::certificate::tests::hostile;
use crate::certificate::{AlternativeName, NameKind};
use crate::classify::{Evidence, classify};
use crate::presented::Attributes;

const EXPIRED: &str = "TLS_error:|268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:verify cert failed: X509_verify_cert: certificate verification error at depth 0: certificate has expired:TLS_error_end";
const UNSUPPORTED: &str =
    "TLS_error:|268435696:SSL routines:OPENSSL_internal:UNSUPPORTED_PROTOCOL:TLS_error_end";

fn connection(message: Option<&'static str>) -> Connection<'static> {
    Connection {
        duration: Some(1_234_567),
        id: Some(42),
        client: Some(SocketAddr::new(IpAddr::V6(Ipv4Addr::new(192, 0, 2, 7).to_ipv6_mapped()), 50372)),
        server: Some(SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 8443)),
        server_name: Some("localhost"),
        tls_version: Some("TLSv1.2"),
        message,
        listener: Some("mtls"),
        ..Connection::ended(OffsetDateTime::UNIX_EPOCH)
    }
}

fn failure(reason: &str) -> Failure {
    classify(&Evidence { reason, certificate: true, ..Evidence::default() }).unwrap()
}

fn parsed(failure: &Failure, connection: &Connection<'_>) -> Value {
    let line = line(failure, connection);
    assert!(line.len() <= MAXIMUM_LINE && !line.contains('\n'), "{line}");
    serde_json::from_str(&line).unwrap()
}

#[test]
fn a_refused_certificate_is_one_object_of_ecs_names() {
    let pem = include_bytes!("../certificate/fixtures/sans.pem");
    let line = parsed(
        &failure(EXPIRED),
        &Connection {
            certificate: Some(Presented::read(Some(pem), Attributes::default(), OffsetDateTime::UNIX_EPOCH)),
            service: Some("payments"),
            ..connection(Some(EXPIRED))
        },
    );
    assert_eq!(
        line,
        json!({
            "@timestamp": "1970-01-01T00:00:00Z",
            "event": {"kind": "event", "category": ["network", "authentication"], "type": ["connection", "denied"],
                      "action": "tls.handshake.failure", "outcome": "failure", "reason": "expired", "id": "42", "duration": 1_234_567},
            "observer": {"ingress": {"interface": {"name": "mtls"}}},
            "error": {"type": "certificate_expired", "message": EXPIRED},
            "client": {"ip": "192.0.2.7", "port": 50372},
            "server": {"ip": "::1", "port": 8443},
            "service": {"name": "payments"},
            "tls": {
                "version": "1.2",
                "established": false,
                "client": {
                    "server_name": "localhost",
                    "subject": "CN=sans",
                    "issuer": "CN=sans",
                    "not_before": "2026-11-23T04:13:46Z",
                    "not_after": "2036-11-20T04:13:46Z",
                    "x509": {
                        "serial_number": "ABCD",
                        "alternative_names": ["a.example", "spiffe://mesh/ns/x", "a@b.example", "192.0.2.1", "2001:db8::5",
                                              "rid:1.2.3.4", "otherName:1.2.3", "dirName:O=dir,CN=in\\, side"],
                        "public_key_algorithm": "EC", "public_key_size": 256, "signature_algorithm": "ecdsa-with-SHA256",
                    },
                    "hash": {"sha256": "10B3BB64F196B20C2416D59E008F8481AB6E021AC09EF531557E9BB6D8D577F8"},
                },
            },
            "mtls": {"class": "certificate_expired", "detected_by": "server", "certainty": "exact", "blame": "client",
                     "remedy": "Renew the client's certificate and have the client load the new one.", "depth": 0, "code": 268_435_581,
                     "certificate": {"expired": false, "not_yet_valid": true, "self_signed": true, "ca": false,
                                     "weak_key": false, "weak_signature": false},
                     "alternative_names": {"dns": ["a.example"], "uri": ["spiffe://mesh/ns/x"], "email": ["a@b.example"],
                                           "ip": ["192.0.2.1", "2001:db8::5"],
                                           "other": ["rid:1.2.3.4", "otherName:1.2.3", "dirName:O=dir,CN=in\\, side"]}},
        })
    );
}

#[test]
fn what_is_not_known_is_not_there() {
    let line = parsed(
        &classify(&Evidence::default()).unwrap(),
        &Connection {
            duration: None,
            client: None,
            server: None,
            server_name: None,
            tls_version: None,
            ..connection(None)
        },
    );
    assert_eq!(line["tls"], json!({"established": false}));
    assert_eq!(line["error"], json!({"type": "transport", "message": "closed before hello"}));
    assert_eq!(line["event"]["type"], json!(["connection", "error"]));
    for absent in ["client", "server", "service"] {
        assert_eq!(line.get(absent), None);
    }
}

#[test]
fn a_version_that_was_never_agreed_on_is_not_told() {
    // Envoy says TLSv1.2 of a client that offers nothing newer than 1.1.
    let line = parsed(&failure(UNSUPPORTED), &connection(Some(UNSUPPORTED)));
    assert_eq!(line["tls"].get("version"), None);
    assert_eq!(line["mtls"]["class"], "protocol_version");
}

#[test]
fn older_envoys_tell_attributes_instead_of_the_certificate() {
    let attributes = Attributes {
        subject: Some(br"CN=J\C3\BCrgen,O=Test"),
        sha256: Some(b"812a3e65ca81be55c97e132cfd9d9446d6734a94f0fb34d544b70dbbe58b78ff"),
        uri: Some(b"spiffe://mesh/ns/x"),
        dns: Some(b"client.example\x1b[2J"),
    };
    let expected = json!({
        "server_name": "localhost",
        "subject": r"CN=J\C3\BCrgen,O=Test",
        "x509": {"alternative_names": [r"client.example\u{1b}[2J", "spiffe://mesh/ns/x"]},
        "hash": {"sha256": "812A3E65CA81BE55C97E132CFD9D9446D6734A94F0FB34D544B70DBBE58B78FF"},
    });
    for (pem, defect) in
        [(None, Value::Null), (Some(b"rubbish".as_slice()), json!("the certificate is not in PEM"))]
    {
        let certificate = Some(Presented::read(pem, attributes, OffsetDateTime::UNIX_EPOCH));
        let line = parsed(&failure(EXPIRED), &Connection { certificate, ..connection(Some(EXPIRED)) });
        assert_eq!(line["tls"]["client"], expected);
        assert_eq!(line["mtls"]["certificate_defect"], defect);
    }
}

#[test]
fn hostile_lines_are_bounded_json() {
    let pem = hostile();
    let message = format!("TLS_error:|1:\u{202e}\n\"{}", "\"\\".repeat(10_000));
    let name = "\u{202e}\0".repeat(500);
    let line = parsed(
        &failure(EXPIRED),
        &Connection {
            server_name: Some(&name),
            message: Some(&message),
            certificate: Some(Presented::read(
                Some(pem.as_bytes()),
                Attributes::default(),
                OffsetDateTime::UNIX_EPOCH,
            )),
            ..connection(None)
        },
    );
    assert!(line["mtls"]["alternative_names_omitted"].as_u64().unwrap() > 900);
    assert!(line["tls"]["client"]["subject"].as_str().unwrap().contains("…(+"));
    assert!(!line.to_string().contains('\u{202e}'));
}

#[test]
fn the_worst_certificate_still_has_its_names_in_the_line() {
    let presented = Presented {
        subject: Some("\"".repeat(270)),
        issuer: Some("\"".repeat(270)),
        alternative_names: vec![AlternativeName { kind: NameKind::Dns, text: "\"".repeat(140) }; 32],
        ..Presented::default()
    };
    let message = "\"".repeat(2000);
    let connection = Connection { message: Some(&message), certificate: Some(presented), ..connection(None) };
    assert!(parsed(&failure(EXPIRED), &connection)["tls"]["client"]["subject"].is_string());
}
