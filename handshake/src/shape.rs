//! The three shapes of a record: ECS as it is built, and OpenTelemetry and OCSF by renaming.

use serde::Serialize;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// In which schema lines are written.
#[derive(Clone, Copy, Debug, Default, Serialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// Nested objects of the Elastic Common Schema.
    #[default]
    Ecs,
    /// A `LogRecord` of OpenTelemetry, in the JSON of OTLP.
    Otel,
    /// Network Activity (4001) of the Open Cybersecurity Schema Framework.
    Ocsf,
}

/// Where OpenTelemetry's attribute registry has another name than ECS.
const OTEL: &[(&str, &str)] = &[
    ("client.ip", "client.address"),
    ("source.ip", "network.peer.address"),
    ("source.port", "network.peer.port"),
    ("server.ip", "network.local.address"),
    ("server.port", "network.local.port"),
    ("tls.client.server_name", "server.address"),
    ("tls.version", "tls.protocol.version"),
    ("error.message", "exception.message"),
];

/// Where OCSF has a place; everything else is `unmapped`.
const OCSF: &[(&str, &str)] = &[
    ("client.ip", "src_endpoint.ip"),
    ("client.port", "src_endpoint.port"),
    ("source.ip", "proxy_endpoint.ip"),
    ("source.port", "proxy_endpoint.port"),
    ("server.ip", "dst_endpoint.ip"),
    ("server.port", "dst_endpoint.port"),
    ("service.name", "dst_endpoint.svc_name"),
    ("destination.domain", "dst_endpoint.hostname"),
    ("event.id", "connection_info.uid"),
    ("rule.name", "firewall_rule.name"),
    ("tls.client.server_name", "tls.sni"),
    ("tls.version", "tls.version"),
    ("tls.client.subject", "tls.certificate.subject"),
    ("tls.client.issuer", "tls.certificate.issuer"),
    ("tls.client.x509.serial_number", "tls.certificate.serial_number"),
    ("tls.client.x509.public_key_size", "tls.key_length"),
    ("error.type", "status_code"),
    ("event.reason", "status_detail"),
    ("error.message", "message"),
];

/// A record as one JSON value.
pub fn shaped(record: Map<String, Value>, shape: Shape) -> Value {
    match shape {
        Shape::Ecs => Value::Object(record),
        Shape::Otel => log_record(&record),
        Shape::Ocsf => network_activity(&record),
    }
}

/// A `LogRecord` of OpenTelemetry, in the JSON of OTLP.
pub fn log_record(record: &Map<String, Value>) -> Value {
    const WARN: (u64, &str) = (13, "WARN");
    const INFO: (u64, &str) = (9, "INFO");
    let mut attributes = Vec::new();
    let mut body = None;
    let mut name = String::new();
    let mut warns = true;
    for (path, value) in leaves(record) {
        match path.as_str() {
            "@timestamp" => continue,
            "event.action" => name = value.as_str().unwrap_or_default().to_owned(),
            "event.kind" => warns = value != "metric",
            "error.message" => body = Some(any_value(&value)),
            _ => {}
        }
        attributes.push(json!({"key": renamed(OTEL, &path).unwrap_or(&path), "value": any_value(&value)}));
    }
    let (number, severity) = if warns { WARN } else { INFO };
    let body = body.unwrap_or_else(|| json!({"stringValue": name}));
    json!({
        "timeUnixNano": instant(record).map(|at| at.unix_timestamp_nanos().to_string()),
        "severityNumber": number,
        "severityText": severity,
        "eventName": name,
        "body": body,
        "attributes": attributes,
    })
}

/// 64-bit numbers are strings in the JSON of protobuf.
fn any_value(value: &Value) -> Value {
    match value {
        Value::Bool(truth) => json!({"boolValue": truth}),
        Value::Number(number) => json!({"intValue": number.to_string()}),
        Value::String(text) => json!({"stringValue": text}),
        Value::Array(items) => {
            json!({"arrayValue": {"values": items.iter().map(any_value).collect::<Vec<_>>()}})
        }
        Value::Object(members) => {
            let values: Vec<_> =
                members.iter().map(|(key, value)| json!({"key": key, "value": any_value(value)})).collect();
            json!({"kvlistValue": {"values": values}})
        }
        Value::Null => json!({}),
    }
}

fn network_activity(record: &Map<String, Value>) -> Value {
    let text = |pointer: &str| record_at(record, pointer).and_then(Value::as_str).unwrap_or_default();
    let refused = record_at(record, "/event/type")
        .and_then(Value::as_array)
        .is_some_and(|types| types.iter().any(|kind| kind == "denied"));
    // Fail, Refuse, Other; the last of summaries and alarms, which are no connection.
    let activity = match (text("/event/action"), refused) {
        ("tls.handshake.failure", true) => 5,
        ("tls.handshake.failure", false) => 4,
        _ => 99,
    };
    let mut event = Map::new();
    for (name, value) in [
        ("class_uid", json!(4001)),
        ("category_uid", json!(4)),
        ("activity_id", json!(activity)),
        ("type_uid", json!(400_100 + activity)),
        ("severity_id", json!(if text("/event/kind") == "metric" { 1 } else { 3 })),
        ("status_id", json!(2)),
        ("metadata", json!({"version": "1.4.0", "product": {"name": "Outgate", "vendor_name": "Outgate"}})),
    ] {
        event.insert(name.to_owned(), value);
    }
    let mut unmapped = Map::new();
    for (path, value) in leaves(record) {
        if let Some(place) = renamed(OCSF, &path) {
            insert(&mut event, place, value);
            continue;
        }
        let milliseconds = || value.as_str().and_then(milliseconds);
        match (path.as_str(), milliseconds()) {
            ("@timestamp", Some(at)) => insert(&mut event, "time", json!(at)),
            ("tls.client.not_before", Some(at)) => {
                insert(&mut event, "tls.certificate.created_time", json!(at))
            }
            ("tls.client.not_after", Some(at)) => {
                insert(&mut event, "tls.certificate.expiration_time", json!(at));
            }
            ("event.duration", _) => {
                let milliseconds = value.as_u64().unwrap_or(0) / 1_000_000;
                insert(&mut event, "duration", json!(milliseconds));
                insert(&mut event, "tls.handshake_dur", json!(milliseconds));
            }
            ("tls.client.hash.sha256", _) => {
                let fingerprint = json!([{"algorithm_id": 3, "algorithm": "SHA-256", "value": value}]);
                insert(&mut event, "tls.certificate.fingerprints", fingerprint);
            }
            ("tls.client.ja3", _) => {
                insert(
                    &mut event,
                    "tls.ja3_hash",
                    json!({"algorithm_id": 1, "algorithm": "MD5", "value": value}),
                );
            }
            ("mtls.ja4", _) => {
                insert(
                    &mut event,
                    "ja4_fingerprint_list",
                    json!([{"type_id": 1, "type": "JA4", "value": value}]),
                );
            }
            ("tls.client.x509.alternative_names", _) => {}
            _ => match (path.strip_prefix("mtls.alternative_names."), value.as_array()) {
                (Some(kind), Some(names)) => {
                    for name in names {
                        push(&mut event, json!({"name": name, "type": kind}));
                    }
                }
                _ => drop(unmapped.insert(path, value)),
            },
        }
    }
    if !unmapped.is_empty() {
        event.insert("unmapped".to_owned(), Value::Object(unmapped));
    }
    Value::Object(event)
}

/// Adds to `tls.certificate.sans`.
fn push(event: &mut Map<String, Value>, name: Value) {
    let sans = event
        .get_mut("tls")
        .and_then(|tls| tls.get_mut("certificate"))
        .and_then(|certificate| certificate.get_mut("sans"))
        .and_then(Value::as_array_mut);
    match sans {
        Some(sans) => sans.push(name),
        None => insert(event, "tls.certificate.sans", json!([name])),
    }
}

/// The fields of a record by their dotted names; lists stay whole.
fn leaves(record: &Map<String, Value>) -> Vec<(String, Value)> {
    let mut leaves = Vec::new();
    for (name, value) in record {
        match value {
            Value::Object(members) => leaves.extend(
                self::leaves(members).into_iter().map(|(rest, value)| (format!("{name}.{rest}"), value)),
            ),
            value => leaves.push((name.clone(), value.clone())),
        }
    }
    leaves
}

fn insert(object: &mut Map<String, Value>, path: &str, value: Value) {
    match path.split_once('.') {
        None => drop(object.insert(path.to_owned(), value)),
        Some((first, rest)) => {
            let inner = object.entry(first).or_insert_with(|| json!({}));
            if let Value::Object(inner) = inner {
                insert(inner, rest, value);
            }
        }
    }
}

fn renamed(table: &[(&'static str, &'static str)], path: &str) -> Option<&'static str> {
    table.iter().find(|(ecs, _)| *ecs == path).map(|(_, other)| *other)
}

fn record_at<'a>(record: &'a Map<String, Value>, pointer: &str) -> Option<&'a Value> {
    let (first, rest) = pointer.trim_start_matches('/').split_once('/')?;
    record.get(first)?.pointer(&format!("/{rest}"))
}

fn instant(record: &Map<String, Value>) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(record.get("@timestamp")?.as_str()?, &Rfc3339).ok()
}

fn milliseconds(text: &str) -> Option<i64> {
    let at = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    i64::try_from(at.unix_timestamp_nanos() / 1_000_000).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Map<String, Value> {
        let record = json!({
            "@timestamp": "2026-11-21T00:00:00.25Z",
            "event": {"kind": "event", "action": "tls.handshake.failure", "type": ["connection", "denied"],
                      "reason": "expired", "duration": 12_000_000, "id": "7"},
            "client": {"ip": "192.0.2.7", "port": 4711},
            "error": {"type": "certificate_expired", "message": "TLS_error"},
            "tls": {"established": false, "version": "1.3", "client": {
                "server_name": "pay.example", "subject": "CN=a", "not_after": "2026-11-20T00:00:00Z",
                "x509": {"serial_number": "01", "alternative_names": ["a", "b"]}, "hash": {"sha256": "AB"}}},
            "mtls": {"alternative_names": {"dns": ["a", "b"]}, "ja4": "t13", "depth": 0},
        });
        record.as_object().unwrap().clone()
    }

    #[test]
    fn otel_is_a_log_record_with_the_names_of_its_registry() {
        let record = shaped(record(), Shape::Otel);
        assert_eq!(record["timeUnixNano"], "1795219200250000000");
        assert_eq!(
            (&record["severityNumber"], &record["eventName"]),
            (&json!(13), &json!("tls.handshake.failure"))
        );
        assert_eq!(record["body"], json!({"stringValue": "TLS_error"}));
        let attribute = |key: &str| {
            let found =
                record["attributes"].as_array().unwrap().iter().find(|attribute| attribute["key"] == key);
            found.map(|attribute| attribute["value"].clone())
        };
        for (key, value) in [
            ("client.address", json!({"stringValue": "192.0.2.7"})),
            ("client.port", json!({"intValue": "4711"})),
            ("server.address", json!({"stringValue": "pay.example"})),
            ("tls.protocol.version", json!({"stringValue": "1.3"})),
            ("tls.established", json!({"boolValue": false})),
            ("error.type", json!({"stringValue": "certificate_expired"})),
            ("exception.message", json!({"stringValue": "TLS_error"})),
            (
                "mtls.alternative_names.dns",
                json!({"arrayValue": {"values": [{"stringValue": "a"}, {"stringValue": "b"}]}}),
            ),
        ] {
            assert_eq!(attribute(key), Some(value), "{key}");
        }
        assert_eq!((attribute("client.ip"), attribute("@timestamp")), (None, None));
    }

    #[test]
    fn ocsf_is_a_network_activity_that_was_refused() {
        assert_eq!(
            shaped(record(), Shape::Ocsf),
            json!({
                "class_uid": 4001, "category_uid": 4, "activity_id": 5, "type_uid": 400_105, "severity_id": 3, "status_id": 2,
                "metadata": {"version": "1.4.0", "product": {"name": "Outgate", "vendor_name": "Outgate"}},
                "time": 1_795_219_200_250_i64,
                "duration": 12,
                "src_endpoint": {"ip": "192.0.2.7", "port": 4711},
                "connection_info": {"uid": "7"},
                "status_code": "certificate_expired",
                "status_detail": "expired",
                "message": "TLS_error",
                "tls": {
                    "version": "1.3", "sni": "pay.example", "handshake_dur": 12,
                    "certificate": {"subject": "CN=a", "serial_number": "01", "expiration_time": 1_795_132_800_000_i64,
                                    "fingerprints": [{"algorithm_id": 3, "algorithm": "SHA-256", "value": "AB"}],
                                    "sans": [{"name": "a", "type": "dns"}, {"name": "b", "type": "dns"}]},
                },
                "ja4_fingerprint_list": [{"type_id": 1, "type": "JA4", "value": "t13"}],
                "unmapped": {"event.kind": "event", "event.action": "tls.handshake.failure", "event.type": ["connection", "denied"],
                             "tls.established": false, "mtls.depth": 0},
            })
        );
    }
}
