//! What a policy can do to a host, whoever asks for it.

use std::net::SocketAddr;

use time::OffsetDateTime;

use crate::engine::{Engine, RuleKind};
use crate::expression::{Facts, Failure, Sniffing};
use crate::host::{Destination, HostName};
use crate::session::{Known, Session};
use crate::source::Identity;

impl Engine {
    /// Whether some session to this host may be inspected: false only if that is impossible for every client, port,
    /// ClientHello and time.
    pub fn may_inspect(&self, host: &HostName) -> bool {
        let destination = Destination { host: host.clone(), port: 443 };
        let session = Session {
            circumstances: &Known {
                client: SocketAddr::from(([0, 0, 0, 0], 0)),
                now: OffsetDateTime::UNIX_EPOCH,
            },
            identity: &Identity::default(),
            destination: &destination,
            certificate: None,
            connection: None,
        };
        // Of these facts only the host is looked at.
        let facts = Facts::of_session(&session, Sniffing::AnySession);
        for (_, rule) in self.enforced().filter_map(|place| self.at(place)) {
            match (rule.session.holds(&facts), rule.kind) {
                (Ok(true) | Err(Failure::Unknown), RuleKind::Inspecting) => return true,
                // It decides for everybody, before any rule after it.
                (Ok(true), RuleKind::Session) => return false,
                _ => {}
            }
        }
        false
    }
}
