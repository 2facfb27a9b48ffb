//! What a verdict is about: a client, its session, one of its requests.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::headers::Headers;
use crate::host::Destination;
use crate::path::RequestPath;
use crate::source::Identity;

/// Who connects, as far as `outgate.sources` asks.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// The address of the TCP peer.
    pub ip: IpAddr,
    /// Its port.
    pub port: u16,
    /// Its certificate, if it was verified.
    pub certificate: Option<&'a ClientCertificate>,
    /// The headers of the request that it sends to the proxy itself.
    pub headers: Option<&'a Headers>,
}

/// A client certificate that was verified. One that was not must never become this.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ClientCertificate {
    /// The subject, as in RFC 2253.
    #[serde(default)]
    pub subject: String,
    /// The issuer, as in RFC 2253.
    #[serde(default)]
    pub issuer: String,
    /// The serial number, as `openssl x509 -serial` prints it.
    #[serde(default)]
    pub serial: String,
    /// The SHA-256 fingerprint, in lower-case hexadecimal.
    #[serde(default)]
    pub sha256: String,
    /// Subject alternative names: URIs.
    #[serde(default)]
    pub uri_sans: Vec<String>,
    /// Subject alternative names: DNS names.
    #[serde(default)]
    pub dns_sans: Vec<String>,
    /// The end of its validity; RFC 3339 when written.
    #[serde(with = "time::serde::rfc3339")]
    pub not_after: OffsetDateTime,
}

impl ClientCertificate {
    /// The SPIFFE id: the only URI of an X.509-SVID.
    pub fn spiffe_id(&self) -> Option<&str> {
        match self.uri_sans.as_slice() {
            [uri] if uri.starts_with("spiffe://") => Some(uri),
            _ => None,
        }
    }
}

/// What the first bytes of a tunnel tell.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Connection<'a> {
    /// The server name that the client asks for.
    pub sni: Option<&'a str>,
    /// The TLS version, as in `TLSv1.3`.
    pub tls_version: Option<&'a str>,
    /// The JA4 fingerprint of the ClientHello.
    pub ja4: Option<&'a str>,
}

/// What is found out when a rule asks for it: who knows pays for it.
pub trait Circumstances {
    /// The TCP peer.
    fn client(&self) -> SocketAddr;

    /// The time of the decision.
    fn now(&self) -> OffsetDateTime;
}

/// Circumstances that are known.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// The TCP peer.
    pub client: SocketAddr,
    /// The time of the decision.
    pub now: OffsetDateTime,
}

impl Circumstances for Known {
    fn client(&self) -> SocketAddr {
        self.client
    }

    fn now(&self) -> OffsetDateTime {
        self.now
    }
}

/// One connection of a client to a destination.
#[derive(Clone, Copy)]
pub struct Session<'a> {
    /// Who connects, and when.
    pub circumstances: &'a dyn Circumstances,
    /// What [`Engine::identify`](crate::Engine::identify) made of it.
    pub identity: &'a Identity,
    /// Where it wants to go.
    pub destination: &'a Destination,
    /// Its certificate, if it was verified.
    pub certificate: Option<&'a ClientCertificate>,
    /// What sniffing found; none before.
    pub connection: Option<&'a Connection<'a>>,
}

/// One request.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The method, as sent.
    pub method: &'a str,
    /// What the connection is, never what the client says.
    pub scheme: Scheme,
    /// The path and the query.
    pub path: &'a RequestPath,
    /// The headers, `host` in normal form among them.
    pub headers: &'a Headers,
}

/// `request.scheme`
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Scheme {
    /// In the clear.
    Http,
    /// Inside TLS that is inspected.
    Https,
}

impl Scheme {
    /// In lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port that goes without saying.
    pub fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// Where a request was met.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RequestStage {
    /// In the clear: sent to the proxy as it is, or plain HTTP in a tunnel.
    Clear,
    /// Decrypted.
    Inspected,
}

impl RequestStage {
    /// The scheme of requests there.
    pub fn scheme(self) -> Scheme {
        match self {
            Self::Clear => Scheme::Http,
            Self::Inspected => Scheme::Https,
        }
    }
}
