//! What is known about a name: aliases, addresses or that there is none, and for how long.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

/// Longer chains of aliases are loops or attacks.
const MOST_ALIASES: usize = 16;

/// More addresses than a name has.
const MOST_ADDRESSES: usize = 128;

/// Nothing is kept longer, whatever its TTL.
const LONGEST_LIFE: u32 = 24 * 3600;

/// How long a failure is remembered, and that there is nothing if nobody says for how long: Envoy asks again at once.
const SHORT_LIFE: Duration = Duration::from_secs(1);

/// A kind of address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// Asked for by A.
    V4,
    /// Asked for by AAAA.
    V6,
}

impl Family {
    /// The family that a type of record holds.
    pub fn of(record_type: RecordType) -> Option<Family> {
        match record_type {
            RecordType::A => Some(Family::V4),
            RecordType::AAAA => Some(Family::V6),
            _ => None,
        }
    }

    /// Its type of record.
    pub fn record_type(self) -> RecordType {
        match self {
            Family::V4 => RecordType::A,
            Family::V6 => RecordType::AAAA,
        }
    }

    /// The other one.
    pub fn other(self) -> Family {
        match self {
            Family::V4 => Family::V6,
            Family::V6 => Family::V4,
        }
    }
}

/// What a question for one family of a name came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Lookup {
    aliases: Vec<Alias>,
    end: End,
    at: Instant,
    life: Duration,
}

/// A CNAME.
#[derive(Clone, Debug, PartialEq)]
pub struct Alias {
    owner: Name,
    target: Name,
    ttl: u32,
}

/// Where the aliases lead.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    /// To addresses.
    Addresses {
        /// The name that has them.
        owner: Name,
        /// Each with its TTL.
        addresses: Vec<(IpAddr, u32)>,
    },
    /// Nowhere.
    Negative {
        /// NXDOMAIN, or NOERROR for a name without such records.
        code: ResponseCode,
        /// The record that says for how long, with the zone that it is from.
        authority: Option<(Name, u32, SOA)>,
    },
    /// There was no answer, or none that can be used.
    Failed,
}

/// What one message says about a name.
pub enum Said {
    /// All.
    Complete(Box<Lookup>),
    /// That it is an alias, but not of what: ask again for the last target.
    Aliases(Vec<Alias>),
}

impl Said {
    fn complete(lookup: Lookup) -> Said {
        Said::Complete(Box::new(lookup))
    }
}

impl Lookup {
    /// Addresses that are known without asking.
    pub fn known(
        owner: &Name,
        addresses: impl IntoIterator<Item = IpAddr>,
        family: Family,
        ttl: u32,
    ) -> Lookup {
        let addresses: Vec<_> = addresses
            .into_iter()
            .filter(|ip| ip.is_ipv4() == (family == Family::V4))
            .map(|ip| (ip, ttl))
            .collect();
        let end = if addresses.is_empty() {
            End::Negative { code: ResponseCode::NoError, authority: None }
        } else {
            End::Addresses { owner: owner.clone(), addresses }
        };
        Lookup::new(Vec::new(), end)
    }

    /// Nothing is known.
    pub fn failed() -> Lookup {
        Lookup::new(Vec::new(), End::Failed)
    }

    /// Whether it may no longer be used.
    pub fn is_over(&self) -> bool {
        self.at.elapsed() >= self.life
    }

    /// Where it leads.
    pub fn end(&self) -> &End {
        &self.end
    }

    /// All addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let addresses = match &self.end {
            End::Addresses { addresses, .. } => addresses.as_slice(),
            _ => &[],
        };
        addresses.iter().map(|(ip, _)| *ip)
    }

    /// The records of an answer: those that answer, and that which says for how long there is nothing.
    pub fn records(&self) -> (Vec<Record>, Option<Record>) {
        let age = u32::try_from(self.at.elapsed().as_secs()).unwrap_or(u32::MAX);
        let record =
            |owner: &Name, ttl: u32, data| Record::from_rdata(owner.clone(), ttl.saturating_sub(age), data);
        let mut answers: Vec<Record> = self
            .aliases
            .iter()
            .map(|alias| record(&alias.owner, alias.ttl, RData::CNAME(CNAME(alias.target.clone()))))
            .collect();
        match &self.end {
            End::Addresses { owner, addresses } => {
                answers.extend(addresses.iter().map(|(ip, ttl)| match ip {
                    IpAddr::V4(ip) => record(owner, *ttl, RData::A(A(*ip))),
                    IpAddr::V6(ip) => record(owner, *ttl, RData::AAAA(AAAA(*ip))),
                }));
                (answers, None)
            }
            End::Negative { authority, .. } => {
                let authority =
                    authority.as_ref().map(|(zone, ttl, soa)| record(zone, *ttl, RData::SOA(soa.clone())));
                (answers, authority)
            }
            End::Failed => (Vec::new(), None),
        }
    }

    fn new(aliases: Vec<Alias>, end: End) -> Lookup {
        let last = match &end {
            End::Addresses { addresses, .. } => addresses.iter().map(|(_, ttl)| *ttl).min(),
            End::Negative { authority, .. } => authority.as_ref().map(|(_, ttl, _)| *ttl),
            End::Failed => None,
        };
        let ttl = aliases.iter().map(|alias| alias.ttl).chain([last.unwrap_or(0)]).min().unwrap_or(0);
        let life = match end {
            End::Failed | End::Negative { authority: None, .. } => SHORT_LIFE,
            _ => Duration::from_secs(ttl.into()),
        };
        Lookup { aliases, end, at: Instant::now(), life }
    }
}

/// Reads what a message says about a name that `aliases` have led to.
///
/// Records that do not belong to the chain are left out: they lead nowhere, because only what is
/// read here is passed on.
pub fn read(name: &Name, family: Family, message: &Message, mut aliases: Vec<Alias>) -> Said {
    let answers = || message.answers.iter().filter(|record| record.dns_class == DNSClass::IN);
    let mut owner = name;
    let before = aliases.len();
    while let Some((target, ttl)) = answers().find_map(|record| match &record.data {
        RData::CNAME(CNAME(target)) if record.name == *owner => Some((target, record.ttl)),
        _ => None,
    }) {
        if aliases.len() >= MOST_ALIASES {
            return Said::complete(Lookup::failed());
        }
        aliases.push(Alias { owner: owner.clone(), target: target.clone(), ttl: ttl_of(ttl) });
        owner = target;
    }
    let addresses: Vec<_> = answers()
        .filter(|record| record.name == *owner)
        .filter_map(|record| {
            let ip = match (&record.data, family) {
                (RData::A(A(ip)), Family::V4) => IpAddr::V4(*ip),
                (RData::AAAA(AAAA(ip)), Family::V6) => IpAddr::V6(*ip),
                _ => return None,
            };
            Some((ip, ttl_of(record.ttl)))
        })
        .collect();
    let authority = message.authorities.iter().find_map(|record| match &record.data {
        RData::SOA(soa) => Some((record.name.clone(), ttl_of(record.ttl.min(soa.minimum)), soa.clone())),
        _ => None,
    });
    let code = message.metadata.response_code;
    if addresses.len() > MOST_ADDRESSES {
        Said::complete(Lookup::failed())
    } else if !addresses.is_empty() {
        Said::complete(Lookup::new(aliases, End::Addresses { owner: owner.clone(), addresses }))
    } else if code == ResponseCode::NoError && authority.is_none() && aliases.len() > before {
        Said::Aliases(aliases)
    } else {
        Said::complete(Lookup::new(aliases, End::Negative { code, authority }))
    }
}

impl Alias {
    /// What it stands for.
    pub fn target(&self) -> &Name {
        &self.target
    }
}

/// Half the numbers mean none (RFC 2181, 8).
fn ttl_of(ttl: u32) -> u32 {
    if ttl > i32::MAX.unsigned_abs() { 0 } else { ttl.min(LONGEST_LIFE) }
}
