//! `outgate run` as a test starts it: on ports and in folders of its own, ended with the test.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::Value;
use tempfile::TempDir;

/// How long a start may take while other tests run beside it.
const START: Duration = Duration::from_secs(90);

/// What a proxy is started with.
#[derive(Clone, Debug, Default)]
pub struct Options {
    arguments: Vec<String>,
    mtls: bool,
    state: Option<PathBuf>,
    log: Option<PathBuf>,
}

/// A running proxy.
pub struct Outgate {
    /// Where clients reach it.
    pub proxy: SocketAddr,
    /// Envoy's admin interface.
    pub admin: SocketAddr,
    /// cert-service's health and metrics.
    pub cert_http: SocketAddr,
    /// The mTLS listener.
    pub mtls: SocketAddr,
    log: PathBuf,
    directory: TempDir,
    state: PathBuf,
    process: Child,
    said: Arc<Mutex<String>>,
}

/// The `outgate` executable that this build made.
pub fn executable() -> PathBuf {
    if let Some(path) = std::env::var_os("OUTGATE_BIN") {
        return path.into();
    }
    // target/debug/deps/test-… and target/debug/outgate-demo both lie below the folder of `outgate`.
    let own = std::env::current_exe().unwrap();
    let found = own.ancestors().skip(1).map(|folder| folder.join("outgate")).find(|path| path.is_file());
    found.expect("`outgate` is built; run `make build envoy` first")
}

/// An address on loopback that is free, and that nobody else of this process gets.
pub fn free_address() -> SocketAddr {
    // Below the range from which the system takes ports for outgoing connections.
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 10_000 + (std::process::id().wrapping_mul(131).wrapping_add(step)) % 9_000;
        let address = SocketAddr::from(([127, 0, 0, 1], u16::try_from(port).unwrap()));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

impl Options {
    /// With `--resolve`.
    pub fn resolve(self, host: &str, port: u16, address: SocketAddr) -> Self {
        self.with(&["--resolve", &format!("{host}:{port}:{}:{}", address.ip(), address.port())])
    }

    /// With more arguments.
    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self
    }

    /// With an mTLS listener that demands certificates of the CA in this file.
    pub fn mtls(mut self, ca: &Path) -> Self {
        self.mtls = true;
        self.with(&["--mtls-ca", ca.to_str().unwrap()])
    }

    /// With its log here.
    pub fn log_to(mut self, log: &Path) -> Self {
        self.log = Some(log.to_owned());
        self
    }

    /// With a state directory that outlives the proxy.
    pub fn state(mut self, state: &Path) -> Self {
        self.state = Some(state.to_owned());
        self
    }
}

impl Outgate {
    /// Starts a proxy with this policy and waits until it is ready.
    pub fn start(policy: &str, options: Options) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let policy_file = directory.path().join("policy.yaml");
        fs::write(&policy_file, policy).unwrap();
        let state = options.state.clone().unwrap_or_else(|| directory.path().join("state"));
        let [proxy, admin, cert_http, mtls] = std::array::from_fn(|_| free_address());
        let mut command = Command::new(executable());
        command.arg("run").arg("--policy").arg(&policy_file).arg("--state").arg(&state);
        for (option, address) in [("--listen", proxy), ("--admin", admin), ("--cert-http", cert_http)] {
            command.args([option, &address.to_string()]);
        }
        if options.mtls {
            command.args(["--mtls-listen", &mtls.to_string()]);
        }
        let log = options.log.unwrap_or_else(|| directory.path().join("log.jsonl"));
        command.args(["--concurrency", "1", "--log-file"]).arg(&log);
        command.args(&options.arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let said: Arc<Mutex<String>> = Arc::default();
        let stderr = BufReader::new(process.stderr.take().unwrap());
        let heard = Arc::clone(&said);
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
                heard.push_str(&line);
                heard.push('\n');
            }
        });
        let mut outgate = Self { proxy, admin, cert_http, mtls, log, directory, state, process, said };
        outgate.wait_for("outgate: ready", START);
        outgate
    }

    /// What it said on standard error.
    pub fn said(&self) -> String {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until it said this.
    pub fn wait_for(&mut self, words: &str, limit: Duration) {
        self.wait_for_times(words, 1, limit);
    }

    /// Waits until it said so as often.
    pub fn wait_for_times(&mut self, words: &str, times: usize, limit: Duration) {
        let deadline = Instant::now() + limit;
        while self.said().matches(words).count() < times {
            if let Some(status) = self.process.try_wait().unwrap() {
                panic!("outgate ended ({status}) before it said `{words}`:\n{}", self.said());
            }
            assert!(Instant::now() < deadline, "outgate did not say `{words}`:\n{}", self.said());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// What clients must trust.
    pub fn roots(&self) -> Vec<CertificateDer<'static>> {
        let pem = fs::read(self.ca_file()).unwrap();
        CertificateDer::pem_slice_iter(&pem).map(Result::unwrap).collect()
    }

    /// The file of what clients must trust.
    pub fn ca_file(&self) -> PathBuf {
        self.state.join("ca.pem")
    }

    /// The policy file.
    pub fn policy_file(&self) -> PathBuf {
        self.directory.path().join("policy.yaml")
    }

    /// Renames a new policy into place.
    pub fn replace_policy(&self, policy: &str) {
        let new = self.directory.path().join("policy.new");
        fs::write(&new, policy).unwrap();
        fs::rename(new, self.policy_file()).unwrap();
    }

    /// Replaces the policy and waits until it is in force.
    pub fn swap_policy(&mut self, policy: &str) {
        let before = self.swaps();
        self.replace_policy(policy);
        self.wait_for_swaps(before + 1);
    }

    /// How often it said that a policy is in force.
    pub fn swaps(&self) -> usize {
        self.said().matches("rules in force").count()
    }

    /// Waits until it said so as often.
    pub fn wait_for_swaps(&self, count: usize) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.swaps() < count {
            assert!(Instant::now() < deadline, "the policy was not swapped:\n{}", self.said());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// All whole lines of the log so far: what is read while a line is being written may end within it.
    pub fn log(&self) -> Vec<Value> {
        let written = fs::read(self.log_file()).unwrap_or_default();
        let text = String::from_utf8_lossy(&written);
        text.rsplit_once('\n')
            .map_or("", |(whole, _)| whole)
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
            .collect()
    }

    /// The first line that fits. It comes within a second of its event on a machine that has time.
    pub async fn line(&self, fits: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..500 {
            if let Some(line) = self.log().into_iter().find(|line| fits(line)) {
                return line;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("no such line within ten seconds:\n{:#?}", self.log());
    }

    /// The verdict line of a session to this host.
    pub async fn session(&self, host: &str) -> Value {
        self.line(|line| {
            line["event"]["action"] == "outgate.session" && line["destination"]["domain"] == host
        })
        .await
    }

    /// The first line about this host.
    pub async fn session_or_request(&self, host: &str) -> Value {
        self.line(|line| line["destination"]["domain"] == host).await
    }

    /// The file of the log.
    pub fn log_file(&self) -> PathBuf {
        self.log.clone()
    }

    /// The process ids of its children, by name.
    pub fn children(&self) -> Vec<(u32, String)> {
        children_of(self.process.id())
    }

    /// Sends a signal to a child.
    pub fn signal_child(&self, name: &str, signal: Signal) {
        let children = self.children();
        let (pid, _) = children
            .iter()
            .find(|(_, known)| known == name)
            .unwrap_or_else(|| panic!("no {name}: {children:?}"));
        send(*pid, signal);
    }

    /// Sends a signal to `outgate` itself.
    pub fn signal(&self, signal: Signal) {
        send(self.process.id(), signal);
    }

    /// Waits for its end and tells the status.
    pub fn wait(&mut self, limit: Duration) -> Option<i32> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "outgate did not end:\n{}", self.said());
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Outgate {
    fn drop(&mut self) {
        let children = self.children();
        if self.process.try_wait().is_ok_and(|status| status.is_none()) {
            self.signal(Signal::INT);
            let deadline = Instant::now() + Duration::from_secs(15);
            while Instant::now() < deadline && self.process.try_wait().is_ok_and(|status| status.is_none()) {
                thread::sleep(Duration::from_millis(20));
            }
            let _already_gone = self.process.kill();
            let _reaped = self.process.wait();
        }
        if !thread::panicking() {
            assert_gone(&children);
        }
    }
}

/// That none of these processes is left, a moment later.
pub fn assert_gone(processes: &[(u32, String)]) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while processes.iter().any(|(pid, name)| name_of(*pid).as_ref() == Some(name)) {
        assert!(Instant::now() < deadline, "still running: {processes:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn send(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).unwrap();
    kill_process(pid, signal).unwrap();
}

fn children_of(parent: u32) -> Vec<(u32, String)> {
    let mut children = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // pid (name) state parent …
        let parent_of = stat
            .rsplit(") ")
            .next()
            .and_then(|rest| rest.split(' ').nth(1))
            .and_then(|text| text.parse().ok());
        if parent_of == Some(parent)
            && let Some(name) = name_of(pid)
        {
            children.push((pid, name));
        }
    }
    children
}

/// The name of a process that has not ended.
fn name_of(pid: u32) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |key: &str| {
        status.lines().find_map(|line| line.strip_prefix(key)).map(|value| value.trim().to_owned())
    };
    (!field("State:")?.starts_with('Z')).then(|| field("Name:"))?
}
