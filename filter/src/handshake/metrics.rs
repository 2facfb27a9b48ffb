//! The names of the logger's counters; Envoy's `stats_tags` take the labels out of them.

use super::taxonomy::SubReason;

/// `outgate_tls_handshake_failures_total{listener,category,reason}`
pub fn failures(listener: &str, sub_reason: SubReason) -> String {
    let category = sub_reason.category();
    format!(
        "outgate_tls_handshake_failures_total.listener={listener}.category={category}.reason={sub_reason}"
    )
}

/// `outgate_tls_handshakes_finished_total{listener}`
pub fn finished(listener: &str) -> String {
    format!("outgate_tls_handshakes_finished_total.listener={listener}")
}
