//! Walks over the rules: which one decides. The same walks serve verdicts and `explain`, which watches them.

use crate::document::{Action, AfterInspection, ErrorsInDeny, TunnelSni};
use crate::engine::{Engine, Rule, RuleId, RuleKind, Walked};
use crate::expression::{Expression, Facts, Failure, Sniffing};
use crate::session::{Request, RequestStage, Session};
use crate::verdict::{ConnectVerdict, RequestVerdict, TlsVerdict};

/// What a walk found out about a rule.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// The matcher holds.
    Matched,
    /// It does not.
    NotMatched,
    /// It failed.
    Error,
    /// The rule does not count here.
    Skipped,
}

/// The matcher that an outcome is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stage {
    /// `sessionMatcher`
    Session,
    /// `applicationMatcher`
    Application,
}

/// Watches a walk.
pub trait Observer {
    /// Whether it wants to hear of every rule, also of those that certainly do not match.
    const WATCHES: bool = true;

    /// Something was found out.
    fn observe(&mut self, rule: &Rule, stage: Stage, outcome: Outcome, detail: impl FnOnce() -> String);
}

/// Nobody watches.
impl Observer for () {
    const WATCHES: bool = false;

    fn observe(&mut self, _: &Rule, _: Stage, _: Outcome, _: impl FnOnce() -> String) {}
}

/// One walk, with the rules whose matcher failed so far.
pub struct Walk<'e, O> {
    engine: &'e Engine,
    observer: O,
    errors: Vec<RuleId>,
    /// How many of `errors` are from before this stage. Within a stage they come in order.
    earlier: usize,
}

/// Whether a matcher holds, once failures have been dealt with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Match {
    No,
    /// Only the first bytes of the tunnel tell.
    Unknown,
    Yes,
}

impl<'e, O: Observer> Walk<'e, O> {
    pub fn new(engine: &'e Engine, observer: O) -> Self {
        Self { engine, observer, errors: Vec::new(), earlier: 0 }
    }

    /// Rules whose matcher failed, and the observer.
    pub fn finish(self) -> (Vec<RuleId>, O) {
        (self.errors, self.observer)
    }

    /// A tunnel that is asked for. The first rule that matches decides, or opens the tunnel to see more; so does
    /// a rule that depends on what only the first bytes tell.
    pub fn connect(&mut self, session: &Session<'_>) -> ConnectVerdict {
        let sniffing = if session.connection.is_some() { Sniffing::Done } else { Sniffing::NotYet };
        let facts = Facts::of_session(session, sniffing);
        for (id, rule) in self.rules(Walked::Connect, &facts) {
            let opens = match self.session_matcher(id, rule, &facts) {
                Match::No => continue,
                Match::Unknown => true,
                Match::Yes => rule.kind != RuleKind::Session,
            };
            let verify = self.engine.document().outgate.tunnel_sni == TunnelSni::Verify
                && sniffing == Sniffing::NotYet;
            return match rule.action {
                _ if opens => ConnectVerdict::Sniff { opened_by: id, tls: None },
                Action::Allow if verify => {
                    ConnectVerdict::Sniff { opened_by: id, tls: Some(TlsVerdict::Tunnel(id)) }
                }
                Action::Allow => ConnectVerdict::Tunnel(id),
                Action::Deny => ConnectVerdict::Deny(Some(id)),
            };
        }
        ConnectVerdict::Deny(None)
    }

    /// TLS in a tunnel. The first session rule or inspecting rule that matches decides; nothing if that depends
    /// on what is not known yet.
    pub fn tls(&mut self, session: &Session<'_>, sniffing: Sniffing) -> Option<TlsVerdict> {
        let facts = Facts::of_session(session, sniffing);
        for (id, rule) in self.rules(Walked::Tls, &facts) {
            match self.session_matcher(id, rule, &facts) {
                Match::No => continue,
                Match::Unknown => return None,
                Match::Yes => {}
            }
            return Some(match (rule.kind, rule.action) {
                (RuleKind::Application, _) => {
                    let detail = || "without tlsInspectionEnabled it sees no request inside TLS".to_owned();
                    self.observer.observe(rule, Stage::Application, Outcome::Skipped, detail);
                    continue;
                }
                (RuleKind::Inspecting, _) => TlsVerdict::Inspect(id),
                (RuleKind::Session, Action::Allow) => TlsVerdict::Tunnel(id),
                (RuleKind::Session, Action::Deny) => TlsVerdict::Deny(Some(id)),
            });
        }
        Some(TlsVerdict::Deny(None))
    }

    /// A request whose path is read in this way. The first rule that matches by all its matchers decides, among
    /// those that count at this stage.
    pub fn request(
        &mut self,
        session: &Session<'_>,
        request: &Request<'_>,
        path: &str,
        stage: RequestStage,
    ) -> RequestVerdict {
        let facts = Facts::of_request(session, request, path);
        for (id, rule) in self.rules(Walked::Request(stage), &facts) {
            if let (RequestStage::Inspected, Some(reason)) = (stage, self.not_after_inspection(rule)) {
                self.observer.observe(rule, Stage::Application, Outcome::Skipped, || reason.to_owned());
                continue;
            }
            if self.session_matcher(id, rule, &facts) != Match::Yes {
                continue;
            }
            if let Some(expression) = &rule.application
                && self.matcher(id, rule, Stage::Application, expression, &facts) != Match::Yes
            {
                continue;
            }
            return match rule.action {
                Action::Allow => RequestVerdict::Allow(id),
                Action::Deny => RequestVerdict::Deny(Some(id)),
            };
        }
        RequestVerdict::Deny(None)
    }

    /// The rules to ask, in order.
    fn rules(
        &mut self,
        walked: Walked,
        facts: &Facts<'_>,
    ) -> impl Iterator<Item = (RuleId, &'e Rule)> + use<'e, O> {
        self.earlier = self.errors.len();
        let engine = self.engine;
        let candidates = if O::WATCHES { engine.enforced() } else { engine.candidates(walked, facts) };
        candidates.filter_map(|place| engine.at(place))
    }

    fn not_after_inspection(&self, rule: &Rule) -> Option<&'static str> {
        not_after_inspection(rule, self.engine.document().outgate.after_inspection)
    }

    fn session_matcher(&mut self, id: RuleId, rule: &Rule, facts: &Facts<'_>) -> Match {
        self.matcher(id, rule, Stage::Session, &rule.session, facts)
    }

    fn matcher(
        &mut self,
        id: RuleId,
        rule: &Rule,
        stage: Stage,
        expression: &Expression,
        facts: &Facts<'_>,
    ) -> Match {
        let held = expression.holds(facts);
        let (found, outcome) = match held {
            Ok(true) => (Match::Yes, Outcome::Matched),
            Ok(false) => (Match::No, Outcome::NotMatched),
            Err(Failure::Unknown) => (Match::Unknown, Outcome::Matched),
            Err(_) => {
                let (earlier, new) = self.errors.split_at_checked(self.earlier).unwrap_or_default();
                if new.last() != Some(&id) && earlier.binary_search(&id).is_err() {
                    self.errors.push(id);
                }
                let deny = rule.action == Action::Deny
                    && self.engine.document().outgate.errors_in_deny == ErrorsInDeny::Deny;
                (if deny { Match::Yes } else { Match::No }, Outcome::Error)
            }
        };
        self.observer.observe(rule, stage, outcome, || expression.describe(facts));
        found
    }
}

/// Why a rule does not count for decrypted requests.
pub fn not_after_inspection(rule: &Rule, after_inspection: AfterInspection) -> Option<&'static str> {
    match (rule.kind, rule.action) {
        (RuleKind::Application, _) => Some("without tlsInspectionEnabled it sees no request inside TLS"),
        (RuleKind::Session, Action::Allow) if after_inspection == AfterInspection::Strict => Some(
            "a session rule with ALLOW does not match once traffic is intercepted; give it a lower priority number \
             than the inspecting rule, or narrow that rule's sessionMatcher",
        ),
        _ => None,
    }
}
