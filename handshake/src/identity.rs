//! What the mTLS listener answers when it has no upstream: the identity that it saw.

use serde_json::{Value, json};

use crate::certificate::Certificate;
use crate::presented::Presented;

/// The identity in a verified client certificate, given as Envoy's `connection.peer_certificate` (1.38 and later).
pub fn describe(pem: &[u8]) -> Value {
    if pem.is_empty() {
        return json!({"mtls": false});
    }
    let certificate = match Certificate::from_pem(pem) {
        Ok(certificate) => certificate,
        Err(error) => return json!({"mtls": true, "error": error.to_string()}),
    };
    let spiffe_id = certificate.spiffe_id().map(str::to_owned);
    let presented = Presented::from(certificate);
    let mut identity = json!({
        "mtls": true,
        "subject": presented.subject,
        "issuer": presented.issuer,
        "serial": presented.serial,
        "notBefore": presented.not_before,
        "notAfter": presented.not_after,
        "sha256": presented.sha256,
        "alternativeNames": presented.names(),
    });
    if let (Value::Object(members), Some(id)) = (&mut identity, spiffe_id) {
        members.insert("spiffeId".to_owned(), Value::from(id));
    }
    identity
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_described_by_who_it_is() {
        let identity = describe(include_bytes!("certificate/fixtures/sans.pem"));
        assert_eq!(identity["mtls"], true);
        assert_eq!(identity["subject"], "CN=sans");
        assert_eq!(identity["serial"], "ABCD");
        assert_eq!(identity["notAfter"], "2036-11-20T04:13:46Z");
        assert_eq!(identity["spiffeId"], "spiffe://mesh/ns/x");
        assert_eq!(identity["alternativeNames"][3], "192.0.2.1");
    }

    #[test]
    fn what_is_missing_or_broken_is_said() {
        assert_eq!(describe(b""), json!({"mtls": false}));
        assert_eq!(describe(b"x"), json!({"mtls": true, "error": "the certificate is not in PEM"}));
        assert_eq!(describe(include_bytes!("certificate/fixtures/rsa.pem")).get("spiffeId"), None);
    }
}
