//! Our evaluator and the interpreter of the `cel` crate say the same, expression by expression, wherever both know
//! the words.

use super::*;
use cel::{Context, Program, Value as CelValue};
use std::collections::HashMap;

use super::expressions::Expressions;
use super::random::Random;

#[test]
fn random_expressions_mean_the_same_to_the_interpreter() {
    let headers: HashMap<&str, CelValue> = [("host", "www.example.com"), ("x-team", "a,b"), ("n", "12")]
        .map(|(name, value)| (name, value.into()))
        .into();
    let request: HashMap<&str, CelValue> =
        [("headers", headers.into()), ("method", "POST".into()), ("path", "/a/b".into())].into();
    let destination: HashMap<&str, CelValue> = [("port", CelValue::Int(8443))].into();
    let mut context = Context::default();
    context.add_variable_from_value("request", request);
    context.add_variable_from_value("destination", destination);
    context.add_function("host", || "www.example.com".to_owned()).unwrap();
    let case = Case {
        destination: "www.example.com:8443",
        method: "POST",
        path: "/a/b",
        headers: vec![("x-team", "a,b"), ("n", "12")],
        ..Case::default()
    };
    let mut random = Random::new(1);
    let mut expressions = Expressions { random: &mut random, everything: false };
    let mut counts = HashMap::new();
    for round in 0..2_500 {
        let expression = expressions.condition(1 + round % 4);
        let reference = match Program::compile(&expression).unwrap().execute(&context) {
            Ok(CelValue::Bool(value)) => {
                if value {
                    "allow r1"
                } else {
                    "deny"
                }
            }
            Ok(other) => panic!("{expression}: {other:?}"),
            Err(_) => "deny, failed: r1",
        };
        let engine =
            engine(json!([{"applicationMatcher": expression, "tlsInspectionEnabled": true}]), json!({}));
        assert_eq!(case.request(&engine, RequestStage::Inspected), reference, "{expression}");
        *counts.entry(reference).or_insert(0) += 1;
    }
    assert!(counts.len() == 3 && counts.values().all(|count| *count > 200), "{counts:?}");
}
