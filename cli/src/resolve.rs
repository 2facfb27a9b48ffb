//! `--resolve HOST:PORT:ADDR[:PORT]`: destinations that the operator resolves by hand, as curl's option does.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use outgate_filter::routing::{HostPattern, Resolved};

/// One `--resolve`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolve {
    /// What clients ask for.
    pub destination: Resolved,
    /// Where the proxy connects.
    pub address: SocketAddr,
}

/// Why a `--resolve` was refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// Not of the form.
    #[error("`{0}` is not HOST:PORT:ADDR[:PORT], such as `a.example:443:127.0.0.1:8443` or `*:80:[::1]`")]
    Form(String),
    /// The host is none.
    #[error("the host of `{text}`: {reason}")]
    Host {
        /// The whole option.
        text: String,
        /// What is wrong with the host.
        reason: String,
    },
    /// A port is none.
    #[error("the port `{port}` of `{text}` is not a number from 1 to 65535")]
    Port {
        /// The whole option.
        text: String,
        /// The port.
        port: String,
    },
    /// The address is none.
    #[error("the address `{address}` of `{text}` is no IP address; names are not resolved here")]
    Address {
        /// The whole option.
        text: String,
        /// The address.
        address: String,
    },
    /// One destination, two addresses.
    #[error(
        "two --resolve are for the same host on port {port}; the second says `{address}`: leave one of them out"
    )]
    Twice {
        /// The port.
        port: u16,
        /// Where the second leads.
        address: SocketAddr,
    },
}

/// As they are asked: named hosts before `*`, as curl does. Two for one destination are refused.
pub fn in_order(mut entries: Vec<Resolve>) -> Result<Vec<Resolve>, ResolveError> {
    for (index, entry) in entries.iter().enumerate() {
        if entries.iter().take(index).any(|earlier| earlier.destination == entry.destination) {
            return Err(ResolveError::Twice { port: entry.destination.port, address: entry.address });
        }
    }
    entries.sort_by_key(|entry| entry.destination.host == HostPattern::Any);
    Ok(entries)
}

impl FromStr for Resolve {
    type Err = ResolveError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form = || ResolveError::Form(text.to_owned());
        let (host, rest) = take_host(text).ok_or_else(form)?;
        let (port, target) = rest.split_once(':').ok_or_else(form)?;
        let port = parse_port(text, port)?;
        let (address, target_port) =
            take_host(target).map_or((target, None), |(address, port)| (address, Some(port)));
        let ip = address
            .strip_prefix('[')
            .map_or(Some(address), |inner| inner.strip_suffix(']'))
            .unwrap_or_default()
            .parse::<IpAddr>()
            .map_err(|_| ResolveError::Address { text: text.to_owned(), address: address.to_owned() })?;
        let target_port = target_port.map_or(Ok(port), |port| parse_port(text, port))?;
        let host = HostPattern::parse(host)
            .map_err(|error| ResolveError::Host { text: text.to_owned(), reason: error.to_string() })?;
        Ok(Self { destination: Resolved { host, port }, address: SocketAddr::new(ip, target_port) })
    }
}

/// Splits after the host, which may be an IPv6 address in brackets.
fn take_host(text: &str) -> Option<(&str, &str)> {
    if text.starts_with('[') {
        let (inner, rest) = text.split_once(']')?;
        let host = text.get(..inner.len() + 1)?;
        Some((host, rest.strip_prefix(':')?))
    } else {
        text.split_once(':')
    }
}

fn parse_port(text: &str, port: &str) -> Result<u16, ResolveError> {
    port.parse()
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| ResolveError::Port { text: text.to_owned(), port: port.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_of_curl_are_read() {
        for (text, address) in [
            ("a.example:443:127.0.0.1:8443", "127.0.0.1:8443"),
            ("a.example:443:127.0.0.1", "127.0.0.1:443"),
            ("*:80:[::1]", "[::1]:80"),
            ("*:80:[::1]:81", "[::1]:81"),
            ("[2001:db8::1]:443:10.0.0.1:1", "10.0.0.1:1"),
        ] {
            assert_eq!(text.parse::<Resolve>().unwrap().address, address.parse().unwrap(), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, expected) in [
            ("a.example", "is not HOST:PORT:ADDR[:PORT]"),
            ("a.example:443", "is not HOST:PORT:ADDR[:PORT]"),
            ("a.example:0:127.0.0.1", "port `0`"),
            ("a.example:443:localhost", "names are not resolved here"),
            ("a.example:443:127.0.0.1:x", "port `x`"),
            ("a b:443:127.0.0.1", "the host of"),
            ("a.example:443:[::1", "no IP address"),
        ] {
            let error = text.parse::<Resolve>().unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn named_hosts_come_before_any_and_none_comes_twice() {
        let parse =
            |texts: &[&str]| texts.iter().map(|text| text.parse::<Resolve>().unwrap()).collect::<Vec<_>>();
        let ordered =
            in_order(parse(&["*:443:10.0.0.1", "a.example:443:10.0.0.2", "*:80:10.0.0.3"])).unwrap();
        assert_eq!(ordered, parse(&["a.example:443:10.0.0.2", "*:443:10.0.0.1", "*:80:10.0.0.3"]));
        assert!(in_order(parse(&["a.example:443:10.0.0.1", "A.example:443:10.0.0.2"])).is_err());
    }
}
