//! Envoy's access logger: asks for the evidence when a connection has ended, counts, and logs what failed.
//!
//! It runs in a VM of its own and reads properties only, never writes any: in an access logger that
//! is refused, and the SDK panics on it.

use std::time::Duration;

use log::error;
use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, RootContext};
use proxy_wasm::types::{LogLevel, MetricType};
use serde_json::{Map, Value};
use time::OffsetDateTime;

use super::judge::judge;
use super::shared::Shared;
use super::told::Told;
use crate::proxy::host::{now, now_milliseconds, property, text_property as text};
use outgate_handshake::classify::Failure;
use outgate_handshake::configuration::HandshakeConfiguration;
use outgate_handshake::expiry::Expiry;
use outgate_handshake::line::{Connection, record, written};
use outgate_handshake::metrics;
use outgate_handshake::otlp::{Queue, body};
use outgate_handshake::sampling::{Admission, Occurrence, admit};
use outgate_handshake::shape::log_record;
use outgate_handshake::summary;
use outgate_handshake::taxonomy::SubReason;
use outgate_handshake::visible::visible;
use outgate_handshake::window::{Offender, Window, source};

/// How often a worker adds its counts to the shared window, and sends what waits.
const TICK: Duration = Duration::from_secs(1);
/// A collector that takes longer has failed.
const COLLECTOR_TIMEOUT: Duration = Duration::from_secs(5);
/// Characters of a server name in a summary.
const MAXIMUM_SERVER_NAME: usize = 128;

/// The access logger of a listener.
#[derive(Default)]
pub struct HandshakeLogger {
    configured: Option<Configured>,
}

struct Configured {
    configuration: HandshakeConfiguration,
    metrics: Metrics,
    shared: Shared,
    /// What this worker has seen since its last tick.
    part: Window,
    expiry: Expiry,
    queue: Queue,
    /// The batch that the collector has not answered yet: the call, and how many records are in it.
    sending: Option<(u32, usize)>,
}

struct Metrics {
    finished: Option<u32>,
    failed: Option<u32>,
    refused: Option<u32>,
    failures: Vec<(SubReason, u32)>,
    suppressed: Option<u32>,
    first_suppressed: Option<u32>,
    alarms: Option<u32>,
    sent: Option<u32>,
    dropped: Option<u32>,
    days_to_expiry: Option<u32>,
}

impl HandshakeLogger {
    /// One that is not configured yet.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Context for HandshakeLogger {
    fn on_http_call_response(&mut self, token: u32, _headers: usize, _body_size: usize, _trailers: usize) {
        if let Some(configured) = &mut self.configured {
            configured.answered(token);
        }
    }
}

// Envoy deletes the context where it ends. It would ask before (`proxy_on_done`), but not only this one: every request too.
impl Drop for HandshakeLogger {
    fn drop(&mut self) {
        if let Some(configured) = &mut self.configured {
            configured.end();
        }
    }
}

impl RootContext for HandshakeLogger {
    fn on_configure(&mut self, _size: usize) -> bool {
        let text = self.get_plugin_configuration().unwrap_or_default();
        match HandshakeConfiguration::parse(&text) {
            Ok(configuration) => {
                self.configured = Some(Configured::new(configuration));
                self.set_tick_period(TICK);
                true
            }
            Err(error) => {
                error!("plugin configuration: {error}");
                false
            }
        }
    }

    fn on_log(&mut self) {
        if let Some(configured) = &mut self.configured {
            configured.log();
        }
    }

    fn on_tick(&mut self) {
        if let Some(configured) = &mut self.configured {
            configured.tick();
        }
    }
}

impl Metrics {
    /// Defines every series, so that dashboards see zero rather than nothing.
    fn define(listener: &str) -> Self {
        let metric = |kind, name: String| hostcalls::define_metric(kind, &name).ok();
        let counter = |name| metric(MetricType::Counter, name);
        Self {
            finished: counter(metrics::handshakes(listener, "finished")),
            failed: counter(metrics::handshakes(listener, "failed")),
            refused: counter(metrics::handshakes(listener, "refused")),
            failures: SubReason::ALL
                .iter()
                .filter_map(|sub_reason| {
                    Some((*sub_reason, counter(metrics::failures(listener, *sub_reason))?))
                })
                .collect(),
            suppressed: counter(metrics::suppressed(listener, "sampled")),
            first_suppressed: counter(metrics::suppressed(listener, "first_seen")),
            alarms: counter(metrics::alarms(listener)),
            sent: counter(metrics::otlp_records(listener, "sent")),
            dropped: counter(metrics::otlp_records(listener, "dropped")),
            days_to_expiry: metric(MetricType::Histogram, metrics::days_to_expiry(listener)),
        }
    }

    fn count_failure(&self, sub_reason: SubReason) {
        let series = self.failures.iter().find(|(known, _)| *known == sub_reason);
        count(series.map(|(_, id)| *id), 1);
    }
}

impl Configured {
    fn new(configuration: HandshakeConfiguration) -> Self {
        let listener = configuration.listener.as_str();
        Self {
            metrics: Metrics::define(listener),
            shared: Shared::open(listener),
            part: Window::default(),
            expiry: Expiry::default(),
            queue: Queue::default(),
            sending: None,
            configuration,
        }
    }

    fn log(&mut self) {
        let Some(told) = Told::ask(self.configuration.side) else { return };
        self.observe_certificate();
        match told.failure(&self.configuration) {
            Some(failure) => {
                count(self.metrics.failed, 1);
                self.report(&told, &failure, None);
            }
            // A listener may serve connections without TLS as well: those have no version.
            None if text(&["connection", "tls_version"]).is_none() || self.refused() => {}
            None => count(self.metrics.finished, 1),
        }
    }

    /// How long the certificates last that clients come with, accepted or not.
    fn observe_certificate(&mut self) {
        let Some(fingerprint) = text(&["connection", "sha256_peer_certificate_digest"]) else { return };
        let pem = || property(&["connection", "peer_certificate"]);
        if let (Some(days), Some(id)) =
            (self.expiry.days(&fingerprint, now(), pem), self.metrics.days_to_expiry)
        {
            let _observed = hostcalls::record_metric(id, days);
        }
    }

    /// Whether TLS was completed with a certificate that is refused; then that is reported.
    fn refused(&mut self) -> bool {
        let Some(judgement) = self.configuration.untrusted.as_ref().and_then(judge) else { return false };
        count(self.metrics.refused, 1);
        self.report(&Told::ask_refused(), &judgement.failure, Some(&judgement.unchecked));
        true
    }

    /// Counts a failure, and has it written; `unchecked` is of one that was judged after its handshake.
    fn report(&mut self, told: &Told, failure: &Failure, unchecked: Option<&[&'static str]>) {
        self.metrics.count_failure(failure.sub_reason);
        let source = told.client().map(|client| source(client.ip())).unwrap_or_default();
        let fingerprint = told.fingerprint().unwrap_or_default();
        let server_name =
            told.server_name.as_deref().map(|name| visible(name.as_bytes(), MAXIMUM_SERVER_NAME));
        let at = now_milliseconds();
        let admission = admit(
            &self.configuration.sampling,
            &self.shared,
            &Occurrence {
                at,
                window: at / self.window_length(),
                reason: failure.sub_reason,
                source: &source,
                fingerprint: &fingerprint,
            },
        );
        let offender = Offender {
            source: &source,
            fingerprint: &fingerprint,
            server_name: server_name.as_deref().unwrap_or_default(),
        };
        self.part.record(failure.category(), offender, admission);
        match admission {
            Admission::Line => {
                let connection = Connection {
                    refused: unchecked.is_some(),
                    unchecked: unchecked.unwrap_or_default(),
                    ..told.connection(&self.configuration)
                };
                let record = record(failure, &connection);
                self.write(record);
            }
            Admission::FirstSuppressed => count(self.metrics.first_suppressed, 1),
            Admission::Suppressed => count(self.metrics.suppressed, 1),
        }
    }

    fn window_length(&self) -> u64 {
        self.configuration.window_seconds * 1000
    }

    fn tick(&mut self) {
        let now_milliseconds = now_milliseconds();
        let part = std::mem::take(&mut self.part);
        let (length, threshold) = (self.window_length(), self.configuration.alarm);
        let (over, alarms) = self.shared.update_window(|window| {
            let over = window.add(part.clone(), now_milliseconds, length);
            (over, if threshold > 0 { window.alarms(threshold) } else { Vec::new() })
        });
        let at = now();
        for alarm in alarms {
            count(self.metrics.alarms, 1);
            self.write(summary::alarm(&alarm, at, &self.configuration));
        }
        if let Some(window) = over {
            self.summarise(&window, at);
        }
        self.send();
    }

    /// Tells the window before its time: nobody will later.
    fn end(&mut self) {
        let part = std::mem::take(&mut self.part);
        let now_milliseconds = now_milliseconds();
        let length = self.window_length();
        let window = self.shared.update_window(|window| {
            let over = window.add(part.clone(), now_milliseconds, length);
            [over, Some(std::mem::take(window))]
        });
        for window in window.into_iter().flatten().filter(|window| window.failures > 0) {
            self.summarise(&window, now());
        }
    }

    fn summarise(&mut self, window: &Window, at: OffsetDateTime) {
        self.write(summary::summary(window, at, &self.configuration));
    }

    fn write(&mut self, record: Map<String, Value>) {
        let configuration = &self.configuration;
        if configuration.lines {
            let line = written(&record, configuration.shape, &configuration.fields);
            let _logged = hostcalls::log(LogLevel::Info, &line);
        }
        let Some(settings) = &configuration.otlp else { return };
        if !self.queue.push(log_record(&configuration.fields.apply(record)), settings) {
            count(self.metrics.dropped, 1);
        }
        if self.queue.len() >= settings.batch {
            self.send();
        }
    }

    /// Sends one batch, unless one is on its way.
    fn send(&mut self) {
        let Some(settings) = &self.configuration.otlp else { return };
        if self.sending.is_some() || self.queue.is_empty() {
            return;
        }
        let records = self.queue.batch(settings);
        let count_of_records = records.len();
        let listener = self.configuration.listener.as_str();
        let body = body(records, listener, self.configuration.service.as_deref());
        let headers = vec![
            (":method", "POST"),
            (":path", settings.path.as_str()),
            (":authority", settings.authority.as_deref().unwrap_or(&settings.cluster)),
            ("content-type", "application/json"),
        ];
        let called = hostcalls::dispatch_http_call(
            &settings.cluster,
            headers,
            Some(body.as_bytes()),
            Vec::new(),
            COLLECTOR_TIMEOUT,
        );
        match called {
            Ok(token) => self.sending = Some((token, count_of_records)),
            // No such cluster, or none of its hosts is there.
            Err(_) => count(self.metrics.dropped, count_of_records),
        }
    }

    fn answered(&mut self, token: u32) {
        let Some((_, records)) = self.sending.take_if(|(sent, _)| *sent == token) else { return };
        let status =
            hostcalls::get_map_value_bytes(proxy_wasm::types::MapType::HttpCallResponseHeaders, ":status");
        let taken = matches!(status, Ok(Some(status)) if status.starts_with(b"2"));
        count(if taken { self.metrics.sent } else { self.metrics.dropped }, records);
        let full =
            self.configuration.otlp.as_ref().is_some_and(|settings| self.queue.len() >= settings.batch);
        if full {
            self.send();
        }
    }
}

fn count(id: Option<u32>, more: usize) {
    if let Some(id) = id {
        let _counted = hostcalls::increment_metric(id, i64::try_from(more).unwrap_or(i64::MAX));
    }
}
