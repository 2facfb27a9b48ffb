//! What a fresh inspected name costs Envoy and cert-service, beside a known one, while names pile up.
//!
//! One operation is a CONNECT, a handshake and a request over it, with a verified handshake to the origin behind: for a
//! fresh name also its grant, its leaf, its way over ADS into Envoy, and its DNS answer. Processor time of the two
//! processes is counted; client and origin live in this one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a benchmark may fail by panicking"
)]

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use outgate_tests::certificates::{Authority, Identity};
use outgate_tests::client::{self, Ask, Tls};
use outgate_tests::name_server::NameServer;
use outgate_tests::outgate::free_address;
use outgate_tests::standalone::{self, CertService, Envoy, EnvoyOptions};
use rustls_pki_types::CertificateDer;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// Names that Envoy holds when a round is measured.
const LEVELS: [usize; 3] = [100, 1_000, 10_000];
/// Operations in a measurement, and how many of each kind; the cheapest counts.
const OPERATIONS: usize = 400;
const REPEATS: usize = 2;
/// Operations at a time.
const WIDTH: usize = 4;

const POLICY: &str = "
name: bench
tlsInspectionPolicy: default
rules:
- {name: all, enabled: true, priority: 10, basicProfile: ALLOW, sessionMatcher: \"true\", applicationMatcher: \"true\", tlsInspectionEnabled: true}
tlsInspectionPolicies:
- {name: default, caPool: main}
outgate:
  destinations: {allowPrivate: [127.0.0.0/8]}
  log: {allowances: 0}
";

#[tokio::main]
async fn main() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let socket = folder.path().join("socket");
    // Addresses that last: nobody asks for them again while the others are measured.
    let names = NameServer::start("*.bench.test. 86400 A 127.0.0.1").await;
    let dns = free_address().to_string();
    let service = CertService::start(
        &state,
        &socket,
        &[
            "--dns-listen",
            &dns,
            "--dns-upstream",
            &names.address.to_string(),
            "--allow-private",
            "127.0.0.0/8",
            "--max-leases",
            "50000",
        ],
    )
    .await;
    let origins = Authority::new("Benchmark origins");
    let roots_file = folder.path().join("origins.pem");
    fs::write(&roots_file, origins.pem()).unwrap();
    let identity = origins.server(&["*.bench.test"]);
    let (closing, keeping) = (origin(&identity, true).await, origin(&identity, false).await);
    let envoy = Envoy::start(EnvoyOptions {
        policy: POLICY,
        sockets: &[&socket],
        arguments: &["--dns", &dns, "--upstream-roots", roots_file.to_str().unwrap()],
        replace: &[],
    })
    .await;
    let bench = Arc::new(Bench { proxy: envoy.proxy, roots: standalone::roots(&state) });
    let clock = || Times { envoy: envoy.cpu(), service: standalone::cpu(service.process.id()) };

    let mut held = 0;
    let mut rows = Vec::new();
    println!("Processor time per operation, in microseconds (Envoy + cert-service).\n");
    println!(
        "| names | idle, of a core | fresh | known, new upstream connection | known, upstream reused | fresh / known |"
    );
    println!("|---|---|---|---|---|---|");
    for level in LEVELS {
        if held < level {
            bench.run((held..level).collect(), closing).await;
            held = level;
        }
        let known = level - 100.min(level)..level;
        let idle = idle(clock).await;
        let [mut fresh, mut anew, mut reused] = [[f64::MAX; 2]; 3];
        for _ in 0..REPEATS {
            fresh =
                cheapest(fresh, measure(&bench, clock, (held..held + OPERATIONS).collect(), closing).await);
            held += OPERATIONS;
            // A known name's DNS answer and certificate are there.
            let again: Vec<usize> = known.clone().cycle().take(OPERATIONS).collect();
            anew = cheapest(anew, measure(&bench, clock, again.clone(), closing).await);
            bench.run(known.clone().collect(), keeping).await;
            reused = cheapest(reused, measure(&bench, clock, again, keeping).await);
        }
        let text = |[envoy, service]: [f64; 2]| format!("{:.0} ({envoy:.0} + {service:.0})", envoy + service);
        let ratio = fresh.iter().sum::<f64>() / anew.iter().sum::<f64>();
        println!(
            "| {level} | {:.1} % + {:.1} % | {} | {} | {} | {ratio:.2} |",
            100.0 * idle[0],
            100.0 * idle[1],
            text(fresh),
            text(anew),
            text(reused)
        );
        let pair = |[envoy, service]: [f64; 2]| json!({ "envoy": envoy, "certService": service });
        rows.push(json!({
            "names": level,
            "idleShareOfACore": pair(idle),
            "fresh": pair(fresh),
            "knownNewUpstreamConnection": pair(anew),
            "knownUpstreamReused": pair(reused),
            "ratio": ratio,
        }));
    }
    let of = |row: &serde_json::Value| {
        row["fresh"]["envoy"].as_f64().unwrap() + row["fresh"]["certService"].as_f64().unwrap()
    };
    let flat = of(&rows[rows.len() - 1]) / of(&rows[0]);
    let out =
        json!({ "unit": "microseconds of processor time", "rows": rows, "freshAtMostNamesToFewest": flat });
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench");
    fs::create_dir_all(&target).unwrap();
    fs::write(target.join("leases.json"), format!("{out:#}\n")).unwrap();
    println!(
        "\nA fresh name among 10,000 costs {flat:.2} x one among 100; written to target/bench/leases.json"
    );
}

struct Bench {
    proxy: SocketAddr,
    roots: Vec<CertificateDer<'static>>,
}

#[derive(Clone, Copy)]
struct Times {
    envoy: Duration,
    service: Duration,
}

impl Bench {
    async fn run(self: &Arc<Self>, names: Vec<usize>, port: u16) {
        let (names, next) = (Arc::new(names), Arc::new(AtomicUsize::new(0)));
        let mut workers = JoinSet::new();
        for _ in 0..WIDTH {
            let (bench, names, next) = (Arc::clone(self), Arc::clone(&names), Arc::clone(&next));
            workers.spawn(async move {
                while let Some(number) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
                    bench.operation(&name(*number), port).await;
                }
            });
        }
        workers.join_all().await;
    }

    async fn operation(&self, host: &str, port: u16) {
        let authority = format!("{host}:{port}");
        let stream = client::connect(self.proxy, &authority).await.unwrap();
        let stream = Tls::new(host, self.roots.clone()).http1().handshake(stream).await.unwrap();
        let reply = client::over_tls(stream, Ask::get("/").at(&authority)).await.unwrap();
        assert_eq!(reply.status, 200, "{host}: {reply:?}");
    }
}

/// Microseconds of Envoy and of cert-service for each operation, with what they use meanwhile for the other names.
async fn measure(bench: &Arc<Bench>, clock: impl Fn() -> Times, names: Vec<usize>, port: u16) -> [f64; 2] {
    let (count, before, start) = (names.len() as f64, clock(), Instant::now());
    bench.run(names, port).await;
    let after = clock();
    assert!(start.elapsed() < Duration::from_secs(120), "the machine is too slow to measure on");
    let each = |after: Duration, before: Duration| (after - before).as_secs_f64() * 1e6 / count;
    [each(after.envoy, before.envoy), each(after.service, before.service)]
}

/// The share of a core that both use without any operation.
async fn idle(clock: impl Fn() -> Times) -> [f64; 2] {
    let (before, start) = (clock(), Instant::now());
    tokio::time::sleep(Duration::from_secs(8)).await;
    let (after, passed) = (clock(), start.elapsed().as_secs_f64());
    let share = |after: Duration, before: Duration| (after - before).as_secs_f64() / passed;
    [share(after.envoy, before.envoy), share(after.service, before.service)]
}

fn cheapest(one: [f64; 2], other: [f64; 2]) -> [f64; 2] {
    if one.iter().sum::<f64>() < other.iter().sum::<f64>() { one } else { other }
}

fn name(number: usize) -> String {
    format!("h{number}.bench.test")
}

/// An origin that answers `ok`, and closes after each answer or keeps the connection.
async fn origin(identity: &Identity, closes: bool) -> u16 {
    let mut configuration = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(identity.chain(), identity.key())
        .unwrap();
    configuration.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(configuration));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let answer = if closes {
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok"
    } else {
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
    };
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut request = Vec::new();
                while let Ok(1..) = stream.read_buf(&mut request).await {
                    if !request.ends_with(b"\r\n\r\n") {
                        continue;
                    }
                    request.clear();
                    if stream.write_all(answer.as_bytes()).await.is_err() || closes {
                        break;
                    }
                }
                let _client_gone = stream.shutdown().await;
            });
        }
    });
    port
}
