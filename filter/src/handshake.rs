//! Asks Envoy why a TLS handshake failed, and says what `outgate_handshake` makes of it.

mod judge;
pub mod logger;
pub mod refuse;
mod shared;
pub mod state;
pub mod told;
