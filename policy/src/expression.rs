//! Matchers: CEL text, parsed by the `cel` crate (its parser, nothing else of it), lowered to a typed program of
//! our own, evaluated with three-valued logic. What the program does not cover is refused when a policy is
//! compiled, never interpreted.

mod describe;
mod evaluate;
mod lower;
mod parse;
mod patterns;
mod program;
mod regex;
mod requirement;

use std::sync::Arc;

pub use describe::describe;
pub use evaluate::{Facts, Failure};
pub use patterns::{Patterns, Programs};
pub use program::{Condition, Sniffing};
#[cfg(test)]
pub use regex::class;
pub use requirement::{Field, Key, Predicate, Requirement};

use crate::engine::RuleKind;
use crate::url_list::UrlLists;

/// A matcher that compiled.
#[derive(Debug)]
pub struct Expression {
    condition: Condition,
    source: Box<str>,
}

/// Which matcher of which rule.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Matcher {
    /// `sessionMatcher`
    Session(RuleKind),
    /// `applicationMatcher`
    Application(RuleKind),
}

/// What a matcher can refer to.
#[derive(Debug)]
pub struct Scope<'a> {
    /// Which matcher it is.
    pub matcher: Matcher,
    /// The policy's URL lists.
    pub url_lists: &'a Arc<UrlLists>,
    /// The policy's regular expressions.
    pub patterns: &'a Patterns<'a>,
}

/// One thing that is wrong with a matcher.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    /// What is wrong, and what to do.
    pub message: String,
    /// The byte where it is.
    pub offset: usize,
}

impl Matcher {
    /// The key of the matcher in a rule.
    pub fn field(self) -> &'static str {
        match self {
            Self::Session(_) => "sessionMatcher",
            Self::Application(_) => "applicationMatcher",
        }
    }
}

impl Expression {
    /// Compiles a matcher, or says everything that is wrong with it.
    pub fn compile(source: &str, scope: &Scope<'_>) -> Result<Self, Vec<Problem>> {
        let parsed = parse::parse(source).map_err(|problem| vec![problem])?;
        let condition = lower::lower(&parsed, scope)?;
        Ok(Self { condition, source: source.into() })
    }

    /// Whether it holds.
    pub fn holds(&self, facts: &Facts<'_>) -> Result<bool, Failure> {
        self.condition.holds(facts)
    }

    /// What must be so for it to be anything but false.
    pub fn requirement(&self) -> Requirement {
        Requirement::of(&self.condition)
    }

    /// Whether it can fail or be unknown.
    pub fn can_fail(&self) -> bool {
        self.condition.can_fail()
    }

    /// Why it holds, or does not, or fails: for people.
    pub fn describe(&self, facts: &Facts<'_>) -> String {
        describe(&self.condition, &self.source, facts)
    }
}
