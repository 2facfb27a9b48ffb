//! What becomes of a name after it was handed out: other CAs, other policies, orders, limits, restarts.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use cert_service::ca::Ca;
use cert_service::xds::messages::{DiscoveryRequest, DiscoveryResponse, Node, RpcStatus, SECRET_TYPE};
use cert_service::xds::{DELTA_ADS, SDS};
use outgate_policy::HostName;
use serde_json::json;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::authorities::{Authority, Key, Recipe};
use crate::envoy::{Envoy, Running, only_secret, parts};
use crate::support::Directory;

/// A CA of another name, in a directory of its own.
fn another_ca() -> (Ca, String) {
    let directory = Directory::new();
    let root = Authority::root(Key::p256(), Recipe::default());
    let (chain, key) =
        (directory.write("c", root.pem(), 0o644), directory.write("k", root.key.pkcs8(), 0o600));
    let state = directory.path("state");
    let ca = Ca::supplied(&chain, &key, &state, OffsetDateTime::now_utc()).unwrap();
    let id = ca.id().to_owned();
    (ca, id)
}

/// Grants these names and has an Envoy take them.
async fn take(running: &Running, envoy: &mut Envoy, names: &[String]) -> Vec<(String, String)> {
    let pool = cert_service::grants::PoolName::parse("main").unwrap();
    for name in names {
        running.service.grant(&pool, &HostName::parse(name).unwrap()).unwrap();
    }
    envoy.subscribe(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let mut held = Vec::new();
    while held.len() < names.len() {
        let response = envoy.next().await;
        assert_eq!(response.removed_resources, Vec::<String>::new());
        held.extend(response.resources.into_iter().map(|resource| (resource.name, resource.version)));
    }
    held
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("h{number}.example")).collect()
}

#[tokio::test]
async fn another_ca_replaces_every_live_leaf_within_a_second() {
    let directory = Directory::new();
    let running = Running::start(&directory, &[]).await;
    let mut envoy = running.envoy(DELTA_ADS).await;
    let names = names(1000);
    take(&running, &mut envoy, &names).await;
    let old = running.service.ca().unwrap().id().to_owned();
    let last = names.last().unwrap();

    let (ca, new) = another_ca();
    let subject = ca.subject().to_vec();
    let start = Instant::now();
    let done = running.service.set_ca(ca);
    assert_eq!((done.replaced, done.withdrawn), (1000, 0));
    let mut replaced = Vec::new();
    while replaced.len() < names.len() {
        let response = envoy.next().await;
        assert_eq!(response.removed_resources, Vec::<String>::new(), "nothing is removed meanwhile");
        replaced.extend(response.resources);
    }
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!(replaced[0].name, *last, "the name that was granted last comes first");
    let all: BTreeSet<&str> = replaced.iter().map(|resource| resource.name.as_str()).collect();
    assert_eq!(all.len(), 1000);
    for resource in replaced.iter().step_by(100) {
        let any = resource.resource.as_ref().unwrap();
        let secret: cert_service::xds::messages::Secret = prost::Message::decode(&*any.value).unwrap();
        let chain = cert_service::pem::decode(parts(&secret).0.as_bytes()).unwrap();
        let (_, leaf) = X509Certificate::from_der(&chain[0].der).unwrap();
        assert_eq!(leaf.issuer().as_raw(), subject);
    }
    assert_eq!(running.metric(&format!("cert_service_ca_leases{{ca=\"{old}\"}}")).await, 0.0);
    assert_eq!(running.metric(&format!("cert_service_ca_leases{{ca=\"{new}\"}}")).await, 1000.0);
    assert_eq!(running.metric("cert_service_lease_rotations_total").await, 1000.0);
    running.stop().await;
}

#[tokio::test]
async fn a_removed_ca_leaves_no_leaf_and_its_versions_prove_nothing() {
    let directory = Directory::new();
    let running = Running::start(&directory, &["--serve", "localhost"]).await;
    let mut envoy = running.envoy(DELTA_ADS).await;
    let held = take(&running, &mut envoy, &names(100)).await;
    envoy.subscribe(&["localhost"]);
    envoy.next().await;
    let old = cert_service::leases::CaId::new(running.service.ca().unwrap().id());

    // The other one signs first, as a pool's states demand; nothing has been pushed yet when the old one goes.
    let (ca, _) = another_ca();
    running.service.set_ca(ca);
    assert_eq!(running.service.remove_ca(&old), 100);
    let (mut removed, mut replaced) = (BTreeSet::new(), Vec::new());
    while removed.len() < 100 || replaced.is_empty() {
        let response = envoy.next().await;
        removed.extend(response.removed_resources);
        replaced.extend(response.resources.into_iter().map(|resource| resource.name));
    }
    assert_eq!(replaced, ["localhost"], "a listener of Envoy's own is never left without");
    assert_eq!(running.metric(&format!("cert_service_ca_leases{{ca=\"{old}\"}}")).await, 0.0);
    let withdrawn = "cert_service_leases_withdrawn_total{reason=\"ca_removed\"}";
    assert_eq!(running.metric(withdrawn).await, 100.0);
    // An Envoy that was away meanwhile: the grant is in force, the version is not.
    let mut other = running.envoy(DELTA_ADS).await;
    other.resume(&[(&held[0].0, &held[0].1)]);
    let (name, version, _) = only_secret(&other.next().await);
    assert_eq!(name, held[0].0);
    assert_ne!(version, held[0].1);
    running.stop().await;
}

#[tokio::test]
async fn an_envoy_that_comes_back_during_a_rotation_gets_leaves_of_the_new_ca() {
    let directory = Directory::new();
    let running = Running::start(&directory, &[]).await;
    let mut envoy = running.envoy(DELTA_ADS).await;
    let held = take(&running, &mut envoy, &names(1)).await;
    drop(envoy);
    let (ca, _) = another_ca();
    running.service.set_ca(ca);
    let mut envoy = running.envoy(DELTA_ADS).await;
    envoy.resume(&[(&held[0].0, &held[0].1)]);
    let (name, version, _) = only_secret(&envoy.next().await);
    assert_eq!(name, held[0].0);
    assert_ne!(version, held[0].1);
    envoy.silence().await;
    running.stop().await;
}

#[tokio::test]
async fn a_name_that_nothing_grants_any_more_ends_instead_of_being_replaced() {
    let directory = Directory::new();
    let running = Running::start(&directory, &[]).await;
    let mut envoy = running.envoy(DELTA_ADS).await;
    take(&running, &mut envoy, &names(2)).await;
    running.service.grants().withdraw(Some(&HostName::parse("h0.example").unwrap()));
    let done = running.service.replace_all();
    assert_eq!((done.replaced, done.withdrawn), (1, 1));
    let response = envoy.next().await;
    assert_eq!(response.removed_resources, ["h0.example"]);
    assert_eq!(response.resources[0].name, "h1.example");
    assert_eq!(running.metric("cert_service_leases_withdrawn_total{reason=\"idle\"}").await, 1.0);
    running.stop().await;
}

#[tokio::test]
async fn a_new_policy_takes_back_what_it_does_not_inspect_and_nothing_else() {
    let directory = Directory::new();
    let running = Running::start(&directory, &["--serve", "localhost"]).await;
    let mut envoy = running.envoy(DELTA_ADS).await;
    take(&running, &mut envoy, &["a.example".to_owned(), "b.example".to_owned(), "c.test".to_owned()]).await;
    envoy.subscribe(&["localhost"]);
    envoy.next().await;
    let rule = |name: &str, priority: u32, matcher: &str, inspects: bool| json!({"name": name, "priority": priority, "basicProfile": "ALLOW", "sessionMatcher": matcher, "tlsInspectionEnabled": inspects});
    let policy = json!({
        "name": "p",
        "tlsInspectionPolicy": "default",
        "tlsInspectionPolicies": [{"name": "default", "caPool": "main"}],
        "rules": [
            rule("unread", 1, "host() == 'a.example'", false),
            rule("read", 2, "host().endsWith('.example') && source.ip == '10.0.0.1'", true),
        ],
    });
    let (status, answer) = running.post("/v1/policy", &policy.to_string()).await;
    assert_eq!((status, &answer["withdrawn"]), (200, &2.into()), "{answer}");
    let mut removed = envoy.next().await.removed_resources;
    removed.sort();
    assert_eq!(removed, ["a.example", "c.test"]);
    // The grant went too.
    envoy.subscribe(&["a.example"]);
    assert_eq!(envoy.next().await.removed_resources, ["a.example"]);
    envoy.silence().await;
    assert_eq!(running.metric("cert_service_leases_withdrawn_total{reason=\"policy\"}").await, 2.0);
    assert_eq!(running.metric("cert_service_live_leases").await, 2.0);
    for bad in ["{", r#"{"name": "p", "rules": [{"name": "x"}]}"#] {
        assert_eq!(running.post("/v1/policy", bad).await.0, 400, "{bad}");
    }
    running.stop().await;
}

#[tokio::test]
async fn the_switch_takes_everything_back_and_outlives_a_restart() {
    let directory = Directory::new();
    let running = Running::start(&directory, &["--serve", "localhost"]).await;
    let mut envoy = running.envoy(DELTA_ADS).await;
    let held = take(&running, &mut envoy, &names(50)).await;
    let before = running.private("/v1/instance").await;
    let (status, answer) = running.post("/v1/stop", r#"{"stopped":true}"#).await;
    assert_eq!(status, 200);
    assert_eq!(answer, json!({"stopped": true, "withdrawn": 50, "warning": null}));
    let mut removed = Vec::new();
    while removed.len() < 50 {
        removed.extend(envoy.next().await.removed_resources);
    }
    assert_ne!(running.private("/v1/instance").await, before, "filters ask again for what was granted");
    let (status, problem) = running.grant("main", "h0.example").await;
    assert_eq!((status, problem["reason"].as_str()), (503, Some("stopped")));
    envoy.subscribe(&["h0.example", "localhost"]);
    let response = envoy.next().await;
    assert_eq!(response.removed_resources, ["h0.example"]);
    assert_eq!(response.resources[0].name, "localhost");
    assert_eq!(running.metric("cert_service_stopped").await, 1.0);
    running.stop().await;

    let running = Running::start(&directory, &[]).await;
    assert_eq!(running.grant("main", "h0.example").await.0, 503);
    let mut envoy = running.envoy(DELTA_ADS).await;
    envoy.resume(&[(&held[0].0, &held[0].1)]);
    assert_eq!(envoy.next().await.removed_resources, ["h0.example"]);
    assert_eq!(running.post("/v1/stop", r#"{"stopped":false}"#).await.0, 200);
    take(&running, &mut envoy, &names(1)).await;
    running.stop().await;
    let running = Running::start(&directory, &[]).await;
    assert_eq!(running.grant("main", "h0.example").await.0, 200);
    running.stop().await;
}

#[tokio::test]
async fn several_envoys_have_a_cap_each_and_one_together() {
    let directory = Directory::new();
    let caps = ["--max-leases", "5", "--max-leases-per-envoy", "3"];
    let running = Running::start(&directory, &caps).await;
    let mut first = running.envoy(DELTA_ADS).await.named("first");
    let mut second = running.envoy(DELTA_ADS).await.named("second");
    take(&running, &mut first, &names(3)).await;
    take(&running, &mut second, &names(2)).await;
    // The first one is at its own cap, and gives of its own.
    running.grant("main", "h3.example").await;
    first.subscribe(&["h3.example"]);
    let response = first.next().await;
    assert_eq!((response.resources.len(), response.removed_resources.len()), (1, 1));
    second.silence().await;
    // The second one is not, but all together are: the oldest of all goes.
    second.subscribe(&["h3.example"]);
    assert_eq!(second.next().await.resources.len(), 1);
    assert_eq!(running.metric("cert_service_live_leases").await, 5.0);
    assert_eq!(running.metric("cert_service_leases_withdrawn_total{reason=\"envoy_cap\"}").await, 1.0);
    assert_eq!(running.metric("cert_service_leases_withdrawn_total{reason=\"cap\"}").await, 1.0);
    running.stop().await;
}

#[tokio::test]
async fn an_envoy_that_asks_too_fast_waits_then_is_refused_and_others_are_served() {
    let directory = Directory::new();
    let running = Running::start(&directory, &["--max-new-names", "10"]).await;
    let pool = cert_service::grants::PoolName::parse("main").unwrap();
    let names = names(60);
    for name in &names {
        running.service.grant(&pool, &HostName::parse(name).unwrap()).unwrap();
    }
    let mut greedy = running.envoy(DELTA_ADS).await.named("greedy");
    greedy.subscribe(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let mut modest = running.envoy(DELTA_ADS).await.named("modest");
    take(&running, &mut modest, &["other.example".to_owned()]).await;
    let (mut minted, mut refused) = (0, 0);
    while minted + refused < names.len() {
        let response = greedy.next().await;
        minted += response.resources.len();
        refused += response.removed_resources.len();
    }
    // A burst of 20, then ten a second for one and a half.
    assert!((30..=42).contains(&minted), "{minted} minted, {refused} refused");
    let throttled = running.metric("cert_service_denials_total{reason=\"throttled\"}").await;
    assert_eq!(throttled, refused as f64);
    running.stop().await;
}

#[tokio::test]
async fn an_allowlist_serves_what_its_policy_inspects_without_grants() {
    let directory = Directory::new();
    let policy = |host: &str| {
        format!(
            "name: p\ntlsInspectionPolicy: default\ntlsInspectionPolicies: [{{name: default, caPool: corp}}]\nrules:\n- {{name: r, priority: 1, basicProfile: ALLOW, sessionMatcher: \"host() == '{host}'\", tlsInspectionEnabled: true}}\n"
        )
    };
    let file = directory.write("policy.yaml", policy("a.example"), 0o644);
    let arguments = ["--allowlist", file.to_str().unwrap()];
    // Two replicas that share the CA and nothing else.
    let running = Running::start(&directory, &arguments).await;
    let mut envoy = running.envoy(DELTA_ADS).await;
    envoy.subscribe(&["a.example"]);
    let (_, version, _) = only_secret(&envoy.next().await);
    assert!(version.starts_with("2:corp:"), "{version}");
    envoy.subscribe(&["b.example"]);
    assert_eq!(envoy.next().await.removed_resources, ["b.example"]);
    assert_eq!(running.grant("corp", "a.example").await.1["instance"], "");
    let (status, problem) = running.grant("corp", "b.example").await;
    assert_eq!((status, problem["reason"].as_str()), (403, Some("not_allowed")));

    directory.write("policy.yaml", policy("b.example"), 0o644);
    let mut removed = envoy.next().await.removed_resources;
    removed.sort();
    assert_eq!(removed, ["a.example"]);
    envoy.subscribe(&["b.example"]);
    assert_eq!(only_secret(&envoy.next().await).0, "b.example");
    // What cannot be read leaves the old one in force.
    directory.write("policy.yaml", "name: [", 0o644);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    envoy.subscribe(&["B.example"]);
    assert_eq!(only_secret(&envoy.next().await).0, "B.example");
    assert!(running.log.text().contains("is no policy"), "{}", running.log.text());
    running.stop().await;
}

#[tokio::test]
async fn the_state_of_the_world_is_served_renewed_and_resumed() {
    let directory = Directory::new();
    let running = Running::start(&directory, &[]).await;
    running.grant("main", "a.example").await;
    let ask = |name: &str, version: &str, nonce: &str| DiscoveryRequest {
        node: Some(Node { id: "istio".to_owned() }),
        type_url: SECRET_TYPE.to_owned(),
        resource_names: vec![name.to_owned()],
        version_info: version.to_owned(),
        response_nonce: nonce.to_owned(),
        ..Default::default()
    };
    let (requests, mut responses) = running.stream::<DiscoveryRequest, DiscoveryResponse>(SDS).await;
    requests.send(ask("a.example", "", "")).unwrap();
    let first = responses.message().await.unwrap().unwrap();
    assert_eq!((first.resources.len(), first.type_url.as_str()), (1, SECRET_TYPE));
    requests.send(ask("a.example", &first.version_info, &first.nonce)).unwrap();
    running.service.replace_all();
    let second = responses.message().await.unwrap().unwrap();
    assert_ne!(first.version_info, second.version_info);
    let refused = DiscoveryRequest {
        error_detail: Some(RpcStatus { code: 3, message: "no".to_owned() }),
        ..ask("a.example", &first.version_info, &second.nonce)
    };
    requests.send(refused).unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(running.metric("cert_service_nacks_total").await, 1.0);
    drop((requests, responses));
    running.stop().await;

    // Back after a restart, it holds what it held, and there is nothing to send.
    let running = Running::start(&directory, &[]).await;
    let (requests, mut responses) = running.stream::<DiscoveryRequest, DiscoveryResponse>(SDS).await;
    requests.send(ask("a.example", &second.version_info, "")).unwrap();
    let silence = tokio::time::timeout(Duration::from_millis(300), responses.message()).await;
    assert!(silence.is_err(), "{silence:?}");
    assert_eq!(running.metric("cert_service_leases_kept_total").await, 1.0);
    // An unknown name ends its stream at once: the state of the world has no other word for it.
    let (requests, mut responses) = running.stream::<DiscoveryRequest, DiscoveryResponse>(SDS).await;
    requests.send(ask("b.example", "", "")).unwrap();
    let end = tokio::time::timeout(Duration::from_secs(5), responses.message()).await.unwrap();
    assert_eq!(end.unwrap_err().code(), tonic::Code::NotFound);
    running.stop().await;
}

#[tokio::test]
async fn an_envoy_that_reads_nothing_holds_up_nobody() {
    let directory = Directory::new();
    let running = Running::start(&directory, &[]).await;
    let pool = cert_service::grants::PoolName::parse("main").unwrap();
    let many = names(8000);
    for name in &many {
        running.service.grant(&pool, &HostName::parse(name).unwrap()).unwrap();
    }
    let mut deaf = running.envoy(DELTA_ADS).await.named("deaf");
    deaf.subscribe(&many.iter().map(String::as_str).collect::<Vec<_>>());
    let mut other = running.envoy(DELTA_ADS).await.named("other");
    let start = Instant::now();
    take(&running, &mut other, &["a.example".to_owned()]).await;
    assert!(start.elapsed() < Duration::from_secs(5));
    // Far fewer leaves are made than were asked for: the rest waits until somebody reads.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let ca = running.service.ca().unwrap().id().to_owned();
    let minted = running.metric(&format!("cert_service_mints_total{{ca=\"{ca}\",result=\"ok\"}}")).await;
    assert!(minted < 4000.0, "{minted}");
    running.stop().await;
}
