//! The line of a failed handshake: one JSON object of nested ECS names, and `mtls.*` where ECS has none.

use std::net::SocketAddr;

use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use outgate_policy::Destination;

use super::classify::Failure;
use super::presented::{Presented, timestamp};
use super::taxonomy::DetectedBy;
use super::visible::visible;

/// No line is longer, whatever the client sent.
pub const MAXIMUM_LINE: usize = 16 * 1024;

/// Characters of Envoy's own words.
const MAXIMUM_MESSAGE: usize = 1024;
/// Characters of a server name; a DNS name has 253 at most.
const MAXIMUM_SERVER_NAME: usize = 256;

/// What a line tells of a connection.
#[derive(Clone, Debug)]
pub struct Connection<'a> {
    /// When it ended.
    pub at: OffsetDateTime,
    /// How long it lasted, in nanoseconds.
    pub duration: Option<u64>,
    /// Who connected.
    pub client: Option<SocketAddr>,
    /// To where.
    pub server: Option<SocketAddr>,
    /// The SNI.
    pub server_name: Option<&'a str>,
    /// `connection.tls_version`, which is only believed where a version can have been agreed on.
    pub tls_version: Option<&'a str>,
    /// Why it failed, in Envoy's words.
    pub message: Option<&'a str>,
    /// The service that was asked for, as the listener's configuration names it.
    pub service: Option<&'a str>,
    /// The client's certificate.
    pub certificate: Option<Presented>,
    /// The session inside which we posed as a host.
    pub intercepted: Option<Intercepted<'a>>,
}

/// The session of a handshake on the inspecting side.
#[derive(Clone, Copy, Debug)]
pub struct Intercepted<'a> {
    /// Where the session leads.
    pub destination: &'a Destination,
    /// The rule that has it inspected.
    pub rule: &'a str,
    /// Joins the lines of one tunnel.
    pub session_id: &'a str,
}

/// The line, without its newline.
pub fn line(failure: &Failure, connection: &Connection<'_>) -> String {
    let session = connection.intercepted;
    let mut line = object([
        ("@timestamp", timestamp(connection.at).map(Value::from)),
        ("event", Some(event(failure, connection))),
        ("error", Some(error(failure, connection))),
        ("client", connection.client.map(endpoint)),
        ("server", connection.server.map(endpoint)),
        ("service", connection.service.map(|name| json!({"name": name}))),
        ("tls", Some(tls(failure, connection))),
        ("mtls", Some(mtls(failure, connection))),
        ("destination", session.map(|session| json!({"domain": session.destination.host.as_str(), "port": session.destination.port}))),
        ("rule", session.map(|session| json!({"name": session.rule}))),
        ("outgate", session.map(|session| json!({"session_id": session.session_id}))),
    ]);
    let text = Value::Object(line.clone()).to_string();
    if text.len() <= MAXIMUM_LINE {
        return text;
    }
    // Only quotation marks by the thousand come this far: a line that says why is better than one that is cut.
    line.remove("tls");
    Value::Object(line).to_string()
}

fn event(failure: &Failure, connection: &Connection<'_>) -> Value {
    let ended = match failure.detected_by() {
        DetectedBy::Server => "denied",
        DetectedBy::Client | DetectedBy::Transport => "error",
    };
    Value::Object(object([
        ("kind", Some(json!("event"))),
        ("category", Some(json!(["network", "authentication"]))),
        ("type", Some(json!(["connection", ended]))),
        ("action", Some(json!("tls.handshake.failure"))),
        ("outcome", Some(json!("failure"))),
        ("reason", Some(json!(failure.sub_reason.as_str()))),
        ("duration", connection.duration.map(Value::from)),
    ]))
}

fn error(failure: &Failure, connection: &Connection<'_>) -> Value {
    let message = match connection.message {
        Some(message) => visible(message.as_bytes(), MAXIMUM_MESSAGE),
        None => failure.sub_reason.as_str().replace('_', " "),
    };
    json!({"type": failure.category().as_str(), "message": message})
}

fn endpoint(address: SocketAddr) -> Value {
    json!({"ip": address.ip().to_canonical(), "port": address.port()})
}

fn tls(failure: &Failure, connection: &Connection<'_>) -> Value {
    let version = connection.tls_version.filter(|_| failure.sub_reason.follows_negotiation());
    let client = client(connection);
    Value::Object(object([
        ("version", version.and_then(version_number).map(Value::from)),
        ("established", Some(Value::Bool(false))),
        ("client", (!client.is_empty()).then_some(Value::Object(client))),
    ]))
}

fn version_number(version: &str) -> Option<&'static str> {
    match version {
        "TLSv1.3" => Some("1.3"),
        "TLSv1.2" => Some("1.2"),
        "TLSv1.1" => Some("1.1"),
        "TLSv1" => Some("1.0"),
        _ => None,
    }
}

fn client(connection: &Connection<'_>) -> Map<String, Value> {
    let certificate = connection.certificate.clone().unwrap_or_default();
    let names = certificate.alternative_names;
    let x509 = object([
        ("serial_number", certificate.serial.map(Value::from)),
        ("alternative_names", (!names.is_empty()).then(|| json!(names))),
    ]);
    object([
        (
            "server_name",
            connection.server_name.map(|name| json!(visible(name.as_bytes(), MAXIMUM_SERVER_NAME))),
        ),
        ("subject", certificate.subject.map(Value::from)),
        ("issuer", certificate.issuer.map(Value::from)),
        ("not_before", certificate.not_before.map(Value::from)),
        ("not_after", certificate.not_after.map(Value::from)),
        ("x509", (!x509.is_empty()).then_some(Value::Object(x509))),
        ("hash", certificate.sha256.map(|digest| json!({"sha256": digest}))),
    ])
}

fn mtls(failure: &Failure, connection: &Connection<'_>) -> Value {
    let certificate = connection.certificate.as_ref();
    let omitted = certificate.map_or(0, |certificate| certificate.alternative_names_omitted);
    let defect = certificate.and_then(|certificate| certificate.defect.as_deref());
    Value::Object(object([
        ("class", Some(json!(failure.class().as_str()))),
        ("detected_by", Some(json!(failure.detected_by().as_str()))),
        ("certainty", Some(json!(failure.certainty.as_str()))),
        ("blame", Some(json!(failure.blame().as_str()))),
        ("remedy", Some(json!(failure.remedy()))),
        ("depth", failure.depth.map(Value::from)),
        ("alternative_names_omitted", (omitted > 0).then(|| json!(omitted))),
        ("certificate_defect", defect.map(Value::from)),
    ]))
}

/// An object of what is there.
fn object<const N: usize>(members: [(&str, Option<Value>); N]) -> Map<String, Value> {
    members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

#[cfg(test)]
mod tests;
