use serde_json::json;

use super::*;

const EXPIRED: &str = "TLS_error:|268435581:SSL_routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:verify_cert_failed:_X509_verify_cert:_certificate_verification_error_at_depth_0:_certificate_has_expired:TLS_error_end";

/// The sub-reason, and who.
fn told(line: &str) -> Option<(&'static str, Option<String>)> {
    match Line::read(line.as_bytes()) {
        Line::Failure(failed) => Some((failed.sub_reason.as_str(), failed.about.source)),
        _ => None,
    }
}

#[test]
fn a_failure_is_found_in_logs_of_every_shape() {
    let source = |text: &str| Some(text.to_owned());
    for (line, expected) in [
        // Ours, in the three shapes; the last also as Envoy's log prints it.
        (
            json!({"@timestamp": "2026-11-21T00:00:00Z", "event": {"action": "tls.handshake.failure", "reason": "revoked"},
                   "error": {"type": "certificate_revocation", "message": "TLS_error:|…"}, "client": {"ip": "192.0.2.7", "port": 1}})
            .to_string(),
            ("revoked", source("192.0.2.7")),
        ),
        (
            json!({"timeUnixNano": "1795219200250000000", "eventName": "tls.handshake.failure", "body": {"stringValue": "x"},
                   "attributes": [{"key": "event.reason", "value": {"stringValue": "timeout"}},
                                  {"key": "error.type", "value": {"stringValue": "transport"}},
                                  {"key": "client.address", "value": {"stringValue": "2001:db8:1:2:3::4"}}]})
            .to_string(),
            ("timeout", source("2001:db8:1:2::/64")),
        ),
        (
            format!(
                "[info][wasm] wasm log handshake: {}",
                json!({"class_uid": 4001, "status_code": "not_tls", "status_detail": "garbage",
                       "src_endpoint": {"ip": "192.0.2.8"}, "unmapped": {"event.action": "tls.handshake.failure"}})
            ),
            ("garbage", source("192.0.2.8")),
        ),
        // Envoy's access logs: JSON with whatever names, and text.
        (
            json!({"start_time": "2026-11-21T00:00:00.000Z", "downstream_transport_failure_reason": EXPIRED,
                   "downstream_remote_address": "192.0.2.9:4711", "upstream_host": "10.0.0.1:80"})
            .to_string(),
            ("expired", source("192.0.2.9")),
        ),
        (
            json!({"tls": {"why": EXPIRED}, "peer_ip": "192.0.2.10"}).to_string(),
            ("expired", source("192.0.2.10")),
        ),
        (
            json!({"reason": "-", "connection_termination_details": "transport_socket_timeout_was_reached", "src": "[2001:db8::1]:2"})
                .to_string(),
            ("timeout", source("2001:db8::/64")),
        ),
        (
            format!("[2026-11-21T00:00:00.000Z] \"- - -\" 0 - \"{EXPIRED}\" 192.0.2.11:4711 10.0.0.1:8443"),
            ("expired", source("192.0.2.11")),
        ),
        (
            "Nov 23 04:00:00 proxy envoy[7]: 192.0.2.12:1 \"TLS error: 268435612:SSL routines:OPENSSL_internal:HTTP_REQUEST\"".to_owned(),
            ("plain_http", source("192.0.2.12")),
        ),
        // As Docker wraps lines.
        (
            json!({"log": json!({"why": EXPIRED, "client_ip": "192.0.2.13"}).to_string() + "\n", "stream": "stdout"}).to_string(),
            ("expired", source("192.0.2.13")),
        ),
        (format!("2026-11-21T00:00:00Z stdout F {}", json!({"why": EXPIRED})), ("expired", None)),
    ] {
        assert_eq!(told(&line), Some((expected.0, expected.1)), "{line}");
    }
}

#[test]
fn what_is_no_failed_handshake_is_told_apart() {
    for (line, expected) in [
        // Towards an upstream, Envoy is the client.
        (json!({"upstream_transport_failure_reason": EXPIRED}).to_string(), Line::Upstream),
        (
            json!({"response_code_details": format!("upstream_reset_before_response_started{{remote_connection_failure|{EXPIRED}}}")})
                .to_string(),
            Line::Upstream,
        ),
        (
            format!("upstream connect error or disconnect/reset before headers. transport failure reason: {EXPIRED}"),
            Line::Upstream,
        ),
        // Where a field is for the reason, a client cannot say it by another.
        (
            json!({"downstream_transport_failure_reason": "-", "user_agent": EXPIRED, "path": EXPIRED}).to_string(),
            Line::Other,
        ),
        (json!({"event": {"action": "outgate.request", "reason": "x"}, "url": {"path": EXPIRED}}).to_string(), Line::Other),
        ("{\"reason\": \"half a line".to_owned(), Line::Malformed),
        ("{}".to_owned(), Line::Other),
        // Words of a client that are ours.
        (json!({"sni": "revoked", "user_agent": "certificate_revocation"}).to_string(), Line::Other),
        ("GET / HTTP/1.1 200".to_owned(), Line::Other),
        (String::new(), Line::Other),
    ] {
        assert_eq!(Line::read(line.as_bytes()), expected, "{line}");
    }
}

#[test]
fn summaries_and_alarms_are_read() {
    let summary = json!({"@timestamp": "2026-11-21T00:01:00Z",
        "event": {"action": "tls.handshake.summary", "start": "2026-11-21T00:00:00Z", "end": "2026-11-21T00:01:00Z"},
        "observer": {"ingress": {"interface": {"name": "mtls"}}},
        "mtls": {"failures": 12, "suppressed": 10, "categories": {"not_tls": 12},
                 "top": {"sources": [{"key": "192.0.2.7/32", "failures": 9, "error": 0}, {"key": "2001:db8::/64", "failures": 3, "error": 0}],
                         "fingerprints": [], "server_names": [{"key": "pay\u{1b}[2J", "failures": 7, "error": 0}]}}});
    let Line::Summary(read) = Line::read(summary.to_string().as_bytes()) else { panic!("no summary") };
    assert_eq!((read.suppressed, read.listener.as_deref()), (10, Some("mtls")));
    assert_eq!(read.end.unwrap() - read.start.unwrap(), time::Duration::MINUTE);
    assert_eq!(read.sources, [("192.0.2.7".to_owned(), 9), ("2001:db8::/64".to_owned(), 3)]);
    assert_eq!(read.server_names, [("pay\\u{1b}[2J".to_owned(), 7)]);
    assert_eq!(read.categories["not_tls"], 12);

    let alarm = json!({"@timestamp": "2026-11-21T00:00:30Z", "event": {"action": "tls.handshake.alarm"},
        "client": {"ip": "192.0.2.7"}, "mtls": {"alarm": {"source": "192.0.2.7/32", "failures": 104, "threshold": 100}}});
    let Line::Alarm(read) = Line::read(alarm.to_string().as_bytes()) else { panic!("no alarm") };
    assert_eq!((read.source.as_str(), read.failures), ("192.0.2.7", 104));
}

#[test]
fn words_of_others_cannot_move_a_cursor_and_are_cut() {
    let line = format!("192.0.2.1 {EXPIRED} \u{1b}[2J\u{202e}{}", "x".repeat(100_000));
    let Line::Failure(failed) = Line::read(line.as_bytes()) else { panic!("no failure") };
    assert!(failed.words.len() < 420 && failed.words.is_ascii() || failed.words.ends_with('…'));
    assert!(!failed.words.contains('\u{1b}'));
}

#[test]
fn no_bytes_make_it_panic() {
    let seeds = [
        json!({"downstream_transport_failure_reason": EXPIRED, "a": [1, {"b": "{\"c\":1}"}]}).to_string(),
        format!("{}{}", "{\"a\":".repeat(5_000), "}".repeat(5_000)),
        json!({"event": {"action": "tls.handshake.summary"}, "mtls": {"top": {"sources": [{"key": 1}]}}})
            .to_string(),
    ];
    for seed in &seeds {
        let step = (seed.len() / 400).max(1);
        for end in (0..seed.len()).step_by(step) {
            let mut bytes = seed.as_bytes()[..end].to_vec();
            let _any = Line::read(&bytes);
            bytes.extend([0xff, 0, 0xc3]);
            let _any = Line::read(&bytes);
        }
    }
}
