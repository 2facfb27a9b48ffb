//! Why a TLS handshake failed: evidence in, one explained line out.
//!
//! [`classify`] turns what Envoy says of a connection into a [`taxonomy`] entry, [`certificate`]
//! reads the certificate that the client presented, [`line`] joins both into one JSON object.
//! All of that is pure; `logger` asks Envoy for the evidence and exists in the wasm module alone.

pub mod certificate;
pub mod classify;
pub mod configuration;
mod distinguished_name;
pub mod expiry;
pub mod fields;
#[cfg(test)]
mod fuzz;
pub mod identity;
#[cfg(target_family = "wasm")]
pub mod judge;
pub mod line;
#[cfg(target_family = "wasm")]
pub mod logger;
pub mod metrics;
pub mod otlp;
pub mod presented;
pub mod reason;
pub mod refusal;
#[cfg(target_family = "wasm")]
pub mod refuse;
pub mod sampling;
pub mod shape;
#[cfg(target_family = "wasm")]
mod shared;
pub mod sketch;
#[cfg(target_family = "wasm")]
pub mod state;
pub mod summary;
pub mod tables;
pub mod taxonomy;
#[cfg(target_family = "wasm")]
pub mod told;
pub mod verify;
mod visible;
pub mod window;
