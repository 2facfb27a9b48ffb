//! Why a TLS handshake failed: evidence in, one explained line out.
//!
//! [`classify`] turns what Envoy says of a connection into a [`taxonomy`] entry, [`certificate`]
//! reads the certificate that the client presented, [`line`] joins both into one JSON object.
//! All of that is pure; the filter asks Envoy for the evidence.

pub mod certificate;
pub mod classify;
pub mod configuration;
mod der;
mod distinguished_name;
pub mod expiry;
pub mod fields;
#[cfg(test)]
mod fuzz;
pub mod identity;
pub mod line;
pub mod metrics;
pub mod otlp;
pub mod presented;
pub mod reason;
pub mod refusal;
pub mod sampling;
pub mod shape;
pub mod sketch;
pub mod summary;
pub mod tables;
pub mod taxonomy;
pub mod verify;
pub mod visible;
pub mod window;
mod x509;
