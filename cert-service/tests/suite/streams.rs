//! Grants in, certificates out: what a filter and an Envoy see.

use cert_service::xds::messages::{DeltaDiscoveryRequest, RpcStatus};
use cert_service::xds::{DELTA_ADS, DELTA_SDS};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::authorities::{Authority, Key, Recipe};
use crate::envoy::{Running, only_secret, parts};
use crate::support::Directory;

#[tokio::test]
async fn a_granted_name_has_a_certificate_and_no_other_has() {
    let directory = Directory::new();
    let running = Running::start(&directory, &[]).await;
    for method in [DELTA_ADS, DELTA_SDS] {
        let mut envoy = running.envoy(method).await;
        envoy.subscribe(&["b.example"]);
        assert_eq!(envoy.next().await.removed_resources, ["b.example"]);

        let (status, mut answer) = running.grant("main", "A.Example.").await;
        assert_eq!(status, 200);
        assert!(
            answer.as_object_mut().unwrap().remove("instance").is_some_and(|instance| instance.is_string())
        );
        let expected = serde_json::json!({"pool": "main", "host": "a.example", "resource": "a.example", "expiresInSeconds": 600});
        assert_eq!(answer, expected);
        envoy.subscribe(&["a.example"]);
        let (name, _, secret) = only_secret(&envoy.next().await);
        assert_eq!(name, "a.example");
        let (chain, key) = parts(&secret);
        let chain = cert_service::pem::decode(chain.as_bytes()).unwrap();
        let (_, certificate) = X509Certificate::from_der(&chain[0].der).unwrap();
        let names = &certificate.subject_alternative_name().unwrap().unwrap().value.general_names;
        assert_eq!(*names, [GeneralName::DNSName("a.example")]);
        let key = cert_service::pem::decode(key.as_bytes()).unwrap();
        let key = cert_service::ca::key::SigningKey::from_blocks(&key, None).unwrap();
        assert_eq!(key.public_key(), &*certificate.public_key().subject_public_key.data);
        envoy.silence().await;
    }
    running.stop().await;
}

#[tokio::test]
async fn the_name_is_what_envoy_spells_and_the_certificate_is_the_hosts() {
    let directory = Directory::new();
    let running = Running::start(&directory, &[]).await;
    running.grant("main", "bücher.example").await;
    let mut envoy = running.envoy(DELTA_ADS).await;
    for spelling in ["xn--bcher-kva.example", "XN--BCHER-kva.Example", "xn--bcher-kva.example."] {
        envoy.subscribe(&[spelling]);
        let (name, _, secret) = only_secret(&envoy.next().await);
        assert_eq!(name, spelling);
        let chain = cert_service::pem::decode(parts(&secret).0.as_bytes()).unwrap();
        let (_, certificate) = X509Certificate::from_der(&chain[0].der).unwrap();
        let names = &certificate.subject_alternative_name().unwrap().unwrap().value.general_names;
        assert_eq!(*names, [GeneralName::DNSName("xn--bcher-kva.example")]);
    }
    // Spellings are the client's choice: Envoy does not have to remember them all.
    for spelling in ["xN--bcher-kva.example", "xn--Bcher-kva.example"] {
        envoy.subscribe(&[spelling]);
        envoy.next().await;
    }
    assert_eq!(running.metric("cert_service_live_leases").await, 4.0);
    assert_eq!(running.metric("cert_service_leases_withdrawn_total{reason=\"spelling\"}").await, 1.0);
    running.stop().await;
}

#[tokio::test]
async fn names_that_are_no_hosts_are_removed_at_once() {
    let directory = Directory::new();
    let running = Running::start(&directory, &[]).await;
    let mut envoy = running.envoy(DELTA_ADS).await;
    let long = "a".repeat(10_000);
    let names = ["*", "*.example", "", "a b", "a\0b", "1.2.3.4:443", "[::1", "😀..", &long];
    envoy.subscribe(&names);
    let mut removed = envoy.next().await.removed_resources;
    removed.sort();
    let mut expected = names.map(str::to_owned);
    expected.sort();
    assert_eq!(removed, expected);
    let denials = running.log.events("denial");
    assert_eq!(denials.len(), names.len());
    assert!(denials.iter().all(|line| line["reason"] == "bad_name" && line["node"] == "test-envoy"));
    assert!(running.log.text().lines().all(|line| line.len() < 1000));
    running.stop().await;
}

#[tokio::test]
async fn grants_that_cannot_be_are_refused_with_a_problem() {
    let directory = Directory::new();
    let running = Running::start(&directory, &["--pool", "main", "--pool", "other"]).await;
    for (body, reason, detail) in [
        ("", "bad_request", "the body is not"),
        ("[]", "bad_request", "the body is not"),
        (r#"{"pool":"main"}"#, "bad_request", "missing field `host`"),
        (r#"{"pool":"main","host":"a","port":1}"#, "bad_request", "unknown field `port`"),
        (r#"{"pool":"main","host":"a b"}"#, "bad_request", "`a b`"),
        (r#"{"pool":"main","host":"a.example:443"}"#, "bad_request", "has a port"),
        (r#"{"pool":"ma in","host":"a.example"}"#, "bad_request", "is not a pool name"),
        (r#"{"pool":"third","host":"a.example"}"#, "unknown_pool", "start it with `--pool third`"),
    ] {
        let (status, problem) = running.post("/v1/grants", body).await;
        assert_eq!(status, 400, "{body}");
        assert_eq!(problem["reason"], reason, "{body}");
        assert_eq!(problem["status"], 400);
        assert!(problem["detail"].as_str().unwrap().contains(detail), "{body}: {problem}");
    }
    assert_eq!(running.grant("other", "a.example").await.0, 200);
    assert_eq!(running.metric("cert_service_grants_total{result=\"granted\"}").await, 1.0);
    assert_eq!(running.metric("cert_service_grants_total{result=\"bad_request\"}").await, 7.0);
    assert_eq!(running.metric("cert_service_grants_total{result=\"unknown_pool\"}").await, 1.0);
    assert_eq!(running.post("/v1/grants", &"x".repeat(10_000)).await.0, 413);
    running.stop().await;
}

#[tokio::test]
async fn envoy_goes_on_after_a_restart_with_what_it_holds() {
    let directory = Directory::new();
    let before = Running::start(&directory, &[]).await;
    let mut envoy = before.envoy(DELTA_ADS).await;
    let mut held = Vec::new();
    for name in ["a.example", "B.example"] {
        before.grant("main", name).await;
        envoy.subscribe(&[name]);
        let (name, version, _) = only_secret(&envoy.next().await);
        held.push((name, version));
    }
    before.stop().await;
    envoy.end().await;

    let after = Running::start(&directory, &[]).await;
    let mut envoy = after.envoy(DELTA_ADS).await;
    let forged = held[0].1.replace("2:main", "2:mean");
    let mut all: Vec<(&str, &str)> =
        held.iter().map(|(name, version)| (name.as_str(), version.as_str())).collect();
    // A version is good for its own host only, and nobody but the CA can write one.
    all.extend([("c.example", held[0].1.as_str()), ("d.example", forged.as_str()), ("e.example", "")]);
    envoy.resume(&all);
    let mut removed = envoy.next().await.removed_resources;
    removed.sort();
    assert_eq!(removed, ["c.example", "d.example", "e.example"]);
    envoy.silence().await;
    assert_eq!(after.metric("cert_service_live_leases").await, 2.0);
    assert_eq!(after.metric("cert_service_leases_kept_total").await, 2.0);
    // The filters' grants outlive us: a name that Envoy asks for again is minted again.
    envoy.unsubscribe(&["a.example"]);
    envoy.subscribe(&["a.example"]);
    assert_eq!(only_secret(&envoy.next().await).0, "a.example");
    after.stop().await;
}

#[tokio::test]
async fn nothing_of_another_ca_is_recognised() {
    let (first, second) = (Directory::new(), Directory::new());
    let before = Running::start(&first, &[]).await;
    before.grant("main", "a.example").await;
    let mut envoy = before.envoy(DELTA_ADS).await;
    envoy.subscribe(&["a.example"]);
    let (_, version, _) = only_secret(&envoy.next().await);
    before.stop().await;

    let after = Running::start(&second, &[]).await;
    let mut envoy = after.envoy(DELTA_ADS).await;
    envoy.resume(&[("a.example", &version)]);
    assert_eq!(envoy.next().await.removed_resources, ["a.example"]);
    let withdrawn = "cert_service_leases_withdrawn_total{reason=\"unproven\"}";
    assert_eq!(after.metric(withdrawn).await, 1.0);
    // With a grant it gets a certificate of this CA instead.
    after.grant("main", "a.example").await;
    let mut envoy = after.envoy(DELTA_ADS).await;
    envoy.resume(&[("a.example", &version)]);
    assert_ne!(only_secret(&envoy.next().await).1, version);
    after.stop().await;
}

#[tokio::test]
async fn certificates_are_replaced_at_two_thirds_of_their_life() {
    let directory = Directory::new();
    let running = Running::start(&directory, &["--leaf-ttl", "24h"]).await;
    running.grant("main", "a.example").await;
    let mut envoy = running.envoy(DELTA_ADS).await;
    envoy.subscribe(&["a.example"]);
    let (_, first, _) = only_secret(&envoy.next().await);
    let start = OffsetDateTime::now_utc();
    let tenth = 24.0 * 2.0 / 3.0 / 10.0;
    running
        .service
        .tick(start + time::Duration::hours(16) - time::Duration::seconds_f64((tenth + 0.1) * 3600.0));
    envoy.silence().await;
    running
        .service
        .tick(start + time::Duration::hours(16) + time::Duration::seconds_f64((tenth + 0.1) * 3600.0));
    let (name, second, _) = only_secret(&envoy.next().await);
    assert_eq!(name, "a.example");
    assert_ne!(first, second);
    envoy.silence().await;
    assert_eq!(running.metric("cert_service_lease_renewals_total").await, 1.0);
    let causes: Vec<_> = running.log.events("mint").iter().map(|line| line["cause"].clone()).collect();
    assert_eq!(causes, ["asked", "renewal"]);

    envoy.unsubscribe(&["a.example"]);
    envoy.silence().await;
    running.service.tick(start + time::Duration::days(30));
    envoy.silence().await;
    assert_eq!(running.metric("cert_service_live_leases").await, 0.0);
    running.stop().await;
}

#[tokio::test]
async fn at_the_cap_the_oldest_name_goes_and_may_come_back() {
    let directory = Directory::new();
    let running = Running::start(&directory, &["--max-leases", "2"]).await;
    let mut envoy = running.envoy(DELTA_ADS).await;
    for name in ["a.example", "b.example", "c.example"] {
        running.grant("main", name).await;
        envoy.subscribe(&[name]);
        let response = envoy.next().await;
        assert_eq!(response.resources[0].name, name);
        let evicted: &[&str] = if name == "c.example" { &["a.example"] } else { &[] };
        assert_eq!(response.removed_resources, evicted);
    }
    envoy.unsubscribe(&["a.example"]);
    // The lease ended, the grant did not.
    envoy.subscribe(&["a.example"]);
    let response = envoy.next().await;
    assert_eq!(response.resources[0].name, "a.example");
    assert_eq!(response.removed_resources, ["b.example"]);
    assert_eq!(running.metric("cert_service_live_leases").await, 2.0);
    assert_eq!(running.metric("cert_service_leases_withdrawn_total{reason=\"cap\"}").await, 2.0);
    running.stop().await;
}

#[tokio::test]
async fn an_operator_takes_certificates_back() {
    let directory = Directory::new();
    let running = Running::start(&directory, &[]).await;
    let mut envoy = running.envoy(DELTA_ADS).await;
    let mut versions = Vec::new();
    for name in ["a.example", "b.example", "c.example"] {
        running.grant("main", name).await;
        envoy.subscribe(&[name]);
        versions.push(only_secret(&envoy.next().await).1);
    }
    let (status, answer) = running.post("/v1/withdrawals", r#"{"host":"A.example"}"#).await;
    assert_eq!((status, &answer["withdrawn"]), (200, &1.into()));
    assert_eq!(envoy.next().await.removed_resources, ["a.example"]);
    envoy.subscribe(&["a.example"]);
    assert_eq!(envoy.next().await.removed_resources, ["a.example"]);
    let (_, answer) = running.post("/v1/withdrawals", r#"{"all":true}"#).await;
    assert_eq!(answer["withdrawn"], 2);
    assert_eq!(envoy.next().await.removed_resources, ["b.example", "c.example"]);
    // An Envoy that was away meanwhile cannot bring them back.
    let mut other = running.envoy(DELTA_ADS).await;
    other.resume(&[("a.example", &versions[0]), ("b.example", &versions[1])]);
    assert_eq!(other.next().await.removed_resources.len(), 2);
    for body in ["{}", r#"{"all":false}"#, r#"{"all":true,"host":"a.example"}"#, r#"{"host":"*"}"#] {
        assert_eq!(running.post("/v1/withdrawals", body).await.0, 400, "{body}");
    }
    running.stop().await;
}

#[tokio::test]
async fn many_names_at_once() {
    let directory = Directory::new();
    let running = Running::start(&directory, &[]).await;
    let names: Vec<String> = (0..1500).map(|number| format!("h{number}.example")).collect();
    let pool = cert_service::grants::PoolName::parse("main").unwrap();
    for name in &names {
        let host = outgate_policy::HostName::parse(name).unwrap();
        running.service.grant(&pool, &host).unwrap();
    }
    let mut envoy = running.envoy(DELTA_ADS).await;
    envoy.subscribe(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let mut seen = 0;
    while seen < names.len() {
        seen += envoy.next().await.resources.len();
    }
    assert_eq!(seen, names.len());
    assert_eq!(running.metric("cert_service_live_leases").await, 1500.0);
    running.stop().await;
}

#[tokio::test]
async fn other_types_of_resources_are_answered_with_nothing() {
    let directory = Directory::new();
    let running = Running::start(&directory, &[]).await;
    let mut envoy = running.envoy(DELTA_ADS).await;
    let listeners = "type.googleapis.com/envoy.config.listener.v3.Listener";
    envoy.send(DeltaDiscoveryRequest { type_url: listeners.to_owned(), ..Default::default() });
    let response = envoy.next().await;
    assert_eq!((response.type_url.as_str(), response.removed_resources.len()), (listeners, 0));
    envoy.send(DeltaDiscoveryRequest {
        type_url: listeners.to_owned(),
        resource_names_subscribe: vec!["*".to_owned(), "a".to_owned()],
        ..Default::default()
    });
    assert_eq!(envoy.next().await.removed_resources, ["a"]);
    envoy.silence().await;
    running.stop().await;
}

#[tokio::test]
async fn a_nack_is_counted_and_logged() {
    let directory = Directory::new();
    let running = Running::start(&directory, &[]).await;
    running.grant("main", "a.example").await;
    let mut envoy = running.envoy(DELTA_ADS).await;
    envoy.subscribe(&["a.example"]);
    envoy.next().await;
    let message = format!("no good\n{}", "x".repeat(5000));
    envoy.send(DeltaDiscoveryRequest {
        response_nonce: "1".to_owned(),
        error_detail: Some(RpcStatus { code: 3, message }),
        ..Default::default()
    });
    envoy.silence().await;
    assert_eq!(running.metric("cert_service_nacks_total").await, 1.0);
    let nacks = running.log.events("nack");
    assert!(nacks[0]["message"].as_str().unwrap().starts_with("no good\nxxx"));
    running.stop().await;
}

#[tokio::test]
async fn operators_see_what_they_need() {
    let directory = Directory::new();
    let running = Running::start(&directory, &[]).await;
    assert_eq!(running.get("/healthz").await.0, 200);
    let (status, _, body) = running.get("/readyz").await;
    assert_eq!(status, 200);
    let ready: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(ready, serde_json::json!({"ready": true, "latches": {"ca": true, "socket": true}}));
    let (_, kind, pem) = running.get("/ca.pem").await;
    assert_eq!(kind.as_deref(), Some("application/x-pem-file"));
    assert_eq!(pem, std::fs::read(directory.path("state/ca.pem")).unwrap());
    let (_, kind, der) = running.get("/ca.crt").await;
    assert_eq!(kind.as_deref(), Some("application/x-x509-ca-cert"));
    assert_eq!(der, running.service.ca().unwrap().trust_der());
    assert_eq!(running.get("/v1/grants").await.0, 404, "grants are for the socket alone");

    running.grant("main", "a.example").await;
    let mut envoy = running.envoy(DELTA_ADS).await;
    envoy.subscribe(&["a.example", "b.example"]);
    envoy.next().await;
    let ca = running.service.ca().unwrap().id().to_owned();
    for (name, value) in [
        (format!("cert_service_mints_total{{ca=\"{ca}\",result=\"ok\"}}"), 1.0),
        ("cert_service_live_leases".to_owned(), 1.0),
        ("cert_service_streams".to_owned(), 1.0),
        ("cert_service_denials_total{reason=\"not_granted\"}".to_owned(), 1.0),
        (
            format!("cert_service_ca_not_after_seconds{{ca=\"{ca}\"}}"),
            running.service.ca().unwrap().not_after().unix_timestamp() as f64,
        ),
    ] {
        assert_eq!(running.metric(&name).await, value, "{name}");
    }
    let (_, _, page) = running.get("/metrics").await;
    let page = String::from_utf8(page.to_vec()).unwrap();
    assert!(!page.contains("example"), "a metric names a host: {page}");

    let mints = running.log.events("mint");
    assert_eq!(mints.len(), 1);
    let line = &mints[0];
    for member in ["time", "name", "pool", "serial", "sha256", "not_before", "not_after", "ca"] {
        assert!(line[member].is_string(), "{member} in {line}");
    }
    assert_eq!((line["name"].as_str(), line["ca"].as_str()), (Some("a.example"), Some(ca.as_str())));
    assert!(!running.log.text().contains("PRIVATE KEY"));
    running.stop().await;
}

#[tokio::test]
async fn a_ca_at_its_end_grants_nothing() {
    let directory = Directory::new();
    let last = (-time::Duration::DAY, time::Duration::seconds(30));
    let root = Authority::root(Key::p256(), Recipe { valid: last, ..Recipe::default() });
    let chain = directory.write("c", root.pem(), 0o644);
    let key = directory.write("k", root.key.pkcs8(), 0o600);
    let arguments = ["--ca", chain.to_str().unwrap(), "--ca-key", key.to_str().unwrap()];
    let running = Running::start(&directory, &arguments).await;
    let (status, problem) = running.grant("main", "a.example").await;
    assert_eq!((status, problem["reason"].as_str()), (503, Some("cannot_sign")));
    assert_eq!(running.get("/readyz").await.0, 503);
    running.stop().await;
}

#[tokio::test]
async fn a_served_host_needs_no_grant_and_stays() {
    let directory = Directory::new();
    let running = Running::start(&directory, &["--serve", "Localhost", "--max-leases", "1"]).await;
    let mut envoy = running.envoy(DELTA_ADS).await;
    envoy.subscribe(&["localhost"]);
    assert_eq!(only_secret(&envoy.next().await).0, "localhost");
    running.grant("main", "a.example").await;
    envoy.subscribe(&["a.example"]);
    assert_eq!(only_secret(&envoy.next().await).0, "a.example");
    assert_eq!(running.post("/v1/withdrawals", r#"{"all":true}"#).await.1["withdrawn"], 1);
    assert_eq!(envoy.next().await.removed_resources, ["a.example"]);
    running.stop().await;
}
