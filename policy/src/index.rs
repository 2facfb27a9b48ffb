//! Which rules can matter: those whose matchers are not certainly false. A walk that asks only these, in order,
//! ends with the same verdict and the same failures as one that asks all, at a cost that does not grow with
//! the number of rules.
//!
//! The index only proposes; matchers decide. It may therefore propose too much (it compares hashes, and leaves
//! out what it does not understand), but never too little: what fails, or is unknown, is proposed.
//!
//! It is a tree. A node sorts rules by the field and key that few other rules have ("host is `a.example`",
//! "path begins with `/b/`"), whose rules are sorted again by their other predicates where they are still many.
//! Rules without a usable predicate are a node's residue, and always proposed.

mod build;
mod candidates;

use std::net::IpAddr;
use std::sync::Arc;

pub use candidates::Candidates;

use crate::address::Cidr;
use crate::expression::{Facts, Field, Requirement};
use crate::hash::{self, QuickMap};
use crate::nested::Nested;
use crate::url_list::{ListId, Set, UrlLists};

/// An index of rules, which it knows by their place in the order of priority.
#[derive(Debug)]
pub struct Index {
    root: Child,
    nodes: Box<[Node]>,
    /// What spans are parts of.
    rules: Box<[u32]>,
    url_lists: Arc<UrlLists>,
}

/// Rules in ascending order: a part of [`Index::rules`].
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    start: u32,
    end: u32,
}

#[derive(Clone, Copy, Debug)]
enum Child {
    Rules(Span),
    Node(u32),
}

#[derive(Debug)]
struct Node {
    residue: Span,
    fields: Box<[Branches]>,
}

/// The bytes of a text, the last first.
#[derive(Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Backwards(Box<[u8]>);

/// The rules that ask for a field.
#[derive(Debug)]
struct Branches {
    field: Field,
    /// Those that fail where the field is absent.
    absent: Span,
    /// By the hash of a text, or by a number.
    exactly: QuickMap<u64, Child>,
    prefixes: Nested<Box<str>, Child>,
    suffixes: Nested<Backwards, Child>,
    ranges: Nested<Cidr, Child>,
    listed: QuickMap<ListId, Child>,
    /// What sets of many lists come to.
    listed_sets: QuickMap<Set, Child>,
}

impl Index {
    /// Of rules and what must be so for each to matter.
    pub fn new<'r>(
        requirements: impl IntoIterator<Item = (u32, &'r Requirement)>,
        url_lists: &Arc<UrlLists>,
    ) -> Self {
        build::build(requirements, url_lists)
    }

    /// The rules that can matter, in order.
    pub fn candidates(&self, facts: &Facts<'_>) -> Candidates<'_> {
        let mut candidates = Candidates::default();
        self.collect(self.root, facts, &mut candidates);
        candidates.sort();
        candidates
    }

    fn collect<'i>(&'i self, child: Child, facts: &Facts<'_>, candidates: &mut Candidates<'i>) {
        let node = match child {
            Child::Rules(span) => return candidates.add(self.part(span)),
            Child::Node(index) => usize::try_from(index).ok().and_then(|index| self.nodes.get(index)),
        };
        let Some(node) = node else { return };
        candidates.add(self.part(node.residue));
        for branches in &node.fields {
            let mut found = |child| self.collect(child, facts, candidates);
            let known = match &branches.field {
                Field::Text(attribute) => {
                    facts.text(*attribute).ok().map(|text| self.by_text(branches, text, &mut found))
                }
                Field::Header(name) => {
                    facts.header(name).map(|text| self.by_text(branches, text, &mut found))
                }
                Field::Texts(attribute) => facts.texts(*attribute).ok().map(|texts| {
                    texts.iter().for_each(|text| branches.exactly(hash::of_text(text), &mut found))
                }),
                Field::HeaderNames => {
                    facts.header_names().for_each(|name| branches.exactly(hash::of_text(name), &mut found));
                    Some(())
                }
                Field::Tags | Field::ServiceAccounts => {
                    let identity = facts.identity();
                    let names = match branches.field {
                        Field::Tags => identity.tags(),
                        _ => identity.service_accounts(),
                    };
                    names.iter().for_each(|name| branches.exactly(hash::of_text(name), &mut found));
                    Some(())
                }
                Field::Number(attribute) => facts
                    .number(*attribute)
                    .ok()
                    .map(|number| branches.exactly(number.cast_unsigned(), &mut found)),
                Field::SourceIp => {
                    branches.covering(facts.client_ip().to_canonical()).for_each(&mut found);
                    Some(())
                }
            };
            if known.is_none() {
                candidates.add(self.part(branches.absent));
            }
        }
    }

    fn by_text(&self, branches: &Branches, text: &str, found: &mut impl FnMut(Child)) {
        if !branches.exactly.is_empty() {
            branches.exactly(hash::of_text(text), found);
        }
        if !branches.prefixes.is_empty() {
            branches.prefixes.beginning(text).for_each(|(_, child)| found(*child));
        }
        if !branches.suffixes.is_empty() {
            branches.ending(text).for_each(&mut *found);
        }
        if !branches.listed.is_empty() {
            self.url_lists.any_set(text, |set, lists| {
                match branches.listed_sets.get(&set) {
                    Some(child) => found(*child),
                    None => lists
                        .iter()
                        .filter_map(|list| branches.listed.get(list))
                        .copied()
                        .for_each(&mut *found),
                }
                false
            });
        }
    }

    fn part(&self, span: Span) -> &[u32] {
        let place = |place: u32| usize::try_from(place).unwrap_or(usize::MAX);
        self.rules.get(place(span.start)..place(span.end)).unwrap_or_default()
    }
}

impl Branches {
    fn exactly(&self, key: u64, found: &mut impl FnMut(Child)) {
        if let Some(child) = self.exactly.get(&key) {
            found(*child);
        }
    }

    fn ending<'b>(&'b self, text: &'b str) -> impl Iterator<Item = Child> {
        let not_after = |Backwards(key): &Backwards| key.iter().copied().cmp(text.bytes().rev()).is_le();
        let covers = |Backwards(key): &Backwards| key.iter().copied().eq(text.bytes().rev().take(key.len()));
        self.suffixes.covering(not_after, covers).map(|(_, child)| *child)
    }

    fn covering(&self, ip: IpAddr) -> impl Iterator<Item = Child> {
        let one = Cidr::of_one(ip);
        self.ranges.covering(move |key| *key <= one, move |key| key.contains(ip)).map(|(_, child)| *child)
    }
}
