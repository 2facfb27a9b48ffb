use std::collections::BTreeMap;

use super::*;

fn seen() -> Seen {
    let mut seen = Seen::telling(10);
    seen.categories.add("not_tls", 12);
    seen.reasons.add("not_tls / garbage", 2);
    seen.sources.add("192.0.2.7", 9);
    seen.sources.add("2001:db8::/64", 3);
    seen
}

fn frame() -> Frame {
    let failures = BTreeMap::from([
        (("not_tls".to_owned(), "garbage".to_owned()), 12),
        (("certificate_expired".to_owned(), "expired".to_owned()), 30),
        (("transport".to_owned(), "reset".to_owned()), 0),
    ]);
    let outcomes = BTreeMap::from([(
        "mtls".to_owned(),
        BTreeMap::from([("failed".to_owned(), 42), ("finished".to_owned(), 7)]),
    )]);
    Frame {
        at: OffsetDateTime::from_unix_timestamp(1_795_219_200).unwrap(),
        stats: Some((
            "127.0.0.1:9901".parse().unwrap(),
            Ok(Stats { failures, outcomes, ..Stats::default() }),
        )),
        rates: None,
        log: Some((PathBuf::from("log.jsonl"), Ok(seen()))),
        window: 300,
        rows: 8,
    }
}

#[test]
fn a_frame_shows_what_fails_and_who() {
    assert_eq!(
        frame().lines().join("\n"),
        "\
outgate top  2026-11-21T00:00:00Z  failed handshakes

Envoy on 127.0.0.1:9901, since its start
  listener mtls: 42 failed, 7 finished
  FAILURES   PER SEC  CATEGORY / REASON
        30         -  certificate_expired / expired
        12         -  not_tls / garbage

log.jsonl, last 300 s: 12 failures

  FAILURES  SOURCE
         9  192.0.2.7
         3  2001:db8::/64

  FAILURES  CATEGORY
        12  not_tls

  FAILURES  CATEGORY / REASON, of lines
         2  not_tls / garbage"
    );
}

#[test]
fn what_cannot_be_read_is_said_and_the_rest_is_shown() {
    let missing = || Err(std::io::Error::from(std::io::ErrorKind::NotFound));
    let without_log = Frame { log: Some((PathBuf::from("log.jsonl"), missing())), ..frame() };
    assert!(!without_log.is_blind());
    assert!(without_log.lines().iter().any(|line| line.starts_with("cannot read `log.jsonl`")));
    let blind = Frame {
        stats: Some(("127.0.0.1:9901".parse().unwrap(), Err("connection refused".to_owned()))),
        ..without_log
    };
    assert!(blind.is_blind());
    assert!(blind.lines().iter().any(|line| line.contains("does not answer: connection refused; --admin")));
    let without = Frame { log: None, ..frame() };
    assert!(without.lines().iter().any(|line| line.contains("add --log FILE")));
}

#[test]
fn rows_are_limited_and_the_rest_is_said() {
    let lines = Frame { rows: 1, ..frame() }.lines();
    assert!(lines.iter().any(|line| line.contains("… 1 reasons more")), "{lines:#?}");
    assert!(!lines.iter().any(|line| line.contains("2001:db8")));
}
