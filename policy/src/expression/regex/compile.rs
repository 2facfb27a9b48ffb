//! From RE2's syntax to a program.
//!
//! RE2's syntax is read here and said again in that of Rust's engine, which runs in linear time as RE2 does. What RE2
//! rejects is refused; so is the little that cannot be said again.

use regex_automata::nfa::thompson;
use regex_syntax::hir::{Hir, HirKind};

use super::program::Program;
use super::translate::translate;
use crate::excerpt::Excerpt;

/// The longest pattern, in bytes.
const LONGEST: usize = 2_048;
/// The most memory that a compiled pattern takes.
const LARGEST: usize = 1 << 20;
/// The longest part of a text that is looked for before a pattern is.
const LONGEST_PART: usize = 32;

/// Why a pattern was refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PatternError {
    /// Too long.
    #[error("this regular expression has {0} bytes; the limit is {LONGEST}")]
    TooLong(usize),
    /// RE2 rejects it.
    #[error("`{0}` is no regular expression of RE2: {1}")]
    Syntax(Excerpt, String),
    /// Too many states.
    #[error("`{0}` needs too much memory; make its repetitions smaller")]
    TooLarge(Excerpt),
}

/// The program of a pattern.
pub fn compile(pattern: &str) -> Result<String, PatternError> {
    if pattern.len() > LONGEST {
        return Err(PatternError::TooLong(pattern.len()));
    }
    let syntax = |message: String| PatternError::Syntax(Excerpt::new(pattern), message);
    let translated = translate(pattern).map_err(syntax)?;
    // RE2 looks at bytes where it says so (`\C`, `\B`); the texts that we match are UTF-8 all the same.
    let hir =
        regex_syntax::ParserBuilder::new().utf8(false).build().parse(&translated).map_err(
            |error| match error {
                regex_syntax::Error::Parse(error) => syntax(error.kind().to_string()),
                regex_syntax::Error::Translate(error) => syntax(error.kind().to_string()),
                _ => syntax("it does not parse".to_owned()),
            },
        )?;
    let configuration = thompson::Config::new()
        .utf8(false)
        .nfa_size_limit(Some(LARGEST))
        .which_captures(thompson::WhichCaptures::None);
    let automaton = thompson::Compiler::new().configure(configuration).build_from_hir(&hir);
    let program = automaton.ok().and_then(|automaton| Program::write(part(&hir), &automaton));
    program.ok_or_else(|| PatternError::TooLarge(Excerpt::new(pattern)))
}

/// The longest text that is part of every match, as far as that is written out.
fn part(hir: &Hir) -> &str {
    match hir.kind() {
        HirKind::Literal(literal) => {
            let text = std::str::from_utf8(&literal.0).unwrap_or_default();
            let longest = text.len().min(LONGEST_PART);
            (0..=longest).rev().find_map(|length| text.get(..length)).unwrap_or_default()
        }
        HirKind::Capture(group) => part(&group.sub),
        HirKind::Repetition(repetition) if repetition.min > 0 => part(&repetition.sub),
        HirKind::Concat(items) => items.iter().map(part).max_by_key(|part| part.len()).unwrap_or_default(),
        _ => "",
    }
}
