//! outgate.wasm: the thin glue between Envoy and the policy, and the formats that the command line
//! shares with it.
//!
//! The glue itself (`proxy`, `handshake`) exists in the wasm module alone; everything else
//! is plain Rust, tested natively.

pub mod client_table;
pub mod configuration;
pub mod decision;
pub mod denial;
pub mod grant_table;
mod hash;
pub mod routing;
pub mod session_state;

#[cfg(target_family = "wasm")]
mod handshake;
#[cfg(target_family = "wasm")]
mod proxy;
