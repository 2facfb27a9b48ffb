//! Regular expressions beside RE2 itself: what it accepts means the same to us, or is refused as something rare that
//! the documentation names; what it rejects is refused.

use std::collections::HashSet;
use std::process::Command;

use super::super::random::Random;
use super::super::*;
use super::{Oracle, repository, say, wanted};
use crate::expression::class;

/// What stands for itself, or for more, or for nothing.
const ATOMS: [&str; 76] = [
    "a",
    "b",
    "A",
    "k",
    "K",
    "s",
    "0",
    "7",
    "_",
    "-",
    "/",
    ".",
    "\\.",
    " ",
    "\n",
    "é",
    "É",
    "ß",
    "ſ",
    "\u{212a}",
    "σ",
    "ς",
    "Σ",
    "µ",
    "🦀",
    "٣",
    "^",
    "$",
    "\\A",
    "\\z",
    "\\b",
    "\\B",
    "\\C",
    "\\d",
    "\\D",
    "\\w",
    "\\W",
    "\\s",
    "\\S",
    "\\pL",
    "\\PL",
    "\\p{Lu}",
    "\\p{^Lu}",
    "\\P{Greek}",
    "\\p{Greek}",
    "\\p{Any}",
    "\\pN",
    "\\p{C}",
    "\\PC",
    "\\x41",
    "\\x{61}",
    "\\x{1F980}",
    "\\101",
    "\\012",
    "\\0",
    "\\n",
    "\\t",
    "\\v",
    "\\f",
    "\\r",
    "\\a",
    "\\Qa.b\\E",
    "\\Q",
    "\\-",
    "\\/",
    "\\_",
    "[[:alpha:]]",
    "[[:^space:]]",
    "[^[:word:]]",
    "[:alpha:]",
    "{",
    "}",
    "]",
    "{,3}",
    "a{",
    "{a}",
];

/// What has no meaning, or hardly any.
const STRANGE: [&str; 20] = [
    "\\b{start}",
    "\\Z",
    "\\G",
    "\\1",
    "\\8",
    "\\h",
    "\\u0041",
    "\\N",
    "\\R",
    "\\X",
    "\\K",
    "\\x",
    "\\x{110000}",
    "\\x{D800}",
    "\\pX",
    "\\p{Xyz}",
    "{2}",
    "\\é",
    "\\<",
    "\\E",
];

const MEMBERS: [&str; 48] = [
    "a",
    "b",
    "z",
    "A-Z",
    "a-z",
    "0-9",
    "é",
    "α-ω",
    "-",
    "^",
    "]",
    "[",
    "\\]",
    "\\d",
    "\\D",
    "\\w",
    "\\W",
    "\\s",
    "\\S",
    "\\pL",
    "\\PL",
    "\\p{Lu}",
    "\\P{Lu}",
    "\\p{^Greek}",
    "[:alpha:]",
    "[:^digit:]",
    "[:foo:]",
    "&&",
    "~~",
    "--",
    "a-",
    "-a",
    "+--",
    "z-a",
    "\\x41-\\x43",
    "\\n",
    "\\t",
    "\\b",
    "\\101",
    "\\-",
    "\\\\",
    " ",
    ".",
    "🦀-🦊",
    "k",
    "s",
    "\\pN",
    "\\v",
];

const REPETITIONS: [&str; 24] = [
    "*", "+", "?", "*?", "+?", "??", "{2}", "{2,}", "{0,2}", "{1,3}?", "{0}", "{3,1}", "{1001}", "{1000}",
    "{,3}", "{1", "{1,", "**", "*+", "+*?", "???", "{2}{3}", "{01}", "{1,a}",
];

const OPENINGS: [&str; 27] = [
    "(", "(?:", "(?i)", "(?i:", "(?s:", "(?m:", "(?s)", "(?m)", "(?U)", "(?-i)", "(?i-s:", "(?im)", "(?P<a>",
    "(?P<b1>", "(?<c>", "(?P<é>", "(?P<①>", "(?P<>", "(?P=a)", "(?=", "(?!", "(?<=", "(?x)", "(?)", "(?-)",
    "(?i-)", "(?ii:",
];

const LETTERS: [&str; 40] = [
    "a", "a", "a", "b", "b", "A", "B", "k", "K", "s", "S", "z", "0", "7", "_", "-", "/", ".", " ", "\n",
    "\n", "\t", "\u{b}", "\r", "é", "É", "ß", "ſ", "\u{212a}", "σ", "ς", "Σ", "µ", "μ", "🦀", "٣", "{", "\\",
    "]", "\u{0}",
];

struct Patterns<'r>(&'r mut Random);

impl Patterns<'_> {
    fn pattern(&mut self, depth: usize) -> String {
        let mut text = String::new();
        for _ in 0..1 + self.0.below(4) {
            match self.0.below(25) {
                0 => text += self.0.pick(&STRANGE),
                1..=10 => text += self.0.pick(&ATOMS),
                11..=13 => text += &self.class(),
                14..=18 if depth > 0 => {
                    let opening = if self.0.below(3) == 0 { "(" } else { self.0.pick(&OPENINGS) };
                    text += opening;
                    if !opening.ends_with(')') {
                        text += &self.pattern(depth - 1);
                        text += if self.0.below(30) == 0 { "" } else { ")" };
                    }
                }
                19 => text += "|",
                _ => text += self.0.pick(&["a", "b", "ab"]),
            }
            if self.0.below(4) == 0 {
                let common = self.0.below(6) > 0;
                text += if common {
                    self.0.pick(&["*", "+", "?", "{2}", "{0,2}"])
                } else {
                    self.0.pick(&REPETITIONS)
                };
            }
        }
        text
    }

    fn class(&mut self) -> String {
        let mut text = if self.0.below(3) == 0 { "[^".to_owned() } else { "[".to_owned() };
        for _ in 0..1 + self.0.below(3) {
            text += self.0.pick(&MEMBERS);
        }
        if self.0.below(40) > 0 {
            text += "]";
        }
        text
    }

    fn text(&mut self) -> String {
        (0..self.0.below(7)).map(|_| self.0.pick(&LETTERS)).collect()
    }
}

/// Why we refuse what RE2 accepts.
const RARE: [&str; 3] = ["needs too much memory", "there is no character U+D", "names are of ASCII letters"];

/// A text in CEL.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("'");
    for character in text.chars() {
        quoted += &format!("\\U{:08x}", u32::from(character));
    }
    quoted + "'"
}

fn start() -> Option<Oracle> {
    Oracle::start("RE2", &mut Command::new(repository().join("scripts/re2-answers")))
}

/// As the script answers: a digit for each text, or `rejected`.
fn ours(pattern: &str, texts: &[String]) -> String {
    let rule = json!([{
        "applicationMatcher": format!("request.headers['text'].matches({})", quoted(pattern)),
        "tlsInspectionEnabled": true,
    }]);
    let engine = match Engine::from_value(&policy(rule, json!({}))) {
        Ok(engine) => engine,
        Err(errors) => return format!("rejected {errors}"),
    };
    let matches = |text: &String| {
        let case = Case { headers: vec![("text", text.clone().leak())], ..Case::default() };
        match case.request(&engine, RequestStage::Inspected).as_str() {
            "allow r1" => '1',
            "deny" => '0',
            other => panic!("{pattern:?} on {text:?}: {other}"),
        }
    };
    texts.iter().map(matches).collect()
}

#[test]
fn random_patterns_mean_what_they_mean_to_re2() {
    let Some(mut re2) = start() else { return };
    let mut random = Random::new(wanted("RE2_SEED", 1) as u64);
    let mut patterns = Patterns(&mut random);
    let (mut same, mut rejected, mut refused) = (0, 0, 0);
    let mut others = Vec::new();
    let cases = wanted("RE2_CASES", 10_000);
    for _ in 0..cases {
        let pattern = patterns.pattern(3);
        let texts: Vec<String> = (0..4).map(|_| patterns.text()).collect();
        let question = std::iter::once(&pattern).chain(&texts).map(String::as_str).collect();
        let (theirs, ours) = (re2.ask(&question), ours(&pattern, &texts));
        match (ours.starts_with("rejected"), theirs.starts_with("rejected")) {
            (true, true) => rejected += 1,
            (true, false) if RARE.iter().any(|words| ours.contains(words)) => refused += 1,
            _ if ours == theirs => same += 1,
            _ => others.push(format!("{pattern:?} on {texts:?}: {ours}, but RE2: {theirs}")),
        }
    }
    say(&format!(
        "RE2: of {cases} patterns, {same} mean the same, both reject {rejected}, we alone refuse {refused}"
    ));
    assert!(others.is_empty(), "{}", others.join("\n"));
}

#[test]
fn classes_have_the_characters_that_they_have_in_re2() {
    let Some(mut re2) = start() else { return };
    let mut members = |class: &str| serde_json::from_str::<String>(&re2.ask(&class.into())).unwrap();
    // Our tables are of Unicode 16, its are of 15.1: what is compared is what both know.
    let known = members(r"[\pL\pM\pN\pP\pS\pZ\p{Cc}\p{Cf}]");
    let mut others = Vec::new();
    let mut compare = |class: &str| {
        let theirs: HashSet<char> = members(class).chars().collect();
        let (inside, outside): (Vec<char>, Vec<char>) =
            known.chars().partition(|character| theirs.contains(character));
        let [inside, outside] =
            [inside, outside].map(|characters| characters.into_iter().collect::<String>());
        if ours(&format!("^(?s:{class})*$"), &[inside]) != "1" || ours(class, &[outside]) != "0" {
            others.push(class.to_owned());
        }
    };
    for name in class::CATEGORIES.iter().chain(&class::SCRIPTS).chain(&["Any", "C"]) {
        compare(&format!("\\p{{{name}}}"));
    }
    for letter in ['k', 's', 'É', 'ß', 'σ', 'µ', 'Å', 'ǆ', 'θ', 'я', 'ᲀ', 'ꙋ', 'Ა', 'ﬅ', 'ꭰ', '𐐀']
    {
        compare(&format!("(?i:{letter})"));
        compare(&format!("(?i:[^{letter}])"));
    }
    // Unicode 16 moved some vowel signs from one to the other.
    assert_eq!(others, [r"\p{Mc}", r"\p{Mn}"]);
}
