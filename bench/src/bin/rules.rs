//! `outgate-bench`: what a request costs more when rules decide it, by Outgate and by Envoy's own means.
//!
//! One Envoy with one worker has a listener for each variant, and one without a filter. Slices of load go to them in
//! random order, and each is divided by the slices without a filter before and after it: the machine's moods cancel
//! out. docs/benchmarks.md has the method.

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
use std::path::Path;
use std::time::{Duration, Instant};

use clap::Parser;
use outgate_bench::load::Clients;
use outgate_bench::rules::{Fields, Match, PREFIX, host, path, request, request_for};
use outgate_bench::statistics::{Estimate, Shuffle};
use outgate_bench::worker::{Envoy, target};
use outgate_bench::{authorizer, outgate, peers};
use outgate_tests::outgate::free_address;
use serde_json::{Value, json};

/// How long a slice of load lasts.
const SLICE: Duration = Duration::from_millis(60);
/// Kept-alive connections to each listener.
const CONNECTIONS: usize = 8;
/// Slices between two without a filter.
const APART: usize = 3;
/// Beyond this, an ordered walk with regular expressions takes a tenth of a second for a request.
const MOST_REGEXES: usize = 1_000;

/// What a request costs more when rules decide it.
#[derive(Parser)]
#[command(name = "outgate-bench")]
struct Arguments {
    /// Fewer sizes and slices, hence wider intervals
    #[arg(long)]
    quick: bool,
    /// Only these scenarios
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    scenario: Vec<String>,
    /// How often each slice is repeated
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
}

#[tokio::main]
async fn main() {
    let arguments = Arguments::parse();
    let (sizes, rounds): (&[usize], _) =
        if arguments.quick { (&[10, 10_000], 8) } else { (&[10, 100, 1_000, 10_000], 25) };
    let rounds = arguments.rounds.unwrap_or(rounds);
    let folder = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(sizes, &arguments.scenario, folder.path());
    let started = Instant::now();
    let envoy = Envoy::start(&bench.configuration(), bench.admin, folder.path()).await;
    println!(
        "Envoy is ready after {:.1} s with {} listeners; {rounds} rounds of {} slices follow.",
        started.elapsed().as_secs_f64(),
        bench.listeners.len(),
        bench.variants.len()
    );
    bench.verify();
    let baseline = bench.measure(&envoy, rounds);
    println!(
        "Without a filter a request costs the worker {:.1} us ({:.1} to {:.1}).\n",
        baseline.median, baseline.low, baseline.high
    );
    let rows: Vec<Row> = bench.variants.iter().map(|variant| variant.row(baseline.median)).collect();
    print_table(&rows, sizes);
    print_goals(&rows, sizes);
    let out = json!({
        "envoy": "1.40.0",
        "unit": "microseconds of the worker's processor time that a request costs more than without a filter",
        "baseline_us": round(baseline.median),
        "rounds": rounds,
        "rows": rows.iter().map(Row::json).collect::<Vec<_>>(),
    });
    let file = target().join("bench/envoy.json");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, format!("{out:#}\n")).unwrap();
    println!("\nWritten to {}", file.display());
}

/// Makes a filter that looks hosts up, or one that asks rule after rule.
type Map = fn(usize) -> Value;
type Ordered = fn(usize, Fields) -> Value;

/// A listener of the Envoy under measurement.
struct Listener {
    address: SocketAddr,
    /// The filter before the answer, if there is one.
    filter: Option<Value>,
    /// How many rules it has, if any.
    rules: Option<usize>,
    /// Whether it is Outgate's, which refuses more than its rules do.
    checks: bool,
    clients: Option<Clients>,
}

/// A request to a listener, which is measured.
struct Variant {
    listener: usize,
    scenario: &'static str,
    rules: usize,
    fields: Fields,
    matching: Match,
    request: Vec<u8>,
    status: u16,
    /// The worker's time for a request, beside that of the slices before and after.
    ratios: Vec<f64>,
}

struct Bench {
    listeners: Vec<Listener>,
    variants: Vec<Variant>,
    admin: SocketAddr,
    authorizer: SocketAddr,
}

impl Bench {
    fn new(sizes: &[usize], only: &[String], folder: &Path) -> Self {
        let wanted = |scenario: &str| only.is_empty() || only.iter().any(|name| name == scenario);
        let mut bench = Self {
            listeners: Vec::new(),
            variants: Vec::new(),
            admin: free_address(),
            authorizer: authorizer::start(),
        };
        bench.listen(None, None);
        for (scenario, filter) in [
            ("sdk_noop", peers::stock_filter(false)),
            ("sdk_two_headers", peers::stock_filter(true)),
            ("ext_authz", peers::ext_authz(bench.authorizer)),
        ] {
            if wanted(scenario) {
                bench.without_rules(scenario, filter);
            }
        }
        let dynamic_module = wanted("dynamic_module")
            && match peers::compile_dynamic_module() {
                Ok(()) => true,
                Err(why) => {
                    println!("No rows of a dynamic module: {why}.");
                    false
                }
            };
        for &rules in sizes {
            if wanted("outgate") {
                for fields in Fields::ALL {
                    let policy = outgate::policy(rules, fields);
                    let vm = format!("outgate-{rules}-{}", fields.name());
                    let filter = outgate::explicit_filter(&policy, &vm, folder);
                    bench.with_rules("outgate", filter, rules, fields, &Match::ALL);
                    bench.listeners.last_mut().unwrap().checks = true;
                }
            }
            let maps = [
                ("exact_match_map", peers::exact_match_map as Map, wanted("exact_match_map")),
                ("lua_table", peers::lua_table, wanted("lua_table")),
                ("dynamic_module", peers::dynamic_module, dynamic_module),
            ];
            for (scenario, filter, wanted) in maps {
                if wanted {
                    bench.with_rules(scenario, filter(rules), rules, Fields::Headers, &Match::ALL);
                }
            }
            let ordered = [("rbac_cel", peers::rbac_cel as Ordered), ("rbac_header", peers::rbac_header)];
            for (scenario, filter) in ordered {
                for fields in Fields::ALL {
                    if wanted(scenario) && (fields != Fields::Regex || rules <= MOST_REGEXES) {
                        let matches: &[Match] =
                            if fields == Fields::Headers { &Match::ALL } else { &[Match::Last] };
                        bench.with_rules(scenario, filter(rules, fields), rules, fields, matches);
                    }
                }
            }
        }
        bench
    }

    fn listen(&mut self, filter: Option<Value>, rules: Option<usize>) -> usize {
        self.listeners.push(Listener {
            address: free_address(),
            filter,
            rules,
            checks: false,
            clients: None,
        });
        self.listeners.len() - 1
    }

    fn without_rules(&mut self, scenario: &'static str, filter: Value) {
        let listener = self.listen(Some(filter), None);
        self.variants.push(Variant {
            listener,
            scenario,
            rules: 0,
            fields: Fields::Headers,
            matching: Match::None,
            request: request_for(0),
            status: 200,
            ratios: Vec::new(),
        });
    }

    fn with_rules(
        &mut self,
        scenario: &'static str,
        filter: Value,
        rules: usize,
        fields: Fields,
        matches: &[Match],
    ) {
        let listener = self.listen(Some(filter), Some(rules));
        for &matching in matches {
            self.variants.push(Variant {
                listener,
                scenario,
                rules,
                fields,
                matching,
                request: request_for(matching.rule(rules)),
                status: matching.status(),
                ratios: Vec::new(),
            });
        }
    }

    fn configuration(&self) -> Value {
        let listeners: Vec<Value> = self
            .listeners
            .iter()
            .map(|listener| {
                let mut filters: Vec<Value> = listener.filter.iter().cloned().collect();
                filters.push(json!({"name": "envoy.filters.http.router", "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
                }}));
                json!({
                    "name": listener.address.to_string(),
                    "address": address(listener.address),
                    "filter_chains": [{"filters": [{"name": "http", "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                        "stat_prefix": "bench",
                        "use_remote_address": true,
                        "skip_xff_append": true,
                        "generate_request_id": false,
                        "http_filters": filters,
                        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "response_headers_to_add": origin_headers(), "routes": [
                            {"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": "ok"}}},
                        ]}]},
                    }}]}],
                })
            })
            .collect();
        json!({
            "admin": {"address": address(self.admin)},
            "static_resources": {
                "listeners": listeners,
                "clusters": [{
                    "name": peers::AUTHORIZER,
                    "load_assignment": {"cluster_name": peers::AUTHORIZER, "endpoints": [{"lb_endpoints": [
                        {"endpoint": {"address": address(self.authorizer)}},
                    ]}]},
                }],
            },
        })
    }

    /// That each listener decides as its rules say, and that Outgate's checks are on, with real requests.
    fn verify(&mut self) {
        for listener in &mut self.listeners {
            let clients = Clients::open(listener.address, CONNECTIONS);
            if let Some(rules) = listener.rules {
                for matching in Match::ALL {
                    clients.expect(&request_for(matching.rule(rules)), matching.status());
                }
                let elsewhere = request(&format!("http://{}/elsewhere", host(0)), &host(0));
                clients.expect(&elsewhere, 403);
            }
            if listener.checks {
                for (url, status) in [
                    // Refused before any rule is asked (docs/policy.md, "Reasons").
                    (format!("http://0x7f.1{}", path(0)), 400),
                    (format!("http://127.0.0.1:9901{}", path(0)), 403),
                    (format!("http://{}{PREFIX}..%2fitem", host(0)), 400),
                    // Another reading of the path, which no rule allows.
                    (format!("http://{}//v1/item0", host(0)), 403),
                ] {
                    clients.expect(&request(&url, &host(0)), status);
                }
            }
            listener.clients = Some(clients);
        }
    }

    /// The worker's time for a request without a filter, over all slices; the variants keep their ratios to it.
    fn measure(&mut self, envoy: &Envoy, rounds: usize) -> Estimate {
        let bare = request_for(0);
        let mut shuffle = Shuffle::default();
        let mut order: Vec<usize> = (0..self.variants.len()).collect();
        let mut baselines = Vec::new();
        for _ in 0..rounds {
            shuffle.apply(&mut order);
            let mut before = self.slice(envoy, 0, &bare, 200);
            baselines.push(before);
            for group in order.chunks(APART) {
                let costs: Vec<f64> = group
                    .iter()
                    .map(|&index| {
                        let variant = &self.variants[index];
                        let (listener, request, status) =
                            (variant.listener, variant.request.clone(), variant.status);
                        self.slice(envoy, listener, &request, status)
                    })
                    .collect();
                let after = self.slice(envoy, 0, &bare, 200);
                baselines.push(after);
                for (&index, cost) in group.iter().zip(costs) {
                    self.variants[index].ratios.push(cost / f64::midpoint(before, after));
                }
                before = after;
            }
        }
        Estimate::of(baselines)
    }

    /// Microseconds of the worker for a request.
    fn slice(&mut self, envoy: &Envoy, listener: usize, request: &[u8], status: u16) -> f64 {
        let clients = self.listeners[listener].clients.as_mut().unwrap();
        clients.ask(request, status, Duration::ZERO);
        let before = envoy.worker_time();
        let count = clients.ask(request, status, SLICE);
        (envoy.worker_time() - before) as f64 / 1_000.0 / count as f64
    }
}

impl Variant {
    fn row(&self, baseline: f64) -> Row {
        Row {
            scenario: self.scenario,
            rules: self.rules,
            matching: self.matching,
            fields: self.fields,
            added: Estimate::of(self.ratios.clone()).map(|ratio| (ratio - 1.0) * baseline),
        }
    }
}

/// What a variant costs more than no filter, in microseconds.
struct Row {
    scenario: &'static str,
    rules: usize,
    matching: Match,
    fields: Fields,
    added: Estimate,
}

impl Row {
    fn json(&self) -> Value {
        json!({
            "scenario": self.scenario,
            "rules": self.rules,
            "match": self.matching.name(),
            "fields": self.fields.name(),
            "added_us": round(self.added.median),
            "added_us_low": round(self.added.low),
            "added_us_high": round(self.added.high),
        })
    }
}

fn print_table(rows: &[Row], sizes: &[usize]) {
    println!(
        "Added microseconds of the worker for a request: median (95 % interval), by the number of rules.\n"
    );
    let columns: Vec<String> = sizes.iter().map(ToString::to_string).collect();
    println!("| scenario | fields | match | {} |", columns.join(" | "));
    println!("|---|---|---|{}", "---|".repeat(sizes.len()));
    let mut done: Vec<(&str, Fields, Match)> = Vec::new();
    for row in rows {
        let kind = (row.scenario, row.fields, row.matching);
        if done.contains(&kind) {
            continue;
        }
        done.push(kind);
        let cell = |size: &usize| {
            let fits = |other: &&Row| {
                (other.scenario, other.fields, other.matching) == kind && [0, *size].contains(&other.rules)
            };
            rows.iter().find(fits).map_or("–".to_owned(), |row| {
                format!("{:.1} ({:.1}–{:.1})", row.added.median, row.added.low, row.added.high)
            })
        };
        let matching = if row.rules == 0 { "–" } else { row.matching.name() };
        let fields = if row.rules == 0 { "–" } else { row.fields.name() };
        let cells: Vec<String> = sizes.iter().map(cell).collect();
        println!("| {} | {fields} | {matching} | {} |", row.scenario, cells.join(" | "));
    }
}

fn print_goals(rows: &[Row], sizes: &[usize]) {
    let added = |scenario: &str, fields: Fields, rules: usize| {
        let fits = |row: &&Row| {
            row.scenario == scenario
                && row.fields == fields
                && row.rules == rules
                && (rules == 0 || row.matching == Match::Last)
        };
        rows.iter().find(fits).map(|row| row.added.median)
    };
    let goal = |what: String, found: Option<f64>, bound: f64, at_least: bool, unit: &str| {
        let Some(found) = found else { return };
        let met = if at_least { found >= bound } else { found <= bound };
        let sign = if at_least { ">=" } else { "<=" };
        println!(
            "- {}: {what}: {found:.2}{unit} (goal {sign} {bound}{unit})",
            if met { "met" } else { "MISSED" }
        );
    };
    let ratio = |over: Option<f64>, under: Option<f64>| Some(over? / under?);
    println!("\nGoals (last rule matching, rules of headers, unless said):\n");
    let own = |rules| added("outgate", Fields::Headers, rules);
    goal("outgate at 10,000 rules / at 10".to_owned(), ratio(own(10_000), own(10)), 1.15, false, " x");
    for &rules in sizes {
        let floor = added("sdk_two_headers", Fields::Headers, 0);
        goal(
            format!("outgate at {rules} rules / sdk_two_headers"),
            ratio(own(rules), floor),
            1.6,
            false,
            " x",
        );
    }
    for (rules, bound) in [(10, 1.0), (100, 5.0), (1_000, 50.0), (10_000, 500.0)] {
        let cel = added("rbac_cel", Fields::Headers, rules);
        goal(format!("rbac_cel / outgate at {rules} rules"), ratio(cel, own(rules)), bound, true, " x");
    }
    for scenario in ["outgate", "rbac_cel"] {
        let (Some(few), Some(many)) = (
            added(scenario, Fields::Regex, 10),
            sizes.iter().rev().find_map(|&rules| added(scenario, Fields::Regex, rules).map(|us| (rules, us))),
        ) else {
            continue;
        };
        if many.0 > 10 {
            let each = (many.1 - few) / (many.0 - 10) as f64;
            if scenario == "outgate" {
                goal(format!("a residue rule (slope from 10 to {})", many.0), Some(each), 0.3, false, " us");
            } else {
                println!(
                    "- for comparison: the same rule in rbac_cel (slope from 10 to {}): {each:.2} us",
                    many.0
                );
            }
        }
    }
}

fn address(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}

fn round(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

/// What most origins say beside status, type and length.
fn origin_headers() -> Vec<Value> {
    [
        ("cache-control", "max-age=600"),
        ("etag", "\"5f3c-61a0\""),
        ("last-modified", "Mon, 16 Nov 2026 08:00:00 GMT"),
        ("strict-transport-security", "max-age=31536000"),
        ("vary", "Accept-Encoding"),
        ("x-content-type-options", "nosniff"),
    ]
    .iter()
    .map(|(key, value)| json!({"header": {"key": key, "value": value}}))
    .collect()
}
