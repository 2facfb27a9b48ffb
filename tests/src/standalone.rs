//! An Envoy and its cert-services, started one by one, so that a test may stop and replace them.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tempfile::TempDir;

use crate::client::{self, Ask};
use crate::outgate::{executable, free_address};

/// How long a start may take while other tests run beside it.
const START: Duration = Duration::from_secs(60);

/// A cert-service of its own; killed with the test.
pub struct CertService {
    /// Its process.
    pub process: Child,
    /// Where operators read.
    pub http: SocketAddr,
}

impl CertService {
    /// Starts one, with its CA in `state`, and waits until it is ready.
    pub async fn start(state: &Path, socket: &Path, arguments: &[&str]) -> Self {
        let http = free_address();
        let process = Command::new(executable().with_file_name("cert-service"))
            .args(["--http", &http.to_string(), "--state"])
            .arg(state)
            .arg("--socket")
            .arg(socket)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        wait_for(http, "/readyz").await;
        Self { process, http }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.process);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Ends it at once, as a crash would.
    pub fn kill(mut self) {
        end(&mut self.process);
    }
}

impl Drop for CertService {
    fn drop(&mut self) {
        end(&mut self.process);
    }
}

/// An Envoy with a rendered configuration; ended with the test.
pub struct Envoy {
    /// Where clients reach it.
    pub proxy: SocketAddr,
    /// Its admin interface.
    pub admin: SocketAddr,
    process: Child,
    directory: TempDir,
}

/// What an Envoy is started with.
pub struct EnvoyOptions<'a> {
    /// The policy.
    pub policy: &'a str,
    /// The sockets of cert-service's replicas.
    pub sockets: &'a [&'a Path],
    /// More arguments of `outgate render`.
    pub arguments: &'a [&'a str],
    /// Parts of the configuration that are otherwise here.
    pub replace: &'a [(&'a str, &'a str)],
}

impl Envoy {
    /// Starts one and waits until it is ready.
    pub async fn start(options: EnvoyOptions<'_>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let policy = directory.path().join("policy.yaml");
        fs::write(&policy, options.policy).unwrap();
        let [proxy, admin] = std::array::from_fn(|_| free_address());
        let first = options.sockets[0].to_str().unwrap();
        let rendered = Command::new(executable())
            .args(["render", "--policy"])
            .arg(&policy)
            .args(["--listen", &proxy.to_string(), "--admin", &admin.to_string()])
            .args(["--cert-socket", first, "--wasm"])
            .arg(target().join("outgate.wasm"))
            .args(options.arguments)
            .output()
            .unwrap();
        assert!(rendered.status.success(), "{}", String::from_utf8_lossy(&rendered.stderr));
        let mut configuration = String::from_utf8(rendered.stdout).unwrap();
        if options.sockets.len() > 1 {
            configuration = with_replicas(&configuration, options.sockets);
        }
        for (part, other) in options.replace {
            assert!(configuration.contains(part), "the template has no {part}");
            configuration = configuration.replace(part, other);
        }
        let file = directory.path().join("envoy.yaml");
        fs::write(&file, configuration).unwrap();
        let log = fs::File::create(directory.path().join("envoy.log")).unwrap();
        let process = Command::new(target().join("envoy/envoy"))
            .arg("-c")
            .arg(&file)
            .args(["--disable-hot-restart", "--log-level", "warning", "--component-log-level", "wasm:info"])
            .args(["--concurrency", "1"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let envoy = Self { proxy, admin, process, directory };
        wait_for(admin, "/ready").await;
        envoy
    }

    /// The sum of all statistics whose name ends so.
    pub async fn stat(&self, suffix: &str) -> u64 {
        stat(self.admin, suffix).await
    }

    /// The bytes that it has allocated.
    pub async fn memory(&self) -> u64 {
        stat(self.admin, "server.memory_allocated").await
    }

    /// Its log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("envoy.log")).unwrap_or_default()
    }

    /// The processor time that it has used.
    pub fn cpu(&self) -> Duration {
        cpu(self.process.id())
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        end(&mut self.process);
    }
}

/// The sum of all of Envoy's statistics whose name ends so.
pub async fn stat(admin: SocketAddr, suffix: &str) -> u64 {
    let page = client::in_the_clear(admin, Ask::get("/stats").at("admin")).await.body;
    let values = page.lines().filter_map(|line| line.split_once(": "));
    values.filter(|(name, _)| name.ends_with(suffix)).filter_map(|(_, value)| value.parse::<u64>().ok()).sum()
}

/// The processor time that a process has used: of its user and system time, in hundredths of a second.
pub fn cpu(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    // After the name: state is the first, utime the 12th, stime the 13th.
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

/// What clients of a cert-service with this state must trust.
pub fn roots(state: &Path) -> Vec<CertificateDer<'static>> {
    let pem = fs::read(state.join("ca.pem")).unwrap();
    CertificateDer::pem_slice_iter(&pem).map(Result::unwrap).collect()
}

/// The value of one of cert-service's metrics, labels included in its name.
pub async fn metric(http: SocketAddr, name: &str) -> f64 {
    let page = client::in_the_clear(http, Ask::get("/metrics").at("cert-service")).await.body;
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {page}")).parse().unwrap()
}

/// The topology of `docs/cert-service-topologies.md` with shared replicas: a replica that fails is left out at once.
fn with_replicas(configuration: &str, sockets: &[&Path]) -> String {
    let endpoint = |socket: &Path| format!("{{endpoint: {{address: {{pipe: {{path: {socket:?}}}}}}}}}");
    let one = endpoint(sockets[0]);
    assert!(configuration.contains(&one), "the template's endpoint of cert-service is {one}");
    let all: Vec<String> = sockets.iter().map(|socket| endpoint(socket)).collect();
    let ejection = "  - name: cert-service\n    outlier_detection: {consecutive_5xx: 1, consecutive_gateway_failure: 1, enforcing_consecutive_gateway_failure: 100, interval: 0.5s, base_ejection_time: 5s, max_ejection_percent: 100}\n";
    configuration.replace(&one, &all.join(", ")).replace("  - name: cert-service\n", ejection)
}

fn target() -> PathBuf {
    let own = executable();
    let found = own.ancestors().find(|folder| folder.ends_with("target"));
    found.expect("`outgate` lies in target/").to_owned()
}

async fn wait_for(address: SocketAddr, path: &str) {
    let deadline = Instant::now() + START;
    loop {
        if std::net::TcpStream::connect(address).is_ok()
            && client::in_the_clear(address, Ask::get(path).at("wait")).await.status == 200
        {
            return;
        }
        assert!(Instant::now() < deadline, "{address}{path} does not answer 200");
        sleep(Duration::from_millis(50));
    }
}

fn end(process: &mut Child) {
    let _already_gone = process.kill();
    let _reaped = process.wait();
}
