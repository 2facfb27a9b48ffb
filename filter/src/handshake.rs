//! Why a TLS handshake failed: evidence in, one explained line out.
//!
//! [`classify`] turns what Envoy says of a connection into a [`taxonomy`] entry, [`certificate`]
//! reads the certificate that the client presented, [`line`] joins both into one JSON object.
//! All of that is pure; `logger` asks Envoy for the evidence and exists in the wasm module alone.

pub mod certificate;
pub mod classify;
pub mod configuration;
mod distinguished_name;
pub mod identity;
pub mod line;
#[cfg(target_family = "wasm")]
pub mod logger;
pub mod metrics;
pub mod presented;
pub mod reason;
pub mod tables;
pub mod taxonomy;
mod visible;
