//! The record of a failed handshake as filter state, for whatever access log of Envoy's prints it:
//! `%FILTER_STATE(wasm.outgate_tls:PLAIN)%` and, one by one, `wasm.outgate_tls_category`, `wasm.outgate_tls_reason`,
//! `wasm.outgate_tls_remedy`.
//!
//! A network filter, in a VM of its own that fails open: an access logger may not write state. It exists once a filter
//! chain has taken the connection; of connections that end before that, only the access logger tells.

use std::rc::Rc;

use log::error;
use proxy_wasm::traits::{Context, RootContext, StreamContext};
use proxy_wasm::types::{ContextType, PeerType};

use super::told::Told;
use crate::proxy::host::set_property;
use outgate_handshake::configuration::HandshakeConfiguration;
use outgate_handshake::line::{record, written};

/// The root context.
#[derive(Default)]
pub struct StateRoot {
    configuration: Option<Rc<HandshakeConfiguration>>,
}

struct State {
    configuration: Rc<HandshakeConfiguration>,
}

impl Context for StateRoot {}

impl RootContext for StateRoot {
    fn on_configure(&mut self, _size: usize) -> bool {
        let text = self.get_plugin_configuration().unwrap_or_default();
        match HandshakeConfiguration::parse(&text) {
            Ok(configuration) => {
                self.configuration = Some(Rc::new(configuration));
                true
            }
            Err(error) => {
                error!("plugin configuration: {error}");
                false
            }
        }
    }

    fn create_stream_context(&self, _context_id: u32) -> Option<Box<dyn StreamContext>> {
        let configuration = Rc::clone(self.configuration.as_ref()?);
        Some(Box::new(State { configuration }))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::StreamContext)
    }
}

impl Context for State {}

impl StreamContext for State {
    fn on_downstream_close(&mut self, _peer: PeerType) {
        let Some(told) = Told::ask(self.configuration.side) else { return };
        let Some(failure) = told.failure(&self.configuration) else { return };
        let record = record(&failure, &told.connection(&self.configuration));
        let line = written(&record, self.configuration.shape, &self.configuration.fields);
        for (name, value) in [
            ("outgate_tls", line.as_str()),
            ("outgate_tls_category", failure.category().as_str()),
            ("outgate_tls_reason", failure.sub_reason.as_str()),
            ("outgate_tls_remedy", failure.remedy()),
        ] {
            set_property(name, value.as_bytes());
        }
    }
}
