//! Helpers of the end-to-end tests and of the demonstration: a running proxy, origins, clients, certificates.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "a helper of tests says that something is wrong by panicking"
)]

pub mod certificates;
pub mod client;
pub mod name_server;
pub mod origin;
pub mod outgate;
pub mod standalone;
