//! Starts Envoy and talks to its admin interface.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::child::Process;
use super::log::DecisionLog;
use super::state::{self, State};

/// How long the filter may take to have a new policy.
const RELOAD: Duration = Duration::from_secs(30);

/// What Envoy did not do.
#[derive(Debug, thiserror::Error)]
pub enum EnvoyError {
    /// It does not start at all.
    #[error("cannot start Envoy: {0}")]
    Start(#[source] std::io::Error),
    /// It refuses the configuration.
    #[error("Envoy refuses the configuration `{configuration}`:\n{message}")]
    Refused {
        /// The file.
        configuration: String,
        /// What Envoy says.
        message: String,
    },
    /// The admin interface does not answer.
    #[error("Envoy's admin interface does not answer on {0}; is the machine overloaded?")]
    Admin(SocketAddr),
    /// The filter refused the new policy.
    #[error("the filter refused the new policy and keeps the old one; Envoy's log says why")]
    PolicyRefused,
    /// The filter does not have the new policy in time.
    #[error("the filter did not take the new policy within {} s; it gets the old one again", RELOAD.as_secs())]
    PolicyLate,
}

/// Has Envoy read the configuration without serving it.
pub fn validate(envoy: &Path, state: &State) -> Result<(), EnvoyError> {
    let output = Command::new(envoy)
        .args(["--mode", "validate", "-l", "error", "-c"])
        .arg(state.bootstrap())
        .stdin(Stdio::null())
        // Ctrl-C is for us.
        .process_group(0)
        .output()
        .map_err(EnvoyError::Start)?;
    if output.status.success() {
        return Ok(());
    }
    Err(EnvoyError::Refused {
        configuration: state.bootstrap().display().to_string(),
        message: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

/// Starts Envoy; its lines go to the log and to its own file.
pub fn start(
    envoy: &Path,
    state: &State,
    concurrency: Option<u32>,
    log: &DecisionLog,
) -> Result<Process, EnvoyError> {
    let mut arguments: Vec<OsString> = vec!["-c".into(), state.bootstrap().into()];
    for argument in [
        "--disable-hot-restart",
        // Lines of the filter are at level info, and nothing else of interest is.
        "--log-level",
        "warning",
        "--component-log-level",
        "wasm:info",
        // Lines of Envoy's own access log are there within a second of their event.
        "--file-flush-interval-msec",
        "200",
        "--log-format",
        "[%Y-%m-%d %T.%e][%l][%n] %v",
    ] {
        arguments.push(argument.into());
    }
    if let Some(concurrency) = concurrency {
        arguments.extend(["--concurrency".into(), concurrency.to_string().into()]);
    }
    let own_log = || state::append(&state.envoy_log()).map_err(EnvoyError::Start);
    let mut process = Process::start("envoy", envoy, &arguments, Stdio::piped(), Stdio::piped())
        .map_err(EnvoyError::Start)?;
    // The filter's lines come by standard error, those of Envoy's access log by standard output: in one pipe they
    // would cut each other.
    if let Some(output) = process.child().stderr.take() {
        log.sort(output, own_log()?);
    }
    if let Some(output) = process.child().stdout.take() {
        log.sort(output, own_log()?);
    }
    Ok(process)
}

/// Whether a URL answers 200.
pub fn answers(url: &str) -> bool {
    get(url).is_some()
}

/// Envoy's admin interface.
#[derive(Debug)]
pub struct Admin {
    address: SocketAddr,
}

/// Counters of the filter's discovery.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reloads {
    taken: u64,
    refused: u64,
}

impl Admin {
    /// The interface at `address`.
    pub fn new(address: SocketAddr) -> Self {
        Self { address }
    }

    /// Whether every listener serves.
    pub fn is_ready(&self) -> bool {
        answers(&format!("http://{}/ready", self.address))
    }

    /// Has `/ready` say whether clients should come here; those that are here stay.
    pub fn set_ready(&self, ready: bool) -> Result<(), EnvoyError> {
        self.post(if ready { "healthcheck/ok" } else { "healthcheck/fail" })
    }

    /// Has Envoy say that it is not ready, and take no new connections.
    pub fn drain(&self) -> Result<(), EnvoyError> {
        self.set_ready(false)?;
        self.post("drain_listeners?graceful&skip_exit")
    }

    fn post(&self, path: &str) -> Result<(), EnvoyError> {
        let answer = agent().post(format!("http://{}/{path}", self.address)).send_empty();
        answer.map(|_| ()).map_err(|_| EnvoyError::Admin(self.address))
    }

    /// How many connections of clients are open.
    pub fn connections(&self) -> Option<u64> {
        let filter = "^(http\\.(outgate|mtls)\\.downstream_cx_active)$";
        let statistics = get(&format!("http://{}/stats?filter={filter}", self.address))?;
        statistics.lines().map(|line| line.rsplit_once(": ")?.1.parse::<u64>().ok()).sum()
    }

    /// How often the filter took or refused a configuration.
    pub fn reloads(&self) -> Result<Reloads, EnvoyError> {
        let statistics = get(&format!("http://{}/stats?filter=extension_config_discovery", self.address))
            .ok_or(EnvoyError::Admin(self.address))?;
        let mut reloads = Reloads::default();
        for line in statistics.lines() {
            let Some((name, value)) = line.rsplit_once(": ") else { continue };
            let Ok(value) = value.trim().parse::<u64>() else { continue };
            if name.ends_with(".config_reload") {
                reloads.taken += value;
            } else if name.ends_with(".config_fail") || name.ends_with(".update_rejected") {
                reloads.refused += value;
            }
        }
        Ok(reloads)
    }

    /// Waits until the filter took the configuration that was written after `before`.
    pub fn wait_for_reload(&self, before: Reloads) -> Result<(), EnvoyError> {
        let deadline = Instant::now() + RELOAD;
        loop {
            let now = self.reloads()?;
            if now.refused > before.refused {
                return Err(EnvoyError::PolicyRefused);
            }
            if now.taken > before.taken {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(EnvoyError::PolicyLate);
            }
            sleep(Duration::from_millis(20));
        }
    }
}

fn get(url: &str) -> Option<String> {
    agent().get(url).call().ok()?.body_mut().read_to_string().ok()
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(2))).proxy(None).build().into()
}
