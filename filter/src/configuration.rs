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

use outgate_policy::document::parse_json;
use outgate_policy::document::reader::{Item, PLUGIN_JSON, Reader};
use outgate_policy::{PolicyErrors, Programs};
use serde::Serialize;
use serde_json::Value;

use crate::routing::Routing;

/// The plugin JSON as written.
#[derive(Clone, Debug, Serialize)]
pub struct PluginConfiguration {
    /// The policy document, as in its file.
    pub policy: Value,
    /// The programs of its regular expressions.
    #[serde(skip_serializing_if = "Programs::is_empty")]
    pub patterns: Programs,
    /// How verdicts become clusters.
    pub routing: Routing,
    /// Where grants are asked for.
    pub grants: Grants,
    /// How much each client may have.
    #[serde(skip_serializing_if = "Limits::is_empty")]
    pub limits: Limits,
    /// Whether the explicit listener verifies client certificates, so that they count.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub client_certificates: bool,
    /// What is logged.
    pub log: Log,
    /// Tells this configuration from an earlier one with the same text, which Envoy would go on with: roots that follow
    /// would not learn of it.
    #[serde(skip_serializing_if = "is_first")]
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
#[derive(Clone, Copy, Debug, Serialize)]
pub struct PolicyOf {
    /// Whose policy counts.
    pub policy_of: Lender,
}

/// A root whose policy others have.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Lender {
    /// The root of the explicit listener.
    Explicit,
}

/// How much each client may have.
#[derive(Clone, Copy, Debug, Default, Serialize)]
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
#[derive(Clone, Debug, Serialize)]
pub struct Grants {
    /// Envoy's name of the cluster of cert-service.
    pub cluster: String,
}

/// What is logged.
#[derive(Clone, Debug, Serialize)]
pub struct Log {
    /// The share of allowances with a line, from 0 to 1.
    pub allowances: f64,
}

impl PluginJson {
    /// Reads the plugin JSON; every key must be known. Errors have their places, such as `routing.shards`.
    pub fn parse(text: &[u8]) -> Result<Self, PolicyErrors> {
        let mut value = parse_json(text)?;
        let mut reader = Reader::new(PLUGIN_JSON);
        if value.get("policy_of").is_some() {
            let read = PolicyOf::read(&mut reader, &value);
            return Ok(Self::PolicyOf(reader.finish(read)?.policy_of));
        }
        // It may have megabytes, and is read by the policy's own reader.
        let policy = value.as_object_mut().and_then(|members| members.get_mut("policy")).map(Value::take);
        let read = PluginConfiguration::read(&mut reader, &value, policy);
        Ok(Self::Policy(Box::new(reader.finish(read)?)))
    }
}

impl PolicyOf {
    fn read(reader: &mut Reader, value: &Value) -> Option<Self> {
        let object = reader.object(&Item::root(value), &["policy_of"])?;
        let lender = reader.required(&object, "policy_of")?;
        reader.choice(&lender, &[("explicit", Lender::Explicit)]).map(|policy_of| Self { policy_of })
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

    fn read(reader: &mut Reader, value: &Value, policy: Option<Value>) -> Option<Self> {
        const KEYS: [&str; 8] =
            ["policy", "patterns", "routing", "grants", "limits", "client_certificates", "log", "generation"];
        let object = reader.object(&Item::root(value), &KEYS)?;
        if policy.is_none() {
            reader.required(&object, "policy");
        }
        let limits = object.get("limits").and_then(|item| reader.object(&item, &["connections_per_client"]));
        let per_client = limits.and_then(|limits| limits.get("connections_per_client"));
        let per_client = per_client.and_then(|item| reader.number(&item, &(1..=u32::MAX.into())));
        let grants = object.get("grants").and_then(|item| reader.object(&item, &["cluster"]));
        let cluster = grants.and_then(|grants| reader.optional_text(&grants, "cluster"));
        let log = object.get("log").and_then(|item| reader.object(&item, &["allowances"]));
        let allowances = log.and_then(|log| log.get("allowances")).and_then(|item| reader.share(&item));
        Some(Self {
            patterns: object.get("patterns").map(|item| reader.texts(&item)).unwrap_or_default(),
            routing: object.get("routing").map_or_else(Routing::default, |item| Routing::read(reader, &item)),
            grants: cluster.map_or_else(Grants::default, |cluster| Grants { cluster }),
            limits: Limits {
                connections_per_client: per_client
                    .and_then(|number| NonZeroU32::new(u32::try_from(number).ok()?)),
            },
            client_certificates: reader.boolean(&object, "client_certificates", false),
            log: allowances.map_or_else(Log::default, |allowances| Log { allowances }),
            generation: reader.optional_number(&object, "generation", &(0..=u64::MAX), 0),
            ..Self::new(policy?)
        })
    }
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
            (r#"{"policy": {}, "polcy": 1}"#, "unknown key `polcy`; did you mean `policy`?"),
            (
                r#"{"policy": {}, "routing": {"shard": 1}}"#,
                "routing.shard: unknown key `shard`; did you mean `shards`?",
            ),
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
                "limits.connections_per_client: `0` is out of range",
            ),
            ("{}", "missing key `policy`"),
            (r#"{"policy": {}, "policy": {}}"#, "the key `policy` stands twice"),
            ("[]", "expected an object, found a list"),
            ("not json", "expected"),
        ] {
            let error = PluginJson::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
