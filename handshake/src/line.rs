//! The record of a failed handshake: one JSON object of nested ECS names, and `mtls.*` where ECS has none.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use outgate_policy::Destination;

use crate::classify::Failure;
use crate::fields::Fields;
use crate::presented::{Facts, Presented, timestamp};
use crate::shape::{Shape, shaped};
use crate::taxonomy::DetectedBy;
use crate::visible::visible;

/// No line is longer, whatever the client sent.
pub const MAXIMUM_LINE: usize = 16 * 1024;

/// Characters of Envoy's own words.
const MAXIMUM_MESSAGE: usize = 1024;
/// Characters of a JA3 or JA4.
const MAXIMUM_FINGERPRINT: usize = 64;
/// Characters of a server name; a DNS name has 253 at most.
const MAXIMUM_SERVER_NAME: usize = 256;

/// What a line tells of a connection; what is not known is absent.
#[derive(Clone, Debug)]
pub struct Connection<'a> {
    /// When it ended.
    pub at: OffsetDateTime,
    /// How long it lasted, in nanoseconds.
    pub duration: Option<u64>,
    /// Envoy's number of the connection.
    pub id: Option<u64>,
    /// Who connected: behind the PROXY protocol whom the header names.
    pub client: Option<SocketAddr>,
    /// Whose connection it was, if not the client's own.
    pub peer: Option<SocketAddr>,
    /// To where.
    pub server: Option<SocketAddr>,
    /// The listener's label.
    pub listener: Option<&'a str>,
    /// The SNI.
    pub server_name: Option<&'a str>,
    /// `connection.tls_version`, which is only believed where a version can have been agreed on.
    pub tls_version: Option<&'a str>,
    /// The client's JA3.
    pub ja3: Option<&'a str>,
    /// The client's JA4.
    pub ja4: Option<&'a str>,
    /// Why it failed, in Envoy's words.
    pub message: Option<&'a str>,
    /// The service that was asked for, as the listener's configuration names it.
    pub service: Option<&'a str>,
    /// The client's certificate.
    pub certificate: Option<Presented>,
    /// Whether TLS was completed and the request refused.
    pub refused: bool,
    /// What could not be checked of a certificate that was judged here.
    pub unchecked: &'a [&'a str],
    /// The session inside which we posed as a host.
    pub inspected: Option<&'a Inspected>,
}

impl Connection<'_> {
    /// One of which nothing is known but when it ended.
    pub fn ended(at: OffsetDateTime) -> Self {
        Self {
            at,
            duration: None,
            id: None,
            client: None,
            peer: None,
            server: None,
            listener: None,
            server_name: None,
            tls_version: None,
            ja3: None,
            ja4: None,
            message: None,
            service: None,
            certificate: None,
            refused: false,
            unchecked: &[],
            inspected: None,
        }
    }
}

/// The session of a handshake on the inspecting side.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Inspected {
    /// The client, as the explicit listener saw it.
    pub client: SocketAddr,
    /// Where the session leads.
    #[serde(with = "destination")]
    pub destination: Destination,
    /// The rule that has it inspected.
    pub rule: String,
    /// Joins the lines of one tunnel.
    pub session_id: String,
}

impl Inspected {
    /// The form in which it waits for its handshake.
    pub fn pack(&self) -> Vec<u8> {
        // A struct of strings always serialises.
        postcard::to_allocvec(self).unwrap_or_default()
    }

    /// Reads that form.
    pub fn unpack(packed: &[u8]) -> Option<Self> {
        postcard::from_bytes(packed).ok()
    }
}

/// `host:port`
mod destination {
    use outgate_policy::Destination;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(destination: &Destination, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(destination)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Destination, D::Error> {
        let text = String::deserialize(deserializer)?;
        Destination::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// The line in ECS with all its fields, without its newline.
pub fn line(failure: &Failure, connection: &Connection<'_>) -> String {
    written(&record(failure, connection), Shape::Ecs, &Fields::default())
}

/// A record as a line, without its newline.
pub fn written(record: &Map<String, Value>, shape: Shape, fields: &Fields) -> String {
    let mut record = fields.apply(record.clone());
    let mut text = shaped(record.clone(), shape).to_string();
    // Only quotation marks by the thousand come this far: a line that says why is better than one that is cut.
    for member in ["alternative_names", "tls"] {
        if text.len() <= MAXIMUM_LINE {
            break;
        }
        match record.get_mut("mtls") {
            Some(Value::Object(mtls)) if member != "tls" => mtls.remove(member),
            _ => record.remove(member),
        };
        text = shaped(record.clone(), shape).to_string();
    }
    text
}

/// All that is told of a failed handshake.
pub fn record(failure: &Failure, connection: &Connection<'_>) -> Map<String, Value> {
    let session = connection.inspected;
    object([
        ("@timestamp", timestamp(connection.at).map(Value::from)),
        ("event", Some(event(failure, connection))),
        ("error", Some(error(failure, connection))),
        ("client", connection.client.map(endpoint)),
        ("source", connection.peer.filter(|peer| Some(*peer) != connection.client).map(endpoint)),
        ("server", connection.server.map(endpoint)),
        ("observer", connection.listener.map(observer)),
        ("service", connection.service.map(|name| json!({"name": name}))),
        ("tls", Some(tls(failure, connection))),
        ("mtls", Some(mtls(failure, connection))),
        (
            "destination",
            session.map(|session| {
                json!({"domain": session.destination.host.as_str(), "port": session.destination.port})
            }),
        ),
        ("rule", session.map(|session| json!({"name": session.rule}))),
        ("outgate", session.map(|session| json!({"session_id": session.session_id}))),
    ])
}

/// The listener, as ECS has it.
pub fn observer(listener: &str) -> Value {
    json!({"ingress": {"interface": {"name": listener}}})
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
        ("id", connection.id.map(|id| json!(id.to_string()))),
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
    let agreed = connection.refused || failure.sub_reason.follows_negotiation();
    let version = connection.tls_version.filter(|_| agreed);
    let client = client(connection);
    Value::Object(object([
        ("version", version.and_then(version_number).map(Value::from)),
        ("established", Some(Value::Bool(connection.refused))),
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
    let names = certificate.names();
    let x509 = object([
        ("alternative_names", (!names.is_empty()).then(|| json!(names))),
        ("serial_number", certificate.serial.map(Value::from)),
        ("public_key_algorithm", certificate.key_algorithm.map(Value::from)),
        ("public_key_size", certificate.key_size.map(Value::from)),
        ("signature_algorithm", certificate.signature_algorithm.map(Value::from)),
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
        ("ja3", connection.ja3.map(|ja3| json!(visible(ja3.as_bytes(), MAXIMUM_FINGERPRINT)))),
    ])
}

fn mtls(failure: &Failure, connection: &Connection<'_>) -> Value {
    let certificate = connection.certificate.as_ref();
    let omitted = certificate.map_or(0, |certificate| certificate.alternative_names_omitted);
    let defect = certificate.and_then(|certificate| certificate.defect.as_deref());
    let by_type = certificate.map(names_by_type).unwrap_or_default();
    Value::Object(object([
        ("class", Some(json!(failure.class().as_str()))),
        ("detected_by", Some(json!(failure.detected_by().as_str()))),
        ("certainty", Some(json!(failure.certainty.as_str()))),
        ("blame", Some(json!(failure.blame().as_str()))),
        ("remedy", Some(json!(failure.remedy()))),
        ("code", failure.code.map(Value::from)),
        ("depth", failure.depth.map(Value::from)),
        ("refused", connection.refused.then_some(Value::Bool(true))),
        ("unchecked", (!connection.unchecked.is_empty()).then(|| json!(connection.unchecked))),
        ("offered", connection.ja4.and_then(offered)),
        ("ja4", connection.ja4.map(|ja4| json!(visible(ja4.as_bytes(), MAXIMUM_FINGERPRINT)))),
        ("certificate", certificate.and_then(|certificate| certificate.facts).map(facts)),
        ("alternative_names", (!by_type.is_empty()).then_some(Value::Object(by_type))),
        ("alternative_names_omitted", (omitted > 0).then(|| json!(omitted))),
        ("certificate_defect", defect.map(Value::from)),
    ]))
}

fn facts(facts: Facts) -> Value {
    json!({
        "expired": facts.expired,
        "not_yet_valid": facts.not_yet_valid,
        "self_signed": facts.self_signed,
        "ca": facts.ca,
        "weak_key": facts.weak_key,
        "weak_signature": facts.weak_signature,
    })
}

fn names_by_type(certificate: &Presented) -> Map<String, Value> {
    let mut names: Map<String, Value> = Map::new();
    for name in &certificate.alternative_names {
        let list = names.entry(name.kind.as_str()).or_insert_with(|| json!([]));
        if let Value::Array(list) = list {
            list.push(json!(name.text));
        }
    }
    names
}

/// What the ClientHello offers, as its JA4 tells it: `t13d1516h2_…` is TLS 1.3 at most, and h2 first.
fn offered(ja4: &str) -> Option<Value> {
    let version = match ja4.get(1..3)? {
        "13" => "1.3",
        "12" => "1.2",
        "11" => "1.1",
        "10" => "1.0",
        _ => return None,
    };
    // The first and the last character of the first protocol.
    let protocol = match ja4.get(8..10)? {
        "00" => None,
        "h1" => Some("http/1.1"),
        other => Some(other),
    };
    Some(Value::Object(object([
        ("version", Some(json!(version))),
        ("next_protocol", protocol.map(|protocol| json!(visible(protocol.as_bytes(), 16)))),
    ])))
}

/// An object of what is there.
pub fn object<const N: usize>(mut members: [(&str, Option<Value>); N]) -> Map<String, Value> {
    taken(&mut members)
}

/// Inserted one by one: a `collect` sorts, and each kind of iterator would bring a sort of its own into the module.
fn taken(members: &mut [(&str, Option<Value>)]) -> Map<String, Value> {
    let mut object = Map::new();
    for (name, value) in members {
        if let Some(value) = value.take() {
            object.insert((*name).to_owned(), value);
        }
    }
    object
}

#[cfg(test)]
mod tests;
