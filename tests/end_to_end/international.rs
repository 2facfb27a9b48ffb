//! Hosts that are not ASCII: a policy may have them, requests have A-labels.

use outgate_tests::client;

use crate::setting::{Setting, assert_refused, is_ours};

const POLICY: &str = "
name: international
tlsInspectionPolicy: default
rules:
- name: listed
  enabled: true
  priority: 10
  basicProfile: ALLOW
  sessionMatcher: inUrlList(host(), 'listed')
  applicationMatcher: inUrlList(request.url(), 'listed')
  tlsInspectionEnabled: true
urlLists:
- {name: listed, values: ['*bücher.site.test', 'KÖLN.site.test/dom/*']}
tlsInspectionPolicies:
- {name: default, caPool: main}
outgate:
  sources:
  - {dnsNames: ['*.bücher.example'], tags: [tagValues/1]}
";

#[tokio::test(flavor = "multi_thread")]
async fn url_lists_in_any_letters_decide_about_a_labels() {
    let setting = Setting::with(POLICY).await;
    for (host, path, allowed) in [
        ("a.xn--bcher-kva.site.test", "/", true),
        ("A.XN--BCHER-KVA.site.test", "/x", true),
        ("xn--kln-sna.site.test", "/dom/1", true),
        ("xn--kln-sna.site.test", "/", false),
        ("a.bucher.site.test", "/", false),
    ] {
        let reply = client::get(setting.proxy(), &format!("http://{host}{path}")).await;
        match allowed {
            true => assert_eq!(reply.status, 200, "{host}{path}: {reply:?}"),
            false => assert_refused(&reply, 403, "default_denied"),
        }
    }
    let (reply, issuer) = setting.https("xn--bcher-kva.site.test", "/").await;
    assert_eq!(reply.status, 200, "{reply:?}");
    assert!(is_ours(&issuer));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_in_other_letters_are_malformed() {
    let setting = Setting::with(POLICY).await;
    for head in [
        "GET http://a.bücher.site.test/ HTTP/1.1\r\nhost: a",
        "CONNECT a.bücher.site.test:443 HTTP/1.1\r\nhost: a",
    ] {
        let said = client::raw(setting.proxy(), format!("{head}\r\n\r\n").as_bytes()).await;
        assert!(said.starts_with("HTTP/1.1 400 "), "{head}: {said}");
    }
}
