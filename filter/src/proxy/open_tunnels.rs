//! Tunnels that are open, so that a new policy with `outgate.openTunnels: recheck` can end those that it denies.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::rc::Rc;

use proxy_wasm::hostcalls;

use super::filter::Filter;
use super::host;
use crate::decision::{Decision, RequestFacts, Subject};
use outgate_policy::document::OpenTunnels;
use outgate_policy::{
    ClientCertificate, ConnectVerdict, Connection, Destination, Identity, Known, Reason, RuleId, Session,
    TlsVerdict,
};

thread_local! {
    /// All of this worker, by their context.
    static OPEN: RefCell<BTreeMap<u32, Rc<Tunnel>>> = const { RefCell::new(BTreeMap::new()) };
}

/// An open tunnel.
#[derive(Debug)]
pub struct Tunnel {
    /// The client.
    pub client: SocketAddr,
    /// Its certificate.
    pub certificate: Option<ClientCertificate>,
    /// Its identity when the tunnel was opened.
    pub identity: Identity,
    /// Where to.
    pub destination: Destination,
    /// Joins the lines of one tunnel.
    pub session_id: String,
    /// The end of it that we hold.
    pub end: End,
}

/// Which end of a tunnel a context holds.
#[derive(Debug)]
pub enum End {
    /// The CONNECT.
    Connect,
    /// TLS inside that goes on unread, with the server name of its ClientHello.
    Tls(Option<String>),
}

/// Takes the tunnel off the list when its context ends.
#[derive(Debug)]
pub struct Registration {
    context_id: u32,
    tunnel: Rc<Tunnel>,
}

impl Tunnel {
    /// Puts it on the list.
    pub fn register(self, context_id: u32) -> Registration {
        let tunnel = Rc::new(self);
        OPEN.with_borrow_mut(|open| open.insert(context_id, Rc::clone(&tunnel)));
        Registration { context_id, tunnel }
    }

    /// Whether this policy denies it, and the rule that does.
    fn denied_by(&self, filter: &Filter) -> Option<Option<RuleId>> {
        let mut session = Session {
            circumstances: &Known { client: self.client, now: host::now() },
            identity: &self.identity,
            destination: &self.destination,
            certificate: self.certificate.as_ref(),
            connection: None,
        };
        match &self.end {
            End::Connect => match filter.engine.connect(&session).verdict {
                ConnectVerdict::Deny(rule) => Some(rule),
                ConnectVerdict::Tunnel(_) | ConnectVerdict::Sniff { .. } => None,
            },
            End::Tls(server_name) => {
                let connection = Connection { sni: server_name.as_deref(), ..Connection::default() };
                session.connection = Some(&connection);
                match filter.engine.sniffed(&session).verdict {
                    TlsVerdict::Deny(rule) => Some(rule),
                    TlsVerdict::Tunnel(_) | TlsVerdict::Inspect(_) => None,
                }
            }
        }
    }

    /// Writes a line about it after its verdict.
    pub fn record(
        &self,
        filter: &Filter,
        verdict: &'static str,
        reason: Reason,
        rule: Option<RuleId>,
        detail: &str,
    ) {
        let server_name = match &self.end {
            End::Connect => None,
            End::Tls(server_name) => server_name.as_deref(),
        };
        filter.record(&Decision {
            subject: Subject::Session,
            at: host::now(),
            verdict,
            reason: reason.as_str(),
            rule: rule.map(|rule| filter.rule_name(rule)),
            detail: Some(detail),
            failure: None,
            client: Some(self.client),
            identity: Some(&self.identity),
            destination: Some(&self.destination),
            server_name,
            decrypted: false,
            request: Some(RequestFacts { id: &self.session_id, method: "CONNECT", path: None }),
            policy: &filter.engine.document().name,
            policy_hash: filter.engine.hash(),
            session_id: &self.session_id,
            errors: Vec::new(),
        });
    }

    /// Says why it ends.
    fn record_end(&self, filter: &Filter, rule: Option<RuleId>) {
        let reason = if rule.is_some() { Reason::RuleDenied } else { Reason::DefaultDenied };
        let detail = "the policy has changed; the open tunnel is closed (`outgate.openTunnels: recheck`)";
        self.record(filter, "deny", reason, rule, detail);
    }
}

impl Registration {
    /// The tunnel.
    pub fn tunnel(&self) -> &Rc<Tunnel> {
        &self.tunnel
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        OPEN.with_borrow_mut(|open| open.remove(&self.context_id));
    }
}

/// Ends the tunnels that this policy denies, if it wants that.
pub fn recheck(filter: &Filter) {
    if filter.engine.document().outgate.open_tunnels != OpenTunnels::Recheck {
        return;
    }
    let open: Vec<_> =
        OPEN.with_borrow(|open| open.iter().map(|(id, tunnel)| (*id, Rc::clone(tunnel))).collect());
    let mut denied = HashSet::new();
    for (context_id, tunnel) in &open {
        if let Some(rule) = tunnel.denied_by(filter) {
            tunnel.record_end(filter, rule);
            denied.insert(tunnel.session_id.clone());
            OPEN.with_borrow_mut(|open| open.remove(context_id));
        }
    }
    // TLS inside ends with its CONNECT, whoever of them is denied. Envoy crashes if it is told to close the inner
    // connection from here, and must be told once only: it ends contexts when this call is over.
    for (context_id, tunnel) in open {
        if matches!(tunnel.end, End::Connect) && denied.contains(&tunnel.session_id) {
            OPEN.with_borrow_mut(|open| open.remove(&context_id));
            if hostcalls::set_effective_context(context_id).is_ok() {
                let _ended = hostcalls::reset_http_request();
            }
        }
    }
}
