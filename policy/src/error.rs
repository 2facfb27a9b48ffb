//! What is wrong with a policy: all of it, each with its place.

use std::fmt;

/// The most errors that are said of one policy; nobody reads more, and each takes time to find.
pub const MOST: usize = 100;

/// One thing that is wrong with a policy.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// Neither JSON nor YAML.
    #[error("line {line}, column {column}: {message}")]
    Syntax {
        /// Counted from 1.
        line: u64,
        /// Counted from 1.
        column: u64,
        /// What the parser says.
        message: String,
    },
    /// A key or value that is not what it should be.
    #[error("{place}: {message}")]
    Document {
        /// Such as `rules[2].priority`; `policy` for the document as a whole.
        place: String,
        /// What is wrong, and what to do.
        message: String,
    },
    /// A matcher that does not compile.
    #[error(transparent)]
    Matcher(Box<MatcherError>),
}

/// A matcher that does not compile.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MatcherError {
    /// The rule's name.
    pub rule: String,
    /// `sessionMatcher` or `applicationMatcher`.
    pub field: &'static str,
    /// What is wrong, and what to do.
    pub message: String,
    /// Counted from 1.
    pub line: usize,
    /// Counted from 1, in characters.
    pub column: usize,
    /// The line, or what of a long one is around the column.
    pub excerpt: String,
    /// Where in `excerpt` the column is, counted from 0.
    pub caret: usize,
    /// Whether the matcher has more than one line.
    pub multiline: bool,
}

impl fmt::Display for MatcherError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rule, field, message, line, column, excerpt, caret, multiline } = self;
        write!(formatter, "rule `{rule}`: {field}: {message}\n  {excerpt}\n  {:caret$}^ ", "")?;
        if *multiline {
            write!(formatter, "line {line}, ")?;
        }
        write!(formatter, "column {column}")
    }
}

impl std::error::Error for MatcherError {}

/// Everything that is wrong with a policy, up to a hundred errors; never empty.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PolicyErrors(Vec<PolicyError>);

impl PolicyErrors {
    pub(crate) fn new(mut errors: Vec<PolicyError>) -> Self {
        errors.truncate(MOST);
        Self(errors)
    }

    /// One after the other, in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &PolicyError> {
        self.0.iter()
    }
}

impl fmt::Display for PolicyErrors {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                formatter.write_str("\n")?;
            }
            error.fmt(formatter)?;
        }
        if self.0.len() == MOST {
            write!(formatter, "\nthese are the first {MOST} errors; there may be more")?;
        }
        Ok(())
    }
}

impl std::error::Error for PolicyErrors {}
