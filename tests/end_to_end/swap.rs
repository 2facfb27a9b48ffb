//! A policy that changes while connections are open.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use outgate_tests::client::{self, Ask};
use outgate_tests::origin::read_some;
use tokio::io::AsyncWriteExt;

use crate::setting::{Setting, assert_refused};

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
