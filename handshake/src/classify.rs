//! From what Envoy says of a connection to the one cause that explains it, or to none if it was well.
//!
//! The decimal code decides, then the detail by its beginning, then what is known of a connection
//! without a reason. An alert decides only where it is all there is: a *received* one means that the
//! client refused us.

use serde::Serialize;

use crate::reason::{Code, Reason, spaced};
use crate::tables::{
    ALERT_RECEIVED, BAD_PACKET_LENGTH, CERTIFICATE_VERIFY_FAILED, DECRYPTION_FAILED_OR_BAD_RECORD_MAC,
    OTHER_VERIFY_ERRORS, SSL_REASONS, UNSUPPORTED_PROTOCOL, VALIDATORS, VERIFY_ERRORS, WRONG_VERSION_NUMBER,
};
use crate::taxonomy::{Blame, Category, Certainty, Class, DetectedBy, SubReason};

/// Envoy's response flag `NR`: for a connection, no filter chain took it.
const NO_FILTER_CHAIN: u64 = 0x100;

/// All that is known of a connection that has ended; what is not known stays at its default.
#[derive(Clone, Debug, Default)]
pub struct Evidence<'a> {
    /// `connection.transport_failure_reason`
    pub reason: &'a str,
    /// `connection.termination_details`
    pub termination_details: &'a str,
    /// `response.code_details`
    pub code_details: &'a str,
    /// `response.flags`
    pub flags: u64,
    /// How far the handshake came.
    pub progress: Progress,
    /// Whether the client presented a certificate (`connection.mtls`, which is true of a rejected one too).
    pub certificate: bool,
    /// Whether the client sent anything; Envoy 1.40 does not tell its loggers.
    pub bytes_arrived: Option<bool>,
    /// Whether a hello with a server name was read.
    pub server_name: bool,
    /// Whether a filter chain took the connection (`xds.filter_chain_name`).
    pub filter_chain: bool,
    /// Whether the chain that took it speaks no TLS: then there is no `connection.tls_version`, not even a wrong one.
    pub without_tls: bool,
    /// Whether the listener demands the PROXY protocol.
    pub proxy_protocol: bool,
    /// The client's JA4, which begins with the highest version that it offers: `t13…`.
    pub ja4: Option<&'a str>,
    /// Which of our listeners it was.
    pub side: Side,
}

/// How far a handshake came, as far as anybody knows.
///
/// The listener's `set_filter_state` filter says so for certain; without it, a request that was
/// served says `Finished`, and all else is a conclusion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Progress {
    /// Nothing tells.
    #[default]
    Unknown,
    /// A filter chain took the connection, but the handshake has not been completed.
    Begun,
    /// Completed: whatever ended the connection was no failed handshake.
    Finished,
}

/// Which of our listeners a connection came to.
#[derive(Clone, Copy, Debug, Default, Serialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// One that demands client certificates.
    #[default]
    Mtls,
    /// One that serves intercept certificates.
    Inspecting,
}

/// Why a handshake failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The exact cause.
    pub sub_reason: SubReason,
    /// Whether the evidence allows another reading.
    pub certainty: Certainty,
    /// Where in the client's chain, 0 is its own certificate.
    pub depth: Option<u32>,
    /// BoringSSL's packed code, if there was one.
    pub code: Option<u32>,
}

impl Failure {
    /// The coarse cause.
    pub fn category(&self) -> Category {
        self.sub_reason.category()
    }

    /// One of the five classes.
    pub fn class(&self) -> Class {
        self.category().class()
    }

    /// Who noticed.
    pub fn detected_by(&self) -> DetectedBy {
        self.category().detected_by()
    }

    /// Who can fix it.
    pub fn blame(&self) -> Blame {
        self.sub_reason.blame()
    }

    /// What to do about it, in one sentence.
    pub fn remedy(&self) -> &'static str {
        self.sub_reason.remedy()
    }

    /// One that allows no other reading.
    pub fn exact(sub_reason: SubReason) -> Self {
        Self { sub_reason, certainty: Certainty::Exact, depth: None, code: None }
    }

    fn likely(sub_reason: SubReason) -> Self {
        Self { certainty: Certainty::Likely, ..Self::exact(sub_reason) }
    }

    fn with_code(self, code: Code) -> Self {
        Self { code: Some(code.0), ..self }
    }
}

/// The failure that the evidence shows, or none if the handshake was completed.
pub fn classify(evidence: &Evidence<'_>) -> Option<Failure> {
    if evidence.progress == Progress::Finished || evidence.without_tls {
        return None;
    }
    match Reason::parse(evidence.reason) {
        Reason::Absent => without_reason(evidence),
        Reason::Handshake { errors, detail } => from_queue(&errors, detail.as_deref(), evidence),
        Reason::Inspector(code) => from_inspector(code, evidence),
        Reason::SecretMissing => Some(Failure::exact(SubReason::ServerMisconfigured)),
        Reason::Unknown => Some(Failure::exact(SubReason::Unclassified)),
    }
}

fn from_queue(errors: &[Code], detail: Option<&str>, evidence: &Evidence<'_>) -> Option<Failure> {
    let first = *errors.first()?;
    let Some((code, number)) = errors.iter().find_map(|code| Some((*code, code.ssl()?))) else {
        let Some(errno) = first.system() else {
            return Some(Failure::exact(SubReason::Unclassified).with_code(first));
        };
        return from_system(errno, evidence).map(|failure| failure.with_code(first));
    };
    let failure = match number {
        CERTIFICATE_VERIFY_FAILED => from_detail(detail),
        // A TLS 1.3 client that refuses our certificate may send its alert in the clear, after the keys have
        // changed: the alert is lost, these two remain.
        BAD_PACKET_LENGTH
            if errors.iter().any(|code| code.ssl() == Some(DECRYPTION_FAILED_OR_BAD_RECORD_MAC)) =>
        {
            Failure::likely(rejected_by_client(evidence.side))
        }
        WRONG_VERSION_NUMBER if evidence.server_name || evidence.certificate => {
            Failure::exact(SubReason::RecordError)
        }
        UNSUPPORTED_PROTOCOL if offers_only_newer(evidence.ja4) => {
            Failure::exact(SubReason::ClientVersionTooNew)
        }
        number => Failure::exact(match ssl_reason(number) {
            Some(SubReason::ClientRejectedServerCertificate) => rejected_by_client(evidence.side),
            Some(sub_reason) => sub_reason,
            None if number >= ALERT_RECEIVED => SubReason::ClientOtherAlert,
            None => SubReason::Unclassified,
        }),
    };
    Some(failure.with_code(code))
}

/// What Envoy says of a certificate that it refused.
fn from_detail(detail: Option<&str>) -> Failure {
    let Some(detail) = detail else {
        // Envoy before 1.37.
        return Failure::likely(SubReason::Unspecified);
    };
    let detail = detail.strip_prefix("verify cert failed: ").unwrap_or(detail);
    let Some(error) = detail.strip_prefix("X509 verify cert: certificate verification error at depth ")
    else {
        return Failure::exact(
            longest(VALIDATORS.iter().copied(), detail).unwrap_or(SubReason::Unclassified),
        );
    };
    let (depth, error) = error.split_once(": ").unwrap_or((error, ""));
    let error =
        error.strip_prefix("certificate revocation check against provided CRLs failed: ").unwrap_or(error);
    let texts = VERIFY_ERRORS.iter().map(|&(_, text, sub_reason)| (text, sub_reason));
    let sub_reason = longest(texts.chain(OTHER_VERIFY_ERRORS.iter().copied()), error);
    Failure { depth: depth.parse().ok(), ..Failure::exact(sub_reason.unwrap_or(SubReason::Unclassified)) }
}

/// The longest known text that `detail` is, or begins with before a comma: what follows may quote the certificate.
fn longest(known: impl Iterator<Item = (&'static str, SubReason)>, detail: &str) -> Option<SubReason> {
    known
        .filter(|(text, _)| {
            detail
                .strip_prefix(spaced(text).as_ref())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(", "))
        })
        .max_by_key(|(text, _)| text.len())
        .map(|(_, sub_reason)| sub_reason)
}

fn from_system(errno: u32, evidence: &Evidence<'_>) -> Option<Failure> {
    const BROKEN_PIPE: u32 = 32;
    const CONNECTION_RESET: u32 = 104;
    const TIMED_OUT: u32 = 110;
    if seems_finished(evidence) {
        return None;
    }
    Some(ended(
        match errno {
            BROKEN_PIPE | CONNECTION_RESET => SubReason::Reset,
            TIMED_OUT => SubReason::Timeout,
            _ => SubReason::ClosedMidHandshake,
        },
        evidence,
    ))
}

fn from_inspector(code: Code, evidence: &Evidence<'_>) -> Option<Failure> {
    if evidence.filter_chain && !no_filter_chain(evidence) {
        // It says only that the first bytes were no TLS. A chain without TLS took them; one with TLS would
        // have left a reason of its own.
        return None;
    }
    let sub_reason = code.ssl().and_then(ssl_reason).unwrap_or(SubReason::Unclassified);
    Some(Failure::exact(sub_reason).with_code(code))
}

fn without_reason(evidence: &Evidence<'_>) -> Option<Failure> {
    if spaced(evidence.termination_details) == "transport socket timeout was reached" {
        return Some(Failure::exact(SubReason::Timeout));
    }
    if no_filter_chain(evidence) {
        return Some(Failure::likely(SubReason::SniRejected));
    }
    if seems_finished(evidence) {
        return None;
    }
    if evidence.server_name || evidence.filter_chain && evidence.progress == Progress::Begun {
        return Some(ended(SubReason::ClosedMidHandshake, evidence));
    }
    match evidence.bytes_arrived {
        Some(true) if evidence.proxy_protocol && !evidence.filter_chain => {
            Some(Failure::likely(SubReason::ProxyProtocolError))
        }
        Some(true) => Some(ended(SubReason::ClosedMidHandshake, evidence)),
        // Envoy 1.40 ends a connection without its PROXY header just as silently.
        None if evidence.proxy_protocol && !evidence.filter_chain => {
            Some(Failure::likely(SubReason::ClosedBeforeHello))
        }
        Some(false) | None => Some(Failure::exact(SubReason::ClosedBeforeHello)),
    }
}

/// A certificate that was presented and not complained about was accepted, and with it the handshake.
fn seems_finished(evidence: &Evidence<'_>) -> bool {
    evidence.progress == Progress::Unknown && evidence.certificate
}

/// Where no certificate is demanded, a connection without requests looks the same after its handshake as during it.
fn ended(sub_reason: SubReason, evidence: &Evidence<'_>) -> Failure {
    if evidence.progress == Progress::Begun || evidence.side == Side::Mtls {
        Failure::exact(sub_reason)
    } else {
        Failure::likely(sub_reason)
    }
}

fn no_filter_chain(evidence: &Evidence<'_>) -> bool {
    evidence.code_details == "filter_chain_not_found"
        || evidence.flags & NO_FILTER_CHAIN != 0 && !evidence.filter_chain
}

fn rejected_by_client(side: Side) -> SubReason {
    match side {
        Side::Mtls => SubReason::ClientRejectedServerCertificate,
        Side::Inspecting => SubReason::InterceptRejected,
    }
}

/// A client that offers what the listener refuses to speak, and nothing older, though it could speak TLS 1.3.
fn offers_only_newer(ja4: Option<&str>) -> bool {
    ja4.and_then(|ja4| ja4.get(1..3))
        .and_then(|version| version.parse::<u8>().ok())
        .is_some_and(|version| version >= 13)
}

fn ssl_reason(number: u32) -> Option<SubReason> {
    SSL_REASONS
        .iter()
        .find(|(_, names)| names.iter().any(|(known, _)| *known == number))
        .map(|(sub_reason, _)| *sub_reason)
}

#[cfg(test)]
mod tests;
