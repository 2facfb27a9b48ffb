//! Failures by the thousand: counters count all, lines are bounded, and what has no line is told.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::handshake_setting::{Envoy, Leaf, Pki, Starting, minor_version, openssl};

/// Plain HTTP on the TLS port, `count` times, as fast as it goes.
async fn flood(address: SocketAddr, count: usize) {
    const CLIENTS: usize = 50;
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            tokio::spawn(async move {
                for _ in 0..count / CLIENTS + usize::from(client < count % CLIENTS) {
                    let Ok(mut stream) = TcpStream::connect(address).await else { continue };
                    let _refused = stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
                    let mut rest = Vec::new();
                    let _closed = stream.read_to_end(&mut rest).await;
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_counted_exactly_and_its_lines_are_bounded() {
    const FAILURES: usize = 10_000;
    let pki = Pki::new();
    let settings = "log: {window_seconds: 2, alarm: 500, sampling: {lines_per_second: 30}}\n";
    let envoy = Envoy::start_all(&pki, &[settings], Starting { concurrency: 2, ..Starting::default() });
    let start = Instant::now();
    flood(envoy.address(), FAILURES).await;
    let seconds = start.elapsed().as_secs_f64();
    eprintln!("{:.0} failing handshakes a second", FAILURES as f64 / seconds);
    let series =
        "outgate_tls_handshake_failures_total{listener=\"mtls\",category=\"not_tls\",reason=\"plain_http\"}";
    let deadline = Instant::now() + Duration::from_secs(10);
    while envoy.total("outgate_tls_handshake_failures_total").await < FAILURES as u64 {
        assert!(Instant::now() < deadline, "{:?}", envoy.metric(series).await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(envoy.total("outgate_tls_handshakes_total").await, FAILURES as u64);
    let suppressed = envoy.total("outgate_tls_handshake_lines_suppressed_total").await;
    let lines = envoy.failures().len();
    assert_eq!(lines as u64 + suppressed, FAILURES as u64, "nothing is lost");
    // 30 a second, the first of its kind, and the seconds at both ends.
    assert!(lines as f64 <= 30.0 * (seconds + 2.0) + 1.0, "{lines} lines in {seconds} s");
    // One alarm in each window that the flood fell into.
    let alarm = envoy.nth("tls.handshake.alarm", 0, Duration::from_secs(5));
    assert_eq!(alarm["client"]["ip"], "127.0.0.1", "{alarm}");
    assert_eq!(alarm["mtls"]["alarm"]["source"], "127.0.0.1/32");
    assert!(alarm["mtls"]["alarm"]["failures"].as_u64().unwrap() >= 500);

    tokio::time::sleep(Duration::from_millis(3_500)).await;
    let summaries = envoy.lines_of("tls.handshake.summary");
    let sum = |pointer: &str| -> u64 {
        summaries.iter().filter_map(|summary| summary.pointer(pointer).and_then(Value::as_u64)).sum()
    };
    assert_eq!(sum("/mtls/failures"), FAILURES as u64, "{summaries:#?}");
    assert_eq!(sum("/mtls/suppressed"), suppressed);
    assert_eq!(sum("/mtls/categories/not_tls"), FAILURES as u64);
    assert_eq!(sum("/mtls/top/sources/0/failures"), FAILURES as u64);
    assert!(envoy.lines_of("tls.handshake.alarm").len() <= summaries.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_series_is_there_from_the_start_and_no_label_comes_from_a_peer() {
    let pki = Pki::new();
    let envoy = Envoy::start(&pki, "name: payments\n");
    let metrics = envoy.metrics().await;
    for series in [
        "outgate_tls_handshake_failures_total{listener=\"payments\",category=\"certificate_expired\",reason=\"expired\"} 0",
        "outgate_tls_handshake_failures_total{listener=\"payments\",category=\"unclassified\",reason=\"unclassified\"} 0",
        "outgate_tls_handshakes_total{listener=\"payments\",outcome=\"finished\"} 0",
        "outgate_tls_handshakes_total{listener=\"payments\",outcome=\"failed\"} 0",
        "outgate_tls_handshakes_total{listener=\"payments\",outcome=\"refused\"} 0",
        "outgate_tls_handshake_lines_suppressed_total{listener=\"payments\",kind=\"sampled\"} 0",
        "outgate_tls_handshake_lines_suppressed_total{listener=\"payments\",kind=\"first_seen\"} 0",
        "outgate_tls_handshake_alarms_total{listener=\"payments\"} 0",
        "outgate_tls_handshake_otlp_records_total{listener=\"payments\",kind=\"dropped\"} 0",
        "outgate_tls_client_certificate_days_to_expiry_bucket{listener=\"payments\",le=\"30\"} 0",
    ] {
        assert!(metrics.contains(series), "{series} is not in\n{metrics}");
    }
    let count =
        metrics.lines().filter(|line| line.starts_with("outgate_tls_handshake_failures_total{")).count();

    if minor_version() < 38 {
        // There is no certificate to read, hence no end of it.
        return;
    }
    // A certificate that is sound for thirty days, and one that is not.
    for leaf in [Leaf::default(), Leaf::expired()] {
        let client = pki.client(&pki.root, &leaf, &[]);
        openssl(envoy.address(), Some(&client), &[]);
    }
    envoy.failure(0);
    // Envoy merges what workers observed every few seconds.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let metrics = envoy.metrics().await;
    for series in [
        "outgate_tls_client_certificate_days_to_expiry_bucket{listener=\"payments\",le=\"0.5\"} 1",
        "outgate_tls_client_certificate_days_to_expiry_bucket{listener=\"payments\",le=\"14\"} 1",
        "outgate_tls_client_certificate_days_to_expiry_bucket{listener=\"payments\",le=\"30\"} 2",
        "outgate_tls_handshakes_total{listener=\"payments\",outcome=\"finished\"} 1",
        "outgate_tls_handshakes_total{listener=\"payments\",outcome=\"failed\"} 1",
    ] {
        assert!(metrics.contains(series), "{series} is not in\n{metrics}");
    }
    let after =
        metrics.lines().filter(|line| line.starts_with("outgate_tls_handshake_failures_total{")).count();
    assert_eq!(count, after);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envoy_that_ends_tells_its_window_before_its_time() {
    let pki = Pki::new();
    let settings = "log: {window_seconds: 3600, sampling: {lines_per_second: 0}}\n";
    let envoy = Envoy::start_all(&pki, &[settings], Starting { concurrency: 2, ..Starting::default() });
    flood(envoy.address(), 50).await;
    envoy.failure(0);
    let lines = envoy.end();
    let summaries: Vec<&Value> =
        lines.iter().filter(|line| line["event"]["action"] == "tls.handshake.summary").collect();
    let failures: u64 = summaries.iter().filter_map(|summary| summary["mtls"]["failures"].as_u64()).sum();
    let suppressed: u64 = summaries.iter().filter_map(|summary| summary["mtls"]["suppressed"].as_u64()).sum();
    assert_eq!((failures, suppressed), (50, 49), "{summaries:#?}");
}
