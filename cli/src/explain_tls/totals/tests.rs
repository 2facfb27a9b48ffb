use super::*;

fn read(text: &[u8]) -> Totals {
    let mut totals = Totals::default();
    totals.read(text).unwrap();
    totals
}

const HTTP: &str = "TLS_error:|268435612:SSL_routines:OPENSSL_internal:HTTP_REQUEST:TLS_error_end";

#[test]
fn totals_are_by_category_with_an_example_and_who() {
    let mut log = String::new();
    for index in 0..7 {
        log += &format!("[2026-11-21T00:00:0{index}.000Z] 192.0.2.{}:99 \"{HTTP}\"\n", index % 2);
    }
    log += "{\"@timestamp\":\"2026-11-21T00:01:00Z\",\"event\":{\"action\":\"tls.handshake.failure\",\"reason\":\"expired\"},\"error\":{\"type\":\"certificate_expired\",\"message\":\"m\"},\"client\":{\"ip\":\"192.0.2.9\"},\"tls\":{\"client\":{\"server_name\":\"pay.example\",\"hash\":{\"sha256\":\"ab\"}}}}\r\n";
    log += "{\"event\":{\"action\":\"tls.handshake.summary\"},\"mtls\":{\"suppressed\":40}}\n";
    log += "{\"broken\n\nnothing of interest\n";
    log += "last line without an end 192.0.2.0:1 TLS error: 268435703:SSL routines:OPENSSL_internal:WRONG_VERSION_NUMBER";
    let totals = read(log.as_bytes());
    let json = totals.json();
    assert_eq!(json["kind"], "totals");
    assert_eq!((&json["lines"], &json["failures"], &json["suppressed"]), (&12.into(), &9.into(), &40.into()));
    assert_eq!(json["malformed"], 1);
    assert_eq!(json["categories"], json!({"not_tls": 8, "certificate_expired": 1}));
    assert_eq!(
        (&json["first"], &json["last"]),
        (&"2026-11-21T00:00:00Z".into(), &"2026-11-21T00:01:00Z".into())
    );
    assert_eq!(json["reasons"][0]["reason"], "plain_http");
    assert_eq!(json["reasons"][0]["failures"], 7);
    assert_eq!(json["reasons"][0]["sources"][0], json!({"key": "192.0.2.0", "failures": 4}));
    assert!(json["reasons"][0]["example"].as_str().unwrap().contains("HTTP_REQUEST"));
    assert_eq!(json["reasons"][0]["documentation"], "docs/tls/not_tls.md#plain_http");
    assert_eq!(json["top"]["sources"][0], json!({"key": "192.0.2.0", "failures": 5}));
    assert_eq!(json["top"]["server_names"], json!([{"key": "pay.example", "failures": 1}]));
    assert_eq!(json["top"]["fingerprints"], json!([{"key": "AB", "failures": 1}]));

    let text = totals.text();
    for expected in [
        "9 failed handshakes in 12 lines, 2026-11-21T00:00:00Z to 2026-11-21T00:01:00Z\n",
        "        7   77.7%  not_tls / plain_http\n",
        "  from      192.0.2.0 (4), 192.0.2.1 (3)\n",
        "  more      docs/tls/not_tls.md#plain_http\n",
        "       40  failures more that Outgate counted without a line each",
        "        1  lines that begin as JSON and are none\n",
    ] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
}

#[test]
fn nothing_that_a_log_holds_grows_without_bound() {
    let mut tally = Tally::default();
    for index in 0..Tally::CAPACITY + 10 {
        tally.add(&index.to_string(), 1);
    }
    tally.add("0", 5);
    assert_eq!((tally.get("0"), tally.others, tally.counts.len()), (6, 10, Tally::CAPACITY));
    assert_eq!(tally.total(), u64::try_from(Tally::CAPACITY).unwrap() + 15);
    tally.raise("0", 4);
    assert_eq!(tally.get("0"), 6);
    tally.raise("0", 9);
    assert_eq!(tally.top(1), [("0", 9)]);
}

#[test]
fn long_lines_and_bytes_that_are_no_text_are_passed_over() {
    let mut log = vec![b'x'; 600_000];
    log.push(b'\n');
    log.extend([0xff, 0xfe, b'\n', b'\r', b'\n', 0, b'\n']);
    log.extend(HTTP.as_bytes());
    let totals = read(&log);
    assert_eq!((totals.lines(), totals.failures, totals.recognised()), (4, 1, true));
    assert!(!read(b"").recognised());
}
