//! The explicit listener: sessions (CONNECT) and requests in the clear.

use std::rc::Rc;

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

use super::exchange::{Exchange, Incoming, Outcome, ROUTE, Refusal, SESSION};
use super::filter::Filter;
use super::grants::{self, Asked, Call};
use super::open_tunnels::{End, Registration, Tunnel};
use super::sessions::{self, OpenSession};
use super::{client, host};
use crate::decision::Subject;
use crate::routing::Leg;
use crate::session_state::{SessionState, TlsState};
use outgate_policy::{
    Authority, Client, ConnectVerdict, Destination, Reason, RequestStage, RuleId, TlsVerdict,
};

/// One request on the explicit listener.
pub struct Explicit {
    exchange: Exchange,
    /// A CONNECT that waits for its grant, and the rule that wants it inspected.
    waiting: Option<(Call, RuleId)>,
    /// A grant that is renewed while the session goes on.
    renewal: Option<Call>,
    context_id: u32,
    /// While a tunnel is open.
    open: Option<Registration>,
    /// While requests inside it may look for their session.
    session: Option<sessions::Registration>,
}

impl Explicit {
    /// A request that is about to come.
    pub fn new(filter: Rc<Filter>, context_id: u32) -> Self {
        let exchange = Exchange::new(filter, RequestStage::Clear);
        Self { exchange, waiting: None, renewal: None, context_id, open: None, session: None }
    }

    /// A tunnel that is about to open is judged again when the policy changes.
    fn register(&mut self, destination: &Destination) {
        let Some(client) = self.exchange.client() else { return };
        let tunnel = Tunnel {
            client,
            certificate: self.exchange.certificate.clone(),
            identity: self.exchange.identity.clone(),
            destination: destination.clone(),
            session_id: self.exchange.session_id().to_owned(),
            end: End::Connect,
        };
        self.open = Some(tunnel.register(self.context_id));
    }

    fn identify(&mut self, destination: &Rc<Destination>) {
        let exchange = &mut self.exchange;
        exchange.destination = Some(Rc::clone(destination));
        if exchange.filter.engine.document().outgate.sources.is_empty() {
            exchange.read_headers(&destination.host);
        } else if let Some(client) = exchange.client() {
            let filter = Rc::clone(&exchange.filter);
            let certificate = exchange.certificate.clone();
            exchange.incoming.drop_untrusted(&filter.engine, client.ip());
            exchange.identity = filter.engine.identify(&Client {
                ip: client.ip(),
                port: client.port(),
                certificate: certificate.as_ref(),
                headers: Some(exchange.read_headers(&destination.host)),
            });
        }
    }

    fn connect(&mut self) -> Action {
        let destination = match Destination::parse(&self.exchange.incoming.authority) {
            Ok(destination) => Rc::new(destination),
            Err(error) => {
                return self.exchange.refuse(Refusal::session(Reason::BadAuthority, error.to_string()));
            }
        };
        self.identify(&destination);
        let exchange = &self.exchange;
        if let Some(refusal) = refused_destination(&exchange.filter, Subject::Session, &destination) {
            return exchange.refuse(refusal);
        }
        let decision = exchange.filter.engine.connect(&exchange.session(&destination));
        match decision.verdict {
            ConnectVerdict::Tunnel(rule) => {
                exchange.record(&Outcome::allowed(Subject::Session, "tunnel", rule, &decision.errors));
                let cluster = exchange.filter.routing.cluster(&destination, Leg::Unread);
                if !set_headers(&[(":authority", &destination.to_string()), (ROUTE, &cluster)])
                    || !name_upstream(&destination, None)
                {
                    return exchange.stop();
                }
                self.register(&destination);
                Action::Continue
            }
            ConnectVerdict::Deny(rule) => exchange
                .refuse(Refusal { errors: decision.errors, ..Refusal::policy(Subject::Session, rule) }),
            ConnectVerdict::Sniff { opened_by, tls } => {
                self.open(&destination, opened_by, tls, &decision.errors)
            }
        }
    }

    /// Opens a tunnel whose bytes will be looked at.
    fn open(
        &mut self,
        destination: &Rc<Destination>,
        opened_by: RuleId,
        tls: Option<TlsVerdict>,
        errors: &[RuleId],
    ) -> Action {
        let exchange = &self.exchange;
        let filter = &exchange.filter;
        let Some(client) = exchange.client() else { return exchange.stop() };
        let state = SessionState {
            id: exchange.session_id().to_owned(),
            policy: filter.engine.hash().to_owned(),
            client,
            tags: exchange.identity.tags().to_vec(),
            service_accounts: exchange.identity.service_accounts().to_vec(),
            certificate: exchange.certificate.clone(),
            destination: destination.to_string(),
            opened_by: filter.rule_name(opened_by).to_owned(),
            tls: TlsState::new(tls, |rule| filter.rule_name(rule)),
            errors: errors.iter().map(|rule| filter.rule_name(*rule).to_owned()).collect(),
            logged: filter.logs_allowance(),
        };
        let packed = state.pack();
        let cluster = filter.routing.cluster(destination, Leg::Unread);
        let routed = set_headers(&[
            (":authority", &state.destination),
            (ROUTE, "tunnels"),
            (SESSION, &packed),
            ("x-outgate-tunnel", &state.tls.chain(&cluster)),
            ("x-outgate-cluster", &cluster),
        ]) && name_upstream(destination, None);
        if !routed {
            return exchange.stop();
        }
        let session = OpenSession::new(state, Rc::clone(destination), exchange.identity.clone());
        self.session = Some(session.register(packed));
        self.register(destination);
        match tls {
            Some(TlsVerdict::Inspect(rule)) => self.ask_for_grant(destination, rule),
            _ => Action::Continue,
        }
    }

    fn ask_for_grant(&mut self, destination: &Destination, rule: RuleId) -> Action {
        match grants::ask(&self.exchange.filter, destination.host.as_str()) {
            Asked::Granted { renewal } => {
                self.renewal = renewal;
                Action::Continue
            }
            Asked::Waiting(call) => {
                self.waiting = Some((call, rule));
                Action::Pause
            }
            Asked::Failed => self.no_grant(rule),
        }
    }

    fn no_grant(&self, rule: RuleId) -> Action {
        let detail = "no certificate could be granted for this host, so it cannot be inspected; try again, and look at cert-service";
        self.exchange
            .refuse(Refusal { rule: Some(rule), ..Refusal::session(Reason::NoGrant, detail.to_owned()) })
    }

    fn request(&mut self) -> Action {
        if !self.exchange.scheme_agrees() {
            return self.exchange.refuse(Exchange::scheme_mismatch());
        }
        match Authority::parse(&self.exchange.incoming.authority) {
            Ok(authority) => {
                let rewritten = self.exchange.incoming.rewritten(&authority);
                let destination = Rc::new(authority.with_port(80));
                self.identify(&destination);
                if let Some(refusal) =
                    refused_destination(&self.exchange.filter, Subject::Request, &destination)
                {
                    return self.exchange.refuse(refusal);
                }
                match self.exchange.judge_request(rewritten.as_deref()) {
                    Action::Continue if !name_upstream(&destination, Some(80)) => self.exchange.stop(),
                    action => action,
                }
            }
            Err(error) => self.exchange.refuse(Refusal::request(Reason::BadAuthority, error.to_string())),
        }
    }
}

impl Context for Explicit {
    fn on_http_call_response(&mut self, token: u32, _headers: usize, body_size: usize, _trailers: usize) {
        if let Some(call) = self.renewal.take_if(|call| call.is(token)) {
            call.finish(&self.exchange.filter, body_size);
            return;
        }
        let Some((call, rule)) = self.waiting.take_if(|(call, _)| call.is(token)) else { return };
        if call.finish(&self.exchange.filter, body_size) {
            let _resumed = hostcalls::resume_http_request();
        } else {
            self.no_grant(rule);
        }
    }
}

impl HttpContext for Explicit {
    fn on_http_request_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        self.exchange.certificate = client::certificate(&self.exchange.filter);
        self.exchange.incoming = Incoming::read();
        let connects = self.exchange.incoming.method == "CONNECT";
        let identifies = !self.exchange.filter.engine.document().outgate.sources.is_empty();
        if (connects || identifies) && self.exchange.client().is_none() {
            return self.exchange.stop();
        }
        if connects { self.connect() } else { self.request() }
    }

    fn on_http_response_headers(&mut self, count: usize, _end_of_stream: bool) -> Action {
        self.exchange.on_response_headers(count)
    }

    fn on_log(&mut self) {
        // The verdict is logged by the inner side.
        if self.session.as_ref().is_some_and(sessions::Registration::is_logged) {
            self.exchange.expect_end();
        }
        self.exchange.on_log();
    }
}

/// An address that nobody may reach, unless the operator says where it is.
fn refused_destination(filter: &Filter, subject: Subject, destination: &Destination) -> Option<Refusal> {
    let detail = if filter.routing.is_resolved(destination) {
        return None;
    } else if filter.routing.is_own(destination) {
        "the address is a listener of the proxy itself"
    } else if filter.engine.refuses(destination) {
        "the address is private, local or reserved; list it under `outgate.destinations.allowPrivate` if clients may reach \
         it"
    } else {
        return None;
    };
    Some(Refusal { subject, ..Refusal::request(Reason::DestinationRefused, detail.to_owned()) })
}

/// Tells Envoy what to resolve, and the port unless it takes that one anyway. The final dot makes a name absolute: without
/// it Envoy answers `localhost` and the names of its hosts file itself, and our resolver is not asked.
fn name_upstream(destination: &Destination, goes_without_saying: Option<u16>) -> bool {
    let host = destination.host.as_str();
    let end = if destination.host.ip().is_some() { "" } else { "." };
    set_headers(&[("x-outgate-host", &[host, end].concat())])
        && (goes_without_saying == Some(destination.port)
            || set_headers(&[("x-outgate-port", &destination.port.to_string())]))
}

fn set_headers(headers: &[(&str, &str)]) -> bool {
    headers.iter().all(|(name, value)| host::set_request_header(name, value))
}
