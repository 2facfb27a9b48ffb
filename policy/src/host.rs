//! Hosts and ports: the only parser of them. Whatever it accepts has one normal form, which is what rules
//! judge, logs show, certificates name and connections use.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::excerpt::Excerpt;

/// The longest name that DNS can carry.
const LONGEST_NAME: usize = 253;
const LONGEST_LABEL: usize = 63;

/// A host in normal form: a lower-case name in A-labels without a trailing dot, a dotted quad, or an IPv6
/// address in brackets. An IPv4 address inside IPv6 (`::ffff:192.0.2.1`) is the dotted quad that it means.
/// A-labels are what DNS compares, byte by byte: what they stand for does not matter.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct HostName {
    text: Box<str>,
    ip: Option<IpAddr>,
}

/// A host, and the port if one was given.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Authority {
    /// The host.
    pub host: HostName,
    /// The port.
    pub port: Option<u16>,
}

/// A host and a port.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Destination {
    /// The host.
    pub host: HostName,
    /// The port.
    pub port: u16,
}

/// Why a host or port was refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// Nothing there.
    #[error("the host is empty")]
    Empty,
    /// `user@host`
    #[error("`{0}` has user information before the host; leave out what ends in `@`")]
    UserInformation(Excerpt),
    /// An IPv6 address that runs into its port.
    #[error("`{0}` is an IPv6 address without brackets; write `[{0}]`")]
    Brackets(Excerpt),
    /// Brackets around something else, or never closed.
    #[error("`{0}` is no IPv6 address in brackets")]
    BadIpv6(Excerpt),
    /// `a:1:2`
    #[error("`{0}` has more than one port")]
    TwoPorts(Excerpt),
    /// Not 1 to 65535 in plain digits.
    #[error("the port of `{0}` is no number from 1 to 65535 without leading zeros")]
    BadPort(Excerpt),
    /// A port is missing where it must be.
    #[error("`{0}` names no port; write `{0}:443`, or the port that is meant")]
    NoPort(Excerpt),
    /// A port where there must be none.
    #[error("`{0}` has a port; write the host alone")]
    UnexpectedPort(Excerpt),
    /// A number that some resolvers read as an address, and others do not.
    #[error(
        "`{0}` looks like a number but is no IPv4 address; write four decimal numbers such as `192.0.2.1`"
    )]
    Number(Excerpt),
    /// `a..b`, `.a`
    #[error("`{0}` has an empty label; write single dots between labels")]
    EmptyLabel(Excerpt),
    /// Longer than DNS allows.
    #[error("`{0}` is longer than DNS allows: 63 bytes for a label, 253 in all")]
    TooLong(Excerpt),
    /// A character that no host has.
    #[error("`{text}` has a character that no host has: {character:?}")]
    Character {
        /// The host.
        text: Excerpt,
        /// The character.
        character: char,
    },
    /// A name that is not ASCII and no international name either.
    #[cfg(feature = "international")]
    #[error("`{0}` is no international domain name (UTS 46)")]
    NoIdn(Excerpt),
    /// A name that is not ASCII.
    #[cfg(not(feature = "international"))]
    #[error("`{0}` is not ASCII; write its labels as DNS has them, beginning with `xn--`")]
    NotAscii(Excerpt),
}

impl HostName {
    /// Reads a host without a port. With the feature `international`, names that are not ASCII become A-labels as
    /// browsers make them (UTS 46).
    pub fn parse(text: &str) -> Result<Self, HostError> {
        if is_normal(text) {
            return Ok(Self { text: text.into(), ip: None });
        }
        if text.contains('@') {
            return Err(HostError::UserInformation(Excerpt::new(text)));
        }
        if text.starts_with('[') {
            return Self::bracketed(text);
        }
        if text.contains(':') {
            return Err(if Ipv6Addr::from_str(text).is_ok() {
                HostError::Brackets(Excerpt::new(text))
            } else {
                HostError::UnexpectedPort(Excerpt::new(text))
            });
        }
        let name = normal_name(text)?;
        if ends_in_number(&name) {
            let ip = Ipv4Addr::from_str(&name).map_err(|_| HostError::Number(Excerpt::new(text)))?;
            return Ok(Self::from_ip(IpAddr::V4(ip)));
        }
        Ok(Self { text: name.into(), ip: None })
    }

    /// Reads a host that a certificate may name: its A-labels have to stand for something (UTS 46).
    #[cfg(feature = "international")]
    pub fn parse_for_certificate(text: &str) -> Result<Self, HostError> {
        let host = Self::parse(text)?;
        if host.text.split('.').any(|label| label.starts_with("xn--")) {
            in_a_labels(&host.text)?;
        }
        Ok(host)
    }

    /// The host that an address is.
    pub fn from_ip(ip: IpAddr) -> Self {
        let ip = ip.to_canonical();
        let text = match ip {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        Self { text: text.into(), ip: Some(ip) }
    }

    /// The normal form; an IPv6 address has its brackets.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The address, if the host is one.
    pub fn ip(&self) -> Option<IpAddr> {
        self.ip
    }

    fn bracketed(text: &str) -> Result<Self, HostError> {
        text.strip_prefix('[')
            .and_then(|text| text.strip_suffix(']'))
            .and_then(|text| Ipv6Addr::from_str(text).ok())
            .map(|ip| Self::from_ip(IpAddr::V6(ip)))
            .ok_or_else(|| HostError::BadIpv6(Excerpt::new(text)))
    }
}

impl Authority {
    /// Reads `host` or `host:port`.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        let excerpt = || Excerpt::new(text);
        if text.contains('@') {
            return Err(HostError::UserInformation(excerpt()));
        }
        let (host, port) = if text.starts_with('[') {
            let (inner, rest) = text.split_once(']').ok_or_else(|| HostError::BadIpv6(excerpt()))?;
            let host = HostName::bracketed(&format!("{inner}]"))?;
            if rest.is_empty() {
                return Ok(Self { host, port: None });
            }
            (host, rest.strip_prefix(':').ok_or_else(|| HostError::BadIpv6(excerpt()))?)
        } else {
            let Some((host, port)) = text.split_once(':') else {
                return HostName::parse(text).map(|host| Self { host, port: None });
            };
            if port.contains(':') {
                return Err(if Ipv6Addr::from_str(text).is_ok() {
                    HostError::Brackets(excerpt())
                } else {
                    HostError::TwoPorts(excerpt())
                });
            }
            (HostName::parse(host)?, port)
        };
        let port = parse_port(port).ok_or_else(|| {
            if port.contains(':') { HostError::TwoPorts(excerpt()) } else { HostError::BadPort(excerpt()) }
        })?;
        Ok(Self { host, port: Some(port) })
    }

    /// Whether this is how it was written: in normal form.
    pub fn is_written(&self, text: &str) -> bool {
        match self.port {
            None => self.host.as_str() == text,
            Some(_) => self.to_string() == text,
        }
    }

    /// The destination, where `default` is the port that goes without saying.
    pub fn with_port(self, default: u16) -> Destination {
        Destination { host: self.host, port: self.port.unwrap_or(default) }
    }
}

impl Destination {
    /// Reads `host:port`; both must be there.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        let Authority { host, port } = Authority::parse(text)?;
        let port = port.ok_or_else(|| HostError::NoPort(Excerpt::new(text)))?;
        Ok(Self { host, port })
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(formatter, "{}:{port}", self.host),
            None => self.host.fmt(formatter),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.host, self.port)
    }
}

/// Digits alone, without leading zeros: `0025` is 25 to some and 21 to others.
fn parse_port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    if plain { text.parse().ok() } else { None }
}

/// Whether a host is a plain name in normal form already, as nearly all are. What is not sure is not.
fn is_normal(text: &str) -> bool {
    let (mut label, mut previous) = (0, 0);
    for byte in text.bytes() {
        match byte {
            // `0xa` may be a number.
            b'x' if previous == b'0' => return false,
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => label += 1,
            b'.' if label > 0 => label = 0,
            _ => return false,
        }
        if label > LONGEST_LABEL {
            return false;
        }
        previous = byte;
    }
    let ends_in_letter = text.bytes().next_back().is_some_and(|byte| byte.is_ascii_lowercase());
    ends_in_letter && text.len() <= LONGEST_NAME
}

/// Lower-case A-labels without the trailing dot.
fn normal_name(text: &str) -> Result<String, HostError> {
    let excerpt = || Excerpt::new(text);
    let mapped = if text.is_ascii() { text.to_ascii_lowercase() } else { in_a_labels(text)? };
    let name = mapped.strip_suffix('.').unwrap_or(&mapped);
    if name.is_empty() {
        return Err(if text.is_empty() { HostError::Empty } else { HostError::EmptyLabel(excerpt()) });
    }
    let strange =
        name.chars().find(|character| !matches!(character, 'a'..='z' | '0'..='9' | '-' | '_' | '.'));
    if let Some(character) = strange {
        return Err(HostError::Character { text: excerpt(), character });
    }
    if name.split('.').any(str::is_empty) {
        return Err(HostError::EmptyLabel(excerpt()));
    }
    if name.len() > LONGEST_NAME || name.split('.').any(|label| label.len() > LONGEST_LABEL) {
        return Err(HostError::TooLong(excerpt()));
    }
    Ok(name.to_owned())
}

#[cfg(feature = "international")]
fn in_a_labels(text: &str) -> Result<String, HostError> {
    use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};

    // The characters are checked later, the length too: underscores are fine, DNS has them.
    Uts46::new()
        .to_ascii(text.as_bytes(), AsciiDenyList::EMPTY, Hyphens::Allow, DnsLength::Ignore)
        .map(Into::into)
        .map_err(|_| HostError::NoIdn(Excerpt::new(text)))
}

#[cfg(not(feature = "international"))]
fn in_a_labels(text: &str) -> Result<String, HostError> {
    Err(HostError::NotAscii(Excerpt::new(text)))
}

/// Whether some resolver takes the name for a number: its last label is decimal, octal or hexadecimal.
fn ends_in_number(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    last.bytes().all(|byte| byte.is_ascii_digit())
        || last.strip_prefix("0x").is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_normal_form_stay_as_they_are() {
        let label = "a".repeat(63);
        let longest = format!("{label}.{label}.{label}.{}", "a".repeat(61));
        for name in ["a", "a.example", "xn--a", "9-_.b", "1.2.3.4a", "x1a", &label, &longest] {
            assert!(is_normal(name), "{name}");
            assert_eq!(normal_name(name).as_deref(), Ok(name));
            assert!(!ends_in_number(name));
        }
        for name in ["", ".", "a.", ".a", "a..b", "A", "a:1", "1.2.3.4", "1", "0xa", "a.0xf", "ä", "a b"] {
            assert!(!is_normal(name), "{name}");
        }
        assert!(!is_normal(&format!("a{label}")) && !is_normal(&format!("a{longest}")));
    }

    #[test]
    fn hosts_have_one_normal_form() {
        for (text, normal) in [
            ("example.com", "example.com"),
            ("EXAMPLE.com", "example.com"),
            ("example.com.", "example.com"),
            ("localhost", "localhost"),
            ("_dmarc.example.com", "_dmarc.example.com"),
            ("r3---sn-4g5e.example.com", "r3---sn-4g5e.example.com"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("BÜCHER.example", "xn--bcher-kva.example"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
            ("xn--a.example", "xn--a.example"),
            ("faß.example", "xn--fa-hia.example"),
            ("例え。テスト", "xn--r8jz45g.xn--zckzah"),
            ("192.0.2.1", "192.0.2.1"),
            ("192.0.2.1.", "192.0.2.1"),
            ("１２７.0.0.1", "127.0.0.1"),
            ("[2001:DB8:0::1]", "[2001:db8::1]"),
            ("[::]", "[::]"),
            ("[::ffff:127.0.0.1]", "127.0.0.1"),
            ("[::ffff:7f00:1]", "127.0.0.1"),
            ("1.example", "1.example"),
            ("0x7f.example", "0x7f.example"),
        ] {
            assert_eq!(HostName::parse(text).map(|host| host.to_string()), Ok(normal.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_read_in_one_way_is_refused() {
        let long_label = format!("{}.example", "a".repeat(64));
        let long_name = ["a".repeat(60).as_str(); 5].join(".");
        for (text, expected) in [
            ("", "is empty"),
            (".", "empty label"),
            ("..", "empty label"),
            (".example", "empty label"),
            ("a..example", "empty label"),
            ("a.example..", "empty label"),
            ("user@example.com", "user information"),
            ("@example.com", "user information"),
            ("127.1", "four decimal numbers"),
            ("2130706433", "four decimal numbers"),
            ("0177.0.0.1", "four decimal numbers"),
            ("0x7f.1", "four decimal numbers"),
            ("0x7f000001", "four decimal numbers"),
            ("0x", "four decimal numbers"),
            ("127.0.0.0x1", "four decimal numbers"),
            ("1.2.3.4.5", "four decimal numbers"),
            ("256.0.0.1", "four decimal numbers"),
            ("example.0", "four decimal numbers"),
            ("2001:db8::1", "without brackets; write `[2001:db8::1]`"),
            ("[2001:db8::1", "no IPv6 address in brackets"),
            ("[127.0.0.1]", "no IPv6 address in brackets"),
            ("[fe80::1%25eth0]", "no IPv6 address in brackets"),
            ("[]", "no IPv6 address in brackets"),
            ("example.com:80", "has a port"),
            ("a b", "' '"),
            ("a/b", "'/'"),
            ("a%2eb", "'%'"),
            ("a\\b", "'\\\\'"),
            ("a\0b", "'\\0'"),
            ("*.example.com", "'*'"),
            ("a\u{fffd}b", "international"),
            ("xn--\u{7f}", "'\\u{7f}'"),
            (&long_label, "longer than DNS"),
            (&long_name, "longer than DNS"),
        ] {
            let error = HostName::parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn certificates_name_no_a_labels_that_stand_for_nothing() {
        for (text, named) in [
            ("a.example", true),
            ("192.0.2.1", true),
            ("XN--BCHER-KVA.example", true),
            ("xn--a.example", false),
            ("xn--", false),
            ("a.xn--0.example", false),
        ] {
            assert!(HostName::parse(text).is_ok(), "{text}");
            assert_eq!(HostName::parse_for_certificate(text).is_ok(), named, "{text}");
        }
        let error = HostName::parse_for_certificate("xn--a.example").unwrap_err().to_string();
        assert_eq!(error, "`xn--a.example` is no international domain name (UTS 46)");
    }

    #[test]
    fn normal_forms_are_read_as_themselves() {
        for text in ["a.example", "[2001:db8::1]", "192.0.2.1", "xn--bcher-kva.example"] {
            assert_eq!(HostName::parse(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn authorities_and_destinations() {
        for (text, host, port) in [
            ("example.com", "example.com", None),
            ("example.com:443", "example.com", Some(443)),
            ("Example.com.:8443", "example.com", Some(8443)),
            ("[2001:db8::1]:443", "[2001:db8::1]", Some(443)),
            ("[2001:db8::1]", "[2001:db8::1]", None),
            ("192.0.2.1:1", "192.0.2.1", Some(1)),
            ("a.example:65535", "a.example", Some(65535)),
        ] {
            let authority = Authority::parse(text).unwrap();
            assert_eq!((authority.host.as_str(), authority.port), (host, port), "{text}");
        }
        for (text, expected) in [
            ("example.com:", "no number from 1 to 65535"),
            ("example.com:0", "no number from 1 to 65535"),
            ("example.com:0443", "no number from 1 to 65535"),
            ("example.com:65536", "no number from 1 to 65535"),
            ("example.com:+443", "no number from 1 to 65535"),
            ("example.com: 443", "no number from 1 to 65535"),
            ("example.com:٤٤٣", "no number from 1 to 65535"),
            ("example.com:443:25", "more than one port"),
            ("[::1]:443:25", "more than one port"),
            ("[::1]443", "no IPv6 address in brackets"),
            ("2001:db8::1", "without brackets"),
            ("user:password@example.com:443", "user information"),
            (":443", "is empty"),
        ] {
            let error = Authority::parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        assert_eq!(Destination::parse("[2001:DB8::1]:443").unwrap().to_string(), "[2001:db8::1]:443");
        assert!(Destination::parse("example.com").unwrap_err().to_string().contains("names no port"));
        assert_eq!(Authority::parse("a.example").unwrap().with_port(80).to_string(), "a.example:80");
    }

    #[test]
    fn messages_quote_little_of_what_was_sent() {
        let error = HostName::parse(&"a b".repeat(10_000)).unwrap_err().to_string();
        assert!(error.len() < 300, "{error}");
    }
}
