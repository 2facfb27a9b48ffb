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

use serde::{Deserialize, Serialize};

use super::classify::Side;
use super::fields::Fields;
use super::sampling::Sampling;
use super::shape::Shape;
use super::verify::Untrusted;
use crate::configuration::{ConfigurationError, read_strictly};

/// The plugin JSON as written.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct HandshakeConfiguration {
    /// The listener's label in metrics.
    pub listener: Label,
    /// Which kind of listener it is.
    #[serde(default)]
    pub side: Side,
    /// What clients of this listener want.
    #[serde(default)]
    pub service: Option<String>,
    /// Whether the listener demands the PROXY protocol.
    #[serde(default)]
    pub proxy_protocol: bool,
    /// In which schema lines are written.
    #[serde(default)]
    pub shape: Shape,
    /// Which fields lines have.
    #[serde(default)]
    pub fields: Fields,
    /// Which failures have a line.
    #[serde(default)]
    pub sampling: Sampling,
    /// Length of a window.
    #[serde(default = "window_seconds")]
    pub window_seconds: u64,
    /// Failures of one source in a window that raise an alarm; 0 for none.
    #[serde(default = "alarm")]
    pub alarm: u64,
    /// How many sources, fingerprints and server names a summary names.
    #[serde(default = "top")]
    pub top: usize,
    /// A collector that gets the records too.
    #[serde(default)]
    pub otlp: Option<Otlp>,
    /// Whether lines are written to Envoy's log.
    #[serde(default = "lines")]
    pub lines: bool,
    /// What certificates must be on a listener that completes handshakes with untrusted ones.
    #[serde(default)]
    pub untrusted: Option<Untrusted>,
}

/// A collector that takes OTLP/HTTP.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Otlp {
    /// Envoy's name of its cluster.
    pub cluster: String,
    /// Where it takes logs.
    #[serde(default = "otlp_path")]
    pub path: String,
    /// The `:authority`; the cluster's name if it is absent.
    #[serde(default)]
    pub authority: Option<String>,
    /// Records in one call.
    #[serde(default = "otlp_batch")]
    pub batch: usize,
    /// Records that may wait.
    #[serde(default = "otlp_queue")]
    pub queue: usize,
}

fn window_seconds() -> u64 {
    60
}

fn alarm() -> u64 {
    100
}

fn top() -> usize {
    10
}

fn lines() -> bool {
    true
}

fn otlp_path() -> String {
    "/v1/logs".to_owned()
}

fn otlp_batch() -> usize {
    64
}

fn otlp_queue() -> usize {
    2048
}

/// A word that is safe in a metric's name.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(try_from = "String", into = "String")]
pub struct Label(String);

/// Why a label was refused.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no label; use 1 to 64 letters, digits, `-` and `_`")]
pub struct LabelError(String);

impl HandshakeConfiguration {
    /// Reads the plugin JSON; every key must be known.
    pub fn parse(text: &[u8]) -> Result<Self, ConfigurationError> {
        let configuration: Self = read_strictly(text)?;
        configuration.check()?;
        Ok(configuration)
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
            window_seconds: window_seconds(),
            alarm: alarm(),
            top: top(),
            otlp: None,
            lines: lines(),
            untrusted: None,
        }
    }

    fn check(&self) -> Result<(), ConfigurationError> {
        let number = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
        let mut ranges = vec![
            ("window_seconds", self.window_seconds, 1..=3600, "1 to 3600"),
            ("fields.maximum_length", number(self.fields.maximum_length), 64..=1024, "64 to 1024"),
            ("fields.maximum_names", number(self.fields.maximum_names), 0..=32, "0 to 32"),
            ("sampling.then_one_in", self.sampling.then_one_in.into(), 1..=u64::MAX, "1 or more"),
            ("top", number(self.top), 0..=32, "0 to 32"),
        ];
        if self.alarm != 0 {
            ranges.push(("alarm", self.alarm, 2..=u64::MAX, "2 or more, or 0 for none"));
        }
        if let Some(otlp) = &self.otlp {
            ranges.push(("otlp.batch", number(otlp.batch), 1..=512, "1 to 512"));
            ranges.push(("otlp.queue", number(otlp.queue), 1..=65_536, "1 to 65536"));
        }
        let hashes = !self.fields.hash.is_empty();
        if hashes {
            let length = number(self.fields.key.len());
            ranges.push((
                "fields.key (its length)",
                length,
                16..=u64::MAX,
                "16 bytes or more, for `fields.hash`",
            ));
        }
        match ranges.into_iter().find(|(_, value, range, _)| !range.contains(value)) {
            None => Ok(()),
            Some((place, value, _, range)) => {
                Err(ConfigurationError::Range { place, value: value.to_string(), range })
            }
        }
    }
}

impl From<Label> for String {
    fn from(label: Label) -> Self {
        label.0
    }
}

impl Label {
    /// The label.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Label {
    type Error = LabelError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let fits = (1..=64).contains(&text.len());
        if fits && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_') {
            Ok(Self(text))
        } else {
            Err(LabelError(text))
        }
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
        assert_eq!(configuration, HandshakeConfiguration::new("mtls".to_owned().try_into().unwrap()));
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
            (r#"{"listener": "mtls", "sevice": "a"}"#, "unknown field `sevice`"),
            (r#"{"service": "a"}"#, "missing field `listener`"),
            (r#"{"listener": "a.b"}"#, "listener: `a.b` is no label"),
            (r#"{"listener": "mtls", "side": "outer"}"#, "side: unknown variant `outer`"),
            (
                r#"{"listener": "mtls", "fields": {"drop": ["client.pi"]}}"#,
                "fields.drop[0]: `client.pi` is no field",
            ),
            (
                r#"{"listener": "mtls", "fields": {"hash": ["client"]}}"#,
                "fields.key (its length): `0` is out of range",
            ),
            (
                r#"{"listener": "mtls", "window_seconds": 0}"#,
                "window_seconds: `0` is out of range; use 1 to 3600",
            ),
            (r#"{"listener": "mtls", "sampling": {"firsts": 1}}"#, "sampling.firsts: unknown field `firsts`"),
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
