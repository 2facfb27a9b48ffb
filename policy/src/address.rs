//! IP addresses and their ranges.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::excerpt::Excerpt;

/// A range of addresses, such as `10.0.0.0/8` or `2001:db8::/32`.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Cidr {
    network: IpAddr,
    prefix: u8,
}

/// Why a range was refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CidrError {
    /// No `/`.
    #[error(
        "`{0}` has no prefix length; write `{0}/32` for one IPv4 address, `{0}/128` for one IPv6 address"
    )]
    NoPrefix(Excerpt),
    /// No address before it.
    #[error("`{0}` does not begin with an IP address; write a range such as `10.0.0.0/8`")]
    Address(Excerpt),
    /// Too long, or no number.
    #[error("the prefix length of `{0}` is no number from 0 to {1}")]
    Prefix(Excerpt, u8),
}

impl Cidr {
    /// Reads a range. Bits beyond the prefix do not count.
    pub fn parse(text: &str) -> Result<Self, CidrError> {
        let (address, length) =
            text.split_once('/').ok_or_else(|| CidrError::NoPrefix(Excerpt::new(text)))?;
        let address = IpAddr::from_str(address).map_err(|_| CidrError::Address(Excerpt::new(text)))?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let digits =
            length.bytes().all(|byte| byte.is_ascii_digit()) && (length == "0" || !length.starts_with('0'));
        let prefix = length
            .parse()
            .ok()
            .filter(|prefix: &u8| digits && *prefix <= longest)
            .ok_or_else(|| CidrError::Prefix(Excerpt::new(text), longest))?;
        Ok(Self::new(address, prefix))
    }

    /// Whether an address is in the range. An IPv4 address inside IPv6 (`::ffff:…`) counts as what it means.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.network, ip.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(ip)) => {
                (network.to_bits() ^ ip.to_bits()).checked_shr(32 - u32::from(self.prefix)).unwrap_or(0) == 0
            }
            (IpAddr::V6(network), IpAddr::V6(ip)) => {
                (network.to_bits() ^ ip.to_bits()).checked_shr(128 - u32::from(self.prefix)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }

    /// The range of one address.
    pub fn of_one(ip: IpAddr) -> Self {
        let ip = ip.to_canonical();
        Self::new(ip, if ip.is_ipv4() { 32 } else { 128 })
    }

    /// The same range, without the bits beyond its prefix. Such ranges are ordered so that what covers a range
    /// comes before it.
    pub fn masked(&self) -> Self {
        let network = match self.network {
            IpAddr::V4(ip) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(ip.to_bits() & mask))
            }
            IpAddr::V6(ip) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & mask))
            }
        };
        Self { network, prefix: self.prefix }
    }

    /// Whether all of a masked range is in this one.
    pub fn covers(&self, other: &Self) -> bool {
        self.prefix <= other.prefix
            && self.network.is_ipv4() == other.network.is_ipv4()
            && self.contains(other.network)
    }

    fn new(address: IpAddr, prefix: u8) -> Self {
        match address {
            // `::ffff:10.0.0.0/104` is `10.0.0.0/8`.
            IpAddr::V6(v6) if prefix >= 96 && v6.to_ipv4_mapped().is_some() => {
                Self { network: address.to_canonical(), prefix: prefix - 96 }
            }
            _ => Self { network: address, prefix },
        }
    }
}

impl Cidr {
    /// The first address, and how many leading bits count.
    pub fn parts(&self) -> (IpAddr, u8) {
        (self.network, self.prefix)
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        Self::parse(text)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.network, self.prefix)
    }
}

/// Where the proxy must not connect to unless it is told so: this host and network, private, shared and
/// link-local addresses, benchmarks, multicast and reserved ones.
const REFUSED: [([u8; 4], u8); 11] = [
    ([0, 0, 0, 0], 8),
    ([10, 0, 0, 0], 8),
    ([100, 64, 0, 0], 10),
    ([127, 0, 0, 0], 8),
    ([169, 254, 0, 0], 16),
    ([172, 16, 0, 0], 12),
    ([192, 0, 0, 0], 24),
    ([192, 168, 0, 0], 16),
    ([198, 18, 0, 0], 15),
    ([224, 0, 0, 0], 4),
    ([240, 0, 0, 0], 4),
];

const REFUSED_V6: [(u16, u8); 3] = [(0xfc00, 7), (0xfe80, 10), (0xff00, 8)];

/// Whether the proxy must not connect to an address; `allowed` is `outgate.destinations.allowPrivate`.
pub fn is_refused(ip: IpAddr, allowed: &[Cidr]) -> bool {
    if allowed.iter().any(|range| range.contains(ip)) {
        return false;
    }
    match ip.to_canonical() {
        IpAddr::V4(ip) => is_refused_v4(ip),
        IpAddr::V6(ip) => match embedded(ip) {
            Some(inner) => {
                !allowed.iter().any(|range| range.contains(IpAddr::V4(inner))) && is_refused_v4(inner)
            }
            None => is_refused_v6(ip),
        },
    }
}

/// All that [`is_refused`] refuses, as ranges for others to check: first address and prefix length.
pub fn refused_ranges() -> Vec<(IpAddr, u8)> {
    let mut ranges =
        vec![(IpAddr::from(Ipv6Addr::UNSPECIFIED), 128), (IpAddr::from(Ipv6Addr::LOCALHOST), 128)];
    for (network, prefix) in REFUSED {
        let v4 = Ipv4Addr::from(network);
        let [high, low] =
            [v4.to_bits() >> 16, v4.to_bits() & 0xffff].map(|half| u16::try_from(half).unwrap_or(0));
        ranges.push((v4.into(), prefix));
        ranges.push((v4.to_ipv6_mapped().into(), 96 + prefix));
        ranges.push((IpAddr::from([0x64, 0xff9b, 0, 0, 0, 0, high, low]), 96 + prefix));
        ranges.push((IpAddr::from([0x2002, high, low, 0, 0, 0, 0, 0]), 16 + prefix));
    }
    ranges.extend(REFUSED_V6.map(|(first, prefix)| (IpAddr::from([first, 0, 0, 0, 0, 0, 0, 0]), prefix)));
    ranges
}

fn is_refused_v4(ip: Ipv4Addr) -> bool {
    REFUSED
        .iter()
        .any(|(network, prefix)| Cidr::new(IpAddr::from(*network), *prefix).contains(IpAddr::V4(ip)))
}

fn is_refused_v6(ip: Ipv6Addr) -> bool {
    let ranges = REFUSED_V6.iter();
    matches!(ip, Ipv6Addr::UNSPECIFIED | Ipv6Addr::LOCALHOST)
        || ranges.into_iter().any(|(first, prefix)| {
            Cidr::new(IpAddr::from([*first, 0, 0, 0, 0, 0, 0, 0]), *prefix).contains(IpAddr::V6(ip))
        })
}

/// The IPv4 address that NAT64 (`64:ff9b::/96`) or 6to4 (`2002::/16`) leads to.
fn embedded(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let v4 = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match ip.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(v4(high, low)),
        [0x2002, high, low, ..] => Some(v4(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_contain_what_they_say() {
        for (range, ip, contained) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.1.2.3/8", "10.9.9.9", true),
            ("0.0.0.0/0", "255.255.255.255", true),
            ("0.0.0.0/0", "::1", false),
            ("192.0.2.1/32", "192.0.2.1", true),
            ("192.0.2.1/32", "192.0.2.2", false),
            ("10.0.0.0/8", "::ffff:10.0.0.1", true),
            ("::ffff:10.0.0.0/104", "10.0.0.1", true),
            ("2001:db8::/32", "2001:db8:1::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("2001:db8::1/128", "2001:db8::1", true),
            ("::/0", "2001:db8::1", true),
        ] {
            assert_eq!(Cidr::parse(range).unwrap().contains(ip.parse().unwrap()), contained, "{range} {ip}");
        }
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for (text, expected) in [
            ("10.0.0.1", "write `10.0.0.1/32`"),
            ("10.0.0.0/33", "from 0 to 32"),
            ("10.0.0.0/08", "from 0 to 32"),
            ("10.0.0.0/+8", "from 0 to 32"),
            ("10.0.0.0/", "from 0 to 32"),
            ("::/129", "from 0 to 128"),
            ("example.com/8", "does not begin with an IP address"),
            ("10.0/8", "does not begin with an IP address"),
        ] {
            let error = Cidr::parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn the_ranges_are_what_is_refused() {
        let contained = |range: &(IpAddr, u8), ip: IpAddr| {
            // As others read them: an IPv4 address is in no IPv6 range.
            let bits = |ip: IpAddr| match ip {
                IpAddr::V4(ip) => (u128::from(ip.to_bits()), 32),
                IpAddr::V6(ip) => (ip.to_bits(), 128),
            };
            let ((network, length), (address, same)) = (bits(range.0), bits(ip));
            length == same && (network ^ address).checked_shr(length - u32::from(range.1)).unwrap_or(0) == 0
        };
        for ip in [
            "0.1.2.3",
            "9.255.255.255",
            "10.0.0.0",
            "10.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.64.0.0",
            "126.255.255.255",
            "127.0.0.1",
            "128.0.0.0",
            "169.254.169.254",
            "172.15.255.255",
            "172.31.0.1",
            "172.32.0.0",
            "192.0.0.8",
            "192.0.1.0",
            "192.168.0.1",
            "198.17.255.255",
            "198.19.0.0",
            "223.255.255.255",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::2",
            "::ffff:127.0.0.1",
            "::ffff:8.8.8.8",
            "64:ff9b::10.0.0.1",
            "64:ff9b::8.8.8.8",
            "2002:7f00:1::",
            "2002:808:808::1",
            "fc00::1",
            "fdff::1",
            "fe80::1",
            "febf::1",
            "ff02::1",
            "2001:db8::1",
        ] {
            let ip: IpAddr = ip.parse().unwrap();
            let in_a_range = refused_ranges().iter().any(|range| contained(range, ip));
            assert_eq!(in_a_range, is_refused(ip, &[]), "{ip}");
        }
    }

    #[test]
    fn private_destinations_are_refused_in_every_disguise() {
        for ip in [
            "0.0.0.0",
            "10.0.0.1",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.169.254",
            "172.31.0.1",
            "192.0.0.1",
            "192.168.1.1",
            "198.19.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fd00::1",
            "fe80::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "64:ff9b::10.0.0.1",
            "2002:7f00:1::1",
        ] {
            assert!(is_refused(ip.parse().unwrap(), &[]), "{ip}");
        }
        for ip in [
            "192.0.2.1",
            "8.8.8.8",
            "100.128.0.1",
            "172.32.0.1",
            "2001:db8::1",
            "64:ff9b::8.8.8.8",
            "2002:808:808::1",
        ] {
            assert!(!is_refused(ip.parse().unwrap(), &[]), "{ip}");
        }
        let allowed = [Cidr::parse("10.9.0.0/16").unwrap()];
        for (ip, refused) in [
            ("10.9.0.1", false),
            ("::ffff:10.9.0.1", false),
            ("64:ff9b::10.9.0.1", false),
            ("10.8.0.1", true),
        ] {
            assert_eq!(is_refused(ip.parse().unwrap(), &allowed), refused, "{ip}");
        }
    }
}
