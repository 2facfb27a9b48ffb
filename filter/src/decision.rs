//! The decision line: one JSON object of nested ECS names for every verdict that is logged.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use outgate_handshake::classify::Failure;
use outgate_policy::{Destination, Identity};

/// What a line is about.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Subject {
    /// A tunnel, or a connection.
    Session,
    /// One HTTP request.
    Request,
}

/// A verdict, and all that its line tells.
#[derive(Clone, Debug)]
pub struct Decision<'a> {
    /// What was decided.
    pub subject: Subject,
    /// When.
    pub at: OffsetDateTime,
    /// `tunnel | inspect | http | deny | fail` for a session, `allow | deny` for a request.
    pub verdict: &'static str,
    /// The stable reason.
    pub reason: &'a str,
    /// The rule that decided.
    pub rule: Option<&'a str>,
    /// A sentence for the reader, where the reason alone does not say what to do.
    pub detail: Option<&'a str>,
    /// What went wrong with TLS, if that is why.
    pub failure: Option<Failure>,
    /// The client.
    pub client: Option<SocketAddr>,
    /// The client's tags and service accounts.
    pub identity: Option<&'a Identity>,
    /// Where to.
    pub destination: Option<&'a Destination>,
    /// The SNI, where bytes were looked at.
    pub server_name: Option<&'a str>,
    /// Whether the bytes were decrypted.
    pub decrypted: bool,
    /// The request, if it is about one.
    pub request: Option<RequestFacts<'a>>,
    /// The policy's name.
    pub policy: &'a str,
    /// The policy's hash.
    pub policy_hash: &'a str,
    /// Joins the lines of one tunnel.
    pub session_id: &'a str,
    /// Rules whose matcher failed.
    pub errors: Vec<&'a str>,
}

/// The request of a decision.
#[derive(Clone, Copy, Debug)]
pub struct RequestFacts<'a> {
    /// The id that the client was told.
    pub id: &'a str,
    /// The method.
    pub method: &'a str,
    /// The path as it was judged.
    pub path: Option<&'a str>,
}

impl Decision<'_> {
    /// Whether traffic goes on.
    pub fn allows(&self) -> bool {
        !matches!(self.verdict, "deny" | "fail")
    }

    /// The line, without its newline.
    pub fn line(&self) -> String {
        let (action, categories) = match self.subject {
            Subject::Session => ("outgate.session", json!(["network"])),
            Subject::Request => ("outgate.request", json!(["network", "web"])),
        };
        let (kind, outcome) = if self.allows() { ("allowed", "success") } else { ("denied", "failure") };
        let mut line = json!({
            "@timestamp": self.at.format(&Rfc3339).unwrap_or_default(),
            "event": {
                "kind": "event",
                "category": categories,
                "type": ["connection", kind],
                "action": action,
                "outcome": outcome,
                "reason": self.reason,
            },
            "outgate": {
                "verdict": self.verdict,
                "decrypted": self.decrypted,
                "policy": self.policy,
                "policy_hash": self.policy_hash,
                "session_id": self.session_id,
            },
        });
        if let Some(rule) = self.rule {
            set(&mut line, "rule", json!({"name": rule}));
        }
        if let Some(detail) = self.detail {
            set(&mut line, "message", json!(detail));
        }
        if let Some(failure) = self.failure {
            let error = json!({"type": failure.category().as_str(), "code": failure.sub_reason.as_str()});
            set(&mut line, "error", error);
        }
        if let Some(client) = self.client {
            set(&mut line, "client", json!({"ip": client.ip().to_canonical(), "port": client.port()}));
        }
        if let Some(destination) = self.destination {
            set(
                &mut line,
                "destination",
                json!({"domain": destination.host.as_str(), "port": destination.port}),
            );
        }
        if let Some(name) = self.server_name {
            set(&mut line, "tls", json!({"client": {"server_name": name}}));
        }
        if let Some(request) = self.request {
            set(&mut line, "http", json!({"request": {"id": request.id, "method": request.method}}));
            if let Some(path) = request.path {
                set(&mut line, "url", json!({"path": path}));
            }
        }
        if let Some(outgate) = line.get_mut("outgate") {
            self.add_identity(outgate);
            if !self.errors.is_empty() {
                set(outgate, "errors", json!(self.errors));
            }
        }
        line.to_string()
    }

    fn add_identity(&self, outgate: &mut Value) {
        let Some(identity) = self.identity else { return };
        if identity.tags().is_empty() && identity.service_accounts().is_empty() {
            return;
        }
        set(
            outgate,
            "identity",
            json!({"tags": identity.tags(), "service_accounts": identity.service_accounts()}),
        );
    }
}

/// How a session or a request ended.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// What ended.
    pub subject: Subject,
    /// When.
    pub at: OffsetDateTime,
    /// The status that the client got.
    pub status: Option<u16>,
    /// Bytes from the client.
    pub source_bytes: u64,
    /// Bytes from the destination.
    pub destination_bytes: u64,
    /// From the first byte to the last, in nanoseconds.
    pub duration: u64,
    /// Why it ended, in Envoy's words.
    pub reason: Option<&'a str>,
    /// The client.
    pub client: Option<SocketAddr>,
    /// Where to.
    pub destination: Option<&'a Destination>,
    /// The address behind it.
    pub destination_ip: Option<IpAddr>,
    /// The request's id.
    pub request_id: &'a str,
    /// Joins the lines of one tunnel.
    pub session_id: &'a str,
}

impl End<'_> {
    /// The line, without its newline.
    pub fn line(&self) -> String {
        let action = match self.subject {
            Subject::Session => "outgate.session.end",
            Subject::Request => "outgate.request.end",
        };
        let mut line = json!({
            "@timestamp": self.at.format(&Rfc3339).unwrap_or_default(),
            "event": {
                "kind": "event",
                "category": ["network"],
                "type": ["connection", "end"],
                "action": action,
                "duration": self.duration,
            },
            "source": {"bytes": self.source_bytes},
            "http": {"request": {"id": self.request_id}},
            "outgate": {"session_id": self.session_id},
        });
        let mut destination = json!({"bytes": self.destination_bytes});
        if let Some(name) = self.destination {
            set(&mut destination, "domain", json!(name.host.as_str()));
            set(&mut destination, "port", json!(name.port));
        }
        if let Some(ip) = self.destination_ip {
            set(&mut destination, "ip", json!(ip));
        }
        set(&mut line, "destination", destination);
        if let (Some(reason), Some(event)) = (self.reason, line.get_mut("event")) {
            set(event, "reason", json!(reason));
        }
        if let (Some(status), Some(http)) = (self.status, line.get_mut("http")) {
            set(http, "response", json!({"status_code": status}));
        }
        if let Some(client) = self.client {
            set(&mut line, "client", json!({"ip": client.ip().to_canonical(), "port": client.port()}));
        }
        line.to_string()
    }
}

fn set(object: &mut Value, name: &str, value: Value) {
    if let Value::Object(members) = object {
        members.insert(name.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denied_request_is_one_object_of_ecs_names() {
        let identity = Identity::new(vec!["tagValues/1".to_owned()], Vec::new());
        let destination = Destination::parse("a.example:443").unwrap();
        let decision = Decision {
            subject: Subject::Request,
            at: OffsetDateTime::UNIX_EPOCH,
            verdict: "deny",
            reason: "rule_denied",
            rule: Some("no-posts"),
            detail: None,
            failure: None,
            client: Some("10.0.0.1:4711".parse().unwrap()),
            identity: Some(&identity),
            destination: Some(&destination),
            server_name: Some("a.example"),
            decrypted: true,
            request: Some(RequestFacts { id: "77", method: "POST", path: Some("/x") }),
            policy: "egress",
            policy_hash: "00ff",
            session_id: "5e55",
            errors: vec!["broken"],
        };
        let line: Value = serde_json::from_str(&decision.line()).unwrap();
        assert_eq!(
            line,
            json!({
                "@timestamp": "1970-01-01T00:00:00Z",
                "event": {"kind": "event", "category": ["network", "web"], "type": ["connection", "denied"],
                          "action": "outgate.request", "outcome": "failure", "reason": "rule_denied"},
                "rule": {"name": "no-posts"},
                "client": {"ip": "10.0.0.1", "port": 4711},
                "destination": {"domain": "a.example", "port": 443},
                "tls": {"client": {"server_name": "a.example"}},
                "http": {"request": {"id": "77", "method": "POST"}},
                "url": {"path": "/x"},
                "outgate": {"verdict": "deny", "decrypted": true, "policy": "egress", "policy_hash": "00ff", "session_id": "5e55",
                            "identity": {"tags": ["tagValues/1"], "service_accounts": []}, "errors": ["broken"]},
            })
        );
    }

    #[test]
    fn an_ended_request_tells_what_moved() {
        let destination = Destination::parse("a.example:443").unwrap();
        let end = End {
            subject: Subject::Request,
            at: OffsetDateTime::UNIX_EPOCH,
            status: Some(200),
            source_bytes: 10,
            destination_bytes: 20,
            duration: 1_000_000,
            reason: Some("via_upstream"),
            client: Some("10.0.0.1:4711".parse().unwrap()),
            destination: Some(&destination),
            destination_ip: Some("192.0.2.1".parse().unwrap()),
            request_id: "77",
            session_id: "5e55",
        };
        let line: Value = serde_json::from_str(&end.line()).unwrap();
        assert_eq!(
            line,
            json!({
                "@timestamp": "1970-01-01T00:00:00Z",
                "event": {"kind": "event", "category": ["network"], "type": ["connection", "end"],
                          "action": "outgate.request.end", "duration": 1_000_000, "reason": "via_upstream"},
                "client": {"ip": "10.0.0.1", "port": 4711},
                "source": {"bytes": 10},
                "destination": {"bytes": 20, "domain": "a.example", "port": 443, "ip": "192.0.2.1"},
                "http": {"request": {"id": "77"}, "response": {"status_code": 200}},
                "outgate": {"session_id": "5e55"},
            })
        );
    }
}
