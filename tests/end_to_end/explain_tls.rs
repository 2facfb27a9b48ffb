//! `outgate explain-tls` and `outgate top` on failures that a real Envoy logged, and the commands of `docs/tls`.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use outgate_tests::certificates::{Authority, Identity, Profile};
use outgate_tests::client::{self, Ask, Tls};
use outgate_tests::outgate::{Options, Outgate, executable, free_address};
use serde_json::Value;
use tokio::net::TcpStream;

const DENY_ALL: &str = "name: deny-all\nrules: []\n";

/// A proxy whose mTLS listener has refused an expired certificate three times and no certificate once.
struct Refused {
    outgate: Outgate,
    expired: Arc<Identity>,
    _folder: tempfile::TempDir,
}

impl Refused {
    async fn new() -> Self {
        let clients = Authority::new("Clients CA");
        let folder = tempfile::tempdir().unwrap();
        let ca = folder.path().join("clients.pem");
        fs::write(&ca, clients.pem()).unwrap();
        let outgate = Outgate::start(DENY_ALL, Options::default().mtls(&ca));
        let expired = Arc::new(clients.issue(&["client.example"], &Profile::client().expired()));
        let tls = Tls::new("localhost", outgate.roots()).http1();
        for identity in [Some(&expired), Some(&expired), Some(&expired), None] {
            let tls = Tls { identity: identity.cloned(), ..tls.clone() };
            let stream = TcpStream::connect(outgate.mtls).await.unwrap();
            let asked = match tls.handshake(stream).await {
                Ok(stream) => client::over_tls(stream, Ask::get("/").at("localhost")).await.map(|_| ()),
                Err(error) => Err(error),
            };
            assert!(asked.is_err());
        }
        let refused = Self { outgate, expired, _folder: folder };
        let logged = || {
            let lines = refused.outgate.log();
            lines.iter().filter(|line| line["event"]["action"] == "tls.handshake.failure").count()
        };
        wait_until("four lines", || logged() == 4);
        refused
    }
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "{what} did not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs `outgate` with text on its standard input.
fn outgate(arguments: &[&str], input: &[u8]) -> Output {
    let mut process = Command::new(executable())
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    process.stdin.take().unwrap().write_all(input).unwrap();
    process.wait_with_output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_of_a_real_envoy_are_explained_totalled_and_watched() {
    let refused = Refused::new().await;
    let log = fs::read(refused.outgate.log_file()).unwrap();

    // The whole log, from standard input and from its file.
    let totals: Value = serde_json::from_slice(&outgate(&["explain-tls", "--json"], &log).stdout).unwrap();
    let path = refused.outgate.log_file();
    let path = path.to_str().unwrap();
    assert_eq!(
        totals,
        serde_json::from_slice::<Value>(&outgate(&["explain-tls", "--json", path], b"").stdout).unwrap()
    );
    assert_eq!(totals["failures"], 4, "{totals:#}");
    assert_eq!(totals["categories"]["certificate_expired"], 3, "{totals:#}");
    assert_eq!(totals["categories"]["client_certificate_missing"], 1, "{totals:#}");
    assert_eq!(totals["top"]["sources"][0]["key"], "127.0.0.1", "{totals:#}");

    // Envoy's words alone say the same.
    let lines = refused.outgate.log();
    for line in lines.iter().filter(|line| line["event"]["action"] == "tls.handshake.failure") {
        let words = line["error"]["message"].as_str().unwrap();
        for words in [words.to_owned(), words.replace(' ', "_")] {
            let explained = outgate(&["explain-tls", "--json", &words], b"");
            let explained: Value = serde_json::from_slice(&explained.stdout).unwrap();
            assert_eq!(explained["readings"][0]["reason"], line["event"]["reason"], "{explained:#}");
            assert_eq!(explained["readings"][0]["category"], line["error"]["type"], "{explained:#}");
        }
    }

    // The certificate itself does, too.
    let examined = outgate(&["explain-tls", "--json"], refused.expired.certificate_pem.as_bytes());
    let examined: Value = serde_json::from_slice(&examined.stdout).unwrap();
    assert_eq!(examined["findings"][0]["reason"], "expired", "{examined:#}");
    let sha256 = examined["certificates"][0]["sha256"].as_str().unwrap();

    // One frame shows the offender, by the log and by Envoy's counters.
    let admin = refused.outgate.admin.to_string();
    let frame = outgate(&["top", "--once", "--admin", &admin, "--log", path], b"");
    let shown = text(&frame);
    assert!(frame.status.success(), "{shown}");
    let rows: Vec<Vec<&str>> = shown.lines().map(|line| line.split_whitespace().collect()).collect();
    for row in [
        &["4", "127.0.0.1"][..],
        &["3", sha256],
        &["4", "localhost"],
        &["3", "certificate_expired"],
        &["3", "-", "certificate_expired", "/", "expired"],
        &["1", "-", "client_certificate_missing", "/", "no_client_certificate"],
    ] {
        assert!(rows.iter().any(|known| known == row), "{row:?} is not in\n{shown}");
    }
    assert!(shown.contains("listener mtls: 4 failed"), "{shown}");
}

#[test]
fn what_top_cannot_read_it_says_and_ends_with_2() {
    let admin = free_address().to_string();
    let frame = outgate(&["top", "--once", "--admin", &admin, "--log", "/no/such/log"], b"");
    let said = text(&frame);
    assert_eq!(frame.status.code(), Some(2), "{said}");
    for words in [admin.as_str(), "--admin", "/no/such/log"] {
        assert!(said.contains(words), "{words} is not in\n{said}");
    }
}

/// Python has what a terminal is made of.
#[test]
fn top_takes_the_other_screen_of_a_terminal_and_gives_it_back() {
    const SCRIPT: &str = "
import os, pty, signal, sys, time
pid, terminal = pty.fork()
if pid == 0: os.execv(sys.argv[1], sys.argv[1:])
seen = b''
while seen.count(b'\\x1b[H') < 2: seen += os.read(terminal, 65536)
os.write(terminal, b'\\x03')
try:
    while part := os.read(terminal, 65536): seen += part
except OSError: pass
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
print(repr(seen.decode()))
";
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    fs::write(
        &log,
        "192.0.2.7:1 TLS_error:|268435612:SSL_routines:OPENSSL_internal:HTTP_REQUEST:TLS_error_end\n",
    )
    .unwrap();
    let output = Command::new("python3")
        .args(["-c", SCRIPT])
        .arg(executable())
        .args(["top", "--log"])
        .arg(&log)
        .output()
        .unwrap();
    let said = text(&output);
    let (status, seen) = said.split_once('\n').unwrap();
    assert_eq!(status, "0", "{said}");
    assert!(seen.starts_with("'\\x1b[?1049h\\x1b[?25l\\x1b[H"), "{seen}");
    assert!(seen.contains("192.0.2.7"), "{seen}");
    assert!(seen.trim_end().ends_with("\\x1b[?25h\\x1b[?1049l'"), "{seen}");
}

/// Each command of `docs/tls` has the effect under which it stands.
#[test]
fn the_commands_of_the_documentation_do_what_they_say() {
    let documentation = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/tls");
    let folder = tempfile::tempdir().unwrap();
    let addresses = Addresses::new();
    let index = addresses.applied(&fs::read_to_string(documentation.join("README.md")).unwrap());
    let [functions, certificates, listeners] = &blocks(&index)[..] else {
        panic!("three blocks in the index")
    };
    let shell = Shell { folder: folder.path(), functions };
    shell.run(certificates);
    shell.run(listeners);
    let mut envoy = Envoy::start(folder.path());
    wait_until("Envoy", || {
        envoy.assert_runs();
        std::net::TcpStream::connect(addresses.admin()).is_ok()
            && std::net::TcpStream::connect(addresses.of(8443)).is_ok()
    });
    // That look was a failure of its own.
    wait_until("the first line", || envoy.failures().contains_key("closed_before_hello"));

    let mut pages: Vec<PathBuf> =
        fs::read_dir(&documentation).unwrap().map(|entry| entry.unwrap().path()).collect();
    pages.sort();
    let mut reproduced = 0;
    for page in pages.iter().filter(|page| !page.ends_with("README.md")) {
        let page = addresses.applied(&fs::read_to_string(page).unwrap());
        for section in page.split("\n## ").skip(1) {
            let reason = section.lines().next().unwrap();
            for commands in blocks(section) {
                let mut before = envoy.failures();
                shell.run(&commands);
                wait_until(reason, || envoy.failures() != before);
                let mut after = envoy.failures();
                let [count, was] = [&mut after, &mut before].map(|failures| failures.remove(reason));
                assert!(count > was, "{reason}: {commands}{before:#?}, then {after:#?}");
                assert_eq!(after, before, "{reason}: {commands}");
                reproduced += 1;
            }
        }
    }
    assert!(reproduced >= 40, "{reproduced}");
}

/// The contents of ```sh blocks.
fn blocks(page: &str) -> Vec<String> {
    let parts = page.split("\n```sh\n").skip(1);
    parts.map(|part| part.split("\n```").next().unwrap().to_owned() + "\n").collect()
}

/// The documentation's ports, and free ones instead.
struct Addresses(BTreeMap<u16, SocketAddr>);

impl Addresses {
    fn new() -> Self {
        Self((8443..=8451).chain([9901]).map(|port| (port, free_address())).collect())
    }

    fn of(&self, port: u16) -> SocketAddr {
        self.0[&port]
    }

    fn admin(&self) -> SocketAddr {
        self.of(9901)
    }

    fn applied(&self, page: &str) -> String {
        // Free ports are above 9999: none is one that is yet to be replaced.
        self.0.iter().fold(page.to_owned(), |page, (port, address)| {
            page.replace(&port.to_string(), &address.port().to_string())
        })
    }
}

struct Shell<'a> {
    folder: &'a Path,
    functions: &'a str,
}

impl Shell<'_> {
    fn run(&self, commands: &str) {
        let target = executable().parent().unwrap().to_owned();
        let path = format!("{}:{}", target.display(), std::env::var("PATH").unwrap());
        let output = Command::new("bash")
            .args(["-c", &format!("{}\n{commands}", self.functions)])
            .current_dir(self.folder)
            .env("PATH", path)
            .env("OUTGATE_WASM", target.parent().unwrap().join("outgate.wasm"))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        // What is refused ends with whatever status; what was not found is a mistake.
        let said = text(&output);
        assert!(!said.contains("command not found") && !said.contains("No such file"), "{commands}\n{said}");
    }
}

struct Envoy {
    process: Child,
    log: PathBuf,
}

impl Envoy {
    fn start(folder: &Path) -> Self {
        let envoy = executable().parent().and_then(Path::parent).unwrap().join("envoy/envoy");
        let log = folder.join("envoy.log");
        let process = Command::new(envoy)
            .args([
                "-c",
                "envoy.yaml",
                "--component-log-level",
                "wasm:info",
                "--disable-hot-restart",
                "--concurrency",
                "1",
            ])
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self { process, log }
    }

    fn assert_runs(&mut self) {
        if let Some(status) = self.process.try_wait().unwrap() {
            panic!("envoy ended ({status}):\n{}", fs::read_to_string(&self.log).unwrap());
        }
    }

    /// How often each reason was logged, as explain-tls reads Envoy's own log.
    fn failures(&self) -> BTreeMap<String, u64> {
        let output = outgate(&["explain-tls", "--json", self.log.to_str().unwrap()], b"");
        let Ok(totals) = serde_json::from_slice::<Value>(&output.stdout) else { return BTreeMap::new() };
        let reasons = totals["reasons"].as_array().cloned().unwrap_or_default();
        let counted = reasons.iter().map(|reason| {
            (reason["reason"].as_str().unwrap().to_owned(), reason["failures"].as_u64().unwrap())
        });
        counted.collect()
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _already_gone = self.process.kill();
        let _reaped = self.process.wait();
    }
}
