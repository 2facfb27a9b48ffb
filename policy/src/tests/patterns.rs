//! Patterns that come with their programs.

use super::*;
use std::borrow::Cow;

fn of_patterns(rules: Value) -> Value {
    policy(rules, json!({}))
}

#[test]
fn a_policy_with_its_programs_is_the_policy() {
    let value = of_patterns(json!([
        {"sessionMatcher": "host().matches('^a[0-9]+[.]example$')"},
        {"sessionMatcher": "host().matches('(?i)B|ö')", "basicProfile": "DENY"},
        {"sessionMatcher": "!host().matches('c') || host().matches('^a[0-9]+[.]example$')"},
    ]));
    let compiled = Engine::from_value(&value).unwrap();
    let written = serde_json::to_string(compiled.programs()).unwrap();
    let shipped =
        Engine::with_programs(Cow::Borrowed(&value), &serde_json::from_str(&written).unwrap()).unwrap();
    assert_eq!(shipped.hash(), compiled.hash());
    let mut verdicts = Vec::new();
    for destination in
        ["a1.example:443", "a.example:443", "b.example:443", "c.example:443", "xn--nda.example:443"]
    {
        let verdict = Case::to(destination).connect(&compiled);
        assert_eq!(Case::to(destination).connect(&shipped), verdict, "{destination}");
        verdicts.push(verdict);
    }
    assert!(verdicts.iter().any(|verdict| *verdict != verdicts[0]), "{verdicts:?}");
}

#[test]
fn programs_are_those_of_the_enabled_rules_each_once() {
    let engine = engine(
        json!([
            {"sessionMatcher": "host().matches('a') || host().matches('b')"},
            {"sessionMatcher": "true", "applicationMatcher": "request.path.matches('a')", "basicProfile": "DENY"},
            {"sessionMatcher": "host().matches('shadow')", "shadow": true},
            {"sessionMatcher": "host().matches('off')", "enabled": false},
        ]),
        json!({}),
    );
    assert_eq!(engine.programs().keys().collect::<Vec<_>>(), ["a", "b", "shadow"]);
    assert!(super::engine(json!([{}]), json!({})).programs().is_empty());
}

#[test]
fn what_has_no_program_is_refused_where_it_stands() {
    let value = of_patterns(json!([{"sessionMatcher": "host() == 'x' ||\n  host().matches('a+')"}]));
    let programs = Engine::from_value(&value).unwrap().programs().clone();
    let with = |program: &str| Programs::from([("a+".to_owned(), program.to_owned())]);
    let mut version = programs["a+"].clone();
    version.replace_range(..1, "B");
    for (programs, expected) in [
        (Programs::new(), "the pattern `a+` comes without its program; have `outgate render` write"),
        (Programs::from([("a".to_owned(), programs["a+"].clone())]), "comes without its program"),
        (
            with(""),
            "the program of the pattern `a+` has another version than 1; have `outgate render` of this",
        ),
        (with(&version), "has another version than 1"),
        (with("AQ"), "is damaged"),
        (with("{}"), "is no base64"),
    ] {
        let errors = Engine::with_programs(Cow::Borrowed(&value), &programs).unwrap_err();
        let Some(PolicyError::Matcher(error)) = errors.iter().next() else { panic!("{errors}") };
        assert_eq!((&*error.rule, error.line, error.column), ("r1", 2, 18), "{errors}");
        assert!(error.message.contains(expected), "{expected}: {errors}");
        assert!(errors.to_string().contains("\n                   ^"), "{errors}");
    }
    assert!(Engine::with_programs(Cow::Borrowed(&value), &programs).is_ok());
}
