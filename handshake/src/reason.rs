//! Reads Envoy's `transport_failure_reason`.
//!
//! ```text
//! TLS_error:|268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:<detail>:TLS_error_end
//!            ^ packed code: library in the high byte, reason in the low 12 bits; more may follow, each after a `|`
//! ```
//!
//! The detail (Envoy 1.37 and later) quotes the peer's certificate, so whatever stands in it may be
//! a lie: it is only ever compared from its beginning, and errors are only read before it.
//! Envoy's formatters write underscores for spaces.

use std::borrow::Cow;

/// BoringSSL's numbers of the libraries that an error can come from.
const SYSTEM_LIBRARY: u32 = 2;
const SSL_LIBRARY: u32 = 16;

/// More errors than these are never queued for one failure.
const MAXIMUM_ERRORS: usize = 8;
/// No known text is as long.
const MAXIMUM_DETAIL: usize = 512;

/// A reason, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason<'a> {
    /// There is none.
    Absent,
    /// From the TLS handshake.
    Handshake {
        /// What BoringSSL queued, first error first; never empty.
        errors: Vec<Code>,
        /// What Envoy adds, with spaces.
        detail: Option<Cow<'a, str>>,
    },
    /// From the listener filter that peeks at the first bytes; traffic may yet have worked without TLS.
    Inspector(Code),
    /// The listener's own certificate has not arrived.
    SecretMissing,
    /// Of an unknown form.
    Unknown,
}

/// A packed BoringSSL error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code(pub u32);

impl Code {
    /// The number of an `SSL_R_*`, if it is one.
    pub fn ssl(self) -> Option<u32> {
        (self.library() == SSL_LIBRARY).then_some(self.number())
    }

    /// The `errno`, if it is one.
    pub fn system(self) -> Option<u32> {
        (self.library() == SYSTEM_LIBRARY).then_some(self.number())
    }

    fn library(self) -> u32 {
        self.0 >> 24
    }

    fn number(self) -> u32 {
        self.0 & 0xfff
    }
}

impl<'a> Reason<'a> {
    /// Takes a reason apart.
    pub fn parse(text: &'a str) -> Self {
        let text = text.trim();
        if text.is_empty() || text == "-" {
            Self::Absent
        } else if let Some(rest) = text.strip_prefix("TLS_error|error:") {
            hexadecimal(rest).map_or(Self::Unknown, Self::Inspector)
        } else if let Some(rest) = text.strip_prefix("TLS_error:|") {
            queue(rest).unwrap_or(Self::Unknown)
        } else if spaced(text).starts_with("TLS error: Secret is not supplied by SDS") {
            Self::SecretMissing
        } else {
            Self::Unknown
        }
    }
}

/// Text with the spaces that Envoy's formatters took from it.
pub fn spaced(text: &str) -> Cow<'_, str> {
    if text.contains('_') { Cow::Owned(text.replace('_', " ")) } else { Cow::Borrowed(text) }
}

fn hexadecimal(rest: &str) -> Option<Code> {
    let (digits, _) = rest.split_once(':')?;
    u32::from_str_radix(digits, 16).ok().map(Code)
}

fn queue(mut rest: &str) -> Option<Reason<'_>> {
    let mut errors = Vec::new();
    while errors.len() < MAXIMUM_ERRORS {
        let mut fields = rest.splitn(4, ':');
        let code = fields.next()?.parse().ok()?;
        let (_library, _function) = (fields.next()?, fields.next()?);
        errors.push(Code(code));
        let tail = fields.next()?;
        let Some(end) = tail.find(['|', ':']) else { break };
        let (_name, next) = tail.split_at(end);
        match next.strip_prefix('|') {
            Some(next) => rest = next,
            None => {
                return Some(Reason::Handshake { errors, detail: detail(next.strip_prefix(':')?) });
            }
        }
    }
    Some(Reason::Handshake { errors, detail: None })
}

fn detail(text: &str) -> Option<Cow<'_, str>> {
    if text.starts_with("TLS_error_end") {
        return None;
    }
    let text = text.split_once(":TLS_error_end").map_or(text, |(detail, _)| detail);
    let end = text.char_indices().nth(MAXIMUM_DETAIL).map_or(text.len(), |(index, _)| index);
    text.get(..end).map(spaced)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handshake(codes: &[u32], detail: Option<&'static str>) -> Reason<'static> {
        Reason::Handshake {
            errors: codes.iter().copied().map(Code).collect(),
            detail: detail.map(Cow::Borrowed),
        }
    }

    #[test]
    fn a_reason_is_codes_and_then_a_detail() {
        for (text, expected) in [
            ("", Reason::Absent),
            ("-", Reason::Absent),
            (
                "TLS_error:|268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:TLS_error_end",
                handshake(&[268_435_581], None),
            ),
            (
                "TLS_error:|268435581:SSL_routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:verify_cert_failed:_x:TLS_error_end",
                handshake(&[268_435_581], Some("verify cert failed: x")),
            ),
            (
                "TLS_error:|268435568:SSL routines:OPENSSL_internal:BAD_PACKET_LENGTH|268435595:SSL routines:OPENSSL_internal:DECRYPTION_FAILED_OR_BAD_RECORD_MAC:TLS_error_end",
                handshake(&[268_435_568, 268_435_595], None),
            ),
            // A certificate that quotes an error of its own.
            (
                "TLS_error:|268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:SAN [a|1:b:c:d]:TLS_error_end|2:x:y:z:TLS_error_end",
                handshake(&[268_435_581], Some("SAN [a|1:b:c:d]")),
            ),
            // Two failures, one after the other.
            (
                "TLS_error:|268435696:SSL routines:OPENSSL_internal:UNSUPPORTED_PROTOCOL:TLS_error_end|33554536:system library:OPENSSL_internal:Connection reset by peer:TLS_error_end",
                handshake(&[268_435_696], None),
            ),
            // Cut by whoever carried it.
            (
                "TLS_error:|268435696:SSL routines:OPENSSL_internal:UNSUPPORTED_PRO",
                handshake(&[268_435_696], None),
            ),
            (
                "TLS_error|error:1000009c:SSL routines:OPENSSL_internal:HTTP_REQUEST:TLS_error_end",
                Reason::Inspector(Code(0x1000_009c)),
            ),
            ("TLS error: Secret is not supplied by SDS", Reason::SecretMissing),
            ("TLS_error:_Secret_is_not_supplied_by_SDS", Reason::SecretMissing),
            ("TLS_error:|99999999999:a:b:c:TLS_error_end", Reason::Unknown),
            ("TLS_error:|", Reason::Unknown),
            ("certificate has expired", Reason::Unknown),
        ] {
            assert_eq!(Reason::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn codes_tell_their_library() {
        assert_eq!(Code(268_435_581).ssl(), Some(125));
        assert_eq!(Code(268_436_504).ssl(), Some(1048));
        assert_eq!(Code(33_554_536).system(), Some(104));
        assert_eq!(Code(33_554_536).ssl(), None);
    }
}
