//! Outgate's rule language: policies are parsed, compiled once, and asked for verdicts. Pure; no I/O.
//!
//! [`Engine::from_text`] compiles a policy. [`Engine::connect`] decides a tunnel when it is asked for,
//! [`Engine::sniffed`] once its ClientHello is known, [`Engine::request`] a single request. Hosts, ports and
//! paths are parsed here and nowhere else ([`HostName`], [`Destination`], [`RequestPath`]), so that what is
//! judged is what is sent.

#![forbid(unsafe_code)]

pub mod address;
mod attribute;
pub mod document;
mod engine;
mod error;
mod excerpt;
pub mod explain;
mod expression;
mod hash;
mod headers;
mod host;
mod index;
mod nested;
mod path;
mod reach;
mod reason;
mod session;
mod source;
mod suggestion;
#[cfg(test)]
mod tests;
mod url_list;
mod verdict;
mod walk;

pub use engine::{Engine, Rule, RuleId, RuleKind};
pub use error::{MatcherError, PolicyError, PolicyErrors};
pub use excerpt::Excerpt;
pub use expression::Programs;
pub use hash::QuickMap;
pub use headers::Headers;
pub use host::{Authority, Destination, HostError, HostName};
pub use path::{PathError, RequestPath};
pub use reason::Reason;
pub use session::{
    Circumstances, Client, ClientCertificate, Connection, Known, Request, RequestStage, Scheme, Session,
};
pub use source::{Identity, Source};
pub use verdict::{
    ConnectDecision, ConnectVerdict, Reading, RequestDecision, RequestVerdict, TlsDecision, TlsVerdict, agree,
};
