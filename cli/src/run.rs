//! `outgate run`: from a policy file to a running proxy, and from a changed file to a changed proxy.

mod cert_service;
pub mod child;
mod envoy;
mod locate;
mod log;
mod pem_file;
pub mod policy_file;
mod ports;
mod rejections;
mod roots;
mod state;

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::Args;
use outgate_policy::{Destination, Engine};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use crate::render::mtls::{Mtls, MtlsFile, MtlsFileError};
use crate::render::{MAX_CONNECTIONS, MAX_HEAP, Rendering};
use crate::resolve::{Resolve, ResolveError, in_order};
use crate::upstream_tls::UpstreamTls;
use cert_service::CertService;
use child::Process;
use envoy::Admin;
use log::DecisionLog;
use policy_file::{Change, PolicyFile};
use state::State;

/// The name of our listeners' certificate when the operator brings none.
const SERVER_NAME: &str = "localhost";

/// The explicit listener over TLS, as it is called in metrics and lines.
const TLS_LISTENER: &str = "outgate-tls";

/// How long a start may take on a slow machine.
const START: Duration = Duration::from_secs(60);

/// Options of `outgate run`.
#[derive(Args, Debug)]
pub struct RunArgs {
    /// The policy: YAML or JSON, watched for changes
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// Where clients reach the proxy
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:3128")]
    listen: SocketAddr,
    /// Envoy's admin interface: /ready, /stats/prometheus
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9901")]
    admin: SocketAddr,
    /// cert-service's health, metrics and CA download
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9902")]
    cert_http: SocketAddr,
    /// The proxy over TLS, for clients that show a certificate; it must verify, and identities hang on it
    #[arg(long, value_name = "ADDR", requires = "tls_client_ca")]
    tls_listen: Option<SocketAddr>,
    /// CAs of the certificates that clients may show there
    #[arg(long, value_name = "PEM", requires = "tls_listen")]
    tls_client_ca: Option<PathBuf>,
    /// Revocation lists of these CAs
    #[arg(long, value_name = "PEM", requires = "tls_listen")]
    tls_client_crl: Option<PathBuf>,
    /// That listener's certificate chain [default: minted for localhost]
    #[arg(long, value_name = "PEM", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The key of --tls-cert
    #[arg(long, value_name = "PEM", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// A listener that demands client certificates and explains every failed handshake
    #[arg(long, value_name = "ADDR", requires = "mtls_ca")]
    mtls_listen: Option<SocketAddr>,
    /// CAs of the client certificates
    #[arg(long, value_name = "PEM", requires = "mtls_listen")]
    mtls_ca: Option<PathBuf>,
    /// Revocation lists of these CAs
    #[arg(long, value_name = "PEM", requires = "mtls_listen")]
    mtls_crl: Option<PathBuf>,
    /// The listener's certificate chain [default: minted for localhost]
    #[arg(long, value_name = "PEM", requires = "mtls_key")]
    mtls_cert: Option<PathBuf>,
    /// The key of --mtls-cert
    #[arg(long, value_name = "PEM", requires = "mtls_cert")]
    mtls_key: Option<PathBuf>,
    /// Where good requests go, over plain HTTP [default: answered with the identity seen]
    #[arg(long, value_name = "HOST:PORT", requires = "mtls_listen", value_parser = parse_destination)]
    mtls_upstream: Option<Destination>,
    /// More of the mTLS listener: names, pins, PROXY protocol, what is logged and how (docs/mtls-listener.md)
    #[arg(long, value_name = "FILE", requires = "mtls_listen")]
    mtls_settings: Option<PathBuf>,
    /// Development CA and working files; clients must trust DIR/ca.pem
    #[arg(long, value_name = "DIR", default_value = ".outgate")]
    state: PathBuf,
    /// Connect to ADDR for HOST:PORT, as curl does; HOST may be `*`; private addresses are fine
    #[arg(long, value_name = "HOST:PORT:ADDR[:PORT]")]
    resolve: Vec<Resolve>,
    /// More roots that origins of inspected requests may chain to
    #[arg(long, value_name = "PEM")]
    upstream_ca: Vec<PathBuf>,
    /// The resolver to ask, instead of those of /etc/resolv.conf; may be repeated
    #[arg(long, value_name = "ADDR")]
    dns: Vec<String>,
    /// Envoy's executable [default: ENVOY, func-e, or the one that make fetched]
    #[arg(long, value_name = "PATH")]
    envoy: Option<PathBuf>,
    /// Envoy's worker threads [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    concurrency: Option<u32>,
    /// The most connections of clients at one time; more are turned away
    #[arg(long, value_name = "N", default_value_t = MAX_CONNECTIONS, value_parser = clap::value_parser!(u32).range(1..))]
    max_connections: u32,
    /// The most connections of one client address at one time [default: no limit but --max-connections]
    #[arg(long, value_name = "N")]
    max_connections_per_client: Option<NonZeroU32>,
    /// How much memory Envoy may use; near it, requests and then connections are refused
    #[arg(long, value_name = "MIB", default_value_t = MAX_HEAP, value_parser = clap::value_parser!(u32).range(16..))]
    max_heap: u32,
    /// The most hosts that Envoy holds certificates for, about 32 KB each [default: cert-service's]
    #[arg(long, value_name = "N")]
    max_leases: Option<String>,
    /// How long a certificate is valid, 1h to 7d; it is replaced at two thirds [default: cert-service's]
    #[arg(long, value_name = "DURATION")]
    leaf_ttl: Option<String>,
    /// The CA that signs certificates, then its intermediates; watched for changes [default: one for development]
    #[arg(long, value_name = "PEM", requires = "ca_key")]
    ca: Option<PathBuf>,
    /// The private key of --ca
    #[arg(long, value_name = "PEM", requires = "ca")]
    ca_key: Option<PathBuf>,
    /// The file whose first line is the passphrase of --ca-key
    #[arg(long, value_name = "FILE", requires = "ca_key")]
    ca_key_passphrase: Option<PathBuf>,
    /// CA pools, as YAML or JSON, instead of --ca; watched for changes
    #[arg(long, value_name = "FILE", conflicts_with = "ca")]
    cert_config: Option<PathBuf>,
    /// Decisions and handshake failures, as JSON lines [default: standard output]
    #[arg(long, value_name = "FILE")]
    log_file: Option<PathBuf>,
    /// The share of allowances that is logged, 0 to 1; denials always are [default: the policy's, else 1]
    #[arg(long, value_name = "SHARE", value_parser = parse_share)]
    log_allowances: Option<f64>,
    /// After SIGTERM, how long open connections may go on
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_seconds)]
    drain: Duration,
}

/// What ended a run before its time.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error(transparent)]
    Port(#[from] ports::PortError),
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    #[error(transparent)]
    Locate(#[from] locate::LocateError),
    #[error(transparent)]
    State(#[from] state::StateError),
    #[error(transparent)]
    PolicyFile(#[from] policy_file::PolicyFileError),
    #[error(transparent)]
    PemFile(#[from] pem_file::PemFileError),
    #[error(transparent)]
    Roots(#[from] roots::RootsError),
    #[error(transparent)]
    UpstreamTls(#[from] crate::upstream_tls::UpstreamTlsError),
    #[error(transparent)]
    Render(#[from] crate::render::RenderError),
    #[error(transparent)]
    Mtls(#[from] MtlsFileError),
    #[error(transparent)]
    Envoy(#[from] envoy::EnvoyError),
    #[error("cannot start {name}: {error}")]
    Start { name: &'static str, error: std::io::Error },
    #[error("interrupted, ending")]
    Interrupted,
    #[error("{name} ended ({status}){hint}")]
    Ended { name: &'static str, status: String, hint: String },
    #[error("{name} is not ready after {} s{hint}", START.as_secs())]
    Late { name: &'static str, hint: String },
    #[error("cannot open the log `{}`: {error}", .path.display())]
    Log { path: PathBuf, error: std::io::Error },
    #[error("cannot watch for signals: {0}")]
    Signals(std::io::Error),
}

/// Runs until a signal or a failure ends it. Exit status: 0 after a signal, 1 after a failure, 2 for a bad policy.
pub fn run(args: &RunArgs) -> ExitCode {
    match Run::start(args).and_then(|mut run| run.watch()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("outgate: {error}");
            match error {
                RunError::Interrupted => ExitCode::SUCCESS,
                RunError::PolicyFile(_) => ExitCode::from(2),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

struct Run {
    // Ended in this order: first what needs the others.
    envoy: Process,
    cert_service: CertService,
    policy_file: PolicyFile,
    rendering: Rendering,
    bootstrap: String,
    upstream_cas: Vec<PathBuf>,
    log_allowances: Option<f64>,
    drain: Duration,
    hash: String,
    /// What `/ready` says.
    ready: bool,
    state: State,
    admin: Admin,
    log: DecisionLog,
    signals: Signals,
}

impl Run {
    fn start(args: &RunArgs) -> Result<Self, RunError> {
        let mut addresses =
            vec![("--listen", args.listen), ("--admin", args.admin), ("--cert-http", args.cert_http)];
        addresses.extend(args.mtls_listen.map(|address| ("--mtls-listen", address)));
        addresses.extend(args.tls_listen.map(|address| ("--tls-listen", address)));
        ports::check(&addresses)?;
        let (policy_file, policy) = PolicyFile::open(&args.policy)?;
        let wasm = locate::wasm()?;
        let cert_service = locate::cert_service()?;
        let envoy = locate::envoy(args.envoy.as_deref())?;
        for (option, path, tag) in [
            ("--tls-client-ca", &args.tls_client_ca, "CERTIFICATE"),
            ("--tls-client-crl", &args.tls_client_crl, "X509 CRL"),
            ("--tls-cert", &args.tls_cert, "CERTIFICATE"),
            ("--tls-key", &args.tls_key, "PRIVATE KEY"),
            ("--mtls-ca", &args.mtls_ca, "CERTIFICATE"),
            ("--mtls-crl", &args.mtls_crl, "X509 CRL"),
            ("--mtls-cert", &args.mtls_cert, "CERTIFICATE"),
            ("--mtls-key", &args.mtls_key, "PRIVATE KEY"),
        ] {
            if let Some(path) = path {
                pem_file::check(option, path, tag)?;
            }
        }
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGUSR1]).map_err(RunError::Signals)?;
        let state = State::open(&args.state)?;
        let log = DecisionLog::open(args.log_file.as_deref())
            .map_err(|error| RunError::Log { path: args.log_file.clone().unwrap_or_default(), error })?;

        let outgate = &policy.engine.document().outgate;
        let listeners: Vec<_> = addresses.iter().map(|(_, address)| *address).collect();
        let rendering = Rendering {
            upstream_tls: upstream_tls(&policy.engine, &state, &args.upstream_ca)?,
            policy: policy.value,
            patterns: policy.engine.programs().clone(),
            own: ports::reached_by(&listeners),
            tls: tls(args)?,
            allow_private: outgate.allow_private.clone(),
            proxy_protocol: !outgate.proxy_protocol_from.is_empty(),
            max_connections_per_client: args.max_connections_per_client,
            max_heap: args.max_heap,
            listen: args.listen,
            admin: args.admin,
            mtls: mtls(args)?,
            resolve: in_order(args.resolve.clone())?,
            wasm,
            cert_socket: state.cert_socket(),
            dns: ports::free_for_dns()?,
            max_connections: args.max_connections,
            shards: outgate_filter::routing::Routing::default().shards,
            allowances: args.log_allowances.unwrap_or(outgate.log_allowances),
            discovery: Some(state.discovery()),
            generation: 0,
        };
        let bootstrap = rendering.bootstrap()?;
        state.write_discovery(&rendering)?;
        state.write_bootstrap(&bootstrap)?;

        let mut cert_service = CertService::start(cert_service, args, &state, rendering.dns, &policy.engine)?;
        cert_service.wait_ready(&mut signals)?;
        envoy::validate(&envoy, &state)?;
        interrupted(&mut signals)?;
        let mut envoy = envoy::start(&envoy, &state, args.concurrency, &log)?;
        let admin = Admin::new(args.admin);
        wait(&mut envoy, &mut signals, &state.envoy_log(), || admin.is_ready())?;

        let run = Self {
            envoy,
            cert_service,
            policy_file,
            rendering,
            bootstrap,
            upstream_cas: args.upstream_ca.clone(),
            log_allowances: args.log_allowances,
            drain: args.drain,
            hash: policy.engine.hash().to_owned(),
            ready: true,
            state,
            admin,
            log,
            signals,
        };
        run.announce(args, &policy.engine);
        Ok(run)
    }

    fn announce(&self, args: &RunArgs, engine: &Engine) {
        eprintln!(
            "outgate: policy `{}` ({}), {} rules in force",
            engine.document().name,
            self.hash,
            engine.rules().len()
        );
        eprintln!("outgate: proxy     http://{}", args.listen);
        if let Some(tls) = args.tls_listen {
            eprintln!("outgate: proxy/tls https://{SERVER_NAME}:{} on {tls}", tls.port());
        }
        if let Some(mtls) = args.mtls_listen {
            eprintln!("outgate: mtls      https://{SERVER_NAME}:{} on {mtls}", mtls.port());
        }
        eprintln!("outgate: admin     http://{}/ready http://{0}/stats/prometheus", args.admin);
        eprintln!("outgate: cert-http http://{}/readyz http://{0}/metrics http://{0}/ca.pem", args.cert_http);
        eprintln!("outgate: clients must trust {}", self.state.ca().display());
        eprintln!("outgate: logs of Envoy and cert-service lie in {}", self.state.path().display());
        eprintln!("outgate: ready");
    }

    /// Until a signal, or the end of Envoy.
    fn watch(&mut self) -> Result<(), RunError> {
        loop {
            match self.signals.pending().next() {
                None => {}
                Some(SIGUSR1) => self.log.reopen(),
                Some(SIGTERM) => {
                    self.drain();
                    break;
                }
                Some(_) => {
                    eprintln!("outgate: interrupted, ending");
                    break;
                }
            }
            if let Some(status) = self.envoy.ended() {
                return Err(RunError::Ended {
                    name: "envoy",
                    status,
                    hint: state::tail(&self.state.envoy_log()),
                });
            }
            self.cert_service.keep_running();
            self.tell_readiness();
            self.suggest();
            match self.policy_file.poll() {
                Change::None => {}
                Change::Refused(error) => {
                    eprintln!("outgate: {error}");
                    eprintln!("outgate: policy {} stays in force", self.hash);
                }
                Change::Policy(policy) => self.swap(*policy),
            }
            sleep(Duration::from_millis(50));
        }
        if self.log.dropped() > 0 {
            eprintln!(
                "outgate: {} lines of the log were dropped; its reader was too slow",
                self.log.dropped()
            );
        }
        self.envoy.stop(Duration::from_secs(5));
        Ok(())
    }

    /// Clients that reject our certificates may have reasons.
    fn suggest(&self) {
        for rejected in self.log.rejected() {
            // It compiled before.
            if let Ok(engine) = Engine::from_value(&self.rendering.policy) {
                eprintln!("outgate: {}", rejected.suggestion(&engine));
            }
        }
    }

    /// Without cert-service fresh names are neither resolved nor inspected: clients should go elsewhere if they can.
    fn tell_readiness(&mut self) {
        let ready = self.cert_service.is_ready();
        if ready == self.ready || self.admin.set_ready(ready).is_err() {
            return;
        }
        self.ready = ready;
        if ready {
            eprintln!("outgate: cert-service and its resolver answer again; /ready says so");
        } else {
            eprintln!("outgate: cert-service or its resolver does not answer; not ready until it does");
        }
    }

    /// Takes no new connections and lets the open ones end; another signal, or the limit, cuts them.
    fn drain(&mut self) {
        if self.drain.is_zero() || self.admin.drain().is_err() {
            return;
        }
        eprintln!("outgate: terminated, draining for {} s at most", self.drain.as_secs());
        let deadline = Instant::now() + self.drain;
        while self.admin.connections().is_some_and(|connections| connections > 0) {
            if self.signals.pending().any(|signal| signal != SIGUSR1) || self.envoy.ended().is_some() {
                return;
            }
            if Instant::now() > deadline {
                eprintln!(
                    "outgate: connections are still open after {} s; cutting them",
                    self.drain.as_secs()
                );
                return;
            }
            sleep(Duration::from_millis(50));
        }
    }

    /// Puts a policy in force without dropping a connection, or says why not.
    fn swap(&mut self, policy: policy_file::Policy) {
        if policy.engine.hash() == self.hash {
            return;
        }
        match self.try_swap(&policy) {
            Ok(()) => eprintln!(
                "outgate: policy `{}` ({}), {} rules in force, {} before",
                policy.engine.document().name,
                policy.engine.hash(),
                policy.engine.rules().len(),
                std::mem::replace(&mut self.hash, policy.engine.hash().to_owned()),
            ),
            Err(error) => {
                eprintln!("outgate: {error}");
                eprintln!("outgate: policy {} stays in force", self.hash);
            }
        }
    }

    fn try_swap(&mut self, policy: &policy_file::Policy) -> Result<(), SwapError> {
        let upstream_tls = upstream_tls(&policy.engine, &self.state, &self.upstream_cas)?;
        let outgate = &policy.engine.document().outgate;
        let rendering = Rendering {
            policy: policy.value.clone(),
            patterns: policy.engine.programs().clone(),
            upstream_tls,
            allow_private: outgate.allow_private.clone(),
            proxy_protocol: !outgate.proxy_protocol_from.is_empty(),
            allowances: self.log_allowances.unwrap_or(outgate.log_allowances),
            generation: self.rendering.generation + 1,
            ..self.rendering.clone()
        };
        if rendering.allow_private != self.rendering.allow_private {
            return Err(SwapError::RestartRequired("outgate.destinations.allowPrivate"));
        }
        if rendering.proxy_protocol != self.rendering.proxy_protocol {
            return Err(SwapError::RestartRequired("outgate.proxyProtocol"));
        }
        if rendering.bootstrap()? != self.bootstrap {
            return Err(SwapError::RestartRequired("tlsInspectionPolicies"));
        }
        let reloads = self.admin.reloads()?;
        self.state.write_discovery(&rendering)?;
        if let Err(error) = self.admin.wait_for_reload(reloads) {
            self.rendering.generation = rendering.generation + 1;
            self.state.write_discovery(&self.rendering)?;
            return Err(error.into());
        }
        self.rendering = rendering;
        if let Err(error) = self.cert_service.follow(&self.rendering.policy) {
            eprintln!(
                "outgate: cert-service keeps certificates of hosts that are not inspected any more: {error}"
            );
        }
        Ok(())
    }
}

/// Why a policy was not put in force.
#[derive(Debug, thiserror::Error)]
enum SwapError {
    #[error(
        "restart_required: the new policy changes `{0}`, which a running proxy keeps; restart outgate to put it in force"
    )]
    RestartRequired(&'static str),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    State(#[from] state::StateError),
    #[error(transparent)]
    Render(#[from] crate::render::RenderError),
    #[error(transparent)]
    Envoy(#[from] envoy::EnvoyError),
}

/// Whether a signal came before the proxy was ready.
fn interrupted(signals: &mut Signals) -> Result<(), RunError> {
    if signals.pending().any(|signal| signal != SIGUSR1) { Err(RunError::Interrupted) } else { Ok(()) }
}

/// Waits until `ready`, and says why if that does not come.
fn wait(
    process: &mut Process,
    signals: &mut Signals,
    log: &Path,
    ready: impl Fn() -> bool,
) -> Result<(), RunError> {
    let deadline = Instant::now() + START;
    while !ready() {
        let name = process.name();
        if let Some(status) = process.ended() {
            return Err(RunError::Ended { name, status, hint: state::tail(log) });
        }
        interrupted(signals)?;
        if Instant::now() > deadline {
            return Err(RunError::Late { name, hint: state::tail(log) });
        }
        sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn upstream_tls(engine: &Engine, state: &State, upstream_cas: &[PathBuf]) -> Result<UpstreamTls, RunError> {
    let policy = engine.document().tls_inspection.as_ref();
    let roots = roots::pem(engine, upstream_cas)?;
    Ok(UpstreamTls::new(policy, state.write_roots(&roots)?)?)
}

/// The explicit listener over TLS.
fn tls(args: &RunArgs) -> Result<Option<Mtls>, MtlsFileError> {
    let Some(listen) = args.tls_listen else { return Ok(None) };
    let file = MtlsFile {
        name: Some(TLS_LISTENER.to_owned()),
        listen: Some(listen),
        ca: args.tls_client_ca.as_ref().map(absolute),
        crl: args.tls_client_crl.as_ref().map(absolute),
        certificate: args.tls_cert.as_ref().map(absolute),
        key: args.tls_key.as_ref().map(absolute),
        ..MtlsFile::default()
    };
    file.listener(Some(SERVER_NAME)).map(Some)
}

/// The mTLS listener: its settings file, and over that the options.
fn mtls(args: &RunArgs) -> Result<Option<Mtls>, MtlsFileError> {
    let Some((listen, ca)) = args.mtls_listen.zip(args.mtls_ca.as_ref()) else { return Ok(None) };
    let mut file = args.mtls_settings.as_deref().map(MtlsFile::open).transpose()?.unwrap_or_default();
    file.listen = Some(listen);
    file.ca = Some(absolute(ca));
    for (setting, option) in [
        (&mut file.crl, &args.mtls_crl),
        (&mut file.certificate, &args.mtls_cert),
        (&mut file.key, &args.mtls_key),
    ] {
        if let Some(path) = option {
            *setting = Some(absolute(path));
        }
    }
    let upstream = args.mtls_upstream.clone();
    let mtls = file.listener(Some(SERVER_NAME))?;
    Ok(Some(Mtls { upstream: upstream.or(mtls.upstream.clone()), ..mtls }))
}

fn absolute(path: impl AsRef<Path>) -> PathBuf {
    std::path::absolute(path.as_ref()).unwrap_or_else(|_| path.as_ref().to_owned())
}

fn parse_share(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|share| (0.0..=1.0).contains(share))
        .ok_or_else(|| "give a share from 0 to 1, such as 0.01".to_owned())
}

fn parse_destination(text: &str) -> Result<Destination, String> {
    Destination::parse(text).map_err(|error| error.to_string())
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    text.strip_suffix('s')
        .and_then(|number| number.parse().ok())
        .map(Duration::from_secs)
        .ok_or_else(|| "give seconds, such as `30s`".to_owned())
}
