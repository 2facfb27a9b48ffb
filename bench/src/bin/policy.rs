//! `outgate-bench-policy`: what a large policy costs besides requests: at the start, in memory, and when it is swapped.

#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a benchmark says that something is wrong by panicking"
)]

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use clap::Parser;
use outgate_bench::floor;
use outgate_bench::load::Clients;
use outgate_bench::origin::{self, After};
use outgate_bench::outgate::policy;
use outgate_bench::rules::{Fields, request_for};
use outgate_bench::worker::{Cost, Envoy, target};
use outgate_tests::certificates::Authority;
use outgate_tests::outgate::{Options, Outgate, free_address};
use serde_json::{Value, json};

/// Sizes of policies.
const SIZES: [usize; 2] = [10, 10_000];
/// Kept-alive connections that ask while policies are swapped.
const CONNECTIONS: usize = 4;
/// How long each waits after an answer, so that the worker has time to spare.
const PAUSE: Duration = Duration::from_millis(2);
/// What is still put down to a swap that is complete.
const AFTERWARDS: Duration = Duration::from_millis(300);

/// What a large policy costs at the start, in memory, and when it is swapped.
#[derive(Parser)]
#[command(name = "outgate-bench-policy")]
struct Arguments {
    /// How often each start and each swap is repeated
    #[arg(long, value_name = "N", default_value_t = 10)]
    rounds: usize,
}

#[tokio::main]
async fn main() {
    let arguments = Arguments::parse();
    let origin = origin::start(None, After::Keep).await;
    let resolve = format!("*:80:127.0.0.1:{origin}");
    let folder = tempfile::tempdir().unwrap();

    let mut costs: [Vec<Cost>; 3] = Default::default();
    let mut loads = Vec::new();
    for _ in 0..arguments.rounds {
        for (size, costs) in SIZES.iter().zip(&mut costs[1..]) {
            let outgate = start(*size, &resolve, folder.path());
            costs.push(Cost::of(envoy(&outgate), outgate.admin).await);
            if *size == SIZES[1] {
                loads.extend(compilations(folder.path(), *size));
            }
        }
        costs[0].push(without_us(folder.path()).await);
    }
    let [bare, small, large] = costs.map(|costs| Cost::median(&costs));
    println!("Envoy with one worker, once it is ready.\n");
    println!("| | processor time (s) | allocated (MB) | resident (MB) |");
    println!("|---|---|---|---|");
    for (what, cost) in [("without us", bare), ("10 rules", small), ("10,000 rules", large)] {
        println!("| {what} | {:.2} | {:.0} | {:.0} |", cost.seconds, cost.allocated, cost.resident);
    }
    let (module, memory) = (small.seconds - bare.seconds, large.resident - small.resident);
    loads.sort_by(f64::total_cmp);
    let loading = loads[loads.len() / 2];
    println!("\nThe module adds {module:.2} s of processor time at the start: {}.", verdict(module, 1.5));
    println!("A VM compiles 10,000 rules in {loading:.2} s: {}.", verdict(loading, 0.2));
    println!("10,000 rules take {memory:.0} MB of memory: {}.\n", verdict(memory, 50.0));

    println!(
        "Requests in the clear while policies are swapped, {} times, in milliseconds.\n",
        arguments.rounds
    );
    println!("| rules | while | slowest | 99 of 100 within | requests |");
    println!("|---|---|---|---|---|");
    let mut rows = Vec::new();
    for size in SIZES {
        for (when, times) in swaps(size, &resolve, folder.path(), arguments.rounds) {
            let slowest = milliseconds(times.last());
            let most = milliseconds(times.get(times.len() * 99 / 100));
            println!("| {size} | {when} | {slowest:.1} | {most:.1} | {} |", times.len());
            rows.push(json!({
                "rules": size, "when": when, "slowest_ms": slowest, "p99_ms": most, "requests": times.len(),
            }));
            if (when, size) == ("swaps", SIZES[1]) {
                println!("\nThe slowest request during a swap: {}.", verdict(slowest, 200.0));
            }
        }
    }
    write(&json!({
        "envoy": "1.40.0",
        "rounds": arguments.rounds,
        "load_s": loading,
        "start": [bare.json("floor", 0), small.json("outgate", SIZES[0]), large.json("outgate", SIZES[1])],
        "swap": rows,
    }));
}

/// How long each VM compiled a policy of this size, in seconds, as the filter says.
fn compilations(folder: &Path, size: usize) -> Vec<f64> {
    let log = fs::read_to_string(folder.join("state/envoy.log")).unwrap();
    let words = format!(" with {size} rules compiled in ");
    let told = log.lines().filter_map(|line| line.split_once(&words)?.1.split(' ').next()?.parse().ok());
    told.map(|milliseconds: f64| milliseconds / 1000.0).collect()
}

fn start(size: usize, resolve: &str, folder: &Path) -> Outgate {
    let options = Options::default().state(&folder.join("state")).with(&["--resolve", resolve]);
    Outgate::start(&policy(size, Fields::Headers), options)
}

fn envoy(outgate: &Outgate) -> u32 {
    outgate.children().into_iter().find(|(_, name)| name == "envoy").unwrap().0
}

/// The configuration that was rendered last, without our filters.
async fn without_us(folder: &Path) -> Cost {
    let rendered = serde_json::from_slice(&fs::read(folder.join("state/run/envoy.json")).unwrap()).unwrap();
    let [listen, admin] = std::array::from_fn(|_| free_address());
    let identity = Authority::new("Benchmark").server(&["a.test"]);
    let envoy = Envoy::start(&floor::configuration(&rendered, listen, admin, &identity), admin, folder).await;
    Cost::of(envoy.pid(), admin).await
}

/// How long requests took, in ascending order, without a swap and during swaps.
fn swaps(size: usize, resolve: &str, folder: &Path, rounds: usize) -> [(&'static str, Vec<Duration>); 2] {
    let mut outgate = start(size, resolve, folder);
    let first = policy(size, Fields::Headers);
    let second = first.replacen("\"name\":\"bench\"", "\"name\":\"other\"", 1);
    assert_ne!(first, second);
    let load = Load::start(&outgate, size);
    std::thread::sleep(Duration::from_secs(5));
    let mut during = Vec::new();
    for round in 0..rounds {
        let begin = Instant::now();
        outgate.swap_policy(if round % 2 == 0 { &second } else { &first });
        std::thread::sleep(AFTERWARDS);
        during.push((begin, Instant::now()));
        std::thread::sleep(AFTERWARDS);
    }
    let (mut quiet, mut swapping) = (Vec::new(), Vec::new());
    for (begun, took) in load.stop() {
        let within = during.iter().any(|(begin, end)| begun + took >= *begin && begun <= *end);
        if within { &mut swapping } else { &mut quiet }.push(took);
    }
    quiet.sort_unstable();
    swapping.sort_unstable();
    [("no swap", quiet), ("swaps", swapping)]
}

/// Requests, one after the other on each connection, until it is stopped.
struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Vec<(Instant, Duration)>>>,
}

impl Load {
    fn start(outgate: &Outgate, size: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let clients = (0..CONNECTIONS)
            .map(|_| {
                let (stop, mut client) = (Arc::clone(&stop), Clients::open(outgate.proxy, 1));
                let request = request_for(size - 1);
                std::thread::spawn(move || {
                    let mut times = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        let begun = Instant::now();
                        client.ask(&request, 200, Duration::ZERO);
                        times.push((begun, begun.elapsed()));
                        std::thread::sleep(PAUSE);
                    }
                    times
                })
            })
            .collect();
        Self { stop, clients }
    }

    /// When each request began, and how long it took; all were answered with 200.
    fn stop(self) -> Vec<(Instant, Duration)> {
        self.stop.store(true, Ordering::Relaxed);
        self.clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    }
}

fn milliseconds(time: Option<&Duration>) -> f64 {
    (time.unwrap().as_secs_f64() * 10_000.0).round() / 10.0
}

fn verdict(found: f64, goal: f64) -> String {
    format!("{} (<= {goal})", if found <= goal { "met" } else { "MISSED" })
}

fn write(out: &Value) {
    let file = target().join("bench/policy.json");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, format!("{out:#}\n")).unwrap();
    println!("\nWritten to {}", file.display());
}
