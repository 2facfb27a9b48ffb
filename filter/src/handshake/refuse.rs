//! The HTTP filter of a listener that accepts untrusted certificates: refuses their requests, and says why.

use std::rc::Rc;

use log::error;
use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType};

use super::judge::judge;
use outgate_handshake::configuration::HandshakeConfiguration;
use outgate_handshake::refusal::{STATUS, refusal};
use outgate_handshake::verify::Untrusted;

/// The root context.
#[derive(Default)]
pub struct RefuseRoot {
    demands: Option<Rc<Untrusted>>,
}

struct Refuse {
    demands: Rc<Untrusted>,
}

impl Context for RefuseRoot {}

impl RootContext for RefuseRoot {
    fn on_configure(&mut self, _size: usize) -> bool {
        let text = self.get_plugin_configuration().unwrap_or_default();
        match HandshakeConfiguration::parse(&text).map(|configuration| configuration.untrusted) {
            Ok(Some(demands)) => {
                self.demands = Some(Rc::new(demands));
                true
            }
            Ok(None) => {
                error!("plugin configuration: untrusted: missing; give the CA bundle of this listener");
                false
            }
            Err(error) => {
                error!("plugin configuration: {error}");
                false
            }
        }
    }

    fn create_http_context(&self, _context_id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Refuse { demands: Rc::clone(self.demands.as_ref()?) }))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

impl Context for Refuse {}

impl HttpContext for Refuse {
    fn on_http_request_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        let Some(judgement) = judge(&self.demands) else { return Action::Continue };
        let (kind, body) = refusal(&judgement.failure, &self.demands);
        let _sent =
            hostcalls::send_http_response(STATUS, vec![("content-type", kind)], Some(body.as_bytes()));
        Action::Pause
    }
}
