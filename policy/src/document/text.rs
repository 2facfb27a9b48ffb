//! From text to a tree of values: JSON or YAML, by content.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::error::{PolicyError, PolicyErrors};
#[cfg(feature = "international")]
use crate::url_list::UrlEntry;

/// Reads a policy's text without looking at what it says, but for domains that are not ASCII, of URL lists and of
/// sources: with the feature `international` they are in A-labels afterwards. JSON begins with `{`; everything else is
/// YAML, and so is `{` without a quoted key behind it.
pub fn parse_text(text: &str) -> Result<Value, PolicyErrors> {
    let inside = text.trim_start().strip_prefix('{').map(str::trim_start);
    let json_object = inside.is_some_and(|inside| inside.is_empty() || inside.starts_with(['"', '}']));
    let parsed = if json_object { json(text.as_bytes()) } else { yaml(text) };
    #[cfg(feature = "international")]
    let parsed = parsed.map(in_a_labels);
    parsed.map_err(|error| PolicyErrors::new(vec![error]))
}

/// Writes the domains of a policy in A-labels, for readers who know no others.
#[cfg(feature = "international")]
fn in_a_labels(mut policy: Value) -> Value {
    for (items, domains) in [("/urlLists", "values"), ("/outgate/sources", "dnsNames")] {
        let items = policy.pointer_mut(items).and_then(Value::as_array_mut).into_iter().flatten();
        for domain in items.filter_map(|item| item.get_mut(domains)?.as_array_mut()).flatten() {
            if let Some(written) = domain.as_str().and_then(UrlEntry::in_a_labels) {
                *domain = Value::String(written);
            }
        }
    }
    policy
}

/// Reads JSON in which no key stands twice in one object.
pub fn parse_json(text: &[u8]) -> Result<Value, PolicyErrors> {
    json(text).map_err(|error| PolicyErrors::new(vec![error]))
}

fn json(text: &[u8]) -> Result<Value, PolicyError> {
    let parsed: Result<Unique, _> = serde_json::from_slice(text);
    parsed.map(|Unique(value)| value).map_err(|error| {
        let message = error.to_string();
        // The place is told apart from the message.
        let message =
            message.rsplit_once(" at line ").map_or(message.as_str(), |(message, _)| message).to_owned();
        PolicyError::Syntax { line: number(error.line()), column: number(error.column()), message }
    })
}

fn number(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

#[cfg(feature = "yaml")]
fn yaml(text: &str) -> Result<Value, PolicyError> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: 64,
            max_nodes: 4_000_000,
        },
        // What `check` shows and what Google's parser reads must be one thing.
        leading_zero_numbers_as_strings: true,
        reject_unsupported_tags: true,
        strict_booleans: true,
        underscored_numbers_as_strings: true,
        with_snippet: false,
    };
    let parsed: Result<Unique, _> = serde_saphyr::from_str_with_options(text, options);
    match parsed {
        Ok(Unique(value)) => Ok(value),
        Err(error) => {
            let (line, column) =
                error.location().map_or((1, 1), |location| (location.line(), location.column()));
            let mut message = error.without_snippet().to_string();
            if let Some((start, _)) = message.split_once(" at line ") {
                message.truncate(start.len());
            }
            let source =
                text.lines().nth(usize::try_from(line.saturating_sub(1)).unwrap_or(0)).unwrap_or_default();
            if source.contains(": !") || source.contains("- !") {
                message
                    .push_str("; YAML takes `!` for a tag, so put quotes around values that begin with it");
            }
            Err(PolicyError::Syntax { line, column, message })
        }
    }
}

#[cfg(not(feature = "yaml"))]
fn yaml(_text: &str) -> Result<Value, PolicyError> {
    Err(PolicyError::Syntax {
        line: 1,
        column: 1,
        message: "expected JSON, which begins with `{`".to_owned(),
    })
}

/// A value in which no key stands twice: a rule that silently replaces another is nobody's wish.
struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UniqueVisitor).map(Self)
    }
}

struct UniqueVisitor;

impl<'de> Visitor<'de> for UniqueVisitor {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(Unique(item)) = access.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            if members.contains_key(&key) {
                return Err(A::Error::custom(format_args!("the key `{key}` stands twice in one object")));
            }
            let Unique(value) = access.next_value()?;
            members.insert(key, value);
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syntax_errors_have_a_place() {
        for (text, line, column, expected) in [
            ("{\n  \"name\": egress\n}", 2, 11, "expected value"),
            ("{\"rules\": [], \"rules\": []}", 1, 21, "the key `rules` stands twice"),
            ("name: a\nname: b\n", 2, 1, "duplicate"),
            ("name: [\n", 1, 7, "unclosed bracket"),
            ("rules:\n- sessionMatcher: !(host() == 'a')\n", 2, 0, "put quotes around"),
        ] {
            let errors = parse_text(text).unwrap_err();
            let Some(PolicyError::Syntax { line: at_line, column: at_column, message }) =
                errors.iter().next()
            else {
                panic!("{errors}");
            };
            assert!(message.contains(expected), "{text}: {message}");
            assert_eq!(*at_line, line, "{text}: {message}");
            assert!(column == 0 || *at_column == column, "{text}: {errors}");
        }
    }

    #[test]
    fn json_and_yaml_are_told_apart_by_content() {
        let expected = serde_json::json!({"name": "a", "rules": [{"priority": 10, "enabled": true}]});
        for text in [
            r#" {"name": "a", "rules": [{"priority": 10, "enabled": true}]}"#,
            "name: a\nrules:\n- priority: 10\n  enabled: true\n",
            "{name: a, rules: [{priority: 10, enabled: true}]}",
        ] {
            assert_eq!(parse_text(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn domains_are_written_in_a_labels() {
        let policy = parse_text(
            "
description: bücher.example
urlLists:
- name: a
  values: [bücher.example, '*.BÜCHER.example/a/*', '*例え。テスト', A.example/é, 'b ü', 1]
- {name: b, values: none}
- none
outgate:
  sources:
  - {dnsNames: ['*.bücher.example', a.example], tags: [bücher.example]}
",
        );
        let expected = serde_json::json!({
            "description": "bücher.example",
            "urlLists": [
                {
                    "name": "a",
                    "values": [
                        "xn--bcher-kva.example",
                        "*.xn--bcher-kva.example/a/*",
                        "*xn--r8jz45g.xn--zckzah",
                        "A.example/é",
                        "b ü",
                        1,
                    ]
                },
                {"name": "b", "values": "none"},
                "none",
            ],
            "outgate": {
                "sources": [
                    {"dnsNames": ["*.xn--bcher-kva.example", "a.example"], "tags": ["bücher.example"]},
                ],
            },
        });
        assert_eq!(policy.unwrap(), expected);
    }

    #[test]
    fn yaml_is_1_2() {
        assert_eq!(
            parse_text("a: no\nb: 010\nc: 1_000\nd: 0x10\n").unwrap(),
            serde_json::json!({"a": "no", "b": "010", "c": "1_000", "d": 16})
        );
    }

    #[test]
    fn deep_and_repetitive_documents_are_refused() {
        let deep = "[".repeat(100_000);
        let bombs = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\n\
                     d: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e]\n\
                     g: &g [*f,*f,*f,*f,*f,*f,*f,*f]\nh: [*g,*g,*g,*g,*g,*g,*g,*g]\n";
        for text in [deep.as_str(), &format!("{{\"a\":{deep}"), bombs] {
            assert!(parse_text(text).is_err());
        }
    }
}
