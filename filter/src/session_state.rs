//! What a session's verdict leaves for the inner side of the internal listener: one packed value.
//!
//! It travels as filter state, which only this proxy can write: headers that clients send under our
//! prefix are dropped before the verdict.

use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use serde::{Deserialize, Serialize};

use outgate_policy::{ClientCertificate, Destination, Identity, RuleId, TlsVerdict};

/// A session as its CONNECT left it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct SessionState {
    /// Joins all lines of one tunnel.
    pub id: String,
    /// The hash of the policy that decided.
    pub policy: String,
    /// The client, as the explicit listener saw it.
    pub client: SocketAddr,
    /// The client's tags.
    pub tags: Vec<String>,
    /// The client's service accounts.
    pub service_accounts: Vec<String>,
    /// The client's certificate, verified.
    pub certificate: Option<ClientCertificate>,
    /// `host:port`, in normal form.
    pub destination: String,
    /// The application rule that had the tunnel opened and read.
    pub opened_by: String,
    /// What TLS inside leads to.
    pub tls: TlsState,
    /// Rules whose matcher failed on the way there.
    pub errors: Vec<String>,
    /// Whether the session is one of the allowances that are logged, should it be one.
    pub logged: bool,
}

/// What TLS inside a tunnel leads to.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub enum TlsState {
    /// Decrypt; the inspecting rule.
    Inspect(String),
    /// Let through unread; the session rule.
    Tunnel(String),
    /// Refuse; the session rule, or none.
    Deny(Option<String>),
    /// Rules ask for what only the ClientHello tells.
    Undecided,
}

impl TlsState {
    /// The state of a verdict; `None` is one that the ClientHello decides.
    pub fn new<'n>(verdict: Option<TlsVerdict>, name: impl Fn(RuleId) -> &'n str) -> Self {
        match verdict {
            Some(TlsVerdict::Inspect(rule)) => Self::Inspect(name(rule).to_owned()),
            Some(TlsVerdict::Tunnel(rule)) => Self::Tunnel(name(rule).to_owned()),
            Some(TlsVerdict::Deny(rule)) => Self::Deny(rule.map(|rule| name(rule).to_owned())),
            None => Self::Undecided,
        }
    }

    /// The filter chain that it leads to; `cluster` reaches the origin unread.
    pub fn chain(&self, cluster: &str) -> String {
        match self {
            Self::Inspect(_) => "inspect".to_owned(),
            Self::Tunnel(_) => cluster.to_owned(),
            Self::Deny(_) => "refuse".to_owned(),
            Self::Undecided => "undecided".to_owned(),
        }
    }
}

/// Why a packed session was refused.
#[derive(Debug, thiserror::Error)]
pub enum SessionStateError {
    /// The filter state is not there: the connection did not come through the explicit listener.
    #[error("no session state; did the connection bypass the explicit listener?")]
    Missing,
    /// It is there but not ours.
    #[error("session state `{0}` does not parse")]
    Malformed(String),
}

impl SessionStateError {
    /// For this value.
    pub fn malformed(packed: &[u8]) -> Self {
        Self::Malformed(String::from_utf8_lossy(packed).into_owned())
    }
}

impl SessionState {
    /// The packed form, fit for a header.
    pub fn pack(&self) -> String {
        // A struct of strings always serialises.
        BASE64.encode(postcard::to_allocvec(self).unwrap_or_default())
    }

    /// Reads the packed form.
    pub fn unpack(packed: &[u8]) -> Result<Self, SessionStateError> {
        let unpacked = BASE64.decode(packed).ok().and_then(|packed| postcard::from_bytes(&packed).ok());
        unpacked.ok_or_else(|| SessionStateError::malformed(packed))
    }

    /// The destination, parsed again.
    pub fn destination(&self) -> Option<Destination> {
        Destination::parse(&self.destination).ok()
    }

    /// The client's identity, as it was when the session began.
    pub fn identity(&self) -> Identity {
        Identity::new(self.tags.clone(), self.service_accounts.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::OffsetDateTime;

    fn state(tls: TlsState) -> SessionState {
        SessionState {
            id: "0123456789abcdef".to_owned(),
            policy: "fedcba9876543210".to_owned(),
            client: "10.0.0.1:4711".parse().unwrap(),
            tags: vec!["tagValues/12345".to_owned()],
            service_accounts: Vec::new(),
            certificate: Some(ClientCertificate {
                subject: "CN=x".to_owned(),
                issuer: "CN=y".to_owned(),
                serial: "01".to_owned(),
                sha256: "ab".to_owned(),
                uri_sans: vec!["spiffe://mesh/x".to_owned()],
                dns_sans: Vec::new(),
                not_after: OffsetDateTime::UNIX_EPOCH,
            }),
            destination: "example.com:443".to_owned(),
            opened_by: "inspect-all".to_owned(),
            tls,
            errors: vec!["broken".to_owned()],
            logged: true,
        }
    }

    #[test]
    fn what_is_packed_is_unpacked() {
        for tls in [
            TlsState::Inspect("a".to_owned()),
            TlsState::Tunnel("b \"quoted\"".to_owned()),
            TlsState::Deny(None),
            TlsState::Undecided,
        ] {
            let state = state(tls);
            assert_eq!(SessionState::unpack(state.pack().as_bytes()).unwrap(), state);
        }
    }

    #[test]
    fn rubbish_is_refused() {
        for rubbish in [&b""[..], b"AAAA", b"\xff", b"no base64"] {
            assert!(matches!(SessionState::unpack(rubbish), Err(SessionStateError::Malformed(_))));
        }
    }

    #[test]
    fn the_chain_follows_the_verdict() {
        for (tls, chain) in [
            (TlsState::Inspect("a".to_owned()), "inspect"),
            (TlsState::Tunnel("a".to_owned()), "shard-7"),
            (TlsState::Deny(None), "refuse"),
            (TlsState::Undecided, "undecided"),
        ] {
            assert_eq!(tls.chain("shard-7"), chain);
        }
    }
}
