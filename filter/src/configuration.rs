//! The plugin JSON: what `outgate render` writes into Envoy's configuration and `outgate.wasm` reads at its start.
//!
//! ```json
//! {
//!   "policy": {"name": "egress", "rules": []},
//!   "patterns": {"^/v[0-9]/": "AQAG…"},
//!   "routing": {"shards": 64, "resolve": [{"host": "api.example", "port": 443}]},
//!   "grants": {"cluster": "cert-service"},
//!   "limits": {"connections_per_client": 100},
//!   "client_certificates": true,
//!   "log": {"allowances": 1.0}
//! }
//! ```
//!
//! | key | meaning | default |
//! |---|---|---|
//! | `policy` | the policy, as in its file | required |
//! | `patterns` | the programs of the regular expressions in the rules, by their patterns, as `outgate render` compiles them; every pattern of an enabled rule must be there | none |
//! | `routing.shards` | how many clusters `shard-0`, `shard-1` … of the dynamic forward proxy exist | 64 |
//! | `routing.resolve` | destinations with a cluster of their own, `resolve-0`, `resolve-1` …; the first that matches; `*` is any host | none |
//! | `routing.own` | addresses `ip:port` of the proxy's own listeners, which no client may reach through it | none |
//! | `grants.cluster` | the cluster that answers `POST /v1/grants` | `cert-service` |
//! | `limits.connections_per_client` | how many connections to the explicit listener one client address may have open; needs the filter `connections` there | none |
//! | `client_certificates` | whether certificates of clients of the explicit listener count; only for a listener that verifies them | false |
//! | `log.allowances` | the share of allowances that is logged, 0 to 1; denials always are | 1 |
//! | `generation` | a number that differs from one configuration to the next, so that one that was there before is taken anew | 0 |
//!
//! Unknown keys are errors that name the key and its place.
//!
//! One root, `explicit`, has all this. The others in its VM have `{"policy_of": "explicit"}` and do as it was told:
//! Envoy keeps several copies of each configuration, and a policy may be large.

use std::num::NonZeroU32;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use outgate_policy::Programs;

use crate::routing::Routing;

/// The plugin JSON as written.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PluginConfiguration {
    /// The policy document, as in its file.
    pub policy: Value,
    /// The programs of its regular expressions.
    #[serde(default, skip_serializing_if = "Programs::is_empty")]
    pub patterns: Programs,
    /// How verdicts become clusters.
    #[serde(default)]
    pub routing: Routing,
    /// Where grants are asked for.
    #[serde(default)]
    pub grants: Grants,
    /// How much each client may have.
    #[serde(default, skip_serializing_if = "Limits::is_empty")]
    pub limits: Limits,
    /// Whether the explicit listener verifies client certificates, so that they count.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub client_certificates: bool,
    /// What is logged.
    #[serde(default)]
    pub log: Log,
    /// Tells this configuration from an earlier one with the same text, which Envoy would go on with: roots that follow
    /// would not learn of it.
    #[serde(default, skip_serializing_if = "is_first")]
    pub generation: u64,
}

fn is_first(generation: &u64) -> bool {
    *generation == 0
}

/// What a root is told.
#[derive(Clone, Debug)]
pub enum PluginJson {
    /// A policy and its settings.
    Policy(Box<PluginConfiguration>),
    /// Those of the root `explicit` in the same VM.
    PolicyOf(Lender),
}

/// The plugin JSON of a root that has no policy of its own.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyOf {
    /// Whose policy counts.
    pub policy_of: Lender,
}

/// A root whose policy others have.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Lender {
    /// The root of the explicit listener.
    Explicit,
}

/// How much each client may have.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Connections to the explicit listener.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections_per_client: Option<NonZeroU32>,
}

impl Limits {
    fn is_empty(&self) -> bool {
        self.connections_per_client.is_none()
    }
}

/// Where grants are asked for.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Grants {
    /// Envoy's name of the cluster of cert-service.
    pub cluster: String,
}

/// What is logged.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// The share of allowances with a line, from 0 to 1.
    pub allowances: f64,
}

/// Why a plugin JSON was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigurationError {
    /// Not JSON, or not of this shape.
    #[error("plugin configuration: {place}: {message}")]
    Shape {
        /// The path of the offending key, such as `routing.shards`.
        place: String,
        /// What was expected.
        message: String,
    },
    /// A number outside its range.
    #[error("plugin configuration: {place}: `{value}` is out of range; use {range}")]
    Range {
        /// The path of the key.
        place: &'static str,
        /// What was given.
        value: String,
        /// What is allowed.
        range: &'static str,
    },
}

impl PluginJson {
    /// Reads the plugin JSON; every key must be known.
    pub fn parse(text: &[u8]) -> Result<Self, ConfigurationError> {
        let value: Value = read_strictly(text)?;
        if value.get("policy_of").is_some() {
            let PolicyOf { policy_of } = read(value)?;
            return Ok(Self::PolicyOf(policy_of));
        }
        Ok(Self::Policy(Box::new(PluginConfiguration::checked(read(value)?)?)))
    }
}

impl PluginConfiguration {
    /// A policy, with the settings that it has if none are given.
    pub fn new(policy: Value) -> Self {
        Self {
            policy,
            patterns: Programs::new(),
            routing: Routing::default(),
            grants: Grants::default(),
            limits: Limits::default(),
            client_certificates: false,
            log: Log::default(),
            generation: 0,
        }
    }

    fn checked(configuration: Self) -> Result<Self, ConfigurationError> {
        if !(1..=1024).contains(&configuration.routing.shards) {
            return Err(ConfigurationError::Range {
                place: "routing.shards",
                value: configuration.routing.shards.to_string(),
                range: "1 to 1024",
            });
        }
        if !(0.0..=1.0).contains(&configuration.log.allowances) {
            return Err(ConfigurationError::Range {
                place: "log.allowances",
                value: configuration.log.allowances.to_string(),
                range: "0 to 1",
            });
        }
        Ok(configuration)
    }
}

/// Reads JSON into a shape whose keys must all be known; errors name the key and its place.
pub fn read_strictly<T: DeserializeOwned>(text: &[u8]) -> Result<T, ConfigurationError> {
    read(&mut serde_json::Deserializer::from_slice(text))
}

fn read<'t, T: DeserializeOwned, D>(source: D) -> Result<T, ConfigurationError>
where
    D: Deserializer<'t, Error = serde_json::Error>,
{
    serde_path_to_error::deserialize(source).map_err(|error| ConfigurationError::Shape {
        place: error.path().to_string(),
        message: error.into_inner().to_string(),
    })
}

impl Default for Grants {
    fn default() -> Self {
        Self { cluster: "cert-service".to_owned() }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { allowances: 1.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_configuration_has_defaults() {
        let Ok(PluginJson::Policy(configuration)) = PluginJson::parse(br#"{"policy": {}}"#) else { panic!() };
        assert_eq!(configuration.routing.shards, 64);
        assert_eq!(configuration.grants.cluster, "cert-service");
        assert_eq!(configuration.log.allowances, 1.0);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        for (text, expected) in [
            (r#"{"policy": {}, "polcy": 1}"#, "unknown field `polcy`"),
            (r#"{"policy": {}, "routing": {"shard": 1}}"#, "routing.shard: unknown field `shard`"),
            (
                r#"{"policy": {}, "routing": {"shards": 0}}"#,
                "routing.shards: `0` is out of range; use 1 to 1024",
            ),
            (
                r#"{"policy": {}, "log": {"allowances": 1.5}}"#,
                "log.allowances: `1.5` is out of range; use 0 to 1",
            ),
            (
                r#"{"policy": {}, "routing": {"resolve": [{"host": "a b", "port": 1}]}}"#,
                "routing.resolve[0].host",
            ),
            (
                r#"{"policy": {}, "limits": {"connections_per_client": 0}}"#,
                "limits.connections_per_client: invalid value: integer `0`",
            ),
            ("{}", "missing field `policy`"),
            (r#"{"policy_of": "explicit", "policy": {}}"#, "unknown field `policy`"),
            (r#"{"policy_of": "tls"}"#, "policy_of: unknown variant `tls`, expected `explicit`"),
            ("not json", "expected"),
        ] {
            let error = PluginJson::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
