//! The first filter of every connection inside a tunnel: decides before the handshake whether the
//! session's verdict and the ClientHello agree.

use std::rc::Rc;

use log::error;
use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, StreamContext};
use proxy_wasm::types::{Action, PeerType};

use super::exchange::SECOND_BELT;
use super::filter::Filter;
use super::grants::{self, Asked, Call};
use super::host;
use super::open_tunnels::{End, Registration, Tunnel};
use super::sessions::OpenSession;
use super::unresolved;
use crate::decision::{Decision, RequestFacts, Subject};
use crate::handshake::told::INSPECTED;
use crate::routing::Leg;
use crate::session_state::TlsState;
use outgate_handshake::line::Inspected;
use outgate_policy::agree::{self, ServerName};
use outgate_policy::{Connection, Destination, HostName, Known, Reason, Session};

/// BoringSSL's CONNECTION_REJECTED, as Envoy writes it: no certificate came for this connection.
const CERTIFICATE_REFUSED: &str = "|268435589:";

/// Envoy's response flag `UH`, as `response.flags` has it: for a name of the dynamic forward proxy, no address.
const NO_HEALTHY_UPSTREAM: u64 = 2;

/// What the first bytes turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A ClientHello.
    Tls,
    /// Neither TLS nor HTTP, or nothing in time.
    Neither,
}

/// One connection inside a tunnel.
pub struct Guard {
    filter: Rc<Filter>,
    found: Found,
    gate: Gate,
    /// The host whose client gets a certificate of ours.
    inspected: Option<HostName>,
    context_id: u32,
    /// Of the root context, which outlives the connection.
    root: u32,
    /// While TLS goes on unread.
    open: Option<Registration>,
}

/// Whether bytes pass. Pausing a new connection is no gate: data would go on to the next filter.
enum Gate {
    Open,
    Waiting(Box<Waiting>),
    Closed,
}

/// A grant is under way for the session that the ClientHello decided.
struct Waiting {
    call: Call,
    chain: String,
    rule: String,
    session: Rc<OpenSession>,
}

/// A session's verdict once its bytes are known.
struct Outcome {
    verdict: &'static str,
    reason: Reason,
    rule: Option<String>,
    detail: Option<String>,
}

impl Guard {
    /// A connection that is about to begin.
    pub fn new(filter: Rc<Filter>, found: Found, context_id: u32, root: u32) -> Self {
        Self { filter, found, gate: Gate::Open, inspected: None, context_id, root, open: None }
    }

    fn decide(&self, tls: &TlsState, session: &OpenSession, server_name: Option<&str>) -> Outcome {
        let OpenSession { state, destination, .. } = session;
        if self.found == Found::Neither {
            return Outcome {
                verdict: "fail",
                reason: Reason::NotHttp,
                rule: Some(state.opened_by.clone()),
                detail: Some("the rule reads requests, but neither TLS nor HTTP came within three seconds; a session rule before it would let other bytes through unread".to_owned()),
            };
        }
        match tls {
            TlsState::Inspect(rule) => inspect(rule, destination, server_name),
            TlsState::Tunnel(rule) => pass(rule, destination, server_name),
            TlsState::Deny(rule) => Outcome {
                verdict: "deny",
                reason: if rule.is_some() { Reason::RuleDenied } else { Reason::DefaultDenied },
                rule: rule.clone(),
                detail: None,
            },
            TlsState::Undecided => self.decide(&self.sniff(session, server_name), session, server_name),
        }
    }

    /// What rules that ask for the ClientHello decide.
    fn sniff(&self, session: &OpenSession, server_name: Option<&str>) -> TlsState {
        let OpenSession { state, destination, identity, .. } = session;
        let ja4 = host::text_property(&["filter_state", "outgate.ja4"]);
        let connection = Connection { sni: server_name, tls_version: None, ja4: ja4.as_deref() };
        let decision = self.filter.engine.sniffed(&Session {
            circumstances: &Known { client: state.client, now: host::now() },
            identity,
            destination,
            certificate: state.certificate.as_ref(),
            connection: Some(&connection),
        });
        TlsState::new(Some(decision.verdict), |rule| self.filter.rule_name(rule))
    }

    fn record(&self, session: &OpenSession, server_name: Option<&str>, outcome: &Outcome) {
        let OpenSession { state, destination, identity, .. } = session;
        let decision = Decision {
            subject: Subject::Session,
            at: host::now(),
            verdict: outcome.verdict,
            reason: outcome.reason.as_str(),
            rule: outcome.rule.as_deref(),
            detail: outcome.detail.as_deref(),
            failure: None,
            client: Some(state.client),
            identity: Some(identity),
            destination: Some(destination),
            server_name,
            decrypted: outcome.verdict == "inspect",
            // The session is its CONNECT.
            request: Some(RequestFacts { id: &state.id, method: "CONNECT", path: None }),
            policy: &self.filter.engine.document().name,
            policy_hash: &state.policy,
            session_id: &state.id,
            errors: state.errors.iter().map(String::as_str).collect(),
        };
        if decision.allows() && !session.logged.get() {
            self.filter.count(&decision);
        } else {
            session.logged.set(true);
            self.filter.record(&decision);
        }
    }

    /// Chooses the chain of a session that the ClientHello decides; the connection comes back with it.
    fn choose_chain(&mut self, session: Rc<OpenSession>, server_name: Option<&str>) -> Action {
        let tls = self.sniff(&session, server_name);
        let chain = tls.chain(&self.filter.routing.cluster(&session.destination, Leg::Unread));
        let TlsState::Inspect(rule) = tls else {
            return self.send_back(&chain);
        };
        match grants::ask(&self.filter, session.destination.host.as_str()) {
            // The connection is too young for a renewal in the background: the next session has it.
            Asked::Granted { .. } => self.send_back(&chain),
            Asked::Waiting(call) => {
                self.gate = Gate::Waiting(Box::new(Waiting { call, chain, rule, session }));
                Action::Pause
            }
            Asked::Failed => self.no_grant(rule, &session),
        }
    }

    fn send_back(&mut self, chain: &str) -> Action {
        if host::set_property("outgate.sniffed", chain.as_bytes()) { Action::Continue } else { self.close() }
    }

    fn no_grant(&mut self, rule: String, session: &OpenSession) -> Action {
        let outcome = Outcome {
            verdict: "fail",
            reason: Reason::NoGrant,
            rule: Some(rule),
            detail: Some("no certificate could be granted for this host; look at cert-service".to_owned()),
        };
        self.record(session, None, &outcome);
        self.close()
    }

    /// A line for a tunnel that led nowhere.
    fn explain_tunnel(&self, tunnel: &Rc<Tunnel>) {
        if host::text_property(&["connection", "termination_details"]).as_deref() == Some(SECOND_BELT) {
            let detail = "the name leads to an address that nobody may reach";
            tunnel.record(&self.filter, "fail", Reason::DestinationRefused, None, detail);
        } else if host::integer_property(&["response", "flags"])
            .is_some_and(|flags| flags & NO_HEALTHY_UPSTREAM != 0)
            && !self.filter.routing.is_resolved(&tunnel.destination)
        {
            unresolved::explain(&self.filter, self.root, Rc::clone(tunnel));
        }
    }

    fn close(&mut self) -> Action {
        self.gate = Gate::Closed;
        let _closed = hostcalls::close_downstream();
        Action::Pause
    }
}

impl Context for Guard {
    fn on_http_call_response(&mut self, token: u32, _headers: usize, body_size: usize, _trailers: usize) {
        let Gate::Waiting(waiting) = std::mem::replace(&mut self.gate, Gate::Open) else { return };
        let Waiting { call, chain, rule, session } = &*waiting;
        if !call.is(token) {
            self.gate = Gate::Waiting(waiting);
        } else if !call.finish(&self.filter, body_size) {
            self.no_grant(rule.clone(), session);
        } else if self.send_back(chain) == Action::Continue {
            let _resumed = hostcalls::resume_downstream();
        }
    }
}

impl StreamContext for Guard {
    fn on_new_connection(&mut self) -> Action {
        let session = match OpenSession::of_connection() {
            Ok(session) => session,
            Err(error) => {
                error!("{error}");
                return self.close();
            }
        };
        let server_name = host::text_property(&["connection", "requested_server_name"]);
        // A connection that has come back is not sent round again, whatever its chain.
        let sniffed = || host::property(&["filter_state", "outgate.sniffed"]).is_some();
        if self.found == Found::Tls && session.state.tls == TlsState::Undecided && !sniffed() {
            return self.choose_chain(session, server_name.as_deref());
        }
        let OpenSession { state, destination, identity, .. } = &*session;
        let outcome = self.decide(&state.tls, &session, server_name.as_deref());
        self.record(&session, server_name.as_deref(), &outcome);
        match outcome.verdict {
            "deny" | "fail" => self.close(),
            "inspect" => {
                let inspected = Inspected {
                    client: state.client,
                    destination: Destination::clone(destination),
                    rule: outcome.rule.unwrap_or_default(),
                    session_id: state.id.clone(),
                };
                self.inspected = Some(destination.host.clone());
                // What the logger says if the handshake fails.
                if host::set_property(INSPECTED, &inspected.pack()) { Action::Continue } else { self.close() }
            }
            _ => {
                let tunnel = Tunnel {
                    client: state.client,
                    identity: identity.clone(),
                    certificate: state.certificate.clone(),
                    destination: Destination::clone(destination),
                    session_id: state.id.clone(),
                    end: End::Tls(server_name),
                };
                self.open = Some(tunnel.register(self.context_id));
                Action::Continue
            }
        }
    }

    fn on_downstream_data(&mut self, _size: usize, _end_of_stream: bool) -> Action {
        match self.gate {
            Gate::Open => Action::Continue,
            Gate::Waiting(_) | Gate::Closed => Action::Pause,
        }
    }

    fn on_downstream_close(&mut self, _peer: PeerType) {
        if let Some(open) = &self.open {
            self.explain_tunnel(open.tunnel());
        }
        let Some(host) = &self.inspected else { return };
        if host::property(&["filter_state", "outgate.handshake"]).as_deref() == Some(b"finished") {
            return;
        }
        let reason = host::text_property(&["connection", "transport_failure_reason"]).unwrap_or_default();
        if reason.contains(CERTIFICATE_REFUSED) {
            // cert-service knows nothing of our grant, after a restart perhaps: the next session asks again.
            grants::forget(&self.filter, host.as_str());
        }
    }
}

/// A tunnel without a server name goes on: there is nothing in it to disagree.
fn pass(rule: &str, destination: &Destination, server_name: Option<&str>) -> Outcome {
    match agree::server_name(destination, server_name) {
        ServerName::Same | ServerName::Absent => Outcome::allowed("tunnel", rule),
        ServerName::Differs => Outcome::mismatch(destination, server_name),
    }
}

/// A certificate is chosen by the server name.
fn inspect(rule: &str, destination: &Destination, server_name: Option<&str>) -> Outcome {
    match agree::server_name(destination, server_name) {
        ServerName::Same => Outcome::allowed("inspect", rule),
        ServerName::Differs => Outcome::mismatch(destination, server_name),
        ServerName::Absent => Outcome::failed(
            Reason::NoSni,
            "the client sent no server name, so no certificate can be chosen; have it send SNI, or let a session rule \
             pass it unread"
                .to_owned(),
        ),
    }
}

impl Outcome {
    fn allowed(verdict: &'static str, rule: &str) -> Self {
        Self { verdict, reason: Reason::RuleAllowed, rule: Some(rule.to_owned()), detail: None }
    }

    fn mismatch(destination: &Destination, server_name: Option<&str>) -> Self {
        let asked = server_name.unwrap_or_default();
        Self::failed(
            Reason::HostMismatch,
            format!("the tunnel leads to `{}`, but TLS asks for `{asked}`", destination.host),
        )
    }

    fn failed(reason: Reason, detail: String) -> Self {
        Self { verdict: "fail", reason, rule: None, detail: Some(detail) }
    }
}
