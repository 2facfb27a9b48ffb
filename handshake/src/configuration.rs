//! The plugin JSON of the access logger.
//!
//! ```json
//! {"listener": "mtls", "service": "payments", "sampling": {"first": 10}, "otlp": {"cluster": "collector"}}
//! ```
//!
//! | key | meaning | default |
//! |---|---|---|
//! | `listener` | the listener's label in metrics: letters, digits, `-` and `_`, 64 at most | required |
//! | `side` | `mtls` demands client certificates, `inspecting` serves intercept certificates | `mtls` |
//! | `service` | `service.name` of its lines: what clients of this listener want | none |
//! | `proxy_protocol` | whether the listener demands the PROXY protocol | `false` |
//! | `shape` | schema of the lines: `ecs`, `otel`, `ocsf` | `ecs` |
//! | `fields.include` | only these fields, by their ECS names or groups of them | all |
//! | `fields.drop`, `fields.hash` | not these; of these only HMAC-SHA-256 | none |
//! | `fields.key` | the key of the hashes, 16 bytes at least; keep it secret, names can be guessed | required by `hash` |
//! | `fields.maximum_length` | characters of any text, 64 to 1024 | 1024 |
//! | `fields.maximum_names` | alternative names of a certificate, 0 to 32 | 32 |
//! | `sampling.lines_per_second` | the most lines a second; firsts of their kind, 20 a second at most, come on top | 100 |
//! | `sampling.first` | how many failures of one category and source have a line in a window | all |
//! | `sampling.then_one_in` | of those after that, one in how many has | 100 |
//! | `window_seconds` | length of a window, 1 to 3600: one summary each | 60 |
//! | `alarm` | failures of one source in a window that raise an alarm, 2 at least; 0 for none | 100 |
//! | `top` | how many sources, fingerprints and server names a summary names, 0 to 32 | 10 |
//! | `otlp.cluster` | Envoy's cluster of a collector that takes OTLP/HTTP logs in JSON | none |
//! | `otlp.path`, `otlp.authority` | where it takes them | `/v1/logs`, the cluster |
//! | `otlp.batch`, `otlp.queue` | records in one call, 1 to 512; records that may wait, of each worker, up to 65536 | 64, 2048 |
//! | `lines` | whether lines are written to Envoy's log as well | `true` |
//! | `untrusted.ca`, `untrusted.crl` | PEM: what certificates are held against on a listener that accepts untrusted ones | none |
//! | `untrusted.sans`, `untrusted.pins` | names and SHA-256, of which a certificate must have one | any |
//! | `untrusted.answer`, `untrusted.tell` | `problem` or `html`; which of `category`, `reason`, `remedy` a 403 tells | `problem`, none |
//!
//! Unknown keys are errors that name the key.

use outgate_policy::PolicyErrors;
use outgate_policy::document::parse_json;
use outgate_policy::document::reader::{Item, Object, PLUGIN_JSON, Reader};
use serde::Serialize;

use crate::classify::Side;
use crate::fields::Fields;
use crate::sampling::Sampling;
use crate::shape::Shape;
use crate::verify::Untrusted;

/// The plugin JSON as written.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct HandshakeConfiguration {
    /// The listener's label in metrics.
    pub listener: Label,
    /// Which kind of listener it is.
    pub side: Side,
    /// What clients of this listener want.
    pub service: Option<String>,
    /// Whether the listener demands the PROXY protocol.
    pub proxy_protocol: bool,
    /// In which schema lines are written.
    pub shape: Shape,
    /// Which fields lines have.
    pub fields: Fields,
    /// Which failures have a line.
    pub sampling: Sampling,
    /// Length of a window.
    pub window_seconds: u64,
    /// Failures of one source in a window that raise an alarm; 0 for none.
    pub alarm: u64,
    /// How many sources, fingerprints and server names a summary names.
    pub top: usize,
    /// A collector that gets the records too.
    pub otlp: Option<Otlp>,
    /// Whether lines are written to Envoy's log.
    pub lines: bool,
    /// What certificates must be on a listener that completes handshakes with untrusted ones.
    pub untrusted: Option<Untrusted>,
}

/// A collector that takes OTLP/HTTP.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct Otlp {
    /// Envoy's name of its cluster.
    pub cluster: String,
    /// Where it takes logs.
    pub path: String,
    /// The `:authority`; the cluster's name if it is absent.
    pub authority: Option<String>,
    /// Records in one call.
    pub batch: usize,
    /// Records that may wait.
    pub queue: usize,
}

/// A word that is safe in a metric's name.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
#[serde(into = "String")]
pub struct Label(String);

/// Why a label was refused.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no label; use 1 to 64 letters, digits, `-` and `_`")]
pub struct LabelError(String);

impl HandshakeConfiguration {
    /// Reads the plugin JSON; every key must be known.
    pub fn parse(text: &[u8]) -> Result<Self, PolicyErrors> {
        let value = parse_json(text)?;
        let mut reader = Reader::new(PLUGIN_JSON);
        let read = Self::read(&mut reader, &Item::root(&value));
        reader.finish(read)
    }

    fn read(reader: &mut Reader, item: &Item<'_>) -> Option<Self> {
        const KEYS: [&str; 13] = [
            "listener",
            "side",
            "service",
            "proxy_protocol",
            "shape",
            "fields",
            "sampling",
            "window_seconds",
            "alarm",
            "top",
            "otlp",
            "lines",
            "untrusted",
        ];
        const SIDES: [(&str, Side); 2] = [("mtls", Side::Mtls), ("inspecting", Side::Inspecting)];
        const SHAPES: [(&str, Shape); 3] =
            [("ecs", Shape::Ecs), ("otel", Shape::Otel), ("ocsf", Shape::Ocsf)];
        let object = reader.object(item, &KEYS)?;
        let listener =
            reader.required(&object, "listener").and_then(|item| reader.parse(&item, Label::parse));
        let default = Self::new(listener.unwrap_or(Label(String::new())));
        Some(Self {
            side: reader.optional_choice(&object, "side", &SIDES),
            service: reader.optional_text(&object, "service"),
            proxy_protocol: reader.boolean(&object, "proxy_protocol", default.proxy_protocol),
            shape: reader.optional_choice(&object, "shape", &SHAPES),
            fields: object.get("fields").map_or(default.fields, |item| Fields::read(reader, &item)),
            sampling: object.get("sampling").map_or(default.sampling, |item| Sampling::read(reader, &item)),
            window_seconds: reader.optional_number(
                &object,
                "window_seconds",
                &(1..=3600),
                default.window_seconds,
            ),
            alarm: alarm(reader, &object, default.alarm),
            top: reader.optional_number(&object, "top", &(0..=32), default.top),
            otlp: object.get("otlp").and_then(|item| Otlp::read(reader, &item)),
            lines: reader.boolean(&object, "lines", default.lines),
            untrusted: object.get("untrusted").map(|item| Untrusted::read(reader, &item)),
            listener: default.listener,
        })
    }

    /// The shortest one, with all defaults.
    pub fn new(listener: Label) -> Self {
        Self {
            listener,
            side: Side::Mtls,
            service: None,
            proxy_protocol: false,
            shape: Shape::Ecs,
            fields: Fields::default(),
            sampling: Sampling::default(),
            window_seconds: 60,
            alarm: 100,
            top: 10,
            otlp: None,
            lines: true,
            untrusted: None,
        }
    }
}

impl Otlp {
    fn read(reader: &mut Reader, item: &Item<'_>) -> Option<Self> {
        let object = reader.object(item, &["cluster", "path", "authority", "batch", "queue"])?;
        let cluster = reader.required(&object, "cluster").and_then(|item| reader.text(&item));
        Some(Self {
            path: reader.optional_text(&object, "path").unwrap_or_else(|| "/v1/logs".to_owned()),
            authority: reader.optional_text(&object, "authority"),
            batch: reader.optional_number(&object, "batch", &(1..=512), 64),
            queue: reader.optional_number(&object, "queue", &(1..=65_536), 2048),
            cluster: cluster?,
        })
    }
}

/// 0 for none; one failure is no alarm.
fn alarm(reader: &mut Reader, object: &Object<'_>, default: u64) -> u64 {
    let none = object.get("alarm").is_some_and(|item| item.value.as_u64() == Some(0));
    if none { 0 } else { reader.optional_number(object, "alarm", &(2..=u64::MAX), default) }
}

impl From<Label> for String {
    fn from(label: Label) -> Self {
        label.0
    }
}

impl Label {
    /// Reads a label.
    pub fn parse(text: &str) -> Result<Self, LabelError> {
        let fits = (1..=64).contains(&text.len());
        if fits && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_') {
            Ok(Self(text.to_owned()))
        } else {
            Err(LabelError(text.to_owned()))
        }
    }

    /// The label.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_listener_is_all_that_is_needed() {
        let configuration = HandshakeConfiguration::parse(br#"{"listener": "mtls"}"#).unwrap();
        assert_eq!(configuration.listener.as_str(), "mtls");
        assert_eq!(configuration.side, Side::Mtls);
        assert_eq!(configuration, HandshakeConfiguration::new(Label::parse("mtls").unwrap()));
        let written = serde_json::to_vec(&configuration).unwrap();
        assert_eq!(HandshakeConfiguration::parse(&written).unwrap(), configuration);
        let configuration = HandshakeConfiguration::parse(
            br#"{"listener": "inner", "side": "inspecting", "service": "web"}"#,
        )
        .unwrap();
        assert_eq!(configuration.side, Side::Inspecting);
        assert_eq!(configuration.service.as_deref(), Some("web"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, expected) in [
            (r#"{"listener": "mtls", "sevice": "a"}"#, "unknown key `sevice`; did you mean `service`?"),
            (r#"{"service": "a"}"#, "missing key `listener`"),
            (r#"{"listener": "a.b"}"#, "listener: `a.b` is no label"),
            (
                r#"{"listener": "mtls", "side": "outer"}"#,
                "side: `outer` is not known here; use `mtls`, `inspecting`",
            ),
            (
                r#"{"listener": "mtls", "fields": {"drop": ["client.pi"]}}"#,
                "fields.drop[0]: `client.pi` is no field",
            ),
            (
                r#"{"listener": "mtls", "fields": {"hash": ["client"]}}"#,
                "fields.key: it has 0 bytes; use 16 or more",
            ),
            (
                r#"{"listener": "mtls", "window_seconds": 0}"#,
                "window_seconds: `0` is out of range; use 1 to 3600",
            ),
            (
                r#"{"listener": "mtls", "sampling": {"firsts": 1}}"#,
                "sampling.firsts: unknown key `firsts`; did you mean `first`?",
            ),
            (
                r#"{"listener": "mtls", "otlp": {"cluster": "c", "batch": 0}}"#,
                "otlp.batch: `0` is out of range",
            ),
            (r#"{"listener": "mtls", "alarm": 1}"#, "alarm: `1` is out of range"),
            ("", "EOF"),
        ] {
            let error = HandshakeConfiguration::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
