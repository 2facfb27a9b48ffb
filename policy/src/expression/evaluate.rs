//! Three-valued logic: true, false, or a failure. `true || failure` is true and `false && failure` is false, in
//! either order; everything else that meets a failure fails. What only sniffing can tell is a failure too, and
//! goes before the others.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::cmp::Ordering;
use std::net::IpAddr;
use std::str::FromStr;

use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime, UtcOffset};

use super::program::{
    Arithmetic, Comparison, Condition, Mapping, Number, Quantifier, Sniffing, Substring, Test, Text, Time,
    TimePart,
};
use crate::attribute::Attribute;
use crate::excerpt::Excerpt;
use crate::session::{ClientCertificate, Request, Session};

/// What a matcher is asked about.
pub struct Facts<'a> {
    session: &'a Session<'a>,
    sniffing: Sniffing,
    request: Option<RequestFacts<'a>>,
    source_ip: OnceCell<String>,
}

#[derive(Debug)]
struct RequestFacts<'a> {
    request: &'a Request<'a>,
    /// The reading of the path that is judged.
    path: &'a str,
    url: OnceCell<String>,
}

/// Why a matcher gave no answer.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Failure {
    /// Only the first bytes of the tunnel tell.
    #[error("the first bytes of the tunnel have not been read")]
    Unknown,
    /// `m['k']` without such a key.
    #[error("there is no header `{0}`")]
    MissingHeader(Excerpt),
    /// An attribute that this connection does not have.
    #[error("`{0}` is absent")]
    Absent(&'static str),
    /// `int('x')`
    #[error("`{0}` is no whole number")]
    NoNumber(Excerpt),
    /// `inIpRange('x', …)`
    #[error("`{0}` is no IP address")]
    NoAddress(Excerpt),
    /// More than 64 bits.
    #[error("a number is beyond 64 bits")]
    Overflow,
    /// By zero.
    #[error("a division by zero")]
    DivisionByZero,
}

/// One evaluation: the facts, and the item that a quantifier looks at.
#[derive(Clone, Copy)]
struct Frame<'a, 'f> {
    facts: &'f Facts<'a>,
    item: &'f str,
}

impl<'a> Facts<'a> {
    /// Of a session before any request.
    pub fn of_session(session: &'a Session<'a>, sniffing: Sniffing) -> Self {
        Self { session, sniffing, request: None, source_ip: OnceCell::new() }
    }

    /// Of a request whose path is read in this way.
    pub fn of_request(session: &'a Session<'a>, request: &'a Request<'a>, path: &'a str) -> Self {
        let request = RequestFacts { request, path, url: OnceCell::new() };
        Self { session, sniffing: Sniffing::Done, request: Some(request), source_ip: OnceCell::new() }
    }

    /// What is known of all sessions to one host is its name alone.
    fn known(&self, attribute: Attribute) -> Result<(), Failure> {
        if attribute == Attribute::Host { Ok(()) } else { self.known_client() }
    }

    /// Whether it is one session, and not any.
    pub(crate) fn known_client(&self) -> Result<(), Failure> {
        if self.sniffing == Sniffing::AnySession { Err(Failure::Unknown) } else { Ok(()) }
    }

    pub(crate) fn text(&self, attribute: Attribute) -> Result<&str, Failure> {
        self.known(attribute)?;
        let absent = || Failure::Absent(attribute.name());
        let text = match attribute {
            Attribute::Host => Some(self.session.destination.host.as_str()),
            Attribute::SourceIp => {
                Some(self.source_ip.get_or_init(|| self.client_ip().to_canonical().to_string()).as_str())
            }
            Attribute::CertificateIssuer => self.certificate().map(|certificate| certificate.issuer.as_str()),
            Attribute::CertificateSerial => self.certificate().map(|certificate| certificate.serial.as_str()),
            Attribute::CertificateSha256 => self.certificate().map(|certificate| certificate.sha256.as_str()),
            Attribute::CertificateSpiffeId => self.certificate().and_then(ClientCertificate::spiffe_id),
            Attribute::CertificateSubject => {
                self.certificate().map(|certificate| certificate.subject.as_str())
            }
            Attribute::ConnectionJa4 | Attribute::ConnectionSni | Attribute::ConnectionTlsVersion => {
                return self.connection(attribute);
            }
            Attribute::RequestHost => self.header("host"),
            Attribute::RequestMethod => self.request.as_ref().map(|facts| facts.request.method),
            Attribute::RequestPath => self.request.as_ref().map(|facts| facts.path),
            Attribute::RequestQuery => {
                self.request.as_ref().map(|facts| facts.request.path.query().unwrap_or_default())
            }
            Attribute::RequestScheme => self.request.as_ref().map(|facts| facts.request.scheme.as_str()),
            Attribute::RequestUrl => self.request.as_ref().map(|facts| {
                let host = self.session.destination.host.as_str();
                facts.url.get_or_init(|| format!("{host}{}", facts.path)).as_str()
            }),
            Attribute::RequestUserAgent => self.header("user-agent"),
            Attribute::CertificateDnsSans
            | Attribute::CertificateNotAfter
            | Attribute::CertificateUriSans
            | Attribute::DestinationPort
            | Attribute::RequestHeaders
            | Attribute::RequestTime
            | Attribute::SourceMtls
            | Attribute::SourcePort => None,
        };
        text.ok_or_else(absent)
    }

    pub(crate) fn number(&self, attribute: Attribute) -> Result<i64, Failure> {
        self.known(attribute)?;
        match attribute {
            Attribute::SourcePort => Ok(i64::from(self.session.circumstances.client().port())),
            Attribute::DestinationPort => Ok(i64::from(self.session.destination.port)),
            _ => Err(Failure::Absent(attribute.name())),
        }
    }

    pub(super) fn time(&self, attribute: Attribute) -> Result<OffsetDateTime, Failure> {
        self.known(attribute)?;
        match attribute {
            Attribute::RequestTime => Some(self.session.circumstances.now()),
            Attribute::CertificateNotAfter => self.certificate().map(|certificate| certificate.not_after),
            _ => None,
        }
        .ok_or(Failure::Absent(attribute.name()))
    }

    pub(crate) fn texts(&self, attribute: Attribute) -> Result<&[String], Failure> {
        self.known(attribute)?;
        match attribute {
            Attribute::CertificateDnsSans => {
                self.certificate().map(|certificate| certificate.dns_sans.as_slice())
            }
            Attribute::CertificateUriSans => {
                self.certificate().map(|certificate| certificate.uri_sans.as_slice())
            }
            _ => None,
        }
        .ok_or(Failure::Absent(attribute.name()))
    }

    pub(super) fn flag(&self, attribute: Attribute) -> Result<bool, Failure> {
        self.known(attribute)?;
        Ok(attribute == Attribute::SourceMtls && self.session.certificate.is_some())
    }

    pub(crate) fn header(&self, name: &str) -> Option<&'a str> {
        self.request.as_ref().and_then(|facts| facts.request.headers.get(name))
    }

    pub(crate) fn identity(&self) -> &'a crate::source::Identity {
        self.session.identity
    }

    /// The names of the headers.
    pub(crate) fn header_names(&self) -> impl Iterator<Item = &'a str> {
        self.request.iter().flat_map(|facts| facts.request.headers.names())
    }

    /// The address of the client.
    pub(crate) fn client_ip(&self) -> IpAddr {
        self.session.circumstances.client().ip()
    }

    fn known_identity(&self) -> Result<&'a crate::source::Identity, Failure> {
        self.known_client().map(|()| self.identity())
    }

    fn certificate(&self) -> Option<&'a ClientCertificate> {
        self.session.certificate
    }

    fn connection(&self, attribute: Attribute) -> Result<&'a str, Failure> {
        match (self.session.connection, self.sniffing) {
            (None, Sniffing::NotYet) => Err(Failure::Unknown),
            (connection, _) => connection
                .and_then(|connection| match attribute {
                    Attribute::ConnectionJa4 => connection.ja4,
                    Attribute::ConnectionSni => connection.sni,
                    _ => connection.tls_version,
                })
                .ok_or(Failure::Absent(attribute.name())),
        }
    }

    fn has(&self, attribute: Attribute) -> Result<bool, Failure> {
        let present = match attribute {
            Attribute::CertificateDnsSans | Attribute::CertificateUriSans => self.texts(attribute).map(drop),
            Attribute::CertificateNotAfter | Attribute::RequestTime => self.time(attribute).map(drop),
            Attribute::DestinationPort | Attribute::SourcePort => self.number(attribute).map(drop),
            Attribute::RequestHeaders | Attribute::SourceMtls => self.known(attribute),
            _ => self.text(attribute).map(drop),
        };
        match present {
            Ok(()) => Ok(true),
            Err(Failure::Unknown) => Err(Failure::Unknown),
            Err(_) => Ok(false),
        }
    }
}

impl Condition {
    /// Whether it holds.
    pub fn holds(&self, facts: &Facts<'_>) -> Result<bool, Failure> {
        self.evaluate(Frame { facts, item: "" })
    }

    fn evaluate(&self, frame: Frame<'_, '_>) -> Result<bool, Failure> {
        let facts = frame.facts;
        match &self.test {
            Test::Constant(value) => Ok(*value),
            Test::All(conditions) => {
                absorbing(conditions.iter().map(|condition| condition.evaluate(frame)), false)
            }
            Test::Any(conditions) => {
                absorbing(conditions.iter().map(|condition| condition.evaluate(frame)), true)
            }
            Test::ExactlyOne(conditions) => {
                exactly_one(conditions.iter().map(|condition| condition.evaluate(frame)))
            }
            Test::Not(condition) => condition.evaluate(frame).map(|value| !value),
            Test::If(parts) => {
                let [condition, yes, no] = &**parts;
                if condition.evaluate(frame)? { yes.evaluate(frame) } else { no.evaluate(frame) }
            }
            Test::Same(parts) => {
                let [left, right] = &**parts;
                Ok(left.evaluate(frame)? == right.evaluate(frame)?)
            }
            Test::Flag(attribute) => facts.flag(*attribute),
            Test::CompareTexts(comparison, parts) => {
                let [left, right] = &**parts;
                let (left, right) = (left.evaluate(frame)?, right.evaluate(frame)?);
                Ok(comparison.holds(|| left == right, || left.cmp(&right)))
            }
            Test::CompareNumbers(comparison, parts) => {
                let [left, right] = &**parts;
                let (left, right) = (left.evaluate(frame)?, right.evaluate(frame)?);
                Ok(comparison.holds(|| left == right, || left.cmp(&right)))
            }
            Test::CompareTimes(comparison, parts) => {
                let [left, right] = &**parts;
                let (left, right) = (left.evaluate(frame)?, right.evaluate(frame)?);
                Ok(comparison.holds(|| left == right, || left.cmp(&right)))
            }
            Test::Substring(kind, parts) => {
                let [text, part] = &**parts;
                let (text, part) = (text.evaluate(frame)?, part.evaluate(frame)?);
                Ok(match kind {
                    Substring::Contains => text.contains(&*part),
                    Substring::StartsWith => text.starts_with(&*part),
                    Substring::EndsWith => text.ends_with(&*part),
                })
            }
            Test::Matches(text, regex) => Ok(regex.is_match(&text.evaluate(frame)?)),
            Test::AmongLiterals(text, literals) => Ok(literals.contains(&*text.evaluate(frame)?)),
            Test::AmongTexts(text, texts) => {
                let text = text.evaluate(frame)?;
                among(texts.iter().map(|other| Ok(text == other.evaluate(frame)?)))
            }
            Test::AmongNumberLiterals(number, literals) => {
                Ok(literals.binary_search(&number.evaluate(frame)?).is_ok())
            }
            Test::AmongNumbers(number, numbers) => {
                let number = number.evaluate(frame)?;
                among(numbers.iter().map(|other| Ok(number == other.evaluate(frame)?)))
            }
            Test::AmongAttribute(text, attribute) => {
                let text = text.evaluate(frame)?;
                Ok(facts.texts(*attribute)?.iter().any(|item| **item == *text))
            }
            Test::HasHeader(name) => Ok(facts.header(&name.evaluate(frame)?).is_some()),
            Test::HasAttribute(attribute) => facts.has(*attribute),
            Test::InRange(ip, range) => {
                let text = ip.evaluate(frame)?;
                Ok(range.contains(address(&text)?))
            }
            Test::SourceInRange(range) => {
                facts.known_client()?;
                Ok(range.contains(facts.client_ip()))
            }
            Test::InUrlList(text, lists, list) => Ok(lists.contains(*list, &text.evaluate(frame)?)),
            Test::HasTag(tag) => Ok(facts.known_identity()?.has_tag(&tag.evaluate(frame)?)),
            Test::HasServiceAccount(account) => {
                Ok(facts.known_identity()?.has_service_account(&account.evaluate(frame)?))
            }
            Test::Items(quantifier, attribute, condition) => {
                let items = facts.texts(*attribute)?.iter();
                let outcomes = items.map(|item| condition.evaluate(Frame { facts, item }));
                match quantifier {
                    Quantifier::All => absorbing(outcomes, false),
                    Quantifier::Exists => absorbing(outcomes, true),
                    Quantifier::ExactlyOne => exactly_one(outcomes),
                }
            }
        }
    }
}

/// `&&` with `false`, `||` with `true`: one of these decides, whatever fails beside it.
fn absorbing(outcomes: impl Iterator<Item = Result<bool, Failure>>, decisive: bool) -> Result<bool, Failure> {
    let mut failure = None;
    for outcome in outcomes {
        match outcome {
            Ok(value) if value == decisive => return Ok(decisive),
            Ok(_) => {}
            Err(Failure::Unknown) => failure = Some(Failure::Unknown),
            Err(other) => failure = failure.or(Some(other)),
        }
    }
    failure.map_or(Ok(!decisive), Err)
}

/// Whether any is; a list of which an element fails is no list.
fn among(outcomes: impl Iterator<Item = Result<bool, Failure>>) -> Result<bool, Failure> {
    let mut found = false;
    for outcome in outcomes {
        found |= outcome?;
    }
    Ok(found)
}

fn exactly_one(outcomes: impl Iterator<Item = Result<bool, Failure>>) -> Result<bool, Failure> {
    let mut count = 0_usize;
    for outcome in outcomes {
        count += usize::from(outcome?);
    }
    Ok(count == 1)
}

/// An address, also as `host()` writes it.
fn address(text: &str) -> Result<IpAddr, Failure> {
    let plain = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    IpAddr::from_str(plain).map_err(|_| Failure::NoAddress(Excerpt::new(text)))
}

impl Comparison {
    fn holds(self, equal: impl Fn() -> bool, order: impl Fn() -> Ordering) -> bool {
        match self {
            Self::Equal => equal(),
            Self::NotEqual => !equal(),
            Self::Less => order().is_lt(),
            Self::LessOrEqual => order().is_le(),
            Self::Greater => order().is_gt(),
            Self::GreaterOrEqual => order().is_ge(),
        }
    }
}

impl Text {
    pub(super) fn value(&self, facts: &Facts<'_>) -> Result<String, Failure> {
        self.evaluate(Frame { facts, item: "" }).map(Cow::into_owned)
    }

    fn evaluate<'e>(&'e self, frame: Frame<'_, 'e>) -> Result<Cow<'e, str>, Failure> {
        match self {
            Self::Literal(text) => Ok(Cow::Borrowed(text)),
            Self::Attribute(attribute) => frame.facts.text(*attribute).map(Cow::Borrowed),
            Self::Header(name) => {
                let name = name.evaluate(frame)?;
                frame
                    .facts
                    .header(&name)
                    .map(Cow::Borrowed)
                    .ok_or_else(|| Failure::MissingHeader(Excerpt::new(&name)))
            }
            Self::Item => Ok(Cow::Borrowed(frame.item)),
            Self::Joined(parts) => {
                let [left, right] = &**parts;
                let (left, right) = (left.evaluate(frame)?, right.evaluate(frame)?);
                Ok(Cow::Owned(left.into_owned() + &right))
            }
            Self::Mapped(mapping, text) => Ok(mapping.apply(text.evaluate(frame)?)),
            Self::OfNumber(number) => Ok(Cow::Owned(number.evaluate(frame)?.to_string())),
            Self::OfCondition(condition) => {
                Ok(Cow::Borrowed(if condition.evaluate(frame)? { "true" } else { "false" }))
            }
            Self::OfTime(time) => {
                let time =
                    time.evaluate(frame)?.checked_to_offset(UtcOffset::UTC).ok_or(Failure::Overflow)?;
                time.format(&Rfc3339).map(Cow::Owned).map_err(|_| Failure::Overflow)
            }
            Self::If(parts) => {
                let (condition, yes, no) = &**parts;
                if condition.evaluate(frame)? { yes.evaluate(frame) } else { no.evaluate(frame) }
            }
        }
    }
}

impl Mapping {
    /// What is in order already is not copied.
    fn apply(self, text: Cow<'_, str>) -> Cow<'_, str> {
        match self {
            Self::Lower if text.is_ascii() => Self::LowerAscii.apply(text),
            Self::Upper if text.is_ascii() => Self::UpperAscii.apply(text),
            Self::Lower => Cow::Owned(text.to_lowercase()),
            Self::Upper => Cow::Owned(text.to_uppercase()),
            Self::LowerAscii if text.bytes().any(|byte| byte.is_ascii_uppercase()) => {
                Cow::Owned(text.to_ascii_lowercase())
            }
            Self::UpperAscii if text.bytes().any(|byte| byte.is_ascii_lowercase()) => {
                Cow::Owned(text.to_ascii_uppercase())
            }
            Self::LowerAscii | Self::UpperAscii => text,
        }
    }
}

impl Number {
    fn evaluate(&self, frame: Frame<'_, '_>) -> Result<i64, Failure> {
        match self {
            Self::Literal(number) => Ok(*number),
            Self::Attribute(attribute) => frame.facts.number(*attribute),
            Self::Calculated(operation, parts) => {
                let [left, right] = &**parts;
                operation.apply(left.evaluate(frame)?, right.evaluate(frame)?)
            }
            Self::Negated(number) => number.evaluate(frame)?.checked_neg().ok_or(Failure::Overflow),
            Self::OfText(text) => {
                let text = text.evaluate(frame)?;
                text.parse().map_err(|_| Failure::NoNumber(Excerpt::new(&text)))
            }
            Self::OfTime(time) => Ok(time.evaluate(frame)?.unix_timestamp()),
            Self::SizeOfText(text) => size(text.evaluate(frame)?.chars().count()),
            Self::SizeOfAttribute(Attribute::RequestHeaders) => {
                size(frame.facts.request.as_ref().map_or(0, |facts| facts.request.headers.len()))
            }
            Self::SizeOfAttribute(attribute) => size(frame.facts.texts(*attribute)?.len()),
            Self::Part(part, time, offset) => part.at(time.evaluate(frame)?, *offset),
            Self::If(parts) => {
                let (condition, yes, no) = &**parts;
                if condition.evaluate(frame)? { yes.evaluate(frame) } else { no.evaluate(frame) }
            }
        }
    }
}

fn size(count: usize) -> Result<i64, Failure> {
    i64::try_from(count).map_err(|_| Failure::Overflow)
}

impl Arithmetic {
    fn apply(self, left: i64, right: i64) -> Result<i64, Failure> {
        let result = match self {
            Self::Add => left.checked_add(right),
            Self::Subtract => left.checked_sub(right),
            Self::Multiply => left.checked_mul(right),
            Self::Divide | Self::Remainder if right == 0 => return Err(Failure::DivisionByZero),
            Self::Divide => left.checked_div(right),
            Self::Remainder => left.checked_rem(right),
        };
        result.ok_or(Failure::Overflow)
    }
}

impl Time {
    fn evaluate(&self, frame: Frame<'_, '_>) -> Result<OffsetDateTime, Failure> {
        match self {
            Self::Literal(time) => Ok(*time),
            Self::Attribute(attribute) => frame.facts.time(*attribute),
            Self::If(parts) => {
                let (condition, yes, no) = &**parts;
                if condition.evaluate(frame)? { yes.evaluate(frame) } else { no.evaluate(frame) }
            }
        }
    }
}

impl TimePart {
    fn at(self, time: OffsetDateTime, offset: UtcOffset) -> Result<i64, Failure> {
        if let Some(time) = time.checked_to_offset(offset) {
            return Ok(self.of(time));
        }
        // It is the year 10000 there, which has no `OffsetDateTime`; but 400 years earlier all is the same.
        let earlier =
            time.checked_sub(Duration::days(146_097)).and_then(|time| time.checked_to_offset(offset));
        let part = self.of(earlier.ok_or(Failure::Overflow)?);
        Ok(if self == Self::FullYear { part + 400 } else { part })
    }

    fn of(self, time: OffsetDateTime) -> i64 {
        match self {
            Self::Date => i64::from(time.day()),
            Self::DayOfMonth => i64::from(time.day()) - 1,
            Self::DayOfWeek => i64::from(time.weekday().number_days_from_sunday()),
            Self::DayOfYear => i64::from(time.ordinal()) - 1,
            Self::FullYear => i64::from(time.year()),
            Self::Hours => i64::from(time.hour()),
            Self::Milliseconds => i64::from(time.millisecond()),
            Self::Minutes => i64::from(time.minute()),
            Self::Month => i64::from(u8::from(time.month())) - 1,
            Self::Seconds => i64::from(time.second()),
        }
    }
}
