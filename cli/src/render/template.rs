//! Fills `${name}` in the Envoy templates.
//!
//! A value that stands alone on its line may have several lines: each gets the indentation of the
//! placeholder; no lines at all remove the placeholder's. Elsewhere a value is one line.

use std::collections::BTreeMap;

/// The values of a template, by name.
pub type Values = BTreeMap<&'static str, String>;

/// Why a template could not be filled: a defect of the program, not of its input.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A placeholder without a value.
    #[error("line {line} of the template names `{name}`, which has no value")]
    Unknown {
        /// The name.
        name: String,
        /// Its line, from 1.
        line: usize,
    },
    /// A value of several lines inside a line.
    #[error("line {line} of the template has no room for the {count} lines of `{name}`")]
    NoRoom {
        /// The name.
        name: String,
        /// Its line, from 1.
        line: usize,
        /// How many lines the value has.
        count: usize,
    },
}

/// The template with every placeholder replaced.
pub fn fill(template: &str, values: &Values) -> Result<String, TemplateError> {
    let mut filled = String::with_capacity(template.len() * 4);
    for (index, line) in template.lines().enumerate() {
        let number = index + 1;
        if let Some((indentation, name)) = alone(line) {
            let value = lookup(values, name, number)?;
            for value_line in value.lines() {
                if !value_line.is_empty() {
                    filled.push_str(indentation);
                }
                filled.push_str(value_line);
                filled.push('\n');
            }
        } else {
            inside(line, number, values, &mut filled)?;
            filled.push('\n');
        }
    }
    Ok(filled)
}

/// The indentation and the name, if the line is nothing but a placeholder.
fn alone(line: &str) -> Option<(&str, &str)> {
    let trimmed = line.trim_start();
    let name = trimmed.strip_prefix("${")?.strip_suffix('}')?;
    if name.contains("${") {
        return None;
    }
    let indentation = line.strip_suffix(trimmed)?;
    Some((indentation, name))
}

fn inside(line: &str, number: usize, values: &Values, filled: &mut String) -> Result<(), TemplateError> {
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("${") {
        filled.push_str(before);
        let Some((name, remainder)) = after.split_once('}') else {
            filled.push_str("${");
            rest = after;
            continue;
        };
        let value = lookup(values, name, number)?;
        let count = value.lines().count();
        if count > 1 {
            return Err(TemplateError::NoRoom { name: name.to_owned(), line: number, count });
        }
        filled.push_str(value);
        rest = remainder;
    }
    filled.push_str(rest);
    Ok(())
}

fn lookup<'v>(values: &'v Values, name: &str, line: usize) -> Result<&'v str, TemplateError> {
    values.get(name).map(String::as_str).ok_or_else(|| TemplateError::Unknown { name: name.to_owned(), line })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values() -> Values {
        Values::from([("one", "1".to_owned()), ("lines", "a:\n  b\n".to_owned()), ("none", String::new())])
    }

    #[test]
    fn values_keep_the_indentation_of_their_place() {
        assert_eq!(fill("x: ${one}, y: ${one}\n", &values()).unwrap(), "x: 1, y: 1\n");
        assert_eq!(fill("  ${lines}\nz\n", &values()).unwrap(), "  a:\n    b\nz\n");
        assert_eq!(fill("a\n  ${none}\nb\n", &values()).unwrap(), "a\nb\n");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert_eq!(
            fill("a\n${two}\n", &values()),
            Err(TemplateError::Unknown { name: "two".to_owned(), line: 2 })
        );
        assert_eq!(
            fill("a: ${lines}\n", &values()),
            Err(TemplateError::NoRoom { name: "lines".to_owned(), line: 1, count: 2 })
        );
    }
}
