//! The engine: a policy, compiled once, asked often.

mod compile;
mod indexes;

use std::borrow::Cow;
use std::sync::Arc;

use indexes::Indexes;
pub(crate) use indexes::Walked;
use serde_json::Value;

use crate::address::is_refused;
use crate::document::{Action, AmbiguousPaths, Document, parse_text};
use crate::error::PolicyErrors;
use crate::expression::{Expression, Facts, Programs, Sniffing};
use crate::host::Destination;
use crate::index::Candidates;
use crate::session::{Client, Request, RequestStage, Session};
use crate::source::Identity;
use crate::verdict::{
    ConnectDecision, ConnectVerdict, Reading, RequestDecision, RequestVerdict, TlsDecision, TlsVerdict,
};
use crate::walk::{Observer, Walk};

/// A compiled policy.
#[derive(Debug)]
pub struct Engine {
    document: Document,
    hash: String,
    rules: Vec<Rule>,
    indexes: Indexes,
    #[cfg(feature = "patterns")]
    programs: Programs,
}

/// An enabled rule, by its place in [`Engine::rules`].
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RuleId(u32);

/// An enabled rule.
#[derive(Debug)]
#[non_exhaustive]
pub struct Rule {
    /// Its short name.
    pub name: String,
    /// The lower, the earlier.
    pub priority: i32,
    /// What it does.
    pub action: Action,
    /// What it decides about.
    pub kind: RuleKind,
    /// Whether it is never enforced.
    pub shadow: bool,
    pub(crate) session: Arc<Expression>,
    pub(crate) application: Option<Arc<Expression>>,
}

/// What a rule decides about.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum RuleKind {
    /// Whole sessions: it has no applicationMatcher and does not inspect.
    Session,
    /// Requests in the clear.
    Application,
    /// Requests, also those inside TLS, which it has decrypted.
    Inspecting,
}

impl Engine {
    /// Compiles a policy, JSON or YAML, or says everything that is wrong with it.
    pub fn from_text(text: &str) -> Result<Self, PolicyErrors> {
        Self::from_value(&parse_text(text)?)
    }

    /// Compiles a policy, or says everything that is wrong with it. Without the feature `patterns` a rule that uses
    /// `matches` is wrong.
    pub fn from_value(value: &Value) -> Result<Self, PolicyErrors> {
        compile::compile(Cow::Borrowed(value), None)
    }

    /// Compiles a policy whose patterns are compiled already: to [`Self::programs`] of the same policy. One that is not
    /// merely lent goes as soon as it is read, so that less memory is needed at once.
    pub fn with_programs(value: Cow<'_, Value>, programs: &Programs) -> Result<Self, PolicyErrors> {
        compile::compile(value, Some(programs))
    }

    /// The patterns of the enabled rules, with the programs that they were compiled to.
    #[cfg(feature = "patterns")]
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// The policy as written, its references resolved.
    pub fn document(&self) -> &Document {
        &self.document
    }

    /// 16 hexadecimal digits that change with the policy, whatever the order of its keys and its format.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// The enabled rules in ascending priority.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// A rule.
    pub fn rule(&self, id: RuleId) -> Option<&Rule> {
        self.rules.get(usize::try_from(id.0).ok()?)
    }

    /// Whether a destination is an address that nobody may reach: private ones, unless
    /// `outgate.destinations.allowPrivate` lists them. Names are for whoever resolves them.
    pub fn refuses(&self, destination: &Destination) -> bool {
        destination.host.ip().is_some_and(|ip| is_refused(ip, &self.document.outgate.allow_private))
    }

    /// Who a client is, by `outgate.sources`.
    pub fn identify(&self, client: &Client<'_>) -> Identity {
        Identity::of(&self.document.outgate.sources, client)
    }

    /// Decides a tunnel when it is asked for.
    pub fn connect(&self, session: &Session<'_>) -> ConnectDecision {
        self.connect_by(Walk::new(self, ()), session)
    }

    /// Decides TLS in a tunnel that was sniffed, with what sniffing found as `session.connection`.
    pub fn sniffed(&self, session: &Session<'_>) -> TlsDecision {
        self.sniffed_by(Walk::new(self, ()), session)
    }

    /// Decides a request.
    pub fn request(
        &self,
        session: &Session<'_>,
        request: &Request<'_>,
        stage: RequestStage,
    ) -> RequestDecision {
        self.request_by(Walk::new(self, ()), session, request, stage)
    }

    pub(crate) fn connect_by<O: Observer>(
        &self,
        mut walk: Walk<'_, O>,
        session: &Session<'_>,
    ) -> ConnectDecision {
        let verdict = match walk.connect(session) {
            ConnectVerdict::Sniff { opened_by, tls: None } => {
                let sniffing = if session.connection.is_some() { Sniffing::Done } else { Sniffing::NotYet };
                ConnectVerdict::Sniff { opened_by, tls: walk.tls(session, sniffing) }
            }
            verdict => verdict,
        };
        ConnectDecision { verdict, errors: walk.finish().0 }
    }

    pub(crate) fn sniffed_by<O: Observer>(
        &self,
        mut walk: Walk<'_, O>,
        session: &Session<'_>,
    ) -> TlsDecision {
        // Nothing is unknown any more.
        let verdict = walk.tls(session, Sniffing::Done).unwrap_or(TlsVerdict::Deny(None));
        TlsDecision { verdict, errors: walk.finish().0 }
    }

    pub(crate) fn request_by<O: Observer>(
        &self,
        mut walk: Walk<'_, O>,
        session: &Session<'_>,
        request: &Request<'_>,
        stage: RequestStage,
    ) -> RequestDecision {
        let mut verdict = walk.request(session, request, request.path.path(), stage);
        let mut reading = Reading::Sent;
        if let (RequestVerdict::Allow(_), Some(folded)) = (verdict, self.folded(request)) {
            let other = walk.request(session, request, folded, stage);
            if matches!(other, RequestVerdict::Deny(_)) {
                (verdict, reading) = (other, Reading::Folded);
            }
        }
        RequestDecision { verdict, reading, errors: walk.finish().0 }
    }

    /// The other reading of a path, if it is judged.
    pub(crate) fn folded<'r>(&self, request: &Request<'r>) -> Option<&'r str> {
        match self.document.outgate.ambiguous_paths {
            AmbiguousPaths::Both => request.path.folded(),
            AmbiguousPaths::Sent => None,
        }
    }

    /// The rules that decide, by their places.
    pub(crate) fn enforced(&self) -> Candidates<'_> {
        self.indexes.enforced()
    }

    /// Those of them whose matchers are not certainly false.
    pub(crate) fn candidates(&self, walked: Walked, facts: &Facts<'_>) -> Candidates<'_> {
        self.indexes.of(walked).candidates(facts)
    }

    /// The rule at a place.
    pub(crate) fn at(&self, place: u32) -> Option<(RuleId, &Rule)> {
        let id = RuleId(place);
        self.rule(id).map(|rule| (id, rule))
    }
}
