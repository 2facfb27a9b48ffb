//! Measuring one Envoy: its processor time during slices of load, each slice beside its neighbours.

#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "a benchmark says that something is wrong by panicking"
)]

pub mod authorizer;
pub mod exchange;
pub mod floor;
pub mod load;
pub mod names;
pub mod origin;
pub mod outgate;
pub mod peers;
pub mod rules;
pub mod statistics;
pub mod worker;
