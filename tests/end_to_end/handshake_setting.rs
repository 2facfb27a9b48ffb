//! An Envoy with mTLS listeners alone, as `outgate render --mtls` makes it, and certificates with every fault.
//!
//! The Envoy is that of `ENVOY` if it is set: `make test-envoy-matrix` runs these tests on older ones.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use outgate_tests::certificates::alternative_names;
use outgate_tests::client::{self, Ask};
use outgate_tests::outgate::{executable, free_address};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType,
    SerialNumber,
};
use serde_json::Value;
use tempfile::TempDir;
use time::OffsetDateTime;

/// The serial number that the CRLs name.
pub const REVOKED: u64 = 0x4711;
const DAY: i64 = 86_400;

/// A CA.
pub type Authority = CertifiedIssuer<'static, KeyPair>;

/// What is special about a certificate; a sound one by default. Times are seconds from now.
#[derive(Clone, Debug)]
pub struct Leaf<'a> {
    pub names: Vec<&'a str>,
    pub from: i64,
    pub until: i64,
    pub purpose: ExtendedKeyUsagePurpose,
    pub serial: Option<u64>,
    pub ca: bool,
}

impl Default for Leaf<'_> {
    fn default() -> Self {
        Self {
            names: vec!["client.example"],
            from: -30 * DAY,
            until: 30 * DAY,
            purpose: ExtendedKeyUsagePurpose::ClientAuth,
            serial: None,
            ca: false,
        }
    }
}

impl Leaf<'_> {
    pub fn expired() -> Self {
        Self { until: -DAY, ..Self::default() }
    }

    pub fn not_yet_valid() -> Self {
        Self { from: DAY, ..Self::default() }
    }

    pub fn revoked() -> Self {
        Self { serial: Some(REVOKED), ..Self::default() }
    }

    pub fn for_servers() -> Self {
        Self { purpose: ExtendedKeyUsagePurpose::ServerAuth, ..Self::default() }
    }
}

/// A client's files: its certificate with whatever it sends along, and its key.
#[derive(Clone, Debug)]
pub struct Client {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// CAs and certificates, in files.
pub struct Pki {
    pub folder: TempDir,
    pub root: Authority,
    pub intermediate: Authority,
    pub below: Authority,
    pub stranger: Authority,
    pub servers: Authority,
}

impl Pki {
    pub fn new() -> Self {
        let root = authority("Clients CA");
        let intermediate = authority_of("Clients intermediate CA", &root);
        let below = authority_of("Clients second intermediate CA", &intermediate);
        let pki = Self {
            folder: tempfile::tempdir().unwrap(),
            intermediate,
            below,
            stranger: authority("Stranger CA"),
            servers: authority("Servers CA"),
            root,
        };
        let mut server = parameters("localhost", -DAY, 30 * DAY);
        server.subject_alt_names = vec![SanType::DnsName("localhost".try_into().unwrap())];
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().unwrap();
        let server = server.signed_by(&key, &pki.servers).unwrap();
        pki.write("server.pem", &server.pem());
        pki.write("server.key", &key.serialize_pem());
        pki.write("servers-ca.pem", &pki.servers.pem());
        pki.write("stranger-ca.pem", &pki.stranger.pem());
        pki.write("ca.pem", &pki.root.pem());
        for (name, from, until) in [("crl.pem", -1, 7), ("crl-expired.pem", -14, -7), ("crl-early.pem", 1, 7)]
        {
            pki.write(name, &revocation_list(&pki.root, from * DAY, until * DAY));
        }
        pki.write("crl-stranger.pem", &revocation_list(&pki.stranger, -DAY, DAY));
        pki
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// A certificate of `issuer`, with these CAs sent along.
    pub fn client(&self, issuer: &Authority, leaf: &Leaf<'_>, along: &[&Authority]) -> Client {
        let key = KeyPair::generate().unwrap();
        let certificate = leaf_parameters(leaf).signed_by(&key, issuer).unwrap();
        let chain: String =
            [certificate.pem()].into_iter().chain(along.iter().map(|authority| authority.pem())).collect();
        self.client_files(&chain, &key)
    }

    /// A sound one of the root.
    pub fn sound(&self) -> Client {
        self.client(&self.root, &Leaf::default(), &[])
    }

    pub fn self_signed(&self, leaf: &Leaf<'_>) -> Client {
        let key = KeyPair::generate().unwrap();
        let mut parameters = leaf_parameters(leaf);
        // As `openssl req -x509` makes them: nothing in it says that it could not be its own issuer.
        parameters.key_usages.clear();
        parameters.use_authority_key_identifier_extension = false;
        let certificate = parameters.self_signed(&key).unwrap();
        self.client_files(&certificate.pem(), &key)
    }

    pub fn client_files(&self, chain: &str, key: &KeyPair) -> Client {
        use std::sync::atomic::{AtomicUsize, Ordering};
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Client {
            certificate: self.write(&format!("client-{number}.pem"), chain),
            key: self.write(&format!("client-{number}.key"), &key.serialize_pem()),
        }
    }
}

fn authority(name: &str) -> Authority {
    CertifiedIssuer::self_signed(authority_parameters(name), KeyPair::generate().unwrap()).unwrap()
}

fn authority_of(name: &str, issuer: &Authority) -> Authority {
    CertifiedIssuer::signed_by(authority_parameters(name), KeyPair::generate().unwrap(), issuer).unwrap()
}

fn authority_parameters(name: &str) -> CertificateParams {
    let mut parameters = parameters(name, -40 * DAY, 365 * DAY);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    parameters.use_authority_key_identifier_extension = true;
    parameters
}

pub fn leaf_parameters(leaf: &Leaf<'_>) -> CertificateParams {
    let mut parameters = parameters(leaf.names.first().unwrap_or(&"nobody"), leaf.from, leaf.until);
    parameters.subject_alt_names = alternative_names(&leaf.names);
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![leaf.purpose.clone()];
    parameters.serial_number = leaf.serial.map(SerialNumber::from);
    parameters.use_authority_key_identifier_extension = true;
    if leaf.ca {
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }
    parameters
}

fn parameters(name: &str, from: i64, until: i64) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name.push(DnType::OrganizationName, "Example");
    parameters.distinguished_name.push(DnType::CommonName, name);
    let now = OffsetDateTime::now_utc();
    parameters.not_before = now + time::Duration::seconds(from);
    parameters.not_after = now + time::Duration::seconds(until);
    parameters
}

fn revocation_list(issuer: &Authority, from: i64, until: i64) -> String {
    let now = OffsetDateTime::now_utc();
    CertificateRevocationListParams {
        this_update: now + time::Duration::seconds(from),
        next_update: now + time::Duration::seconds(until),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: vec![RevokedCertParams {
            serial_number: SerialNumber::from(REVOKED),
            revocation_time: now - time::Duration::HOUR,
            reason_code: None,
            invalidity_date: None,
        }],
        key_identifier_method: KeyIdMethod::Sha256,
    }
    .signed_by(issuer)
    .unwrap()
    .pem()
    .unwrap()
}

/// The Envoy under test.
pub fn envoy() -> PathBuf {
    match std::env::var_os("ENVOY") {
        Some(path) => path.into(),
        None => target().join("envoy/envoy"),
    }
}

/// Its minor version: 40 is 1.40.
pub fn minor_version() -> u32 {
    let output = Command::new(envoy()).arg("--version").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (_, rest) = text.split_once("/1.").unwrap_or_else(|| panic!("no version in `{text}`"));
    rest.split('.').next().unwrap().parse().unwrap()
}

fn target() -> PathBuf {
    executable().parent().and_then(Path::parent).unwrap().to_owned()
}

/// A running Envoy.
pub struct Envoy {
    pub admin: SocketAddr,
    /// Where its listeners are, in the order of their settings.
    pub listeners: Vec<SocketAddr>,
    process: Child,
    said: Arc<Mutex<Vec<String>>>,
}

/// What else than settings there is.
#[derive(Clone, Copy, Default)]
pub struct Starting<'a> {
    pub concurrency: u32,
    /// Changes the configuration before Envoy reads it.
    pub edit: Option<&'a dyn Fn(String) -> String>,
}

impl Envoy {
    /// With one listener: `settings` are lines of its file beside address and certificates.
    pub fn start(pki: &Pki, settings: &str) -> Self {
        Self::start_all(pki, &[settings], Starting::default())
    }

    pub fn start_all(pki: &Pki, settings: &[&str], starting: Starting<'_>) -> Self {
        let admin = free_address();
        let listeners: Vec<SocketAddr> = settings.iter().map(|_| free_address()).collect();
        let mut render = Command::new(executable());
        render.args(["render", "--admin", &admin.to_string(), "--wasm"]).arg(target().join("outgate.wasm"));
        if minor_version() < 37 {
            render.args(["--envoy", "1.36"]);
        }
        for (address, settings) in listeners.iter().zip(settings) {
            let mut text = format!("listen: {address}\ncertificate: server.pem\nkey: server.key\n");
            if !settings.contains("\nca: ") && !settings.starts_with("ca: ") {
                text.push_str("ca: ca.pem\n");
            }
            text.push_str(settings);
            let file = pki.write(&format!("listener-{}.yaml", address.port()), &text);
            render.arg("--mtls").arg(file);
        }
        let rendered = render.output().unwrap();
        assert!(rendered.status.success(), "{}", String::from_utf8_lossy(&rendered.stderr));
        let mut configuration = String::from_utf8(rendered.stdout).unwrap();
        if let Some(edit) = starting.edit {
            configuration = edit(configuration);
        }
        let file = pki.write(&format!("envoy-{}.yaml", admin.port()), &configuration);
        let mut process = Command::new(envoy())
            .arg("-c")
            .arg(&file)
            .args(["--disable-hot-restart", "--log-level", "warning", "--component-log-level", "wasm:info"])
            .args(["--file-flush-interval-msec", "100", "--log-format", "[%l][%n] %v"])
            .args(["--concurrency", &starting.concurrency.max(1).to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said: Arc<Mutex<Vec<String>>> = Arc::default();
        let heard = Arc::clone(&said);
        let stderr = BufReader::new(process.stderr.take().unwrap());
        thread::spawn(move || {
            for line in stderr.split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                heard.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        let mut envoy = Self { admin, listeners, process, said };
        envoy.wait_until_ready();
        envoy
    }

    fn wait_until_ready(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        let ready = |admin: SocketAddr| {
            let mut stream = std::net::TcpStream::connect(admin).ok()?;
            use std::io::{Read, Write};
            stream.write_all(b"GET /ready HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n").ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).ok()?;
            answer.contains("200 OK").then_some(())
        };
        while ready(self.admin).is_none() {
            if let Some(status) = self.process.try_wait().unwrap() {
                panic!("envoy ended ({status}):\n{}", self.said().join("\n"));
            }
            assert!(Instant::now() < deadline, "envoy is not ready:\n{}", self.said().join("\n"));
            thread::sleep(Duration::from_millis(30));
        }
    }

    /// Seconds of processor time that it has used.
    pub fn processor_time(&self) -> f64 {
        let threads = fs::read_dir(format!("/proc/{}/task", self.process.id())).unwrap();
        let nanoseconds: u64 = threads
            .filter_map(|thread| {
                let used = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
                used.split(' ').next()?.parse::<u64>().ok()
            })
            .sum();
        nanoseconds as f64 / 1e9
    }

    pub fn address(&self) -> SocketAddr {
        self.listeners[0]
    }

    /// All that it printed.
    pub fn said(&self) -> Vec<String> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All lines of the filter.
    pub fn lines(&self) -> Vec<Value> {
        self.said()
            .iter()
            .filter(|line| line.contains("wasm log handshake"))
            .filter_map(|line| line.get(line.find("{\"")?..))
            .map(|json| serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {json}")))
            .collect()
    }

    pub fn lines_of(&self, action: &str) -> Vec<Value> {
        self.lines().into_iter().filter(|line| line["event"]["action"] == action).collect()
    }

    pub fn failures(&self) -> Vec<Value> {
        self.lines_of("tls.handshake.failure")
    }

    /// The failure after the first `count`.
    pub fn failure(&self, count: usize) -> Value {
        self.nth("tls.handshake.failure", count, Duration::from_secs(5))
    }

    /// The line of this action after the first `count`.
    pub fn nth(&self, action: &str, count: usize, limit: Duration) -> Value {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(line) = self.lines_of(action).into_iter().nth(count) {
                return line;
            }
            assert!(Instant::now() < deadline, "no {action} number {count}:\n{}", self.said().join("\n"));
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Envoy's metrics.
    pub async fn metrics(&self) -> String {
        client::in_the_clear(self.admin, Ask::get("/stats/prometheus").at("admin")).await.body
    }

    /// One series, by its whole name with labels.
    pub async fn metric(&self, series: &str) -> Option<u64> {
        let metrics = self.metrics().await;
        let line = metrics.lines().find(|line| line.starts_with(series))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    /// The sum of all series of a metric.
    pub async fn total(&self, name: &str) -> u64 {
        let metrics = self.metrics().await;
        let of = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        metrics.lines().filter(of).filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }
}

impl Envoy {
    /// Ends it as an operator does, and tells all lines that it wrote.
    pub fn end(mut self) -> Vec<Value> {
        let process = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(process, rustix::process::Signal::TERM).unwrap();
        let _status = self.process.wait();
        thread::sleep(Duration::from_millis(200));
        self.lines()
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _already_gone = self.process.kill();
        let _reaped = self.process.wait();
    }
}

/// `openssl s_client`, which writes one request and reads what comes.
pub fn openssl(address: SocketAddr, client: Option<&Client>, more: &[&str]) -> Output {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &address.to_string(), "-servername", "localhost", "-ign_eof"]);
    if let Some(client) = client {
        command.arg("-cert").arg(&client.certificate).arg("-cert_chain").arg(&client.certificate);
        command.arg("-key").arg(&client.key);
    }
    command.args(more).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    {
        use std::io::Write;
        let mut stdin = child.stdin.take().unwrap();
        let _closed_early = stdin.write_all(b"GET /who HTTP/1.0\r\nHost: localhost\r\n\r\n");
    }
    child.wait_with_output().unwrap()
}

/// Python's `ssl`, likewise; prints what it read, or the error.
pub fn python(address: SocketAddr, client: Option<&Client>, version: &str) -> String {
    const SCRIPT: &str = "
import socket, ssl, sys, warnings
warnings.simplefilter('ignore')
port, version, certificate, key = sys.argv[1:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
if certificate: context.load_cert_chain(certificate, key)
if version == 'TLSv1_1': context.set_ciphers('ALL:@SECLEVEL=0')
context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
try:
    stream = context.wrap_socket(socket.create_connection(('127.0.0.1', int(port)), 5), server_hostname='localhost')
    stream.sendall(b'GET /who HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n')
    print(stream.recv(65536).decode())
except OSError as error: print('error:', error)
";
    let path = |file: &dyn Fn(&Client) -> PathBuf| client.map(file).unwrap_or_default();
    let output = Command::new("python3")
        .args(["-c", SCRIPT, &address.port().to_string(), version])
        .arg(path(&|client| client.certificate.clone()))
        .arg(path(&|client| client.key.clone()))
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// rustls, likewise; what it read, or the error.
pub async fn rustls(
    address: SocketAddr,
    client: Option<&Client>,
    version: &'static rustls::SupportedProtocolVersion,
) -> std::io::Result<String> {
    use rustls_pki_types::pem::PemObject;
    use rustls_pki_types::{CertificateDer, PrivateKeyDer};
    let mut roots = rustls::RootCertStore::empty();
    let folder = client.map(|client| client.certificate.parent().unwrap().to_owned());
    let tls = client::Tls { version: Some(version), ..client::Tls::new("localhost", Vec::new()) };
    let Some((client, folder)) = client.zip(folder) else {
        let stream = tokio::net::TcpStream::connect(address).await?;
        return Ok(client::over_tls(tls.http1().handshake(stream).await?, Ask::get("/who").at("localhost"))
            .await?
            .body);
    };
    roots.add(CertificateDer::from_pem_file(folder.join("servers-ca.pem")).unwrap()).unwrap();
    let chain = CertificateDer::pem_file_iter(&client.certificate).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(&client.key).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let configuration = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    let stream = tokio::net::TcpStream::connect(address).await?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(configuration));
    let stream = connector.connect("localhost".try_into().unwrap(), stream).await?;
    Ok(client::over_tls(stream, Ask::get("/who").at("localhost")).await?.body)
}
