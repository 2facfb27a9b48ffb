//! The log: what each line of a session and its requests tells, and that no reader of it holds anybody up.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::process::Command;
use std::time::Duration;

use outgate_tests::client::{self, Ask, Tls};
use outgate_tests::outgate::Options;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::setting::{INSPECT_ALL, Setting};

const UNREAD: &str = "
name: unread
rules:
- {name: all, priority: 10, basicProfile: ALLOW, sessionMatcher: \"true\"}
";

/// The line of one action about one host.
async fn line_of(setting: &Setting, action: &str, host: &str) -> Value {
    setting
        .outgate
        .line(|line| line["event"]["action"] == action && line["destination"]["domain"] == host)
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn all_lines_of_a_session_share_its_id_and_tell_what_moved() {
    let setting = Setting::with(INSPECT_ALL).await;
    let stream = client::connect(setting.proxy(), "told.site.test:443").await.unwrap();
    let stream = setting.trusting("told.site.test").http1().handshake(stream).await.unwrap();
    let body = "x".repeat(1000);
    let ask = Ask { method: "POST", body: &body, ..Ask::get("/told") }.at("told.site.test");
    assert_eq!(client::over_tls(stream, ask).await.unwrap().status, 200);

    let begun = line_of(&setting, "outgate.session", "told.site.test").await;
    let request = line_of(&setting, "outgate.request", "told.site.test").await;
    let answered = line_of(&setting, "outgate.request.end", "told.site.test").await;
    let ended = line_of(&setting, "outgate.session.end", "told.site.test").await;
    let id = &begun["outgate"]["session_id"];
    assert!(id.as_str().is_some_and(|id| id.len() == 16), "{begun}");
    for line in [&request, &answered, &ended] {
        assert_eq!(line["outgate"]["session_id"], *id, "{line}");
        assert_eq!(line["client"], begun["client"], "{line}");
    }
    assert_eq!(request["http"]["request"]["id"], answered["http"]["request"]["id"]);
    assert_eq!(answered["http"]["response"]["status_code"], 200);
    assert_eq!(answered["destination"]["ip"], "127.0.0.1");
    assert_eq!(answered["event"]["reason"], "via_upstream");
    assert!(answered["source"]["bytes"].as_u64().unwrap() > 1000, "{answered}");
    for line in [&answered, &ended] {
        assert!(line["event"]["duration"].as_u64().unwrap() > 100_000, "{line}");
        assert!(line["destination"]["bytes"].as_u64().unwrap() > 1000, "{line}");
    }

    // A second session has another id; one that nobody reads has its lines too.
    assert_eq!(setting.https("other.site.test", "/").await.0.status, 200);
    assert_ne!(line_of(&setting, "outgate.session", "other.site.test").await["outgate"]["session_id"], *id);
    let unread = Setting::with(UNREAD).await;
    assert_eq!(unread.https("quiet.site.test", "/").await.0.status, 200);
    let ended = line_of(&unread, "outgate.session.end", "quiet.site.test").await;
    assert_eq!(ended["destination"]["ip"], "127.0.0.1", "{ended}");
    assert!(
        ended["source"]["bytes"].as_u64().unwrap() > 0 && ended["destination"]["bytes"].as_u64().unwrap() > 0
    );
}

/// A session's lines are all there or all left out, whichever side of the internal listener writes them.
#[tokio::test(flavor = "multi_thread")]
async fn an_allowance_that_is_not_logged_has_no_last_line_either() {
    let setting = Setting::with(&format!("{INSPECT_ALL}outgate: {{log: {{allowances: 0}}}}\n")).await;
    assert_eq!(setting.https("quiet.site.test", "/").await.0.status, 200);
    let stream = client::connect(setting.proxy(), "quiet.site.test:80").await.unwrap();
    assert_eq!(client::http1(stream, Ask::get("/").at("quiet.site.test")).await.unwrap().status, 200);

    let stream = client::connect(setting.proxy(), "loud.site.test:443").await.unwrap();
    assert!(Tls::new("other.site.test", Vec::new()).handshake(stream).await.is_err());
    let failed = line_of(&setting, "outgate.session", "loud.site.test").await;
    assert_eq!(failed["outgate"]["verdict"], "fail");
    line_of(&setting, "outgate.session.end", "loud.site.test").await;
    for line in setting.outgate.log() {
        assert_eq!(line["destination"]["domain"], "loud.site.test", "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_handshake_with_an_origin_has_its_category() {
    let authority = outgate_tests::certificates::Authority::new("Origins CA");
    let profile = outgate_tests::certificates::Profile::server().expired();
    let origin = outgate_tests::origin::Origin::tls(&authority.issue(&["old.site.test"], &profile)).await;
    let folder = tempfile::tempdir().unwrap();
    let roots = folder.path().join("roots.pem");
    fs::write(&roots, authority.pem()).unwrap();
    let options = Options::default()
        .resolve("old.site.test", 443, origin.address)
        .with(&["--upstream-ca", roots.to_str().unwrap()]);
    let setting = Setting::with_options(INSPECT_ALL, options).await;
    assert_eq!(setting.https("old.site.test", "/").await.0.status, 502);
    let line = setting.outgate.line(|line| line["event"]["reason"] == "upstream_tls").await;
    assert_eq!(line["error"], json!({"type": "certificate_expired", "code": "expired"}), "{line}");
}

/// Far more lines than a pipe holds, and nobody reads them.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stalls_holds_nobody_up() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("log");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    // Open for both, so that neither side waits for the other.
    let reader = OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
    let setting = Setting::with_options(UNREAD, Options::default().log_to(&pipe)).await;
    let started = std::time::Instant::now();
    for _ in 0..1000 {
        drop(client::connect(setting.proxy(), "any.site.test:80").await.unwrap());
    }
    assert!(started.elapsed() < Duration::from_secs(30));
    let metrics = setting.metrics().await;
    let verdicts =
        metrics.lines().find(|line| line.contains("outgate_verdicts_total{") && line.contains("all"));
    assert!(verdicts.is_some_and(|line| line.ends_with(" 1000")), "{verdicts:?}");
    drop::<File>(reader);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_line_is_lost_when_the_log_is_rotated_under_load() {
    let setting = Setting::with(UNREAD).await;
    let proxy = setting.proxy();
    let log = setting.outgate.log_file();
    let (enough, mut rotating) = tokio::sync::oneshot::channel::<()>();
    // Until the last rotation is over, however fast this machine is.
    let load = tokio::spawn(async move {
        let mut sessions = 0;
        while rotating.try_recv().is_err() {
            let host = format!("n{sessions}.site.test:80");
            let mut stream = client::connect(proxy, &host).await.unwrap();
            stream.shutdown().await.unwrap();
            sessions += 1;
        }
        sessions
    });
    let mut rotated = Vec::new();
    for number in 0..5 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let old = log.with_extension(number.to_string());
        fs::rename(&log, &old).unwrap();
        setting.outgate.signal(Signal::USR1);
        while !log.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        rotated.push(old);
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    enough.send(()).unwrap();
    let sessions = load.await.unwrap();
    drop(client::connect(proxy, "last.site.test:80").await.unwrap());
    line_of(&setting, "outgate.session.end", "last.site.test").await;
    rotated.push(log);
    let mut begun = BTreeSet::new();
    let mut ended = BTreeSet::new();
    for file in rotated {
        for line in fs::read_to_string(file).unwrap().lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            let host = line["destination"]["domain"].as_str().unwrap().to_owned();
            let lines = if line["event"]["action"] == "outgate.session" { &mut begun } else { &mut ended };
            assert!(lines.insert(host), "{line}");
        }
    }
    assert_eq!((begun.len(), ended.len()), (sessions + 1, sessions + 1));
}
