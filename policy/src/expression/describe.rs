//! Why a matcher holds, or not, or fails: the part of it that decided, and the values that it saw.

use super::evaluate::{Facts, Failure};
use super::parse::{Span, parse};
use super::program::{Condition, Number, Test, Text, Time};
use crate::attribute::{Attribute, Kind, TABLE};
use crate::excerpt::Excerpt;

/// How many of several parts are told.
const MOST_PARTS: usize = 3;

/// Tells which part of a matcher decided, with the values that it saw.
pub fn describe(condition: &Condition, source: &str, facts: &Facts<'_>) -> String {
    let mut parts = Vec::new();
    deciding(condition, facts, &mut parts);
    let more = parts.len().saturating_sub(MOST_PARTS);
    // It was parsed when it was compiled, too.
    let parsed = parse(source).ok();
    let text = |part: &Condition| {
        let Span { start, end } = parsed.as_ref()?.span_of(part.node?);
        source.get(start..end)
    };
    let mut told: Vec<_> =
        parts.iter().take(MOST_PARTS).map(|part| tell(part, text(part).unwrap_or_default(), facts)).collect();
    if more > 0 {
        told.push(format!("and {more} more"));
    }
    told.join("; ")
}

/// The conditions that made the outcome what it is.
fn deciding<'c>(condition: &'c Condition, facts: &Facts<'_>, parts: &mut Vec<&'c Condition>) {
    let outcome = condition.holds(facts);
    match &condition.test {
        Test::All(conditions) | Test::Any(conditions) => {
            // What absorbs decides alone; without it all decide together, and one that failed decides before them.
            let absorbing = Ok(matches!(condition.test, Test::Any(_)));
            let alone = outcome == absorbing || outcome.is_err();
            let same = conditions.iter().filter(|condition| condition.holds(facts) == outcome);
            for condition in same.take(if alone { 1 } else { usize::MAX }) {
                deciding(condition, facts, parts);
            }
        }
        Test::Not(condition) => deciding(condition, facts, parts),
        Test::If(branches) => {
            let [condition, yes, no] = &**branches;
            match condition.holds(facts) {
                Ok(true) => deciding(yes, facts, parts),
                Ok(false) => deciding(no, facts, parts),
                Err(_) => deciding(condition, facts, parts),
            }
        }
        _ => parts.push(condition),
    }
}

fn tell(condition: &Condition, text: &str, facts: &Facts<'_>) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let text = if text.is_empty() { "a part of it".to_owned() } else { format!("`{}`", Excerpt::new(&text)) };
    match condition.holds(facts) {
        Err(Failure::Unknown) => format!("{text} is unknown until the first bytes of the tunnel are read"),
        Err(failure) => format!("{text} failed: {failure}"),
        Ok(outcome) => {
            let mut values = Vec::new();
            condition_values(condition, facts, &mut values);
            let separator = if values.is_empty() { "" } else { ": " };
            format!("{text} is {outcome}{separator}{}", values.join(", "))
        }
    }
}

fn add(values: &mut Vec<String>, value: String) {
    if !values.contains(&value) {
        values.push(value);
    }
}

fn condition_values(condition: &Condition, facts: &Facts<'_>, values: &mut Vec<String>) {
    match &condition.test {
        Test::Same(parts) => parts.iter().for_each(|part| condition_values(part, facts, values)),
        Test::All(parts) | Test::Any(parts) | Test::ExactlyOne(parts) => {
            parts.iter().for_each(|part| condition_values(part, facts, values));
        }
        Test::Not(part) => condition_values(part, facts, values),
        Test::If(parts) => parts.iter().for_each(|part| condition_values(part, facts, values)),
        Test::CompareTexts(_, parts) | Test::Substring(_, parts) => {
            parts.iter().for_each(|part| text_values(part, facts, values));
        }
        Test::CompareNumbers(_, parts) => parts.iter().for_each(|part| number_values(part, facts, values)),
        Test::CompareTimes(_, parts) => parts.iter().for_each(|part| time_values(part, facts, values)),
        Test::Matches(text, _)
        | Test::AmongLiterals(text, _)
        | Test::InRange(text, _)
        | Test::InUrlList(text, _, _) => {
            text_values(text, facts, values);
        }
        Test::AmongTexts(text, texts) => {
            text_values(text, facts, values);
            texts.iter().for_each(|text| text_values(text, facts, values));
        }
        Test::AmongNumberLiterals(number, _) => number_values(number, facts, values),
        Test::AmongNumbers(number, numbers) => {
            number_values(number, facts, values);
            numbers.iter().for_each(|number| number_values(number, facts, values));
        }
        Test::AmongAttribute(text, attribute) => {
            text_values(text, facts, values);
            attribute_value(*attribute, facts, values);
        }
        Test::Items(_, attribute, _) => attribute_value(*attribute, facts, values),
        Test::SourceInRange(_) => attribute_value(Attribute::SourceIp, facts, values),
        Test::HasTag(_) => add(values, names("tags", facts.identity().tags())),
        Test::HasServiceAccount(_) => {
            add(values, names("service accounts", facts.identity().service_accounts()))
        }
        Test::Constant(_) | Test::Flag(_) | Test::HasHeader(_) | Test::HasAttribute(_) => {}
    }
}

fn names(what: &str, names: &[String]) -> String {
    if names.is_empty() {
        return format!("the source has no {what}");
    }
    let quoted: Vec<_> = names.iter().take(8).map(|name| format!("`{}`", Excerpt::new(name))).collect();
    format!("the source has the {what} {}", quoted.join(", "))
}

fn text_values(text: &Text, facts: &Facts<'_>, values: &mut Vec<String>) {
    match text {
        Text::Attribute(attribute) => attribute_value(*attribute, facts, values),
        Text::Header(name) => {
            if let Ok(name) = name.value(facts) {
                let value = facts.header(&name).map_or_else(|| "absent".to_owned(), quoted);
                add(values, format!("header `{}` is {value}", Excerpt::new(&name)));
            }
        }
        Text::Joined(parts) => parts.iter().for_each(|part| text_values(part, facts, values)),
        Text::Mapped(_, text) => text_values(text, facts, values),
        Text::OfNumber(number) => number_values(number, facts, values),
        Text::OfCondition(condition) => condition_values(condition, facts, values),
        Text::OfTime(time) => time_values(time, facts, values),
        Text::If(parts) => {
            let (condition, yes, no) = &**parts;
            condition_values(condition, facts, values);
            text_values(yes, facts, values);
            text_values(no, facts, values);
        }
        Text::Literal(_) | Text::Item => {}
    }
}

fn number_values(number: &Number, facts: &Facts<'_>, values: &mut Vec<String>) {
    match number {
        Number::Attribute(attribute) => attribute_value(*attribute, facts, values),
        Number::Calculated(_, parts) => parts.iter().for_each(|part| number_values(part, facts, values)),
        Number::Negated(number) => number_values(number, facts, values),
        Number::OfText(text) | Number::SizeOfText(text) => text_values(text, facts, values),
        Number::OfTime(time) => time_values(time, facts, values),
        Number::Part(_, time, _) => time_values(time, facts, values),
        Number::SizeOfAttribute(attribute) => attribute_value(*attribute, facts, values),
        Number::If(parts) => {
            let (condition, yes, no) = &**parts;
            condition_values(condition, facts, values);
            number_values(yes, facts, values);
            number_values(no, facts, values);
        }
        Number::Literal(_) => {}
    }
}

fn time_values(time: &Time, facts: &Facts<'_>, values: &mut Vec<String>) {
    match time {
        Time::Attribute(attribute) => attribute_value(*attribute, facts, values),
        Time::If(parts) => {
            let (condition, yes, no) = &**parts;
            condition_values(condition, facts, values);
            time_values(yes, facts, values);
            time_values(no, facts, values);
        }
        Time::Literal(_) => {}
    }
}

fn attribute_value(attribute: Attribute, facts: &Facts<'_>, values: &mut Vec<String>) {
    let kind = TABLE.iter().find(|row| row.attribute == attribute).map(|row| row.kind);
    let value = match kind {
        Some(Kind::Text) => facts.text(attribute).map(quoted),
        Some(Kind::Number) => facts.number(attribute).map(|number| number.to_string()),
        Some(Kind::Time) => facts.time(attribute).map(|time| time.to_string()),
        Some(Kind::Texts) => facts.texts(attribute).map(|texts| {
            let texts: Vec<_> = texts.iter().take(8).map(|text| quoted(text)).collect();
            format!("[{}]", texts.join(", "))
        }),
        Some(Kind::Flag | Kind::Headers) | None => return,
    };
    let value = value.unwrap_or_else(|failure| match failure {
        Failure::Unknown => "unknown".to_owned(),
        _ => "absent".to_owned(),
    });
    add(values, format!("{} is {value}", attribute.name()));
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", Excerpt::new(text))
}
