//! A filter that does as little as the stock SDK lets it: nothing, or, with the configuration `two_headers`, it reads
//! two headers and goes on.

#![forbid(unsafe_code)]
#![cfg(target_family = "wasm")]
#![allow(missing_docs, reason = "the SDK's macro makes a public function")]

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel};

#[derive(Clone, Copy)]
struct Stock {
    reads: bool,
}

impl Context for Stock {}

impl RootContext for Stock {
    fn on_configure(&mut self, _size: usize) -> bool {
        self.reads = self.get_plugin_configuration().is_some_and(|text| text == b"two_headers");
        true
    }

    fn create_http_context(&self, _context_id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(*self))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

impl HttpContext for Stock {
    fn on_http_request_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        if self.reads {
            let authority = self.get_http_request_header(":authority");
            let method = self.get_http_request_header(":method");
            if authority.is_none() || method.is_none() {
                self.send_http_response(403, Vec::new(), None);
                return Action::Pause;
            }
        }
        Action::Continue
    }
}

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Warn);
    proxy_wasm::set_root_context(|_| Box::new(Stock { reads: false }));
}}
