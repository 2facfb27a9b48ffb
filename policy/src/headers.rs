//! Request headers as rules see them.

use std::cell::OnceCell;
use std::collections::BTreeMap;

use crate::host::HostName;

/// Headers of one hop, which neither rules nor origins see.
const ONE_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "host",
];

/// Prefixes of headers that only proxies may say.
const OURS: [&str; 2] = ["x-outgate-", "x-envoy-"];

/// Headers by lower-case name; repeated ones are joined with `,`. They are sorted out when a rule first asks.
#[derive(Clone, Debug, Default)]
pub struct Headers {
    sent: Vec<(String, Vec<u8>)>,
    /// Whom the request is for, unless they are taken as they are.
    host: Option<HostName>,
    by_name: OnceCell<BTreeMap<String, String>>,
}

impl Headers {
    /// Collects `(name, value)` pairs in the order in which they were sent. Values that are not UTF-8 are read
    /// as Latin-1.
    pub fn new<N: Into<String>, V: Into<Vec<u8>>>(pairs: impl IntoIterator<Item = (N, V)>) -> Self {
        let sent = pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        Self { sent, ..Self::default() }
    }

    /// The headers of a request as rules see them: without those of one hop, those that `connection` names and
    /// those that only proxies may say; `host` is the normal form of the authority, without port.
    pub fn of_request<N: Into<String>, V: Into<Vec<u8>>>(
        host: &HostName,
        pairs: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        Self { host: Some(host.clone()), ..Self::new(pairs) }
    }

    fn by_name(&self) -> &BTreeMap<String, String> {
        self.by_name.get_or_init(|| {
            let Some(host) = &self.host else { return join(self.sent()) };
            let named: Vec<String> = self
                .sent()
                .filter(|(name, _)| name.eq_ignore_ascii_case("connection"))
                .flat_map(|(_, value)| value.split(|byte| *byte == b','))
                .map(|name| String::from_utf8_lossy(name.trim_ascii()).to_ascii_lowercase())
                .collect();
            let kept = self.sent().filter(|(name, _)| {
                let name = name.to_ascii_lowercase();
                !ONE_HOP.contains(&name.as_str())
                    && !named.contains(&name)
                    && !OURS.iter().any(|prefix| name.starts_with(prefix))
            });
            join(std::iter::once(("host", host.as_str().as_bytes())).chain(kept))
        })
    }

    fn sent(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.sent.iter().map(|(name, value)| (name.as_str(), value.as_slice()))
    }

    /// The value of a header; `name` is in lower case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.by_name().get(name).map(String::as_str)
    }

    /// The names, in lower case.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name().keys().map(String::as_str)
    }

    /// How many different names there are.
    pub fn len(&self) -> usize {
        self.by_name().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_name().is_empty()
    }
}

impl PartialEq for Headers {
    fn eq(&self, other: &Self) -> bool {
        self.by_name() == other.by_name()
    }
}

fn join<'a>(pairs: impl Iterator<Item = (&'a str, &'a [u8])>) -> BTreeMap<String, String> {
    let mut headers = BTreeMap::<String, String>::new();
    for (name, value) in pairs {
        let value = std::str::from_utf8(value)
            .map_or_else(|_| value.iter().copied().map(char::from).collect(), str::to_owned);
        headers
            .entry(name.to_ascii_lowercase())
            .and_modify(|joined| {
                joined.push(',');
                joined.push_str(&value);
            })
            .or_insert(value);
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_lower_case_repeats_joined_and_odd_bytes_latin_1() {
        let headers = Headers::new([
            ("X-Team", b"a".as_slice()),
            ("accept", "é".as_bytes()),
            ("x-team", b"b"),
            ("latin", b"\xe9"),
        ]);
        assert_eq!(headers.get("x-team"), Some("a,b"));
        assert_eq!(headers.get("accept"), Some("é"));
        assert_eq!(headers.get("latin"), Some("é"));
        assert_eq!(headers.get("absent"), None);
        assert_eq!(headers.len(), 3);
    }

    #[test]
    fn rules_see_what_the_origin_would_see() {
        let host = HostName::parse("a.example").unwrap();
        let sent: [(&str, &[u8]); 8] = [
            ("Host", b"evil.example:8080"),
            ("Connection", b"close, X-Secret"),
            ("x-secret", b"1"),
            ("proxy-authorization", b"1"),
            ("X-Outgate-Route", b"1"),
            ("x-envoy-internal", b"1"),
            ("te", b"trailers"),
            ("accept", b"*/*"),
        ];
        let headers = Headers::of_request(&host, sent);
        assert_eq!(headers, Headers::new([("host", b"a.example".as_slice()), ("accept", b"*/*")]));
    }
}
