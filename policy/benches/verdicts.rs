//! What verdicts and compilation cost natively: `make bench-engine`. Policies of N rules that name a host and a
//! path each, asked so that the first, the last or no rule matches.
#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a benchmark stops at the first surprise")]
#![allow(missing_docs, reason = "what criterion's macros write has none")]

use std::hint::black_box;
use std::net::SocketAddr;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use outgate_policy::{
    Destination, Engine, Headers, Identity, Known, Request, RequestPath, RequestStage, Scheme, Session,
};
use serde_json::{Value, json};

const SIZES: [usize; 4] = [10, 100, 1_000, 10_000];

/// What rules ask for.
#[derive(Clone, Copy)]
enum Fields {
    Host,
    HostAndPath,
    SourceAddress,
    /// Nothing that could be indexed.
    Pattern,
}

impl Fields {
    const ALL: [(&'static str, Self); 4] = [
        ("host", Self::Host),
        ("host_and_path", Self::HostAndPath),
        ("source_address", Self::SourceAddress),
        ("pattern", Self::Pattern),
    ];

    fn rule(self, number: usize) -> Value {
        let (high, low) = (number / 256, number % 256);
        let mut rule = json!({
            "name": format!("r{number}"), "priority": number, "basicProfile": "ALLOW",
            "sessionMatcher": match self {
                Self::Host | Self::HostAndPath => format!("host() == 'h{number}.example'"),
                Self::SourceAddress => format!("inIpRange(source.ip, '10.{high}.{low}.0/24')"),
                Self::Pattern => format!("host().matches('^h{number}[.]ex.mple$')"),
            },
        });
        if matches!(self, Self::HostAndPath) {
            rule["applicationMatcher"] = format!("request.path.startsWith('/p{number}')").into();
        }
        rule
    }

    fn policy(self, size: usize) -> Value {
        json!({"name": "bench", "rules": (0..size).map(|number| self.rule(number)).collect::<Vec<_>>()})
    }
}

/// A client, and what it wants.
struct World {
    identity: Identity,
    circumstances: Known,
    destination: Destination,
    path: RequestPath,
    headers: Headers,
}

impl World {
    /// In which the rule of this number matches.
    fn matching(number: usize) -> Self {
        let destination = Destination::parse(&format!("h{number}.example:443")).unwrap();
        let octet = |number: usize| u8::try_from(number % 256).unwrap();
        let sent: [(&str, &[u8]); 3] =
            [("user-agent", b"curl/8.5.0"), ("accept", b"*/*"), ("x-request", b"7")];
        Self {
            identity: Identity::default(),
            circumstances: Known {
                client: SocketAddr::from(([10, octet(number / 256), octet(number), 1], 50_000)),
                now: time::OffsetDateTime::UNIX_EPOCH,
            },
            path: RequestPath::parse(&format!("/p{number}/x?y=1")).unwrap(),
            headers: Headers::of_request(&destination.host, sent),
            destination,
        }
    }

    fn session(&self) -> Session<'_> {
        Session {
            circumstances: &self.circumstances,
            identity: &self.identity,
            destination: &self.destination,
            certificate: None,
            connection: None,
        }
    }
}

fn verdicts(criterion: &mut Criterion) {
    for (fields, kind) in Fields::ALL {
        for size in SIZES {
            let engine = Engine::from_value(&kind.policy(size)).unwrap();
            for (which, number) in [("first", 0), ("last", size - 1), ("none", size + 20_000)] {
                let world = World::matching(number);
                let session = world.session();
                let id = |what: &str| format!("{what}/{fields}/{which}/{size}");
                criterion.bench_function(&id("session"), |bench| {
                    bench.iter(|| engine.connect(black_box(&session)));
                });
                let request = Request {
                    method: "GET",
                    scheme: Scheme::Http,
                    path: &world.path,
                    headers: &world.headers,
                };
                criterion.bench_function(&id("request"), |bench| {
                    bench.iter(|| engine.request(black_box(&session), &request, RequestStage::Clear));
                });
            }
        }
    }
}

fn compilation(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("compile");
    group.sample_size(10);
    for size in SIZES {
        let text = Fields::HostAndPath.policy(size).to_string();
        group.bench_function(BenchmarkId::from_parameter(size), |bench| {
            bench.iter(|| Engine::from_text(black_box(&text)).unwrap());
        });
    }
}

criterion_group!(benches, verdicts, compilation);
criterion_main!(benches);
