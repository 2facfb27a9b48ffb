//! What must be so for a matcher to be anything but false, for the index: an alternative of clauses, each a few
//! predicates on fields. It asks for less than the matcher, never for more: whatever it does not understand, it
//! leaves out. Where a matcher would fail, or is unknown, the requirement is met.

use std::sync::Arc;

use super::program::{Comparison, Condition, Mapping, Number, Substring, Test, Text};
use crate::address::Cidr;
use crate::attribute::Attribute;
use crate::url_list::ListId;

/// How many clauses a requirement may have.
const MOST_CLAUSES: usize = 32;
/// How many predicates a clause may have.
const MOST_PREDICATES: usize = 12;

/// Clauses of which one must be met; no clause at all is never met, an empty clause always is.
#[derive(Clone, Debug)]
pub struct Requirement(Vec<Clause>);

/// Predicates that must all be met.
pub type Clause = Vec<Predicate>;

/// Met if the field has one of these keys.
#[derive(Clone, Debug)]
pub struct Predicate {
    /// What is looked at.
    pub field: Field,
    /// What is looked for.
    pub keys: Vec<Key>,
    /// Whether it is met, too, if the field is absent or unknown: the matcher fails then.
    pub absent: bool,
}

/// What a predicate looks at.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Field {
    /// A text.
    Text(Attribute),
    /// A header, by its name in lower case.
    Header(Arc<str>),
    /// The names of all headers.
    HeaderNames,
    /// A number.
    Number(Attribute),
    /// The address of the client.
    SourceIp,
    /// The service accounts of the client.
    ServiceAccounts,
    /// The tags of the client.
    Tags,
    /// A list of texts.
    Texts(Attribute),
}

/// What a predicate looks for.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Key {
    /// This text.
    Exactly(Arc<str>),
    /// A text that begins like this.
    Prefix(Arc<str>),
    /// A text that ends like this.
    Suffix(Arc<str>),
    /// A text that this list has.
    Listed(ListId),
    /// This number.
    Number(i64),
    /// An address in this range.
    Range(Cidr),
}

/// Whether a condition is met by what it is not.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Not {
    False,
    True,
}

impl Requirement {
    /// For the condition to be anything but false.
    pub fn of(condition: &Condition) -> Self {
        Self::when(condition, Not::False)
    }

    /// The clauses.
    pub fn clauses(&self) -> &[Clause] {
        &self.0
    }

    /// Both.
    pub fn and(self, other: Self) -> Self {
        if self.0.len() * other.0.len() > MOST_CLAUSES {
            // Either alone asks for less, which is allowed.
            return if self.0.len() <= other.0.len() { self } else { other };
        }
        let both = self.0.iter().flat_map(|left| {
            other.0.iter().map(|right| left.iter().chain(right).take(MOST_PREDICATES).cloned().collect())
        });
        Self(both.collect())
    }

    fn always() -> Self {
        Self(vec![Vec::new()])
    }

    fn never() -> Self {
        Self(Vec::new())
    }

    fn one(field: Field, keys: impl IntoIterator<Item = Key>, absent: bool) -> Self {
        Self(vec![vec![Predicate { field, keys: keys.into_iter().collect(), absent }]])
    }

    fn when(condition: &Condition, not: Not) -> Self {
        match (&condition.test, not) {
            (Test::Constant(value), _) => {
                if *value == (not == Not::False) {
                    Self::always()
                } else {
                    Self::never()
                }
            }
            (Test::Not(inner), Not::False) => Self::when(inner, Not::True),
            (Test::Not(inner), Not::True) => Self::when(inner, Not::False),
            (Test::All(parts), Not::False) => Self::all(parts, not).with_guards(parts),
            (Test::Any(parts), Not::True) => Self::all(parts, not),
            (Test::Any(parts), Not::False) | (Test::All(parts), Not::True) => Self::any(parts, not),
            (Test::ExactlyOne(parts), Not::False) => Self::any(parts, not),
            (Test::If(parts), _) => {
                let [condition, yes, no] = &**parts;
                let condition_holds = Self::when(condition, Not::False);
                let condition_fails_to = Self::when(condition, Not::True);
                // A condition that fails is neither false nor true.
                let fails = condition_holds.clone().and(condition_fails_to.clone());
                let yes = condition_holds.and(Self::when(yes, not));
                let no = condition_fails_to.and(Self::when(no, not));
                let branches = [yes, no].into_iter().fold(Self::never(), Self::or);
                if condition.can_fail() { branches.or(fails) } else { branches }
            }
            (Test::CompareTexts(Comparison::Equal, parts), Not::False)
            | (Test::CompareTexts(Comparison::NotEqual, parts), Not::True) => match &**parts {
                [Text::Literal(literal), text] | [text, Text::Literal(literal)] => {
                    Self::of_text(text, std::slice::from_ref(literal).iter(), Key::Exactly)
                }
                _ => Self::always(),
            },
            (Test::AmongLiterals(text, literals), Not::False) => {
                Self::of_text(text, literals.iter(), Key::Exactly)
            }
            (Test::Substring(kind, parts), Not::False) => match (kind, &**parts) {
                (Substring::StartsWith, [text, Text::Literal(literal)]) => {
                    Self::of_text(text, std::slice::from_ref(literal).iter(), Key::Prefix)
                }
                (Substring::EndsWith, [text, Text::Literal(literal)]) => {
                    Self::of_text(text, std::slice::from_ref(literal).iter(), Key::Suffix)
                }
                _ => Self::always(),
            },
            (Test::CompareNumbers(Comparison::Equal, parts), Not::False)
            | (Test::CompareNumbers(Comparison::NotEqual, parts), Not::True) => match &**parts {
                [Number::Attribute(attribute), Number::Literal(number)]
                | [Number::Literal(number), Number::Attribute(attribute)] => {
                    Self::one(Field::Number(*attribute), [Key::Number(*number)], false)
                }
                _ => Self::always(),
            },
            (Test::AmongNumberLiterals(Number::Attribute(attribute), numbers), Not::False) => {
                Self::one(Field::Number(*attribute), numbers.iter().copied().map(Key::Number), false)
            }
            (Test::AmongAttribute(Text::Literal(literal), attribute), Not::False) => {
                Self::one(Field::Texts(*attribute), [Key::Exactly(Arc::clone(literal))], true)
            }
            (Test::HasHeader(Text::Literal(name)), Not::False) => {
                Self::one(Field::HeaderNames, [Key::Exactly(Arc::clone(name))], false)
            }
            (Test::SourceInRange(range), Not::False) => {
                Self::one(Field::SourceIp, [Key::Range(range.masked())], false)
            }
            (Test::InUrlList(text, _, list), Not::False) => match field(text) {
                Some((field, absent)) => Self::one(field, [Key::Listed(*list)], absent),
                None => Self::always(),
            },
            (Test::HasTag(Text::Literal(tag)), Not::False) => {
                Self::one(Field::Tags, [Key::Exactly(Arc::clone(tag))], false)
            }
            (Test::HasServiceAccount(Text::Literal(account)), Not::False) => {
                Self::one(Field::ServiceAccounts, [Key::Exactly(Arc::clone(account))], false)
            }
            _ => Self::always(),
        }
    }

    fn all(parts: &[Condition], not: Not) -> Self {
        parts.iter().map(|part| Self::when(part, not)).fold(Self::always(), Self::and)
    }

    fn any(parts: &[Condition], not: Not) -> Self {
        let mut any = Self::never();
        for part in parts {
            any = any.or(Self::when(part, not));
            if any.0.iter().any(Vec::is_empty) {
                break;
            }
        }
        any
    }

    /// Either.
    fn or(mut self, other: Self) -> Self {
        for clause in other.0 {
            // Alternatives of one field are one predicate: `a == 'x' || a == 'y'`.
            let same = match clause.as_slice() {
                [one] => self.0.iter_mut().find_map(|known| match known.as_mut_slice() {
                    [known] if known.field == one.field => Some(known),
                    _ => None,
                }),
                _ => None,
            };
            match (same, clause) {
                (Some(known), mut clause) => {
                    for predicate in &mut clause {
                        known.keys.append(&mut predicate.keys);
                        known.absent |= predicate.absent;
                    }
                }
                (None, clause) => self.0.push(clause),
            }
        }
        if self.0.iter().any(Vec::is_empty) {
            return Self::always();
        }
        if self.0.len() > MOST_CLAUSES { self.common() } else { self }
    }

    /// Asks for less, by one clause of the fields that all clauses have.
    fn common(self) -> Self {
        let Some((first, rest)) = self.0.split_first() else { return self };
        let common = first.iter().filter_map(|predicate| {
            let mut common = predicate.clone();
            for clause in rest {
                let same = clause.iter().find(|other| other.field == predicate.field)?;
                common.keys.extend_from_slice(&same.keys);
                common.absent |= same.absent;
            }
            Some(common)
        });
        Self(vec![common.collect()])
    }

    /// `has(request.headers.a) && request.headers.a == 'x'` never fails for want of the header.
    fn with_guards(mut self, parts: &[Condition]) -> Self {
        for guard in parts.iter().map(|part| &part.test) {
            let guards = |field: &Field| match (guard, field) {
                (Test::HasHeader(Text::Literal(name)), Field::Header(header)) => name == header,
                (Test::HasAttribute(present), Field::Text(field) | Field::Texts(field)) => {
                    present == field && !field.is_sniffed()
                }
                (Test::Flag(Attribute::SourceMtls), Field::Text(field) | Field::Texts(field)) => {
                    matches!(
                        field,
                        Attribute::CertificateDnsSans
                            | Attribute::CertificateIssuer
                            | Attribute::CertificateSerial
                            | Attribute::CertificateSha256
                            | Attribute::CertificateSubject
                            | Attribute::CertificateUriSans
                    )
                }
                _ => false,
            };
            for predicate in self.0.iter_mut().flatten().filter(|predicate| guards(&predicate.field)) {
                predicate.absent = false;
            }
        }
        self
    }

    /// For a text to be one of these, or to begin or end like one of these.
    fn of_text<'l>(
        text: &Text,
        literals: impl Iterator<Item = &'l Arc<str>>,
        key: impl Fn(Arc<str>) -> Key,
    ) -> Self {
        let keys = literals.map(|literal| key(Arc::clone(literal)));
        match text {
            Text::Attribute(Attribute::RequestUrl) => Self::of_url(&keys.collect::<Vec<_>>()),
            Text::Attribute(Attribute::SourceIp) => Self::of_ip(&keys.collect::<Vec<_>>()),
            _ => match field(text) {
                Some((field, absent)) => Self::one(field, keys, absent),
                None => Self::always(),
            },
        }
    }

    /// `request.url()` is the host, which has no slash, and the path, which begins with one unless it is `*`.
    fn of_url(keys: &[Key]) -> Self {
        let (mut hosts, mut paths) = (Vec::new(), Vec::new());
        for key in keys {
            let (Key::Exactly(text) | Key::Prefix(text)) = key else { return Self::always() };
            match text.find('/').and_then(|slash| text.split_at_checked(slash)) {
                Some((host, path)) => {
                    hosts.push(Key::Exactly(host.into()));
                    paths.push(match key {
                        Key::Exactly(_) => Key::Exactly(path.into()),
                        _ => Key::Prefix(path.into()),
                    });
                }
                None if text.contains('*') || matches!(key, Key::Exactly(_)) => return Self::always(),
                None => {
                    hosts.push(key.clone());
                    paths.push(Key::Prefix("".into()));
                }
            }
        }
        Self::one(Field::Text(Attribute::Host), hosts, false).and(Self::one(
            Field::Text(Attribute::RequestPath),
            paths,
            false,
        ))
    }

    /// `source.ip` as text is the usual form of the address.
    fn of_ip(keys: &[Key]) -> Self {
        let mut ranges = Vec::new();
        for key in keys {
            let Key::Exactly(text) = key else { return Self::always() };
            // What is no address is never equal.
            ranges.extend(text.parse().ok().map(|ip| Key::Range(Cidr::of_one(ip))));
        }
        Self::one(Field::SourceIp, ranges, false)
    }
}

/// The field that a text is, and whether it can be absent.
fn field(text: &Text) -> Option<(Field, bool)> {
    Some(match text {
        Text::Attribute(Attribute::RequestHost) => (Field::Header("host".into()), true),
        Text::Attribute(Attribute::RequestUserAgent) => (Field::Header("user-agent".into()), true),
        Text::Attribute(attribute) => (Field::Text(*attribute), !attribute.is_always_known()),
        Text::Header(name) => match &**name {
            Text::Literal(name) => (Field::Header(Arc::clone(name)), true),
            _ => return None,
        },
        // Hosts are in lower case already.
        Text::Mapped(Mapping::Lower | Mapping::LowerAscii, text)
            if matches!(&**text, Text::Attribute(Attribute::Host)) =>
        {
            (Field::Text(Attribute::Host), false)
        }
        _ => return None,
    })
}

impl Condition {
    /// Whether it can fail or be unknown, where its attributes can be asked for at all.
    pub fn can_fail(&self) -> bool {
        let fails =
            |text: &Text| !matches!(text, Text::Literal(_)) && field(text).is_none_or(|(_, absent)| absent);
        match &self.test {
            Test::Constant(_) | Test::Flag(_) | Test::SourceInRange(_) => false,
            Test::All(parts) | Test::Any(parts) | Test::ExactlyOne(parts) => parts.iter().any(Self::can_fail),
            Test::Not(part) => part.can_fail(),
            Test::If(parts) => parts.iter().any(Self::can_fail),
            Test::Same(parts) => parts.iter().any(Self::can_fail),
            Test::CompareTexts(_, parts) | Test::Substring(_, parts) => parts.iter().any(fails),
            Test::Matches(text, _) | Test::AmongLiterals(text, _) | Test::InUrlList(text, _, _) => {
                fails(text)
            }
            Test::AmongTexts(text, texts) => fails(text) || texts.iter().any(fails),
            Test::HasHeader(text) | Test::HasTag(text) | Test::HasServiceAccount(text) => fails(text),
            Test::CompareNumbers(_, parts) => parts.iter().any(Number::can_fail),
            Test::AmongNumberLiterals(number, _) => number.can_fail(),
            Test::AmongNumbers(number, numbers) => number.can_fail() || numbers.iter().any(Number::can_fail),
            Test::HasAttribute(attribute) => attribute.is_sniffed(),
            Test::CompareTimes(..) | Test::AmongAttribute(..) | Test::InRange(..) | Test::Items(..) => true,
        }
    }
}

impl Number {
    fn can_fail(&self) -> bool {
        !matches!(self, Self::Literal(_) | Self::Attribute(_))
    }
}
