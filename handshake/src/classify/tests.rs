//! The strings are those of real Envoys; which version says which is in the comments.

use std::collections::HashSet;

use super::*;
use crate::taxonomy::SubReason::*;

const NOT_YET: Progress = Progress::Begun;

/// What the documentation promises: every category with its sub-reasons.
const DOCUMENTED: &[(&str, &[&str])] = &[
    ("certificate_expired", &["expired", "not_yet_valid"]),
    (
        "chain_verification_failed",
        &[
            "unknown_issuer",
            "self_signed",
            "self_signed_in_chain",
            "bad_signature",
            "chain_too_long",
            "invalid_ca",
            "wrong_purpose",
            "name_constraints",
            "unhandled_critical_extension",
            "malformed_certificate",
            "weak_key_or_signature",
            "ca_used_as_leaf",
            "unspecified",
        ],
    ),
    (
        "certificate_revocation",
        &["revoked", "crl_expired", "crl_not_yet_valid", "crl_missing", "crl_invalid", "ocsp_failed"],
    ),
    (
        "protocol_version_mismatch",
        &["client_version_too_old", "client_version_too_new", "inappropriate_fallback"],
    ),
    ("client_certificate_missing", &["no_client_certificate"]),
    ("identity_rejected", &["san_mismatch", "pin_mismatch", "policy_rejected"]),
    (
        "negotiation_error",
        &[
            "no_shared_cipher",
            "no_shared_group",
            "no_common_signature_algorithm",
            "alpn_mismatch",
            "sni_rejected",
            "bad_client_signature",
            "missing_or_bad_extension",
            "malformed_handshake",
            "unexpected_message",
            "record_error",
            "renegotiation_refused",
            "session_or_psk",
            "ech",
        ],
    ),
    (
        "peer_alert",
        &[
            "client_rejected_server_certificate",
            "intercept_rejected",
            "client_refused_version",
            "client_aborted",
            "client_other_alert",
        ],
    ),
    ("not_tls", &["plain_http", "http_proxy_connect", "proxy_protocol_error", "garbage"]),
    ("transport", &["closed_before_hello", "closed_mid_handshake", "reset", "timeout"]),
    ("server_error", &["server_misconfigured", "internal"]),
    ("unclassified", &["unclassified"]),
];

/// A reason after `TLS_error:|`, the side that it was seen on, and what it means.
struct Fixture(&'static str, SubReason);

macro_rules! verify {
    ($detail:literal) => {
        concat!(
            "268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:verify cert failed: ",
            $detail
        )
    };
}

macro_rules! leaf {
    ($detail:literal) => {
        concat!(
            "268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:verify cert failed: X509_verify_cert: certificate verification error at depth 0: ",
            $detail
        )
    };
}

macro_rules! crl {
    ($detail:literal) => {
        concat!(
            "268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:verify cert failed: X509_verify_cert: certificate verification error at depth 0: certificate revocation check against provided CRLs failed: ",
            $detail
        )
    };
}

/// Reasons that alone decide, without the frame `TLS_error:|…:TLS_error_end`.
const REASONS: &[Fixture] = &[
    // 1.37 and later; seen on 1.40.0 over TLS 1.2 and 1.3.
    Fixture(leaf!("certificate has expired"), Expired),
    Fixture(leaf!("certificate is not yet valid"), NotYetValid),
    Fixture(leaf!("unable to get local issuer certificate"), UnknownIssuer),
    Fixture(leaf!("self signed certificate"), SelfSigned),
    Fixture(leaf!("self signed certificate in certificate chain"), SelfSignedInChain),
    Fixture(leaf!("unsupported certificate purpose"), WrongPurpose),
    Fixture(leaf!("certificate signature failure"), BadSignature),
    Fixture(leaf!("path length constraint exceeded"), ChainTooLong),
    Fixture(leaf!("invalid CA certificate"), InvalidCa),
    Fixture(leaf!("permitted subtree violation"), NameConstraints),
    Fixture(leaf!("unhandled critical extension"), UnhandledCriticalExtension),
    Fixture(leaf!("format error in certificate's notAfter field"), MalformedCertificate),
    Fixture("268435728:SSL routines:OPENSSL_internal:CANNOT_PARSE_LEAF_CERT", MalformedCertificate),
    Fixture(leaf!("proxy certificates not allowed, please set the appropriate flag"), InvalidCa),
    Fixture(leaf!("application verification failure"), PolicyRejected),
    Fixture(leaf!("unknown certificate verification error"), Internal),
    // Envoy on OpenSSL.
    Fixture(leaf!("self-signed certificate"), SelfSigned),
    Fixture(leaf!("EE certificate key too weak"), WeakKeyOrSignature),
    Fixture(leaf!("OCSP verification failed"), OcspFailed),
    // 1.37 says no more of revocation than of anything else,
    Fixture(leaf!("certificate revoked"), Revoked),
    Fixture(leaf!("CRL has expired"), CrlExpired),
    // 1.38 and later say more.
    Fixture(crl!("certificate revoked"), Revoked),
    Fixture(
        crl!("certificate revoked, certificate CRL distribution points: [http://x/certificate has expired]"),
        Revoked,
    ),
    Fixture(crl!("CRL has expired"), CrlExpired),
    Fixture(crl!("CRL is not yet valid"), CrlNotYetValid),
    Fixture(crl!("unable to get certificate CRL"), CrlMissing),
    Fixture(crl!("CRL signature failure"), CrlInvalid),
    // Envoy's own validators: 1.37, then 1.38 and later.
    Fixture(verify!("SAN matcher"), SanMismatch),
    Fixture(
        verify!(
            "SAN matcher, certificate SANs are [client.example, spiffe://mesh/ns/build/sa/ci, ci@client.example, 10.9.8.7, 2001:db8::1]"
        ),
        SanMismatch,
    ),
    Fixture(verify!("verify SAN list, expected SANs: [a], certificate SANs: [b]"), SanMismatch),
    Fixture(verify!("URI SAN peer identity mismatches, expected SANs: a"), SanMismatch),
    Fixture(verify!("cert hash and spki"), PinMismatch),
    Fixture(verify!("cert precheck"), CaUsedAsLeaf),
    Fixture(verify!("no trust bundle store"), UnknownIssuer),
    Fixture(verify!("empty cert chain"), NoClientCertificate),
    Fixture(verify!("init and setup X509_STORE_CTX"), Internal),
    // A certificate that lies: what it says stands in the SANs.
    Fixture(
        verify!(
            "SAN matcher, certificate SANs are [spiffe://x/certificate has expired:TLS_error_end|268435648:SSL routines]"
        ),
        SanMismatch,
    ),
    Fixture(
        verify!(
            "SAN matcher, certificate SANs are [X509_verify_cert: certificate verification error at depth 0: certificate revoked]"
        ),
        SanMismatch,
    ),
    // Formatters write underscores.
    Fixture(
        "268435581:SSL_routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:verify_cert_failed:_X509_verify_cert:_certificate_verification_error_at_depth_0:_certificate_has_expired",
        Expired,
    ),
    Fixture(
        "268435581:SSL_routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:verify_cert_failed:_SAN_matcher,_certificate_SANs_are_[]",
        SanMismatch,
    ),
    // 1.36 does not say what failed.
    Fixture("268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED", Unspecified),
    Fixture("268435648:SSL routines:OPENSSL_internal:PEER_DID_NOT_RETURN_A_CERTIFICATE", NoClientCertificate),
    Fixture(
        "268435648:SSL routines:OPENSSL_internal:PEER_DID_NOT_RETURN_A_CERTIFICATE:peer did not provide required client certificate",
        NoClientCertificate,
    ),
    // All versions.
    Fixture("268435696:SSL routines:OPENSSL_internal:UNSUPPORTED_PROTOCOL", ClientVersionTooOld),
    Fixture("268435613:SSL routines:OPENSSL_internal:INAPPROPRIATE_FALLBACK", InappropriateFallback),
    Fixture("268435640:SSL routines:OPENSSL_internal:NO_SHARED_CIPHER", NoSharedCipher),
    Fixture("268435699:SSL routines:OPENSSL_internal:WRONG_CURVE", NoSharedGroup),
    Fixture(
        "268435709:SSL routines:OPENSSL_internal:NO_COMMON_SIGNATURE_ALGORITHMS",
        NoCommonSignatureAlgorithm,
    ),
    Fixture("268435763:SSL routines:OPENSSL_internal:NO_APPLICATION_PROTOCOL", AlpnMismatch),
    // On-demand certificate refused.
    Fixture("268435589:SSL routines:OPENSSL_internal:CONNECTION_REJECTED", SniRejected),
    // The key library complains first.
    Fixture(
        "67108971:RSA routines:OPENSSL_internal:BAD_SIGNATURE|268435570:SSL routines:OPENSSL_internal:BAD_SIGNATURE",
        BadClientSignature,
    ),
    Fixture("268435620:SSL routines:OPENSSL_internal:MISSING_EXTENSION", MissingOrBadExtension),
    Fixture("268435587:SSL routines:OPENSSL_internal:CLIENTHELLO_PARSE_FAILED", MalformedHandshake),
    Fixture("268435568:SSL routines:OPENSSL_internal:BAD_PACKET_LENGTH", MalformedHandshake),
    Fixture("268435679:SSL routines:OPENSSL_internal:UNEXPECTED_MESSAGE", UnexpectedMessage),
    Fixture("268435595:SSL routines:OPENSSL_internal:DECRYPTION_FAILED_OR_BAD_RECORD_MAC", RecordError),
    Fixture("268435638:SSL routines:OPENSSL_internal:NO_RENEGOTIATION", RenegotiationRefused),
    Fixture("268435651:SSL routines:OPENSSL_internal:PSK_IDENTITY_NOT_FOUND", SessionOrPsk),
    Fixture("268435770:SSL routines:OPENSSL_internal:INVALID_CLIENT_HELLO_INNER", Ech),
    // The client refuses us: TLS 1.2, or a TLS 1.3 client that encrypts its alert; then openssl, Python, curl on TLS 1.3.
    Fixture(
        "268436504:SSL routines:OPENSSL_internal:TLSV1_ALERT_UNKNOWN_CA",
        ClientRejectedServerCertificate,
    ),
    Fixture(
        "268435568:SSL routines:OPENSSL_internal:BAD_PACKET_LENGTH|268435595:SSL routines:OPENSSL_internal:DECRYPTION_FAILED_OR_BAD_RECORD_MAC",
        ClientRejectedServerCertificate,
    ),
    Fixture("268436526:SSL routines:OPENSSL_internal:TLSV1_ALERT_PROTOCOL_VERSION", ClientRefusedVersion),
    Fixture("268436546:SSL routines:OPENSSL_internal:TLSV1_ALERT_USER_CANCELLED", ClientAborted),
    Fixture("268436496:SSL routines:OPENSSL_internal:SSLV3_ALERT_HANDSHAKE_FAILURE", ClientOtherAlert),
    Fixture("268436700:SSL routines:OPENSSL_internal:UNKNOWN_ALERT", ClientOtherAlert),
    Fixture("268435612:SSL routines:OPENSSL_internal:HTTP_REQUEST", PlainHttp),
    Fixture("268435611:SSL routines:OPENSSL_internal:HTTPS_PROXY_REQUEST", HttpProxyConnect),
    Fixture("268435703:SSL routines:OPENSSL_internal:WRONG_VERSION_NUMBER", Garbage),
    Fixture("268435637:SSL routines:OPENSSL_internal:NO_PRIVATE_KEY_ASSIGNED", ServerMisconfigured),
    Fixture("33554536:system library:OPENSSL_internal:Connection reset by peer", Reset),
    Fixture("33554542:system library:OPENSSL_internal:Connection timed out", Timeout),
    // The reset came after the refusal.
    Fixture(
        "268435696:SSL routines:OPENSSL_internal:UNSUPPORTED_PROTOCOL|33554536:system library:OPENSSL_internal:Connection reset by peer",
        ClientVersionTooOld,
    ),
    // Unknown, and not guessed.
    Fixture("268439551:SSL routines:OPENSSL_internal:A_NEW_ONE", ClientOtherAlert),
    Fixture("268436400:SSL routines:OPENSSL_internal:A_NEW_ONE", Unclassified),
    Fixture("184549477:X.509 certificate routines:OPENSSL_internal:A_NEW_ONE", Unclassified),
    Fixture(leaf!("certificate has expired or so"), Unclassified),
    Fixture(leaf!("it begins with no known text: certificate has expired"), Unclassified),
    Fixture(verify!("the module says: certificate has expired"), Unclassified),
];

/// What happened, what is known of it, and what it means.
type Explained = (&'static str, Evidence<'static>, Option<(SubReason, Certainty)>);

/// Connections that it takes more than a reason to explain.
fn connections() -> Vec<Explained> {
    const RESET: &str =
        "TLS_error:|33554536:system library:OPENSSL_internal:Connection reset by peer:TLS_error_end";
    const UNKNOWN_CA: &str =
        "TLS_error:|268436504:SSL routines:OPENSSL_internal:TLSV1_ALERT_UNKNOWN_CA:TLS_error_end";
    const LOST_ALERT: &str = "TLS_error:|268435568:SSL routines:OPENSSL_internal:BAD_PACKET_LENGTH|268435595:SSL routines:OPENSSL_internal:DECRYPTION_FAILED_OR_BAD_RECORD_MAC:TLS_error_end";
    const UNSUPPORTED: &str =
        "TLS_error:|268435696:SSL routines:OPENSSL_internal:UNSUPPORTED_PROTOCOL:TLS_error_end";
    const INSPECTOR: &str =
        "TLS_error|error:1000009c:SSL routines:OPENSSL_internal:HTTP_REQUEST:TLS_error_end";
    let of = Evidence::default;
    let tls = || Evidence { server_name: true, filter_chain: true, ..of() };
    let exact = |sub_reason| Some((sub_reason, Certainty::Exact));
    let likely = |sub_reason| Some((sub_reason, Certainty::Likely));
    vec![
        // Good ones.
        ("served", Evidence { progress: Progress::Finished, certificate: true, ..tls() }, None),
        (
            "served, then reset",
            Evidence { reason: RESET, progress: Progress::Finished, certificate: true, ..tls() },
            None,
        ),
        (
            "reset without a request, unmarked listener",
            Evidence { reason: RESET, certificate: true, ..tls() },
            None,
        ),
        ("closed without a request, unmarked listener", Evidence { certificate: true, ..tls() }, None),
        (
            "plain HTTP on a chain without TLS",
            Evidence { reason: INSPECTOR, filter_chain: true, ..of() },
            None,
        ),
        ("closed on a chain without TLS", Evidence { without_tls: true, filter_chain: true, ..of() }, None),
        // Ended early.
        ("connected and closed", of(), exact(ClosedBeforeHello)),
        ("half a hello", Evidence { bytes_arrived: Some(true), ..of() }, exact(ClosedMidHandshake)),
        ("hello, then closed", tls(), exact(ClosedMidHandshake)),
        (
            "hello without a name, then closed",
            Evidence { progress: NOT_YET, filter_chain: true, ..of() },
            exact(ClosedMidHandshake),
        ),
        ("hello, then reset", Evidence { reason: RESET, ..tls() }, exact(Reset)),
        (
            "certificate sent, then reset",
            Evidence { reason: RESET, progress: NOT_YET, certificate: true, ..tls() },
            exact(Reset),
        ),
        (
            "hello, then silence",
            Evidence { termination_details: "transport socket timeout was reached", ..tls() },
            exact(Timeout),
        ),
        (
            "hello, then silence, with underscores",
            Evidence { termination_details: "transport_socket_timeout_was_reached", ..tls() },
            exact(Timeout),
        ),
        // No chain.
        (
            "a name that no filter chain has",
            Evidence { code_details: "filter_chain_not_found", flags: 0x100, server_name: true, ..of() },
            likely(SniRejected),
        ),
        ("the flag alone", Evidence { flags: 0x100, server_name: true, ..of() }, likely(SniRejected)),
        (
            "plain HTTP, and no chain for it",
            Evidence { reason: INSPECTOR, code_details: "filter_chain_not_found", flags: 0x100, ..of() },
            exact(PlainHttp),
        ),
        (
            "no PROXY header",
            Evidence { proxy_protocol: true, bytes_arrived: Some(true), ..of() },
            likely(ProxyProtocolError),
        ),
        (
            "closed where a PROXY header was due",
            Evidence { proxy_protocol: true, ..of() },
            likely(ClosedBeforeHello),
        ),
        // Which version is wrong.
        (
            "TLS 1.1 at most",
            Evidence { reason: UNSUPPORTED, ja4: Some("t11d230600_44099cda8a52_195413a0cc0f"), ..tls() },
            exact(ClientVersionTooOld),
        ),
        (
            "TLS 1.3 at least, where 1.2 is the most",
            Evidence { reason: UNSUPPORTED, ja4: Some("t13d041000_16476d049b0b_78f1d400d464"), ..tls() },
            exact(ClientVersionTooNew),
        ),
        // After the hello it is no garbage.
        (
            "a broken record later",
            Evidence {
                reason: "TLS_error:|268435703:SSL routines:OPENSSL_internal:WRONG_VERSION_NUMBER:TLS_error_end",
                ..tls()
            },
            exact(RecordError),
        ),
        // Our certificate.
        (
            "refused by alert",
            Evidence { reason: UNKNOWN_CA, ..tls() },
            exact(ClientRejectedServerCertificate),
        ),
        (
            "refused, alert lost",
            Evidence { reason: LOST_ALERT, ..tls() },
            likely(ClientRejectedServerCertificate),
        ),
        (
            "intercept certificate refused by alert",
            Evidence { reason: UNKNOWN_CA, side: Side::Inspecting, ..tls() },
            exact(InterceptRejected),
        ),
        (
            "intercept certificate refused, alert lost",
            Evidence { reason: LOST_ALERT, side: Side::Inspecting, ..tls() },
            likely(InterceptRejected),
        ),
        (
            "closed on the inspecting side, perhaps after the handshake",
            Evidence { side: Side::Inspecting, ..tls() },
            likely(ClosedMidHandshake),
        ),
        (
            "closed on the inspecting side, before its end",
            Evidence { side: Side::Inspecting, progress: NOT_YET, ..tls() },
            exact(ClosedMidHandshake),
        ),
        // The listener itself.
        (
            "no certificate to serve",
            Evidence { reason: "TLS error: Secret is not supplied by SDS", ..tls() },
            exact(ServerMisconfigured),
        ),
        (
            "1.36 does not say",
            Evidence {
                reason: "TLS_error:|268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:TLS_error_end",
                certificate: true,
                ..tls()
            },
            likely(Unspecified),
        ),
        (
            "words of a later version",
            Evidence { reason: "QUIC_error: certificate has expired", ..tls() },
            exact(Unclassified),
        ),
    ]
}

fn framed(reason: &str) -> String {
    format!("TLS_error:|{reason}:TLS_error_end")
}

#[test]
fn every_reason_is_what_it_says() {
    for Fixture(reason, expected) in REASONS {
        let failure = classify(&Evidence { reason: &framed(reason), ..Evidence::default() }).unwrap();
        assert_eq!(failure.sub_reason, *expected, "{reason}");
        assert!(failure.code.is_some(), "{reason}");
    }
}

#[test]
fn connections_are_explained_by_all_that_is_known() {
    for (name, evidence, expected) in connections() {
        let failure = classify(&evidence).map(|failure| (failure.sub_reason, failure.certainty));
        assert_eq!(failure, expected, "{name}");
    }
}

#[test]
fn every_documented_sub_reason_has_a_fixture() {
    let mut seen: HashSet<SubReason> = REASONS.iter().map(|Fixture(_, sub_reason)| *sub_reason).collect();
    seen.extend(connections().into_iter().filter_map(|(_, _, expected)| Some(expected?.0)));
    for sub_reason in SubReason::ALL {
        assert!(seen.contains(sub_reason), "{sub_reason} has no fixture");
    }
}

#[test]
fn the_taxonomy_is_the_documented_one() {
    let documented: Vec<(&str, &str)> = DOCUMENTED
        .iter()
        .flat_map(|(category, names)| names.iter().map(move |name| (*category, *name)))
        .collect();
    let ours: Vec<(&str, &str)> = SubReason::ALL
        .iter()
        .map(|sub_reason| (sub_reason.category().as_str(), sub_reason.as_str()))
        .collect();
    assert_eq!(ours, documented);
}

#[test]
fn a_refusal_is_told_with_its_depth_and_code() {
    for (depth, expected) in [("0", Some(0)), ("1", Some(1)), ("12", Some(12)), ("x", None)] {
        let reason = framed(&format!(
            "268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:verify cert failed: X509_verify_cert: certificate verification error at depth {depth}: unable to get local issuer certificate"
        ));
        let failure = classify(&Evidence { reason: &reason, ..Evidence::default() }).unwrap();
        assert_eq!(
            (failure.sub_reason, failure.depth, failure.code),
            (UnknownIssuer, expected, Some(268_435_581))
        );
    }
}

#[test]
fn the_table_of_ssl_reasons_names_each_code_once_and_decides_by_it() {
    let mut known = HashSet::new();
    for (sub_reason, names) in SSL_REASONS {
        for (number, name) in *names {
            assert!(known.insert(*number), "{name} twice");
            // Whatever the name says: a text that was written by somebody else must not decide.
            let reason = framed(&format!(
                "{}:SSL routines:OPENSSL_internal:certificate has expired",
                0x1000_0000 + number
            ));
            let failure = classify(&Evidence { reason: &reason, ..Evidence::default() }).unwrap();
            assert_eq!(failure.sub_reason, *sub_reason, "{name}");
        }
    }
}

#[test]
fn every_verify_error_is_read_in_the_words_of_all_versions() {
    let known = VERIFY_ERRORS.iter().map(|(_, text, sub_reason)| (*text, *sub_reason));
    for (text, sub_reason) in known.chain(OTHER_VERIFY_ERRORS.iter().copied()) {
        for detail in [
            format!(
                "verify cert failed: X509_verify_cert: certificate verification error at depth 0: {text}"
            ),
            format!(
                "verify cert failed: X509_verify_cert: certificate verification error at depth 0: certificate revocation check against provided CRLs failed: {text}, certificate CRL distribution points: [http://crl.example/]"
            ),
        ] {
            let reason = framed(&format!(
                "268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:{detail}"
            ));
            for reason in [reason.clone(), reason.replace(' ', "_")] {
                let failure = classify(&Evidence { reason: &reason, ..Evidence::default() }).unwrap();
                assert_eq!((failure.sub_reason, failure.depth), (sub_reason, Some(0)), "{reason}");
            }
        }
    }
}

#[test]
fn rubbish_is_unclassified_and_never_panics() {
    for reason in [
        "TLS_error:",
        "TLS_error:|",
        "TLS_error:|x:y",
        "TLS_error|error:",
        "\u{202e}",
        "|||||",
        "TLS_error:|1:2:3:4|",
    ] {
        let failure = classify(&Evidence { reason, ..Evidence::default() }).unwrap();
        assert_eq!(failure.sub_reason, Unclassified, "{reason}");
    }
}
