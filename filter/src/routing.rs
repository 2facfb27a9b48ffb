//! From a destination to the cluster of Envoy that reaches it.

use std::net::SocketAddr;

use serde::{Serialize, Serializer};

use crate::hash::stable;
use outgate_policy::document::reader::{Item, Reader};
use outgate_policy::{Destination, HostName};

/// How destinations become clusters.
#[derive(Clone, Debug, Serialize)]
pub struct Routing {
    /// How many shards the dynamic forward proxy has.
    pub shards: u32,
    /// Destinations with a cluster of their own; the first that matches counts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resolve: Vec<Resolved>,
    /// The proxy's own listeners, which no client may reach through it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub own: Vec<SocketAddr>,
}

/// A destination that the operator resolves by hand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Resolved {
    /// Which hosts.
    pub host: HostPattern,
    /// The port that clients ask for.
    pub port: u16,
}

/// One host, or any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPattern {
    /// `*`
    Any,
    /// This host.
    Host(HostName),
}

/// What travels between the proxy and the origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leg {
    /// Bytes as the client sent them: a tunnel, or HTTP in the clear.
    Unread,
    /// TLS of our own, around requests that were inspected.
    Tls,
}

impl Routing {
    /// Reads the plugin JSON's key `routing`.
    pub(crate) fn read(reader: &mut Reader, item: &Item<'_>) -> Self {
        let default = Self::default();
        let Some(object) = reader.object(item, &["shards", "resolve", "own"]) else { return default };
        Self {
            shards: reader.optional_number(&object, "shards", &(1..=1024), default.shards),
            resolve: reader
                .list(&object, "resolve")
                .iter()
                .filter_map(|item| Resolved::read(reader, item))
                .collect(),
            own: reader.parsed(&object, "own", str::parse),
        }
    }

    /// Whether the operator says where this destination is.
    pub fn is_resolved(&self, destination: &Destination) -> bool {
        self.resolve.iter().any(|entry| entry.matches(destination))
    }

    /// Whether this destination is a listener of the proxy's own.
    pub fn is_own(&self, destination: &Destination) -> bool {
        let Some(ip) = destination.host.ip() else { return false };
        self.own.iter().any(|own| {
            // `0.0.0.0` and `::` lead to this host, as a listener on them is reached by every address of it.
            let same_host = own.ip() == ip || ip.is_unspecified();
            own.port() == destination.port && (same_host || own.ip().is_unspecified() && ip.is_loopback())
        })
    }

    /// The name of the cluster that reaches `destination`.
    pub fn cluster(&self, destination: &Destination, leg: Leg) -> String {
        let suffix = match leg {
            Leg::Unread => "",
            Leg::Tls => "-tls",
        };
        match self.resolve.iter().position(|entry| entry.matches(destination)) {
            Some(index) => ["resolve-", &index.to_string(), suffix].concat(),
            None => ["shard-", &self.shard(destination).to_string(), suffix].concat(),
        }
    }

    fn shard(&self, destination: &Destination) -> u32 {
        stable(destination.host.as_str()) % self.shards.max(1)
    }
}

impl Resolved {
    fn read(reader: &mut Reader, item: &Item<'_>) -> Option<Self> {
        let object = reader.object(item, &["host", "port"])?;
        let host = reader.required(&object, "host").and_then(|item| reader.parse(&item, HostPattern::parse));
        let port =
            reader.required(&object, "port").and_then(|item| reader.number(&item, &(0..=u16::MAX.into())));
        Some(Self { host: host?, port: u16::try_from(port?).ok()? })
    }

    /// Whether it is about this destination.
    pub fn matches(&self, destination: &Destination) -> bool {
        self.port == destination.port
            && match &self.host {
                HostPattern::Any => true,
                HostPattern::Host(host) => *host == destination.host,
            }
    }
}

impl HostPattern {
    /// Reads `*` or a host.
    pub fn parse(text: &str) -> Result<Self, outgate_policy::HostError> {
        if text == "*" { Ok(Self::Any) } else { HostName::parse(text).map(Self::Host) }
    }
}

impl Default for Routing {
    fn default() -> Self {
        Self { shards: 64, resolve: Vec::new(), own: Vec::new() }
    }
}

impl Serialize for HostPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(match self {
            Self::Any => "*",
            Self::Host(host) => host.as_str(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn destination(text: &str) -> Destination {
        Destination::parse(text).unwrap()
    }

    #[test]
    fn the_first_resolved_destination_counts_and_the_rest_is_sharded() {
        let routing = Routing {
            shards: 64,
            resolve: vec![
                Resolved { host: HostPattern::parse("a.example").unwrap(), port: 443 },
                Resolved { host: HostPattern::Any, port: 80 },
            ],
            own: Vec::new(),
        };
        assert_eq!(routing.cluster(&destination("a.example:443"), Leg::Unread), "resolve-0");
        assert_eq!(routing.cluster(&destination("A.example.:443"), Leg::Tls), "resolve-0-tls");
        assert_eq!(routing.cluster(&destination("a.example:80"), Leg::Unread), "resolve-1");
        assert!(routing.cluster(&destination("b.example:443"), Leg::Tls).starts_with("shard-"));
    }

    #[test]
    fn own_listeners_are_known_by_every_address_that_leads_to_them() {
        let own = ["127.0.0.1:9901", "0.0.0.0:3128", "203.0.113.5:3128"].map(|own| own.parse().unwrap());
        let routing = Routing { own: own.to_vec(), ..Routing::default() };
        for (text, is_own) in [
            ("127.0.0.1:9901", true),
            ("0.0.0.0:9901", true),
            ("[::]:9901", true),
            ("[::ffff:127.0.0.1]:9901", true),
            ("127.0.0.2:9901", false),
            ("127.0.0.2:3128", true),
            ("[::1]:3128", true),
            ("203.0.113.5:3128", true),
            ("203.0.113.5:443", false),
            ("203.0.113.6:3128", false),
            ("localhost:9901", false),
        ] {
            assert_eq!(routing.is_own(&destination(text)), is_own, "{text}");
        }
    }

    #[test]
    fn shards_are_used_evenly() {
        let routing = Routing::default();
        let mut counts = [0_u32; 64];
        for index in 0..64_000 {
            counts[routing.shard(&destination(&format!("host-{index}.example:443"))) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    }
}
