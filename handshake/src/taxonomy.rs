//! The stable names of everything that can go wrong in a handshake, who must act, and how.

use std::fmt;

/// The coarse causes, stable on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Category {
    /// The certificate's time has passed, or has not come.
    CertificateExpired,
    /// No trusted chain, or a certificate that must not be used for this.
    ChainVerificationFailed,
    /// Revoked, or revocation could not be checked.
    CertificateRevocation,
    /// No TLS version in common.
    ProtocolVersionMismatch,
    /// The client presented no certificate.
    ClientCertificateMissing,
    /// A trusted certificate of somebody who is not welcome.
    IdentityRejected,
    /// TLS was spoken, but no agreement was found.
    NegotiationError,
    /// The client ended the handshake with an alert.
    PeerAlert,
    /// Something else than TLS was spoken.
    NotTls,
    /// The connection ended before the handshake did.
    Transport,
    /// The server could not do its part.
    ServerError,
    /// A reason that this version does not know.
    Unclassified,
}

/// The five classes that operators' dashboards have always had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Expired, or not yet valid.
    CertificateExpired,
    /// Chain verification.
    ChainVerification,
    /// Revocation.
    Revocation,
    /// TLS version.
    ProtocolVersion,
    /// Anything else.
    Other,
}

/// Who noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DetectedBy {
    /// Envoy refused.
    Server,
    /// The client refused.
    Client,
    /// The connection ended under both.
    Transport,
}

/// Whether the evidence allows another reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Certainty {
    /// It does not.
    Exact,
    /// It does, but this one is by far the most common.
    Likely,
}

/// Who can fix it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Blame {
    /// Whoever runs the client.
    Client,
    /// Whoever runs this listener.
    Operator,
    /// Whoever runs what lies between.
    Network,
}

macro_rules! stable_names {
    ($type:ident { $($variant:ident = $name:literal,)* }) => {
        impl $type {
            /// The stable name.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(self.as_str())
            }
        }
    };
}

stable_names!(Category {
    CertificateExpired = "certificate_expired",
    ChainVerificationFailed = "chain_verification_failed",
    CertificateRevocation = "certificate_revocation",
    ProtocolVersionMismatch = "protocol_version_mismatch",
    ClientCertificateMissing = "client_certificate_missing",
    IdentityRejected = "identity_rejected",
    NegotiationError = "negotiation_error",
    PeerAlert = "peer_alert",
    NotTls = "not_tls",
    Transport = "transport",
    ServerError = "server_error",
    Unclassified = "unclassified",
});

stable_names!(Class {
    CertificateExpired = "certificate_expired",
    ChainVerification = "chain_verification",
    Revocation = "revocation",
    ProtocolVersion = "protocol_version",
    Other = "other",
});

stable_names!(DetectedBy {
    Server = "server",
    Client = "client",
    Transport = "transport",
});

stable_names!(Certainty {
    Exact = "exact",
    Likely = "likely",
});

stable_names!(Blame {
    Client = "client",
    Operator = "operator",
    Network = "network",
});

impl Category {
    /// The class that it rolls up to.
    pub const fn class(self) -> Class {
        match self {
            Self::CertificateExpired => Class::CertificateExpired,
            Self::ChainVerificationFailed => Class::ChainVerification,
            Self::CertificateRevocation => Class::Revocation,
            Self::ProtocolVersionMismatch => Class::ProtocolVersion,
            Self::ClientCertificateMissing
            | Self::IdentityRejected
            | Self::NegotiationError
            | Self::PeerAlert
            | Self::NotTls
            | Self::Transport
            | Self::ServerError
            | Self::Unclassified => Class::Other,
        }
    }

    /// Who noticed.
    pub const fn detected_by(self) -> DetectedBy {
        match self {
            Self::PeerAlert => DetectedBy::Client,
            Self::Transport => DetectedBy::Transport,
            _ => DetectedBy::Server,
        }
    }
}

macro_rules! sub_reasons {
    ($($category:ident { $($variant:ident $name:literal $blame:ident $remedy:literal)* })*) => {
        /// The exact causes, stable on the wire; each belongs to one category.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[expect(missing_docs, reason = "the table that this is made of documents each")]
        pub enum SubReason { $($($variant,)*)* }

        impl SubReason {
            /// All of them, category by category.
            pub const ALL: &[Self] = &[$($(Self::$variant,)*)*];

            /// The stable name.
            pub const fn as_str(self) -> &'static str {
                match self { $($(Self::$variant => $name,)*)* }
            }

            /// The category that it belongs to.
            pub const fn category(self) -> Category {
                match self { $($(Self::$variant => Category::$category,)*)* }
            }

            /// Who can fix it.
            pub const fn blame(self) -> Blame {
                match self { $($(Self::$variant => Blame::$blame,)*)* }
            }

            /// What to do about it, in one sentence.
            pub const fn remedy(self) -> &'static str {
                match self { $($(Self::$variant => $remedy,)*)* }
            }
        }
    };
}

sub_reasons! {
    CertificateExpired {
        Expired "expired" Client
            "Renew the client's certificate and have the client load the new one."
        NotYetValid "not_yet_valid" Client
            "Wait for the certificate's notBefore, or set the clocks of its issuer and of this proxy."
    }
    ChainVerificationFailed {
        UnknownIssuer "unknown_issuer" Client
            "Use a certificate of a CA that this listener trusts and send its intermediates along, or add the issuer to the listener's CAs."
        SelfSigned "self_signed" Client
            "Replace the self-signed certificate by one of a CA that this listener trusts."
        SelfSignedInChain "self_signed_in_chain" Client
            "Use a certificate under a root that this listener trusts; the root that the client sent along is not one."
        BadSignature "bad_signature" Client
            "Reissue the certificate: its signature does not match its issuer's key, so it was altered, or two CAs share a name."
        ChainTooLong "chain_too_long" Client
            "Shorten the client's chain, or raise the depth or path length that the CAs and this listener allow."
        InvalidCa "invalid_ca" Client
            "Reissue from a proper CA: a certificate in the chain signs others without being allowed to."
        WrongPurpose "wrong_purpose" Client
            "Reissue the certificate with the extended key usage clientAuth."
        NameConstraints "name_constraints" Client
            "Reissue the certificate with names that its CA's name constraints permit."
        UnhandledCriticalExtension "unhandled_critical_extension" Client
            "Reissue without the critical extension that Envoy does not understand, or make it non-critical."
        MalformedCertificate "malformed_certificate" Client
            "Reissue the certificate: it does not parse as X.509."
        WeakKeyOrSignature "weak_key_or_signature" Client
            "Reissue with a stronger key and hash: RSA of 2048 bits or more or P-256, with SHA-256."
        CaUsedAsLeaf "ca_used_as_leaf" Client
            "Use a leaf: the client presented a CA certificate as its own."
        Unspecified "unspecified" Client
            "Envoy before 1.37 does not say what failed: upgrade it, or try the certificate with `openssl verify`."
    }
    CertificateRevocation {
        Revoked "revoked" Client
            "Find out why the certificate was revoked before you issue the client another one."
        CrlExpired "crl_expired" Operator
            "Publish a fresh CRL and have this listener load it: until then every client of that CA is refused."
        CrlNotYetValid "crl_not_yet_valid" Operator
            "Set the clocks of the CRL's issuer and of this proxy: the CRL's thisUpdate lies in the future."
        CrlMissing "crl_missing" Operator
            "Give this listener a CRL of every CA in the chain, or let it check the leaf's CA alone."
        CrlInvalid "crl_invalid" Operator
            "Publish a CRL that its CA signed and that Envoy can read."
        OcspFailed "ocsp_failed" Operator
            "Check the OCSP responder: it could not vouch for the certificate."
    }
    ProtocolVersionMismatch {
        ClientVersionTooOld "client_version_too_old" Client
            "Upgrade the client to TLS 1.2 or later, or lower the listener's minimum version."
        ClientVersionTooNew "client_version_too_new" Operator
            "Raise the listener's maximum version: the client accepts nothing as old as that."
        InappropriateFallback "inappropriate_fallback" Client
            "Stop the client from falling back to older versions, and look for what broke its first attempt."
    }
    ClientCertificateMissing {
        NoClientCertificate "no_client_certificate" Client
            "Configure the client with a certificate and key of a CA that this listener names; clients send none that does not fit."
    }
    IdentityRejected {
        SanMismatch "san_mismatch" Client
            "Use a certificate with a name that this listener accepts, or accept the client's name."
        PinMismatch "pin_mismatch" Client
            "Pin the client's new certificate or key, if the change was meant."
        PolicyRejected "policy_rejected" Client
            "Use a certificate that the listener's certificate policy accepts."
    }
    NegotiationError {
        NoSharedCipher "no_shared_cipher" Client
            "Enable a cipher suite that both sides know, on the client or on this listener."
        NoSharedGroup "no_shared_group" Client
            "Enable a key exchange group that both sides know, such as X25519 or P-256."
        NoCommonSignatureAlgorithm "no_common_signature_algorithm" Client
            "Enable a signature algorithm on the client that fits the server's key."
        AlpnMismatch "alpn_mismatch" Client
            "Have the client offer a protocol (ALPN) that this listener speaks."
        SniRejected "sni_rejected" Client
            "Ask for a server name (SNI) that this listener serves; if it should serve this one, look for its certificate."
        BadClientSignature "bad_client_signature" Client
            "Give the client the private key that belongs to its certificate."
        MissingOrBadExtension "missing_or_bad_extension" Client
            "Update the client's TLS library: an extension of its hello is missing or malformed."
        MalformedHandshake "malformed_handshake" Client
            "Update the client's TLS library, or look for a middlebox that alters its messages."
        UnexpectedMessage "unexpected_message" Client
            "Update the client's TLS library: it sent a message out of order."
        RecordError "record_error" Network
            "Look for a middlebox or a faulty TLS library: a record could not be decrypted."
        RenegotiationRefused "renegotiation_refused" Client
            "Stop the client from renegotiating; this listener never does."
        SessionOrPsk "session_or_psk" Client
            "Have the client forget its TLS session and connect afresh."
        Ech "ech" Client
            "Turn Encrypted Client Hello off for this host; this listener does not speak it."
    }
    PeerAlert {
        ClientRejectedServerCertificate "client_rejected_server_certificate" Operator
            "Serve a certificate that the client trusts for this name, or give the client this server's CA."
        InterceptRejected "intercept_rejected" Client
            "Install the proxy's CA in the client, or tunnel this host instead of inspecting it if the client pins certificates."
        ClientRefusedVersion "client_refused_version" Client
            "Let client and listener share a TLS version; the client refused the one that was chosen."
        ClientAborted "client_aborted" Client
            "See the client's log: it gave up the handshake on purpose."
        ClientOtherAlert "client_other_alert" Client
            "See the client's log: it ended the handshake with the alert in the message."
    }
    NotTls {
        PlainHttp "plain_http" Client
            "Use https:// in the client's URL; this port speaks TLS only."
        HttpProxyConnect "http_proxy_connect" Client
            "Do not configure this port as an HTTP proxy; it is a TLS server."
        ProxyProtocolError "proxy_protocol_error" Operator
            "Have the load balancer in front send the PROXY protocol, or turn it off on this listener."
        Garbage "garbage" Client
            "Find out what connects here: it does not speak TLS, like a scanner or a client with the wrong port."
    }
    Transport {
        ClosedBeforeHello "closed_before_hello" Network
            "Usually a port scan or a health check that only connects; let health checks complete the handshake."
        ClosedMidHandshake "closed_mid_handshake" Network
            "See the client's log and what lies between: the connection ended while the handshake went on."
        Reset "reset" Network
            "See the client's log and what lies between: the connection was reset while the handshake went on."
        Timeout "timeout" Network
            "Look for packet loss or a client that stalls: the handshake took longer than this listener waits."
    }
    ServerError {
        ServerMisconfigured "server_misconfigured" Operator
            "Check this listener's certificate, key and secret service: the server could not do its part."
        Internal "internal" Operator
            "Look for errors in Envoy's own log: it failed to verify for reasons of its own."
    }
    Unclassified {
        Unclassified "unclassified" Operator
            "Report this line: this version does not know the reason that Envoy gave."
    }
}

impl SubReason {
    /// Whether client and server had agreed on a version by then, so that Envoy's answer to "which one" means something.
    ///
    /// Before, Envoy answers `TLSv1.2` whatever the client offered.
    pub const fn follows_negotiation(self) -> bool {
        matches!(
            self.category(),
            Category::CertificateExpired
                | Category::ChainVerificationFailed
                | Category::CertificateRevocation
                | Category::ClientCertificateMissing
                | Category::IdentityRejected
        ) || matches!(
            self,
            Self::BadClientSignature | Self::ClientRejectedServerCertificate | Self::InterceptRejected
        )
    }
}

impl fmt::Display for SubReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_words_that_metrics_and_queries_can_use_and_differ() {
        let mut names = HashSet::new();
        for sub_reason in SubReason::ALL {
            let name = sub_reason.as_str();
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
            assert!(names.insert(name), "{name} twice");
        }
    }

    #[test]
    fn remedies_are_one_sentence() {
        for sub_reason in SubReason::ALL {
            let remedy = sub_reason.remedy();
            assert!(remedy.ends_with('.') && !remedy.contains(". ") && remedy.len() < 160, "{remedy}");
        }
    }

    #[test]
    fn categories_roll_up_to_the_five_classes() {
        for (category, class) in [
            (Category::CertificateExpired, "certificate_expired"),
            (Category::ChainVerificationFailed, "chain_verification"),
            (Category::CertificateRevocation, "revocation"),
            (Category::ProtocolVersionMismatch, "protocol_version"),
            (Category::IdentityRejected, "other"),
            (Category::Transport, "other"),
        ] {
            assert_eq!(category.class().as_str(), class);
        }
    }
}
