//! The conformance cases of CEL's specification: our compiler gives the suite's answer, or refuses.

use cel::objects::Key as CelKey;
use cel::parser::pratt_parser::{Lexer, TokenKind};
use cel::{Context, Env, Program, Value as CelValue, extensions};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;

use super::super::*;
use super::{repository, say};

/// The sections that our language touches, and how many of their cases it answers; all others it refuses.
const SECTIONS: [(&str, usize); 12] = [
    ("basic", 21),
    ("comparisons", 61),
    ("conversions", 6),
    ("fields", 5),
    ("integer_math", 41),
    ("lists", 3),
    ("logic", 21),
    ("macros", 20),
    ("parse", 88),
    ("string", 45),
    ("string_ext", 6),
    ("timestamps", 30),
];

#[derive(Deserialize)]
struct Suite {
    cases: Vec<SuiteCase>,
}

#[derive(Deserialize)]
struct SuiteCase {
    section: String,
    name: String,
    expression: String,
    container: String,
    /// Values as CEL; nothing for a protobuf message.
    bindings: BTreeMap<String, Option<String>>,
    /// As CEL; nothing if the case fails, or gives a message.
    value: Option<String>,
    /// Whether a protobuf message is bound or expected.
    message: bool,
}

impl SuiteCase {
    /// The interpreter has no messages.
    fn needs_protobuf(&self) -> bool {
        self.message
            || ["TestAllTypes", "google.protobuf"].iter().any(|words| self.expression.contains(words))
    }
}

fn suite() -> Option<Vec<SuiteCase>> {
    let output = Command::new("python3").arg(repository().join("scripts/fetch-cel-spec")).output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        Some(0) => {}
        Some(3) => {
            say(&format!("skipped: the cases of CEL's specification: {}", complaint.trim()));
            return None;
        }
        _ => panic!("{complaint}"),
    }
    let path = String::from_utf8(output.stdout).unwrap();
    let suite: Suite = serde_json::from_slice(&std::fs::read(path.trim()).unwrap()).unwrap();
    Some(suite.cases)
}

/// What came of a case.
#[derive(Debug, PartialEq)]
enum Outcome {
    Equal,
    Refused,
    /// Refused for a type that the language does not have.
    NotInTheLanguage,
    Other(String),
}

/// A value that is written out.
fn literal(text: &str) -> CelValue {
    Program::compile(text).unwrap().execute(&Context::default()).unwrap()
}

/// A case's expression with attributes in place of variables, and the headers that give these their values.
fn in_our_words(case: &SuiteCase) -> (String, Vec<(&'static str, &'static str)>) {
    let mut headers = Vec::new();
    let mut words = BTreeMap::<&str, String>::new();
    for (index, (name, text)) in case.bindings.iter().enumerate() {
        let Some(text) = text else { continue };
        let header: &str = format!("variable-{index}").leak();
        let mut with = |value: String| {
            headers.push((header, &*value.leak()));
            format!("request.headers['{header}']")
        };
        let word = match literal(text) {
            CelValue::String(value) => with(value.to_string()),
            CelValue::Int(value) => format!("int({})", with(value.to_string())),
            CelValue::Bool(value) => format!("({} == 'true')", with(value.to_string())),
            // Headers are the one map that there is.
            CelValue::Map(map) if map.map.values().all(|value| matches!(value, CelValue::String(_))) => {
                for (key, value) in &*map.map {
                    let (CelKey::String(key), CelValue::String(value)) = (key, value) else { continue };
                    headers.push((&*key.to_string().leak(), &*value.to_string().leak()));
                }
                "request.headers".to_owned()
            }
            _ => format!("({text})"),
        };
        words.insert(name, word);
    }
    (replace(&case.expression, &words), headers)
}

/// The text with these variables replaced. The longest of dotted names counts, as in CEL.
fn replace(text: &str, words: &BTreeMap<&str, String>) -> String {
    let mut lexer = Lexer::new(text);
    let mut tokens = Vec::new();
    loop {
        let token = lexer.lex();
        match token.kind {
            TokenKind::TokEnd | TokenKind::TokError => break,
            TokenKind::TokWhitespace | TokenKind::TokComment => {}
            _ => tokens.push(token),
        }
    }
    let mut output = String::new();
    let mut copied = 0;
    let mut index = 0;
    while let Some(token) = tokens.get(index) {
        let free = index == 0 || tokens[index - 1].kind != TokenKind::TokDot;
        let name_to = |end: usize| text.get(token.start..end).unwrap().replace(char::is_whitespace, "");
        let found = (index..tokens.len())
            .step_by(2)
            .take_while(|last| {
                tokens[*last].kind == TokenKind::TokIdent
                    && (*last == index || tokens[last - 1].kind == TokenKind::TokDot)
            })
            .filter_map(|last| words.get(&*name_to(tokens[last].end)).map(|word| (last, word)))
            .last();
        match found {
            Some((last, word)) if free => {
                output.push_str(text.get(copied..token.start).unwrap());
                output.push_str(word);
                copied = tokens[last].end;
                index = last + 1;
            }
            _ => index += 1,
        }
    }
    output + text.get(copied..).unwrap()
}

/// `true`, `false` or `error`; nothing if it is refused.
fn ask(matcher: &str, headers: &[(&'static str, &'static str)]) -> Result<&'static str, String> {
    let rule = json!([{"applicationMatcher": matcher, "tlsInspectionEnabled": true}]);
    let engine = Engine::from_value(&policy(rule, json!({}))).map_err(|errors| errors.to_string())?;
    let case = Case { headers: headers.to_vec(), ..Case::default() };
    Ok(match case.request(&engine, RequestStage::Inspected).as_str() {
        "allow r1" => "true",
        "deny" => "false",
        "deny, failed: r1" => "error",
        other => panic!("{matcher}: {other}"),
    })
}

fn ours(case: &SuiteCase) -> Outcome {
    let (expression, headers) = in_our_words(case);
    let questions = match case.value.as_deref() {
        _ if case.message => return Outcome::NotInTheLanguage,
        None => {
            vec![(expression.clone(), "error"), (format!("({expression}\n) == ({expression}\n)"), "error")]
        }
        Some(value @ ("true" | "false")) => vec![(expression.clone(), value)],
        Some(value) => vec![
            (format!("({expression}\n) == ({value})"), "true"),
            (format!("({expression}\n) != ({value})"), "false"),
        ],
    };
    let mut outcome = Outcome::Refused;
    for (question, expected) in questions {
        match ask(&question, &headers) {
            Ok(answer) if answer == expected => outcome = Outcome::Equal,
            Ok(answer) => return Outcome::Other(format!("`{question}` is {answer}")),
            Err(errors)
                if outcome == Outcome::Refused
                    && NOT_IN_THE_LANGUAGE.iter().any(|words| errors.contains(words)) =>
            {
                outcome = Outcome::NotInTheLanguage;
            }
            Err(_) => {}
        }
    }
    outcome
}

/// What the `cel` crate, with its own parser and evaluator, says of a case, if it is not what the suite says.
fn difference_of_the_interpreter(case: &SuiteCase) -> Option<String> {
    let mut env = Env::stdlib();
    env.add_extension(extensions::strings).unwrap();
    env.set_container(&case.container).unwrap();
    let env = Arc::new(env);
    let mut context = Context::with_env(Arc::clone(&env));
    for (name, text) in &case.bindings {
        context.add_variable_from_value(name, literal(text.as_deref()?));
    }
    let answer = match env.compile(&case.expression) {
        Ok(program) => program.execute(&context).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let expected = case.value.as_deref().map(|value| env.compile(value).unwrap().execute(&context).unwrap());
    match (answer, expected) {
        (Err(_), None) => None,
        (Ok(answer), Some(expected)) if answer == expected => None,
        (answer, _) => Some(format!("{answer:?}, not {:?}", case.value)),
    }
}

/// What refusals for a type that the language does not have say.
const NOT_IN_THE_LANGUAGE: [&str; 2] = ["not supported in matchers", "are supported in matchers"];

#[test]
fn every_case_of_the_specification_has_its_answer_or_is_refused() {
    let Some(cases) = suite() else { return };
    let mut others = Vec::new();
    say(&format!(
        "{:14} {:>6} {:>6} {:>8} {:>20}",
        "cel-spec", "cases", "equal", "refused", "not in the language"
    ));
    for (section, least) in SECTIONS {
        let (mut equal, mut refused, mut foreign) = (0, 0, 0);
        let cases: Vec<_> = cases.iter().filter(|case| case.section == section).collect();
        for case in &cases {
            match ours(case) {
                Outcome::Equal => equal += 1,
                Outcome::Refused => refused += 1,
                Outcome::NotInTheLanguage => foreign += 1,
                Outcome::Other(what) => {
                    others.push(format!("{section}/{}: {what}, not {:?}", case.name, case.value))
                }
            }
        }
        say(&format!("{section:14} {:>6} {equal:>6} {refused:>8} {foreign:>20}", cases.len()));
        if equal < least {
            others.push(format!("{section}: {equal} answers, and not {least}"));
        }
    }
    assert!(others.is_empty(), "{}", others.join("\n"));
}

/// Where the interpreter differs from the specification: the beginning of a case's name, and why.
const KNOWN_DIFFERENCES: [(&str, &str); 2] = [
    ("fields/quoted_map_fields/", "its parser knows no names in backticks"),
    (
        "timestamps/duration_converters/get_milliseconds",
        "it counts the whole duration, not what is left of its last second",
    ),
];

#[test]
fn the_interpreter_differs_from_the_specification_only_where_it_is_known() {
    let Some(cases) = suite() else { return };
    let sections = SECTIONS.map(|(section, _)| section);
    let (mut asked, mut found, mut others) = (0, [0; KNOWN_DIFFERENCES.len()], Vec::new());
    for case in cases.iter().filter(|case| sections.contains(&&*case.section) && !case.needs_protobuf()) {
        asked += 1;
        let Some(difference) = difference_of_the_interpreter(case) else { continue };
        let name = format!("{}/{}", case.section, case.name);
        match KNOWN_DIFFERENCES.iter().position(|(beginning, _)| name.starts_with(beginning)) {
            Some(known) => found[known] += 1,
            None => others.push(format!("{name}: {}: {difference}", case.expression)),
        }
    }
    say(&format!("the `cel` crate, asked {asked} of these cases, differs in:"));
    for ((name, reason), count) in KNOWN_DIFFERENCES.iter().zip(found) {
        say(&format!("{count:>6} {name}: {reason}"));
        assert!(count > 0, "{name} is no difference any more");
    }
    assert!(others.is_empty(), "{}", others.join("\n"));
}
