//! cert-service: mints intercept certificates for exactly the hosts that a verdict granted.
//!
//! The filter asks for a grant (`POST /v1/grants`), Envoy asks for the certificate (delta ADS or
//! SDS), both on one Unix socket. A name without a grant gets no certificate. Nothing is stored but
//! the development CA: certificates are made afresh, and their keys are kept by Envoy alone.

#![forbid(unsafe_code)]

pub mod admission;
pub mod audit;
pub mod ca;
pub mod certificate;
pub mod grants;
pub mod health;
pub mod http;
pub mod leaf;
pub mod leases;
pub mod metrics;
pub mod options;
pub mod pem;
pub mod pools;
pub mod reload;
pub mod resolver;
pub mod server;
pub mod service;
pub mod tools;
pub mod transport;
pub mod xds;
