//! `outgate explain`: the engine as a person can ask it, without a proxy. Questions and answers are JSON whose
//! members stay as they are.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::document::HostMismatch;
use crate::engine::{Engine, Rule, RuleId};
use crate::expression::Sniffing;
use crate::headers::Headers;
use crate::host::{Authority, Destination};
use crate::path::RequestPath;
use crate::reason::Reason;
use crate::session::{Client, ClientCertificate, Connection, Known, Request, RequestStage, Session};
use crate::source::Identity;
use crate::verdict::{ConnectVerdict, Reading, RequestVerdict, TlsVerdict, agree};
use crate::walk::{Observer, Outcome, Stage, Walk};

/// A question: a client, a tunnel or none, what its bytes turn out to be, a request.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// Who asks.
    pub source: SourceQuestion,
    /// `host:port` of the CONNECT; absent for `direct`.
    pub connect: Option<String>,
    /// What the bytes turn out to be.
    pub flow: Flow,
    /// The server name in TLS; absent if the client sends none.
    pub sni: Option<String>,
    /// The request.
    pub request: Option<RequestQuestion>,
}

/// Who asks.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SourceQuestion {
    /// The address.
    pub ip: IpAddr,
    /// The port.
    #[serde(default)]
    pub port: u16,
    /// Tags, besides what `outgate.sources` says of the address.
    #[serde(default)]
    pub tags: Vec<String>,
    /// A service account, besides what `outgate.sources` says of the address.
    pub service_account: Option<String>,
    /// A certificate, as the proxy verified it.
    pub certificate: Option<ClientCertificate>,
}

/// What the bytes turn out to be.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Flow {
    /// A request in the clear, without a tunnel.
    Direct,
    /// Plain HTTP in a tunnel.
    Http,
    /// Neither TLS nor HTTP in a tunnel.
    Opaque,
    /// TLS in a tunnel.
    Tls,
}

/// The request.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestQuestion {
    /// The method.
    #[serde(default = "get")]
    pub method: String,
    /// What the client says the scheme is.
    pub scheme: Option<String>,
    /// `:authority` or `Host`; absent: that of the tunnel.
    pub authority: Option<String>,
    /// Path and query.
    #[serde(default = "root")]
    pub path: String,
    /// The headers.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
}

fn get() -> String {
    "GET".to_owned()
}

fn root() -> String {
    "/".to_owned()
}

/// Why a question was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QuestionError {
    /// It is not of the form.
    #[error("{place}: {message}")]
    Form {
        /// The key.
        place: String,
        /// What is wrong.
        message: String,
    },
    /// A tunnel without CONNECT.
    #[error("connect: missing, but the flow is a tunnel; write `host:port`, or `\"flow\": \"direct\"`")]
    NoConnect,
    /// CONNECT without a tunnel.
    #[error("connect: there is none in a `direct` flow; leave it out, or say what the tunnel carries")]
    UnexpectedConnect,
    /// Nothing to decide.
    #[error("request: missing, but a `direct` flow is a request")]
    NoRequest,
    /// Nowhere to go.
    #[error("request.authority: missing, but in a `direct` flow nothing else names the host")]
    NoAuthority,
}

/// The answer.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Answer {
    /// What becomes of the session.
    pub session: Decided,
    /// What becomes of the request; none unless requests are looked at.
    pub request: Option<Decided>,
    /// Whether TLS is decrypted.
    pub decrypted: bool,
    /// Every rule, and why not.
    pub trace: Vec<Step>,
}

/// A verdict.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Decided {
    /// `tunnel | inspect | deny | http | fail` for a session, `allow | deny` for a request.
    pub verdict: &'static str,
    /// The rule that decided.
    pub rule: Option<String>,
    /// The stable reason.
    pub reason: &'static str,
}

/// What was found out about one rule.
#[derive(Clone, Debug, Eq, Hash, PartialEq, Serialize)]
pub struct Step {
    /// The rule.
    pub rule: String,
    /// `session | application`: the matcher that it is about.
    pub stage: &'static str,
    /// `matched | not-matched | skipped | error | disabled | not-reached`
    pub outcome: &'static str,
    /// For people.
    pub detail: String,
}

impl Question {
    /// Reads a question from JSON, whose keys must all be known.
    pub fn from_value(value: serde_json::Value) -> Result<Self, QuestionError> {
        if !value.is_object() {
            let message = "expected an object".to_owned();
            return Err(QuestionError::Form { place: "question".to_owned(), message });
        }
        let question: Self =
            serde_path_to_error::deserialize(value).map_err(|error| QuestionError::Form {
                place: match error.path().to_string().as_str() {
                    "." => "question".to_owned(),
                    place => place.to_owned(),
                },
                message: error.into_inner().to_string(),
            })?;
        match (question.flow, &question.connect) {
            (Flow::Direct, Some(_)) => Err(QuestionError::UnexpectedConnect),
            (Flow::Direct, None) => match &question.request {
                None => Err(QuestionError::NoRequest),
                Some(RequestQuestion { authority: None, .. }) => Err(QuestionError::NoAuthority),
                Some(_) => Ok(question),
            },
            (_, None) => Err(QuestionError::NoConnect),
            (_, Some(_)) => Ok(question),
        }
    }
}

/// Answers a question, as the proxy would decide it now. `resolved` says whether the operator resolves a destination
/// by hand: such a one may be private.
pub fn explain(engine: &Engine, question: &Question, resolved: &dyn Fn(&Destination) -> bool) -> Answer {
    Explanation::new(engine, question, resolved).answer()
}

struct Explanation<'e> {
    engine: &'e Engine,
    question: &'e Question,
    resolved: &'e dyn Fn(&Destination) -> bool,
    identity: Identity,
    circumstances: Known,
    trace: Vec<Step>,
    /// What `trace` has.
    told: HashSet<Step>,
}

impl<'e> Explanation<'e> {
    fn new(engine: &'e Engine, question: &'e Question, resolved: &'e dyn Fn(&Destination) -> bool) -> Self {
        let source = &question.source;
        let headers = question.request.as_ref().filter(|_| question.flow == Flow::Direct).map(|request| {
            // Headers of requests inside a tunnel say nothing about who opened it.
            Headers::new(request.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())))
        });
        let client = Client {
            ip: source.ip,
            port: source.port,
            certificate: source.certificate.as_ref(),
            headers: headers.as_ref(),
        };
        let given = Identity::new(source.tags.clone(), source.service_account.iter().cloned().collect());
        let identity = engine.identify(&client).and(given);
        Self {
            engine,
            question,
            resolved,
            identity,
            circumstances: Known {
                client: SocketAddr::new(source.ip, source.port),
                now: OffsetDateTime::now_utc(),
            },
            trace: Vec::new(),
            told: HashSet::new(),
        }
    }

    fn answer(mut self) -> Answer {
        let (session, request) = match self.question.flow {
            Flow::Direct => (per_request(), Some(self.direct())),
            _ => self.tunnel(),
        };
        let decrypted = session.verdict == "inspect";
        Answer { session, request, decrypted, trace: self.trace }
    }

    fn direct(&mut self) -> Decided {
        let stage = RequestStage::Clear;
        let Some(request) = self.question.request.as_ref() else {
            return self.refused(Reason::BadAuthority, &QuestionError::NoRequest);
        };
        if !scheme_agrees(request, stage) {
            return self.scheme_mismatch(stage);
        }
        match Authority::parse(request.authority.as_deref().unwrap_or_default()) {
            Ok(authority) => {
                let destination = authority.with_port(stage.scheme().default_port());
                match self.refused_address(&destination) {
                    Some(refused) => refused,
                    None => self.request(&destination, &destination, request, stage),
                }
            }
            Err(error) => self.refused(Reason::BadAuthority, &error),
        }
    }

    fn tunnel(&mut self) -> (Decided, Option<Decided>) {
        let destination = match Destination::parse(self.question.connect.as_deref().unwrap_or_default()) {
            Ok(destination) => destination,
            Err(error) => return (self.refused(Reason::BadAuthority, &error), None),
        };
        if let Some(refused) = self.refused_address(&destination) {
            return (refused, None);
        }
        let (identity, circumstances) = (self.identity.clone(), self.circumstances);
        let session = self.session(&circumstances, &identity, &destination, None);
        let connect = Walk::new(self.engine, ()).connect(&session);
        let sniffed_tls = matches!(connect, ConnectVerdict::Sniff { .. }) && self.question.flow == Flow::Tls;
        if !sniffed_tls {
            self.walk(|walk| walk.connect(&session));
        }
        match (connect, self.question.flow) {
            (ConnectVerdict::Tunnel(rule), _) => {
                (self.decided("tunnel", Some(rule), Reason::RuleAllowed), None)
            }
            (ConnectVerdict::Deny(rule), _) => (self.decided("deny", rule, denial(rule)), None),
            (ConnectVerdict::Sniff { .. }, Flow::Tls) => self.tls(&destination),
            (ConnectVerdict::Sniff { opened_by, .. }, Flow::Opaque) => {
                (self.decided("fail", Some(opened_by), Reason::NotHttp), None)
            }
            (ConnectVerdict::Sniff { .. }, Flow::Direct | Flow::Http) => {
                (per_request(), self.inner(&destination, RequestStage::Clear))
            }
        }
    }

    fn tls(&mut self, destination: &Destination) -> (Decided, Option<Decided>) {
        let sni = self.question.sni.as_deref();
        let connection = Connection { sni, ..Connection::default() };
        let (identity, circumstances) = (self.identity.clone(), self.circumstances);
        let session = self.session(&circumstances, &identity, destination, Some(&connection));
        let verdict = self.walk(|walk| walk.tls(&session, Sniffing::Done)).unwrap_or(TlsVerdict::Deny(None));
        let differs =
            |reason: Reason| (Decided { verdict: "fail", rule: None, reason: reason.as_str() }, None);
        match (verdict, agree::server_name(destination, sni)) {
            (TlsVerdict::Deny(rule), _) => (self.decided("deny", rule, denial(rule)), None),
            (_, agree::ServerName::Differs) => differs(Reason::HostMismatch),
            (TlsVerdict::Inspect(_), agree::ServerName::Absent) => differs(Reason::NoSni),
            (TlsVerdict::Tunnel(rule), _) => (self.decided("tunnel", Some(rule), Reason::RuleAllowed), None),
            (TlsVerdict::Inspect(rule), agree::ServerName::Same) => {
                let session = self.decided("inspect", Some(rule), Reason::RuleAllowed);
                (session, self.inner(destination, RequestStage::Inspected))
            }
        }
    }

    /// A request inside a tunnel.
    fn inner(&mut self, destination: &Destination, stage: RequestStage) -> Option<Decided> {
        let request = self.question.request.as_ref()?;
        if request.method == "CONNECT" {
            return Some(self.refused(Reason::NestedConnect, &"a tunnel is opened at the proxy itself"));
        }
        if !scheme_agrees(request, stage) {
            return Some(self.scheme_mismatch(stage));
        }
        let authority = match &request.authority {
            None => Authority { host: destination.host.clone(), port: Some(destination.port) },
            Some(text) => match Authority::parse(text) {
                Ok(authority) => authority,
                Err(error) => return Some(self.refused(Reason::BadAuthority, &error)),
            },
        };
        let refuse = self.engine.document().outgate.host_mismatch == HostMismatch::Refuse;
        let asked = authority.clone().with_port(stage.scheme().default_port());
        if refuse && !agree::authority(destination, &authority, stage) {
            let why = format!("the tunnel leads to `{destination}`, but the request is for `{asked}`");
            return Some(self.refused(Reason::HostMismatch, &why));
        }
        Some(self.request(destination, &asked, request, stage))
    }

    /// `asked` differs from `destination` only where the policy lets it.
    fn request(
        &mut self,
        destination: &Destination,
        asked: &Destination,
        request: &RequestQuestion,
        stage: RequestStage,
    ) -> Decided {
        let path = match RequestPath::of_request(&request.method, &request.path) {
            Ok(path) => path,
            Err(error) => return self.refused(error.reason(), &error),
        };
        let pairs = request.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        let headers = Headers::of_request(&asked.host, pairs);
        let asked =
            Request { method: &request.method, scheme: stage.scheme(), path: &path, headers: &headers };
        let (identity, circumstances) = (self.identity.clone(), self.circumstances);
        let sni = self.question.sni.as_deref();
        let connection = Connection { sni, ..Connection::default() };
        let session = self.session(
            &circumstances,
            &identity,
            destination,
            (stage == RequestStage::Inspected).then_some(&connection),
        );
        let decision = self.engine.request(&session, &asked, stage);
        let reading = match (decision.reading, path.folded()) {
            (Reading::Folded, Some(folded)) => folded,
            _ => path.path(),
        };
        self.walk(|walk| walk.request(&session, &asked, reading, stage));
        match decision.verdict {
            RequestVerdict::Allow(rule) => self.decided("allow", Some(rule), Reason::RuleAllowed),
            RequestVerdict::Deny(rule) => self.decided("deny", rule, denial(rule)),
        }
    }

    fn session<'s>(
        &self,
        circumstances: &'s Known,
        identity: &'s Identity,
        destination: &'s Destination,
        connection: Option<&'s Connection<'s>>,
    ) -> Session<'s>
    where
        'e: 's,
    {
        Session {
            circumstances,
            identity,
            destination,
            certificate: self.question.source.certificate.as_ref(),
            connection,
        }
    }

    fn decided(&self, verdict: &'static str, rule: Option<RuleId>, reason: Reason) -> Decided {
        let rule = rule.and_then(|rule| self.engine.rule(rule)).map(|rule| rule.name.clone());
        Decided { verdict, rule, reason: reason.as_str() }
    }

    /// Refused before any rule is asked.
    fn refused(&mut self, reason: Reason, why: &dyn fmt::Display) -> Decided {
        let stage = if self.trace.is_empty() { "session" } else { "application" };
        for listed in self.roster() {
            self.add(match listed {
                Listed::Enabled(rule) => {
                    step(rule, stage, "not-reached", format!("refused before any rule: {why}"))
                }
                Listed::Disabled(name) => disabled(name),
            });
        }
        Decided { verdict: "deny", rule: None, reason: reason.as_str() }
    }

    /// An address that nobody may reach.
    fn refused_address(&mut self, destination: &Destination) -> Option<Decided> {
        (self.engine.refuses(destination) && !(self.resolved)(destination)).then(|| {
            let why = "the address is private, local or reserved, and `outgate.destinations.allowPrivate` does not list it";
            self.refused(Reason::DestinationRefused, &why)
        })
    }

    fn scheme_mismatch(&mut self, stage: RequestStage) -> Decided {
        let scheme = stage.scheme().as_str();
        self.refused(Reason::SchemeMismatch, &format!("the scheme is `{scheme}`, whatever the request says"))
    }

    /// Watches a walk, and adds what it saw to the trace.
    fn walk<T>(&mut self, walk: impl FnOnce(&mut Walk<'e, Watcher>) -> T) -> T {
        let mut watched = Walk::new(self.engine, Watcher::default());
        let result = walk(&mut watched);
        let (_, watcher) = watched.finish();
        // Walks follow the order of the rules.
        let mut steps = watcher.steps.into_iter().peekable();
        for listed in self.roster() {
            let rule = match listed {
                Listed::Enabled(rule) => rule,
                Listed::Disabled(name) => {
                    self.add(disabled(name));
                    continue;
                }
            };
            if steps.peek().is_none_or(|step| step.rule != rule.name) {
                let (outcome, detail) = if rule.shadow {
                    ("skipped", "a shadow rule decides nothing")
                } else {
                    ("not-reached", "a rule before it decided")
                };
                self.add(step(rule, "session", outcome, detail.to_owned()));
            }
            while let Some(step) = steps.next_if(|step| step.rule == rule.name) {
                self.add(step);
            }
        }
        result
    }

    /// All rules, disabled ones too, by priority.
    fn roster(&self) -> Vec<Listed<'e>> {
        let engine = self.engine;
        let disabled = engine.document().rules.iter().filter(|rule| !rule.enabled);
        let mut roster: Vec<_> = disabled.map(|rule| (rule.priority, Listed::Disabled(&rule.name))).collect();
        roster.extend(engine.rules().iter().map(|rule| (rule.priority, Listed::Enabled(rule))));
        roster.sort_by_key(|(priority, _)| *priority);
        roster.into_iter().map(|(_, listed)| listed).collect()
    }

    /// What two walks found out alike is told once.
    fn add(&mut self, step: Step) {
        if self.told.insert(step.clone()) {
            self.trace.push(step);
        }
    }
}

/// A rule of the policy.
#[derive(Clone, Copy)]
enum Listed<'e> {
    Enabled(&'e Rule),
    Disabled(&'e str),
}

/// Collects what a walk finds out.
#[derive(Default)]
struct Watcher {
    steps: Vec<Step>,
}

impl Observer for Watcher {
    fn observe(&mut self, rule: &Rule, stage: Stage, outcome: Outcome, detail: impl FnOnce() -> String) {
        let stage = match stage {
            Stage::Session => "session",
            Stage::Application => "application",
        };
        let outcome = match outcome {
            Outcome::Matched => "matched",
            Outcome::NotMatched => "not-matched",
            Outcome::Error => "error",
            Outcome::Skipped => "skipped",
        };
        self.steps.push(step(rule, stage, outcome, detail()));
    }
}

fn step(rule: &Rule, stage: &'static str, outcome: &'static str, detail: String) -> Step {
    Step { rule: rule.name.clone(), stage, outcome, detail }
}

fn disabled(name: &str) -> Step {
    Step {
        rule: name.to_owned(),
        stage: "session",
        outcome: "disabled",
        detail: "disabled rules do not exist".to_owned(),
    }
}

fn per_request() -> Decided {
    Decided { verdict: "http", rule: None, reason: Reason::PerRequest.as_str() }
}

fn denial(rule: Option<RuleId>) -> Reason {
    if rule.is_some() { Reason::RuleDenied } else { Reason::DefaultDenied }
}

/// The scheme is a fact of the connection.
fn scheme_agrees(request: &RequestQuestion, stage: RequestStage) -> bool {
    request.scheme.as_ref().is_none_or(|scheme| scheme.eq_ignore_ascii_case(stage.scheme().as_str()))
}
