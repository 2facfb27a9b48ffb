//! Certificates on a real Envoy over time: more names than fit, other CAs, orders, restarts, a service that is slow.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cert_service::ca::Ca;
use cert_service::leases::CaId;
use cert_service::server::Server;
use cert_service::service::Service;
use clap::Parser as _;
use outgate_tests::client::{self, Tls};
use outgate_tests::outgate::{Options, free_address};
use outgate_tests::standalone::{self, CertService, Envoy, EnvoyOptions};
use rustix::process::Signal;
use rustls_pki_types::CertificateDer;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::task::JoinSet;

use crate::setting::{INSPECT_ALL, Setting, assert_refused, is_ours, issuer};

/// A CONNECT and a handshake: the certificate that the client saw.
async fn handshake(
    proxy: std::net::SocketAddr,
    host: &str,
    roots: &[CertificateDer<'static>],
) -> Result<CertificateDer<'static>, String> {
    let stream = client::connect(proxy, &format!("{host}:443"))
        .await
        .map_err(|reply| format!("CONNECT {host}: {} {}", reply.status, reply.body))?;
    let stream =
        Tls::new(host, roots.to_vec()).handshake(stream).await.map_err(|error| format!("{host}: {error}"))?;
    Ok(client::peer(&stream))
}

/// Handshakes with all these names, `width` at a time; returns what went wrong.
pub async fn handshakes(
    proxy: std::net::SocketAddr,
    names: Vec<String>,
    roots: &[CertificateDer<'static>],
    width: usize,
) -> Vec<String> {
    let names = Arc::new(names);
    let next = Arc::new(AtomicUsize::new(0));
    let mut workers = JoinSet::new();
    for _ in 0..width {
        let (names, next, roots) = (Arc::clone(&names), Arc::clone(&next), roots.to_vec());
        workers.spawn(async move {
            let mut failures = Vec::new();
            while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
                failures.extend(handshake(proxy, name, &roots).await.err());
            }
            failures
        });
    }
    workers.join_all().await.concat()
}

pub fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{prefix}{number}.site.test")).collect()
}

/// Posts to cert-service's socket and returns the answer.
async fn post(socket: &Path, path: &str, body: &str) -> String {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: cert-service\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// What Envoy has allocated once it has shown its statistics and flushed them (every five seconds), for which it allocates
/// some megabytes the first time.
async fn memory(admin: std::net::SocketAddr) -> u64 {
    standalone::stat(admin, "server.memory_allocated").await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    standalone::stat(admin, "server.memory_allocated").await
}

fn socket_of(setting: &Setting) -> std::path::PathBuf {
    setting.outgate.ca_file().with_file_name("run").join("cert-service.sock")
}

#[tokio::test(flavor = "multi_thread")]
async fn more_names_than_fit_leave_envoy_as_large_as_it_was_at_the_cap() {
    let setting = Setting::with_options(INSPECT_ALL, Options::default().with(&["--max-leases", "200"])).await;
    let (proxy, admin, roots) = (setting.proxy(), setting.outgate.admin, setting.outgate.roots());
    let none = Vec::<String>::new();
    assert_eq!(handshakes(proxy, names("first", 400), &roots, 8).await, none);
    let at_the_cap = memory(admin).await;
    // Past the 1,024th name, where streams of their own would hang.
    assert_eq!(handshakes(proxy, names("later", 1200), &roots, 8).await, none);
    let after = memory(admin).await;
    let active = standalone::stat(admin, "on_demand_secret.cert_active").await;
    assert!((190..=210).contains(&active), "{active}");
    assert!(after < at_the_cap + at_the_cap / 5, "{at_the_cap} bytes at the cap, {after} after");
    assert_eq!(standalone::metric(setting.outgate.cert_http, "cert_service_live_leases").await, 200.0);
    // The name that went first is minted again: its lease ended, its grant did not.
    assert_eq!(handshakes(proxy, names("first", 1), &roots, 1).await, none);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes half a minute: `make test-leases-long`"]
async fn five_thousand_names_with_a_cap_of_five_hundred() {
    let setting = Setting::with_options(INSPECT_ALL, Options::default().with(&["--max-leases", "500"])).await;
    let (proxy, admin, roots) = (setting.proxy(), setting.outgate.admin, setting.outgate.roots());
    let none = Vec::<String>::new();
    assert_eq!(handshakes(proxy, names("first", 500), &roots, 8).await, none);
    let at_the_cap = memory(admin).await;
    assert_eq!(handshakes(proxy, names("later", 4500), &roots, 8).await, none);
    let after = memory(admin).await;
    let active = standalone::stat(admin, "on_demand_secret.cert_active").await;
    eprintln!("{at_the_cap} bytes at the cap, {after} after 4,500 more names, {active} certificates");
    assert!((490..=510).contains(&active), "{active}");
    assert!(after < at_the_cap + at_the_cap / 5, "{at_the_cap} bytes at the cap, {after} after");
}

/// A cert-service in this process, whose CA a test can change, and an Envoy before it.
struct Inside {
    service: Arc<Service>,
    envoy: Envoy,
    _served: tokio::task::JoinHandle<()>,
    _folder: TempDir,
}

impl Inside {
    async fn start() -> Self {
        Self::with(&[]).await
    }

    async fn with(replace: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (state, socket) = (folder.path().join("state"), folder.path().join("socket"));
        let http = free_address().to_string();
        let options = cert_service::options::Options::parse_from([
            "cert-service",
            "--http",
            &http,
            "--state",
            state.to_str().unwrap(),
            "--socket",
            socket.to_str().unwrap(),
        ]);
        let server = Server::start(&options, std::io::sink()).await.unwrap();
        let service = Arc::clone(server.service());
        let served = tokio::spawn(server.serve(std::future::pending()));
        let envoy = Envoy::start(EnvoyOptions {
            policy: INSPECT_ALL,
            sockets: &[&socket],
            arguments: &["--resolve", "*:443:127.0.0.1:9"],
            replace,
        })
        .await;
        Self { service, envoy, _served: served, _folder: folder }
    }

    /// A development CA that is not the one in force.
    fn another_ca(&self, name: &str) -> Ca {
        Ca::development(&self._folder.path().join(name), time::OffsetDateTime::now_utc()).unwrap()
    }
}

fn root_of(ca: &Ca) -> CertificateDer<'static> {
    CertificateDer::from(ca.trust_der().to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn another_ca_takes_over_under_load_and_no_handshake_fails() {
    let inside = Inside::start().await;
    let proxy = inside.envoy.proxy;
    let new = inside.another_ca("new");
    let (old, new_id) = (inside.service.ca().unwrap(), CaId::new(new.id()));
    let roots = [root_of(&old), root_of(&new)];
    let hosts = names("h", 1000);
    assert_eq!(handshakes(proxy, hosts.clone(), &roots, 8).await, Vec::<String>::new());

    // Clients that trust both come all the while, to a tenth of the names.
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for client in 0..3 {
        let (stop, roots, hosts) = (Arc::clone(&stop), roots.to_vec(), hosts.clone());
        clients.spawn(async move {
            let mut count = 0;
            for host in hosts.iter().cycle().skip(client * 300).step_by(10) {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                handshake(proxy, host, &roots).await.unwrap_or_else(|error| panic!("{error}"));
                count += 1;
            }
            count
        });
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let start = Instant::now();
    let done = inside.service.set_ca(new);
    assert_eq!((done.replaced, done.withdrawn), (1000, 0));
    let of_old = || *inside.service.leases().live_by_ca().get(&CaId::new(old.id())).unwrap();
    while of_old() > 0 {
        assert!(start.elapsed() < Duration::from_secs(20), "{} leases of the old CA", of_old());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let pushed = start.elapsed();
    // What Envoy was sent it has in use a moment later: the last one pushed is the oldest name.
    let only_new = &roots[1..];
    while handshake(proxy, &hosts[0], only_new).await.is_err() {
        assert!(start.elapsed() < Duration::from_secs(20), "clients still see the old CA");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    eprintln!("1,000 leaves: pushed after {pushed:?}, the oldest in use after {:?}", start.elapsed());
    assert_eq!(handshakes(proxy, hosts[..100].to_vec(), only_new, 4).await, Vec::<String>::new());
    stop.store(true, Ordering::Relaxed);
    let count: usize = clients.join_all().await.into_iter().sum();
    assert!(count > 20, "there was a load of {count} handshakes");
    assert_eq!(inside.service.leases().live_by_ca().get(&new_id), Some(&1000));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_ads_each_name_has_a_stream_and_another_ca_takes_over_too() {
    for kind in ["DELTA_GRPC", "GRPC"] {
        let source = format!(
            "{{resource_api_version: V3, api_config_source: {{api_type: {kind}, transport_api_version: V3, grpc_services: [{{envoy_grpc: {{cluster_name: cert-service}}}}]}}}}"
        );
        let inside = Inside::with(&[("{resource_api_version: V3, ads: {}}", &source)]).await;
        let proxy = inside.envoy.proxy;
        let new = inside.another_ca("new");
        let (old, only_new) = (inside.service.ca().unwrap(), [root_of(&new)]);
        let hosts = names("h", 50);
        assert_eq!(
            handshakes(proxy, hosts.clone(), &[root_of(&old)], 8).await,
            Vec::<String>::new(),
            "{kind}"
        );
        let metrics = inside.service.metrics();
        assert!(metrics.streams_opened.get() - metrics.streams_closed.get() >= 50, "{kind}");
        inside.service.set_ca(new);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(handshakes(proxy, hosts, &only_new, 8).await, Vec::<String>::new(), "{kind}");
        assert_eq!(metrics.nacks.get(), 0, "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_ca_is_gone_within_a_second_and_names_come_back_with_the_other() {
    let inside = Inside::start().await;
    let proxy = inside.envoy.proxy;
    let new = inside.another_ca("new");
    let (old, only_new) = (inside.service.ca().unwrap(), [root_of(&new)]);
    let hosts = names("h", 1000);
    assert_eq!(handshakes(proxy, hosts.clone(), &[root_of(&old)], 8).await, Vec::<String>::new());
    let old_id = CaId::new(old.id());
    inside.service.set_ca(new);
    inside.service.remove_ca(&old_id);
    assert_eq!(inside.service.leases().live_by_ca().get(&old_id), Some(&0));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(handshakes(proxy, hosts, &only_new, 8).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_the_new_policy_tunnels_loses_its_certificate_and_no_other_does() {
    let policy = |unread: &str| {
        format!(
            "
name: {unread}
tlsInspectionPolicy: default
rules:
- {{name: unread, enabled: true, priority: 5, basicProfile: ALLOW, sessionMatcher: \"host() == '{unread}.site.test'\"}}
- {{name: all, enabled: true, priority: 10, basicProfile: ALLOW, sessionMatcher: \"true\", applicationMatcher: \"true\", tlsInspectionEnabled: true}}
tlsInspectionPolicies:
- {{name: default, caPool: main}}
"
        )
    };
    let mut setting = Setting::with(&policy("first")).await;
    for host in ["kept.site.test", "second.site.test"] {
        assert!(is_ours(&setting.https(host, "/").await.1));
    }
    assert!(!is_ours(&setting.https("first.site.test", "/").await.1));
    setting.outgate.swap_policy(&policy("second"));
    assert!(!is_ours(&setting.https("second.site.test", "/").await.1), "now it is tunnelled");
    let withdrawn = "cert_service_leases_withdrawn_total{reason=\"policy\"}";
    for _ in 0..100 {
        if standalone::metric(setting.outgate.cert_http, withdrawn).await > 0.0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(standalone::metric(setting.outgate.cert_http, withdrawn).await, 1.0);
    assert_eq!(standalone::metric(setting.outgate.cert_http, "cert_service_live_leases").await, 1.0);
    assert!(is_ours(&setting.https("kept.site.test", "/").await.1));
    assert!(is_ours(&setting.https("first.site.test", "/").await.1), "now it is inspected");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_switch_leaves_no_certificate_in_use_until_it_is_turned_back() {
    let setting = Setting::with(INSPECT_ALL).await;
    let (proxy, roots) = (setting.proxy(), setting.outgate.roots());
    let hosts = names("h", 50);
    assert_eq!(handshakes(proxy, hosts.clone(), &roots, 8).await, Vec::<String>::new());
    let answer = post(&socket_of(&setting), "/v1/stop", r#"{"stopped":true}"#).await;
    assert!(answer.contains("\"withdrawn\":50"), "{answer}");
    // The filters know within a second or two; until then the handshake fails, from then on the CONNECT says why.
    assert!(handshakes(proxy, hosts.clone(), &roots, 8).await.len() == 50, "not one handshake");
    tokio::time::sleep(Duration::from_secs(2)).await;
    let reply = client::connect(proxy, "h1.site.test:443").await.unwrap_err();
    assert_refused(&reply, 503, "no_grant");
    assert_eq!(standalone::stat(setting.outgate.admin, "on_demand_secret.cert_active").await, 0);
    post(&socket_of(&setting), "/v1/stop", r#"{"stopped":false}"#).await;
    assert_eq!(handshakes(proxy, hosts, &roots, 8).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_a_thousand_names_go_on_also_those_that_envoy_had_to_give_back() {
    let mut setting =
        Setting::with_options(INSPECT_ALL, Options::default().with(&["--max-leases", "900"])).await;
    let (proxy, roots) = (setting.proxy(), setting.outgate.roots());
    let hosts = names("h", 1000);
    assert_eq!(handshakes(proxy, hosts.clone(), &roots, 8).await, Vec::<String>::new());
    // Killed three times it is down for seven seconds: Envoy's next attempt would be far away if its back-off grew.
    for times in 1..=3 {
        setting.outgate.signal_child("cert-service", Signal::KILL);
        // Names that Envoy holds need no cert-service.
        assert_eq!(handshakes(proxy, hosts[900..].to_vec(), &roots, 8).await, Vec::<String>::new());
        setting.outgate.wait_for_times("cert-service started again", times, Duration::from_secs(10));
        while client::get_status(setting.outgate.cert_http, "/readyz").await != Some(200) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    // Two seconds after it is back nothing fails any more.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let kept = standalone::metric(setting.outgate.cert_http, "cert_service_leases_kept_total").await;
    assert_eq!(kept, 900.0);
    assert_eq!(handshakes(proxy, hosts, &roots, 8).await, Vec::<String>::new());
    let denied = "cert_service_denials_total{reason=\"not_granted\"}";
    assert_eq!(standalone::metric(setting.outgate.cert_http, denied).await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_cert_service_fails_a_handshake_in_two_seconds_and_a_slow_one_does_not() {
    let setting = Setting::with_options(INSPECT_ALL, Options::default().with(&["--max-leases", "1"])).await;
    let (proxy, roots) = (setting.proxy(), setting.outgate.roots());
    // Granted, and given back: Envoy has to ask for it.
    assert_eq!(handshakes(proxy, names("h", 2), &roots, 1).await, Vec::<String>::new());
    setting.outgate.signal_child("cert-service", Signal::STOP);
    let start = Instant::now();
    let failure = handshake(proxy, "h0.site.test", &roots).await.unwrap_err();
    let took = start.elapsed();
    assert!((Duration::from_millis(1800)..Duration::from_secs(5)).contains(&took), "{took:?} {failure}");
    let line = setting.outgate.line(|line| line["event"]["reason"] == "timeout").await;
    assert_eq!(line["tls"]["client"]["server_name"], "h0.site.test", "{line}");

    let slow = tokio::spawn({
        let roots = roots.clone();
        async move { handshake(proxy, "h0.site.test", &roots).await }
    });
    tokio::time::sleep(Duration::from_millis(800)).await;
    setting.outgate.signal_child("cert-service", Signal::CONT);
    assert!(is_ours(&issuer(&slow.await.unwrap().unwrap())));
}

/// Two cert-services that share the CA and the policy.
struct Replicas {
    folder: TempDir,
    both: [CertService; 2],
}

impl Replicas {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (state, policy) = (folder.path().join("state"), folder.path().join("policy.yaml"));
        std::fs::write(&policy, INSPECT_ALL).unwrap();
        let arguments = ["--allowlist", policy.to_str().unwrap()];
        let first = CertService::start(&state, &folder.path().join("one"), &arguments).await;
        let second = CertService::start(&state, &folder.path().join("two"), &arguments).await;
        Self { folder, both: [first, second] }
    }

    /// An Envoy whose cluster lists both.
    async fn envoy(&self) -> Envoy {
        let sockets = ["one", "two"].map(|name| self.folder.path().join(name));
        Envoy::start(EnvoyOptions {
            policy: INSPECT_ALL,
            sockets: &[&sockets[0], &sockets[1]],
            arguments: &["--resolve", "*:443:127.0.0.1:9"],
            replace: &[],
        })
        .await
    }

    fn roots(&self) -> Vec<CertificateDer<'static>> {
        standalone::roots(&self.folder.path().join("state"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_replicas_dies_under_load_and_no_handshake_is_lost() {
    let replicas = Replicas::start().await;
    let (envoy, roots) = (replicas.envoy().await, replicas.roots());
    let proxy = envoy.proxy;
    assert_eq!(handshakes(proxy, names("known", 100), &roots, 8).await, Vec::<String>::new());
    let [mut serving, mut other] = replicas.both;
    if standalone::metric(serving.http, "cert_service_streams").await == 0.0 {
        std::mem::swap(&mut serving, &mut other);
    }
    let load = tokio::spawn(async move {
        let hosts: Vec<String> = names("fresh", 1500)
            .into_iter()
            .zip(names("known", 100).into_iter().cycle())
            .flat_map(|(fresh, known)| [fresh, known])
            .collect();
        handshakes(proxy, hosts, &roots, 4).await
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!load.is_finished());
    serving.kill();
    assert_eq!(load.await.unwrap(), Vec::<String>::new());
    // What the first one had handed out proved itself to the second one.
    assert!(standalone::metric(other.http, "cert_service_leases_kept_total").await > 100.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn grants_that_a_replica_had_begun_when_it_died_are_given_by_the_other() {
    let replicas = Replicas::start().await;
    // Neither answers, so the filter does not know yet that grants do not count here: it asks both for some.
    for replica in &replicas.both {
        replica.signal(Signal::STOP);
    }
    let (envoy, roots) = (replicas.envoy().await, replicas.roots());
    let proxy = envoy.proxy;
    let load = tokio::spawn(async move { handshakes(proxy, names("h", 8), &roots, 8).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!load.is_finished());
    let [dies, lives] = replicas.both;
    dies.kill();
    lives.signal(Signal::CONT);
    assert_eq!(load.await.unwrap(), Vec::<String>::new());
}
