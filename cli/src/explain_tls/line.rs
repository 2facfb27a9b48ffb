//! One line of a log, whatever its shape: ours (ECS, OpenTelemetry, OCSF), Envoy's JSON, Envoy's text.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use outgate_handshake::classify::Failure;
use outgate_handshake::taxonomy::{Certainty, SubReason};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::recognise::{in_line, is_upstream};

/// Objects within objects, and JSON within strings, no deeper than this.
const MAXIMUM_DEPTH: usize = 8;

/// What a line tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// A handshake that failed.
    Failure(Box<FailedHandshake>),
    /// What Outgate says of a window of time.
    Summary(Box<Summary>),
    /// A source that Outgate raised an alarm for.
    Alarm(Alarm),
    /// TLS failed, but towards an upstream.
    Upstream,
    /// It should be JSON and is not.
    Malformed,
    /// Nothing of this.
    Other,
}

/// A handshake that failed, as far as its line tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedHandshake {
    /// Why.
    pub sub_reason: SubReason,
    /// Whether the evidence allows another reading.
    pub certainty: Certainty,
    /// The words that it was read from.
    pub words: String,
    /// About.
    pub about: About,
}

/// What a line says besides why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// When.
    pub at: Option<OffsetDateTime>,
    /// Who connected, as a prefix: an IPv4 address, or an IPv6 /64.
    pub source: Option<String>,
    /// SHA-256 of the client's certificate.
    pub fingerprint: Option<String>,
    /// The SNI.
    pub server_name: Option<String>,
    /// The listener's label.
    pub listener: Option<String>,
}

/// A `tls.handshake.summary`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The window that it is of.
    pub start: Option<OffsetDateTime>,
    /// Its end.
    pub end: Option<OffsetDateTime>,
    /// The listener's label.
    pub listener: Option<String>,
    /// Failures without a line of their own.
    pub suppressed: u64,
    /// All failures, by category.
    pub categories: BTreeMap<String, u64>,
    /// Who failed most; never too low, `error` at most too high.
    pub sources: Vec<(String, u64)>,
    /// Certificates that failed most.
    pub fingerprints: Vec<(String, u64)>,
    /// Names that were asked for most by those who failed.
    pub server_names: Vec<(String, u64)>,
}

/// A `tls.handshake.alarm`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alarm {
    /// When.
    pub at: Option<OffsetDateTime>,
    /// Who.
    pub source: String,
    /// How many failures by then.
    pub failures: u64,
    /// The listener's label.
    pub listener: Option<String>,
}

impl Line {
    /// Reads a line; any bytes will do.
    pub fn read(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let text = text.trim();
        if text.starts_with('{') {
            return match serde_json::from_str(text) {
                Ok(object) => Self::of_json(&object),
                // Half a line may still have the half that matters.
                Err(_) => {
                    Some(Self::of_text(text)).filter(|line| *line != Self::Other).unwrap_or(Self::Malformed)
                }
            };
        }
        // Envoy's own log, and container runtimes, write something before the object.
        let object = text.find("{\"").and_then(|start| text.get(start..));
        match object.map(serde_json::from_str) {
            Some(Ok(object)) => Self::of_json(&object),
            _ => Self::of_text(text),
        }
    }

    fn of_text(text: &str) -> Self {
        let Some(reading) = in_line(text) else { return Self::Other };
        if is_upstream(text) {
            return Self::Upstream;
        }
        let about = About { source: first_address(text), at: first_instant(text), ..About::default() };
        Self::failure(&reading.failure, text, about)
    }

    fn of_json(object: &Value) -> Self {
        let fields = Fields::of(object);
        match fields.first(&["event.action", "eventName", "unmapped.event.action"]) {
            Some("tls.handshake.summary") => return Self::Summary(Box::new(fields.summary(object))),
            Some("tls.handshake.alarm") => return Self::Alarm(fields.alarm()),
            Some(action) if action.starts_with("outgate.") => return Self::Other,
            _ => {}
        }
        if let Some(sub_reason) = fields.classified() {
            let certainty = match fields.first(&["mtls.certainty", "unmapped.mtls.certainty"]) {
                Some("likely") => Certainty::Likely,
                _ => Certainty::Exact,
            };
            let words = fields.first(&["error.message", "exception.message", "message"]).unwrap_or_default();
            let failure = Failure { sub_reason, certainty, depth: None, code: None };
            return Self::failure(&failure, words, fields.about());
        }
        let mut upstream = false;
        // Where a field is made for reasons, other fields (paths, user agents) may say what they like.
        let named = |name: &str| name.to_ascii_lowercase().contains("transport_failure_reason");
        let only_named = fields.0.iter().any(|(name, _)| named(name) && !name.contains("upstream"));
        for (name, text) in &fields.0 {
            if only_named && !named(name) && !name.contains("termination") && !name.contains("details") {
                continue;
            }
            let Some(reading) = in_line(text) else { continue };
            if name.contains("upstream") || is_upstream(text) {
                upstream = true;
                continue;
            }
            return Self::failure(&reading.failure, text, fields.about());
        }
        if upstream { Self::Upstream } else { Self::Other }
    }

    fn failure(failure: &Failure, words: &str, about: About) -> Self {
        const MAXIMUM_WORDS: usize = 400;
        Self::Failure(Box::new(FailedHandshake {
            sub_reason: failure.sub_reason,
            certainty: failure.certainty,
            words: printable(words, MAXIMUM_WORDS),
            about,
        }))
    }
}

/// The members of an object by their dotted names; lists and nested JSON are taken apart as well.
struct Fields(Vec<(String, String)>);

impl Fields {
    fn of(object: &Value) -> Self {
        let mut fields = Self(Vec::new());
        fields.collect("", object, 0);
        fields
    }

    fn collect(&mut self, name: &str, value: &Value, depth: usize) {
        if depth > MAXIMUM_DEPTH {
            return;
        }
        let inner = |member: &str| {
            if name.is_empty() { member.to_owned() } else { format!("{name}.{member}") }
        };
        match value {
            Value::Object(members) => {
                if let (Some(Value::String(key)), Some(value)) = (members.get("key"), members.get("value")) {
                    // An attribute of OpenTelemetry.
                    return self.collect(key, value, depth + 1);
                }
                for (member, value) in members {
                    match member.as_str() {
                        "stringValue" | "intValue" | "boolValue" => self.collect(name, value, depth + 1),
                        _ => self.collect(&inner(member), value, depth + 1),
                    }
                }
            }
            Value::Array(items) => {
                for item in items {
                    self.collect(name, item, depth + 1);
                }
            }
            Value::String(text) => {
                // As container runtimes wrap lines.
                if text.starts_with("{\"")
                    && let Ok(value @ Value::Object(_)) = serde_json::from_str(text.trim())
                {
                    return self.collect("", &value, depth + 1);
                }
                self.0.push((name.to_owned(), text.clone()));
            }
            Value::Number(number) => self.0.push((name.to_owned(), number.to_string())),
            Value::Bool(_) | Value::Null => {}
        }
    }

    /// The first of these fields that is there.
    fn first(&self, names: &[&str]) -> Option<&str> {
        names
            .iter()
            .find_map(|name| self.0.iter().find(|(known, _)| known == name).map(|(_, text)| text.as_str()))
    }

    /// A category and one of its sub-reasons, as Outgate's shapes have them.
    fn classified(&self) -> Option<SubReason> {
        let category = self.first(&["error.type", "status_code", "category"])?;
        let reason = self.first(&["event.reason", "status_detail", "reason"])?;
        SubReason::ALL
            .iter()
            .copied()
            .find(|known| known.as_str() == reason && known.category().as_str() == category)
    }

    fn about(&self) -> About {
        const SOURCES: &[&str] = &[
            "client.ip",
            "client.address",
            "src_endpoint.ip",
            "source.ip",
            "downstream_remote_address",
            "downstream_remote_address_without_port",
            "downstream_direct_remote_address",
            "remote_address",
            "client_ip",
            "remote_ip",
            "source_address",
        ];
        let likely = || {
            let hints = ["remote", "client", "source", "src", "peer"];
            self.0.iter().find_map(|(name, text)| {
                let name = name.to_ascii_lowercase();
                let fits = !name.contains("upstream") && hints.iter().any(|hint| name.contains(hint));
                fits.then(|| prefix(text)).flatten()
            })
        };
        About {
            at: self.instant(),
            source: self.first(SOURCES).and_then(prefix).or_else(likely),
            fingerprint: self
                .first(&[
                    "tls.client.hash.sha256",
                    "tls.certificate.fingerprints.value",
                    "downstream_peer_fingerprint_256",
                    "peer_fingerprint_256",
                ])
                .filter(|text| *text != "-")
                .map(|text| printable(text, 64).to_ascii_uppercase()),
            server_name: self
                .first(&[
                    "tls.client.server_name",
                    "tls.sni",
                    "server.address",
                    "requested_server_name",
                    "sni",
                    "server_name",
                ])
                .filter(|text| *text != "-")
                .map(|text| printable(text, 253)),
            listener: self.listener(),
        }
    }

    fn listener(&self) -> Option<String> {
        let names =
            ["observer.ingress.interface.name", "unmapped.observer.ingress.interface.name", "listener"];
        self.first(&names).map(|text| printable(text, 64))
    }

    fn instant(&self) -> Option<OffsetDateTime> {
        let text = self.first(&["@timestamp", "start_time", "timestamp", "time", "timeUnixNano", "ts"])?;
        instant(text)
    }

    fn summary(&self, object: &Value) -> Summary {
        let number = |pointer: &str| object.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
        let top = |which: &str| -> Vec<(String, u64)> {
            let entries = object.pointer(&format!("/mtls/top/{which}")).and_then(Value::as_array);
            entries
                .into_iter()
                .flatten()
                .filter_map(|entry| {
                    Some((printable(entry.get("key")?.as_str()?, 253), entry.get("failures")?.as_u64()?))
                })
                .collect()
        };
        let time = |name| self.first(&[name]).and_then(instant);
        let categories = object.pointer("/mtls/categories").and_then(Value::as_object);
        Summary {
            start: time("event.start"),
            end: time("event.end").or_else(|| self.instant()),
            listener: self.listener(),
            suppressed: number("/mtls/suppressed"),
            categories: categories
                .into_iter()
                .flatten()
                .filter_map(|(name, count)| Some((printable(name, 64), count.as_u64()?)))
                .collect(),
            sources: top("sources")
                .into_iter()
                .map(|(key, count)| (prefix(&key).unwrap_or(key), count))
                .collect(),
            fingerprints: top("fingerprints"),
            server_names: top("server_names"),
        }
    }

    fn alarm(&self) -> Alarm {
        let source = self.first(&["mtls.alarm.source", "client.ip", "src_endpoint.ip"]).unwrap_or_default();
        Alarm {
            at: self.instant(),
            source: prefix(source).unwrap_or_else(|| printable(source, 64)),
            failures: self.first(&["mtls.alarm.failures"]).and_then(|text| text.parse().ok()).unwrap_or(0),
            listener: self.listener(),
        }
    }
}

/// RFC 3339, or time since 1970 in seconds, milliseconds or nanoseconds.
fn instant(text: &str) -> Option<OffsetDateTime> {
    if let Ok(at) = OffsetDateTime::parse(text, &Rfc3339) {
        return Some(at);
    }
    let number: f64 = text.parse().ok()?;
    let seconds = match number {
        nanoseconds if nanoseconds > 1e17 => nanoseconds / 1e9,
        milliseconds if milliseconds > 1e11 => milliseconds / 1e3,
        seconds => seconds,
    };
    // Past the year 9999 there is none: then this is none.
    #[expect(clippy::cast_possible_truncation, reason = "whole seconds are exact enough, and casts saturate")]
    OffsetDateTime::from_unix_timestamp(seconds as i64).ok()
}

/// The prefix that stands for a source: one IPv4 address, or an IPv6 /64.
fn prefix(text: &str) -> Option<String> {
    let text = text.split_once('/').map_or(text, |(address, _)| address);
    let address =
        text.parse::<SocketAddr>().map(|address| address.ip()).or_else(|_| text.parse::<IpAddr>()).ok()?;
    Some(match address.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => {
            let network = u128::from(address) & !u128::from(u64::MAX);
            format!("{}/64", Ipv6Addr::from(network))
        }
    })
}

/// The first address in a line of text: who connected, in all of Envoy's own formats.
fn first_address(text: &str) -> Option<String> {
    let marks = |character: char| {
        character.is_whitespace() || matches!(character, '"' | '\'' | ',' | ';' | '=' | '(' | ')')
    };
    text.split(marks).find_map(prefix)
}

fn first_instant(text: &str) -> Option<OffsetDateTime> {
    let words =
        text.split(|character: char| character.is_whitespace() || matches!(character, '"' | '[' | ']'));
    words.filter(|word| word.contains('T')).find_map(|word| OffsetDateTime::parse(word, &Rfc3339).ok())
}

/// What a terminal can show of a text that somebody else wrote.
pub fn printable(text: &str, maximum: usize) -> String {
    let mut shown = String::new();
    for character in text.chars() {
        if shown.len() >= maximum {
            shown.push('…');
            break;
        }
        match character {
            ' '..='~' => shown.push(character),
            _ => shown.extend(character.escape_unicode()),
        }
    }
    shown
}

#[cfg(test)]
mod tests;
