//! The glue: Envoy's callbacks on one side, the policy's verdicts on the other.
//!
//! | root id | context | decides |
//! |---|---|---|
//! | `connections` | network | whether a client may open another connection to the explicit listener |
//! | `explicit` | HTTP | sessions (CONNECT) and requests in the clear, on the explicit listener |
//! | `inspected` | HTTP | requests inside decrypted TLS |
//! | `tunnelled` | HTTP | requests in the clear inside a tunnel |
//! | `tls` | network | TLS inside a tunnel, before the handshake |
//! | `opaque` | network | what is neither TLS nor HTTP: closed |
//! | `identity` | HTTP | nothing: answers with the client certificate that it saw |
//! | `handshake` | access log | nothing: explains failed handshakes |
//! | `handshake_state` | network | nothing: leaves the explanation as filter state |
//! | `refuse` | HTTP | whether a certificate that Envoy let in untrusted is let through |

mod client;
mod connections;
mod exchange;
mod explicit;
mod filter;
mod grants;
mod guard;
pub(crate) mod host;
mod identity;
mod inner;
mod metrics;
mod open_tunnels;
mod root;
mod sessions;
mod unresolved;

proxy_wasm::main! {{
    proxy_wasm::set_log_level(proxy_wasm::types::LogLevel::Info);
    proxy_wasm::set_root_context(root::new);
}}
