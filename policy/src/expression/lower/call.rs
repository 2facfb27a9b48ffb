//! Functions.

use std::sync::Arc;

use cel::common::ast::{CallExpr, IdedExpr};
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};

use super::{Lowered, Lowering};
use crate::address::Cidr;
use crate::attribute::{self, Attribute};
use crate::document::short_name;
use crate::excerpt::Excerpt;
use crate::expression::program::{Mapping, Number, Substring, Test, Text, Time, TimePart};
use crate::suggestion::did_you_mean;

/// Functions that stand alone, besides those that the attribute table has.
const GLOBAL: [&str; 9] = [
    "has",
    "inIpRange",
    "inUrlList",
    "int",
    "size",
    "source.matchServiceAccount",
    "source.matchTag",
    "string",
    "timestamp",
];

/// Functions of texts, times and lists.
const MEMBER: [&str; 23] = [
    "all",
    "contains",
    "endsWith",
    "exists",
    "exists_one",
    "getDate",
    "getDayOfMonth",
    "getDayOfWeek",
    "getDayOfYear",
    "getFullYear",
    "getHours",
    "getMilliseconds",
    "getMinutes",
    "getMonth",
    "getSeconds",
    "lower",
    "lowerAscii",
    "matches",
    "size",
    "startsWith",
    "upper",
    "upperAscii",
    "existsOne",
];

impl<'p> Lowering<'p, '_> {
    pub(super) fn call(&mut self, node: &'p IdedExpr, call: &'p CallExpr) -> Option<Lowered> {
        if call.target.is_none()
            && let Some(lowered) = self.operator(node, call)
        {
            return lowered;
        }
        let name = &call.func_name;
        let Some(target) = call.target.as_deref() else {
            return self.global(node, name, &call.args);
        };
        if let Some(owner) = self.path(target) {
            let qualified = format!("{owner}.{name}");
            if qualified.starts_with("source.match") || attribute::find(&format!("{qualified}()")).is_some() {
                return self.global(node, &qualified, &call.args);
            }
            if attribute::find(&owner).is_none() && !owner.starts_with("request.headers.") {
                return self.unknown_function(node, &owner, name, &call.args);
            }
        }
        self.member(node, target, name, &call.args)
    }

    fn global(&mut self, node: &'p IdedExpr, name: &str, arguments: &'p [IdedExpr]) -> Option<Lowered> {
        if let Some(row) = attribute::find(&format!("{name}()")) {
            self.count(node, name, arguments, 0)?;
            return self.attribute(node, row);
        }
        match name {
            "source.matchTag" => {
                let [tag] = self.arguments(node, name, arguments)?;
                let tag = self.text(tag, "a tag")?;
                Some(self.test(node, Test::HasTag(tag)))
            }
            "source.matchServiceAccount" => {
                let [account] = self.arguments(node, name, arguments)?;
                let account = self.text(account, "a service account")?;
                Some(self.test(node, Test::HasServiceAccount(account)))
            }
            "inIpRange" => self.in_ip_range(node, name, arguments),
            "inUrlList" => self.in_url_list(node, name, arguments),
            "int" => self.number_of(node, name, arguments),
            "string" => self.text_of(node, name, arguments),
            "size" => {
                let [argument] = self.arguments(node, name, arguments)?;
                self.size(argument)
            }
            "timestamp" => {
                let [argument] = self.arguments(node, name, arguments)?;
                let text = self.literal_text(argument, "what `timestamp` takes")?;
                match OffsetDateTime::parse(text, &Rfc3339).map(|time| time.checked_to_offset(UtcOffset::UTC))
                {
                    // The range of CEL's times.
                    Ok(Some(time)) if (1..=9999).contains(&time.year()) => {
                        Some(Lowered::Time(Time::Literal(time)))
                    }
                    Ok(_) => self.refuse(argument, "times are from the year 1 to the year 9999 in UTC"),
                    Err(_) => self.refuse(
                        argument,
                        format!("`{}` is no time; write it as in `2026-01-31T08:00:00Z`", Excerpt::new(text)),
                    ),
                }
            }
            _ if MEMBER.contains(&name) => {
                self.refuse(node, format!("`{name}` belongs behind a value, as in `host().{name}(…)`"))
            }
            _ => self.unknown_global(node, name, arguments),
        }
    }

    fn unknown_global<T>(&mut self, node: &IdedExpr, name: &str, arguments: &[IdedExpr]) -> Option<T> {
        if arguments.is_empty() {
            return match attribute::find(name) {
                Some(_) => self.refuse(node, format!("`{name}` is no function; leave out `()`")),
                None => self.unknown(node, name),
            };
        }
        let functions = attribute::TABLE.iter().filter_map(|row| row.name.strip_suffix("()"));
        let hint = did_you_mean(name, GLOBAL.into_iter().chain(functions));
        self.refuse(node, format!("unknown function `{name}`{hint}"))
    }

    fn unknown_function<T>(
        &mut self,
        node: &IdedExpr,
        owner: &str,
        name: &str,
        arguments: &[IdedExpr],
    ) -> Option<T> {
        if MEMBER.contains(&name) {
            return self.unknown(node, owner);
        }
        let qualified = format!("{owner}.{name}");
        if attribute::find(&qualified).is_some() {
            return self.refuse(node, format!("`{qualified}` is no function; leave out `()`"));
        }
        self.unknown_global(node, &qualified, arguments)
    }

    fn in_ip_range(&mut self, node: &'p IdedExpr, name: &str, arguments: &'p [IdedExpr]) -> Option<Lowered> {
        let [ip, range] = self.arguments(node, name, arguments)?;
        let ip = self.text(ip, "an IP address");
        let text = self.literal_text(range, "an IP range")?;
        let range = match Cidr::parse(text) {
            Ok(range) => range,
            Err(error) => return self.refuse(range, error.to_string()),
        };
        let test = match ip? {
            Text::Attribute(Attribute::SourceIp) => Test::SourceInRange(range),
            ip => Test::InRange(ip, range),
        };
        Some(self.test(node, test))
    }

    fn in_url_list(&mut self, node: &'p IdedExpr, name: &str, arguments: &'p [IdedExpr]) -> Option<Lowered> {
        let [value, list] = self.arguments(node, name, arguments)?;
        let value = self.text(value, "a host or URL");
        let text = self.literal_text(list, "the name of a URL list")?;
        let lists = self.scope.url_lists;
        let Some(found) = lists.get(short_name(text)) else {
            let hint = did_you_mean(short_name(text), lists.names());
            return self.refuse(list, format!("unknown URL list `{}`{hint}", Excerpt::new(short_name(text))));
        };
        Some(self.test(node, Test::InUrlList(value?, Arc::clone(lists), found)))
    }

    fn number_of(&mut self, node: &'p IdedExpr, name: &str, arguments: &'p [IdedExpr]) -> Option<Lowered> {
        let [argument] = self.arguments(node, name, arguments)?;
        Some(Lowered::Number(match self.node(argument)? {
            Lowered::Number(number) => number,
            Lowered::Text(text) => Number::OfText(Box::new(text)),
            Lowered::Time(time) => Number::OfTime(Box::new(time)),
            other => return self.refuse(argument, format!("`int` takes a text, not {}", other.name())),
        }))
    }

    fn text_of(&mut self, node: &'p IdedExpr, name: &str, arguments: &'p [IdedExpr]) -> Option<Lowered> {
        let [argument] = self.arguments(node, name, arguments)?;
        Some(Lowered::Text(match self.node(argument)? {
            Lowered::Text(text) => text,
            Lowered::Number(number) => Text::OfNumber(Box::new(number)),
            Lowered::Condition(condition) => Text::OfCondition(Box::new(condition)),
            Lowered::Time(time) => Text::OfTime(Box::new(time)),
            other => return self.refuse(argument, format!("`string` does not take {}", other.name())),
        }))
    }

    fn size(&mut self, argument: &'p IdedExpr) -> Option<Lowered> {
        Some(Lowered::Number(match self.node(argument)? {
            Lowered::Text(text) => Number::SizeOfText(Box::new(text)),
            Lowered::TextsAttribute(attribute) => Number::SizeOfAttribute(attribute),
            Lowered::Headers => Number::SizeOfAttribute(Attribute::RequestHeaders),
            other => return self.refuse(argument, format!("`size` does not take {}", other.name())),
        }))
    }

    fn member(
        &mut self,
        node: &'p IdedExpr,
        target: &'p IdedExpr,
        name: &str,
        arguments: &'p [IdedExpr],
    ) -> Option<Lowered> {
        if let Some(kind) = substring(name) {
            let [part] = self.arguments(node, name, arguments)?;
            let (text, part) =
                (self.text(target, "what it is asked of"), self.text(part, "what is looked for"));
            return Some(self.test(node, Test::Substring(kind, Box::new([text?, part?]))));
        }
        if let Some(mapping) = mapping(name) {
            self.count(node, name, arguments, 0)?;
            let text = self.text(target, "what it is asked of")?;
            return Some(Lowered::Text(Text::Mapped(mapping, Box::new(text))));
        }
        if let Some(part) = time_part(name) {
            return self.time_part(node, target, name, part, arguments);
        }
        match name {
            "size" => {
                self.count(node, name, arguments, 0)?;
                self.size(target)
            }
            "matches" => {
                let [pattern] = self.arguments(node, name, arguments)?;
                let text = self.text(target, "what it is asked of");
                let literal = self.literal_text(pattern, "a regular expression")?;
                match self.scope.patterns.regex(literal) {
                    Ok(regex) => Some(self.test(node, Test::Matches(text?, regex))),
                    Err(error) => self.refuse(pattern, error.to_string()),
                }
            }
            "all" | "exists" | "exists_one" | "existsOne" => self.refuse(
                node,
                format!(
                    "`{name}` takes a variable and a condition, as in `['a', 'b'].{name}(x, host() == x)`"
                ),
            ),
            _ => {
                let hint = did_you_mean(name, MEMBER);
                self.refuse(node, format!("unknown function `{name}`{hint}"))
            }
        }
    }

    fn time_part(
        &mut self,
        node: &'p IdedExpr,
        target: &'p IdedExpr,
        name: &str,
        part: TimePart,
        arguments: &'p [IdedExpr],
    ) -> Option<Lowered> {
        let time = match self.node(target)? {
            Lowered::Time(time) => time,
            other => {
                return self
                    .refuse(target, format!("`{name}` is asked of a time, but this is {}", other.name()));
            }
        };
        let offset = match arguments {
            [] => UtcOffset::UTC,
            [zone] => {
                let text = self.literal_text(zone, "a time zone")?;
                match utc_offset(text) {
                    Some(offset) => offset,
                    None => {
                        return self.refuse(
                            zone,
                            format!(
                                "`{}` is no time zone; write an offset such as `+02:00`, or `UTC`",
                                Excerpt::new(text)
                            ),
                        );
                    }
                }
            }
            _ => return self.refuse(node, format!("`{name}` takes nothing or a time zone")),
        };
        Some(Lowered::Number(Number::Part(part, Box::new(time), offset)))
    }

    fn count(&mut self, node: &IdedExpr, name: &str, arguments: &[IdedExpr], expected: usize) -> Option<()> {
        if arguments.len() == expected {
            return Some(());
        }
        let expected = match expected {
            0 => "nothing".to_owned(),
            1 => "1 argument".to_owned(),
            many => format!("{many} arguments"),
        };
        self.refuse(node, format!("`{name}` takes {expected}, but gets {}", arguments.len()))
    }

    fn arguments<const N: usize>(
        &mut self,
        node: &IdedExpr,
        name: &str,
        arguments: &'p [IdedExpr],
    ) -> Option<&'p [IdedExpr; N]> {
        self.count(node, name, arguments, N)?;
        arguments.try_into().ok()
    }
}

fn substring(name: &str) -> Option<Substring> {
    match name {
        "contains" => Some(Substring::Contains),
        "startsWith" => Some(Substring::StartsWith),
        "endsWith" => Some(Substring::EndsWith),
        _ => None,
    }
}

fn mapping(name: &str) -> Option<Mapping> {
    match name {
        "lower" => Some(Mapping::Lower),
        "lowerAscii" => Some(Mapping::LowerAscii),
        "upper" => Some(Mapping::Upper),
        "upperAscii" => Some(Mapping::UpperAscii),
        _ => None,
    }
}

fn time_part(name: &str) -> Option<TimePart> {
    match name {
        "getDate" => Some(TimePart::Date),
        "getDayOfMonth" => Some(TimePart::DayOfMonth),
        "getDayOfWeek" => Some(TimePart::DayOfWeek),
        "getDayOfYear" => Some(TimePart::DayOfYear),
        "getFullYear" => Some(TimePart::FullYear),
        "getHours" => Some(TimePart::Hours),
        "getMilliseconds" => Some(TimePart::Milliseconds),
        "getMinutes" => Some(TimePart::Minutes),
        "getMonth" => Some(TimePart::Month),
        "getSeconds" => Some(TimePart::Seconds),
        _ => None,
    }
}

/// `UTC`, `+02:00`, `-5:30`
fn utc_offset(text: &str) -> Option<UtcOffset> {
    if text == "UTC" {
        return Some(UtcOffset::UTC);
    }
    let (sign, rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let (hours, minutes) = rest.split_once(':')?;
    let part = |digits: &str, limit: i8| {
        let plain = (1..=2).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse::<i8>().ok().filter(|number| plain && *number <= limit)
    };
    UtcOffset::from_hms(sign * part(hours, 14)?, sign * part(minutes, 59)?, 0).ok()
}
