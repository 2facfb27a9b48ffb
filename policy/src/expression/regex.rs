//! Regular expressions: RE2's language, in UTF-8 mode, matching anywhere in the text.
//!
//! A pattern is compiled to a program once, by whoever writes the configuration; the module makes its matchers from
//! programs alone. What compiles and matches on the spot goes the same way.

#[cfg(feature = "patterns")]
pub mod class;
#[cfg(feature = "patterns")]
mod compile;
mod program;
#[cfg(feature = "patterns")]
mod translate;

use std::sync::Mutex;

#[cfg(feature = "patterns")]
pub use compile::{PatternError, compile};
use program::Program;
pub use program::ProgramError;
use regex_automata::Input;
use regex_automata::hybrid::dfa::{self, Cache, DFA};

use crate::excerpt::Excerpt;

/// The most memory that matching takes, unless the pattern is too large for that.
const LARGEST_CACHE: usize = 1 << 18;

/// A compiled regular expression.
pub struct Regex {
    /// What every match contains.
    part: Box<str>,
    automaton: DFA,
    /// States that were met so far. Those who would wait for it take another.
    cache: Mutex<Option<Box<Cache>>>,
}

/// Why a regular expression was refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RegexError {
    /// It does not compile.
    #[cfg(feature = "patterns")]
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// Nobody compiled it.
    #[error(
        "the pattern `{0}` comes without its program; have `outgate render` write this plugin configuration, it adds \
         `patterns`"
    )]
    NoProgram(Excerpt),
    /// Not as it was written.
    #[error(
        "the program of the pattern `{0}` {1}; have `outgate render` of this version write this plugin configuration \
         again"
    )]
    Program(Excerpt, ProgramError),
}

impl Regex {
    /// From the program of a pattern.
    pub fn new(pattern: &str, program: &str) -> Result<Self, RegexError> {
        let refused = |error| RegexError::Program(Excerpt::new(pattern), error);
        let Program { part, automaton } = Program::read(program).map_err(refused)?;
        let configuration = dfa::Config::new()
            .cache_capacity(LARGEST_CACHE)
            .skip_cache_capacity_check(true)
            // However often it forgets states for want of memory, it searches on.
            .minimum_cache_clear_count(None);
        let automaton = dfa::Builder::new().configure(configuration).build_from_nfa(automaton);
        let automaton = automaton.map_err(|_| refused(ProgramError::Damaged))?;
        Ok(Self { part, automaton, cache: Mutex::new(None) })
    }

    /// Whether the text has a match.
    pub fn is_match(&self, text: &str) -> bool {
        if !text.contains(&*self.part) {
            return false;
        }
        match self.cache.try_lock() {
            Ok(mut cache) => {
                self.search(cache.get_or_insert_with(|| Box::new(self.automaton.create_cache())), text)
            }
            Err(_) => self.search(&mut self.automaton.create_cache(), text),
        }
    }

    fn search(&self, cache: &mut Cache, text: &str) -> bool {
        let found = self.automaton.try_search_fwd(cache, &Input::new(text).earliest(true));
        // It would fail only if it were told to give up, or to stop at some byte.
        matches!(found, Ok(Some(_)))
    }
}

impl std::fmt::Debug for Regex {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Regex").field("part", &self.part).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiled(pattern: &str) -> Result<Regex, RegexError> {
        Regex::new(pattern, &compile(pattern)?)
    }

    /// RE2's own answers: pattern, text, and whether it matches, or that RE2 rejects the pattern.
    #[test]
    fn answers_are_those_of_re2() {
        for data in [
            include_str!("../../testdata/re2-probes.json"),
            include_str!("../../testdata/re2-generated.json"),
        ] {
            let data: serde_json::Value = serde_json::from_str(data).unwrap();
            for case in data["cases"].as_array().unwrap() {
                let (pattern, text) = (case["pattern"].as_str().unwrap(), case["text"].as_str().unwrap());
                let ours = match compiled(pattern) {
                    Ok(regex) if regex.is_match(text) => "match",
                    Ok(_) => "no-match",
                    Err(_) => "rejected",
                };
                assert_eq!(ours, case["re2"], "{pattern:?} on {text:?}");
            }
        }
    }

    #[test]
    fn refusals_say_why() {
        for (pattern, expected) in [
            ("(?=a)", "`(?=`"),
            ("(?x)a", "flag"),
            ("a**", "repeated twice"),
            ("*a", "nothing to repeat"),
            ("(a", "never closed"),
            ("a)", "closes nothing"),
            ("[a", "never closed"),
            ("[z-a]", "range"),
            ("\\Z", "`\\Z`"),
            ("\\1", "`\\1`"),
            ("\\p{Letter}", "`Letter`"),
            ("a{1001}", "1000"),
            ("(a{100}){100}", "multiply"),
            ("(\\b{500}){3}", "multiply"),
            ("((a{2}){1000}){0}", "multiply"),
            ("(?P<é>a)", "ASCII"),
            ("\\x{D800}", "U+D800"),
            ("[[:foo:]]", "`foo`"),
            ("a\\", "ends with"),
        ] {
            let error = compiled(pattern).unwrap_err().to_string();
            assert!(error.contains(expected), "{pattern}: {error}");
        }
        assert!(matches!(compile(&"a".repeat(3_000)), Err(PatternError::TooLong(3_000))));
        assert!(matches!(compile("[\\pL]{1000}"), Err(PatternError::TooLarge(_))));
        assert!(compile(&"(".repeat(1_000)).is_err());
        assert!(compile(&format!("{}a{}", "(".repeat(1_000), ")".repeat(1_000))).is_err());
    }
}
