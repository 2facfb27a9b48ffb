//! Who is calling: tags and service accounts, from `outgate.sources`.

use crate::address::Cidr;
use crate::excerpt::Excerpt;
use crate::session::Client;
use crate::url_list::DomainPattern;

/// The tags and service accounts of a client.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Identity {
    tags: Vec<String>,
    service_accounts: Vec<String>,
}

/// An entry of `outgate.sources`: whoever meets all its conditions has its identities.
#[derive(Clone, Debug)]
pub struct Source {
    pub(crate) cidrs: Vec<Cidr>,
    pub(crate) spiffe_ids: Vec<SpiffePattern>,
    pub(crate) dns_names: Vec<DomainPattern>,
    pub(crate) header: Option<TrustedHeader>,
    pub(crate) tags: Vec<String>,
    pub(crate) service_account: Option<String>,
}

/// A header that says who calls, if it comes from where it may come from.
#[derive(Clone, Debug)]
pub struct TrustedHeader {
    /// Its name, in lower case.
    pub name: String,
    /// Its whole value.
    pub value: String,
    /// Who may send it; from everyone else it must be removed.
    pub from: Vec<Cidr>,
}

/// A SPIFFE id, exact or with a final `/*` for one or more whole segments.
#[derive(Clone, Debug)]
pub struct SpiffePattern {
    /// Without the `*`, with the slash before it.
    id: Box<str>,
    prefix: bool,
}

/// Why a SPIFFE id was refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("`{0}` is no SPIFFE id; write `spiffe://trust-domain/path`, perhaps with a final `/*`")]
pub struct SpiffeError(Excerpt);

impl Identity {
    /// Of these, without repetitions and in order.
    pub fn new(mut tags: Vec<String>, mut service_accounts: Vec<String>) -> Self {
        for names in [&mut tags, &mut service_accounts] {
            names.sort_unstable();
            names.dedup();
        }
        Self { tags, service_accounts }
    }

    /// What the sources say of a client: the sum of all entries that it meets.
    pub(crate) fn of(sources: &[Source], client: &Client<'_>) -> Self {
        let (mut tags, mut service_accounts) = (Vec::new(), Vec::new());
        for source in sources.iter().filter(|source| source.matches(client)) {
            tags.extend(source.tags.iter().cloned());
            service_accounts.extend(source.service_account.iter().cloned());
        }
        Self::new(tags, service_accounts)
    }

    /// The tags, in order.
    pub fn tags(&self) -> &[String] {
        &self.tags
    }

    /// The service accounts, in order.
    pub fn service_accounts(&self) -> &[String] {
        &self.service_accounts
    }

    /// Whether the client has this tag.
    pub fn has_tag(&self, tag: &str) -> bool {
        self.tags.binary_search_by(|known| known.as_str().cmp(tag)).is_ok()
    }

    /// Whether the client runs as this service account.
    pub fn has_service_account(&self, account: &str) -> bool {
        self.service_accounts.binary_search_by(|known| known.as_str().cmp(account)).is_ok()
    }

    /// This, and what `other` adds.
    pub fn and(self, other: Self) -> Self {
        let Self { mut tags, mut service_accounts } = self;
        tags.extend(other.tags);
        service_accounts.extend(other.service_accounts);
        Self::new(tags, service_accounts)
    }
}

impl Source {
    /// The header that this entry trusts.
    pub fn header(&self) -> Option<&TrustedHeader> {
        self.header.as_ref()
    }

    fn matches(&self, client: &Client<'_>) -> bool {
        let spiffe_id = client.certificate.and_then(|certificate| certificate.spiffe_id());
        let dns_sans = client.certificate.map_or(&[][..], |certificate| &certificate.dns_sans);
        let any_or_unasked = |asked: bool, met: bool| !asked || met;
        any_or_unasked(!self.cidrs.is_empty(), self.cidrs.iter().any(|range| range.contains(client.ip)))
            && any_or_unasked(
                !self.spiffe_ids.is_empty(),
                self.spiffe_ids.iter().any(|pattern| spiffe_id.is_some_and(|id| pattern.matches(id))),
            )
            && any_or_unasked(
                !self.dns_names.is_empty(),
                self.dns_names.iter().any(|pattern| dns_sans.iter().any(|name| pattern.matches(name))),
            )
            && self.header.as_ref().is_none_or(|header| header.matches(client))
    }
}

impl TrustedHeader {
    fn matches(&self, client: &Client<'_>) -> bool {
        self.from.iter().any(|range| range.contains(client.ip))
            && client.headers.and_then(|headers| headers.get(&self.name)) == Some(&self.value)
    }
}

impl SpiffePattern {
    /// Reads an id or a pattern.
    pub fn parse(text: &str) -> Result<Self, SpiffeError> {
        let error = || SpiffeError(Excerpt::new(text));
        let (id, prefix) = match text.strip_suffix("/*") {
            Some(_) => (text.strip_suffix('*').unwrap_or(text), true),
            None => (text, false),
        };
        let rest = id.strip_prefix("spiffe://").ok_or_else(error)?;
        let rest = if prefix { rest.strip_suffix('/').unwrap_or(rest) } else { rest };
        let mut segments = rest.split('/');
        let trust_domain = segments.next().unwrap_or_default();
        let domain_byte = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
        let path_byte = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        if trust_domain.is_empty()
            || !trust_domain.bytes().all(domain_byte)
            || !segments.all(|segment| !segment.is_empty() && segment.bytes().all(path_byte))
        {
            return Err(error());
        }
        Ok(Self { id: id.into(), prefix })
    }

    fn matches(&self, id: &str) -> bool {
        if self.prefix {
            id.strip_prefix(&*self.id)
                .is_some_and(|rest| rest.split('/').all(|segment| !matches!(segment, "" | "." | "..")))
        } else {
            *self.id == *id
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::Headers;
    use crate::session::ClientCertificate;
    use time::OffsetDateTime;

    fn certificate(uri: &str, dns: &str) -> ClientCertificate {
        ClientCertificate {
            subject: String::new(),
            issuer: String::new(),
            serial: String::new(),
            sha256: String::new(),
            uri_sans: vec![uri.to_owned()],
            dns_sans: vec![dns.to_owned()],
            not_after: OffsetDateTime::UNIX_EPOCH,
        }
    }

    fn source() -> Source {
        Source {
            cidrs: Vec::new(),
            spiffe_ids: Vec::new(),
            dns_names: Vec::new(),
            header: None,
            tags: vec!["t".to_owned()],
            service_account: None,
        }
    }

    #[test]
    fn spiffe_patterns_match_whole_segments_of_one_trust_domain() {
        for (pattern, id, matches) in [
            ("spiffe://mesh/ns/build/*", "spiffe://mesh/ns/build/sa", true),
            ("spiffe://mesh/ns/build/*", "spiffe://mesh/ns/build/sa/x", true),
            ("spiffe://mesh/ns/build/*", "spiffe://mesh/ns/build", false),
            ("spiffe://mesh/ns/build/*", "spiffe://mesh/ns/build/", false),
            ("spiffe://mesh/ns/build/*", "spiffe://mesh/ns/builder/sa", false),
            ("spiffe://mesh/ns/build/*", "spiffe://mesh/ns/build/../x", false),
            ("spiffe://mesh/ns/build/*", "spiffe://mesh.evil/ns/build/sa", false),
            ("spiffe://mesh/a", "spiffe://mesh/a", true),
            ("spiffe://mesh/a", "spiffe://mesh/A", false),
            ("spiffe://mesh/*", "spiffe://mesh/a", true),
            ("spiffe://mesh/*", "spiffe://mesh", false),
        ] {
            assert_eq!(SpiffePattern::parse(pattern).unwrap().matches(id), matches, "{pattern} {id}");
        }
        for text in [
            "spiffe://*/a",
            "spiffe:///a",
            "https://mesh/a",
            "spiffe://mesh/*/a",
            "spiffe://mesh//a",
            "*",
            "spiffe://Mesh/a",
        ] {
            assert!(SpiffePattern::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_entry_is_met_when_all_its_conditions_are() {
        let cidrs = vec![Cidr::parse("10.1.0.0/16").unwrap()];
        let spiffe_ids = vec![SpiffePattern::parse("spiffe://mesh/*").unwrap()];
        let dns_names = vec![DomainPattern::parse("*.mesh.example").unwrap()];
        let header = TrustedHeader { name: "x-user".to_owned(), value: "ci".to_owned(), from: cidrs.clone() };
        let by_address = Source { cidrs: cidrs.clone(), ..source() };
        let by_spiffe = Source { spiffe_ids: spiffe_ids.clone(), ..source() };
        let by_dns = Source { dns_names, ..source() };
        let by_header = Source { header: Some(header), ..source() };
        let by_both = Source { cidrs, spiffe_ids, ..source() };
        let good = certificate("spiffe://mesh/a", "a.mesh.example");
        let other = certificate("spiffe://other/a", "mesh.example");
        let headers = Headers::new([("X-User", b"ci".as_slice())]);
        for (source, ip, certificate, headers, met) in [
            (&by_address, "10.1.0.1", None, None, true),
            (&by_address, "::ffff:10.1.0.1", None, None, true),
            (&by_address, "10.2.0.1", None, None, false),
            (&by_spiffe, "10.2.0.1", Some(&good), None, true),
            (&by_spiffe, "10.2.0.1", Some(&other), None, false),
            (&by_spiffe, "10.2.0.1", None, None, false),
            (&by_dns, "10.2.0.1", Some(&good), None, true),
            (&by_dns, "10.2.0.1", Some(&other), None, false),
            (&by_header, "10.1.0.1", None, Some(&headers), true),
            (&by_header, "10.2.0.1", None, Some(&headers), false),
            (&by_header, "10.1.0.1", None, None, false),
            (&by_both, "10.1.0.1", Some(&good), None, true),
            (&by_both, "10.1.0.1", None, None, false),
            (&by_both, "10.2.0.1", Some(&good), None, false),
        ] {
            let client = Client { ip: ip.parse().unwrap(), port: 1, certificate, headers };
            assert_eq!(source.matches(&client), met, "{source:?} {ip}");
        }
    }

    #[test]
    fn all_entries_that_are_met_add_up() {
        let entry = |tag: &str, account: Option<&str>| Source {
            cidrs: vec![Cidr::parse("0.0.0.0/0").unwrap()],
            tags: vec![tag.to_owned()],
            service_account: account.map(str::to_owned),
            ..source()
        };
        let sources = [entry("b", None), entry("a", Some("x@y")), entry("b", None)];
        let client = Client { ip: "10.0.0.1".parse().unwrap(), port: 1, certificate: None, headers: None };
        let identity = Identity::of(&sources, &client);
        assert_eq!(identity.tags(), ["a", "b"]);
        assert_eq!(identity.service_accounts(), ["x@y"]);
        assert!(identity.has_tag("a") && !identity.has_tag("c") && identity.has_service_account("x@y"));
    }
}
