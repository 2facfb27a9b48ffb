//! Requests inside a tunnel: decrypted ones, and ones in the clear.

use std::rc::Rc;

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

use super::exchange::{Exchange, Incoming, Refusal, SESSION};
use super::filter::Filter;
use super::host;
use super::sessions::OpenSession;
use crate::decision::Subject;
use crate::session_state::{SessionState, SessionStateError, TlsState};
use outgate_policy::agree;
use outgate_policy::document::HostMismatch;
use outgate_policy::{Authority, ConnectVerdict, Destination, Reason, RequestStage, TlsVerdict};

/// The name that TLS towards the origin asks for and verifies, where `:authority` may not say it.
const UPSTREAM_NAMES: [&str; 2] =
    ["envoy.network.upstream_server_name", "envoy.network.upstream_subject_alt_names"];

/// One request inside a tunnel.
pub struct Inner {
    exchange: Exchange,
    stage: RequestStage,
}

impl Inner {
    /// Inside TLS that we decrypt.
    pub fn inspected(filter: Rc<Filter>) -> Self {
        Self::new(filter, RequestStage::Inspected)
    }

    /// In the clear.
    pub fn tunnelled(filter: Rc<Filter>) -> Self {
        Self::new(filter, RequestStage::Clear)
    }

    fn new(filter: Rc<Filter>, stage: RequestStage) -> Self {
        Self { exchange: Exchange::new(filter, stage), stage }
    }

    /// The session around the request.
    fn open_session(&mut self) -> Result<Rc<OpenSession>, SessionStateError> {
        if let Some(packed) = self.exchange.incoming.claims.session.take() {
            if let Some(session) = OpenSession::find(&packed) {
                return Ok(session);
            }
            host::remove_request_header(SESSION);
        }
        OpenSession::of_connection()
    }

    fn judge(&mut self, state: &SessionState, destination: &Destination) -> Action {
        if let Some(refusal) = self.session_has_changed(state, destination) {
            return self.exchange.refuse(refusal);
        }
        if self.exchange.incoming.method == "CONNECT" {
            let detail = "open the tunnel at the proxy itself";
            return self.exchange.refuse(Refusal::request(Reason::NestedConnect, detail.to_owned()));
        }
        if !self.exchange.scheme_agrees() {
            return self.exchange.refuse(Exchange::scheme_mismatch());
        }
        let authority = match Authority::parse(&self.exchange.incoming.authority) {
            Ok(authority) => authority,
            Err(error) => {
                return self.exchange.refuse(Refusal::request(Reason::BadAuthority, error.to_string()));
            }
        };
        if !agree::authority(destination, &authority, self.stage) {
            let allowed = self.exchange.filter.engine.document().outgate.host_mismatch == HostMismatch::Allow;
            // The request goes where its connection goes, and the origin must be who the connection is for.
            let name = destination.host.as_str();
            if !allowed || !UPSTREAM_NAMES.iter().all(|key| host::set_request_state(key, name)) {
                return self.exchange.refuse(Refusal::request(
                    Reason::HostMismatch,
                    format!(
                        "this tunnel leads to `{destination}`, but the request is for `{authority}`; open a tunnel for it"
                    ),
                ));
            }
        }
        self.exchange.read_headers(&authority.host);
        let rewritten = self.exchange.incoming.rewritten(&authority);
        self.exchange.judge_request(rewritten.as_deref())
    }

    /// The session's verdict counts while the policy is the one that gave it; else it is taken again.
    fn session_has_changed(&self, state: &SessionState, destination: &Destination) -> Option<Refusal> {
        let filter = &self.exchange.filter;
        if state.policy == filter.engine.hash() {
            return None;
        }
        let decision = filter.engine.connect(&self.exchange.session(destination));
        let come_back = || {
            Refusal::request(
                Reason::HostMismatch,
                "the policy has changed, and this connection is no longer what it would be; open it again"
                    .to_owned(),
            )
        };
        match (decision.verdict, self.stage) {
            (ConnectVerdict::Deny(rule), _)
            | (ConnectVerdict::Sniff { tls: Some(TlsVerdict::Deny(rule)), .. }, RequestStage::Inspected) => {
                Some(Refusal { errors: decision.errors, ..Refusal::policy(Subject::Request, rule) })
            }
            (ConnectVerdict::Tunnel(_), _)
            | (
                ConnectVerdict::Sniff { tls: Some(TlsVerdict::Tunnel(_)) | None, .. },
                RequestStage::Inspected,
            ) => Some(come_back()),
            (ConnectVerdict::Sniff { .. }, _) => None,
        }
    }
}

impl Context for Inner {}

impl HttpContext for Inner {
    fn on_http_request_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        self.exchange.incoming = Incoming::read_inside();
        let session = match self.open_session() {
            Ok(session) => session,
            Err(error) => {
                log::error!("{error}");
                return self.exchange.stop();
            }
        };
        let OpenSession { state, destination, identity, .. } = &*session;
        self.exchange.session_id = Some(state.id.clone());
        self.exchange.set_client(state.client);
        self.exchange.identity = identity.clone();
        self.exchange.certificate.clone_from(&state.certificate);
        self.exchange.destination = Some(Rc::clone(destination));
        if self.stage == RequestStage::Inspected {
            self.exchange.server_name = Some(destination.host.as_str().to_owned());
            if state.tls == TlsState::Undecided {
                // The rules ask for what only the connection tells.
                self.exchange.tls_version = host::text_property(&["connection", "tls_version"]);
                self.exchange.ja4 = host::text_property(&["filter_state", "outgate.ja4"]);
            }
        }
        self.judge(state, destination)
    }

    fn on_http_response_headers(&mut self, count: usize, _end_of_stream: bool) -> Action {
        self.exchange.on_response_headers(count)
    }

    fn on_log(&mut self) {
        self.exchange.on_log();
    }
}
