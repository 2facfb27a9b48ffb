//! Why something was allowed or refused, by names that never change.

use std::fmt;

/// A stable reason: in logs, in problem documents, in the header `x-outgate-reason`, in `explain`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Reason {
    /// The path can be read in two ways, and one of them leaves its folder.
    AmbiguousPath,
    /// The host or port cannot be read, or can be read in two ways.
    BadAuthority,
    /// The path is no path.
    BadPath,
    /// No rule matched.
    DefaultDenied,
    /// The destination's address is one that the proxy must not connect to.
    DestinationRefused,
    /// Two parts of one connection name different destinations.
    HostMismatch,
    /// A CONNECT inside a tunnel.
    NestedConnect,
    /// cert-service granted no certificate.
    NoGrant,
    /// TLS that is to be inspected came without a server name.
    NoSni,
    /// A tunnel that rules read as HTTP carries neither TLS nor HTTP.
    NotHttp,
    /// Requests are decided one by one.
    PerRequest,
    /// A rule allows it.
    RuleAllowed,
    /// A rule denies it.
    RuleDenied,
    /// The scheme that the client names is not the one that it uses.
    SchemeMismatch,
    /// TLS towards the origin failed.
    UpstreamTls,
    /// The origin cannot be reached.
    UpstreamUnreachable,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 16] = [
        Self::AmbiguousPath,
        Self::BadAuthority,
        Self::BadPath,
        Self::DefaultDenied,
        Self::DestinationRefused,
        Self::HostMismatch,
        Self::NestedConnect,
        Self::NoGrant,
        Self::NoSni,
        Self::NotHttp,
        Self::PerRequest,
        Self::RuleAllowed,
        Self::RuleDenied,
        Self::SchemeMismatch,
        Self::UpstreamTls,
        Self::UpstreamUnreachable,
    ];

    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AmbiguousPath => "ambiguous_path",
            Self::BadAuthority => "bad_authority",
            Self::BadPath => "bad_path",
            Self::DefaultDenied => "default_denied",
            Self::DestinationRefused => "destination_refused",
            Self::HostMismatch => "host_mismatch",
            Self::NestedConnect => "nested_connect",
            Self::NoGrant => "no_grant",
            Self::NoSni => "no_sni",
            Self::NotHttp => "not_http",
            Self::PerRequest => "per_request",
            Self::RuleAllowed => "rule_allowed",
            Self::RuleDenied => "rule_denied",
            Self::SchemeMismatch => "scheme_mismatch",
            Self::UpstreamTls => "upstream_tls",
            Self::UpstreamUnreachable => "upstream_unreachable",
        }
    }

    /// The HTTP status of a refusal with this reason; 200 where nothing is refused.
    pub fn status(self) -> u16 {
        match self {
            Self::PerRequest | Self::RuleAllowed => 200,
            Self::AmbiguousPath | Self::BadAuthority | Self::BadPath | Self::SchemeMismatch => 400,
            Self::DefaultDenied
            | Self::DestinationRefused
            | Self::NoSni
            | Self::NotHttp
            | Self::RuleDenied => 403,
            Self::NestedConnect => 405,
            Self::HostMismatch => 421,
            Self::UpstreamTls | Self::UpstreamUnreachable => 502,
            Self::NoGrant => 503,
        }
    }

    /// A title for people.
    pub fn title(self) -> &'static str {
        match self {
            Self::AmbiguousPath => "The path can be read in two ways",
            Self::BadAuthority => "The host cannot be read",
            Self::BadPath => "The path cannot be read",
            Self::DefaultDenied => "No rule allows this",
            Self::DestinationRefused => "This address is not reachable through the proxy",
            Self::HostMismatch => "The request is for another host than its connection",
            Self::NestedConnect => "No tunnel inside a tunnel",
            Self::NoGrant => "No certificate for this host at the moment",
            Self::NoSni => "The client did not name the server",
            Self::NotHttp => "Neither TLS nor HTTP",
            Self::PerRequest => "Each request is decided on its own",
            Self::RuleAllowed => "A rule allows this",
            Self::RuleDenied => "A rule forbids this",
            Self::SchemeMismatch => "The scheme is not the one in use",
            Self::UpstreamTls => "No trustworthy TLS connection to the origin",
            Self::UpstreamUnreachable => "The origin cannot be reached",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_reason_has_a_name_of_its_own() {
        let names: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(names.len(), Reason::ALL.len());
    }

    #[test]
    fn statuses_are_those_of_the_design() {
        for (reason, status) in [
            (Reason::RuleDenied, 403),
            (Reason::DefaultDenied, 403),
            (Reason::BadAuthority, 400),
            (Reason::AmbiguousPath, 400),
            (Reason::BadPath, 400),
            (Reason::SchemeMismatch, 400),
            (Reason::HostMismatch, 421),
            (Reason::NoGrant, 503),
        ] {
            assert_eq!(reason.status(), status, "{reason}");
        }
    }
}
