//! Our evaluator and the interpreter of the `cel` crate say the same, expression by expression, wherever both know
//! the words.

use super::*;
use cel::{Context, Program, Value as CelValue};
use std::collections::HashMap;

const TEXTS: [&str; 12] = [
    "host()",
    "request.method",
    "request.path",
    "request.headers['x-team']",
    "request.headers['absent']",
    "request.headers['n']",
    "'www.example.com'",
    "'a'",
    "''",
    "'12'",
    "'é'",
    "R'\\d'",
];

/// Random expressions of each type.
struct Generator {
    state: u64,
}

impl Generator {
    fn below(&mut self, limit: u64) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state % limit
    }

    fn pick<'t>(&mut self, choices: &[&'t str]) -> &'t str {
        choices[usize::try_from(self.below(choices.len() as u64)).unwrap()]
    }

    fn condition(&mut self, depth: u32) -> String {
        if depth == 0 {
            return self
                .pick(&["true", "false", "has(request.headers.n)", "'absent' in request.headers"])
                .to_owned();
        }
        let inner = depth - 1;
        match self.below(13) {
            0 => format!("!({})", self.condition(inner)),
            1..=2 => format!("({} && {})", self.condition(inner), self.condition(inner)),
            3..=4 => format!("({} || {})", self.condition(inner), self.condition(inner)),
            5 => {
                format!("({} ? {} : {})", self.condition(inner), self.condition(inner), self.condition(inner))
            }
            6 => {
                let operator = self.pick(&["==", "!=", "<", "<=", ">", ">="]);
                format!("{} {operator} {}", self.text(inner), self.text(inner))
            }
            7..=8 => {
                let operator = self.pick(&["==", "!=", "<", "<=", ">", ">="]);
                format!("{} {operator} {}", self.number(inner), self.number(inner))
            }
            9 => {
                let function = self.pick(&["contains", "startsWith", "endsWith"]);
                format!("{}.{function}({})", self.text(inner), self.text(inner))
            }
            10 => format!("{} in [{}, {}]", self.text(inner), self.text(inner), self.text(inner)),
            11 => {
                let function = self.pick(&["exists", "all", "exists_one"]);
                let (first, second) =
                    (self.pick(&["'a'", "'b'", "'www'", "''"]), self.pick(&["'a'", "'com'", "'/'"]));
                let (tested, other) = (self.text(inner), self.condition(inner));
                format!("[{first}, {second}].{function}(x, {tested}.contains(x) && {other})")
            }
            _ => format!("(({}) == ({}))", self.condition(inner), self.condition(inner)),
        }
    }

    fn text(&mut self, depth: u32) -> String {
        if depth == 0 {
            return self.pick(&TEXTS).to_owned();
        }
        match self.below(5) {
            0 => format!("({} + {})", self.text(depth - 1), self.text(depth - 1)),
            1 => format!("string({})", self.number(depth - 1)),
            2 => format!(
                "({} ? {} : {})",
                self.condition(depth - 1),
                self.text(depth - 1),
                self.text(depth - 1)
            ),
            _ => self.text(0),
        }
    }

    fn number(&mut self, depth: u32) -> String {
        if depth == 0 {
            return self
                .pick(&[
                    "0",
                    "1",
                    "-1",
                    "7",
                    "destination.port",
                    "9223372036854775807",
                    "-9223372036854775808",
                ])
                .to_owned();
        }
        let inner = depth - 1;
        match self.below(6) {
            0..=1 => {
                let operator = self.pick(&["+", "-", "*", "/", "%"]);
                format!("({} {operator} {})", self.number(inner), self.number(inner))
            }
            2 => format!("-({})", self.number(inner)),
            3 => format!("int({})", self.text(inner)),
            4 => format!("size({})", self.text(inner)),
            _ => self.number(0),
        }
    }
}

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
    let mut generator = Generator { state: 0x9e37_79b9_7f4a_7c15 };
    let mut counts = HashMap::new();
    for round in 0..2_500 {
        let expression = generator.condition(1 + round % 4);
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
