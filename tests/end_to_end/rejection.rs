//! Clients that do not accept our certificate, told apart from clients that do.

use outgate_tests::certificates::Authority;
use outgate_tests::client::{self, Ask, Tls};
use rustls::version::{TLS12, TLS13};
use serde_json::Value;

use crate::setting::{INSPECT_ALL, Setting};

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_trust_us_has_a_line_with_host_and_rule() {
    let setting = Setting::with(INSPECT_ALL).await;
    let stranger = Authority::new("Stranger CA");
    for (version, host) in [(&TLS12, "old.site.test"), (&TLS13, "new.site.test")] {
        let stream = client::connect(setting.proxy(), &format!("{host}:443")).await.unwrap();
        let suspicious = Tls::new(host, vec![stranger.der()]).version(version);
        assert!(suspicious.handshake(stream).await.is_err());
        let line = setting
            .outgate
            .line(|line| {
                line["event"]["action"] == "tls.handshake.failure" && line["destination"]["domain"] == host
            })
            .await;
        assert_eq!(line["error"]["type"], "peer_alert", "{line}");
        assert_eq!(line["event"]["reason"], "intercept_rejected", "{line}");
        assert_eq!(
            (&line["rule"]["name"], &line["client"]["ip"]),
            (&"all".into(), &"127.0.0.1".into()),
            "{line}"
        );
        let session = setting.outgate.session(host).await;
        assert_eq!(line["outgate"]["session_id"], session["outgate"]["session_id"]);
    }

    // Good connections, with and without a request in them, have none.
    assert_eq!(setting.https("good.site.test", "/").await.0.status, 200);
    let stream = client::connect(setting.proxy(), "good.site.test:443").await.unwrap();
    drop(setting.trusting("good.site.test").handshake(stream).await.unwrap());
    let ask = Ask::get("/").at("good.site.test");
    client::https(setting.proxy(), "good.site.test", &setting.trusting("good.site.test").http1(), ask)
        .await
        .unwrap();
    let failures: Vec<Value> = setting
        .outgate
        .log()
        .into_iter()
        .filter(|line| {
            line["event"]["action"] == "tls.handshake.failure"
                && line["destination"]["domain"] == "good.site.test"
        })
        .collect();
    assert_eq!(failures, Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn after_three_for_one_host_the_rule_that_would_help_is_printed_and_not_applied() {
    let mut setting = Setting::with(INSPECT_ALL).await;
    for _ in 0..4 {
        let stream = client::connect(setting.proxy(), "pinned.site.test:443").await.unwrap();
        let pinning = Tls::new("pinned.site.test", vec![setting.origins.der()]);
        assert!(pinning.handshake(stream).await.is_err());
    }
    setting.outgate.wait_for("it is not applied", std::time::Duration::from_secs(5));
    let said = setting.outgate.said();
    assert_eq!(said.matches("it is not applied").count(), 1, "{said}");
    let rule = said.lines().find(|line| line.contains("name: unread-pinned-site-test")).unwrap();
    let stream = client::connect(setting.proxy(), "pinned.site.test:443").await.unwrap();
    assert!(Tls::new("pinned.site.test", vec![setting.origins.der()]).handshake(stream).await.is_err());

    // Whoever takes the suggestion is rid of the trouble.
    setting
        .outgate
        .swap_policy(&INSPECT_ALL.replace("rules:\n", &format!("rules:\n{}\n", rule.trim_start())));
    let stream = client::connect(setting.proxy(), "pinned.site.test:443").await.unwrap();
    Tls::new("pinned.site.test", vec![setting.origins.der()]).handshake(stream).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_rejections_is_counted_exactly_and_its_lines_are_bounded() {
    const MANY: usize = 400;
    let setting = Setting::with(INSPECT_ALL).await;
    let before = setting.metrics().await;
    let series = |metrics: &str, name: &str, label: &str| {
        let line = metrics
            .lines()
            .find(|line| line.starts_with(name) && line.contains("\"inspected\"") && line.contains(label));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<usize>().ok())
    };
    let failures =
        |metrics: &str| series(metrics, "outgate_tls_handshake_failures_total{", "\"intercept_rejected\"");
    assert_eq!(failures(&before), Some(0), "there from the start: {before}");
    let stranger = Authority::new("Stranger CA");
    for _ in 0..MANY {
        let stream = client::connect(setting.proxy(), "flood.site.test:443").await.unwrap();
        assert!(Tls::new("flood.site.test", vec![stranger.der()]).handshake(stream).await.is_err());
    }
    assert_eq!(setting.https("good.site.test", "/").await.0.status, 200);
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    let after = setting.metrics().await;
    assert_eq!(failures(&after), Some(MANY));
    let log = setting.outgate.log();
    let lines = log.iter().filter(|line| line["event"]["reason"] == "intercept_rejected").count();
    let suppressed: usize = ["\"sampled\"", "\"first_seen\""]
        .iter()
        .filter_map(|kind| series(&after, "outgate_tls_handshake_lines_suppressed_total{", kind))
        .sum();
    assert_eq!(lines + suppressed, MANY, "each has a line, or is counted as one without");
}
