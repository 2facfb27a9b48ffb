//! `make bench`: what rules cost per request, beside what Envoy itself offers.
//!
//! One Envoy with one worker for each number of rules, a listener for each scenario, answers of Envoy's own behind
//! them. Slices of load go round in random order; each is divided by the slices without any filter before and after it.

#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a benchmark says that something is wrong by panicking"
)]

#[path = "rules/goals.rs"]
mod goals;
#[path = "rules/scenarios.rs"]
mod scenarios;

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use clap::Parser;
use outgate_bench::load::Clients;
use outgate_bench::statistics::Estimate;
use outgate_bench::worker::{Envoy, target};
use outgate_tests::outgate::free_address;
use scenarios::{Fields, SCENARIOS, Scenario};
use serde_json::{Value, json};

/// Measures what rules cost.
#[derive(Parser)]
struct Arguments {
    /// Fewer rounds and only 10 and 1,000 rules: about two minutes
    #[arg(long)]
    quick: bool,
    /// How often each scenario is measured
    #[arg(long)]
    rounds: Option<usize>,
    /// How many rules
    #[arg(long, value_delimiter = ',')]
    rules: Vec<usize>,
    /// Only these scenarios
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

const CONNECTIONS: usize = 16;
const SLICE: Duration = Duration::from_millis(60);

/// Which rule a request meets.
#[derive(Clone, Copy, PartialEq)]
enum Match {
    First,
    Last,
    None,
}

impl Match {
    const ALL: [(&'static str, Self); 3] =
        [("first", Self::First), ("last", Self::Last), ("none", Self::None)];

    /// The number of the rule, out of so many.
    fn rule(self, rules: usize) -> usize {
        match self {
            Self::First => 0,
            Self::Last => rules - 1,
            Self::None => 60_000,
        }
    }
}

/// A line of the result.
struct Row {
    scenario: &'static str,
    rules: usize,
    matching: &'static str,
    fields: &'static str,
    added: Estimate,
}

#[tokio::main]
async fn main() {
    let arguments = Arguments::parse();
    let sizes = match (&arguments.rules[..], arguments.quick) {
        ([], false) => vec![10, 100, 1_000, 10_000],
        ([], true) => vec![10, 1_000],
        (sizes, _) => sizes.to_vec(),
    };
    let rounds = arguments.rounds.unwrap_or(if arguments.quick { 7 } else { 25 });
    let wanted: Vec<&Scenario> = SCENARIOS
        .iter()
        .filter(|scenario| {
            arguments.only.is_empty() || arguments.only.iter().any(|name| name == scenario.name)
        })
        .collect();
    let mut rows = Vec::new();
    let mut baselines = Vec::new();
    for size in sizes {
        let (measured, mut baseline) = measure(&wanted, size, rounds).await;
        baselines.append(&mut baseline);
        // One machine in many moods: what is added is counted on one baseline for all.
        rows.extend(measured);
    }
    let baseline = Estimate::of(baselines).median / 1_000.0;
    for row in &mut rows {
        row.added = row.added.map(|ratio| (ratio - 1.0) * baseline);
    }
    print(&rows, baseline);
    write(&rows);
    goals::print(&rows);
}

/// Each scenario's processor time as a multiple of its neighbours' without a filter, and theirs in nanoseconds.
async fn measure(wanted: &[&Scenario], rules: usize, rounds: usize) -> (Vec<Row>, Vec<f64>) {
    let wanted: Vec<&Scenario> =
        wanted.iter().copied().filter(|scenario| rules <= scenario.most_rules).collect();
    let folder = tempfile::tempdir().unwrap();
    let admin = free_address();
    let authorizer = scenarios::authorizer();
    let addresses: Vec<SocketAddr> = (0..=wanted.len()).map(|_| free_address()).collect();
    let filters = std::iter::once(Vec::new()).chain(wanted.iter().map(|scenario| (scenario.filters)(rules)));
    let listeners: Vec<Value> = addresses
        .iter()
        .zip(filters)
        .map(|(address, filters)| scenarios::listener(*address, filters))
        .collect();
    let configuration = scenarios::bootstrap(admin, listeners, authorizer);
    eprintln!("{rules} rules: Envoy loads {} kB of configuration", configuration.to_string().len() / 1024);
    let envoy = Envoy::start(&configuration, admin, folder.path()).await;

    let mut without = Slices::new(addresses[0], Fields::Headers, Match::None, rules, 200);
    let mut cases = Vec::new();
    for (scenario, address) in wanted.iter().zip(&addresses[1..]) {
        for (matching, kind) in Match::ALL {
            // What does not look at the request allows all.
            if scenario.decides || kind == Match::First {
                let status = if scenario.decides && kind == Match::None { 403 } else { 200 };
                let slices = Slices::new(*address, scenario.fields, kind, rules, status);
                cases.push((*scenario, if scenario.decides { matching } else { "any" }, slices, Vec::new()));
            }
        }
        if scenario.decides {
            // It does decide: also by the method, where rules ask for it.
            let mut other = Slices::new(*address, scenario.fields, Match::First, rules, 403);
            other.request = other.request.replacen("GET", "PUT", 1);
            if scenario.fields == Fields::Headers {
                other.run(&envoy, Duration::ZERO);
            }
        }
    }
    let mut baselines = Vec::new();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0..=rounds {
        let mut order: Vec<usize> = (0..cases.len()).collect();
        for last in (1..order.len()).rev() {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            order.swap(last, (random % (last as u64 + 1)) as usize);
        }
        let mut before = without.run(&envoy, SLICE);
        for index in order {
            let time = cases[index].2.run(&envoy, SLICE);
            let after = without.run(&envoy, SLICE);
            // The first round warms up.
            if round > 0 {
                cases[index].3.push(time / f64::midpoint(before, after));
                baselines.push(after);
            }
            before = after;
        }
        eprint!("\r{rules} rules: round {round} of {rounds}");
    }
    eprintln!();
    let rows = cases.into_iter().map(|(scenario, matching, _, ratios)| Row {
        scenario: scenario.name,
        rules,
        matching,
        fields: scenario.fields.name(),
        added: Estimate::of(ratios),
    });
    (rows.collect(), baselines)
}

/// Load of one kind.
struct Slices {
    clients: Clients,
    request: String,
    status: u16,
}

impl Slices {
    fn new(address: SocketAddr, fields: Fields, kind: Match, rules: usize, status: u16) -> Self {
        let rule = kind.rule(rules);
        let from = match fields {
            Fields::SourceIp => scenarios::source(rule),
            Fields::Headers | Fields::Regex => Ipv4Addr::LOCALHOST,
        };
        let host = scenarios::host(rule);
        // As a browser asks.
        let request = format!(
            "GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) \
             Gecko/20100101 Firefox/140.0\r\nAccept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
             Accept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br, zstd\r\nDNT: 1\r\n\
             Cookie: session=0123456789abcdef0123456789abcdef\r\nUpgrade-Insecure-Requests: 1\r\n\r\n"
        );
        Self { clients: Clients::open(address, IpAddr::V4(from), CONNECTIONS), request, status }
    }

    /// Nanoseconds of the worker per request.
    fn run(&mut self, envoy: &Envoy, time: Duration) -> f64 {
        let before = envoy.worker_time();
        let count = self.clients.ask(self.request.as_bytes(), self.status, time);
        (envoy.worker_time() - before) as f64 / count as f64
    }
}

fn print(rows: &[Row], baseline: f64) {
    let mut sizes: Vec<usize> = rows.iter().map(|row| row.rules).collect();
    sizes.sort_unstable();
    sizes.dedup();
    println!(
        "\nProcessor time of Envoy's worker added per request, in µs; {baseline:.1} µs without any filter.\n"
    );
    print!("| scenario | fields | rule that matches |");
    sizes.iter().for_each(|size| print!(" {size} rules |"));
    println!("\n|---|---|---|{}", "---|".repeat(sizes.len()));
    let mut lines = BTreeMap::<_, BTreeMap<usize, &Row>>::new();
    for row in rows {
        let place = SCENARIOS.iter().position(|scenario| scenario.name == row.scenario);
        lines.entry((row.fields, place, row.matching)).or_default().insert(row.rules, row);
    }
    for ((fields, _, matching), row) in lines {
        print!("| {} | {fields} | {matching} |", row.values().next().unwrap().scenario);
        for size in &sizes {
            match row.get(size) {
                Some(row) => {
                    print!(" {:.1} ({:.1}–{:.1}) |", row.added.median, row.added.low, row.added.high)
                }
                None => print!(" – |"),
            }
        }
        println!();
    }
}

fn write(rows: &[Row]) {
    let rounded = |figure: f64| (figure * 100.0).round() / 100.0;
    let rows: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!({
                "scenario": row.scenario, "rules": row.rules, "match": row.matching, "fields": row.fields,
                "added_us": rounded(row.added.median), "added_us_low": rounded(row.added.low),
                "added_us_high": rounded(row.added.high),
            })
        })
        .collect();
    let folder = target().join("bench");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("envoy.json"), format!("{:#}\n", json!({"envoy": "1.40.0", "rows": rows})))
        .unwrap();
    println!("\nwritten to target/bench/envoy.json");
}
