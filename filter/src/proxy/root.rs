//! Root contexts: one for each place in Envoy's configuration; all of one worker share one policy.

use std::rc::Rc;

use log::error;
use proxy_wasm::traits::{Context, HttpContext, RootContext, StreamContext};
use proxy_wasm::types::ContextType;

use super::explicit::Explicit;
use super::filter::Filter;
use super::guard::{Found, Guard};
use super::host;
use super::identity::IdentityPage;
use super::inner::Inner;
use crate::handshake::logger::HandshakeLogger;
use crate::handshake::refuse::RefuseRoot;
use crate::handshake::state::StateRoot;

/// A root context that finds out what it is when it is configured.
pub fn new() -> Box<dyn RootContext> {
    match host::property(&["plugin_root_id"]).as_deref() {
        Some(b"handshake") => Box::new(HandshakeLogger::new()),
        Some(b"handshake_state") => Box::new(StateRoot::default()),
        Some(b"refuse") => Box::new(RefuseRoot::default()),
        Some(b"identity") => Box::new(IdentityRoot),
        root_id => Box::new(PolicyRoot { place: root_id.and_then(Place::of), filter: None }),
    }
}

/// Where in Envoy's configuration a policy decides.
#[derive(Clone, Copy, Debug)]
enum Place {
    Explicit,
    Inspected,
    Tunnelled,
    Tls,
    Opaque,
}

impl Place {
    fn of(root_id: &[u8]) -> Option<Self> {
        match root_id {
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
    filter: Option<Rc<Filter>>,
}

impl Context for PolicyRoot {}

impl RootContext for PolicyRoot {
    fn on_configure(&mut self, _size: usize) -> bool {
        if self.place.is_none() {
            error!(
                "unknown root_id; use explicit, inspected, tunnelled, tls, opaque, identity, handshake, handshake_state or \
                 refuse"
            );
            return false;
        }
        let text = self.get_plugin_configuration().unwrap_or_default();
        match Filter::shared(&text) {
            Ok(filter) => {
                self.filter = Some(filter);
                true
            }
            Err(error) => {
                error!("{error}");
                false
            }
        }
    }

    fn create_http_context(&self, _context_id: u32) -> Option<Box<dyn HttpContext>> {
        let filter = Rc::clone(self.filter.as_ref()?);
        match self.place? {
            Place::Explicit => Some(Box::new(Explicit::new(filter))),
            Place::Inspected => Some(Box::new(Inner::inspected(filter))),
            Place::Tunnelled => Some(Box::new(Inner::tunnelled(filter))),
            Place::Tls | Place::Opaque => None,
        }
    }

    fn create_stream_context(&self, _context_id: u32) -> Option<Box<dyn StreamContext>> {
        let filter = Rc::clone(self.filter.as_ref()?);
        match self.place? {
            Place::Tls => Some(Box::new(Guard::new(filter, Found::Tls))),
            Place::Opaque => Some(Box::new(Guard::new(filter, Found::Neither))),
            Place::Explicit | Place::Inspected | Place::Tunnelled => None,
        }
    }

    fn get_type(&self) -> Option<ContextType> {
        match self.place? {
            Place::Explicit | Place::Inspected | Place::Tunnelled => Some(ContextType::HttpContext),
            Place::Tls | Place::Opaque => Some(ContextType::StreamContext),
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
