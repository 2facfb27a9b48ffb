//! What the mTLS listener answers when it has no upstream: the identity that it saw.

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

use super::host;
use outgate_handshake::identity;

/// Answers every request with the client certificate.
pub struct IdentityPage;

impl Context for IdentityPage {}

impl HttpContext for IdentityPage {
    fn on_http_request_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        let pem = host::property(&["connection", "peer_certificate"]).unwrap_or_default();
        let body = identity::describe(&pem).to_string() + "\n";
        let _sent = hostcalls::send_http_response(
            200,
            vec![("content-type", "application/json")],
            Some(body.as_bytes()),
        );
        Action::Pause
    }
}
