//! One HTTP exchange: what the explicit listener and both inner sides do alike. Reads the request,
//! judges it, sends on what was judged or refuses, and puts our words on Envoy's own answers.

use std::cell::{Cell, OnceCell};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;

use log::{error, info};
use proxy_wasm::hostcalls;
use proxy_wasm::types::{Action, MapType};
use time::OffsetDateTime;

use super::filter::{Filter, identifier};
use super::{client, host};
use crate::decision::{Decision, End, RequestFacts, Subject};
use crate::denial::{Answer, Denial};
use crate::routing::Leg;
use outgate_handshake::classify::{Evidence, Failure, Progress, classify};
use outgate_policy::{
    Authority, Circumstances, ClientCertificate, Connection, Destination, Engine, Headers, HostName,
    Identity, Reason, Request, RequestPath, RequestStage, RequestVerdict, RuleId, Session, Source,
};

/// Headers that neither rules nor origins see: what only we may say, and what belongs to the hop to us.
fn is_dropped(name: &str) -> bool {
    name.starts_with("x-outgate-")
        || name.starts_with("x-envoy-")
        || matches!(name, "proxy-authorization" | "proxy-connection")
}

/// Those of them that Envoy itself adds before the filter, for nobody; its route takes them off.
fn is_envoys(name: &str) -> bool {
    matches!(name, "x-envoy-external-address" | "x-envoy-internal")
}

/// How Envoy says that its RBAC refused the address: the second belt, `outgate render` writes it.
pub const SECOND_BELT: &str = "rbac_access_denied_matched_policy[destination_refused]";

/// Envoy's own answers have a status, a length and a type when they come by. Tunnels are opened with a status alone, and
/// nearly all answers of origins have more: these need not be looked at.
const HEADERS_OF_ENVOY: usize = 3;

/// The header that picks Envoy's cluster.
pub const ROUTE: &str = "x-outgate-route";

/// The header that has the packed session.
pub const SESSION: &str = "x-outgate-session";

/// A request as it came.
#[derive(Debug, Default)]
pub struct Incoming {
    /// `:method`
    pub method: String,
    /// `:scheme`
    pub scheme: Option<String>,
    /// `:authority`
    pub authority: String,
    /// `:path`
    pub path: String,
    /// The rest.
    fields: Vec<(String, Vec<u8>)>,
    /// What the connection says of its session.
    pub claims: Claims,
}

/// What the connection around a request says in headers before the filter: hints that save questions, no proofs.
#[derive(Debug, Default)]
pub struct Claims {
    /// [`SESSION`]
    pub session: Option<Vec<u8>>,
    /// [`ROUTE`]
    route: Option<Vec<u8>>,
}

/// One exchange.
pub struct Exchange {
    /// The policy in force.
    pub filter: Rc<Filter>,
    /// The id that a refusal tells the client.
    request_id: OnceCell<String>,
    /// Joins the lines of one tunnel, if there is one around this.
    pub session_id: Option<String>,
    /// The client, once somebody asks.
    client: OnceCell<Option<SocketAddr>>,
    /// Its certificate, if it was verified.
    pub certificate: Option<ClientCertificate>,
    /// Its tags and service accounts.
    pub identity: Identity,
    /// Where to, once it is known.
    pub destination: Option<Rc<Destination>>,
    /// The SNI around the request.
    pub server_name: Option<String>,
    /// The TLS version around it, if rules ask.
    pub tls_version: Option<String>,
    /// The fingerprint of the ClientHello around it, if rules ask.
    pub ja4: Option<String>,
    /// The request.
    pub incoming: Incoming,
    /// Its headers as rules see them, once its host is known.
    headers: Headers,
    /// When it came, once somebody asks.
    now: OnceCell<OffsetDateTime>,
    /// How the request came to be readable.
    stage: RequestStage,
    /// Its path, once it was read.
    path: Option<RequestPath>,
    /// What Envoy said of its answer, if ours took its place.
    code_details: Option<String>,
    /// What a line was written about: it gets another at its end.
    logged: Cell<Option<Subject>>,
}

/// A verdict, as it is logged and counted.
#[derive(Clone, Copy, Debug)]
pub struct Outcome<'a> {
    /// What was decided.
    subject: Subject,
    /// `tunnel` for a session, `allow | deny` for a request.
    verdict: &'static str,
    reason: Reason,
    rule: Option<RuleId>,
    /// What the reason alone does not say.
    detail: Option<&'a str>,
    /// Rules whose matcher failed.
    errors: &'a [RuleId],
    /// What went wrong with TLS to the origin.
    failure: Option<Failure>,
}

impl<'a> Outcome<'a> {
    /// Let through by a rule.
    pub fn allowed(subject: Subject, verdict: &'static str, rule: RuleId, errors: &'a [RuleId]) -> Self {
        Self { rule: Some(rule), verdict, errors, ..Self::denied(subject, Reason::RuleAllowed) }
    }

    fn denied(subject: Subject, reason: Reason) -> Self {
        Self { subject, verdict: "deny", reason, rule: None, detail: None, errors: &[], failure: None }
    }
}

/// A refusal in the making.
#[derive(Debug)]
pub struct Refusal {
    /// What is refused.
    pub subject: Subject,
    /// Why.
    pub reason: Reason,
    /// By which rule.
    pub rule: Option<RuleId>,
    /// One sentence for the client.
    pub detail: String,
    /// Rules whose matcher failed.
    pub errors: Vec<RuleId>,
}

impl Exchange {
    /// An exchange that is about to begin.
    pub fn new(filter: Rc<Filter>, stage: RequestStage) -> Self {
        Self {
            filter,
            session_id: None,
            request_id: OnceCell::new(),
            client: OnceCell::new(),
            certificate: None,
            identity: Identity::default(),
            destination: None,
            server_name: None,
            tls_version: None,
            ja4: None,
            incoming: Incoming::default(),
            headers: Headers::default(),
            now: OnceCell::new(),
            stage,
            path: None,
            code_details: None,
            logged: Cell::new(None),
        }
    }

    /// The id that a refusal tells the client.
    pub fn request_id(&self) -> &str {
        self.request_id.get_or_init(identifier)
    }

    /// Joins the lines of one tunnel.
    pub fn session_id(&self) -> &str {
        self.session_id.as_deref().unwrap_or_else(|| self.request_id())
    }

    /// The client.
    pub fn client(&self) -> Option<SocketAddr> {
        *self.client.get_or_init(|| client::address(&self.filter))
    }

    /// Whether a rule, or somebody else, asked for the client in vain: then no verdict counts.
    fn lacks_client(&self) -> bool {
        self.client.get() == Some(&None)
    }

    /// The client is known already.
    pub fn set_client(&mut self, client: SocketAddr) {
        self.client = OnceCell::from(Some(client));
    }

    /// The headers, as rules see those of a request to this host.
    pub fn read_headers(&mut self, host: &HostName) -> &Headers {
        self.headers = Headers::of_request(host, std::mem::take(&mut self.incoming.fields));
        &self.headers
    }

    /// What the client wants to read.
    fn accept(&self) -> Option<String> {
        self.incoming.accept().or_else(|| self.headers.get("accept").map(str::to_owned))
    }

    /// Decides a request by its path, method and headers; these and the session are known.
    /// The origin gets `authority`, if that is not how the request names it.
    pub fn judge_request(&mut self, authority: Option<&str>) -> Action {
        match RequestPath::of_request(&self.incoming.method, &self.incoming.path) {
            Ok(path) => self.path = Some(path),
            Err(error) => return self.refuse(Refusal::request(error.reason(), error.to_string())),
        }
        let (Some(destination), Some(path)) = (&self.destination, &self.path) else {
            return self.stop();
        };
        let connection = Connection {
            sni: self.server_name.as_deref(),
            tls_version: self.tls_version.as_deref(),
            ja4: self.ja4.as_deref(),
        };
        let session = Session {
            connection: (self.stage == RequestStage::Inspected).then_some(&connection),
            ..self.session(destination)
        };
        let request = Request {
            method: &self.incoming.method,
            scheme: self.stage.scheme(),
            path,
            headers: &self.headers,
        };
        let decision = self.filter.engine.request(&session, &request, self.stage);
        if self.lacks_client() {
            return self.stop();
        }
        match decision.verdict {
            RequestVerdict::Allow(rule) => {
                self.record(&Outcome::allowed(Subject::Request, "allow", rule, &decision.errors));
                self.send_on(authority, path, destination)
            }
            RequestVerdict::Deny(rule) => self.refuse(Refusal {
                detail: decision.reading.explain(path).unwrap_or_else(|| policy_detail(rule).to_owned()),
                errors: decision.errors,
                ..Refusal::policy(Subject::Request, rule)
            }),
        }
    }

    /// The scheme is a fact of the connection: whether what the request says agrees.
    pub fn scheme_agrees(&self) -> bool {
        let expected = self.stage.scheme().as_str();
        self.incoming.scheme.as_deref().is_none_or(|scheme| scheme.eq_ignore_ascii_case(expected))
    }

    /// The refusal for a scheme that does not agree.
    pub fn scheme_mismatch() -> Refusal {
        Refusal::request(
            Reason::SchemeMismatch,
            "the request names another scheme than its connection has; use CONNECT and TLS for https, and http in the clear".to_owned(),
        )
    }

    /// What rules see of the session.
    pub fn session<'s>(&'s self, destination: &'s Destination) -> Session<'s> {
        Session {
            circumstances: self,
            identity: &self.identity,
            destination,
            certificate: self.certificate.as_ref(),
            connection: None,
        }
    }

    /// Logs and counts a verdict.
    pub fn record(&self, outcome: &Outcome<'_>) {
        let rule = outcome.rule.map(|rule| self.filter.rule_name(rule));
        let errors = self.filter.rule_names(outcome.errors);
        self.filter.metrics.verdict(outcome.subject, outcome.verdict, rule, &errors);
        if outcome.reason == Reason::RuleAllowed && !self.filter.logs_allowance() {
            return;
        }
        let request = RequestFacts {
            id: self.request_id(),
            method: &self.incoming.method,
            path: self.path.as_ref().map(RequestPath::path),
        };
        let decision = Decision {
            subject: outcome.subject,
            at: self.now(),
            verdict: outcome.verdict,
            reason: outcome.reason.as_str(),
            rule,
            detail: outcome.detail,
            failure: outcome.failure,
            client: Self::client(self),
            identity: Some(&self.identity),
            destination: self.destination.as_deref(),
            server_name: self.server_name.as_deref(),
            decrypted: self.stage == RequestStage::Inspected,
            request: Some(request),
            policy: &self.filter.engine.document().name,
            policy_hash: self.filter.engine.hash(),
            session_id: self.session_id(),
            errors,
        };
        info!("{}", decision.line());
        self.logged.set(Some(outcome.subject));
    }

    /// Answers with a refusal, and logs it.
    pub fn refuse(&self, refusal: Refusal) -> Action {
        let detail = (!matches!(refusal.reason, Reason::RuleDenied | Reason::DefaultDenied))
            .then_some(refusal.detail.as_str());
        self.record(&Outcome {
            rule: refusal.rule,
            detail,
            errors: &refusal.errors,
            ..Outcome::denied(refusal.subject, refusal.reason)
        });
        let denial = Denial {
            reason: refusal.reason,
            rule: refusal.rule.map(|rule| self.filter.rule_name(rule).to_owned()),
            detail: refusal.detail,
            request_id: self.request_id().to_owned(),
        };
        self.answer(&denial)
    }

    fn answer(&self, denial: &Denial) -> Action {
        let Answer { status, content_type, body } = denial.answer(self.accept().as_deref());
        let mut headers = vec![
            ("content-type", content_type),
            ("x-outgate-reason", denial.reason.as_str()),
            ("cache-control", "no-store"),
        ];
        if denial.reason == Reason::HostMismatch {
            // The client is to come back on a connection of its own.
            headers.push(("connection", "close"));
        }
        let _sent = hostcalls::send_http_response(u32::from(status), headers, Some(body.as_bytes()));
        Action::Pause
    }

    /// A session whose verdict the inner side logs ends with a line of ours.
    pub fn expect_end(&self) {
        self.logged.set(Some(Subject::Session));
    }

    /// The last line of a session or a request.
    pub fn on_log(&self) {
        let Some(subject) = self.logged.get() else { return };
        let reason = self.code_details.clone().or_else(|| host::text_property(&["response", "code_details"]));
        let end = End {
            subject,
            at: host::now(),
            status: host::integer_property(&["response", "code"]).and_then(|code| u16::try_from(code).ok()),
            source_bytes: host::integer_property(&["request", "total_size"]).unwrap_or(0),
            destination_bytes: host::integer_property(&["response", "total_size"]).unwrap_or(0),
            duration: host::integer_property(&["request", "duration"]).unwrap_or(0),
            reason: reason.as_deref(),
            client: Self::client(self),
            destination: self.destination.as_deref(),
            destination_ip: host::address("upstream").map(|address| address.ip()),
            request_id: self.request_id(),
            session_id: self.session_id(),
        };
        info!("{}", end.line());
    }

    /// Nothing can be said for sure: nothing passes.
    pub fn stop(&self) -> Action {
        error!("cannot route request {}; it is refused", self.request_id());
        let _sent = hostcalls::send_http_response(500, vec![], None);
        Action::Pause
    }

    /// Envoy's own answer to a request that we let through gets our words.
    pub fn on_response_headers(&mut self, count: usize) -> Action {
        if count != HEADERS_OF_ENVOY {
            return Action::Continue;
        }
        let Some(UpstreamFailure { reason, detail, code_details }) = upstream_failure() else {
            return Action::Continue;
        };
        // Our answer has others.
        self.code_details = Some(code_details);
        self.now = OnceCell::new();
        // Certificates of origins fail for the reasons for which those of clients do.
        let failure = detail.as_deref().filter(|_| reason == Reason::UpstreamTls).and_then(|detail| {
            classify(&Evidence { reason: detail, progress: Progress::Begun, ..Evidence::default() })
        });
        self.record(&Outcome {
            detail: detail.as_deref(),
            failure,
            ..Outcome::denied(Subject::Request, reason)
        });
        let detail = reason.title().to_owned();
        self.answer(&Denial { reason, rule: None, detail, request_id: self.request_id().to_owned() })
    }

    /// The origin gets what was judged.
    fn send_on(&self, authority: Option<&str>, path: &RequestPath, destination: &Destination) -> Action {
        let leg = match self.stage {
            RequestStage::Clear => Leg::Unread,
            RequestStage::Inspected => Leg::Tls,
        };
        let sent = path.sent();
        let cluster = self.filter.routing.cluster(destination, leg);
        let routed = authority.is_none_or(|authority| host::set_request_header(":authority", authority))
            && (sent == self.incoming.path || host::set_request_header(":path", sent))
            && (self.incoming.claims.route.as_deref() == Some(cluster.as_bytes())
                || host::set_request_header(ROUTE, &cluster));
        if routed { Action::Continue } else { self.stop() }
    }
}

impl Circumstances for Exchange {
    fn client(&self) -> SocketAddr {
        Self::client(self).unwrap_or(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0))
    }

    fn now(&self) -> OffsetDateTime {
        *self.now.get_or_init(host::now)
    }
}

impl Incoming {
    /// Reads the request and drops what must not go on.
    pub fn read() -> Self {
        Self::read_all(false)
    }

    /// Reads a request inside a tunnel, with what its connection says.
    pub fn read_inside() -> Self {
        Self::read_all(true)
    }

    fn read_all(inside: bool) -> Self {
        let mut incoming = Self::default();
        let mut dropped = Vec::new();
        let headers = host::request_headers();
        incoming.fields.reserve(headers.len());
        for (name, value) in headers {
            match name.as_str() {
                ":method" => incoming.method = text(value),
                ":scheme" => incoming.scheme = Some(text(value)),
                ":authority" => incoming.authority = text(value),
                ":path" => incoming.path = text(value),
                SESSION if inside && incoming.claims.session.is_none() => {
                    incoming.claims.session = Some(value);
                }
                ROUTE if inside && incoming.claims.route.is_none() => incoming.claims.route = Some(value),
                name if is_envoys(name) => {}
                name if is_dropped(name) => dropped.push(name.to_owned()),
                _ => incoming.fields.push((name, value)),
            }
        }
        for name in dropped {
            host::remove_request_header(&name);
            if name == ROUTE {
                // There were two of them.
                incoming.claims.route = None;
            }
        }
        incoming
    }

    /// Drops headers that say who calls, unless they come from where the policy lets them come from.
    pub fn drop_untrusted(&mut self, engine: &Engine, client: IpAddr) {
        for header in engine.document().outgate.sources.iter().filter_map(Source::header) {
            let trusted = header.from.iter().any(|range| range.contains(client));
            if !trusted && self.fields.iter().any(|(name, _)| *name == header.name) {
                self.fields.retain(|(name, _)| *name != header.name);
                host::remove_request_header(&header.name);
            }
        }
    }

    /// The authority in normal form, if it was written otherwise.
    pub fn rewritten(&self, authority: &Authority) -> Option<String> {
        (!authority.is_written(&self.authority)).then(|| authority.to_string())
    }

    fn accept(&self) -> Option<String> {
        let (_, value) = self.fields.iter().find(|(name, _)| name == "accept")?;
        Some(String::from_utf8_lossy(value).into_owned())
    }
}

impl Refusal {
    /// By a rule, or for want of one.
    pub fn policy(subject: Subject, rule: Option<RuleId>) -> Self {
        Self {
            subject,
            reason: if rule.is_some() { Reason::RuleDenied } else { Reason::DefaultDenied },
            rule,
            detail: policy_detail(rule).to_owned(),
            errors: Vec::new(),
        }
    }

    /// Of a request, for a reason of its own.
    pub fn request(reason: Reason, detail: String) -> Self {
        Self { subject: Subject::Request, reason, rule: None, detail, errors: Vec::new() }
    }

    /// Of a session, for a reason of its own.
    pub fn session(reason: Reason, detail: String) -> Self {
        Self { subject: Subject::Session, ..Self::request(reason, detail) }
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

fn policy_detail(rule: Option<RuleId>) -> &'static str {
    match rule {
        Some(_) => "a rule of the policy forbids this",
        None => "no rule of the policy allows this",
    }
}

/// An answer of Envoy's own.
struct UpstreamFailure {
    reason: Reason,
    detail: Option<String>,
    /// In Envoy's words.
    code_details: String,
}

/// Why a request that we let through never reached the origin, if this answer is Envoy's own.
fn upstream_failure() -> Option<UpstreamFailure> {
    let status = hostcalls::get_map_value(MapType::HttpResponseHeaders, ":status").ok().flatten()?;
    if !matches!(status.as_str(), "403" | "502" | "503" | "504") {
        return None;
    }
    let code_details = host::text_property(&["response", "code_details"])?;
    if code_details == SECOND_BELT {
        let detail = Some("the name leads to such an address".to_owned());
        return Some(UpstreamFailure { reason: Reason::DestinationRefused, detail, code_details });
    }
    // Answers of origins, and our own.
    if status == "403"
        || code_details == "via_upstream"
        || hostcalls::get_map_value(MapType::HttpResponseHeaders, "x-outgate-reason").ok().flatten().is_some()
    {
        return None;
    }
    let (reason, detail) = match host::text_property(&["upstream", "transport_failure_reason"]) {
        Some(failure) if failure.contains("TLS_error") => (Reason::UpstreamTls, Some(failure)),
        // Our resolver alone refuses: a refusal of the resolver that it asks reaches us as a failure.
        _ if code_details.contains("DNS_server_refused_query") => (Reason::DestinationRefused, None),
        failure => (Reason::UpstreamUnreachable, failure),
    };
    Some(UpstreamFailure { reason, detail: detail.or_else(|| Some(code_details.clone())), code_details })
}
