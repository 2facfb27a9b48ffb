//! The corners of HTTP and TCP: old versions, pipelines, halves.

use outgate_tests::client::{self, Ask};
use outgate_tests::origin::{Origin, read_some};
use outgate_tests::outgate::Options;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::setting::{Setting, assert_refused};

const POLICY: &str = "
name: edges
tlsInspectionPolicy: default
rules:
- {name: unread, priority: 5, basicProfile: ALLOW, sessionMatcher: \"host().startsWith('unread')\"}
- {name: gets, priority: 10, basicProfile: ALLOW, sessionMatcher: \"true\", applicationMatcher: \"request.method == 'GET' || request.path == '/post'\", tlsInspectionEnabled: true}
tlsInspectionPolicies:
- {name: default, caPool: main}
";

/// The ways to bytes that are read: in the clear, in a tunnel, decrypted.
async fn ways(setting: &Setting) -> Vec<(&'static str, Box<dyn Stream>)> {
    let clear = TcpStream::connect(setting.proxy()).await.unwrap();
    let tunnelled = client::connect(setting.proxy(), "good.site.test:80").await.unwrap();
    let inspected = client::connect(setting.proxy(), "good.site.test:443").await.unwrap();
    let inspected = setting.trusting("good.site.test").http1().handshake(inspected).await.unwrap();
    vec![
        ("http://good.site.test", Box::new(clear) as Box<dyn Stream>),
        ("", Box::new(tunnelled)),
        ("", Box::new(inspected)),
    ]
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn answer_to(stream: &mut (impl AsyncRead + AsyncWrite + Unpin + ?Sized), request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut stream = stream;
    client::read_until_quiet(&mut stream).await
}

#[tokio::test(flavor = "multi_thread")]
async fn http_1_0_is_judged_and_served() {
    let setting = Setting::with(POLICY).await;
    for (base, mut stream) in ways(&setting).await {
        let request = format!("GET {base}/old HTTP/1.0\r\nHost: good.site.test\r\n\r\n");
        let answer = answer_to(&mut *stream, &request).await;
        assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    }
    for (base, mut stream) in ways(&setting).await {
        let request = format!("PUT {base}/old HTTP/1.0\r\nHost: good.site.test\r\nContent-Length: 0\r\n\r\n");
        let answer = answer_to(&mut *stream, &request).await;
        assert!(answer.contains("x-outgate-reason: default_denied"), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_are_judged_one_by_one_and_answered_in_order() {
    let setting = Setting::with(POLICY).await;
    for (base, mut stream) in ways(&setting).await {
        let ask = |method: &str, path: &str| {
            format!("{method} {base}{path} HTTP/1.1\r\nHost: good.site.test\r\nContent-Length: 0\r\n\r\n")
        };
        let requests = ask("GET", "/one") + &ask("GET", "/two") + &ask("PUT", "/three");
        let answer = answer_to(&mut *stream, &requests).await;
        let order: Vec<_> =
            ["\"/one\"", "\"/two\"", "default_denied"].iter().map(|part| answer.find(part)).collect();
        assert!(order.iter().all(Option::is_some) && order.is_sorted(), "{order:?}: {answer}");
    }
    // Envoy may end the connection after a refusal, but answers nothing out of turn.
    for (base, mut stream) in ways(&setting).await {
        let ask = |method: &str, path: &str| {
            format!("{method} {base}{path} HTTP/1.1\r\nHost: good.site.test\r\nContent-Length: 0\r\n\r\n")
        };
        let requests = ask("GET", "/one") + &ask("PUT", "/three") + &ask("GET", "/four");
        let answer = answer_to(&mut *stream, &requests).await;
        let refused = answer.find("default_denied");
        assert!(refused > answer.find("\"/one\""), "{answer}");
        assert!(answer.find("\"/four\"").is_none_or(|four| Some(four) > refused), "{answer}");
    }
    let received: Vec<_> =
        [&setting.plain, &setting.secure].iter().flat_map(|origin| origin.received()).collect();
    assert!(received.iter().all(|request| request.target != "/three"), "{received:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_expects_100_continue_gets_it_for_what_is_allowed() {
    let setting = Setting::with(POLICY).await;
    for (base, mut stream) in ways(&setting).await {
        let head = |path: &str| {
            format!(
                "POST {base}{path} HTTP/1.1\r\nHost: good.site.test\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
            )
        };
        let answer = answer_to(&mut *stream, &head("/post")).await;
        assert!(answer.starts_with("HTTP/1.1 100 Continue"), "{answer}");
        let answer = answer_to(&mut *stream, "body").await;
        assert!(answer.contains("HTTP/1.1 200") && answer.contains("\"body\":\"body\""), "{answer}");
    }
    for (base, mut stream) in ways(&setting).await {
        let head = format!(
            "POST {base}/no HTTP/1.1\r\nHost: good.site.test\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
        );
        let answer = answer_to(&mut *stream, &head).await;
        assert!(answer.contains("x-outgate-reason: default_denied"), "{answer}");
    }
}

/// An origin that ends a tunnel has said all before, and a client that takes its time gets all of it. A client that ends
/// its half ends the tunnel: Envoy has no half-closed CONNECT in HTTP/1.1.
#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_delivers_what_the_origin_said_before_it_ended() {
    const LARGE: usize = 8 << 20;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let origin = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut said = vec![0; LARGE];
        stream.read_exact(&mut said).await.unwrap();
        stream.write_all(&said).await.unwrap();
        drop(stream);
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_to_end(&mut said).await
    });
    let setting =
        Setting::with_options(POLICY, Options::default().resolve("unread.halves.test", 7, address)).await;
    let mut stream = client::connect(setting.proxy(), "unread.halves.test:7").await.unwrap();
    stream.write_all(&vec![b'x'; LARGE]).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    let mut all = Vec::new();
    let ended = stream.read_to_end(&mut all).await;
    assert_eq!((all.len(), ended.is_ok()), (LARGE, true));

    let mut stream = client::connect(setting.proxy(), "unread.halves.test:7").await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(client::read_until_quiet(&mut stream).await, "");
    tokio::time::timeout(std::time::Duration::from_secs(5), origin)
        .await
        .expect("the origin is told")
        .unwrap()
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_early_ends_the_session_with_a_line() {
    let banner = Origin::banner("hello\r\n").await;
    let options = Options::default().resolve("unread.early.test", 22, banner.address);
    let setting = Setting::with_options(POLICY, options).await;
    // The client leaves a tunnel.
    let mut stream = client::connect(setting.proxy(), "unread.early.test:22").await.unwrap();
    assert_eq!(read_some(&mut stream).await, b"hello\r\n");
    drop(stream);
    let line = setting
        .outgate
        .line(|line| {
            line["event"]["action"] == "outgate.session.end"
                && line["destination"]["domain"] == "unread.early.test"
        })
        .await;
    assert!(line["destination"]["bytes"].as_u64().unwrap() >= 7, "{line}");
    assert_eq!(line["destination"]["ip"], "127.0.0.1", "{line}");

    // The client leaves while the origin thinks.
    let mut stream = TcpStream::connect(setting.proxy()).await.unwrap();
    stream
        .write_all(b"GET http://early.site.test/slow HTTP/1.1\r\nHost: early.site.test\r\n\r\n")
        .await
        .unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    drop(stream);
    let line = setting
        .outgate
        .line(|line| {
            line["event"]["action"] == "outgate.request.end"
                && line["destination"]["domain"] == "early.site.test"
        })
        .await;
    assert!(line["event"]["reason"].as_str().unwrap().contains("downstream"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_tunnel_leads_through_a_tunnel_and_no_upgrade_past_the_rules() {
    let setting = Setting::with(POLICY).await;
    let mut tls = setting.trusting("good.site.test");
    tls.protocols = vec!["http/1.1"];
    for (request, status, reason) in [
        ("CONNECT good.site.test:22 HTTP/1.1\r\nHost: good.site.test:22\r\n\r\n", 405, "nested_connect"),
        (
            "GET / HTTP/1.1\r\nHost: good.site.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: eA==\r\nSec-WebSocket-Version: 13\r\n\r\n",
            403,
            "upgrade_refused",
        ),
    ] {
        let inspected = client::connect(setting.proxy(), "good.site.test:443").await.unwrap();
        let mut inspected = tls.handshake(inspected).await.unwrap();
        let answer = answer_to(&mut inspected, request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        assert!(answer.contains(&format!("x-outgate-reason: {reason}")), "{answer}");
        assert!(answer.contains("application/problem+json"), "{answer}");
    }
    assert_eq!(setting.secure.received().len(), 0);
    let reply =
        client::in_the_clear(setting.proxy(), Ask::get("https://good.site.test/").at("good.site.test")).await;
    assert_refused(&reply, 400, "scheme_mismatch");
}
