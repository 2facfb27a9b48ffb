//! The indexes of a policy: one for each walk, since each asks other rules.

use std::sync::Arc;

use super::{Rule, RuleKind};
use crate::document::AfterInspection;
use crate::expression::Requirement;
use crate::index::{Candidates, Index};
use crate::session::RequestStage;
use crate::url_list::UrlLists;
use crate::walk::not_after_inspection;

/// One index for each walk; walks that ask the same share theirs.
#[derive(Debug)]
pub struct Indexes {
    enforced: Box<[u32]>,
    connect: Arc<Index>,
    tls: Arc<Index>,
    clear: Arc<Index>,
    inspected: Arc<Index>,
}

/// A walk over the rules.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Walked {
    /// For a tunnel that is asked for.
    Connect,
    /// For TLS in a tunnel.
    Tls,
    /// For a request.
    Request(RequestStage),
}

impl Indexes {
    /// Of rules in order.
    pub fn new(rules: &[Rule], after_inspection: AfterInspection, url_lists: &Arc<UrlLists>) -> Self {
        let enforced: Vec<(u32, &Rule)> = (0..).zip(rules).filter(|(_, rule)| !rule.shadow).collect();
        let sessions: Vec<Requirement> =
            enforced.iter().map(|(_, rule)| rule.session.requirement()).collect();
        let requests: Vec<Requirement> =
            enforced.iter().zip(&sessions).map(|((_, rule), session)| of_request(rule, session)).collect();
        let index = |requirements: &[Requirement], asked: &dyn Fn(&Rule) -> bool| {
            let rules = enforced.iter().zip(requirements).filter(|((_, rule), _)| asked(rule));
            Arc::new(Index::new(rules.map(|((place, _), requirement)| (*place, requirement)), url_lists))
        };
        let applications = enforced.iter().any(|(_, rule)| rule.application.is_some());
        let skipped = enforced.iter().any(|(_, rule)| !matters_to_tls(rule));
        let connect = index(&sessions, &|_| true);
        Self {
            enforced: enforced.iter().map(|(place, _)| *place).collect(),
            tls: if skipped { index(&sessions, &matters_to_tls) } else { Arc::clone(&connect) },
            clear: if applications { index(&requests, &|_| true) } else { Arc::clone(&connect) },
            inspected: index(&requests, &|rule| not_after_inspection(rule, after_inspection).is_none()),
            connect,
        }
    }

    /// All rules.
    pub fn enforced(&self) -> Candidates<'_> {
        Candidates::of(&self.enforced)
    }

    /// The index of a walk.
    pub fn of(&self, walked: Walked) -> &Index {
        match walked {
            Walked::Connect => &self.connect,
            Walked::Tls => &self.tls,
            Walked::Request(RequestStage::Clear) => &self.clear,
            Walked::Request(RequestStage::Inspected) => &self.inspected,
        }
    }
}

/// Rules that see no request inside TLS are skipped there, but if their matchers fail, that is said.
fn matters_to_tls(rule: &Rule) -> bool {
    rule.kind != RuleKind::Application || rule.session.can_fail()
}

/// The applicationMatcher is asked only if the sessionMatcher holds. Where that can fail, it must be asked whatever
/// the applicationMatcher says.
fn of_request(rule: &Rule, session: &Requirement) -> Requirement {
    match &rule.application {
        Some(application) if !rule.session.can_fail() => session.clone().and(application.requirement()),
        _ => session.clone(),
    }
}
