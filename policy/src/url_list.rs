//! URL lists: hosts and URLs, with `*` as a prefix of the domain (whole labels) and as a suffix of the path.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::str::FromStr;

use crate::excerpt::Excerpt;
use crate::hash::QuickMap;
use crate::host::{HostError, HostName};
use crate::nested::Nested;
use crate::path::{PathError, RequestPath};

/// All URL lists of a policy, in one tree: by domain, so that a look-up costs what the host has labels, and
/// behind the domain by path. What is found is a [`Set`] of lists, so that it costs no more to ask for all.
#[derive(Debug, Default)]
pub struct UrlLists {
    names: QuickMap<String, ListId>,
    domains: QuickMap<Box<str>, Domain>,
    sets: Vec<Box<[ListId]>>,
}

/// A list.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ListId(u32);

/// A set of lists.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Set(u32);

/// What lists say of a domain.
#[derive(Debug)]
struct Domain {
    itself: Option<Paths>,
    below: Option<Paths>,
}

#[derive(Debug)]
enum Paths {
    /// Every path is in these lists.
    Any(Set),
    Some(Box<PathSets>),
}

#[derive(Debug)]
struct PathSets {
    /// Those that have any path.
    all: Set,
    /// Those that have every path.
    every: Option<Set>,
    tree: Nested<Box<str>, PathSet>,
}

#[derive(Debug, Default)]
struct PathSet {
    exactly: Option<Set>,
    prefix: Option<Set>,
}

/// An entry of a list.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UrlEntry {
    domain: DomainPattern,
    path: PathPattern,
}

/// A domain as lists write it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DomainPattern {
    domain: Box<str>,
    scope: Scope,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Scope {
    /// `example.com`
    Itself,
    /// `*.example.com`
    Below,
    /// `*example.com`
    Both,
}

#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum PathPattern {
    Any,
    Exactly(Box<str>),
    Prefix(Box<str>),
}

/// Why an entry was refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum UrlListError {
    /// Neither a domain nor a URL.
    #[error("`{0}` is neither a domain such as `example.com` nor a URL such as `example.com/path`")]
    Neither(Excerpt),
    /// `https://…`
    #[error("`{0}` has a scheme; write what follows `://`")]
    Scheme(Excerpt),
    /// A star elsewhere.
    #[error("`{0}` has a `*` that neither begins the domain nor ends the path")]
    Star(Excerpt),
    /// A star before an address.
    #[error("`{0}` has a `*` before an address, which has no subdomains")]
    StarAddress(Excerpt),
    /// A query.
    #[error("`{0}` has a query or a fragment; entries end with the path")]
    Query(Excerpt),
    /// The domain is none.
    #[error("`{text}`: {error}")]
    Domain {
        /// The entry.
        text: Excerpt,
        /// What is wrong.
        error: HostError,
    },
    /// The path is none.
    #[error("`{text}`: {error}")]
    Path {
        /// The entry.
        text: Excerpt,
        /// What is wrong.
        error: PathError,
    },
}

impl UrlEntry {
    /// Reads an entry.
    pub fn parse(text: &str) -> Result<Self, UrlListError> {
        let excerpt = || Excerpt::new(text);
        if text.contains("://") {
            return Err(UrlListError::Scheme(excerpt()));
        }
        if !text.contains('.') {
            return Err(UrlListError::Neither(excerpt()));
        }
        if text.contains(['?', '#']) {
            return Err(UrlListError::Query(excerpt()));
        }
        let (domain, path) = parts(text);
        let path = PathPattern::parse(text, path)?;
        Ok(Self { domain: DomainPattern::parse(domain)?, path })
    }

    /// An entry with its domain in A-labels, if it is none already.
    #[cfg(feature = "international")]
    pub(crate) fn in_a_labels(text: &str) -> Option<String> {
        let (domain, path) = parts(text);
        if domain.is_ascii() {
            return None;
        }
        let DomainPattern { domain, scope } = DomainPattern::parse(domain).ok()?;
        let stars = match scope {
            Scope::Below => "*.",
            Scope::Both => "*",
            Scope::Itself => "",
        };
        Some(format!("{stars}{domain}{path}"))
    }
}

impl UrlLists {
    /// Of lists by name.
    pub fn new(lists: impl IntoIterator<Item = (String, Vec<UrlEntry>)>) -> Self {
        let mut names = QuickMap::default();
        let mut domains = QuickMap::<Box<str>, Vec<(Scope, PathPattern, ListId)>>::default();
        for (index, (name, entries)) in (0..).zip(lists) {
            let list = ListId(index);
            names.insert(name, list);
            for UrlEntry { domain: DomainPattern { domain, scope }, path } in entries {
                domains.entry(domain).or_default().push((scope, path, list));
            }
        }
        let mut sets = Sets::default();
        let mut domain = |entries: Vec<(Scope, PathPattern, ListId)>| {
            let mut paths = |other: Scope| {
                let entries = entries.iter().filter(|(scope, _, _)| *scope != other);
                Paths::new(entries.map(|(_, path, list)| (path, *list)), &mut sets)
            };
            Domain { itself: paths(Scope::Below), below: paths(Scope::Itself) }
        };
        let domains = domains.into_iter().map(|(name, entries)| (name, domain(entries))).collect();
        Self { names, domains, sets: sets.list }
    }

    /// A list, by its name.
    pub fn get(&self, name: &str) -> Option<ListId> {
        self.names.get(name).copied()
    }

    /// The names of all lists, in no order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(String::as_str)
    }

    /// Whether a host or URL is in the list. What has no slash is compared with the domains alone.
    pub fn contains(&self, list: ListId, value: &str) -> bool {
        self.any_set(value, |_, lists| lists.binary_search(&list).is_ok())
    }

    /// Whether any set of lists that have a host or URL is what is looked for. The sets are in order, and
    /// together they are all lists that have it.
    pub fn any_set(&self, value: &str, mut found: impl FnMut(Set, &[ListId]) -> bool) -> bool {
        let (domain, path) = match value.find('/') {
            Some(slash) => {
                let (domain, path) = value.split_at(slash);
                (domain, Some(path.split(['?', '#']).next().unwrap_or(path)))
            }
            None => (value, None),
        };
        let Some(domain) = normal(domain) else { return false };
        let mut found = |paths: Option<&Paths>| {
            paths.is_some_and(|paths| paths.any(path, |set| found(set, self.lists(set))))
        };
        found(self.domains.get(&*domain).and_then(|domain| domain.itself.as_ref()))
            || domain
                .match_indices('.')
                .filter_map(|(dot, _)| domain.get(dot + 1..))
                .any(|parent| found(self.domains.get(parent).and_then(|domain| domain.below.as_ref())))
    }

    /// All sets of lists that share an entry.
    pub fn sets(&self) -> impl Iterator<Item = (Set, &[ListId])> {
        (0..).map(Set).zip(self.sets.iter().map(|lists| &**lists))
    }

    fn lists(&self, Set(index): Set) -> &[ListId] {
        let lists = usize::try_from(index).ok().and_then(|index| self.sets.get(index));
        lists.map_or(&[], |lists| lists)
    }
}

/// Sets of lists, each once.
#[derive(Default)]
struct Sets {
    list: Vec<Box<[ListId]>>,
    known: QuickMap<Box<[ListId]>, Set>,
}

impl Sets {
    /// Nothing for the empty set.
    fn set(&mut self, lists: Vec<ListId>) -> Option<Set> {
        if lists.is_empty() {
            return None;
        }
        let lists: Box<[ListId]> = lists.into();
        let next = Set(u32::try_from(self.list.len()).ok()?);
        Some(*self.known.entry(lists).or_insert_with_key(|lists| {
            self.list.push(lists.clone());
            next
        }))
    }
}

impl Paths {
    fn new<'e>(entries: impl Iterator<Item = (&'e PathPattern, ListId)>, sets: &mut Sets) -> Option<Self> {
        let (mut all, mut every) = (Vec::new(), Vec::new());
        let mut paths = BTreeMap::<&str, [Vec<ListId>; 2]>::new();
        for (path, list) in entries {
            let lists = match path {
                PathPattern::Any => &mut every,
                PathPattern::Exactly(path) => {
                    let [exactly, _] = paths.entry(path).or_default();
                    exactly
                }
                PathPattern::Prefix(path) => {
                    let [_, prefix] = paths.entry(path).or_default();
                    prefix
                }
            };
            // The entries of one list after those of another.
            for lists in [lists, &mut all] {
                if lists.last() != Some(&list) {
                    lists.push(list);
                }
            }
        }
        if all == every {
            return sets.set(all).map(Self::Any);
        }
        let paths = paths.into_iter().map(|(path, [exactly, prefix])| {
            (Box::from(path), PathSet { exactly: sets.set(exactly), prefix: sets.set(prefix) })
        });
        let tree = Nested::of_prefixes(paths.collect::<Vec<_>>());
        Some(Self::Some(Box::new(PathSets { all: sets.set(all)?, every: sets.set(every), tree })))
    }

    fn any(&self, path: Option<&str>, mut found: impl FnMut(Set) -> bool) -> bool {
        match (self, path) {
            (Self::Any(set), _) => found(*set),
            (Self::Some(sets), None) => found(sets.all),
            (Self::Some(sets), Some(path)) => {
                sets.every.is_some_and(&mut found)
                    || sets.tree.beginning(path).any(|(beginning, set)| {
                        set.prefix.is_some_and(&mut found)
                            || beginning == path && set.exactly.is_some_and(&mut found)
                    })
            }
        }
    }
}

impl DomainPattern {
    /// Reads `example.com`, `*.example.com` or `*example.com`.
    pub fn parse(text: &str) -> Result<Self, UrlListError> {
        let (scope, domain) = match (text.strip_prefix("*."), text.strip_prefix('*')) {
            (Some(domain), _) => (Scope::Below, domain),
            (None, Some(domain)) => (Scope::Both, domain),
            (None, None) => (Scope::Itself, text),
        };
        if domain.contains('*') {
            return Err(UrlListError::Star(Excerpt::new(text)));
        }
        let host = HostName::parse(domain)
            .map_err(|error| UrlListError::Domain { text: Excerpt::new(text), error })?;
        if scope != Scope::Itself && host.ip().is_some() {
            return Err(UrlListError::StarAddress(Excerpt::new(text)));
        }
        Ok(Self { domain: host.as_str().into(), scope })
    }

    /// Whether a host is meant.
    pub fn matches(&self, host: &str) -> bool {
        let Some(host) = normal(host) else { return false };
        match host.strip_suffix(&*self.domain) {
            Some("") => self.scope != Scope::Below,
            Some(rest) => self.scope != Scope::Itself && rest.ends_with('.'),
            None => false,
        }
    }
}

impl PathPattern {
    fn parse(entry: &str, text: &str) -> Result<Self, UrlListError> {
        if text.is_empty() {
            return Ok(Self::Any);
        }
        let (text, prefix) = match text.strip_suffix('*') {
            Some(text) => (text, true),
            None => (text, false),
        };
        if text.contains('*') {
            return Err(UrlListError::Star(Excerpt::new(entry)));
        }
        let path = RequestPath::parse(text)
            .map_err(|error| UrlListError::Path { text: Excerpt::new(entry), error })?;
        Ok(if prefix { Self::Prefix(path.path().into()) } else { Self::Exactly(path.path().into()) })
    }
}

/// The domain of an entry, and the path with its slash.
fn parts(text: &str) -> (&str, &str) {
    text.find('/').map_or((text, ""), |slash| text.split_at(slash))
}

/// The normal form of a host, without work where it has it already, as what rules pass nearly always does.
fn normal(host: &str) -> Option<Cow<'_, str>> {
    let known = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
    let plain = |label: &str| !label.is_empty() && label.bytes().all(known);
    // Whatever ends in a number is an address, or nothing.
    let last = host.rsplit('.').next().unwrap_or(host);
    let named = last.bytes().any(|byte| byte.is_ascii_lowercase()) && !last.starts_with("0x");
    let address = || Ipv4Addr::from_str(host).is_ok();
    if host.split('.').all(plain) && (named || address()) {
        return Some(Cow::Borrowed(host));
    }
    // Hosts on the wire are ASCII.
    let host = HostName::parse(host).ok().filter(|_| host.is_ascii())?;
    Some(Cow::Owned(host.as_str().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct List(UrlLists);

    impl List {
        fn contains(&self, value: &str) -> bool {
            self.0.contains(self.0.get("list").unwrap(), value)
        }
    }

    fn list(entries: &[&str]) -> List {
        let entries = entries.iter().map(|entry| UrlEntry::parse(entry).unwrap()).collect();
        List(UrlLists::new([("list".to_owned(), entries)]))
    }

    /// What no row of the documented table matches.
    const THE_FOUR: [&str; 4] = [
        "myexample.com/",
        "example.com.bad.com/",
        "us13.altostrat.com/go/example.com/path",
        "www.google.com/search?q=example.com",
    ];

    #[test]
    fn the_documented_table_holds_row_by_row() {
        let table: [(&str, &[&str], &[&str]); 9] = [
            (
                "*example.com",
                &[
                    "example.com/",
                    "server.example.com/",
                    "sample.server.example.com/",
                    "example.com/path",
                    "example.com/path?q=query",
                    "example.com/path/subpath",
                    "sample.server.example.com/path/",
                ],
                &[],
            ),
            (
                "*.example.com",
                &["server.example.com/", "sample.server.example.com/", "sample.server.example.com/path/"],
                &["example.com/", "example.com/path", "example.com/path/subpath"],
            ),
            (
                "example.com",
                &["example.com/", "example.com/path", "example.com/path/subpath"],
                &["server.example.com/", "sample.server.example.com/", "sample.server.example.com/path/"],
            ),
            (
                "*server.example.com",
                &["server.example.com/", "sample.server.example.com/path", "sample.server.example.com/path/"],
                &["example.com/", "example.com/path", "example.com/path/subpath"],
            ),
            (
                "*example.com/",
                &["example.com/", "server.example.com/", "sample.server.example.com/"],
                &["example.com/path/", "example.com/path/subpath", "sample.server.example.com/path/"],
            ),
            (
                "*example.com/path*",
                &["example.com/path", "example.com/path/subpath", "sample.server.example.com/path/"],
                &["example.com/", "server.example.com/", "sample.server.com/"],
            ),
            (
                "*example.com/path/*",
                &["example.com/path/subpath", "sample.server.example.com/path/"],
                &["example.com/", "server.example.com/", "sample.server.example.com/", "example.com/path"],
            ),
            (
                "*example.com/path/",
                &["sample.server.example.com/path/"],
                &[
                    "example.com/",
                    "sample.example.com/",
                    "sample.server.example.com/",
                    "example.com/path",
                    "example.com/path/subpath",
                ],
            ),
            (
                "example.com/",
                &["example.com/"],
                &[
                    "server.example.com/",
                    "sample.server.example.com/",
                    "example.com/path",
                    "server.example.com/path",
                ],
            ),
        ];
        for (pattern, matching, others) in table {
            let list = list(&[pattern]);
            for value in matching {
                assert!(list.contains(value), "{pattern} matches {value}");
            }
            for value in THE_FOUR.iter().chain(others) {
                assert!(!list.contains(value), "{pattern} does not match {value}");
            }
        }
    }

    #[test]
    fn a_value_without_a_slash_is_compared_with_domains_alone() {
        let list = list(&["pay.example/checkout/*", "*.bank.example", "192.0.2.1", "bücher.example"]);
        for (value, contained) in [
            ("pay.example", true),
            ("a.pay.example", false),
            ("a.bank.example", true),
            ("bank.example", false),
            ("A.BANK.example.", true),
            ("192.0.2.1", true),
            ("2.1", false),
            ("xn--bcher-kva.example", true),
            // No host on the wire.
            ("bücher.example", false),
            ("", false),
            ("a b.bank.example", false),
            ("x..bank.example", false),
            ("a.bank.example:443", false),
        ] {
            assert_eq!(list.contains(value), contained, "{value}");
        }
    }

    #[test]
    fn hosts_ignore_case_and_paths_do_not() {
        let list = list(&["Example.COM/Path/%7Ea*"]);
        for (value, contained) in [
            ("EXAMPLE.com/Path/~a/b", true),
            ("example.com/path/~a/b", false),
            ("https://example.com/Path/~a", false),
        ] {
            assert_eq!(list.contains(value), contained, "{value}");
        }
    }

    #[test]
    fn what_is_neither_domain_nor_url_is_refused() {
        for (entry, expected) in [
            ("localhost", "neither a domain"),
            ("", "neither a domain"),
            ("*", "neither a domain"),
            ("/path", "neither a domain"),
            ("/a.b", "the host is empty"),
            ("https://example.com/", "has a scheme"),
            ("example.com:443", "has a port"),
            ("example.com/a?b", "has a query"),
            ("ex*mple.com", "has a `*`"),
            ("**.example.com", "has a `*`"),
            ("example.com/*/b", "has a `*`"),
            ("example.com/**", "has a `*`"),
            ("*192.0.2.1", "before an address"),
            ("127.1", "looks like a number"),
            ("example.com/a b", "must be escaped"),
            ("example.com/é", "must be escaped"),
            ("*.", "the host is empty"),
        ] {
            let error = UrlEntry::parse(entry).unwrap_err().to_string();
            assert!(error.contains(expected), "{entry}: {error}");
        }
    }

    #[test]
    fn domain_patterns_are_whole_labels() {
        for (pattern, host, matches) in [
            ("*.mesh.example", "a.mesh.example", true),
            ("*.mesh.example", "mesh.example", false),
            ("*mesh.example", "mesh.example", true),
            ("*mesh.example", "mymesh.example", false),
            ("mesh.example", "MESH.example", true),
            ("mesh.example", "a.mesh.example", false),
        ] {
            assert_eq!(DomainPattern::parse(pattern).unwrap().matches(host), matches, "{pattern} {host}");
        }
    }
}
