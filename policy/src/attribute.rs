//! The attributes that matchers can ask for: one table of name, type and stages.
//!
//! | attribute | type | CONNECT | after sniffing | next hop | inspected request | request in the clear |
//! |---|---|---|---|---|---|---|
//! | `source.ip` `source.port` `destination.port` `host()` | text, int, int, text | yes | yes | yes | yes | yes |
//! | `source.mtls` `source.certificate.*` | bool, text, list, time | yes | yes | yes | yes | yes |
//! | `connection.sni` `connection.tlsVersion` `connection.ja4` | text | makes the tunnel sniffed | yes | yes | yes | never |
//! | `request.time` | time | yes | yes | yes | yes | yes |
//! | `request.*` otherwise | text, map | never | never | never | yes | yes |

use Attribute as A;
use Kind as K;

/// The type of an attribute.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// `bool`
    Flag,
    /// `map(string, string)`
    Headers,
    /// `int`
    Number,
    /// `string`
    Text,
    /// `list(string)`
    Texts,
    /// `timestamp`
    Time,
}

/// An attribute.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Attribute {
    CertificateDnsSans,
    CertificateIssuer,
    CertificateNotAfter,
    CertificateSerial,
    CertificateSha256,
    CertificateSpiffeId,
    CertificateSubject,
    CertificateUriSans,
    ConnectionJa4,
    ConnectionSni,
    ConnectionTlsVersion,
    DestinationPort,
    Host,
    RequestHeaders,
    RequestHost,
    RequestMethod,
    RequestPath,
    RequestQuery,
    RequestScheme,
    RequestTime,
    RequestUrl,
    RequestUserAgent,
    SourceIp,
    SourceMtls,
    SourcePort,
}

/// Where an attribute is known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stages {
    /// Everywhere.
    All,
    /// Once the first bytes were read, and they are TLS.
    Sniffed,
    /// For requests.
    Request,
}

/// A row of the table.
#[derive(Debug)]
pub struct Row {
    /// As it is written; a final `()` belongs to it.
    pub name: &'static str,
    /// What it is.
    pub attribute: Attribute,
    /// Its type.
    pub kind: Kind,
    /// Where it is known.
    pub stages: Stages,
}

/// The table; the first name of an attribute is the one that we print.
pub const TABLE: [Row; 26] = [
    row("source.ip", A::SourceIp, K::Text, Stages::All),
    row("source.port", A::SourcePort, K::Number, Stages::All),
    row("source.mtls", A::SourceMtls, K::Flag, Stages::All),
    row("source.certificate.subject", A::CertificateSubject, K::Text, Stages::All),
    row("source.certificate.issuer", A::CertificateIssuer, K::Text, Stages::All),
    row("source.certificate.serial", A::CertificateSerial, K::Text, Stages::All),
    row("source.certificate.sha256", A::CertificateSha256, K::Text, Stages::All),
    row("source.certificate.uriSans", A::CertificateUriSans, K::Texts, Stages::All),
    row("source.certificate.dnsSans", A::CertificateDnsSans, K::Texts, Stages::All),
    row("source.certificate.notAfter", A::CertificateNotAfter, K::Time, Stages::All),
    row("source.certificate.spiffeId", A::CertificateSpiffeId, K::Text, Stages::All),
    row("destination.port", A::DestinationPort, K::Number, Stages::All),
    row("host()", A::Host, K::Text, Stages::All),
    row("connection.sni", A::ConnectionSni, K::Text, Stages::Sniffed),
    row("connection.tlsVersion", A::ConnectionTlsVersion, K::Text, Stages::Sniffed),
    row("connection.ja4", A::ConnectionJa4, K::Text, Stages::Sniffed),
    row("request.time", A::RequestTime, K::Time, Stages::All),
    row("request.method", A::RequestMethod, K::Text, Stages::Request),
    row("request.host", A::RequestHost, K::Text, Stages::Request),
    row("request.host()", A::RequestHost, K::Text, Stages::Request),
    row("request.path", A::RequestPath, K::Text, Stages::Request),
    row("request.query", A::RequestQuery, K::Text, Stages::Request),
    row("request.scheme", A::RequestScheme, K::Text, Stages::Request),
    row("request.url()", A::RequestUrl, K::Text, Stages::Request),
    row("request.useragent()", A::RequestUserAgent, K::Text, Stages::Request),
    row("request.headers", A::RequestHeaders, K::Headers, Stages::Request),
];

const fn row(name: &'static str, attribute: Attribute, kind: Kind, stages: Stages) -> Row {
    Row { name, attribute, kind, stages }
}

/// The row of a name.
pub fn find(name: &str) -> Option<&'static Row> {
    TABLE.iter().find(|row| row.name == name)
}

impl Attribute {
    /// As it is written.
    pub fn name(self) -> &'static str {
        TABLE.iter().find(|row| row.attribute == self).map_or("", |row| row.name)
    }

    /// Whether only the first bytes of a tunnel tell.
    pub fn is_sniffed(self) -> bool {
        matches!(self, A::ConnectionJa4 | A::ConnectionSni | A::ConnectionTlsVersion)
    }

    /// Whether it is a text that is never absent where it can be asked for.
    pub fn is_always_known(self) -> bool {
        matches!(
            self,
            A::Host
                | A::SourceIp
                | A::RequestMethod
                | A::RequestPath
                | A::RequestQuery
                | A::RequestScheme
                | A::RequestUrl
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        for (index, row) in TABLE.iter().enumerate() {
            assert!(TABLE[..index].iter().all(|other| other.name != row.name), "{}", row.name);
            assert!(!row.attribute.name().is_empty());
        }
    }
}
