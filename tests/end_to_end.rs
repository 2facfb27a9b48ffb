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
#[path = "end_to_end/destinations.rs"]
mod destinations;
#[path = "end_to_end/edges.rs"]
mod edges;
#[path = "end_to_end/explain_tls.rs"]
mod explain_tls;
#[path = "end_to_end/forward.rs"]
mod forward;
#[path = "end_to_end/handshake_bench.rs"]
mod handshake_bench;
#[path = "end_to_end/handshake_edges.rs"]
mod handshake_edges;
#[path = "end_to_end/handshake_flood.rs"]
mod handshake_flood;
#[path = "end_to_end/handshake_scenarios.rs"]
mod handshake_scenarios;
#[path = "end_to_end/handshake_setting.rs"]
mod handshake_setting;
#[path = "end_to_end/handshake_untrusted.rs"]
mod handshake_untrusted;
#[path = "end_to_end/handshake_ways.rs"]
mod handshake_ways;
#[path = "end_to_end/hostcalls.rs"]
mod hostcalls;
#[path = "end_to_end/hostile.rs"]
mod hostile;
#[path = "end_to_end/identity.rs"]
mod identity;
#[path = "end_to_end/international.rs"]
mod international;
#[path = "end_to_end/judges.rs"]
mod judges;
#[path = "end_to_end/leases.rs"]
mod leases;
#[path = "end_to_end/lines.rs"]
mod lines;
#[path = "end_to_end/mtls.rs"]
mod mtls;
#[path = "end_to_end/overload.rs"]
mod overload;
#[path = "end_to_end/paths.rs"]
mod paths;
#[path = "end_to_end/patterns.rs"]
mod patterns;
#[path = "end_to_end/pools.rs"]
mod pools;
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
