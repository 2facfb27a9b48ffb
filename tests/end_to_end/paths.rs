//! Paths that some origin would read in another way: refused unless the policy allows every reading.

use std::io::Write;
use std::process::{Command, Stdio};

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1::SendRequest;
use outgate_tests::client::{self, Ask};
use outgate_tests::outgate::executable;
use serde_json::{Value, json};

use crate::setting::{Setting, assert_refused};

/// A DENY above a broad ALLOW.
const DENY_ADMIN: &str = "
name: deny-admin
tlsInspectionPolicy: default
rules:
- {name: no-admin, priority: 10, basicProfile: DENY, sessionMatcher: \"true\", applicationMatcher: \"request.path.startsWith('/admin/')\", tlsInspectionEnabled: true}
- {name: rest, priority: 20, basicProfile: ALLOW, sessionMatcher: \"true\", applicationMatcher: \"true\", tlsInspectionEnabled: true}
tlsInspectionPolicies:
- {name: default, caPool: main}
";

/// An ALLOW alone.
const ALLOW_OK: &str = "
name: allow-ok
tlsInspectionPolicy: default
rules:
- {name: ok, priority: 10, basicProfile: ALLOW, sessionMatcher: \"true\", applicationMatcher: \"request.path.startsWith('/ok/')\", tlsInspectionEnabled: true}
tlsInspectionPolicies:
- {name: default, caPool: main}
";

#[tokio::test(flavor = "multi_thread")]
async fn disguised_paths_are_refused_by_their_worse_reading() {
    for (policy, cases) in [
        (
            DENY_ADMIN,
            [
                ("/admin%2Fx", 403, "rule_denied"),
                ("//admin/x", 403, "rule_denied"),
                ("/admin;x/y", 403, "rule_denied"),
                ("/x/..%2fadmin/y", 400, "ambiguous_path"),
                ("/%252e%252e/", 400, "ambiguous_path"),
                ("/a\\..\\admin", 400, "ambiguous_path"),
            ],
        ),
        (
            ALLOW_OK,
            [
                ("/ok%2Fx", 403, "default_denied"),
                ("//ok/x", 403, "default_denied"),
                ("/ok/%2Fx", 200, ""),
                ("/ok/..%2fadmin/y", 400, "ambiguous_path"),
                ("/ok/%252e%252e/", 400, "ambiguous_path"),
                ("/ok\\..\\admin", 400, "ambiguous_path"),
            ],
        ),
    ] {
        let setting = Setting::with(policy).await;
        for tls in [setting.trusting("good.site.test"), setting.trusting("good.site.test").http1()] {
            for (path, status, reason) in cases {
                let ask = Ask::get(path).at("good.site.test");
                let (reply, _) = client::https(setting.proxy(), "good.site.test", &tls, ask).await.unwrap();
                if status == 200 {
                    assert_eq!((reply.status, setting.secure.last().target.as_str()), (200, path));
                } else {
                    assert_refused(&reply, status, reason);
                }
                let url = format!("http://good.site.test{path}");
                let reply = client::get(setting.proxy(), &url).await;
                assert_eq!(reply.status, status, "{url}: {reply:?}");
            }
        }
        let received = setting.secure.received();
        assert!(received.iter().all(|request| request.target == "/ok/%2Fx"), "{received:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_origin_received_is_allowed_in_every_reading() {
    const PIECES: [&str; 24] = [
        "/", "//", "admin", "ok", "x", ".", "..", "%2e", "%2E%2e", "%2F", "%2f", "%5C", "\\", "%25", "%252f",
        "%61dmin", ";", ";x=y", "%3b", "a", "?", "%20", "~", "%7e",
    ];
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        usize::try_from(seed % u64::try_from(below).unwrap()).unwrap()
    };
    for policy in [DENY_ADMIN, ALLOW_OK] {
        let setting = Setting::with(policy).await;
        let mut sender = connection(&setting).await;
        let mut sent = 0;
        for _ in 0..1500 {
            let start = ["/", "/ok/", "/admin/"][random(3)];
            let path: String =
                std::iter::once(start).chain((0..random(7)).map(|_| PIECES[random(PIECES.len())])).collect();
            let request =
                hyper::Request::get(&path).header("host", "good.site.test").body(Empty::new()).unwrap();
            // What is no HTTP at all ends the connection.
            if sender.ready().await.is_err() {
                sender = connection(&setting).await;
            }
            let response = sender.send_request(request).await.unwrap();
            sent += usize::from(response.status() == 200);
            response.into_body().collect().await.unwrap();
        }
        let received = setting.secure.received();
        assert_eq!(received.len(), sent);
        assert!(sent > 100 && sent < 1400, "some pass and some do not: {sent}");
        for (request, answer) in received.iter().zip(explain(&setting, &received)) {
            assert_eq!(answer["request"]["verdict"], "allow", "{}: {answer}", request.target);
        }
    }
}

/// A decrypted connection for one request after the other.
async fn connection(setting: &Setting) -> SendRequest<Empty<Bytes>> {
    let stream = client::connect(setting.proxy(), "good.site.test:443").await.unwrap();
    let stream = setting.trusting("good.site.test").http1().handshake(stream).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// What `outgate explain` says of the requests that arrived.
fn explain(setting: &Setting, received: &[outgate_tests::origin::Received]) -> Vec<Value> {
    let mut process = Command::new(executable())
        .arg("explain")
        .arg(setting.outgate.policy_file())
        .args(["--request", "-", "--format", "json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let questions: String = received
        .iter()
        .map(|request| {
            let question = json!({
                "source": {"ip": "127.0.0.1"}, "connect": "good.site.test:443", "flow": "tls", "sni": "good.site.test",
                "request": {"method": "GET", "authority": "good.site.test", "path": request.target},
            });
            format!("{question}\n")
        })
        .collect();
    let mut input = process.stdin.take().unwrap();
    let writer = std::thread::spawn(move || input.write_all(questions.as_bytes()).unwrap());
    let output = process.wait_with_output().unwrap();
    writer.join().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let answers: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), received.len());
    answers
}
