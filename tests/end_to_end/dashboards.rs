//! The alert rules and the dashboard, by Prometheus itself and against what a running Outgate exports.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use outgate_tests::certificates::{Authority, Profile};
use outgate_tests::client::{self, Ask, Tls};
use outgate_tests::outgate::{Options, free_address};
use serde_json::Value;
use tokio::net::TcpStream;

use crate::setting::Setting;

/// A rule whose matcher fails, one that inspects.
const POLICY: &str = "
name: dashboards
tlsInspectionPolicy: default
rules:
- {name: fails, enabled: true, priority: 5, basicProfile: DENY, sessionMatcher: \"true\", applicationMatcher: \"request.headers['no-such-header'] == 'x'\", tlsInspectionEnabled: true}
- {name: all, enabled: true, priority: 10, basicProfile: ALLOW, sessionMatcher: \"true\", applicationMatcher: \"true\", tlsInspectionEnabled: true}
tlsInspectionPolicies:
- {name: default, caPool: main, minTlsVersion: TLS_1_2}
";

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn dashboard() -> Value {
    serde_json::from_str(&fs::read_to_string(top().join("envoy-config/grafana/dashboard.json")).unwrap())
        .unwrap()
}

fn alerts() -> String {
    fs::read_to_string(top().join("envoy-config/prometheus/alerts.yaml")).unwrap()
}

/// Title and query of every panel, with what Grafana puts in.
fn queries() -> Vec<(String, String)> {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    panels
        .flat_map(|panel| {
            let title = panel["title"].as_str().unwrap();
            let targets = panel["targets"].as_array().cloned().unwrap_or_default();
            targets.into_iter().map(move |target| {
                let query = target["expr"].as_str().unwrap();
                (title.to_owned(), query.replace("$__rate_interval", "1m").replace("$listener", ".*"))
            })
        })
        .collect()
}

/// The names of our metrics in a text.
fn names(text: &str) -> BTreeSet<&str> {
    text.split(|character: char| !character.is_ascii_alphanumeric() && character != '_')
        .filter(|word| word.starts_with("outgate_") || word.starts_with("cert_service_"))
        .collect()
}

/// A proxy that has decided, inspected, minted and refused.
async fn busy() -> Setting {
    let clients = Authority::new("Clients CA");
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("clients.pem");
    fs::write(&ca, clients.pem()).unwrap();
    let setting = Setting::with_options(POLICY, Options::default().mtls(&ca)).await;
    assert_eq!(setting.https("one.site.test", "/").await.0.status, 200);
    let tls = Tls::new("localhost", setting.outgate.roots()).http1();
    for identity in
        [clients.client("client.example"), clients.issue(&["client.example"], &Profile::client().expired())]
    {
        let stream = TcpStream::connect(setting.outgate.mtls).await.unwrap();
        if let Ok(stream) = tls.clone().identity(identity).handshake(stream).await {
            let _refused_or_not = client::over_tls(stream, Ask::get("/who").at("localhost")).await;
        }
    }
    setting
}

async fn exported(address: SocketAddr, path: &str) -> String {
    client::in_the_clear(address, Ask::get(path).at("metrics")).await.body
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_of_rules_and_panels_is_one_that_a_running_outgate_exports() {
    let setting = busy().await;
    let queries: Vec<String> = queries().into_iter().map(|(_, query)| query).collect();
    let (alerts, queries) = (alerts(), queries.join("\n"));
    let wanted: BTreeSet<&str> = names(&alerts).union(&names(&queries)).copied().collect();
    assert!(wanted.len() > 15, "{wanted:?}");
    let mut missing: BTreeSet<&str> = wanted.clone();
    for _ in 0..100 {
        let page = exported(setting.outgate.admin, "/stats/prometheus").await
            + &exported(setting.outgate.cert_http, "/metrics").await;
        let samples: BTreeSet<&str> = page
            .lines()
            .filter_map(|line| line.split(['{', ' ']).next())
            .filter(|name| *name != "#")
            .collect();
        missing = wanted.iter().filter(|name| !samples.contains(*name)).copied().collect();
        if missing.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(missing, BTreeSet::new());
}

#[test]
fn the_dashboard_is_whole() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut places = BTreeSet::new();
    let mut identities = BTreeSet::new();
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        assert!(identities.insert(panel["id"].as_u64().unwrap()), "{title}: an id comes twice");
        let place = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        assert!(place("x") + place("w") <= 24, "{title} is too wide");
        for x in place("x")..place("x") + place("w") {
            for y in place("y")..place("y") + place("h") {
                assert!(places.insert((x, y)), "{title} covers another panel");
            }
        }
        if panel["type"] == "row" {
            continue;
        }
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{title} asks nothing");
        let references: BTreeSet<&str> =
            targets.iter().map(|target| target["refId"].as_str().unwrap()).collect();
        assert_eq!(references.len(), targets.len(), "{title}");
        for target in targets {
            assert!(!names(target["expr"].as_str().unwrap()).is_empty(), "{title}");
        }
    }
    let variables: BTreeSet<&str> = dashboard["templating"]["list"]
        .as_array()
        .unwrap()
        .iter()
        .map(|known| known["name"].as_str().unwrap())
        .collect();
    assert_eq!(variables, BTreeSet::from(["datasource", "listener"]));
}

#[test]
fn every_alert_says_how_bad_it_is_and_where_to_read_on() {
    let alerts = alerts();
    let rules: Vec<&str> = alerts.split("- alert: ").skip(1).collect();
    let tests = fs::read_to_string(top().join("envoy-config/prometheus/alerts.test.yaml")).unwrap();
    for rule in &rules {
        let name = rule.lines().next().unwrap();
        assert!(
            ["page", "ticket", "security"]
                .iter()
                .any(|severity| rule.contains(&format!("{{severity: {severity}}}"))),
            "{name}"
        );
        let runbook = rule.split("runbook: ").nth(1).and_then(|rest| rest.lines().next()).unwrap_or_default();
        assert!(top().join(runbook).is_file(), "{name}: no page `{runbook}`");
        assert!(tests.contains(&format!("- name: {name}\n")), "{name} has no test");
    }
    assert!(rules.len() >= 15);
}

/// The folder of Prometheus's programs, if they are to be had.
fn prometheus() -> Option<PathBuf> {
    let output =
        Command::new(top().join("scripts/fetch-prometheus")).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success());
    let folder = String::from_utf8(output.stdout).unwrap();
    (!folder.trim().is_empty()).then(|| PathBuf::from(folder.trim()))
}

#[test]
fn promtool_accepts_the_rules_and_finds_that_each_fires_when_it_should() {
    let Some(folder) = prometheus() else { return };
    for arguments in [
        &["check", "rules", "alerts.yaml"][..],
        &["check", "config", "prometheus.yaml"],
        &["test", "rules", "alerts.test.yaml"],
    ] {
        let output = Command::new(folder.join("promtool"))
            .args(arguments)
            .current_dir(top().join("envoy-config/prometheus"))
            .output()
            .unwrap();
        let said =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && said.contains("SUCCESS"), "{arguments:?}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_loads_the_rules_scrapes_outgate_and_answers_every_panel() {
    let Some(folder) = prometheus() else { return };
    let setting = busy().await;
    let server = Prometheus::start(&folder, &setting);
    // Two rounds, for whatever is a rate.
    server.wait_for("count(count_over_time(up[1m]) > 2) == 2").await;
    let rules = server.ask("/api/v1/rules").await;
    let rules: Vec<&Value> = rules["data"]["groups"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|group| group["rules"].as_array().unwrap())
        .collect();
    assert_eq!(rules.len(), alerts().matches("- alert: ").count());
    for rule in &rules {
        assert_eq!((&rule["health"], rule.get("lastError")), (&"ok".into(), None), "{rule}");
    }
    for (title, query) in queries() {
        let answer = server.query(&query).await;
        assert_eq!(answer["status"], "success", "{title}: {query}: {answer}");
    }
    // What happened is in the panels.
    for (query, value) in [
        ("sum(outgate_tls_handshake_failures_total{reason=\"expired\"})", "1"),
        ("sum(outgate_tls_handshakes_total{listener=\"mtls\",outcome=\"finished\"})", "1"),
        ("min(cert_service_ready)", "1"),
    ] {
        server.wait_for(&format!("{query} == {value}")).await;
    }
}

struct Prometheus {
    process: Child,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    /// With the configuration of the documentation, but this Outgate's addresses and a shorter interval.
    fn start(programs: &Path, setting: &Setting) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = free_address();
        let configuration =
            fs::read_to_string(top().join("envoy-config/prometheus/prometheus.yaml")).unwrap();
        let outgate = &setting.outgate;
        let configuration = configuration
            .replace("127.0.0.1:9901", &outgate.admin.to_string())
            .replace("127.0.0.1:9902", &outgate.cert_http.to_string())
            .replace("15s", "1s");
        fs::write(folder.path().join("prometheus.yaml"), configuration).unwrap();
        fs::write(folder.path().join("alerts.yaml"), alerts()).unwrap();
        let process = Command::new(programs.join("prometheus"))
            .arg(format!("--config.file={}", folder.path().join("prometheus.yaml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let server = Self { process, address, _folder: folder };
        let deadline = Instant::now() + Duration::from_secs(30);
        while std::net::TcpStream::connect(address).is_err() {
            let log = server._folder.path().join("log");
            assert!(Instant::now() < deadline, "{}", fs::read_to_string(log).unwrap());
            std::thread::sleep(Duration::from_millis(30));
        }
        server
    }

    async fn ask(&self, path: &str) -> Value {
        client::in_the_clear(self.address, Ask::get(path).at("prometheus")).await.json()
    }

    async fn query(&self, query: &str) -> Value {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        self.ask(&format!("/api/v1/query?query={encoded}")).await
    }

    async fn wait_for(&self, query: &str) {
        for _ in 0..150 {
            let answer = self.query(query).await;
            if answer["data"]["result"].as_array().is_some_and(|result| !result.is_empty()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        panic!("{query} did not come true");
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _already_gone = self.process.kill();
        let _reaped = self.process.wait();
    }
}
