//! Regular expressions: RE2's language, in UTF-8 mode, matching anywhere in the text.
//!
//! RE2's syntax is read here and said again in that of Rust's engine, which runs in linear time as RE2 does.
//! What RE2 rejects is refused; so is the little that cannot be said again.

pub mod class;
mod translate;

use regex_automata::meta;

use crate::excerpt::Excerpt;

/// The longest pattern, in bytes.
const LONGEST: usize = 2_048;
/// The most memory that a compiled pattern takes.
const LARGEST: usize = 1 << 20;
/// The most memory that matching takes beside it.
const LARGEST_CACHE: usize = 1 << 18;

/// A compiled regular expression.
#[derive(Debug)]
pub struct Regex(meta::Regex);

/// Why a regular expression was refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RegexError {
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

impl Regex {
    /// Compiles RE2's syntax.
    pub fn new(pattern: &str) -> Result<Self, RegexError> {
        if pattern.len() > LONGEST {
            return Err(RegexError::TooLong(pattern.len()));
        }
        let syntax = |message: String| RegexError::Syntax(Excerpt::new(pattern), message);
        let translated = translate::translate(pattern).map_err(syntax)?;
        // RE2 looks at bytes where it says so (`\C`, `\B`); the texts that we match are UTF-8 all the same.
        let hir =
            regex_syntax::ParserBuilder::new().utf8(false).build().parse(&translated).map_err(|error| {
                match error {
                    regex_syntax::Error::Parse(error) => syntax(error.kind().to_string()),
                    regex_syntax::Error::Translate(error) => syntax(error.kind().to_string()),
                    _ => syntax("it does not parse".to_owned()),
                }
            })?;
        let configuration = meta::Config::new()
            .utf8_empty(false)
            .nfa_size_limit(Some(LARGEST))
            .hybrid_cache_capacity(LARGEST_CACHE);
        let built = meta::Regex::builder().configure(configuration).build_from_hir(&hir);
        built.map(Self).map_err(|_| RegexError::TooLarge(Excerpt::new(pattern)))
    }

    /// Whether the text has a match.
    pub fn is_match(&self, text: &str) -> bool {
        self.0.is_match(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
                let ours = match Regex::new(pattern) {
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
            let error = Regex::new(pattern).unwrap_err().to_string();
            assert!(error.contains(expected), "{pattern}: {error}");
        }
        assert!(matches!(Regex::new(&"a".repeat(3_000)), Err(RegexError::TooLong(3_000))));
        assert!(matches!(Regex::new("[\\pL]{1000}"), Err(RegexError::TooLarge(_))));
        assert!(Regex::new(&"(".repeat(1_000)).is_err());
        assert!(Regex::new(&format!("{}a{}", "(".repeat(1_000), ")".repeat(1_000))).is_err());
    }
}
