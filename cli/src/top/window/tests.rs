use serde_json::{Value, json};

use super::*;

fn at(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(1_795_219_200 + seconds).unwrap()
}

fn stamp(seconds: i64) -> String {
    at(seconds).format(&time::format_description::well_known::Rfc3339).unwrap()
}

fn line(value: &Value) -> Line {
    Line::read(value.to_string().as_bytes())
}

fn failure(seconds: i64, source: &str) -> Line {
    line(
        &json!({"@timestamp": stamp(seconds), "event": {"action": "tls.handshake.failure", "reason": "garbage"},
        "error": {"type": "not_tls"}, "client": {"ip": source}, "observer": {"ingress": {"interface": {"name": "mtls"}}},
        "tls": {"client": {"server_name": "pay.example", "hash": {"sha256": "AB"}}}}),
    )
}

fn summary(start: i64, sources: &[(&str, u64)], categories: &Value) -> Line {
    let sources: Vec<_> =
        sources.iter().map(|(key, count)| json!({"key": key, "failures": count, "error": 0})).collect();
    line(
        &json!({"@timestamp": stamp(start + 60), "event": {"action": "tls.handshake.summary", "start": stamp(start), "end": stamp(start + 60)},
        "observer": {"ingress": {"interface": {"name": "mtls"}}},
        "mtls": {"suppressed": 1, "categories": categories, "top": {"sources": sources}}}),
    )
}

#[test]
fn what_has_passed_is_forgotten() {
    let mut window = Window::new(300);
    window.add(&failure(0, "192.0.2.1"), at(0));
    window.add(&failure(200, "192.0.2.2"), at(200));
    let seen = window.seen(at(200));
    assert_eq!(seen.sources.top(5), [("192.0.2.1", 1), ("192.0.2.2", 1)]);
    assert_eq!((seen.failures(), seen.reasons.get("not_tls / garbage")), (2, 2));
    assert_eq!((seen.fingerprints.get("AB"), seen.server_names.get("pay.example")), (2, 2));
    assert_eq!(window.seen(at(320)).sources.top(5), [("192.0.2.2", 1)]);
    assert_eq!(window.seen(at(1_000)).failures(), 0);
    // A line of long ago.
    window.add(&failure(0, "192.0.2.1"), at(1_000));
    assert_eq!(window.seen(at(1_000)).failures(), 0);
}

#[test]
fn a_summary_counts_what_had_no_line_and_nothing_twice() {
    let mut window = Window::new(300);
    for second in [1, 2, 30] {
        window.add(&failure(second, "192.0.2.1"), at(second));
    }
    window.add(&failure(40, "192.0.2.2"), at(40));
    window.add(&summary(0, &[("192.0.2.1/32", 900)], &json!({"not_tls": 901})), at(60));
    let seen = window.seen(at(61));
    assert_eq!(seen.sources.top(5), [("192.0.2.1", 900), ("192.0.2.2", 1)]);
    assert_eq!(seen.failures(), 901);
    // The next window's lines come on top.
    window.add(&failure(62, "192.0.2.1"), at(62));
    window.add(&failure(63, "192.0.2.1"), at(63));
    assert_eq!(window.seen(at(64)).sources.get("192.0.2.1"), 902);
    window.add(&summary(60, &[("192.0.2.1/32", 10)], &json!({"not_tls": 10})), at(120));
    assert_eq!(window.seen(at(121)).sources.get("192.0.2.1"), 910);
}

#[test]
fn alarms_stay_as_long_as_the_window() {
    let mut window = Window::new(300);
    let alarm = json!({"@timestamp": stamp(5), "event": {"action": "tls.handshake.alarm"},
        "mtls": {"alarm": {"source": "192.0.2.7/32", "failures": 104}}});
    window.add(&line(&alarm), at(5));
    assert_eq!(window.seen(at(10)).alarms[0].source, "192.0.2.7");
    assert_eq!(window.seen(at(400)).alarms, []);
}

#[test]
fn all_time_is_kept_in_bounded_memory() {
    let mut window = Window::new(0);
    for second in 0..2_000 {
        window.add(&failure(second, "192.0.2.1"), at(second));
    }
    assert!(window.slices.len() <= 513, "{}", window.slices.len());
    assert_eq!(window.seen(at(1_000_000)).sources.get("192.0.2.1"), 2_000);
}
