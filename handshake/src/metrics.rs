//! The names of the logger's metrics; Envoy's `stats_tags` take the labels out of them.
//!
//! No label comes from a peer, and every series is there from the start.

use crate::taxonomy::SubReason;

/// `outgate_tls_handshake_failures_total{listener,category,reason}`
pub fn failures(listener: &str, sub_reason: SubReason) -> String {
    let category = sub_reason.category();
    format!(
        "outgate_tls_handshake_failures_total.listener={listener}.category={category}.reason={sub_reason}"
    )
}

/// `outgate_tls_handshakes_total{listener,outcome}`: `finished`, `failed`, or `refused` after it was finished.
pub fn handshakes(listener: &str, outcome: &str) -> String {
    format!("outgate_tls_handshakes_total.listener={listener}.outcome={outcome}")
}

/// `outgate_tls_handshake_lines_suppressed_total{listener,kind}`: `first_seen` of those that were the first of their kind,
/// `sampled` of all others.
pub fn suppressed(listener: &str, kind: &str) -> String {
    format!("outgate_tls_handshake_lines_suppressed_total.listener={listener}.kind={kind}")
}

/// `outgate_tls_handshake_alarms_total{listener}`
pub fn alarms(listener: &str) -> String {
    format!("outgate_tls_handshake_alarms_total.listener={listener}")
}

/// `outgate_tls_handshake_otlp_records_total{listener,kind}`: `sent` or `dropped`.
pub fn otlp_records(listener: &str, kind: &str) -> String {
    format!("outgate_tls_handshake_otlp_records_total.listener={listener}.kind={kind}")
}

/// `outgate_tls_client_certificate_days_to_expiry{listener}`, a histogram; 0 is expired.
pub fn days_to_expiry(listener: &str) -> String {
    format!("outgate_tls_client_certificate_days_to_expiry.listener={listener}")
}
