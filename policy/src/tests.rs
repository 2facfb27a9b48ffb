//! Behaviour of the engine as a whole.

mod conformance;
mod difference;
mod errors;
mod explain;
mod expressions;
mod hostile;
mod matchers;
mod oracle;
mod patterns;
pub mod random;
mod reference;
mod seeds;
mod walks;

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::*;

/// A policy of these rules, which may leave out what every rule has.
fn engine(rules: Value, outgate: Value) -> Engine {
    Engine::from_value(&policy(rules, outgate)).unwrap_or_else(|errors| panic!("{errors}"))
}

fn policy(mut rules: Value, outgate: Value) -> Value {
    for (index, rule) in rules.as_array_mut().unwrap().iter_mut().enumerate() {
        let rule = rule.as_object_mut().unwrap();
        for (key, default) in [
            ("name", json!(format!("r{}", index + 1))),
            ("priority", json!(10 * (index + 1))),
            ("basicProfile", json!("ALLOW")),
            ("sessionMatcher", json!("true")),
        ] {
            rule.entry(key).or_insert(default);
        }
    }
    json!({
        "name": "test",
        "tlsInspectionPolicy": "default",
        "rules": rules,
        "urlLists": [{"name": "banks", "values": ["*.bank.example", "pay.example/checkout/*"]}],
        "tlsInspectionPolicies": [{"name": "default", "caPool": "main"}],
        "outgate": outgate,
    })
}

/// A session or request to ask about.
struct Case {
    ip: &'static str,
    tags: Vec<String>,
    destination: &'static str,
    certificate: Option<ClientCertificate>,
    connection: Option<Connection<'static>>,
    method: &'static str,
    path: &'static str,
    headers: Vec<(&'static str, &'static str)>,
    now: OffsetDateTime,
}

impl Default for Case {
    fn default() -> Self {
        Self {
            ip: "10.0.0.1",
            tags: Vec::new(),
            destination: "example.com:443",
            certificate: None,
            connection: None,
            method: "GET",
            path: "/",
            headers: Vec::new(),
            now: OffsetDateTime::UNIX_EPOCH,
        }
    }
}

impl Case {
    fn to(destination: &'static str) -> Self {
        Self { destination, ..Self::default() }
    }

    fn with_session<T>(&self, ask: impl FnOnce(&Session<'_>) -> T) -> T {
        let identity = Identity::new(self.tags.clone(), vec!["ci@p.example".to_owned()]);
        let destination = Destination::parse(self.destination).unwrap();
        ask(&Session {
            circumstances: &Known { client: SocketAddr::new(self.ip.parse().unwrap(), 4711), now: self.now },
            identity: &identity,
            destination: &destination,
            certificate: self.certificate.as_ref(),
            connection: self.connection.as_ref(),
        })
    }

    fn connect(&self, engine: &Engine) -> String {
        let decision = self.with_session(|session| engine.connect(session));
        let name = |rule: RuleId| engine.rule(rule).unwrap().name.clone();
        let verdict = match decision.verdict {
            ConnectVerdict::Tunnel(rule) => format!("tunnel {}", name(rule)),
            ConnectVerdict::Deny(Some(rule)) => format!("deny {}", name(rule)),
            ConnectVerdict::Deny(None) => "deny".to_owned(),
            ConnectVerdict::Sniff { opened_by, tls } => {
                let tls = tls.map_or_else(|| "unknown".to_owned(), |verdict| tls_text(engine, verdict));
                format!("sniff {}: {tls}", name(opened_by))
            }
        };
        with_errors(verdict, engine, &decision.errors)
    }

    fn sniffed(&self, engine: &Engine) -> String {
        let decision = self.with_session(|session| engine.sniffed(session));
        with_errors(tls_text(engine, decision.verdict), engine, &decision.errors)
    }

    fn request(&self, engine: &Engine, stage: RequestStage) -> String {
        let path = RequestPath::parse(self.path).unwrap();
        let host = HostName::parse(self.destination.rsplit_once(':').unwrap().0).unwrap();
        let pairs = self.headers.iter().map(|(name, value)| (*name, value.as_bytes()));
        let headers = Headers::of_request(&host, pairs);
        let request = Request { method: self.method, scheme: stage.scheme(), path: &path, headers: &headers };
        let decision = self.with_session(|session| engine.request(session, &request, stage));
        let name = |rule: RuleId| engine.rule(rule).unwrap().name.clone();
        let mut verdict = match decision.verdict {
            RequestVerdict::Allow(rule) => format!("allow {}", name(rule)),
            RequestVerdict::Deny(Some(rule)) => format!("deny {}", name(rule)),
            RequestVerdict::Deny(None) => "deny".to_owned(),
        };
        if decision.reading == Reading::Folded {
            verdict += " (folded)";
        }
        with_errors(verdict, engine, &decision.errors)
    }
}

fn tls_text(engine: &Engine, verdict: TlsVerdict) -> String {
    let name = |rule: RuleId| engine.rule(rule).unwrap().name.clone();
    match verdict {
        TlsVerdict::Inspect(rule) => format!("inspect {}", name(rule)),
        TlsVerdict::Tunnel(rule) => format!("tunnel {}", name(rule)),
        TlsVerdict::Deny(Some(rule)) => format!("deny {}", name(rule)),
        TlsVerdict::Deny(None) => "deny".to_owned(),
    }
}

fn with_errors(verdict: String, engine: &Engine, errors: &[RuleId]) -> String {
    let names: Vec<_> = errors.iter().map(|rule| engine.rule(*rule).unwrap().name.as_str()).collect();
    if names.is_empty() { verdict } else { format!("{verdict}, failed: {}", names.join(" ")) }
}
