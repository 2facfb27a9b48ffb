//! cert-service, as `outgate run` keeps it.

use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use outgate_policy::Engine;
use signal_hook::iterator::Signals;

use super::child::Process;
use super::state::{self, State};
use super::{RunArgs, RunError, SERVER_NAME, envoy, wait};

/// cert-service, started again whenever it ends.
pub struct CertService {
    process: Process,
    program: PathBuf,
    arguments: Vec<OsString>,
    socket: PathBuf,
    ready_url: String,
    ready: Arc<AtomicBool>,
    audit: PathBuf,
    log: PathBuf,
    restart: Option<Instant>,
    backoff: Duration,
    started: Instant,
}

impl CertService {
    /// How often it is asked whether it is ready.
    const WATCH: Duration = Duration::from_millis(250);
    const FIRST_BACKOFF: Duration = Duration::from_secs(1);
    const LAST_BACKOFF: Duration = Duration::from_secs(30);
    /// How long it may take to answer.
    const ANSWER: Duration = Duration::from_secs(2);

    /// Starts it for this run.
    pub fn start(
        program: PathBuf,
        args: &RunArgs,
        state: &State,
        dns: SocketAddr,
        engine: &Engine,
    ) -> Result<Self, RunError> {
        let mut arguments: Vec<OsString> = vec![
            "--state".into(),
            state.path().into(),
            "--socket".into(),
            state.cert_socket().into(),
            "--http".into(),
            args.cert_http.to_string().into(),
        ];
        arguments.extend(["--dns-listen".into(), dns.to_string().into()]);
        for upstream in &args.dns {
            arguments.extend(["--dns-upstream".into(), upstream.into()]);
        }
        for range in &engine.document().outgate.allow_private {
            arguments.extend(["--allow-private".into(), range.to_string().into()]);
        }
        let minted = |listen: Option<SocketAddr>, certificate: &Option<PathBuf>| {
            listen.is_some() && certificate.is_none()
        };
        if minted(args.mtls_listen, &args.mtls_cert) || minted(args.tls_listen, &args.tls_cert) {
            arguments.extend(["--serve".into(), SERVER_NAME.into()]);
        }
        for (option, value) in [("--max-leases", &args.max_leases), ("--leaf-ttl", &args.leaf_ttl)] {
            if let Some(value) = value {
                arguments.extend([option.into(), value.into()]);
            }
        }
        for (option, path) in [
            ("--ca", &args.ca),
            ("--ca-key", &args.ca_key),
            ("--ca-key-passphrase", &args.ca_key_passphrase),
            ("--config", &args.cert_config),
        ] {
            if let Some(path) = path {
                arguments.extend([option.into(), path.into()]);
            }
        }
        let (audit, log) = (state.cert_service_audit(), state.cert_service_log());
        Ok(Self {
            process: Self::spawn(&program, &arguments, &audit, &log)?,
            program,
            arguments,
            socket: state.cert_socket(),
            ready_url: format!("http://{}/readyz", args.cert_http),
            ready: Arc::new(AtomicBool::new(true)),
            audit,
            log,
            restart: None,
            backoff: Self::FIRST_BACKOFF,
            started: Instant::now(),
        })
    }

    fn spawn(program: &Path, arguments: &[OsString], audit: &Path, log: &Path) -> Result<Process, RunError> {
        let failed = |error| RunError::Start { name: "cert-service", error };
        let audit = state::append(audit).map_err(failed)?;
        let log = state::append(log).map_err(failed)?;
        Process::start("cert-service", program, arguments, audit.into(), log.into()).map_err(failed)
    }

    /// Waits until it can sign and serve.
    pub fn wait_ready(&mut self, signals: &mut Signals) -> Result<(), RunError> {
        let url = self.ready_url.clone();
        wait(&mut self.process, signals, &self.log, || envoy::answers(&url))?;
        let ready = Arc::downgrade(&self.ready);
        thread::spawn(move || {
            while let Some(ready) = ready.upgrade() {
                ready.store(envoy::answers(&url), Ordering::Relaxed);
                drop(ready);
                thread::sleep(Self::WATCH);
            }
        });
        Ok(())
    }

    /// Whether it could sign and resolve when it was asked last.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    /// Tells it the policy in force, so that it takes back certificates of hosts that are inspected no more.
    pub fn follow(&self, policy: &serde_json::Value) -> std::io::Result<()> {
        let body = policy.to_string();
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(Self::ANSWER))?;
        stream.set_write_timeout(Some(Self::ANSWER))?;
        write!(
            stream,
            "POST /v1/policy HTTP/1.1\r\nhost: cert-service\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let status = answer.lines().next().unwrap_or_default();
        if status.contains(" 200 ") { Ok(()) } else { Err(std::io::Error::other(status.to_owned())) }
    }

    /// Starts it again if it ended: granted hosts go on meanwhile, new ones are refused.
    pub fn keep_running(&mut self) {
        match (self.process.ended(), self.restart) {
            (None, _) => {}
            (Some(status), None) => {
                if self.started.elapsed() > Self::LAST_BACKOFF {
                    self.backoff = Self::FIRST_BACKOFF;
                }
                eprintln!(
                    "outgate: cert-service ended ({status}); starting it again in {} s; until then new hosts are not inspected{}",
                    self.backoff.as_secs(),
                    state::tail(&self.log),
                );
                self.restart = Some(Instant::now() + self.backoff);
                self.backoff = (self.backoff * 2).min(Self::LAST_BACKOFF);
            }
            (Some(_), Some(at)) if Instant::now() >= at => {
                self.restart = None;
                self.started = Instant::now();
                match Self::spawn(&self.program, &self.arguments, &self.audit, &self.log) {
                    Ok(process) => {
                        self.process = process;
                        eprintln!("outgate: cert-service started again");
                    }
                    Err(error) => eprintln!("outgate: {error}"),
                }
            }
            (Some(_), Some(_)) => {}
        }
    }
}
