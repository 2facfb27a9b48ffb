//! Which fields of a record are written, and how: some are personal data, some are too long for somebody's log.

use outgate_policy::document::reader::{Item, Reader};
use serde::Serialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::visible::cut;

/// Every field that a record may have, by its ECS name; `mtls.*` where ECS has none.
pub const FIELDS: &[&str] = &[
    "@timestamp",
    "client.ip",
    "client.port",
    "destination.domain",
    "destination.port",
    "error.message",
    "error.type",
    "event.action",
    "event.category",
    "event.duration",
    "event.end",
    "event.id",
    "event.kind",
    "event.outcome",
    "event.reason",
    "event.start",
    "event.type",
    "mtls.alarm",
    "mtls.alternative_names",
    "mtls.alternative_names_omitted",
    "mtls.blame",
    "mtls.categories",
    "mtls.certainty",
    "mtls.certificate",
    "mtls.certificate_defect",
    "mtls.class",
    "mtls.code",
    "mtls.depth",
    "mtls.detected_by",
    "mtls.failures",
    "mtls.first_seen_suppressed",
    "mtls.ja4",
    "mtls.offered",
    "mtls.refused",
    "mtls.remedy",
    "mtls.suppressed",
    "mtls.top",
    "mtls.unchecked",
    "observer.ingress.interface.name",
    "outgate.session_id",
    "rule.name",
    "server.ip",
    "server.port",
    "service.name",
    "source.ip",
    "source.port",
    "tls.client.hash.sha256",
    "tls.client.issuer",
    "tls.client.ja3",
    "tls.client.not_after",
    "tls.client.not_before",
    "tls.client.server_name",
    "tls.client.subject",
    "tls.client.x509.alternative_names",
    "tls.client.x509.public_key_algorithm",
    "tls.client.x509.public_key_size",
    "tls.client.x509.serial_number",
    "tls.client.x509.signature_algorithm",
    "tls.established",
    "tls.version",
];

/// Fields that say the same thing in another place: what hides the first hides these.
const SAME: &[(&str, &[&str])] = &[
    ("client.ip", &["mtls.top.sources", "mtls.alarm.source"]),
    ("tls.client.hash.sha256", &["mtls.top.fingerprints"]),
    ("tls.client.server_name", &["mtls.top.server_names"]),
    ("tls.client.x509.alternative_names", &["mtls.alternative_names"]),
];

/// Where Envoy's words begin to quote the names in a certificate: of matchers, and of lists of names.
const QUOTED_NAMES: [&str; 2] = ["certificate SANs are [", "certificate SANs: ["];

/// Bytes of the key of hashes.
const SHORTEST_KEY: usize = 16;

/// The plugin JSON's key `fields`.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct Fields {
    /// Only these, with `@timestamp` and `event.action`; empty means all.
    pub include: Vec<Path>,
    /// Not these.
    pub drop: Vec<Path>,
    /// Of these only HMAC-SHA-256 with `key`.
    pub hash: Vec<Path>,
    /// The key of the hashes, 16 bytes at least.
    pub key: String,
    /// Characters of any text.
    pub maximum_length: usize,
    /// How many of a certificate's alternative names.
    pub maximum_names: usize,
}

/// A field, or a group of them: `client` is `client.ip` and `client.port`.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
#[serde(into = "String")]
pub struct Path(String);

/// Why a path was refused.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no field of a line; use an ECS name such as `client.ip`, or a group such as `tls.client`")]
pub struct PathError(String);

impl From<Path> for String {
    fn from(path: Path) -> Self {
        path.0
    }
}

impl Path {
    fn parse(text: &str) -> Result<Self, PathError> {
        let path = Self(text.to_owned());
        let known =
            FIELDS.iter().any(|field| path.covers(field) || Self((*field).to_owned()).covers(&path.0));
        if known { Ok(path) } else { Err(PathError(path.0)) }
    }

    /// Whether a field is this one, or in this group.
    fn covers(&self, field: &str) -> bool {
        field.strip_prefix(self.0.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }
}

impl Default for Fields {
    fn default() -> Self {
        Self {
            include: Vec::new(),
            drop: Vec::new(),
            hash: Vec::new(),
            key: String::new(),
            maximum_length: 1024,
            maximum_names: 32,
        }
    }
}

impl Fields {
    /// Reads the plugin JSON's key `fields`.
    pub(crate) fn read(reader: &mut Reader, item: &Item<'_>) -> Self {
        const KEYS: [&str; 6] = ["include", "drop", "hash", "key", "maximum_length", "maximum_names"];
        let default = Self::default();
        let Some(object) = reader.object(item, &KEYS) else { return default };
        let hash = reader.parsed(&object, "hash", Path::parse);
        let key = reader.optional_text(&object, "key").unwrap_or_default();
        if !hash.is_empty() && key.len() < SHORTEST_KEY {
            let length = key.len();
            reader.error(
                object.place("key"),
                format!("it has {length} bytes; use {SHORTEST_KEY} or more, for `fields.hash`"),
            );
        }
        Self {
            include: reader.parsed(&object, "include", Path::parse),
            drop: reader.parsed(&object, "drop", Path::parse),
            hash,
            key,
            maximum_length: reader.optional_number(
                &object,
                "maximum_length",
                &(64..=1024),
                default.maximum_length,
            ),
            maximum_names: reader.optional_number(&object, "maximum_names", &(0..=32), default.maximum_names),
        }
    }

    /// The record as it may be written.
    pub fn apply(&self, record: Map<String, Value>) -> Map<String, Value> {
        let mut kept = Map::new();
        for (name, value) in record {
            if let Some(value) = self.filtered(&name, value) {
                kept.insert(name, value);
            }
        }
        if self.hides("tls.client.x509.alternative_names")
            && let Some(Value::String(message)) =
                kept.get_mut("error").and_then(|error| error.get_mut("message"))
            && let Some(end) = quotes_from(message)
        {
            message.truncate(end);
            message.push_str("…]");
        }
        kept
    }

    fn filtered(&self, path: &str, value: Value) -> Option<Value> {
        if self.drop.iter().any(|dropped| dropped.covers(path)) || self.dropped_elsewhere(path) {
            return None;
        }
        if self.hash.iter().any(|hashed| hashed.covers(path)) || self.hashed_elsewhere(path) {
            return self.included(path).then(|| self.hashed(value));
        }
        match value {
            Value::Object(members) => {
                let mut kept = Map::new();
                for (name, value) in members {
                    if let Some(value) = self.filtered(&format!("{path}.{name}"), value) {
                        kept.insert(name, value);
                    }
                }
                (!kept.is_empty()).then_some(Value::Object(kept))
            }
            value => self.included(path).then(|| self.shortened(value)),
        }
    }

    fn included(&self, path: &str) -> bool {
        self.include.is_empty()
            || matches!(path, "@timestamp" | "event.action")
            || self.include.iter().any(|included| included.covers(path))
    }

    fn dropped_elsewhere(&self, path: &str) -> bool {
        originals(path).any(|field| self.drop.iter().any(|dropped| dropped.covers(field)))
    }

    fn hashed_elsewhere(&self, path: &str) -> bool {
        originals(path).any(|field| self.hash.iter().any(|hashed| hashed.covers(field)))
    }

    fn hides(&self, field: &str) -> bool {
        !self.included(field) || self.drop.iter().chain(&self.hash).any(|path| path.covers(field))
    }

    /// Text and numbers by their hash; counts beside a hashed `key` stay.
    fn hashed(&self, value: Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.digest(&text)),
            Value::Number(number) => Value::String(self.digest(&number.to_string())),
            Value::Array(items) => items.into_iter().map(|item| self.hashed(item)).collect(),
            Value::Object(mut members) => {
                let counts = members.contains_key("key");
                for (name, value) in &mut members {
                    if !counts || name == "key" {
                        *value = self.hashed(value.take());
                    }
                }
                Value::Object(members)
            }
            value => value,
        }
    }

    fn digest(&self, text: &str) -> String {
        let digest = hmac(self.key.as_bytes(), text.as_bytes());
        let digits: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        format!("hmac:{digits}")
    }

    fn shortened(&self, value: Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.short(text)),
            Value::Array(items) => items.into_iter().map(|item| self.shortened(item)).collect(),
            value => value,
        }
    }

    fn short(&self, mut text: String) -> String {
        let Some((end, _)) = text.char_indices().nth(self.maximum_length) else { return text };
        let gone = text.len() - end;
        text.truncate(end);
        cut(text, gone)
    }
}

/// Where the quoted names in a message begin.
fn quotes_from(message: &str) -> Option<usize> {
    let message = message.replace('_', " ");
    QUOTED_NAMES.iter().filter_map(|words| Some(message.find(words)? + words.len())).min()
}

/// The fields that a path repeats.
fn originals(path: &str) -> impl Iterator<Item = &'static str> {
    SAME.iter().filter(move |(_, same)| same.contains(&path)).map(|(field, _)| *field)
}

/// RFC 2104 with SHA-256.
fn hmac(key: &[u8], text: &[u8]) -> [u8; 32] {
    const BLOCK: usize = 64;
    let mut padded = [0; BLOCK];
    let hashed;
    let key = if key.len() > BLOCK {
        hashed = Sha256::digest(key);
        hashed.as_slice()
    } else {
        key
    };
    for (slot, byte) in padded.iter_mut().zip(key) {
        *slot = *byte;
    }
    let inner = Sha256::new().chain_update(padded.map(|byte| byte ^ 0x36)).chain_update(text).finalize();
    Sha256::new().chain_update(padded.map(|byte| byte ^ 0x5c)).chain_update(inner).finalize().into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(settings: Value) -> Fields {
        let mut reader = Reader::new("fields");
        let fields = Fields::read(&mut reader, &Item::root(&settings));
        reader.finish(Some(fields)).unwrap()
    }

    fn applied(settings: Value) -> Value {
        let record = json!({
            "@timestamp": "t",
            "event": {"action": "a", "reason": "r", "duration": 7},
            "client": {"ip": "192.0.2.7", "port": 4711},
            "error": {"message": "SAN matcher, certificate SANs are [spiffe://mesh/jane]:TLS_error_end"},
            "tls": {"client": {"subject": "CN=jane", "x509": {"alternative_names": ["jane", "j"]}}},
            "mtls": {"alternative_names": {"dns": ["jane"]}, "top": {"sources": [{"key": "192.0.2.7/32", "failures": 3}]}},
        });
        Value::Object(fields(settings).apply(record.as_object().unwrap().clone()))
    }

    #[test]
    fn fields_and_groups_are_dropped_wherever_they_say_the_same() {
        let line = applied(json!({"drop": ["client.ip", "tls.client"]}));
        assert_eq!(line["client"], json!({"port": 4711}));
        assert_eq!((line.get("tls"), line["mtls"].get("top")), (None, None));
        assert_eq!(line["mtls"].get("alternative_names"), None);
        assert_eq!(line["error"]["message"], "SAN matcher, certificate SANs are […]");
    }

    #[test]
    fn names_that_envoy_quotes_are_hidden_with_the_field() {
        let fields = fields(json!({"drop": ["tls.client.x509"]}));
        for (message, expected) in [
            (
                "verify SAN list, expected SANs: [a], certificate SANs: [b, c]",
                "verify SAN list, expected SANs: [a], certificate SANs: […]",
            ),
            ("SAN_matcher,_certificate_SANs_are_[jane]", "SAN_matcher,_certificate_SANs_are_[…]"),
            ("certificate has expired", "certificate has expired"),
        ] {
            let record = json!({"error": {"message": message}});
            assert_eq!(fields.apply(record.as_object().unwrap().clone())["error"]["message"], expected);
        }
    }

    #[test]
    fn included_fields_come_with_what_identifies_the_line() {
        let line = applied(json!({"include": ["client", "event.reason"], "drop": ["client.port"]}));
        assert_eq!(
            line,
            json!({"@timestamp": "t", "event": {"action": "a", "reason": "r"}, "client": {"ip": "192.0.2.7"}})
        );
    }

    #[test]
    fn personal_data_is_hashed_under_a_key() {
        let settings = |key| json!({"hash": ["tls.client.subject", "client", "tls.client.x509"], "key": key});
        let line = applied(settings("0123456789abcdef"));
        // openssl dgst -sha256 -hmac 0123456789abcdef
        assert_eq!(line["tls"]["client"]["subject"], "hmac:8ed883948a1356eba6a88a09317119da");
        let other = applied(settings("another key that is long"));
        assert_ne!(line["tls"]["client"]["subject"], other["tls"]["client"]["subject"]);
        for hidden in ["jane", "192.0.2.7", "4711"] {
            assert!(!line.to_string().replace("CN=jane", "").contains(hidden), "{hidden}: {line}");
        }
        assert_eq!(line["mtls"]["top"]["sources"][0]["failures"], 3);
        assert_eq!(line["event"]["duration"], 7);
    }

    #[test]
    fn hashes_are_hmac_sha_256() {
        // RFC 4231, test cases 2 and 6.
        let hexadecimal =
            |digest: [u8; 32]| digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(
            hexadecimal(hmac(b"Jefe", b"what do ya want for nothing?")),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        assert_eq!(
            hexadecimal(hmac(&[0xaa; 131], b"Test Using Larger Than Block-Size Key - Hash Key First")),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
        );
    }

    #[test]
    fn texts_are_cut_to_the_length_that_is_asked_for() {
        let record =
            json!({"tls": {"client": {"subject": "CN=jane", "x509": {"alternative_names": ["jane", "j"]}}}});
        let fields = Fields { maximum_length: 4, ..Fields::default() };
        let line = Value::Object(fields.apply(record.as_object().unwrap().clone()));
        assert_eq!(line["tls"]["client"]["subject"], "CN=j…(+3)");
        assert_eq!(line["tls"]["client"]["x509"]["alternative_names"], json!(["jane", "j"]));
    }

    #[test]
    fn a_field_that_is_none_is_refused() {
        for path in ["client", "client.ip", "tls.client.x509", "mtls.top.sources", "@timestamp"] {
            assert!(Path::parse(path).is_ok(), "{path}");
        }
        for path in ["", "client.", "clients", "tls.clien", "client.ip2"] {
            assert!(Path::parse(path).is_err(), "{path}");
        }
    }
}
