//! Envoy's access logger: asks for the evidence when a connection has ended, counts, and logs what failed.
//!
//! It runs in a VM of its own and reads properties only, never writes any: in an access logger that
//! is refused, and the SDK panics on it.

use log::error;
use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, RootContext};
use proxy_wasm::types::{LogLevel, MetricType};

use super::classify::{Evidence, Failure, Progress, Side, classify};
use super::configuration::HandshakeConfiguration;
use super::line::{Connection, line};
use super::metrics;
use super::presented::{Attributes, Presented};
use super::taxonomy::SubReason;
use crate::proxy::host::{address, integer_property as number, now, property, text_property as text};

/// Filter state that the listener's `set_filter_state` filter keeps: `begun`, then `finished`.
const PROGRESS: &[&str] = &["filter_state", "outgate.handshake"];
/// Filter state with the client's JA4.
const JA4: &[&str] = &["filter_state", "outgate.ja4"];

/// The access logger of a listener.
#[derive(Default)]
pub struct HandshakeLogger {
    configured: Option<Configured>,
}

struct Configured {
    configuration: HandshakeConfiguration,
    finished: Option<u32>,
    failures: Vec<(SubReason, u32)>,
}

impl HandshakeLogger {
    /// One that is not configured yet.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Context for HandshakeLogger {}

impl RootContext for HandshakeLogger {
    fn on_configure(&mut self, _size: usize) -> bool {
        let text = self.get_plugin_configuration().unwrap_or_default();
        match HandshakeConfiguration::parse(&text) {
            Ok(configuration) => {
                self.configured = Some(Configured::new(configuration));
                true
            }
            Err(error) => {
                error!("{error}");
                false
            }
        }
    }

    fn on_log(&mut self) {
        if let Some(configured) = &self.configured {
            configured.log();
        }
    }
}

impl Configured {
    /// Defines every series, so that dashboards see zero rather than nothing.
    fn new(configuration: HandshakeConfiguration) -> Self {
        let listener = configuration.listener.as_str();
        let counter = |name: String| hostcalls::define_metric(MetricType::Counter, &name).ok();
        Self {
            finished: counter(metrics::finished(listener)),
            failures: SubReason::ALL
                .iter()
                .filter_map(|sub_reason| {
                    Some((*sub_reason, counter(metrics::failures(listener, *sub_reason))?))
                })
                .collect(),
            configuration,
        }
    }

    fn log(&self) {
        let told = Told::ask();
        let Some(failure) = classify(&told.evidence(self.configuration.side)) else {
            // A listener may serve connections without TLS as well: those have no version.
            if text(&["connection", "tls_version"]).is_some() {
                count(self.finished);
            }
            return;
        };
        let series = self.failures.iter().find(|(sub_reason, _)| *sub_reason == failure.sub_reason);
        count(series.map(|(_, id)| *id));
        let line = told.line(&failure, self.configuration.service.as_deref());
        let _logged = hostcalls::log(LogLevel::Info, &line);
    }
}

/// What Envoy told of a connection; the rest is asked only if it failed.
struct Told {
    reason: String,
    termination_details: String,
    code_details: String,
    flags: u64,
    progress: Progress,
    certificate: bool,
    server_name: Option<String>,
    filter_chain: bool,
    ja4: Option<String>,
}

impl Told {
    fn ask() -> Self {
        let progress = progress();
        if progress == Progress::Finished {
            // The common case costs one or two questions.
            return Self::of(progress);
        }
        Self {
            reason: text(&["connection", "transport_failure_reason"]).unwrap_or_default(),
            termination_details: text(&["connection", "termination_details"]).unwrap_or_default(),
            code_details: text(&["response", "code_details"]).unwrap_or_default(),
            flags: number(&["response", "flags"]).unwrap_or(0),
            certificate: property(&["connection", "mtls"]).as_deref() == Some(&[1]),
            server_name: text(&["connection", "requested_server_name"]),
            filter_chain: property(&["xds", "filter_chain_name"]).is_some(),
            ja4: text(JA4),
            progress,
        }
    }

    fn of(progress: Progress) -> Self {
        Self {
            reason: String::new(),
            termination_details: String::new(),
            code_details: String::new(),
            flags: 0,
            progress,
            certificate: false,
            server_name: None,
            filter_chain: false,
            ja4: None,
        }
    }

    fn evidence(&self, side: Side) -> Evidence<'_> {
        Evidence {
            reason: &self.reason,
            termination_details: &self.termination_details,
            code_details: &self.code_details,
            flags: self.flags,
            progress: self.progress,
            certificate: self.certificate,
            bytes_arrived: None,
            server_name: self.server_name.is_some(),
            filter_chain: self.filter_chain,
            proxy_protocol: false,
            ja4: self.ja4.as_deref(),
            side,
        }
    }

    fn line(&self, failure: &Failure, service: Option<&str>) -> String {
        let messages = [&self.reason, &self.termination_details, &self.code_details];
        let tls_version = text(&["connection", "tls_version"]);
        line(
            failure,
            &Connection {
                at: now(),
                duration: number(&["request", "duration"]),
                client: address("source"),
                server: address("destination"),
                server_name: self.server_name.as_deref(),
                tls_version: tls_version.as_deref(),
                message: messages.into_iter().find(|message| !message.is_empty()).map(String::as_str),
                service,
                certificate: self.certificate.then(presented),
                intercepted: None,
            },
        )
    }
}

/// The listener's own word if there is one; a request that was served proves the handshake as well.
fn progress() -> Progress {
    match property(PROGRESS).as_deref() {
        Some(b"finished") => Progress::Finished,
        _ if property(&["request", "protocol"]).is_some() => Progress::Finished,
        _ if number(&["request", "total_size"]).is_some_and(|size| size > 0) => Progress::Finished,
        Some(b"begun") => Progress::Begun,
        _ => Progress::Unknown,
    }
}

fn presented() -> Presented {
    let pem = property(&["connection", "peer_certificate"]).filter(|pem| !pem.is_empty());
    let [subject, sha256, uri, dns] = [
        "subject_peer_certificate",
        "sha256_peer_certificate_digest",
        "uri_san_peer_certificate",
        "dns_san_peer_certificate",
    ]
    .map(|name| property(&["connection", name]).filter(|value| !value.is_empty()));
    Presented::read(
        pem.as_deref(),
        Attributes {
            subject: subject.as_deref(),
            sha256: sha256.as_deref(),
            uri: uri.as_deref(),
            dns: dns.as_deref(),
        },
    )
}

fn count(id: Option<u32>) {
    if let Some(id) = id {
        let _counted = hostcalls::increment_metric(id, 1);
    }
}
