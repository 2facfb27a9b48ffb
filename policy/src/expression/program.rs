//! The typed program that a matcher becomes.

use std::sync::Arc;

use time::{OffsetDateTime, UtcOffset};

use super::regex::Regex;
use crate::address::Cidr;
use crate::attribute::Attribute;
use crate::hash::QuickSet;
use crate::url_list::{ListId, UrlLists};

/// What is true, or false, or fails.
#[derive(Debug)]
pub struct Condition {
    /// What is asked.
    pub test: Test,
    /// The node that it was; none for what only joins others.
    pub node: Option<u64>,
}

/// What a condition asks.
#[derive(Debug)]
pub enum Test {
    /// `true`, `false`
    Constant(bool),
    /// `a && b && …`
    All(Box<[Condition]>),
    /// `a || b || …`
    Any(Box<[Condition]>),
    /// `[…].exists_one(…)` over what is written out.
    ExactlyOne(Box<[Condition]>),
    /// `!a`
    Not(Box<Condition>),
    /// `a ? b : c`
    If(Box<[Condition; 3]>),
    /// `a == b` of conditions.
    Same(Box<[Condition; 2]>),
    /// `source.mtls`
    Flag(Attribute),
    /// Texts, compared by code point.
    CompareTexts(Comparison, Box<[Text; 2]>),
    /// Numbers, compared.
    CompareNumbers(Comparison, Box<[Number; 2]>),
    /// Times, compared.
    CompareTimes(Comparison, Box<[Time; 2]>),
    /// `a.contains(b)` and its like.
    Substring(Substring, Box<[Text; 2]>),
    /// `a.matches('…')`
    Matches(Text, Arc<Regex>),
    /// `a in ['…', …]` of literals.
    AmongLiterals(Text, QuickSet<Arc<str>>),
    /// `a in [b, …]`
    AmongTexts(Text, Box<[Text]>),
    /// `a in [1, …]` of literals, in order.
    AmongNumberLiterals(Number, Box<[i64]>),
    /// `a in [b, …]`
    AmongNumbers(Number, Box<[Number]>),
    /// `a in source.certificate.dnsSans`
    AmongAttribute(Text, Attribute),
    /// `a in request.headers`, `has(request.headers.a)`
    HasHeader(Text),
    /// `has(source.certificate.spiffeId)`
    HasAttribute(Attribute),
    /// `inIpRange(a, '…')`
    InRange(Text, Cidr),
    /// `inIpRange(source.ip, '…')`
    SourceInRange(Cidr),
    /// `inUrlList(a, '…')`
    InUrlList(Text, Arc<UrlLists>, ListId),
    /// `source.matchTag(a)`
    HasTag(Text),
    /// `source.matchServiceAccount(a)`
    HasServiceAccount(Text),
    /// `source.certificate.dnsSans.exists(name, …)` and its like.
    Items(Quantifier, Attribute, Box<Condition>),
}

/// How two things of one type compare.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Comparison {
    /// `==`
    Equal,
    /// `!=`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}

/// Where a text has another.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Substring {
    /// Anywhere.
    Contains,
    /// At its start.
    StartsWith,
    /// At its end.
    EndsWith,
}

/// For how many items a condition holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Quantifier {
    /// `all`
    All,
    /// `exists`
    Exists,
    /// `exists_one`
    ExactlyOne,
}

/// What gives a text.
#[derive(Debug)]
pub enum Text {
    /// `'a'`
    Literal(Arc<str>),
    /// `host()`
    Attribute(Attribute),
    /// `request.headers['a']`
    Header(Box<Text>),
    /// The item that `exists` and its like look at.
    Item,
    /// `a + b`
    Joined(Box<[Text; 2]>),
    /// `a.lower()` and its like.
    Mapped(Mapping, Box<Text>),
    /// `string(1)`
    OfNumber(Box<Number>),
    /// `string(true)`
    OfCondition(Box<Condition>),
    /// `string(request.time)`
    OfTime(Box<Time>),
    /// `a ? b : c`
    If(Box<(Condition, Text, Text)>),
}

/// How letters change.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mapping {
    /// `lower()`
    Lower,
    /// `lowerAscii()`
    LowerAscii,
    /// `upper()`
    Upper,
    /// `upperAscii()`
    UpperAscii,
}

/// What gives a number.
#[derive(Debug)]
pub enum Number {
    /// `1`
    Literal(i64),
    /// `destination.port`
    Attribute(Attribute),
    /// `a + b` and its like.
    Calculated(Arithmetic, Box<[Number; 2]>),
    /// `-a`
    Negated(Box<Number>),
    /// `int('1')`
    OfText(Box<Text>),
    /// `int(request.time)`
    OfTime(Box<Time>),
    /// `size('a')`
    SizeOfText(Box<Text>),
    /// `size(source.certificate.dnsSans)`
    SizeOfAttribute(Attribute),
    /// `request.time.getHours()` and its like.
    Part(TimePart, Box<Time>, UtcOffset),
    /// `a ? b : c`
    If(Box<(Condition, Number, Number)>),
}

/// Arithmetic with numbers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Arithmetic {
    /// `+`
    Add,
    /// `-`
    Subtract,
    /// `*`
    Multiply,
    /// `/`
    Divide,
    /// `%`
    Remainder,
}

/// What gives a time.
#[derive(Debug)]
pub enum Time {
    /// `timestamp('2026-01-01T00:00:00Z')`
    Literal(OffsetDateTime),
    /// `request.time`
    Attribute(Attribute),
    /// `a ? b : c`
    If(Box<(Condition, Time, Time)>),
}

/// A part of a time; months, weekdays and days of a year count from 0, as CEL does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TimePart {
    /// From 1.
    Date,
    /// From 0.
    DayOfMonth,
    /// From 0, which is Sunday.
    DayOfWeek,
    /// From 0.
    DayOfYear,
    /// The year.
    FullYear,
    /// The hour.
    Hours,
    /// Within the second.
    Milliseconds,
    /// The minute.
    Minutes,
    /// From 0.
    Month,
    /// The second.
    Seconds,
}

/// What is known of the first bytes of a tunnel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sniffing {
    /// Any session to one host is meant: whatever depends on more than its name is unknown.
    AnySession,
    /// They have not been read: what depends on them is unknown.
    NotYet,
    /// What they tell is known; attributes that they do not have are absent.
    Done,
}

impl Condition {
    /// A condition that only joins others.
    pub fn joining(test: Test) -> Self {
        Self { test, node: None }
    }
}
