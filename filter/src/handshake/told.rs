//! What Envoy tells of a connection that has ended.

use std::net::SocketAddr;

use crate::proxy::host::{address, integer_property as number, now, property, text_property as text};
use outgate_handshake::classify::{Evidence, Failure, Progress, Side, classify};
use outgate_handshake::configuration::HandshakeConfiguration;
use outgate_handshake::line::{Connection, Inspected};
use outgate_handshake::presented::{Attributes, Presented};

/// Filter state that the listener's `set_filter_state` filter keeps: `begun`, then `finished`.
const PROGRESS: &[&str] = &["filter_state", "outgate.handshake"];
/// Filter state with the client's JA4.
const JA4: &[&str] = &["filter_state", "outgate.ja4"];
/// Filter state with the client's JA3.
const JA3: &[&str] = &["filter_state", "outgate.ja3"];
/// Filter state with the TCP peer, which may be a load balancer.
const PEER: &[&str] = &["filter_state", "outgate.peer"];

/// What the guard of the inspecting side leaves for a connection that is to be decrypted.
pub const INSPECTED: &str = "outgate.inspected";

/// What Envoy told of a connection; the rest is asked only if it failed.
pub struct Told {
    reason: String,
    termination_details: String,
    code_details: String,
    flags: u64,
    progress: Progress,
    certificate: bool,
    /// The SNI.
    pub server_name: Option<String>,
    filter_chain: bool,
    ja3: Option<String>,
    ja4: Option<String>,
    tls_version: Option<String>,
    inspected: Option<Inspected>,
}

impl Told {
    /// Asks Envoy; none if the connection is none that this side explains.
    pub fn ask(side: Side) -> Option<Self> {
        match side {
            Side::Mtls => Some(Self::ask_mtls()),
            Side::Inspecting => {
                let inspected = Inspected::unpack(&property(&[INSPECTED])?)?;
                let finished = property(PROGRESS).as_deref() == Some(b"finished");
                let told =
                    if finished { Self::of(Progress::Finished) } else { Self::ask_all(Progress::Begun) };
                Some(Self { inspected: Some(inspected), ..told })
            }
        }
    }

    fn ask_mtls() -> Self {
        let progress = progress();
        if progress == Progress::Finished {
            // The common case costs one or two questions.
            return Self::of(progress);
        }
        Self::ask_all(progress)
    }

    /// Asks Envoy of a connection whose handshake was completed, and its certificate refused after that.
    pub fn ask_refused() -> Self {
        Self::ask_all(Progress::Finished)
    }

    fn ask_all(progress: Progress) -> Self {
        Self {
            reason: text(&["connection", "transport_failure_reason"]).unwrap_or_default(),
            termination_details: text(&["connection", "termination_details"]).unwrap_or_default(),
            code_details: text(&["response", "code_details"]).unwrap_or_default(),
            flags: number(&["response", "flags"]).unwrap_or(0),
            certificate: property(&["connection", "mtls"]).as_deref() == Some(&[1]),
            server_name: text(&["connection", "requested_server_name"]),
            filter_chain: property(&["xds", "filter_chain_name"]).is_some(),
            ja3: text(JA3),
            ja4: text(JA4),
            tls_version: text(&["connection", "tls_version"]),
            inspected: None,
            progress,
        }
    }

    fn of(progress: Progress) -> Self {
        Self {
            reason: String::new(),
            termination_details: String::new(),
            code_details: String::new(),
            flags: 0,
            progress,
            certificate: false,
            server_name: None,
            filter_chain: false,
            ja3: None,
            ja4: None,
            tls_version: None,
            inspected: None,
        }
    }

    /// Why the handshake failed, if it did.
    pub fn failure(&self, configuration: &HandshakeConfiguration) -> Option<Failure> {
        classify(&Evidence {
            reason: &self.reason,
            termination_details: &self.termination_details,
            code_details: &self.code_details,
            flags: self.flags,
            progress: self.progress,
            certificate: self.certificate,
            bytes_arrived: None,
            server_name: self.server_name.is_some(),
            filter_chain: self.filter_chain,
            without_tls: self.filter_chain && self.tls_version.is_none(),
            proxy_protocol: configuration.proxy_protocol,
            ja4: self.ja4.as_deref(),
            side: configuration.side,
        })
    }

    /// Who connected.
    pub fn client(&self) -> Option<SocketAddr> {
        self.inspected.as_ref().map(|inspected| inspected.client).or_else(|| address("source"))
    }

    /// SHA-256 of the client's certificate.
    pub fn fingerprint(&self) -> Option<String> {
        let digest = text(&["connection", "sha256_peer_certificate_digest"]).filter(|_| self.certificate)?;
        Some(digest.to_ascii_uppercase())
    }

    /// What a line tells of it.
    pub fn connection<'a>(&'a self, configuration: &'a HandshakeConfiguration) -> Connection<'a> {
        let messages = [&self.reason, &self.termination_details, &self.code_details];
        let at = now();
        Connection {
            duration: number(&["request", "duration"]),
            id: number(&["connection", "id"]),
            client: self.client(),
            peer: text(PEER).and_then(|peer| peer.parse().ok()),
            server: address("destination").filter(|_| self.inspected.is_none()),
            inspected: self.inspected.as_ref(),
            listener: Some(configuration.listener.as_str()),
            server_name: self.server_name.as_deref(),
            tls_version: self.tls_version.as_deref(),
            ja3: self.ja3.as_deref(),
            ja4: self.ja4.as_deref(),
            message: messages.into_iter().find(|message| !message.is_empty()).map(String::as_str),
            service: configuration.service.as_deref(),
            certificate: self.certificate.then(|| presented(at).limited(configuration.fields.maximum_names)),
            ..Connection::ended(at)
        }
    }
}

/// The listener's own word if there is one; a request that was served proves the handshake as well.
fn progress() -> Progress {
    match property(PROGRESS).as_deref() {
        Some(b"finished") => Progress::Finished,
        _ if property(&["request", "protocol"]).is_some() => Progress::Finished,
        _ if number(&["request", "total_size"]).is_some_and(|size| size > 0) => Progress::Finished,
        Some(b"begun") => Progress::Begun,
        _ => Progress::Unknown,
    }
}

fn presented(at: time::OffsetDateTime) -> Presented {
    let pem = property(&["connection", "peer_certificate"]).filter(|pem| !pem.is_empty());
    let [subject, sha256, uri, dns] = [
        "subject_peer_certificate",
        "sha256_peer_certificate_digest",
        "uri_san_peer_certificate",
        "dns_san_peer_certificate",
    ]
    .map(|name| property(&["connection", name]).filter(|value| !value.is_empty()));
    Presented::read(
        pem.as_deref(),
        Attributes {
            subject: subject.as_deref(),
            sha256: sha256.as_deref(),
            uri: uri.as_deref(),
            dns: dns.as_deref(),
        },
        at,
    )
}
