//! What the targets share: policies of one matcher, and something to ask them about.

use std::net::SocketAddr;

use outgate_policy::{
    ClientCertificate, Connection, Destination, Engine, Headers, Identity, Known, PolicyErrors, Request,
    RequestPath, RequestStage, RequestVerdict, Session,
};
use serde_json::{Value, json};
use time::OffsetDateTime;

/// A policy of one rule with this matcher.
pub fn policy(matcher: &str) -> Value {
    json!({
        "name": "fuzz",
        "tlsInspectionPolicy": "default",
        "rules": [{
            "name": "rule",
            "enabled": true,
            "priority": 1,
            "basicProfile": "ALLOW",
            "sessionMatcher": "true",
            "applicationMatcher": matcher,
            "tlsInspectionEnabled": true,
        }],
        "urlLists": [{"name": "l", "values": ["*.a.example", "b.example/a*"]}],
        "tlsInspectionPolicies": [{"name": "default", "caPool": "main"}],
    })
}

/// Compiles it; errors are few and short.
pub fn compile(policy: &Value) -> Option<Engine> {
    checked(Engine::from_value(policy))
}

/// An engine, or errors that are few and short.
pub fn checked(engine: Result<Engine, PolicyErrors>) -> Option<Engine> {
    match engine {
        Ok(engine) => Some(engine),
        Err(errors) => {
            let said = errors.to_string();
            assert!(!said.is_empty() && said.len() < 200_000, "{} bytes of errors", said.len());
            None
        }
    }
}

/// What the matcher of a policy's only rule says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Answer {
    True,
    False,
    Fails,
}

/// Asks the engine everything once; what its first rule says of a request with this header.
pub fn ask(engine: &Engine, text: &str) -> Answer {
    let identity = Identity::new(vec!["t".to_owned()], vec!["a@p.example".to_owned()]);
    let destination = Destination::parse("www.a.example:443").unwrap();
    let certificate = ClientCertificate {
        subject: "CN=a".to_owned(),
        issuer: "CN=b".to_owned(),
        serial: "01".to_owned(),
        sha256: "00".to_owned(),
        uri_sans: vec!["spiffe://mesh/a".to_owned()],
        dns_sans: vec!["a.example".to_owned(), "b.example".to_owned()],
        not_after: OffsetDateTime::UNIX_EPOCH,
    };
    let connection = Connection { sni: Some("www.a.example"), ..Connection::default() };
    let session = Session {
        circumstances: &Known { client: SocketAddr::from(([10, 0, 0, 1], 1)), now: OffsetDateTime::UNIX_EPOCH },
        identity: &identity,
        destination: &destination,
        certificate: Some(&certificate),
        connection: Some(&connection),
    };
    engine.connect(&session);
    engine.sniffed(&session);
    let path = RequestPath::parse("/a/b?x=1").unwrap();
    let headers = Headers::of_request(&destination.host, [("x", text.as_bytes()), ("n", b"12")].into_iter());
    let stage = RequestStage::Inspected;
    let request = Request { method: "GET", scheme: stage.scheme(), path: &path, headers: &headers };
    let decision = engine.request(&session, &request, stage);
    match decision.verdict {
        RequestVerdict::Allow(_) => Answer::True,
        RequestVerdict::Deny(_) if decision.errors.is_empty() => Answer::False,
        RequestVerdict::Deny(_) => Answer::Fails,
    }
}

/// A text in CEL.
pub fn quoted(text: &str) -> String {
    let characters: String =
        text.chars().map(|character| format!("\\U{:08x}", u32::from(character))).collect();
    format!("'{characters}'")
}
