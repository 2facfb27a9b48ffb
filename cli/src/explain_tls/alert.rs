//! TLS alerts (RFC 8446 6): what one means depends on who sent it.

use outgate_handshake::taxonomy::SubReason::{self, *};

/// An alert.
#[derive(Debug)]
pub struct Alert {
    /// On the wire.
    pub number: u8,
    /// As the RFCs write it.
    pub name: &'static str,
    /// Why a server sends it, the most common cause first.
    pub sent: &'static [SubReason],
}

/// The alerts that end handshakes.
pub const ALERTS: &[Alert] = &[
    alert(0, "close_notify", &[ClosedMidHandshake]),
    alert(10, "unexpected_message", &[UnexpectedMessage]),
    alert(20, "bad_record_mac", &[RecordError]),
    alert(22, "record_overflow", &[RecordError]),
    // OpenSSL sends it for a missing certificate too, in TLS 1.2.
    alert(
        40,
        "handshake_failure",
        &[NoSharedCipher, NoClientCertificate, NoSharedGroup, NoCommonSignatureAlgorithm, PolicyRejected],
    ),
    alert(41, "no_certificate", &[NoClientCertificate]),
    // Go sends it for every fault of a certificate.
    alert(42, "bad_certificate", &[MalformedCertificate, SanMismatch, CrlInvalid, BadSignature]),
    alert(43, "unsupported_certificate", &[WrongPurpose]),
    alert(44, "certificate_revoked", &[Revoked]),
    alert(45, "certificate_expired", &[Expired, NotYetValid, CrlExpired, CrlNotYetValid]),
    alert(
        46,
        "certificate_unknown",
        &[SanMismatch, NameConstraints, UnhandledCriticalExtension, CaUsedAsLeaf, InvalidCa],
    ),
    alert(47, "illegal_parameter", &[MalformedHandshake]),
    alert(48, "unknown_ca", &[UnknownIssuer, SelfSigned, SelfSignedInChain, CrlMissing, ChainTooLong]),
    alert(49, "access_denied", &[PolicyRejected]),
    alert(50, "decode_error", &[MalformedHandshake]),
    alert(51, "decrypt_error", &[BadClientSignature, BadSignature, CrlInvalid]),
    alert(70, "protocol_version", &[ClientVersionTooOld, ClientVersionTooNew]),
    alert(71, "insufficient_security", &[NoSharedCipher]),
    alert(80, "internal_error", &[Internal, ServerMisconfigured]),
    alert(86, "inappropriate_fallback", &[InappropriateFallback]),
    alert(90, "user_canceled", &[ClosedMidHandshake]),
    alert(100, "no_renegotiation", &[RenegotiationRefused]),
    alert(109, "missing_extension", &[MissingOrBadExtension]),
    alert(110, "unsupported_extension", &[MissingOrBadExtension]),
    alert(112, "unrecognized_name", &[SniRejected]),
    alert(113, "bad_certificate_status_response", &[OcspFailed]),
    // Envoy's for a pin.
    alert(114, "bad_certificate_hash_value", &[PinMismatch]),
    alert(115, "unknown_psk_identity", &[SessionOrPsk]),
    alert(116, "certificate_required", &[NoClientCertificate]),
    alert(120, "no_application_protocol", &[AlpnMismatch]),
    alert(121, "ech_required", &[Ech]),
];

const fn alert(number: u8, name: &'static str, sent: &'static [SubReason]) -> Alert {
    Alert { number, name, sent }
}

impl Alert {
    /// By its number on the wire.
    pub fn numbered(number: u64) -> Option<&'static Self> {
        ALERTS.iter().find(|alert| u64::from(alert.number) == number)
    }

    /// By its name in lower case, as RFCs and libraries write it: `unknown_ca`, `user_cancelled`.
    pub fn named(name: &str) -> Option<&'static Self> {
        let name = match name {
            "user_cancelled" => "user_canceled",
            name => name,
        };
        ALERTS.iter().find(|alert| alert.name == name)
    }
}
