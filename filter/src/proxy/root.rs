//! Root contexts: one for each place in Envoy's configuration. `explicit` has the policy, the others follow it.

use std::num::NonZeroU32;
use std::rc::Rc;
use std::time::Duration;

use log::error;
use proxy_wasm::traits::{Context, HttpContext, RootContext, StreamContext};
use proxy_wasm::types::ContextType;

use super::connections::ClientConnection;
use super::explicit::Explicit;
use super::filter::{Filter, Policy};
use super::grants;
use super::guard::{Found, Guard};
use super::host;
use super::identity::IdentityPage;
use super::inner::Inner;
use super::{open_tunnels, unresolved};
use crate::handshake::logger::HandshakeLogger;
use crate::handshake::refuse::RefuseRoot;
use crate::handshake::state::StateRoot;

/// How often, and how soon after each other, open tunnels are judged by a new policy: tunnels that are being opened by
/// the old one meanwhile are caught too.
const RECHECKS: u32 = 20;
const RECHECK: Duration = Duration::from_millis(100);

/// How many of them pass between two questions for cert-service's instance: [`grants::INSTANCE_PERIOD`], also while
/// tunnels are judged.
const RECHECKS_PER_INSTANCE: u32 = 10;

/// A root context that finds out what it is when it is configured.
pub fn new(context_id: u32) -> Box<dyn RootContext> {
    match host::property(&["plugin_root_id"]).as_deref() {
        Some(b"handshake") => Box::new(HandshakeLogger::new()),
        Some(b"handshake_state") => Box::new(StateRoot::default()),
        Some(b"refuse") => Box::new(RefuseRoot::default()),
        Some(b"identity") => Box::new(IdentityRoot),
        root_id => {
            Box::new(PolicyRoot { place: root_id.and_then(Place::of), policy: None, rechecks: 0, context_id })
        }
    }
}

/// Where in Envoy's configuration a policy decides.
#[derive(Clone, Copy, Debug)]
enum Place {
    Connections,
    Explicit,
    Inspected,
    Tunnelled,
    Tls,
    Opaque,
}

impl Place {
    fn of(root_id: &[u8]) -> Option<Self> {
        match root_id {
            b"connections" => Some(Self::Connections),
            b"explicit" => Some(Self::Explicit),
            b"inspected" => Some(Self::Inspected),
            b"tunnelled" => Some(Self::Tunnelled),
            b"tls" => Some(Self::Tls),
            b"opaque" => Some(Self::Opaque),
            _ => None,
        }
    }
}

struct PolicyRoot {
    place: Option<Place>,
    policy: Option<Policy>,
    /// How often open tunnels are still to be judged by this policy.
    rechecks: u32,
    context_id: u32,
}

impl PolicyRoot {
    fn filter(&self) -> Option<Rc<Filter>> {
        self.policy.as_ref().map(Policy::filter)
    }

    /// When there is something to do next; zero is never.
    fn next_tick(&self, filter: &Filter) -> Duration {
        match self.place {
            Some(Place::Explicit) if self.rechecks > 0 => RECHECK,
            Some(Place::Explicit) if filter.inspects() => grants::INSTANCE_PERIOD,
            _ => Duration::ZERO,
        }
    }
}

impl Context for PolicyRoot {
    fn on_http_call_response(&mut self, token: u32, _headers: usize, body_size: usize, _trailers: usize) {
        let Some(filter) = self.filter() else { return };
        if !unresolved::answered(&filter, token, body_size) {
            grants::learn_instance(body_size);
        }
    }
}

impl RootContext for PolicyRoot {
    fn on_configure(&mut self, _size: usize) -> bool {
        if self.place.is_none() {
            error!(
                "unknown root_id; use connections, explicit, inspected, tunnelled, tls, opaque, identity, handshake, handshake_state or \
                 refuse"
            );
            return false;
        }
        let text = self.get_plugin_configuration().unwrap_or_default();
        match Policy::parse(&text) {
            Ok(policy) => {
                // One of the places is enough: all of a worker share the tunnels, and what is learned.
                if matches!(self.place, Some(Place::Explicit)) {
                    policy.lend(&text);
                    self.rechecks = RECHECKS;
                    self.set_tick_period(RECHECK);
                }
                self.policy = Some(policy);
                true
            }
            Err(error) => {
                error!("{error}");
                false
            }
        }
    }

    fn on_tick(&mut self) {
        let Some(filter) = self.filter() else { return };
        unresolved::ask(&filter);
        if matches!(self.place, Some(Place::Explicit)) {
            let asks_now = self.rechecks.is_multiple_of(RECHECKS_PER_INSTANCE);
            if self.rechecks > 0 {
                self.rechecks -= 1;
                open_tunnels::recheck(&filter);
            }
            if asks_now && filter.inspects() {
                grants::ask_instance(&filter);
            }
        }
        self.set_tick_period(self.next_tick(&filter));
    }

    fn create_http_context(&self, context_id: u32) -> Option<Box<dyn HttpContext>> {
        let filter = self.filter()?;
        match self.place? {
            Place::Explicit => {
                self.policy.as_ref()?.lend_again();
                Some(Box::new(Explicit::new(filter, context_id)))
            }
            Place::Inspected => Some(Box::new(Inner::inspected(filter))),
            Place::Tunnelled => Some(Box::new(Inner::tunnelled(filter))),
            Place::Connections | Place::Tls | Place::Opaque => None,
        }
    }

    fn create_stream_context(&self, context_id: u32) -> Option<Box<dyn StreamContext>> {
        let filter = self.filter()?;
        match self.place? {
            Place::Connections => {
                let limit = filter.limits.connections_per_client.map_or(u32::MAX, NonZeroU32::get);
                Some(Box::new(ClientConnection::new(filter, limit)))
            }
            Place::Tls => Some(Box::new(Guard::new(filter, Found::Tls, context_id, self.context_id))),
            Place::Opaque => Some(Box::new(Guard::new(filter, Found::Neither, context_id, self.context_id))),
            Place::Explicit | Place::Inspected | Place::Tunnelled => None,
        }
    }

    fn get_type(&self) -> Option<ContextType> {
        match self.place? {
            Place::Explicit | Place::Inspected | Place::Tunnelled => Some(ContextType::HttpContext),
            Place::Connections | Place::Tls | Place::Opaque => Some(ContextType::StreamContext),
        }
    }
}

struct IdentityRoot;

impl Context for IdentityRoot {}

impl RootContext for IdentityRoot {
    fn create_http_context(&self, _context_id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(IdentityPage))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}
