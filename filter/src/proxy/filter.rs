//! One compiled policy and its settings, shared by all contexts of a worker.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::rc::Rc;

use log::{error, info};
use proxy_wasm::hostcalls;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::host;
use super::metrics::Metrics;
use crate::configuration::{Lender, Limits, PluginConfiguration, PluginJson};
use crate::decision::Decision;
use crate::routing::Routing;
use outgate_policy::{Engine, PolicyErrors, RuleId, RuleKind};

/// Where Envoy keeps the plugin JSON of the root `explicit` for VMs that follow after a trap: there, another root may be
/// needed before `explicit` is configured.
const LENT: &str = "outgate.policy";

thread_local! {
    /// The policy that was configured last: where several places get the same text, it is compiled once.
    static LAST: RefCell<Option<([u8; 32], Rc<Filter>)>> = const { RefCell::new(None) };
    /// That of the root `explicit`.
    static EXPLICIT: RefCell<Option<Rc<Filter>>> = const { RefCell::new(None) };
    /// Identifiers: a counter, scattered by a secret of this VM.
    static IDENTIFIERS: RefCell<(RandomState, u64)> = RefCell::new((RandomState::new(), 0));
}

/// A policy in force.
pub struct Filter {
    /// The policy.
    pub engine: Engine,
    /// How destinations become clusters.
    pub routing: Routing,
    /// The cluster of cert-service.
    pub grants_cluster: String,
    /// When this worker got it, in milliseconds since 1970.
    pub since: u64,
    /// How much each client may have.
    pub limits: Limits,
    /// Whether certificates of clients count.
    pub client_certificates: bool,
    /// Counters.
    pub metrics: Metrics,
    allowances: f64,
}

/// Where a root has its policy from.
pub enum Policy {
    /// Its own configuration.
    Own(Rc<Filter>),
    /// The root `explicit`, whatever that has at the time.
    OfExplicit {
        /// Allows nothing; for the time that `explicit` has none.
        otherwise: Rc<Filter>,
    },
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// The plugin JSON.
    #[error("plugin configuration: {0}")]
    Configuration(PolicyErrors),
    /// The policy in it.
    #[error("plugin configuration: policy does not compile:\n{0}")]
    Policy(#[from] PolicyErrors),
}

impl Policy {
    /// What this plugin JSON says.
    pub fn parse(text: &[u8]) -> Result<Self, FilterError> {
        let began = host::now_milliseconds();
        let digest: [u8; 32] = Sha256::digest(text).into();
        let known = LAST.with_borrow(|last| {
            last.as_ref().filter(|(last, _)| *last == digest).map(|(_, filter)| Rc::clone(filter))
        });
        if let Some(filter) = known {
            return Ok(Self::Own(filter));
        }
        let configuration = match PluginJson::parse(text).map_err(FilterError::Configuration)? {
            PluginJson::PolicyOf(Lender::Explicit) => {
                let nothing = PluginConfiguration::new(json!({"name": "no-policy", "rules": []}));
                return Ok(Self::OfExplicit { otherwise: Rc::new(Filter::new(nothing)?) });
            }
            PluginJson::Policy(configuration) => *configuration,
        };
        let filter = Rc::new(Filter::new(configuration)?);
        let took = host::now_milliseconds().saturating_sub(began);
        let rules = filter.engine.rules().len();
        info!("policy {} with {rules} rules compiled in {took} ms", filter.engine.hash());
        LAST.set(Some((digest, Rc::clone(&filter))));
        Ok(Self::Own(filter))
    }

    /// Has other roots follow this one, now and after a trap.
    pub fn lend(&self, text: &[u8]) {
        self.lend_again();
        let _best_effort = hostcalls::set_shared_data(LENT, Some(text), None);
    }

    /// Has them follow it if they do not. Envoy does not configure a root anew if it has an old one with the same
    /// configuration, so its use is what tells that it counts.
    pub fn lend_again(&self) {
        let Self::Own(filter) = self else { return };
        EXPLICIT.with_borrow_mut(|explicit| {
            if explicit.as_ref().is_none_or(|lent| !Rc::ptr_eq(lent, filter)) {
                *explicit = Some(Rc::clone(filter));
            }
        });
    }

    /// The policy. Nothing is allowed while there is none.
    pub fn filter(&self) -> Rc<Filter> {
        match self {
            Self::Own(filter) => Rc::clone(filter),
            Self::OfExplicit { otherwise } => {
                let explicit = EXPLICIT.with_borrow(Clone::clone).or_else(Self::left_by_explicit);
                explicit.unwrap_or_else(|| {
                    error!("the root `explicit` has no policy in this VM: everything is denied; give both roots one `vm_id`");
                    Rc::clone(otherwise)
                })
            }
        }
    }

    fn left_by_explicit() -> Option<Rc<Filter>> {
        let (text, _) = hostcalls::get_shared_data(LENT).ok()?;
        let Ok(Self::Own(filter)) = Self::parse(&text?) else { return None };
        EXPLICIT.set(Some(Rc::clone(&filter)));
        Some(filter)
    }
}

impl Filter {
    fn new(configuration: PluginConfiguration) -> Result<Self, PolicyErrors> {
        Ok(Self {
            engine: Engine::with_programs(Cow::Owned(configuration.policy), &configuration.patterns)?,
            routing: configuration.routing,
            grants_cluster: configuration.grants.cluster,
            since: host::now_milliseconds(),
            limits: configuration.limits,
            client_certificates: configuration.client_certificates,
            metrics: Metrics::default(),
            allowances: configuration.log.allowances,
        })
    }

    /// Whether any rule inspects.
    pub fn inspects(&self) -> bool {
        self.engine.rules().iter().any(|rule| rule.kind == RuleKind::Inspecting)
    }

    /// Counts a verdict and logs it.
    pub fn record(&self, decision: &Decision<'_>) {
        self.count(decision);
        info!("{}", decision.line());
    }

    /// Counts a verdict.
    pub fn count(&self, decision: &Decision<'_>) {
        self.metrics.verdict(decision.subject, decision.verdict, decision.rule, &decision.errors);
    }

    /// Whether the next allowance is one of those that are logged.
    pub fn logs_allowance(&self) -> bool {
        self.allowances >= 1.0 || (self.allowances > 0.0 && chance() < self.allowances)
    }

    /// A rule's name.
    pub fn rule_name(&self, rule: RuleId) -> &str {
        self.engine.rule(rule).map_or("", |rule| rule.name.as_str())
    }

    /// Names of rules whose matcher failed.
    pub fn rule_names(&self, rules: &[RuleId]) -> Vec<&str> {
        rules.iter().map(|rule| self.rule_name(*rule)).collect()
    }
}

/// A fresh identifier of a session or a request: 16 hex digits.
pub fn identifier() -> String {
    format!("{:016x}", random())
}

/// From 0 to 1.
fn chance() -> f64 {
    let high = u32::try_from(random() >> 32).unwrap_or(0);
    f64::from(high) / f64::from(u32::MAX)
}

fn random() -> u64 {
    IDENTIFIERS.with_borrow_mut(|(secret, count)| {
        *count = count.wrapping_add(1);
        secret.hash_one(*count)
    })
}
