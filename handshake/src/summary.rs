//! The records that are about many handshakes: the summary of a window, and alarms.

use std::net::IpAddr;

use serde_json::{Map, Value, json};
use time::{Duration, OffsetDateTime};

use crate::configuration::HandshakeConfiguration;
use crate::line::{object, observer};
use crate::presented::timestamp;
use crate::sketch::Sketch;
use crate::window::{Alarm, Window};

/// What happened in a window that is over.
pub fn summary(
    window: &Window,
    at: OffsetDateTime,
    configuration: &HandshakeConfiguration,
) -> Map<String, Value> {
    let start = OffsetDateTime::UNIX_EPOCH + milliseconds(window.start);
    let end = start + Duration::seconds(i64::try_from(configuration.window_seconds).unwrap_or(0));
    // A listener that ends tells its window before its time.
    let end = end.min(at);
    let top = |sketch: &Sketch| {
        let entries = sketch.top(configuration.top);
        json!(
            entries
                .into_iter()
                .map(
                    |(key, estimate)| json!({"key": key, "failures": estimate.count, "error": estimate.error})
                )
                .collect::<Vec<_>>()
        )
    };
    let event = [("start", timestamp(start)), ("end", timestamp(end))];
    object([
        ("@timestamp", timestamp(at).map(Value::from)),
        ("event", Some(about("metric", "tls.handshake.summary", event))),
        ("observer", Some(observer(configuration.listener.as_str()))),
        (
            "mtls",
            Some(json!({
                "failures": window.failures,
                "suppressed": window.suppressed,
                "first_seen_suppressed": window.first_seen_suppressed,
                "categories": counts(&window.categories),
                "top": {
                    "sources": top(&window.sources),
                    "fingerprints": top(&window.fingerprints),
                    "server_names": top(&window.server_names),
                },
            })),
        ),
    ])
}

fn counts(sketch: &Sketch) -> Map<String, Value> {
    let all = sketch.top(usize::MAX).into_iter();
    all.map(|(key, estimate)| (key.to_owned(), Value::from(estimate.count))).collect()
}

/// A source that failed too often.
pub fn alarm(
    alarm: &Alarm,
    at: OffsetDateTime,
    configuration: &HandshakeConfiguration,
) -> Map<String, Value> {
    let address = alarm.source.split_once('/').and_then(|(address, _)| address.parse::<IpAddr>().ok());
    object([
        ("@timestamp", timestamp(at).map(Value::from)),
        (
            "event",
            Some(about("alert", "tls.handshake.alarm", [("reason", Some("source_threshold".to_owned()))])),
        ),
        ("observer", Some(observer(configuration.listener.as_str()))),
        ("client", address.map(|address| json!({"ip": address}))),
        (
            "mtls",
            Some(json!({"alarm": {
                "source": alarm.source,
                "failures": alarm.failures,
                "threshold": configuration.alarm,
                "window_seconds": configuration.window_seconds,
            }})),
        ),
    ])
}

fn about<const N: usize>(kind: &str, action: &str, more: [(&str, Option<String>); N]) -> Value {
    let mut event = object([
        ("kind", Some(json!(kind))),
        ("category", Some(json!(["network", "authentication"]))),
        ("type", Some(json!(["info"]))),
        ("action", Some(json!(action))),
    ]);
    event.extend(object(more.map(|(name, text)| (name, text.map(Value::from)))));
    Value::Object(event)
}

fn milliseconds(count: u64) -> Duration {
    Duration::milliseconds(i64::try_from(count).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::configuration::Label;
    use crate::sampling::Admission;
    use crate::taxonomy::Category;
    use crate::window::Offender;

    fn configuration() -> HandshakeConfiguration {
        HandshakeConfiguration { top: 1, ..HandshakeConfiguration::new(Label::parse("mtls").unwrap()) }
    }

    #[test]
    fn a_summary_tells_totals_and_who_failed_most() {
        let mut window = Window::default();
        window.start = 60_000;
        for source in ["192.0.2.7/32", "192.0.2.7/32", "192.0.2.8/32"] {
            let offender = Offender { source, fingerprint: "AB", server_name: "pay.example" };
            window.record(Category::CertificateExpired, offender, Admission::FirstSuppressed);
        }
        let at = OffsetDateTime::UNIX_EPOCH + Duration::seconds(121);
        assert_eq!(
            Value::Object(summary(&window, at, &configuration())),
            json!({
                "@timestamp": "1970-01-01T00:02:01Z",
                "event": {"kind": "metric", "category": ["network", "authentication"], "type": ["info"],
                          "action": "tls.handshake.summary", "start": "1970-01-01T00:01:00Z", "end": "1970-01-01T00:02:00Z"},
                "observer": {"ingress": {"interface": {"name": "mtls"}}},
                "mtls": {
                    "failures": 3, "suppressed": 3, "first_seen_suppressed": 3,
                    "categories": {"certificate_expired": 3},
                    "top": {
                        "sources": [{"key": "192.0.2.7/32", "failures": 2, "error": 0}],
                        "fingerprints": [{"key": "AB", "failures": 3, "error": 0}],
                        "server_names": [{"key": "pay.example", "failures": 3, "error": 0}],
                    },
                },
            })
        );
    }

    #[test]
    fn an_alarm_names_the_source_and_the_threshold() {
        let one = Alarm { source: "2001:db8:1:2::/64".to_owned(), failures: 104 };
        let record = Value::Object(alarm(&one, OffsetDateTime::UNIX_EPOCH, &configuration()));
        assert_eq!(record["event"]["action"], "tls.handshake.alarm");
        assert_eq!(record["client"]["ip"], "2001:db8:1:2::");
        assert_eq!(
            record["mtls"]["alarm"],
            json!({"source": "2001:db8:1:2::/64", "failures": 104, "threshold": 100, "window_seconds": 60})
        );
    }
}
