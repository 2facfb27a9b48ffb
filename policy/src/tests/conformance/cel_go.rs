//! Random expressions of our language mean to us what they mean to cel-go, the reference implementation of CEL.

use std::collections::HashMap;
use std::process::Command;

use time::macros::datetime;

use super::super::expressions::Expressions;
use super::super::random::Random;
use super::super::*;
use super::{Oracle, repository, say, wanted};

fn case() -> Case {
    Case {
        ip: "10.1.2.3",
        tags: vec!["t1".to_owned()],
        destination: "www.example.com:8443",
        certificate: Some(ClientCertificate {
            subject: "CN=build".to_owned(),
            issuer: "CN=ca".to_owned(),
            serial: "0A".to_owned(),
            sha256: "00ff".to_owned(),
            uri_sans: Vec::new(),
            dns_sans: vec!["a.mesh.example".to_owned(), "b.example".to_owned()],
            not_after: datetime!(2027-01-31 12:00 UTC),
        }),
        connection: Some(Connection { sni: Some("www.example.com"), ..Connection::default() }),
        method: "POST",
        path: "/a/b?x=1&y=%20",
        headers: vec![("x-team", "a,b"), ("n", "12"), ("user-agent", "curl/8")],
        now: datetime!(2026-11-19 23:30:15.250 UTC),
    }
}

/// The same for cel-go.
fn world() -> Value {
    json!({
        "host": "www.example.com",
        "url": "www.example.com/a/b",
        "sourceIp": "10.1.2.3",
        "sourcePort": 4711,
        "destinationPort": 8443,
        "tags": ["t1"],
        "serviceAccount": "ci@p.example",
        "certificate": {
            "subject": "CN=build",
            "issuer": "CN=ca",
            "serial": "0A",
            "sha256": "00ff",
            "dnsSans": ["a.mesh.example", "b.example"],
        },
        "notAfter": "2027-01-31T12:00:00Z",
        "connection": {"sni": "www.example.com"},
        "method": "POST",
        "path": "/a/b",
        "query": "x=1&y=%20",
        "scheme": "https",
        "headers": {"host": "www.example.com", "x-team": "a,b", "n": "12", "user-agent": "curl/8"},
        "time": "2026-11-19T23:30:15.250Z",
    })
}

#[test]
fn random_expressions_mean_what_they_mean_to_cel_go() {
    let command = &mut Command::new(repository().join("scripts/cel-go-answers"));
    let Some(mut cel_go) = Oracle::start("cel-go", command) else { return };
    cel_go.tell(&world());
    let case = case();
    let mut random = Random::new(wanted("CEL_GO_SEED", 1) as u64);
    let mut expressions = Expressions { random: &mut random, everything: true };
    let mut counts = HashMap::<&str, usize>::new();
    let mut others = Vec::new();
    let cases = wanted("CEL_GO_CASES", 10_000);
    for round in 0..cases {
        let expression = expressions.condition(1 + round % 4);
        // To cel-go, and to nobody else, a time remembers in which zone it was written: `string` tells.
        let in_utc = expression.replace("2024-02-29T00:00:00+05:30", "2024-02-28T18:30:00Z");
        let theirs = cel_go.ask(&json!(in_utc));
        let rule = json!([{"applicationMatcher": expression, "tlsInspectionEnabled": true}]);
        let ours = match Engine::from_value(&policy(rule, json!({}))) {
            Err(errors) => format!("rejected {errors}"),
            Ok(engine) => match case.request(&engine, RequestStage::Inspected).as_str() {
                "allow r1" => "true".to_owned(),
                "deny" => "false".to_owned(),
                "deny, failed: r1" => "error".to_owned(),
                other => panic!("{expression}: {other}"),
            },
        };
        let word = ["true", "false", "error"].into_iter().find(|word| theirs.starts_with(word));
        match word {
            Some(word) if ours == word => *counts.entry(word).or_default() += 1,
            // The one thing that the generator writes and we lack.
            Some(_) if ours.contains("do not go inside each other in macros") => {}
            _ => others.push(format!("{expression}\n  ours: {ours}\n  theirs: {theirs}")),
        }
    }
    let same: usize = counts.values().sum();
    let refused = cases - same - others.len();
    say(&format!("cel-go: of {cases} expressions, {same} mean the same ({counts:?}), we refuse {refused}"));
    assert!(others.is_empty(), "{}", others.join("\n"));
    assert!(counts.len() == 3 && counts.values().all(|count| *count > cases / 20), "{counts:?}");
}
