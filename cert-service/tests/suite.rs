//! cert-service as its users see it: operators with CAs, filters with grants, Envoys with streams,
//! clients with certificates.

#[cfg(test)]
#[path = "suite/authorities.rs"]
mod authorities;
#[cfg(test)]
#[path = "suite/envoy.rs"]
mod envoy;
#[cfg(test)]
#[path = "suite/leases.rs"]
mod leases;
#[cfg(test)]
#[path = "suite/loading.rs"]
mod loading;
#[cfg(test)]
#[path = "suite/minting.rs"]
mod minting;
#[cfg(test)]
#[path = "suite/pools.rs"]
mod pools;
#[cfg(test)]
#[path = "suite/process.rs"]
mod process;
#[cfg(test)]
#[path = "suite/streams.rs"]
mod streams;
#[cfg(test)]
#[path = "suite/support.rs"]
mod support;
#[cfg(test)]
#[path = "suite/token.rs"]
mod token;
#[cfg(test)]
#[path = "suite/tools.rs"]
mod tools;
#[cfg(test)]
#[path = "suite/transport.rs"]
mod transport;
