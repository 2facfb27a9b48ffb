//! Outgate end to end: a real Envoy, real cert-service, real TLS clients and origins, on loopback.

#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

#[path = "end_to_end/command_line.rs"]
mod command_line;
#[path = "end_to_end/companions.rs"]
mod companions;
#[path = "end_to_end/dashboards.rs"]
mod dashboards;
#[path = "end_to_end/demonstration.rs"]
mod demonstration;
#[path = "end_to_end/explain_tls.rs"]
mod explain_tls;
#[path = "end_to_end/forward.rs"]
mod forward;
#[path = "end_to_end/judges.rs"]
mod judges;
#[path = "end_to_end/mtls.rs"]
mod mtls;
#[path = "end_to_end/overload.rs"]
mod overload;
#[path = "end_to_end/rejection.rs"]
mod rejection;
#[path = "end_to_end/setting.rs"]
mod setting;
#[path = "end_to_end/spoofing.rs"]
mod spoofing;
#[path = "end_to_end/swap.rs"]
mod swap;
#[path = "end_to_end/upstream.rs"]
mod upstream;
#[path = "end_to_end/verdicts.rs"]
mod verdicts;
