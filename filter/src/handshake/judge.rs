//! Judges the certificate of a connection whose handshake Envoy completed without trusting it.

use proxy_wasm::hostcalls;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::proxy::host::{now, property};
use outgate_handshake::classify::Failure;
use outgate_handshake::taxonomy::{Certainty, SubReason};
use outgate_handshake::verify::{Judgement, Signatures, Untrusted, identity, verify};

/// Why the client of this connection is refused, if it is.
pub fn judge(demands: &Untrusted) -> Option<Judgement> {
    let refused = |sub_reason, unchecked| Judgement { failure: Failure::exact(sub_reason), unchecked };
    if property(&["connection", "mtls"]).as_deref() != Some(&[1]) {
        return Some(refused(SubReason::NoClientCertificate, Vec::new()));
    }
    // Envoy before 1.39 does not say: then nobody is let in.
    let Some(valid) = property(&["connection", "peer_certificate_valid"]) else {
        return Some(refused(SubReason::ServerMisconfigured, vec!["peer_certificate_valid"]));
    };
    let pem = property(&["connection", "peer_certificate"]).unwrap_or_default();
    let Ok(leaf) = CertificateDer::from_pem_slice(&pem) else {
        return Some(refused(SubReason::MalformedCertificate, Vec::new()));
    };
    if valid == [1] {
        // Envoy saw the whole chain: only names and pins are judged here.
        let failure = identity(&leaf, demands).err()?;
        return Some(Judgement { failure, unchecked: Vec::new() });
    }
    let (failure, unchecked) = verify(&leaf, demands, now(), &Envoy);
    let unknown = Failure { certainty: Certainty::Likely, ..Failure::exact(SubReason::Unspecified) };
    Some(Judgement { failure: failure.unwrap_or(unknown), unchecked })
}

/// Envoy's foreign function `verify_signature`: BoringSSL's RSA (PKCS #1) and ECDSA, at no cost in this module's size.
struct Envoy;

impl Signatures for Envoy {
    fn verify(&self, hash: &str, key: &[u8], message: &[u8], signature: &[u8]) -> Option<bool> {
        let mut arguments = Vec::with_capacity(message.len() + key.len() + signature.len() + 32);
        for (number, bytes) in [(1, hash.as_bytes()), (2, key), (3, signature), (4, message)] {
            arguments.push(number << 3 | 2);
            let mut length = bytes.len();
            while length >= 0x80 {
                arguments.push(u8::try_from(length & 0x7f).unwrap_or_default() | 0x80);
                length >>= 7;
            }
            arguments.push(u8::try_from(length).unwrap_or_default());
            arguments.extend_from_slice(bytes);
        }
        // A key that Envoy cannot read is an error; a signature that is wrong is a result without `result = 1`.
        let result = hostcalls::call_foreign_function("verify_signature", Some(&arguments)).ok()?;
        Some(result.unwrap_or_default().starts_with(&[0x08, 1]))
    }
}
