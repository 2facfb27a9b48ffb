//! Regular expressions: compiled by `outgate`, searched with by outgate.wasm.

use std::fs;
use std::process::Command;

use outgate_tests::client;
use outgate_tests::outgate::{executable, free_address};

use crate::setting::{Setting, assert_refused};

const BY_PATTERN: &str = r#"
name: by-pattern
tlsInspectionPolicy: default
rules:
- name: items
  enabled: true
  priority: 10
  basicProfile: ALLOW
  sessionMatcher: host().matches('^(a|b)[.]site[.]test$')
  applicationMatcher: request.path.matches('^/(?i:item)s/[0-9]{2,}$')
  tlsInspectionEnabled: true
tlsInspectionPolicies:
- {name: default, caPool: main, minTlsVersion: TLS_1_2}
"#;

#[tokio::test(flavor = "multi_thread")]
async fn patterns_decide_in_the_clear_and_inspected_also_after_a_swap() {
    let mut setting = Setting::with(BY_PATTERN).await;
    for (host, path, allowed) in [
        ("a.site.test", "/items/42", true),
        ("b.site.test", "/Items/4711", true),
        ("a.site.test", "/items/4", false),
        ("a.site.test", "/x/items/42", false),
    ] {
        let clear = client::get(setting.proxy(), &format!("http://{host}{path}")).await;
        let (inspected, _) = setting.https(host, path).await;
        for reply in [clear, inspected] {
            match allowed {
                true => assert_eq!(reply.status, 200, "{host}{path}: {reply:?}"),
                false => assert_refused(&reply, 403, "default_denied"),
            }
        }
    }
    let refused = client::connect(setting.proxy(), "c.site.test:443").await.unwrap_err();
    assert_refused(&refused, 403, "default_denied");

    setting.outgate.swap_policy(&BY_PATTERN.replace("{2,}", "+").replace("(a|b)", "[b-d]"));
    let (reply, _) = setting.https("c.site.test", "/items/4").await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let refused = client::connect(setting.proxy(), "a.site.test:443").await.unwrap_err();
    assert_refused(&refused, 403, "default_denied");
}

/// Whoever writes the plugin JSON by hand is told what is missing before anything passes.
#[test]
fn envoy_does_not_start_with_a_pattern_that_nobody_compiled() {
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.yaml");
    fs::write(&policy, BY_PATTERN).unwrap();
    let target = executable().ancestors().find(|folder| folder.ends_with("target")).unwrap().to_owned();
    let [listen, admin] = std::array::from_fn(|_| free_address().to_string());
    let rendered = Command::new(executable())
        .args(["render", "--listen", &listen, "--admin", &admin, "--policy"])
        .arg(&policy)
        .arg("--wasm")
        .arg(target.join("outgate.wasm"))
        .output()
        .unwrap();
    let configuration = String::from_utf8(rendered.stdout).unwrap();
    let (before, rest) = configuration.split_once(r#""patterns":{"#).expect("the patterns are rendered");
    let (_, after) = rest.split_once(r#""},"#).unwrap();
    let file = folder.path().join("envoy.yaml");
    fs::write(&file, format!("{before}{after}")).unwrap();
    let envoy = Command::new(target.join("envoy/envoy"))
        .arg("-c")
        .arg(&file)
        .args(["--disable-hot-restart", "--log-level", "warning", "--concurrency", "1"])
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&envoy.stderr);
    assert!(!envoy.status.success(), "{log}");
    for expected in [
        "rule `items`: sessionMatcher: the pattern `^(a|b)[.]site[.]test$` comes without its program; have `outgate render`",
        "rule `items`: applicationMatcher: the pattern",
        "failed to load",
    ] {
        assert!(log.contains(expected), "{expected}: {log}");
    }
}
