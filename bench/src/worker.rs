//! An Envoy with one worker, whose processor time is read from the kernel.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use outgate_tests::client;
use outgate_tests::outgate::executable;
use serde_json::{Value, json};

use crate::peers;
use crate::statistics::Estimate;

/// The folder of what was built.
pub fn target() -> PathBuf {
    let own = executable();
    own.ancestors().find(|folder| folder.ends_with("target")).expect("`outgate` lies in target/").to_owned()
}

/// An Envoy with one worker; ended when it is dropped.
pub struct Envoy {
    process: Child,
    /// Where the kernel accounts for the worker.
    schedstat: PathBuf,
}

impl Envoy {
    /// Starts one and waits until it is ready.
    pub async fn start(configuration: &Value, admin: SocketAddr, folder: &Path) -> Self {
        let file = folder.join("envoy.json");
        fs::write(&file, configuration.to_string()).unwrap();
        let log = fs::File::create(folder.join("envoy.log")).unwrap();
        let mut process = Command::new(target().join("envoy/envoy"))
            .arg("-c")
            .arg(&file)
            // As `outgate run` starts it: lines of the filter are written.
            .args(["--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"])
            .args(["--component-log-level", "wasm:info"])
            .env("ENVOY_DYNAMIC_MODULES_SEARCH_PATH", peers::dynamic_modules())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            let said = || fs::read_to_string(folder.join("envoy.log")).unwrap_or_default();
            assert!(process.try_wait().unwrap().is_none(), "Envoy ended:\n{}", said());
            assert!(Instant::now() < deadline, "Envoy does not get ready:\n{}", said());
            if client::get_status(admin, "/ready").await == Some(200) {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let schedstat = worker(process.id());
        Self { process, schedstat }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The worker's time on a processor so far, in nanoseconds.
    pub fn worker_time(&self) -> u64 {
        on_processor(&self.schedstat).unwrap()
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _already_gone = self.process.kill();
        let _reaped = self.process.wait();
    }
}

/// What a process has cost so far.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Its time on processors, in seconds; of threads that ended as well.
    pub seconds: f64,
    /// What Envoy's allocator gave out, in megabytes; without the memories of VMs.
    pub allocated: f64,
    /// What is in memory, in megabytes.
    pub resident: f64,
}

impl Cost {
    /// Of an Envoy.
    pub async fn of(pid: u32, admin: SocketAddr) -> Self {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        // After the name, which may hold spaces, come the state and ten more; a tick is a hundredth of a second.
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        let ticks: f64 = fields.split(' ').skip(11).take(2).map(|field| field.parse::<f64>().unwrap()).sum();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let kilobytes: f64 = resident.trim().trim_end_matches(" kB").parse().unwrap();
        let memory: Value = serde_json::from_str(&client::get(admin, "/memory").await.body).unwrap();
        let allocated: f64 = memory["allocated"].as_str().unwrap().parse().unwrap();
        Self { seconds: ticks / 100.0, allocated: allocated / 1e6, resident: kilobytes / 1e3 }
    }

    /// The median of each figure.
    pub fn median(costs: &[Self]) -> Self {
        let of = |figure: fn(&Self) -> f64| Estimate::of(costs.iter().map(figure).collect()).median;
        Self {
            seconds: of(|cost| cost.seconds),
            allocated: of(|cost| cost.allocated),
            resident: of(|cost| cost.resident),
        }
    }

    /// As a row of `policy.json`.
    pub fn json(&self, scenario: &str, rules: usize) -> Value {
        let round = |figure: f64| (figure * 100.0).round() / 100.0;
        json!({
            "scenario": scenario,
            "rules": rules,
            "cpu_s": round(self.seconds),
            "allocated_mb": round(self.allocated),
            "resident_mb": round(self.resident),
        })
    }
}

/// The time of all threads of a process on processors so far, in nanoseconds.
pub fn process_time(pid: u32) -> u64 {
    // A thread may end meanwhile.
    threads(pid).filter_map(|thread| on_processor(&thread.join("schedstat"))).sum()
}

fn on_processor(schedstat: &Path) -> Option<u64> {
    fs::read_to_string(schedstat).ok()?.split(' ').next()?.parse().ok()
}

fn threads(pid: u32) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(|thread| thread.unwrap().path())
}

fn worker(pid: u32) -> PathBuf {
    let is_worker = |thread: &PathBuf| {
        fs::read_to_string(thread.join("comm")).is_ok_and(|name| name.starts_with("wrk:worker_0"))
    };
    threads(pid).find(is_worker).expect("Envoy has a worker").join("schedstat")
}
