//! From requirements to the tree.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Backwards, Branches, Child, Index, Node, Span};
use crate::attribute::Attribute;
use crate::expression::{Field, Key, Predicate, Requirement};
use crate::hash::{self, QuickMap};
use crate::nested::Nested;
use crate::url_list::{ListId, Set, UrlLists};

/// So few rules are asked one by one.
const FEW: usize = 8;
/// How many fields a node looks at.
const MOST_FIELDS: usize = 16;
/// A set of more lists gets a child of its own.
const FEW_LISTS: usize = 4;
/// How many times as many places as keys the tree may have: alternatives multiply from level to level.
const GROWTH: usize = 8;

pub fn build<'r>(
    requirements: impl IntoIterator<Item = (u32, &'r Requirement)>,
    url_lists: &Arc<UrlLists>,
) -> Index {
    let mut items = Vec::new();
    for (rule, requirement) in requirements {
        items.extend(requirement.clauses().iter().map(|clause| Item { rule, clause, used: 0 }));
    }
    let keys = |item: &Item<'_>| 1 + item.clause.iter().map(|predicate| predicate.keys.len()).sum::<usize>();
    let budget = items.iter().map(keys).sum::<usize>().saturating_mul(GROWTH);
    let mut builder = Builder { nodes: Vec::new(), rules: Vec::new(), budget, url_lists };
    let root = builder.child(&items);
    let Builder { nodes, rules, .. } = builder;
    Index { root, nodes: nodes.into(), rules: rules.into(), url_lists: Arc::clone(url_lists) }
}

/// A clause of a rule, without the predicates that the way to here has met.
#[derive(Clone, Copy)]
struct Item<'r> {
    rule: u32,
    clause: &'r [Predicate],
    used: u32,
}

struct Builder<'l> {
    nodes: Vec<Node>,
    rules: Vec<u32>,
    /// How many more places may be filled.
    budget: usize,
    url_lists: &'l Arc<UrlLists>,
}

/// The items that ask for a field.
#[derive(Default)]
struct Group<'r> {
    count: usize,
    /// Texts with one hash are told apart by the matchers.
    exactly: QuickMap<u64, Vec<Item<'r>>>,
    by_key: BTreeMap<&'r Key, Vec<Item<'r>>>,
    absent: Vec<Item<'r>>,
}

/// How good a predicate is to sort by; the least is the best.
type Rank = (bool, u32, u8);

impl<'r> Group<'r> {
    /// Those of each key.
    fn items(&self) -> impl Iterator<Item = &Vec<Item<'r>>> {
        self.exactly.values().chain(self.by_key.values())
    }
}

impl<'r> Item<'r> {
    fn predicates(&self) -> impl Iterator<Item = (usize, &'r Predicate)> + use<'r> {
        let used = self.used;
        self.clause.iter().enumerate().filter(move |(index, _)| used >> index & 1 == 0)
    }

    fn without(self, index: usize) -> Self {
        Self { used: self.used | 1 << index, ..self }
    }

    /// The predicate that the fewest other items share.
    fn best(&self, counts: &QuickMap<(&'r Field, &'r Key), u32>) -> Option<(usize, &'r Predicate)> {
        let rank = |(_, predicate): &(usize, &'r Predicate)| -> Rank {
            let count = |key| counts.get(&(&predicate.field, key)).copied().unwrap_or_default();
            let most = predicate.keys.iter().map(count).max().unwrap_or_default();
            (predicate.absent, most, order(&predicate.field))
        };
        self.predicates().min_by_key(rank)
    }
}

/// Among equals, the field that is cheapest to look at, and most often decides.
fn order(field: &Field) -> u8 {
    match field {
        Field::Text(Attribute::Host) => 0,
        Field::Number(_) => 1,
        Field::Text(Attribute::RequestPath | Attribute::RequestMethod) => 2,
        Field::SourceIp | Field::Tags | Field::ServiceAccounts => 3,
        Field::Text(_) => 4,
        Field::HeaderNames => 5,
        Field::Header(_) | Field::Texts(_) => 6,
    }
}

impl<'r> Builder<'_> {
    fn child(&mut self, items: &[Item<'r>]) -> Child {
        if items.len() <= FEW {
            return Child::Rules(self.span(items));
        }
        let mut counts = QuickMap::<(&Field, &Key), u32>::default();
        for (_, predicate) in items.iter().flat_map(Item::predicates) {
            for key in &predicate.keys {
                *counts.entry((&predicate.field, key)).or_default() += 1;
            }
        }
        let mut residue = Vec::new();
        let mut groups = QuickMap::<&Field, Group<'r>>::default();
        for item in items {
            let Some((index, predicate)) = item.best(&counts) else {
                residue.push(*item);
                continue;
            };
            let rest = item.without(index);
            let group = groups.entry(&predicate.field).or_default();
            group.count += 1;
            for key in &predicate.keys {
                let same = match key {
                    Key::Exactly(text) => group.exactly.entry(hash::of_text(text)).or_default(),
                    Key::Number(number) => group.exactly.entry(number.cast_unsigned()).or_default(),
                    _ => group.by_key.entry(key).or_default(),
                };
                same.push(rest);
            }
            if predicate.absent {
                group.absent.push(rest);
            }
        }
        let mut groups: Vec<_> = groups.into_iter().collect();
        groups.sort_by_key(|(field, group)| (std::cmp::Reverse(group.count), order(field)));
        let places: usize = groups.iter().flat_map(|(_, group)| group.items()).map(Vec::len).sum();
        if groups.is_empty() || places > self.budget {
            return Child::Rules(self.span(items));
        }
        self.budget -= places;
        for (_, group) in groups.drain(groups.len().min(MOST_FIELDS)..) {
            residue.extend(group.items().flatten());
            residue.extend(&group.absent);
        }
        let fields = groups.into_iter().map(|(field, group)| self.branches(field, group)).collect();
        let node = Node { residue: self.span(&residue), fields };
        self.nodes.push(node);
        // More nodes than rules' places, of which 2^32 do not fit into memory, there are never.
        Child::Node(u32::try_from(self.nodes.len() - 1).unwrap_or(u32::MAX))
    }

    fn branches(&mut self, field: &Field, group: Group<'r>) -> Branches {
        let absent = self.span(&group.absent);
        let listed_sets = self.set_children(&group);
        let exactly = group.exactly.iter().map(|(key, items)| (*key, self.child(items))).collect();
        let (mut prefixes, mut suffixes, mut ranges) = (Vec::new(), BTreeMap::new(), Vec::new());
        let mut listed = QuickMap::default();
        for (key, items) in &group.by_key {
            let child = self.child(items);
            match key {
                Key::Exactly(_) | Key::Number(_) => {}
                Key::Prefix(text) => prefixes.push((Box::from(&**text), child)),
                Key::Suffix(text) => {
                    suffixes.insert(Backwards(text.bytes().rev().collect()), child);
                }
                Key::Range(range) => ranges.push((*range, child)),
                Key::Listed(list) => {
                    listed.insert(*list, child);
                }
            }
        }
        Branches {
            field: field.clone(),
            absent,
            exactly,
            prefixes: Nested::of_prefixes(prefixes),
            suffixes: Nested::new(suffixes, |outer: &Backwards, inner: &Backwards| {
                inner.0.starts_with(&outer.0)
            }),
            ranges: Nested::new(ranges, |outer, inner| outer.covers(inner)),
            listed,
            listed_sets,
        }
    }

    /// For sets of many lists, all rules that ask for one of them.
    fn set_children(&mut self, group: &Group<'r>) -> QuickMap<Set, Child> {
        let mut children = QuickMap::default();
        if !group.by_key.keys().any(|key| matches!(key, Key::Listed(_))) {
            return children;
        }
        for (set, lists) in self.url_lists.sets().filter(|(_, lists)| lists.len() > FEW_LISTS) {
            let asked = |list: &ListId| group.by_key.get(&Key::Listed(*list));
            let items: Vec<_> = lists.iter().filter_map(asked).flatten().copied().collect();
            if !items.is_empty() && items.len() <= self.budget {
                self.budget -= items.len();
                let child = self.child(&items);
                children.insert(set, child);
            }
        }
        children
    }

    fn span(&mut self, items: &[Item<'_>]) -> Span {
        let mut rules: Vec<u32> = items.iter().map(|item| item.rule).collect();
        rules.sort_unstable();
        rules.dedup();
        let place = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let start = place(self.rules.len());
        self.rules.append(&mut rules);
        Span { start, end: place(self.rules.len()) }
    }
}
