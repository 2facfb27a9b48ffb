//! A real Envoy asks the resolver: what a client gets when a name is refused.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use outgate_policy::address::Cidr;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

use super::{World, world_with};

/// Stands for a public address; 127.0.0.1 is the private one.
const PUBLIC: &str = "127.0.0.2";

const CONFIGURATION: &str = r#"
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}
static_resources:
  listeners:
  - name: proxy
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: proxy
          route_config: {virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: names}}]}]}
          local_reply_config: {body_format: {text_format_source: {inline_string: "%RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%"}}}
          http_filters:
          - name: names
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.dynamic_forward_proxy.v3.FilterConfig, dns_cache_config: CACHE}
          - name: router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
  - name: names
    lb_policy: CLUSTER_PROVIDED
    cluster_type:
      name: envoy.clusters.dynamic_forward_proxy
      typed_config: {"@type": type.googleapis.com/envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig, dns_cache_config: CACHE}
"#;

const CACHE: &str = r#"
{name: names, dns_lookup_family: FAMILY, typed_dns_resolver_config: {name: envoy.network.dns_resolver.cares, typed_config: {
  "@type": type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig,
  resolvers: [{socket_address: {address: 127.0.0.1, port_value: PORT}}],
  dns_resolver_options: {no_default_search_domain: true}, query_timeout_seconds: 5, query_tries: 5}}}
"#;

/// Envoy, or `None`, and one line, where there is none.
fn executable() -> Option<PathBuf> {
    let fetched = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/envoy/envoy");
    let path = std::env::var_os("ENVOY").map_or(fetched.into(), PathBuf::from);
    if !path.exists() {
        eprintln!("skipped: there is no Envoy at `{}`; `make envoy` fetches one", path.display());
        return None;
    }
    Some(path)
}

struct Envoy {
    port: u16,
    _process: Child,
}

impl Envoy {
    async fn start(family: &str, resolver_port: u16) -> Option<Envoy> {
        let cache =
            CACHE.replace("FAMILY", family).replace("PORT", &resolver_port.to_string()).replace('\n', "");
        let process = Command::new(executable()?)
            .args(["--config-yaml", &CONFIGURATION.replace("CACHE", &cache), "--use-dynamic-base-id"])
            .args(["--concurrency", "1", "--log-level", "info", "--log-format", "%v"])
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn();
        let mut process = process.unwrap();
        let mut log = process.stderr.take().unwrap();
        // The admin address is in the log, the listener's on its page.
        let mut text = String::new();
        let admin = loop {
            let mut buffer = [0; 4096];
            let length = log.read(&mut buffer).await.unwrap();
            assert_ne!(length, 0, "{text}");
            text.push_str(&String::from_utf8_lossy(&buffer[..length]));
            let port =
                text.split_once("admin address: 127.0.0.1:").and_then(|(_, rest)| rest.split_once('\n'));
            if let Some((port, _)) = port {
                break port.trim().parse().unwrap();
            }
        };
        tokio::spawn(async move { tokio::io::copy(&mut log, &mut tokio::io::sink()).await });
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let listeners = get(admin, "admin", "/listeners").await;
            if let Some((_, port)) = listeners.split_once("proxy::127.0.0.1:") {
                return Some(Envoy {
                    port: port.split_whitespace().next().unwrap().parse().unwrap(),
                    _process: process,
                });
            }
        }
        panic!("Envoy has no listener: {text}");
    }

    async fn get(&self, host: &str) -> String {
        get(self.port, host, "/").await
    }
}

async fn get(port: u16, host: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    response
}

/// Counts connections and answers each.
async fn origin(ip: &str, port: u16, connections: Arc<AtomicUsize>) -> u16 {
    let listener = TcpListener::bind((ip, port)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            connections.fetch_add(1, Ordering::SeqCst);
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            let _ =
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
        }
    });
    port
}

async fn world() -> World {
    let many: String = (0..60).map(|_| format!("many.test. 60 A {PUBLIC}\n")).collect();
    let zone = format!(
        "public.test. 60 A {PUBLIC}\nmixed.test. 60 A {PUBLIC}\nmixed.test. 60 A 127.0.0.1\n\
         first.test. 60 A 127.0.0.1\nfirst.test. 60 A {PUBLIC}\nv6.test. 60 A {PUBLIC}\nv6.test. 60 AAAA ::1\n\
         alias.test. 60 CNAME private.test.\nprivate.test. 60 A 127.0.0.1\nzero.test. 60 A 0.0.0.0\n\
         mapped.test. 60 AAAA ::ffff:127.0.0.1\nbroken.test. code 2\n{many}"
    );
    world_with(&zone, |settings| settings.allowed = vec![Cidr::parse(&format!("{PUBLIC}/32")).unwrap()]).await
}

#[tokio::test]
async fn a_client_of_envoy_gets_an_error_at_once_and_nothing_connects() {
    for family in ["V4_PREFERRED", "ALL"] {
        let world = world().await;
        let Some(envoy) = Envoy::start(family, world.resolver.address().port()).await else { return };
        let (public, private) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let port = origin(PUBLIC, 0, public.clone()).await;
        origin("127.0.0.1", port, private.clone()).await;
        let refused = "DF dns_resolution_failure{cares_failure:DNS_server_refused_query}";
        for (name, status, details) in [
            ("public.test", "200", ""),
            // Its addresses do not fit a datagram.
            ("many.test", "200", ""),
            ("mixed.test", "503", refused),
            ("first.test", "503", refused),
            ("v6.test", "503", refused),
            ("alias.test", "503", refused),
            ("zero.test", "503", refused),
            ("mapped.test", "503", refused),
            // Without the dot Envoy would not ask.
            ("localhost.", "503", refused),
            ("nothing.test", "503", "DF dns_resolution_failure{cares_norecords:Domain_name_not_found}"),
            (
                "broken.test",
                "503",
                "DF dns_resolution_failure{cares_failure:DNS_server_returned_general_failure}",
            ),
        ] {
            let start = Instant::now();
            let response = envoy.get(&format!("{name}:{port}")).await;
            assert!(start.elapsed() < Duration::from_millis(500), "{family} {name}: {:?}", start.elapsed());
            assert!(response.starts_with(&format!("HTTP/1.1 {status} ")), "{family} {name}: {response}");
            assert!(response.ends_with(details), "{family} {name}: {response}");
        }
        assert_eq!(public.load(Ordering::SeqCst), 2, "{family}");
        assert_eq!(private.load(Ordering::SeqCst), 0, "{family}");
    }
}
