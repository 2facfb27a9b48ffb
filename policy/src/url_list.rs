//! URL lists: hosts and URLs, with `*` as a prefix of the domain (whole labels) and as a suffix of the path.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::excerpt::Excerpt;
use crate::host::{HostError, HostName};
use crate::path::{PathError, RequestPath};

/// A compiled list.
#[derive(Clone, Debug, Default)]
pub struct UrlList {
    /// By domain, so that a look-up costs what the host has labels, whatever the length of the list.
    entries: HashMap<Box<str>, Vec<Entry>>,
}

/// A domain as lists write it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DomainPattern {
    domain: Box<str>,
    scope: Scope,
}

#[derive(Clone, Debug)]
struct Entry {
    scope: Scope,
    path: PathPattern,
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

#[derive(Clone, Debug, Eq, PartialEq)]
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

impl UrlList {
    /// Adds an entry.
    pub fn add(&mut self, text: &str) -> Result<(), UrlListError> {
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
        let (domain, path) = match text.find('/') {
            Some(slash) => text.split_at(slash),
            None => (text, ""),
        };
        let path = PathPattern::parse(text, path)?;
        let DomainPattern { domain, scope } = DomainPattern::parse(domain)?;
        self.entries.entry(domain).or_default().push(Entry { scope, path });
        Ok(())
    }

    /// Whether a host or URL is in the list. What has no slash is compared with the domains alone.
    pub fn contains(&self, value: &str) -> bool {
        let (domain, path) = match value.find('/') {
            Some(slash) => {
                let (domain, path) = value.split_at(slash);
                (domain, Some(path.split(['?', '#']).next().unwrap_or(path)))
            }
            None => (value, None),
        };
        let Some(domain) = normal(domain) else { return false };
        let found = |key: &str, scopes: [Scope; 2]| {
            self.entries.get(key).is_some_and(|entries| {
                entries.iter().any(|entry| {
                    scopes.contains(&entry.scope) && path.is_none_or(|path| entry.path.matches(path))
                })
            })
        };
        found(&domain, [Scope::Itself, Scope::Both])
            || domain
                .match_indices('.')
                .filter_map(|(dot, _)| domain.get(dot + 1..))
                .any(|parent| found(parent, [Scope::Below, Scope::Both]))
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

    fn matches(&self, path: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exactly(exact) => **exact == *path,
            Self::Prefix(prefix) => path.starts_with(&**prefix),
        }
    }
}

/// The normal form of a host, without work where it has it already, as what rules pass nearly always does.
fn normal(host: &str) -> Option<Cow<'_, str>> {
    let labels = host.split('.');
    let plain = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
            && label.bytes().any(|byte| byte.is_ascii_lowercase())
            && !label.starts_with("xn--")
            && !label.starts_with("0x")
    };
    if labels.into_iter().all(plain) {
        return Some(Cow::Borrowed(host));
    }
    HostName::parse(host).ok().map(|host| Cow::Owned(host.as_str().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[&str]) -> UrlList {
        let mut list = UrlList::default();
        for entry in entries {
            list.add(entry).unwrap();
        }
        list
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
            ("BÜCHER.example", true),
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
            let error = UrlList::default().add(entry).unwrap_err().to_string();
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
