//! Verdicts, and what the parts of one connection must agree on.

use crate::engine::RuleId;
use crate::host::{Authority, Destination, HostName};
use crate::path::RequestPath;
use crate::session::RequestStage;

/// What becomes of a tunnel when it is asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ConnectVerdict {
    /// A session rule lets its bytes through, unread.
    Tunnel(RuleId),
    /// A session rule refuses it, or no rule matches.
    Deny(Option<RuleId>),
    /// It is opened and its first bytes are read. Plain HTTP: each request is decided in the clear. TLS: see
    /// `tls`. Anything else fails.
    Sniff {
        /// The rule that wants to see more.
        opened_by: RuleId,
        /// What TLS leads to; none where it depends on what only sniffing tells: ask
        /// [`Engine::sniffed`](crate::Engine::sniffed).
        tls: Option<TlsVerdict>,
    },
}

/// What becomes of TLS inside a tunnel that was sniffed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TlsVerdict {
    /// Decrypted, by this inspecting rule.
    Inspect(RuleId),
    /// Let through unread, by this session rule.
    Tunnel(RuleId),
    /// Refused by a session rule, or because no rule matches.
    Deny(Option<RuleId>),
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RequestVerdict {
    /// Sent on.
    Allow(RuleId),
    /// Refused by a rule, or because no rule matches.
    Deny(Option<RuleId>),
}

/// The reading of the path that decided.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reading {
    /// The path as it is sent.
    Sent,
    /// The path as some origins read it.
    Folded,
}

impl Reading {
    /// For the client and the log: why a path that looks harmless was refused, and what to do.
    pub fn explain(self, path: &RequestPath) -> Option<String> {
        let folded = match self {
            Self::Sent => return None,
            Self::Folded => path.folded()?,
        };
        Some(format!(
            "origins may read this path as `{}`, and the policy does not allow that; send the path that is meant, or have \
             the policy say `outgate.ambiguousPaths: sent` to judge only what is sent",
            crate::excerpt::Excerpt::new(folded),
        ))
    }
}

/// A verdict on a tunnel.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConnectDecision {
    /// What becomes of it.
    pub verdict: ConnectVerdict,
    /// Rules whose matcher failed on the way.
    pub errors: Vec<RuleId>,
}

/// A verdict on TLS inside a tunnel.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TlsDecision {
    /// What becomes of it.
    pub verdict: TlsVerdict,
    /// Rules whose matcher failed on the way.
    pub errors: Vec<RuleId>,
}

/// A verdict on a request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RequestDecision {
    /// What becomes of it.
    pub verdict: RequestVerdict,
    /// The reading of the path that decided.
    pub reading: Reading,
    /// Rules whose matcher failed on the way.
    pub errors: Vec<RuleId>,
}

/// What the parts of one connection must agree on wherever its bytes are looked at.
pub mod agree {
    use super::{Authority, Destination, HostName, RequestStage};

    /// The server name of a ClientHello.
    #[derive(Clone, Copy, Debug, Eq, PartialEq)]
    pub enum ServerName {
        /// The tunnel's host.
        Same,
        /// Another host, or no host at all.
        Differs,
        /// None: a tunnel goes on, but nothing can be inspected.
        Absent,
    }

    /// Compares the server name with the tunnel's host.
    pub fn server_name(destination: &Destination, sni: Option<&str>) -> ServerName {
        match sni {
            None | Some("") => ServerName::Absent,
            // RFC 6066 3: ASCII.
            Some(sni) => match HostName::parse(sni) {
                Ok(host) if host == destination.host && sni.is_ascii() => ServerName::Same,
                _ => ServerName::Differs,
            },
        }
    }

    /// Whether an inner `:authority` is the tunnel's destination; a missing port is the scheme's.
    pub fn authority(destination: &Destination, authority: &Authority, stage: RequestStage) -> bool {
        authority.clone().with_port(stage.scheme().default_port()) == *destination
    }
}

#[cfg(test)]
mod tests {
    use super::agree::ServerName;
    use super::*;

    #[test]
    fn server_names_are_compared_as_hosts() {
        let destination = Destination::parse("bücher.example:443").unwrap();
        for (sni, expected) in [
            (Some("xn--bcher-kva.example"), ServerName::Same),
            (Some("XN--BCHER-KVA.EXAMPLE."), ServerName::Same),
            (Some("bücher.example"), ServerName::Differs),
            (Some("other.example"), ServerName::Differs),
            (Some("b\u{fffd}cher.example"), ServerName::Differs),
            (Some(""), ServerName::Absent),
            (None, ServerName::Absent),
        ] {
            assert_eq!(agree::server_name(&destination, sni), expected, "{sni:?}");
        }
    }

    #[test]
    fn authorities_are_compared_with_their_ports() {
        for (connect, inner, stage, same) in [
            ("a.example:443", "a.example", RequestStage::Inspected, true),
            ("a.example:443", "A.example.:443", RequestStage::Inspected, true),
            ("a.example:443", "a.example:25", RequestStage::Inspected, false),
            ("a.example:443", "b.example", RequestStage::Inspected, false),
            ("a.example:8443", "a.example", RequestStage::Inspected, false),
            ("a.example:443", "a.example", RequestStage::Clear, false),
            ("a.example:80", "a.example", RequestStage::Clear, true),
        ] {
            let destination = Destination::parse(connect).unwrap();
            let authority = Authority::parse(inner).unwrap();
            assert_eq!(agree::authority(&destination, &authority, stage), same, "{connect} {inner}");
        }
    }
}
