//! What is allowed, denied, tunnelled and decrypted, by the certificate that the client sees.

use outgate_tests::client::{self, Ask, Tls};
use outgate_tests::origin::{Origin, read_some};
use outgate_tests::outgate::Options;
use tokio::io::AsyncWriteExt;

use crate::setting::{ORIGINS, Setting, assert_refused, is_ours};

/// The two rules of the documentation's first example: POST is forbidden, so everybody is decrypted to see the method.
const EXAMPLE_1: &str = "
name: example-1
tlsInspectionPolicy: default
rules:
- name: do-not-allow-post
  description: do not allow POST requests
  enabled: true
  priority: 10
  basicProfile: DENY
  sessionMatcher: SESSION
  tlsInspectionEnabled: true
  applicationMatcher: request.method == 'POST'
- name: allow-tcp
  description: allow TCP proxying from tag 12345 to example.com
  enabled: true
  priority: PRIORITY
  basicProfile: ALLOW
  sessionMatcher: source.matchTag('tagValues/12345') && host() == 'example.com'
tlsInspectionPolicies:
- {name: default, caPool: main}
outgate:
  sources:
  - {cidrs: [127.0.0.0/8], tags: [tagValues/12345]}
";

const EXAMPLE_2: &str = "
name: example-2
tlsInspectionPolicy: default
rules:
- name: allow-grpc
  description: allow to specific GitHub repository
  enabled: true
  priority: 10
  basicProfile: ALLOW
  sessionMatcher: SESSION
  tlsInspectionEnabled: true
  applicationMatcher: request.url().startsWith('github.com/grpc/grpc')
- name: allow-bank
  description: allow TCP proxying to bankofamerica.com
  enabled: true
  priority: PRIORITY
  basicProfile: ALLOW
  sessionMatcher: host() == 'bankofamerica.com'
tlsInspectionPolicies:
- {name: default, caPool: main}
";

fn policy(example: &str, session: &str, priority: u32) -> String {
    example.replace("SESSION", session).replace("PRIORITY", &priority.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn example_1_denies_the_tagged_traffic_until_it_is_fixed() {
    let mut setting = Setting::with(&policy(EXAMPLE_1, "true", 20)).await;
    let (reply, issuer) = setting.https("example.com", "/").await;
    assert!(is_ours(&issuer), "decrypted to see the method: {issuer}");
    assert_refused(&reply, 403, "default_denied");
    let (reply, _) = setting.ask_https("example.com", Ask::post("/")).await;
    assert_refused(&reply, 403, "rule_denied");
    assert_eq!(reply.json()["rule"], "do-not-allow-post");

    // Recommended: a higher priority for the TCP rule. The other: a narrower session for the inspecting rule.
    let narrowed = "\"!(source.matchTag('tagValues/12345') && host() == 'example.com')\"";
    for fixed in [policy(EXAMPLE_1, "true", 5), policy(EXAMPLE_1, narrowed, 20)] {
        setting.outgate.swap_policy(&fixed);
        let (reply, issuer) = setting.ask_https("example.com", Ask::post("/")).await;
        assert_eq!((reply.status, issuer.as_str()), (200, ORIGINS), "unread, POST and all");
        let (reply, issuer) = setting.ask_https("other.example", Ask::post("/")).await;
        assert!(is_ours(&issuer));
        assert_refused(&reply, 403, "rule_denied");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn example_2_decrypts_the_bank_until_it_is_fixed() {
    let mut setting = Setting::with(&policy(EXAMPLE_2, "true", 20)).await;
    let (reply, issuer) = setting.https("bankofamerica.com", "/account").await;
    assert!(is_ours(&issuer), "the bank is decrypted: {issuer}");
    assert_refused(&reply, 403, "default_denied");

    for fixed in [policy(EXAMPLE_2, "true", 5), policy(EXAMPLE_2, "host() == 'github.com'", 20)] {
        setting.outgate.swap_policy(&fixed);
        let (reply, issuer) = setting.https("bankofamerica.com", "/account").await;
        assert_eq!((reply.status, issuer.as_str()), (200, ORIGINS));
        let (reply, issuer) = setting.https("github.com", "/grpc/grpc").await;
        assert_eq!(reply.status, 200);
        assert!(is_ours(&issuer));
        let (reply, _) = setting.https("github.com", "/torvalds/linux").await;
        assert_refused(&reply, 403, "default_denied");
    }
}

/// Rules of every kind, out of order in the file.
const EVERY_KIND: &str = "
name: every-kind
tlsInspectionPolicy: default
rules:
- {name: last-gets, enabled: true, priority: 90, basicProfile: ALLOW, sessionMatcher: \"host() == 'mixed.site.test'\", applicationMatcher: \"request.method == 'GET'\"}
- {name: needs-header, enabled: true, priority: 20, basicProfile: ALLOW, sessionMatcher: \"host() == 'header.site.test'\", applicationMatcher: \"request.headers['x-team'] == 'a'\", tlsInspectionEnabled: true}
- {name: unread, enabled: true, priority: 10, basicProfile: ALLOW, sessionMatcher: \"host() == 'unread.site.test'\"}
- {name: disabled, enabled: false, priority: 5, basicProfile: DENY, sessionMatcher: \"true\"}
- {name: forbidden, enabled: true, priority: 6, basicProfile: DENY, sessionMatcher: \"host() == 'forbidden.site.test'\"}
- {name: inspected, enabled: true, priority: 30, basicProfile: ALLOW, sessionMatcher: \"host() == 'inspected.site.test'\", applicationMatcher: \"request.path.startsWith('/ok')\", tlsInspectionEnabled: true}
- {name: reads-then-passes, enabled: true, priority: 40, basicProfile: ALLOW, sessionMatcher: \"host() == 'sniffed.site.test'\", applicationMatcher: \"request.path == '/clear'\"}
- {name: passes, enabled: true, priority: 50, basicProfile: ALLOW, sessionMatcher: \"host() == 'sniffed.site.test'\"}
- {name: by-server-name, enabled: true, priority: 60, basicProfile: ALLOW, sessionMatcher: \"host() == 'named.site.test' && connection.sni == 'named.site.test'\"}
tlsInspectionPolicies:
- {name: default, caPool: main}
";

#[tokio::test(flavor = "multi_thread")]
async fn each_row_of_the_table() {
    let banner = Origin::banner("SSH-2.0-test\r\n").await;
    let options = Options::default().resolve("unread.site.test", 22, banner.address).resolve(
        "inspected.site.test",
        22,
        banner.address,
    );
    let setting = Setting::with_options(EVERY_KIND, options).await;
    let proxy = setting.proxy();

    // In the clear: the first rule whose matchers match; none: denied.
    assert_eq!(client::get(proxy, "http://inspected.site.test/ok").await.status, 200);
    assert_refused(&client::get(proxy, "http://inspected.site.test/no").await, 403, "default_denied");
    assert_refused(&client::get(proxy, "http://forbidden.site.test/").await, 403, "rule_denied");
    assert_refused(&client::get(proxy, "http://unknown.site.test/").await, 403, "default_denied");

    // A session rule decides at the CONNECT.
    let reply = client::connect(proxy, "forbidden.site.test:443").await.unwrap_err();
    assert_refused(&reply, 403, "rule_denied");
    assert_eq!(reply.json()["rule"], "forbidden");
    let reply = client::connect(proxy, "unknown.site.test:443").await.unwrap_err();
    assert_refused(&reply, 403, "default_denied");
    assert_eq!(reply.json()["rule"], serde_json::Value::Null);
    let (reply, issuer) = setting.https("unread.site.test", "/anything").await;
    assert_eq!((reply.status, issuer.as_str()), (200, ORIGINS));
    let mut stream = client::connect(proxy, "unread.site.test:22").await.unwrap();
    assert_eq!(
        read_some(&mut stream).await,
        b"SSH-2.0-test\r\n",
        "server-first protocols pass a session rule"
    );

    // An inspecting rule decrypts; HTTP/2 and HTTP/1.1 are decided alike.
    for tls in [setting.trusting("inspected.site.test"), setting.trusting("inspected.site.test").http1()] {
        let (reply, seen) =
            client::https(proxy, "inspected.site.test", &tls, Ask::get("/ok?a=1").at("inspected.site.test"))
                .await
                .unwrap();
        assert_eq!(reply.status, 200);
        assert!(is_ours(&crate::setting::issuer(&seen)));
        assert_eq!(setting.secure.last().target, "/ok?a=1");
        let (reply, _) =
            client::https(proxy, "inspected.site.test", &tls, Ask::get("/no").at("inspected.site.test"))
                .await
                .unwrap();
        assert_refused(&reply, 403, "default_denied");
    }
    let line = setting.outgate.session("inspected.site.test").await;
    assert_eq!(
        (&line["outgate"]["verdict"], &line["rule"]["name"]),
        (&"inspect".into(), &"inspected".into()),
        "{line}"
    );
    assert_eq!(line["outgate"]["decrypted"], true);

    // Plain HTTP inside a tunnel: each request in the clear.
    let stream = client::connect(proxy, "inspected.site.test:80").await.unwrap();
    assert_eq!(client::http1(stream, Ask::get("/ok").at("inspected.site.test")).await.unwrap().status, 200);
    let stream = client::connect(proxy, "inspected.site.test:80").await.unwrap();
    assert_refused(
        &client::http1(stream, Ask::get("/no").at("inspected.site.test")).await.unwrap(),
        403,
        "default_denied",
    );

    // Anything else inside: the connection fails, and the line says so.
    let mut stream = client::connect(proxy, "inspected.site.test:22").await.unwrap();
    stream.write_all(b"SSH-2.0-client\r\n").await.unwrap();
    assert_eq!(client::read_until_quiet(&mut stream).await, "");
    let line = setting.outgate.line(|line| line["outgate"]["verdict"] == "fail").await;
    assert_eq!(
        (&line["event"]["reason"], &line["rule"]["name"]),
        (&"not_http".into(), &"inspected".into()),
        "{line}"
    );
    assert_eq!(banner.connections(), 1, "only the unread tunnel reached the origin");

    // An application rule without inspection: its TLS goes on to the rules behind it.
    let (reply, issuer) = setting.https("sniffed.site.test", "/anything").await;
    assert_eq!((reply.status, issuer.as_str()), (200, ORIGINS));
    let line = setting.outgate.session("sniffed.site.test").await;
    assert_eq!(
        (&line["outgate"]["verdict"], &line["rule"]["name"]),
        (&"tunnel".into(), &"passes".into()),
        "{line}"
    );
    let failure = client::https(
        proxy,
        "mixed.site.test",
        &setting.trusting("mixed.site.test"),
        Ask::get("/").at("mixed.site.test"),
    )
    .await;
    assert!(failure.is_err(), "no rule takes this TLS");
    let line = setting.outgate.session("mixed.site.test").await;
    assert_eq!(
        (&line["outgate"]["verdict"], &line["event"]["reason"]),
        (&"deny".into(), &"default_denied".into()),
        "{line}"
    );

    // Rules that ask for the ClientHello are decided once it is there.
    let (reply, issuer) = setting.https("named.site.test", "/").await;
    assert_eq!((reply.status, issuer.as_str()), (200, ORIGINS));

    // A matcher that fails does not match, and is counted and logged.
    let (reply, _) = setting.https("header.site.test", "/").await;
    assert_refused(&reply, 403, "default_denied");
    let line = setting
        .outgate
        .line(|line| {
            line["destination"]["domain"] == "header.site.test" && line["outgate"]["errors"].is_array()
        })
        .await;
    assert_eq!(line["outgate"]["errors"][0], "needs-header");
    let ask = Ask::get("/").with(&[("x-team", "a")]);
    assert_eq!(setting.ask_https("header.site.test", ask).await.0.status, 200);
    let metrics = setting.metrics().await;
    assert!(metrics.contains("outgate_evaluation_errors_total{rule=\"needs-header\"} 1"), "{metrics}");
    assert!(
        metrics.contains("outgate_verdicts_total{stage=\"session\",verdict=\"deny\",rule=\"forbidden\"}"),
        "{metrics}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_at_the_same_time_keep_their_own_verdicts() {
    let policy = "
name: many
tlsInspectionPolicy: default
rules:
- {name: even, enabled: true, priority: 10, basicProfile: ALLOW, sessionMatcher: \"host().startsWith('even')\", applicationMatcher: \"request.path == '/' + host()\", tlsInspectionEnabled: true}
- {name: reads, enabled: true, priority: 20, basicProfile: ALLOW, sessionMatcher: \"host().startsWith('odd')\", applicationMatcher: \"request.path == '/never'\"}
- {name: odd, enabled: true, priority: 30, basicProfile: ALLOW, sessionMatcher: \"host().startsWith('odd')\"}
tlsInspectionPolicies:
- {name: default, caPool: main}
";
    let setting = std::sync::Arc::new(Setting::with(policy).await);
    let mut sessions = tokio::task::JoinSet::new();
    for index in 0..60 {
        let setting = std::sync::Arc::clone(&setting);
        sessions.spawn(async move {
            let host = format!("{}-{index}.site.test", if index % 2 == 0 { "even" } else { "odd" });
            let path = format!("/{host}");
            let (reply, issuer) = setting.https(&host, &path).await;
            assert_eq!(reply.status, 200, "{host}: {reply:?}");
            assert_eq!(reply.json()["target"], path.as_str());
            assert_eq!(is_ours(&issuer), index % 2 == 0, "{host}: {issuer}");
        });
    }
    while let Some(session) = sessions.join_next().await {
        session.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn browsers_get_a_page_and_every_denial_has_its_line() {
    let setting = Setting::with(&policy(EXAMPLE_2, "true", 20)).await;
    let ask = Ask { target: "http://nowhere.site.test/x", ..Ask::get("") }
        .at("nowhere.site.test")
        .with(&[("accept", "text/html,*/*")]);
    let reply = client::in_the_clear(setting.proxy(), ask).await;
    assert_eq!(reply.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(reply.body.contains("default_denied"), "{}", reply.body);

    let reply = client::get(setting.proxy(), "http://nowhere.site.test/y").await;
    let id = reply.json()["requestId"].clone();
    let line = setting
        .outgate
        .line(|line| line["http"]["request"]["id"] == id && line["event"]["action"] == "outgate.request")
        .await;
    assert_eq!((&line["url"]["path"], &line["event"]["outcome"]), (&"/y".into(), &"failure".into()));
    let end = setting
        .outgate
        .line(|line| line["http"]["request"]["id"] == id && line["event"]["action"] == "outgate.request.end")
        .await;
    assert_eq!(end["http"]["response"]["status_code"], 403, "{end}");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_without_a_server_name_cannot_be_inspected() {
    let setting = Setting::with(&policy(EXAMPLE_2, "true", 20)).await;
    let stream = client::connect(setting.proxy(), "github.com:443").await.unwrap();
    let handshake = Tls::new("github.com", Vec::new()).no_server_name().handshake(stream).await;
    assert!(handshake.is_err());
    let line = setting.outgate.session("github.com").await;
    assert_eq!(
        (&line["outgate"]["verdict"], &line["event"]["reason"]),
        (&"fail".into(), &"no_sni".into()),
        "{line}"
    );
    assert_eq!(line["rule"], serde_json::Value::Null);
}
