//! Request headers as rules see them.

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

/// Headers by lower-case name; repeated ones are joined with `,`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Headers(BTreeMap<String, String>);

impl Headers {
    /// Collects `(name, value)` pairs in the order in which they were sent. Values that are not UTF-8 are read
    /// as Latin-1.
    pub fn new<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
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
        Self(headers)
    }

    /// The headers of a request as rules see them: without those of one hop, those that `connection` names and
    /// those that only proxies may say; `host` is the normal form of the authority, without port.
    pub fn of_request<'a>(
        host: &'a HostName,
        pairs: impl Iterator<Item = (&'a str, &'a [u8])> + Clone,
    ) -> Self {
        let named: Vec<String> = pairs
            .clone()
            .filter(|(name, _)| name.eq_ignore_ascii_case("connection"))
            .flat_map(|(_, value)| value.split(|byte| *byte == b','))
            .map(|name| String::from_utf8_lossy(name.trim_ascii()).to_ascii_lowercase())
            .collect();
        let kept = pairs.filter(|(name, _)| {
            let name = name.to_ascii_lowercase();
            !ONE_HOP.contains(&name.as_str())
                && !named.contains(&name)
                && !OURS.iter().any(|prefix| name.starts_with(prefix))
        });
        Self::new(std::iter::once(("host", host.as_str().as_bytes())).chain(kept))
    }

    /// The value of a header; `name` is in lower case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The names, in lower case.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// How many different names there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
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
        let headers = Headers::of_request(&host, sent.into_iter());
        assert_eq!(headers, Headers::new([("host", b"a.example".as_slice()), ("accept", b"*/*")]));
    }
}
