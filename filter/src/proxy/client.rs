//! Who is at the other end of a connection to the explicit listener.

use std::net::SocketAddr;

use log::warn;

use super::filter::Filter;
use super::host;
use outgate_handshake::certificate::{Certificate, NameKind};
use outgate_policy::ClientCertificate;

/// The client's address: that of the TCP peer, or of the PROXY header if this peer may send one.
pub fn address(filter: &Filter) -> Option<SocketAddr> {
    let said = host::address("source")?;
    let trusted = &filter.engine.document().outgate.proxy_protocol_from;
    if trusted.is_empty() {
        return Some(said);
    }
    let peer: SocketAddr = host::text_property(&["filter_state", "outgate.peer"])?.parse().ok()?;
    Some(if trusted.iter().any(|range| range.contains(peer.ip())) { said } else { peer })
}

/// The client's certificate, if it was verified.
pub fn certificate(filter: &Filter) -> Option<ClientCertificate> {
    // `mtls` alone would be true of a certificate that a lenient listener accepted unverified.
    let verified = filter.client_certificates
        && host::flag_property(&["connection", "mtls"]) == Some(true)
        && host::flag_property(&["connection", "peer_certificate_valid"]) != Some(false);
    let pem = verified.then(|| host::property(&["connection", "peer_certificate"])).flatten()?;
    match Certificate::from_pem(&pem) {
        // The names that were left out could be others' than those that were read.
        Ok(certificate) if certificate.alternative_names_omitted > 0 => {
            warn!("a verified client certificate counts for nothing: it has too many alternative names");
            None
        }
        Ok(certificate) => Some(identity(certificate)),
        Err(error) => {
            warn!("a verified client certificate counts for nothing: {error}");
            None
        }
    }
}

fn identity(certificate: Certificate) -> ClientCertificate {
    let names = |kind: NameKind| {
        let names = certificate.alternative_names.iter().filter(|name| name.kind == kind);
        names.map(|name| name.text.clone()).collect()
    };
    ClientCertificate {
        uri_sans: names(NameKind::Uri),
        dns_sans: names(NameKind::Dns),
        sha256: certificate.sha256.to_ascii_lowercase(),
        subject: certificate.subject,
        issuer: certificate.issuer,
        serial: certificate.serial,
        not_after: certificate.not_after,
    }
}
