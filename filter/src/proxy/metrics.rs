//! Counters; their labels are in their names, and Envoy's `stats_tags` take them out.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use proxy_wasm::hostcalls;
use proxy_wasm::types::MetricType;

use super::host;
use crate::decision::{Decision, Subject};

/// The counters of a policy, defined when they first count. Labels come from the policy alone.
#[derive(Default)]
pub struct Metrics {
    ids: RefCell<HashMap<String, u32>>,
    /// When the last warning about a client with too many connections was written.
    warned: Cell<u64>,
}

impl Metrics {
    /// `outgate_verdicts_total{stage,verdict,rule}` and `outgate_evaluation_errors_total{rule}`
    pub fn verdict(&self, decision: &Decision<'_>) {
        let stage = match decision.subject {
            Subject::Session => "session",
            Subject::Request => "request",
        };
        self.count(&format!(
            "outgate_verdicts_total.stage={stage}.verdict={}.rule={}",
            decision.verdict,
            label(decision.rule.unwrap_or("none")),
        ));
        for rule in &decision.errors {
            self.count(&format!("outgate_evaluation_errors_total.rule={}", label(rule)));
        }
    }

    /// `outgate_grants_total{result}`
    pub fn grant(&self, result: &str) {
        self.count(&format!("outgate_grants_total.result={result}"));
    }

    /// `outgate_connections_turned_away_total`; says whether it is time for a warning, which is once a second.
    pub fn turned_away(&self) -> bool {
        self.count("outgate_connections_turned_away_total");
        let now = host::now_milliseconds();
        let due = now.saturating_sub(self.warned.get()) >= 1000;
        if due {
            self.warned.set(now);
        }
        due
    }

    fn count(&self, name: &str) {
        let known = self.ids.borrow().get(name).copied();
        let id = known.or_else(|| {
            let id = hostcalls::define_metric(MetricType::Counter, name).ok()?;
            self.ids.borrow_mut().insert(name.to_owned(), id);
            Some(id)
        });
        if let Some(id) = id {
            let _counted = hostcalls::increment_metric(id, 1);
        }
    }
}

/// A dot would end the label.
fn label(name: &str) -> String {
    name.replace('.', "_")
}
