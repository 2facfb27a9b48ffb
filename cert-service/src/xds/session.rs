//! One delta stream of an Envoy, without the transport: requests go in, responses come out.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message as _;
use time::OffsetDateTime;
use tokio::sync::Notify;

use super::messages::{
    Any, DataSource, DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource, SECRET_TYPE, Secret,
    TlsCertificate,
};
use crate::audit::{Event, excerpt};
use crate::leases::{Push, Replacement, StreamId, Terms, Withdrawal};
use crate::metrics::DenialReason;
use crate::service::{Admitted, Asker, Minted, Service};
use outgate_policy::HostName;

/// Names in one response: few enough that minting them holds up nobody.
const BATCH: usize = 32;

/// How long a new name may wait for its turn: Envoy gives up a handshake after two seconds.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Types of resources that one stream may speak of; Envoy knows about a dozen.
const TYPES: usize = 32;

/// The state of a stream.
pub struct Session {
    service: Arc<Service>,
    stream: StreamId,
    wake: Arc<Notify>,
    node: Arc<str>,
    /// Names that were asked for and not answered yet.
    asked: VecDeque<Asked>,
    /// When the first of them may have its turn, if it came too fast.
    turn: Option<Instant>,
    /// Answers about types that we do not serve.
    other: VecDeque<DeltaDiscoveryResponse>,
    types: HashSet<String>,
    last_nonce: u64,
    kept: usize,
}

struct Asked {
    name: String,
    /// The version that Envoy holds.
    held: Option<String>,
    at: Instant,
}

enum Answer {
    Secret(Box<Resource>),
    Removed,
    Kept,
    /// Not yet: the Envoy asks for new names too fast.
    Later(Instant),
}

impl Session {
    /// A stream that begins.
    pub fn new(service: Arc<Service>) -> Session {
        let (stream, wake) = service.leases().open();
        service.metrics().streams_opened.increment();
        Session {
            service,
            stream,
            wake,
            node: "".into(),
            asked: VecDeque::new(),
            turn: None,
            other: VecDeque::new(),
            types: HashSet::new(),
            last_nonce: 0,
            kept: 0,
        }
    }

    /// Wakes when there may be something to send without having been asked.
    pub fn wake(&self) -> Arc<Notify> {
        self.wake.clone()
    }

    /// When there may be something to send although nothing wakes us.
    pub fn turn(&self) -> Option<Instant> {
        self.turn
    }

    /// Takes in what Envoy says.
    pub fn receive(&mut self, request: DeltaDiscoveryRequest) {
        if let Some(node) = &request.node
            && self.node.is_empty()
        {
            self.node = excerpt(&node.id).into();
            self.service.leases().name(self.stream, &self.node);
            self.log_stream("opened");
        }
        if let Some(error) = &request.error_detail {
            self.service.metrics().nacks.increment();
            self.service.audit().log(&Event::Nack { node: &self.node, message: excerpt(&error.message) });
        }
        let first = self.types.len() < TYPES && self.types.insert(request.type_url.clone());
        if request.type_url != SECRET_TYPE {
            self.receive_other(request, first);
            return;
        }
        for name in &request.resource_names_unsubscribe {
            self.asked.retain(|asked| asked.name != *name);
            self.service.leases().release(self.stream, name);
        }
        // Only the first request says what a former stream left behind.
        let mut held = if first { request.initial_resource_versions } else { HashMap::new() };
        let at = Instant::now();
        for name in request.resource_names_subscribe {
            let held = held.remove(&name);
            self.asked.push_back(Asked { name, held, at });
        }
    }

    /// The next response, if there is one.
    pub fn next_response(&mut self, now: OffsetDateTime) -> Option<DeltaDiscoveryResponse> {
        if let Some(response) = self.other.pop_front() {
            return Some(self.numbered(response));
        }
        let mut response = DeltaDiscoveryResponse { type_url: SECRET_TYPE.to_owned(), ..Default::default() };
        self.turn = None;
        while response.resources.len() + response.removed_resources.len() < BATCH
            && let Some(asked) = self.asked.pop_front()
        {
            match self.answer(&asked, now) {
                Answer::Secret(resource) => response.resources.push(*resource),
                Answer::Removed => response.removed_resources.push(asked.name),
                Answer::Kept => self.kept += 1,
                Answer::Later(turn) => {
                    self.asked.push_front(asked);
                    self.turn = Some(turn);
                    break;
                }
            }
        }
        if self.asked.is_empty() && self.kept > 0 {
            self.log_stream("resumed");
            self.kept = 0;
        }
        let room = BATCH.saturating_sub(response.resources.len() + response.removed_resources.len());
        for (name, push) in self.service.leases().pending(self.stream, room) {
            match push {
                Push::Withdraw => response.removed_resources.push(name.to_string()),
                Push::Replace(terms, cause) => {
                    response.resources.extend(self.replace(&name, &terms, cause, now));
                }
            }
        }
        let empty = response.resources.is_empty() && response.removed_resources.is_empty();
        (!empty).then(|| self.numbered(response))
    }

    fn answer(&self, asked: &Asked, now: OffsetDateTime) -> Answer {
        let name = asked.name.as_str();
        let Ok(host) = HostName::parse_for_certificate(name) else {
            self.service.deny(name, DenialReason::BadName, &self.node);
            return Answer::Removed;
        };
        let held = asked.held.as_deref();
        if let Some(terms) = held.and_then(|version| self.service.recognise(&host, version, now)) {
            self.lease(name, terms);
            return Answer::Kept;
        }
        let pool = match self.service.admits(&host) {
            Admitted::By(pool) => pool,
            Admitted::No(reason) => {
                if held.is_some() {
                    self.service.count_withdrawn(Withdrawal::Unproven, Some(&host), 1);
                }
                return self.refuse(name, reason);
            }
        };
        let instant = Instant::now();
        if let Err(wait) = self.service.admission().admit(&self.node, instant) {
            if instant.saturating_duration_since(asked.at) > PATIENCE {
                return self.refuse(name, DenialReason::Throttled);
            }
            return Answer::Later(instant + wait);
        }
        let asker = Asker { name, node: &self.node, cause: "asked" };
        let Ok(minted) = self.service.mint(&pool, &host, asker, now) else {
            return self.refuse(name, DenialReason::CannotSign);
        };
        self.lease(name, minted.terms.clone());
        // What was withdrawn while we minted must not slip through.
        if let Admitted::No(reason) = self.service.admits(&host) {
            return self.refuse(name, reason);
        }
        Answer::Secret(Box::new(resource(name, &minted)))
    }

    fn refuse(&self, name: &str, reason: DenialReason) -> Answer {
        self.service.deny(name, reason, &self.node);
        self.service.leases().release(self.stream, name);
        Answer::Removed
    }

    /// A new leaf for a name that is leased; on failure the old one serves on and we try again.
    fn replace(
        &self,
        name: &str,
        terms: &Terms,
        cause: Replacement,
        now: OffsetDateTime,
    ) -> Option<Resource> {
        let asker = Asker { name, node: &self.node, cause: cause.as_str() };
        let Ok(minted) = self.service.mint(&terms.pool, &terms.host, asker, now) else {
            let later = now.saturating_add(time::Duration::MINUTE);
            self.service.leases().postpone(self.stream, name, later);
            return None;
        };
        if !self.service.leases().renew(self.stream, name, minted.terms.clone()) {
            return None;
        }
        self.service.count_replacement(cause);
        self.follow_rotation(name, &minted.terms);
        Some(resource(name, &minted))
    }

    fn lease(&self, name: &str, terms: Terms) {
        for reason in self.service.leases().take(self.stream, name, terms.clone()) {
            self.service.count_withdrawn(reason, None, 1);
        }
        self.follow_rotation(name, &terms);
    }

    /// Another CA may have begun to sign since the leaf was made, or since Envoy left.
    fn follow_rotation(&self, name: &str, terms: &Terms) {
        if self.service.signing_ca(&terms.pool).is_some_and(|ca| ca != terms.ca) {
            self.service.leases().replace(self.stream, name);
        }
    }

    /// We have nothing of other types, and say so: Envoy waits for an answer.
    fn receive_other(&mut self, request: DeltaDiscoveryRequest, first: bool) {
        let names = request.resource_names_subscribe;
        if names.is_empty() && !first {
            return;
        }
        self.other.push_back(DeltaDiscoveryResponse {
            type_url: request.type_url,
            // The wildcard is no resource that could be removed.
            removed_resources: names.into_iter().filter(|name| name != "*").collect(),
            ..Default::default()
        });
    }

    fn numbered(&mut self, response: DeltaDiscoveryResponse) -> DeltaDiscoveryResponse {
        self.last_nonce += 1;
        DeltaDiscoveryResponse { nonce: self.last_nonce.to_string(), ..response }
    }

    fn log_stream(&self, state: &str) {
        self.service.audit().log(&Event::Stream { state, node: &self.node, kept: self.kept });
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.service.leases().close(self.stream);
        self.service.metrics().streams_closed.increment();
        self.log_stream("closed");
    }
}

fn resource(name: &str, minted: &Minted) -> Resource {
    let secret = Secret {
        name: name.to_owned(),
        tls_certificate: Some(TlsCertificate {
            certificate_chain: Some(data(&minted.leaf.chain_pem)),
            private_key: Some(data(&minted.leaf.key_pem)),
        }),
    };
    Resource {
        version: minted.version.clone(),
        resource: Some(Any { type_url: SECRET_TYPE.to_owned(), value: secret.encode_to_vec() }),
        name: name.to_owned(),
    }
}

fn data(text: &str) -> DataSource {
    DataSource { inline_bytes: text.as_bytes().to_vec() }
}
