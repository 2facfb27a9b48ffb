//! Counters; their labels are in their names, and Envoy's `stats_tags` take them out.

use std::cell::{Cell, RefCell};

use outgate_policy::QuickMap;
use proxy_wasm::hostcalls;
use proxy_wasm::types::MetricType;

use super::host;
use crate::decision::Subject;

/// Counters by the name of a rule.
type ByRule = QuickMap<String, u32>;

/// The counters of a policy, defined when they first count. Labels come from the policy alone.
#[derive(Default)]
pub struct Metrics {
    /// Those of each verdict, by rule.
    verdicts: RefCell<QuickMap<(Subject, &'static str), ByRule>>,
    /// The others, by their names.
    ids: RefCell<QuickMap<String, u32>>,
    /// When the last warning about a client with too many connections was written.
    warned: Cell<u64>,
}

impl Metrics {
    /// `outgate_verdicts_total{stage,verdict,rule}` and `outgate_evaluation_errors_total{rule}`
    pub fn verdict(&self, subject: Subject, verdict: &'static str, rule: Option<&str>, errors: &[&str]) {
        let rule = rule.unwrap_or("none");
        let mut verdicts = self.verdicts.borrow_mut();
        let rules = verdicts.entry((subject, verdict)).or_default();
        match rules.get(rule) {
            Some(id) => increment(*id),
            None => {
                let stage = match subject {
                    Subject::Session => "session",
                    Subject::Request => "request",
                };
                let name =
                    format!("outgate_verdicts_total.stage={stage}.verdict={verdict}.rule={}", label(rule));
                rules.extend(define(&name).inspect(|id| increment(*id)).map(|id| (rule.to_owned(), id)));
            }
        }
        for rule in errors {
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
            let id = define(name)?;
            self.ids.borrow_mut().insert(name.to_owned(), id);
            Some(id)
        });
        id.into_iter().for_each(increment);
    }
}

fn define(name: &str) -> Option<u32> {
    hostcalls::define_metric(MetricType::Counter, name).ok()
}

fn increment(id: u32) {
    let _counted = hostcalls::increment_metric(id, 1);
}

/// A dot would end the label.
fn label(name: &str) -> String {
    name.replace('.', "_")
}
