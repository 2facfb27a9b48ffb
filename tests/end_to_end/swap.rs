//! A policy that changes while connections are open.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use outgate_tests::client::{self, Ask};
use outgate_tests::origin::read_some;
use outgate_tests::outgate::Options;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::setting::{Setting, assert_refused, is_ours};

fn policy(name: &str, path: &str) -> String {
    format!(
        "
name: {name}
tlsInspectionPolicy: default
rules:
- {{name: unread, enabled: true, priority: 5, basicProfile: ALLOW, sessionMatcher: \"host() == 'unread.site.test'\"}}
- {{name: {name}, enabled: true, priority: 10, basicProfile: ALLOW, sessionMatcher: \"true\", applicationMatcher: \"request.path.startsWith('/both') || request.path == '{path}'\", tlsInspectionEnabled: true}}
tlsInspectionPolicies:
- {{name: default, caPool: main}}
"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn under_load_no_request_fails_and_none_is_judged_by_half_a_policy() {
    let mut setting = Setting::with(&policy("first", "/first")).await;
    let proxy = setting.proxy();
    let stop = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicUsize::new(0));
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..4 {
        let (stop, done, tls) =
            (Arc::clone(&stop), Arc::clone(&done), setting.trusting("load.site.test").http1());
        clients.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let path = format!("/both/{client}");
                let (reply, _) =
                    client::https(proxy, "load.site.test", &tls, Ask::get(&path).at("load.site.test"))
                        .await
                        .unwrap();
                assert_eq!(reply.status, 200, "{reply:?}");
                let reply = client::get(proxy, "http://load.site.test/both").await;
                assert_eq!(reply.status, 200, "{reply:?}");
                done.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    for round in 0..5 {
        let (name, path) = if round % 2 == 0 { ("second", "/second") } else { ("first", "/first") };
        setting.outgate.swap_policy(&policy(name, path));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    assert!(done.load(Ordering::Relaxed) > 20, "there was a load");
}

#[tokio::test(flavor = "multi_thread")]
async fn open_connections_go_on_and_their_next_request_is_judged_anew() {
    let mut setting = Setting::with(&policy("first", "/first")).await;
    let proxy = setting.proxy();
    // One connection that is inspected, one tunnel that is not.
    let stream = client::connect(proxy, "kept.site.test:443").await.unwrap();
    let stream = setting.trusting("kept.site.test").handshake(stream).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(
        hyper_util::rt::TokioExecutor::new(),
        hyper_util::rt::TokioIo::new(stream),
    )
    .await
    .unwrap();
    tokio::spawn(connection);
    let mut ask = async |path: &str| {
        let request = hyper::Request::get(format!("https://kept.site.test{path}"))
            .body(http_body_util::Empty::<hyper::body::Bytes>::new())
            .unwrap();
        sender.send_request(request).await.unwrap().status().as_u16()
    };
    let mut tunnel = client::connect(proxy, "unread.site.test:80").await.unwrap();
    assert_eq!((ask("/first").await, ask("/second").await), (200, 403));

    setting.outgate.swap_policy(&policy("second", "/second"));
    assert_eq!((ask("/first").await, ask("/second").await), (403, 200), "on the same connection");
    tunnel.write_all(b"GET /tunnelled HTTP/1.1\r\nHost: unread.site.test\r\n\r\n").await.unwrap();
    assert!(
        String::from_utf8_lossy(&read_some(&mut tunnel).await).starts_with("HTTP/1.1 200"),
        "the tunnel is still open"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_the_new_policy_forbids_gets_no_further_request_through() {
    let mut setting = Setting::with(&policy("first", "/first")).await;
    let stream = client::connect(setting.proxy(), "kept.site.test:443").await.unwrap();
    let stream = setting.trusting("kept.site.test").http1().handshake(stream).await.unwrap();
    setting.outgate.swap_policy("name: nothing\nrules: []\n");
    let reply = client::over_tls(stream, Ask::get("/first").at("kept.site.test")).await.unwrap();
    assert_refused(&reply, 403, "default_denied");
    assert_refused(
        &client::connect(setting.proxy(), "new.site.test:443").await.unwrap_err(),
        403,
        "default_denied",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_put_in_force_leaves_the_old_policy_and_says_why() {
    let mut setting = Setting::with(&policy("first", "/first")).await;
    let good = policy("second", "/second");
    for (bad, words) in [
        (
            good.replace("request.path ==", "request.pth =="),
            vec!["rule `second`", "request.pth", "^", "column"],
        ),
        (
            good.replace("caPool: main", "caPool: main, minTlsVersion: TLS_1_3"),
            vec!["restart_required", "tlsInspectionPolicies"],
        ),
        ("name: [".to_owned(), vec!["does not compile"]),
        (good.replace("priority: 10", "priority: 5"), vec!["priority"]),
    ] {
        setting.outgate.replace_policy(&bad);
        for word in words {
            setting.outgate.wait_for(word, Duration::from_secs(10));
        }
        let stays = setting.outgate.said().matches("stays in force").count();
        assert!(stays > 0, "{}", setting.outgate.said());
        assert_eq!(setting.https("kept.site.test", "/first").await.0.status, 200);
    }
}

/// Everything that a policy can say, in two variants that differ in one key; what shows that the new one counts; or the
/// key that needs a restart.
enum Effect {
    /// `GET` of this URL in the clear is answered with these statuses, before and after.
    Clear(&'static str, u16, u16),
    /// `CONNECT` of this destination is.
    Connect(&'static str, u16, u16),
    /// `GET` of this path over TLS is, or the certificate's issuer changes: 0 stands for unread.
    Inspected(&'static str, u16, u16),
    /// Verdict lines of this host come, or do not come.
    Lines(&'static str, bool, bool),
    /// It is in force, and changes nothing that a client sees.
    Named,
    /// It is not swapped.
    RestartRequired(&'static str),
}

const KEYS: &str = "
name: keys
description: old
tlsInspectionPolicy: default
rules:
- {name: off, description: old, enabled: false, priority: 5, basicProfile: DENY, sessionMatcher: \"host() == 'off.site.test'\"}
- {name: tagged, enabled: true, priority: 10, basicProfile: ALLOW, sessionMatcher: \"source.matchTag('tagValues/1') && host() == 'tagged.site.test'\"}
- {name: account, enabled: true, priority: 11, basicProfile: ALLOW, sessionMatcher: \"source.matchServiceAccount('a@b') && host() == 'account.site.test'\"}
- {name: listed, enabled: true, priority: 12, basicProfile: ALLOW, sessionMatcher: \"inUrlList(host(), 'listed')\"}
- {name: shadowed, enabled: true, shadow: false, priority: 13, basicProfile: ALLOW, sessionMatcher: \"host() == 'shadowed.site.test'\"}
- {name: failing, enabled: true, priority: 14, basicProfile: DENY, sessionMatcher: \"host() == 'failing.site.test'\", applicationMatcher: \"request.headers['absent'] == 'x'\"}
- {name: inspected, enabled: true, priority: 20, basicProfile: ALLOW, sessionMatcher: \"host().endsWith('inspected.site.test')\", applicationMatcher: \"request.path.startsWith('/ok/')\", tlsInspectionEnabled: true}
- {name: session, enabled: true, priority: 30, basicProfile: ALLOW, sessionMatcher: \"host() in ['off.site.test', 'inspected.site.test', 'unread.site.test', '10.0.0.9', 'failing.site.test']\"}
- {name: requests, enabled: true, priority: 40, basicProfile: ALLOW, sessionMatcher: \"host() == 'paths.site.test'\", applicationMatcher: \"!request.path.startsWith('/admin/')\"}
urlLists:
- {name: listed, values: ['listed.site.test']}
tlsInspectionPolicies:
- {name: default, caPool: main, minTlsVersion: TLS_1_2, tlsFeatureProfile: PROFILE_COMPATIBLE, excludePublicCaSet: false}
outgate:
  sources:
  - {cidrs: [127.0.0.0/8], tags: [tagValues/1], serviceAccount: a@b}
  afterInspection: strict
  hostMismatch: refuse
  tunnelSni: ignore
  ambiguousPaths: both
  errorsInDeny: skip
  openTunnels: keep
  destinations: {allowPrivate: [10.0.0.0/8]}
  trustConfigs: []
  log: {allowances: 1.0}
";

#[tokio::test(flavor = "multi_thread")]
async fn each_key_of_the_format_takes_effect_or_says_that_it_needs_a_restart() {
    let options = Options::default().with(&["--max-connections", "5000"]);
    let mut setting = Setting::with_options(KEYS, options).await;
    let cases = [
        ("name: keys", "name: keyz", Effect::Named),
        ("description: old\ntls", "description: new\ntls", Effect::Named),
        ("name: off,", "name: offf,", Effect::Named),
        ("description: old, enabled", "description: new, enabled", Effect::Named),
        ("enabled: false", "enabled: true", Effect::Clear("http://off.site.test/", 200, 403)),
        ("priority: 30", "priority: 3", Effect::Inspected("/ok/", 200, 0)),
        (
            "basicProfile: ALLOW, sessionMatcher: \"inUrlList",
            "basicProfile: DENY, sessionMatcher: \"inUrlList",
            Effect::Connect("listed.site.test:80", 200, 403),
        ),
        (
            "host() == 'tagged.site.test'",
            "host() == 'taggeb.site.test'",
            Effect::Connect("tagged.site.test:80", 200, 403),
        ),
        ("startsWith('/ok/')", "startsWith('/no/')", Effect::Inspected("/ok/", 200, 403)),
        ("tlsInspectionEnabled: true", "tlsInspectionEnabled: false", Effect::Inspected("/ok/", 200, 0)),
        ("shadow: false", "shadow: true", Effect::Connect("shadowed.site.test:80", 200, 403)),
        (
            "values: ['listed.site.test']",
            "values: ['*.other.test']",
            Effect::Connect("listed.site.test:80", 200, 403),
        ),
        ("tags: [tagValues/1]", "tags: [tagValues/2]", Effect::Connect("tagged.site.test:80", 200, 403)),
        ("serviceAccount: a@b", "serviceAccount: b@a", Effect::Connect("account.site.test:80", 200, 403)),
        ("cidrs: [127.0.0.0/8]", "cidrs: [192.0.2.0/24]", Effect::Connect("tagged.site.test:80", 200, 403)),
        ("afterInspection: strict", "afterInspection: lenient", Effect::Inspected("/x", 403, 200)),
        ("hostMismatch: refuse", "hostMismatch: allow", Effect::Named),
        ("tunnelSni: ignore", "tunnelSni: verify", Effect::Named),
        (
            "ambiguousPaths: both",
            "ambiguousPaths: sent",
            Effect::Clear("http://paths.site.test//admin/", 403, 200),
        ),
        ("errorsInDeny: skip", "errorsInDeny: deny", Effect::Clear("http://failing.site.test/", 200, 403)),
        ("openTunnels: keep", "openTunnels: recheck", Effect::Named),
        ("allowances: 1.0", "allowances: 0.0", Effect::Lines("unread.site.test", true, false)),
        (
            "allowPrivate: [10.0.0.0/8]",
            "allowPrivate: []",
            Effect::RestartRequired("outgate.destinations.allowPrivate"),
        ),
        (
            "sources:",
            "proxyProtocol: {from: [127.0.0.1/32]}\n  sources:",
            Effect::RestartRequired("outgate.proxyProtocol"),
        ),
        (
            "minTlsVersion: TLS_1_2",
            "minTlsVersion: TLS_1_3",
            Effect::RestartRequired("tlsInspectionPolicies"),
        ),
        ("PROFILE_COMPATIBLE", "PROFILE_MODERN", Effect::RestartRequired("tlsInspectionPolicies")),
        (
            "PROFILE_COMPATIBLE,",
            "CUSTOM, customTlsFeatures: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256],",
            Effect::RestartRequired("tlsInspectionPolicies"),
        ),
        (
            "trustConfigs: []",
            "trustConfigs: [{name: corp, pem: ROOT}]",
            Effect::RestartRequired("tlsInspectionPolicies"),
        ),
        ("caPool: main", "caPool: spare", Effect::Inspected("/ok/", 200, 200)),
        ("tlsInspectionPolicy: default\n", "", Effect::Named),
    ];
    for (old, new, effect) in cases {
        assert_eq!(KEYS.matches(old).count(), 1, "`{old}` is one place");
        let mut changed = KEYS.replace(old, new);
        if new.contains("ROOT") {
            let root = serde_json::to_string(&setting.origins.pem()).unwrap();
            changed =
                changed.replace("ROOT", &root).replace("caPool: main,", "caPool: main, trustConfig: corp,");
        }
        if new.is_empty() {
            // Nothing may inspect any more.
            changed = changed.replace("tlsInspectionEnabled: true", "tlsInspectionEnabled: false");
        }
        check(&setting, &effect, Before, old).await;
        if let Effect::RestartRequired(key) = effect {
            let stays = setting.outgate.said().matches("stays in force").count();
            setting.outgate.replace_policy(&changed);
            for _ in 0..500 {
                if setting.outgate.said().matches("stays in force").count() > stays {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let said = setting.outgate.said();
            let last = said.lines().rev().find(|line| line.contains("restart_required"));
            assert!(last.is_some_and(|line| line.contains(&format!("`{key}`"))), "{new}: {said}");
            continue;
        }
        setting.outgate.swap_policy(&changed);
        check(&setting, &effect, After, new).await;
        setting.outgate.swap_policy(KEYS);
    }
}

#[derive(Clone, Copy, PartialEq)]
enum When {
    Before,
    After,
}
use When::{After, Before};

async fn check(setting: &Setting, effect: &Effect, when: When, change: &str) {
    let at = |before: u16, after: u16| if when == Before { before } else { after };
    match *effect {
        Effect::Clear(url, before, after) => {
            assert_eq!(client::get(setting.proxy(), url).await.status, at(before, after), "{change}");
        }
        Effect::Connect(to, before, after) => {
            let status =
                client::connect(setting.proxy(), to).await.map_or_else(|reply| reply.status, |_| 200);
            assert_eq!(status, at(before, after), "{change}");
        }
        Effect::Inspected(path, before, after) => {
            let (reply, issuer) = setting.https("inspected.site.test", path).await;
            let status = if is_ours(&issuer) { reply.status } else { 0 };
            assert_eq!(status, at(before, after), "{change}: {reply:?}");
        }
        Effect::Lines(host, before, after) => {
            let lines = || {
                let log = setting.outgate.log();
                log.iter().filter(|line| line["destination"]["domain"] == host).count()
            };
            let old = lines();
            drop(client::connect(setting.proxy(), &format!("{host}:80")).await.unwrap());
            tokio::time::sleep(Duration::from_millis(500)).await;
            assert_eq!(lines() > old, if when == Before { before } else { after }, "{change}");
        }
        Effect::Named | Effect::RestartRequired(_) => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn open_tunnels_go_on_or_end_as_the_new_policy_says() {
    const ALL: &str = "
name: all
rules:
- {name: sniffed, priority: 1, basicProfile: ALLOW, sessionMatcher: \"host() == 'sniffed.site.test' && connection.sni != 'x'\"}
- {name: unread, priority: 2, basicProfile: ALLOW, sessionMatcher: \"host() != 'sniffed.site.test'\"}
";
    for (open_tunnels, ends) in [("keep", false), ("recheck", true)] {
        let mut setting = Setting::with(ALL).await;
        let mut kept = client::connect(setting.proxy(), "kept.site.test:80").await.unwrap();
        let mut denied = client::connect(setting.proxy(), "denied.site.test:80").await.unwrap();
        let sniffed = client::connect(setting.proxy(), "sniffed.site.test:443").await.unwrap();
        let mut sniffed = setting.trusting("sniffed.site.test").http1().handshake(sniffed).await.unwrap();
        setting.outgate.swap_policy(&format!(
            "
name: some
rules:
- {{name: not-sniffed, priority: 1, basicProfile: DENY, sessionMatcher: \"host() == 'sniffed.site.test' && connection.sni == 'sniffed.site.test'\"}}
- {{name: unread, priority: 2, basicProfile: ALLOW, sessionMatcher: \"host() != 'denied.site.test'\"}}
outgate: {{openTunnels: {open_tunnels}}}
"
        ));
        let mut byte = [0; 1];
        // A second on a machine that has time; here others run beside it.
        let limit = Duration::from_secs(if ends { 5 } else { 1 });
        let read = tokio::time::timeout(limit, denied.read(&mut byte)).await;
        assert_eq!(matches!(read, Ok(Ok(0) | Err(_))), ends, "{open_tunnels}: {read:?}");
        let read = tokio::time::timeout(limit, sniffed.read(&mut byte)).await;
        assert_eq!(matches!(read, Ok(Ok(0) | Err(_))), ends, "{open_tunnels}: {read:?}");
        if ends {
            let line = setting
                .outgate
                .line(|line| {
                    line["outgate"]["verdict"] == "deny"
                        && line["destination"]["domain"] == "sniffed.site.test"
                })
                .await;
            assert_eq!(line["rule"]["name"], "not-sniffed", "{line}");
        }
        kept.write_all(b"GET / HTTP/1.1\r\nHost: kept.site.test\r\n\r\n").await.unwrap();
        assert!(read_some(&mut kept).await.starts_with(b"HTTP/1.1 200"), "{open_tunnels}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn four_hundred_open_connections_live_through_a_swap() {
    let setting = Setting::with(&policy("first", "/first")).await;
    let proxy = setting.proxy();
    let mut inspected = Vec::new();
    let mut tunnels = Vec::new();
    for _ in 0..200 {
        let stream = client::connect(proxy, "kept.site.test:443").await.unwrap();
        let stream = setting.trusting("kept.site.test").http1().handshake(stream).await.unwrap();
        let (sender, connection) =
            hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        inspected.push(sender);
        tunnels.push(client::connect(proxy, "unread.site.test:80").await.unwrap());
    }
    let ask = async |sender: &mut hyper::client::conn::http1::SendRequest<
        http_body_util::Empty<hyper::body::Bytes>,
    >,
                     path: &str| {
        let request = hyper::Request::get(path)
            .header("host", "kept.site.test")
            .body(http_body_util::Empty::new())
            .unwrap();
        sender.ready().await.unwrap();
        let response = sender.send_request(request).await.unwrap();
        let status = response.status().as_u16();
        http_body_util::BodyExt::collect(response.into_body()).await.unwrap();
        status
    };
    // Requests are under way while the policy changes, twice.
    for (name, path, other) in [("second", "/second", "/first"), ("first", "/first", "/second")] {
        let in_force = setting.outgate.swaps();
        setting.outgate.replace_policy(&policy(name, path));
        for sender in &mut inspected {
            assert_eq!(ask(sender, "/both").await, 200, "what both allow never fails");
            let status = ask(sender, path).await;
            assert!(matches!(status, 200 | 403), "{status}");
        }
        setting.outgate.wait_for_swaps(in_force + 1);
        for sender in &mut inspected {
            assert_eq!(
                (ask(sender, path).await, ask(sender, other).await),
                (200, 403),
                "on the same connection"
            );
        }
    }
    for tunnel in &mut tunnels {
        tunnel.write_all(b"GET / HTTP/1.1\r\nHost: unread.site.test\r\n\r\n").await.unwrap();
        assert!(read_some(tunnel).await.starts_with(b"HTTP/1.1 200"), "no tunnel was dropped");
    }
}
