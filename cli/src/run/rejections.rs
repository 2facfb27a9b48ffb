//! Clients that do not accept our certificates: after three for one host, the rule that would let it pass unread is
//! printed. It is never applied: whether a host may go unread is for the operator to say.

use std::collections::HashMap;

use outgate_policy::Engine;
use serde_json::Value;

/// How many make a suggestion.
const ENOUGH: u32 = 3;

/// Hosts that are remembered: clients choose them.
const MOST: usize = 1000;

/// Counts rejections by host.
#[derive(Debug, Default)]
pub struct Rejections {
    counts: HashMap<String, u32>,
}

/// A host whose clients reject our certificate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rejected {
    /// The host.
    pub host: String,
    /// The rule that inspects it.
    pub rule: String,
}

impl Rejections {
    /// Looks at a line of the log; says when it was the one too many.
    pub fn note(&mut self, line: &str) -> Option<Rejected> {
        // Most lines are about something else and need not be parsed.
        if !line.contains("\"intercept_rejected\"") {
            return None;
        }
        let line: Value = serde_json::from_str(line).ok()?;
        let text = |pointer: &str| line.pointer(pointer).and_then(Value::as_str);
        let (host, rule) = (text("/destination/domain")?, text("/rule/name")?);
        if text("/event/reason") != Some("intercept_rejected") {
            return None;
        }
        if !self.counts.contains_key(host) && self.counts.len() >= MOST {
            return None;
        }
        let count = self.counts.entry(host.to_owned()).or_default();
        *count = count.saturating_add(1);
        (*count == ENOUGH).then(|| Rejected { host: host.to_owned(), rule: rule.to_owned() })
    }
}

impl Rejected {
    /// What the operator may do about it under this policy.
    pub fn suggestion(&self, engine: &Engine) -> String {
        let Self { host, rule } = self;
        let mut text = format!(
            "{ENOUGH} connections to `{host}` ended because the client did not accept our certificate: it does not trust \
             ca.pem, or it pins the origin's"
        );
        let inspecting = engine.rules().iter().find(|known| known.name == *rule);
        let Some(priority) = inspecting.and_then(|inspecting| free_below(engine, inspecting.priority)) else {
            return text;
        };
        let name = format!("unread-{}", host.replace(|other: char| !other.is_ascii_alphanumeric(), "-"));
        text.push_str(&format!(
            ". If `{host}` may pass unread, this rule before `{rule}` does it (it is not applied):\n  - {{name: {name}, enabled: \
             true, priority: {priority}, basicProfile: ALLOW, sessionMatcher: \"host() == '{host}'\"}}"
        ));
        text
    }
}

/// The largest priority below this one that no rule has.
fn free_below(engine: &Engine, priority: i32) -> Option<i32> {
    let taken = |priority: i32| engine.document().rules.iter().any(|rule| rule.priority == priority);
    let first = priority.checked_sub(1)?;
    // As many as there are rules can be taken.
    (0..=engine.document().rules.len())
        .filter_map(|step| first.checked_sub(i32::try_from(step).ok()?))
        .find(|candidate| !taken(*candidate))
}

#[cfg(test)]
mod tests {
    use super::*;
    use outgate_policy::RuleKind;

    fn line(host: &str) -> String {
        format!(
            r#"{{"event":{{"reason":"intercept_rejected"}},"destination":{{"domain":"{host}"}},"rule":{{"name":"all"}}}}"#
        )
    }

    #[test]
    fn three_for_one_host_are_enough_and_told_once() {
        let mut rejections = Rejections::default();
        assert_eq!(rejections.note(&line("a.test")), None);
        assert_eq!(rejections.note(&line("b.test")), None);
        assert_eq!(rejections.note(&line("a.test")), None);
        assert_eq!(
            rejections.note(r#"{"event":{"reason":"other"},"message":"\"intercept_rejected\""}"#),
            None
        );
        let rejected = Rejected { host: "a.test".to_owned(), rule: "all".to_owned() };
        assert_eq!(rejections.note(&line("a.test")), Some(rejected));
        assert_eq!(rejections.note(&line("a.test")), None);
    }

    #[test]
    fn the_rule_that_is_suggested_compiles_and_lets_the_host_pass_unread() {
        let policy = "\
name: p
tlsInspectionPolicy: default
tlsInspectionPolicies: [{name: default, caPool: main}]
rules:
- {name: other, priority: 9, basicProfile: DENY, sessionMatcher: host() == 'x.test'}
- {name: all, priority: 10, basicProfile: ALLOW, sessionMatcher: 'true', applicationMatcher: 'true', tlsInspectionEnabled: true}
";
        let rejected = Rejected { host: "pinned.test".to_owned(), rule: "all".to_owned() };
        let suggestion = rejected.suggestion(&Engine::from_text(policy).unwrap());
        let (_, rule) = suggestion.split_once('\n').unwrap();
        let engine = Engine::from_text(&format!("{policy}{}\n", rule.trim_start())).unwrap();
        let first = engine.rules().iter().find(|rule| rule.name == "unread-pinned-test").unwrap();
        assert_eq!((first.priority, first.kind), (8, RuleKind::Session));
    }
}
