//! `outgate-bench-path`: what the whole way through the proxy costs Envoy, beside the same Envoy without Outgate.
//!
//! CONNECT, TLS and requests go through `outgate run` and, slice by slice in turn, through the floor: the same rendered
//! configuration without our filters and with one certificate for all names (`outgate_bench::floor`).

#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a benchmark says that something is wrong by panicking"
)]

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use outgate_bench::floor::{self, Header};
use outgate_bench::origin::{self, After};
use outgate_bench::statistics::Estimate;
use outgate_bench::worker::{Envoy, process_time, target};
use outgate_bench::{exchange, names};
use outgate_tests::certificates::Authority;
use outgate_tests::client::{self, Tls};
use outgate_tests::outgate::{Options, Outgate, free_address};
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;

/// How long a slice of requests over open connections lasts.
const SLICE: Duration = Duration::from_millis(150);
/// Connections that are kept alive.
const CONNECTIONS: usize = 8;
/// New connections in a slice, and at a time.
const OPENED: usize = 48;
const WIDTH: usize = 4;
/// Names that are known when known names are measured.
const KNOWN: u64 = 100;
/// The rendered configuration's clusters of the dynamic forward proxy.
const SHARDS: u64 = 64;

const POLICY: &str = "
name: bench
tlsInspectionPolicy: default
rules:
- {name: tunnel, enabled: true, priority: 10, basicProfile: ALLOW, sessionMatcher: \"host().endsWith('.tunnel.test')\"}
- {name: plain, enabled: true, priority: 20, basicProfile: ALLOW, sessionMatcher: \"host().endsWith('.plain.test')\"}
- {name: inspect, enabled: true, priority: 30, basicProfile: ALLOW, sessionMatcher: \"host().endsWith('.inspect.test')\", applicationMatcher: \"request.method == 'GET'\", tlsInspectionEnabled: true}
tlsInspectionPolicies:
- {name: default, caPool: main}
outgate:
  destinations: {allowPrivate: [127.0.0.0/8]}
  log: {allowances: 0}
";

/// What the whole way through the proxy costs Envoy.
#[derive(Parser)]
#[command(name = "outgate-bench-path")]
struct Arguments {
    /// Fewer slices, and 1,000 fresh names instead of 10,000
    #[arg(long)]
    quick: bool,
    /// How often each slice is repeated
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// Leave fresh names out
    #[arg(long)]
    no_fresh: bool,
}

#[tokio::main]
async fn main() {
    let arguments = Arguments::parse();
    let rounds = arguments.rounds.unwrap_or(if arguments.quick { 6 } else { 25 });
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("Benchmark");
    let roots = folder.path().join("roots.pem");
    fs::write(&roots, authority.pem()).unwrap();
    let identity = authority.server(&["*.inspect.test", "*.tunnel.test"]);
    let origins = Origins {
        keeping: origin::start(Some(&identity), After::Keep).await,
        closing: origin::start(Some(&identity), After::Close).await,
        plain: origin::start(None, After::Keep).await,
    };
    let state = folder.path().join("state");
    let dns = names::start().to_string();
    let arguments_of_run = ["--dns", &dns, "--max-leases", "50000", "--upstream-ca", roots.to_str().unwrap()];
    let outgate = Outgate::start(POLICY, Options::default().state(&state).with(&arguments_of_run));
    let (envoy, _) = outgate.children().into_iter().find(|(_, name)| name == "envoy").unwrap();

    let rendered = serde_json::from_slice(&fs::read(state.join("run/envoy.json")).unwrap()).unwrap();
    let [listen, admin] = std::array::from_fn(|_| free_address());
    let bare = floor::configuration(&rendered, listen, admin, &identity);
    let below = Envoy::start(&bare, admin, folder.path()).await;

    // What is not read shows the origin's certificate.
    let trusted = Arc::new([outgate.roots(), vec![authority.der()]].concat());
    let mut sides = [
        Side::new("outgate", outgate.proxy, envoy, &trusted, origins, false),
        Side::new("floor", listen, below.pid(), &trusted, origins, true),
    ];
    sides[0].verify().await;
    let mut rows = Vec::new();
    println!(
        "Processor time of Envoy, in microseconds for a request or a connection: median (95 % interval).\n"
    );
    println!("| path | names | outgate | floor | outgate / floor | goal |");
    println!("|---|---|---|---|---|---|");
    for path in Kind::ALL {
        rows.extend(compare(&mut sides, path, rounds).await);
    }
    if !arguments.no_fresh {
        let most = if arguments.quick { 1_000 } else { 10_000 };
        rows.extend(fresh(&mut sides, most).await);
    }
    write(&rows, rounds);
}

/// A way through the proxy.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    InspectedKeepalive,
    InspectedNew,
    TunnelNew,
    TunnelKeepalive,
    PlainKeepalive,
}

impl Kind {
    const ALL: [Self; 5] = [
        Self::InspectedKeepalive,
        Self::InspectedNew,
        Self::TunnelNew,
        Self::TunnelKeepalive,
        Self::PlainKeepalive,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::InspectedKeepalive => "inspected_keepalive",
            Self::InspectedNew => "inspected_new",
            Self::TunnelNew => "tunnel_new",
            Self::TunnelKeepalive => "tunnel_keepalive",
            Self::PlainKeepalive => "plain_keepalive",
        }
    }

    /// The most that it may cost beside the floor.
    fn goal(self) -> Option<f64> {
        match self {
            Self::InspectedKeepalive | Self::PlainKeepalive => Some(1.15),
            Self::InspectedNew | Self::TunnelNew => Some(1.2),
            Self::TunnelKeepalive => None,
        }
    }
}

/// Ports of the origins.
#[derive(Clone, Copy)]
struct Origins {
    keeping: u16,
    closing: u16,
    plain: u16,
}

/// A row of `path.json`.
struct Row {
    scenario: &'static str,
    path: &'static str,
    names: u64,
    cpu: Estimate,
}

/// One of the two Envoys, and connections to it.
struct Side {
    name: &'static str,
    envoy: u32,
    client: Client,
    /// Kept-alive connections, by path.
    open: Vec<(Kind, Vec<Open>)>,
}

/// A connection over which requests can be sent.
struct Open {
    stream: Box<dyn Stream>,
    request: Vec<u8>,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// How a side is asked.
#[derive(Clone)]
struct Client {
    proxy: SocketAddr,
    roots: Arc<Vec<CertificateDer<'static>>>,
    origins: Origins,
    /// Whether it sends what the filter would add.
    routes: bool,
    sessions: Arc<AtomicU64>,
}

impl Side {
    fn new(
        name: &'static str,
        proxy: SocketAddr,
        envoy: u32,
        roots: &Arc<Vec<CertificateDer<'static>>>,
        origins: Origins,
        routes: bool,
    ) -> Self {
        let client = Client { proxy, roots: Arc::clone(roots), origins, routes, sessions: Arc::default() };
        Self { name, envoy, client, open: Vec::new() }
    }

    /// That what does not fit is refused, with real requests: these checks are on while the rest is measured.
    async fn verify(&self) {
        let refused = |expected: u16| {
            move |reply: Result<_, client::Reply>| reply.is_err_and(|reply| reply.status == expected)
        };
        let proxy = self.client.proxy;
        assert!(refused(403)(client::connect(proxy, "else.where.test:443").await), "an unknown host");
        assert!(refused(403)(client::connect(proxy, "127.0.0.1:1").await), "an address that no rule names");
        let mut open = self.client.inspected("n0.inspect.test", self.client.origins.keeping).await;
        open.request = b"GET / HTTP/1.1\r\nHost: other.inspect.test\r\n\r\n".to_vec();
        assert_eq!(open.ask().await, 421, "a host that is not the session's");
        let mut open = self.client.inspected("n0.inspect.test", self.client.origins.keeping).await;
        open.request.splice(..3, *b"POST");
        assert_eq!(open.ask().await, 403, "a method that no rule allows");
        let mut open = self.client.plain("n0.else.test").await;
        assert_eq!(open.ask().await, 403, "a request in the clear to an unknown host");
    }

    /// Microseconds of Envoy for each request or connection.
    async fn slice(&mut self, path: Kind) -> f64 {
        match path {
            Kind::InspectedNew | Kind::TunnelNew => {
                self.opened((0..KNOWN).cycle().take(OPENED).collect(), path).await
            }
            Kind::InspectedKeepalive | Kind::TunnelKeepalive | Kind::PlainKeepalive => self.kept(path).await,
        }
    }

    /// Requests over connections that are open.
    async fn kept(&mut self, path: Kind) -> f64 {
        let mut connections = match self.open.iter().position(|(open, _)| *open == path) {
            Some(index) => self.open.swap_remove(index).1,
            None => {
                let mut connections = Vec::new();
                for number in 0..CONNECTIONS as u64 {
                    connections.push(self.client.open(path, number).await);
                }
                connections
            }
        };
        for open in &mut connections {
            assert_eq!(open.ask().await, 200);
        }
        let before = process_time(self.envoy);
        let deadline = Instant::now() + SLICE;
        let mut workers = JoinSet::new();
        for mut open in connections {
            workers.spawn(async move {
                let mut count = 0;
                while Instant::now() < deadline {
                    assert_eq!(open.ask().await, 200);
                    count += 1;
                }
                (open, count)
            });
        }
        let (connections, counts): (Vec<Open>, Vec<u64>) = workers.join_all().await.into_iter().unzip();
        let cost = microseconds(before, process_time(self.envoy), counts.iter().sum());
        self.open.push((path, connections));
        cost
    }

    /// New connections, each with a request and its end.
    async fn opened(&self, names: Vec<u64>, path: Kind) -> f64 {
        let count = names.len() as u64;
        let before = process_time(self.envoy);
        let (names, next) = (Arc::new(names), Arc::new(AtomicU64::new(0)));
        let mut workers = JoinSet::new();
        for _ in 0..WIDTH {
            let (client, names, next) = (self.client.clone(), Arc::clone(&names), Arc::clone(&next));
            workers.spawn(async move {
                while let Some(&name) = names.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                    assert_eq!(client.open(path, name).await.ask().await, 200);
                }
            });
        }
        workers.join_all().await;
        // Envoy closes its ends.
        tokio::time::sleep(Duration::from_millis(20)).await;
        microseconds(before, process_time(self.envoy), count)
    }
}

impl Client {
    async fn open(&self, path: Kind, number: u64) -> Open {
        let name = |kind: &str| format!("n{number}.{kind}.test");
        match path {
            Kind::InspectedKeepalive => self.inspected(&name("inspect"), self.origins.keeping).await,
            Kind::InspectedNew => self.inspected(&name("inspect"), self.origins.closing).await,
            Kind::TunnelKeepalive => self.tunnel(&name("tunnel"), self.origins.keeping).await,
            Kind::TunnelNew => self.tunnel(&name("tunnel"), self.origins.closing).await,
            Kind::PlainKeepalive => self.plain(&name("plain")).await,
        }
    }

    async fn inspected(&self, host: &str, port: u16) -> Open {
        let session = self.sessions.fetch_add(1, Ordering::Relaxed);
        let connect = self.route(|| floor::inspected_session(session, host, port));
        let headers = self.route(|| floor::inspected_request(format!("{}-tls", shard(host))));
        self.over_tls(host, port, &connect, &headers).await
    }

    async fn tunnel(&self, host: &str, port: u16) -> Open {
        let connect = self.route(|| floor::destination(shard(host), host, port));
        self.over_tls(host, port, &connect, &[]).await
    }

    async fn over_tls(&self, host: &str, port: u16, connect: &[Header], headers: &[Header]) -> Open {
        let authority = format!("{host}:{port}");
        let connect: Vec<(&str, &str)> =
            connect.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let stream = client::connect_with(self.proxy, &authority, &connect).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let stream = Tls::new(host, self.roots.to_vec()).http1().handshake(stream).await.unwrap();
        Open { stream: Box::new(stream), request: exchange::request("/v1/item", &authority, headers) }
    }

    async fn plain(&self, host: &str) -> Open {
        let port = self.origins.plain;
        let stream = tokio::net::TcpStream::connect(self.proxy).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let headers = self.route(|| floor::destination(shard(host), host, port));
        let authority = format!("{host}:{port}");
        let request = exchange::request(&format!("http://{authority}/v1/item"), &authority, &headers);
        Open { stream: Box::new(stream), request }
    }

    fn route(&self, headers: impl Fn() -> Vec<Header>) -> Vec<Header> {
        if self.routes { headers() } else { Vec::new() }
    }
}

impl Open {
    /// Asks and reads the answer; its status.
    async fn ask(&mut self) -> u16 {
        exchange::ask(&mut self.stream, &self.request).await
    }
}

/// Slices of both sides in turn: each of ours between two of the floor.
async fn compare(sides: &mut [Side; 2], path: Kind, rounds: usize) -> Vec<Row> {
    let [outgate, floor] = sides;
    // What is measured is known by then.
    let known: Vec<u64> = (0..KNOWN).collect();
    if matches!(path, Kind::InspectedNew | Kind::TunnelNew) {
        outgate.opened(known.clone(), path).await;
        floor.opened(known, path).await;
    }
    outgate.slice(path).await;
    let mut before = floor.slice(path).await;
    let (mut ours, mut theirs, mut ratios) = (Vec::new(), vec![before], Vec::new());
    for _ in 0..rounds {
        let own = outgate.slice(path).await;
        let after = floor.slice(path).await;
        ratios.push(own / f64::midpoint(before, after));
        ours.push(own);
        theirs.push(after);
        before = after;
    }
    let (ours, theirs, ratio) = (Estimate::of(ours), Estimate::of(theirs), Estimate::of(ratios));
    println!(
        "| {} | {KNOWN} | {} | {} | {:.2} ({:.2}–{:.2}) | {} |",
        path.name(),
        text(ours),
        text(theirs),
        ratio.median,
        ratio.low,
        ratio.high,
        path.goal().map_or("–".to_owned(), |goal| verdict(ratio.median, goal)),
    );
    sides
        .iter()
        .zip([ours, theirs])
        .map(|(side, cpu)| Row { scenario: side.name, path: path.name(), names: KNOWN, cpu })
        .collect()
}

/// Names that nobody asked for before, at the 500th and at the last; each slice beside one that no name changes.
async fn fresh(sides: &mut [Side; 2], most: u64) -> Vec<Row> {
    const SLICES: u64 = 8;
    const NAMES: u64 = 25;
    let path = "inspected_fresh";
    let mut rows = Vec::new();
    let mut relative = Vec::new();
    for level in [500, most] {
        let mut found: [(Vec<f64>, Vec<f64>); 2] = Default::default();
        for (side, found) in sides.iter_mut().zip(&mut found) {
            let first = level - SLICES * NAMES / 2;
            let held = if level == 500 { KNOWN } else { 500 + SLICES * NAMES / 2 };
            side.opened((held..first).collect(), Kind::InspectedNew).await;
            for slice in 0..SLICES {
                let start = first + slice * NAMES;
                let steady = side.slice(Kind::PlainKeepalive).await;
                let cost = side.opened((start..start + NAMES).collect(), Kind::InspectedNew).await;
                let after = side.slice(Kind::PlainKeepalive).await;
                found.0.push(cost);
                found.1.push(cost / f64::midpoint(steady, after));
            }
        }
        let [ours, theirs] = found.map(|(costs, relative)| (Estimate::of(costs), Estimate::of(relative)));
        println!(
            "| {path} | {level} | {} | {} | {:.2} | – |",
            text(ours.0),
            text(theirs.0),
            ours.0.median / theirs.0.median
        );
        relative.push(ours.1.median);
        for (side, cpu) in sides.iter().zip([ours.0, theirs.0]) {
            rows.push(Row { scenario: side.name, path, names: level, cpu });
        }
    }
    let growth = relative[1] / relative[0];
    println!(
        "\nA fresh name at the {most}th costs {growth:.2} x one at the 500th, each beside a plain request: {}.",
        verdict(growth, 1.3)
    );
    rows
}

fn verdict(found: f64, goal: f64) -> String {
    format!("{} (<= {goal})", if found <= goal { "met" } else { "MISSED" })
}

fn write(rows: &[Row], rounds: usize) {
    let round = |value: f64| (value * 10.0).round() / 10.0;
    let rows: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!({
                "scenario": row.scenario,
                "path": row.path,
                "names": row.names,
                "cpu_us": round(row.cpu.median),
                "cpu_us_low": round(row.cpu.low),
                "cpu_us_high": round(row.cpu.high),
            })
        })
        .collect();
    let out = json!({"envoy": "1.40.0", "rounds": rounds, "rows": rows});
    let file = target().join("bench/path.json");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, format!("{out:#}\n")).unwrap();
    println!("\nWritten to {}", file.display());
}

fn text(estimate: Estimate) -> String {
    format!("{:.0} ({:.0}–{:.0})", estimate.median, estimate.low, estimate.high)
}

fn microseconds(before: u64, after: u64, count: u64) -> f64 {
    (after - before) as f64 / 1_000.0 / count as f64
}

/// A cluster of the dynamic forward proxy.
fn shard(host: &str) -> String {
    let number: u64 = host.bytes().map(u64::from).sum();
    format!("shard-{}", number % SHARDS)
}
