//! Input as messages quote it: short, and without anything that a terminal or a log would act on.

use std::fmt;

const LONGEST: usize = 80;

/// The beginning of a text that somebody else wrote.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Excerpt(Box<str>);

impl Excerpt {
    /// Of this text.
    pub fn new(text: &str) -> Self {
        let mut excerpt = String::new();
        for (index, character) in text.chars().enumerate() {
            if index == LONGEST {
                excerpt.push('…');
                break;
            }
            if character.is_control() {
                excerpt.extend(character.escape_default());
            } else {
                excerpt.push(character);
            }
        }
        Self(excerpt.into())
    }
}

impl fmt::Display for Excerpt {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_and_hostile_texts_become_short_and_plain() {
        assert_eq!(Excerpt::new("a\u{1b}[31m\n").to_string(), "a\\u{1b}[31m\\n");
        assert_eq!(Excerpt::new(&"a".repeat(100)).to_string(), "a".repeat(80) + "…");
    }
}
