//! The plugin JSON of the access logger.
//!
//! ```json
//! {"listener": "mtls", "side": "mtls", "service": "payments"}
//! ```
//!
//! | key | meaning | default |
//! |---|---|---|
//! | `listener` | the listener's label in metrics: letters, digits, `-` and `_`, 64 at most | required |
//! | `side` | `mtls` demands client certificates, `inspecting` serves intercept certificates | `mtls` |
//! | `service` | `service.name` of its lines: what clients of this listener want | none |
//!
//! Unknown keys are errors that name the key.

use serde::Deserialize;

use super::classify::Side;
use crate::configuration::{ConfigurationError, read_strictly};

/// The plugin JSON as written.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
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
}

/// A word that is safe in a metric's name.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(try_from = "String")]
pub struct Label(String);

/// Why a label was refused.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no label; use 1 to 64 letters, digits, `-` and `_`")]
pub struct LabelError(String);

impl HandshakeConfiguration {
    /// Reads the plugin JSON; every key must be known.
    pub fn parse(text: &[u8]) -> Result<Self, ConfigurationError> {
        read_strictly(text)
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
        assert_eq!(configuration.service, None);
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
            ("", "EOF"),
        ] {
            let error = HandshakeConfiguration::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
