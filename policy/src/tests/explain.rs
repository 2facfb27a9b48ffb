//! `explain`: the JSON interface, member by member.

use super::*;
use crate::explain::{Question, explain};

fn ask(engine: &Engine, question: Value) -> Value {
    let question = Question::from_value(question).unwrap_or_else(|error| panic!("{error}"));
    serde_json::to_value(explain(engine, &question, &|_| false)).unwrap()
}

fn example() -> Engine {
    engine(
        json!([
            {"name": "off", "priority": 1, "enabled": false},
            {"name": "clear", "priority": 5, "applicationMatcher": "request.method == 'GET'"},
            {"name": "banks", "priority": 8, "sessionMatcher": "inUrlList(host(), 'banks')"},
            {"name": "grpc", "priority": 10, "sessionMatcher": "host() == 'github.com'", "tlsInspectionEnabled": true,
             "applicationMatcher": "request.url().startsWith('github.com/grpc/')"},
            {"name": "tagged", "priority": 20, "sessionMatcher": "source.matchTag('tagValues/1')"},
            {"name": "account", "priority": 21, "sessionMatcher": "source.matchServiceAccount('a@b')"},
        ]),
        json!({"sources": [{"cidrs": ["10.9.0.0/16"], "tags": ["tagValues/1"]}]}),
    )
}

fn verdicts(answer: &Value) -> String {
    let text = |decided: &Value| {
        let rule = decided["rule"].as_str().unwrap_or("-");
        format!("{} {rule} {}", decided["verdict"].as_str().unwrap(), decided["reason"].as_str().unwrap())
    };
    let request = if answer["request"].is_null() { "null".to_owned() } else { text(&answer["request"]) };
    format!("{} | {request} | {}", text(&answer["session"]), answer["decrypted"])
}

#[test]
fn an_answer_has_exactly_these_members() {
    let answer = ask(
        &example(),
        json!({
            "source": {"ip": "10.0.0.1", "port": 4711, "tags": ["tagValues/12345"], "serviceAccount": "a@b"},
            "connect": "github.com:443", "flow": "tls", "sni": "github.com",
            "request": {"method": "GET", "scheme": "https", "authority": "github.com", "path": "/grpc/x?y=1", "headers": {"user-agent": "t"}},
        }),
    );
    assert_eq!(
        answer,
        json!({
            "session": {"verdict": "inspect", "rule": "grpc", "reason": "rule_allowed"},
            "request": {"verdict": "allow", "rule": "grpc", "reason": "rule_allowed"},
            "decrypted": true,
            "trace": [
                {"rule": "off", "stage": "session", "outcome": "disabled", "detail": "disabled rules do not exist"},
                {"rule": "clear", "stage": "session", "outcome": "matched", "detail": "`true` is true"},
                {"rule": "clear", "stage": "application", "outcome": "skipped",
                 "detail": "without tlsInspectionEnabled it sees no request inside TLS"},
                {"rule": "banks", "stage": "session", "outcome": "not-matched",
                 "detail": "`inUrlList(host(), 'banks')` is false: host() is \"github.com\""},
                {"rule": "grpc", "stage": "session", "outcome": "matched",
                 "detail": "`host() == 'github.com'` is true: host() is \"github.com\""},
                {"rule": "tagged", "stage": "session", "outcome": "not-reached", "detail": "a rule before it decided"},
                {"rule": "account", "stage": "session", "outcome": "not-reached", "detail": "a rule before it decided"},
                {"rule": "banks", "stage": "application", "outcome": "skipped",
                 "detail": "a session rule with ALLOW does not match once traffic is intercepted; give it a lower priority \
                            number than the inspecting rule, or narrow that rule's sessionMatcher"},
                {"rule": "grpc", "stage": "application", "outcome": "matched",
                 "detail": "`request.url().startsWith('github.com/grpc/')` is true: request.url() is \"github.com/grpc/x\""},
            ],
        })
    );
}

#[test]
fn verdicts_are_those_of_the_tables() {
    let engine = example();
    let source = json!({"ip": "10.0.0.1", "port": 1});
    let tagged = json!({"ip": "10.0.0.1", "port": 1, "tags": ["tagValues/1"]});
    let known = json!({"ip": "10.9.0.1", "port": 1});
    let account = json!({"ip": "10.0.0.1", "port": 1, "serviceAccount": "a@b"});
    let get = json!({"method": "GET", "scheme": "https", "authority": "github.com", "path": "/grpc/x", "headers": {}});
    let clear = json!({"method": "GET", "scheme": "http", "authority": "a.example", "path": "/"});
    let post = json!({"method": "POST", "scheme": "http", "authority": "a.example", "path": "/"});
    for (question, expected) in [
        (
            json!({"source": source, "flow": "direct", "request": clear}),
            "http - per_request | allow clear rule_allowed | false",
        ),
        (
            json!({"source": source, "flow": "direct", "request": post}),
            "http - per_request | deny - default_denied | false",
        ),
        (
            json!({"source": tagged, "flow": "direct", "request": post}),
            "http - per_request | allow tagged rule_allowed | false",
        ),
        (
            json!({"source": known, "flow": "direct", "request": post}),
            "http - per_request | allow tagged rule_allowed | false",
        ),
        (
            json!({"source": account, "flow": "direct", "request": post}),
            "http - per_request | allow account rule_allowed | false",
        ),
        (
            json!({"source": source, "connect": "a.example:80", "flow": "http", "request": clear}),
            "http - per_request | allow clear rule_allowed | false",
        ),
        (
            json!({"source": source, "connect": "a.example:80", "flow": "http"}),
            "http - per_request | null | false",
        ),
        (
            json!({"source": source, "connect": "a.example:22", "flow": "opaque"}),
            "fail clear not_http | null | false",
        ),
        (
            json!({"source": source, "connect": "a.example:443", "flow": "tls", "sni": "a.example"}),
            "deny - default_denied | null | false",
        ),
        (
            json!({"source": tagged, "connect": "a.example:443", "flow": "tls", "sni": "a.example"}),
            "tunnel tagged rule_allowed | null | false",
        ),
        (
            json!({"source": tagged, "connect": "a.example:443", "flow": "tls"}),
            "tunnel tagged rule_allowed | null | false",
        ),
        (
            json!({"source": tagged, "connect": "a.example:443", "flow": "tls", "sni": "b.example"}),
            "fail - host_mismatch | null | false",
        ),
        (
            json!({"source": source, "connect": "github.com:443", "flow": "tls", "sni": "github.com", "request": get}),
            "inspect grpc rule_allowed | allow grpc rule_allowed | true",
        ),
        (
            json!({"source": source, "connect": "github.com:443", "flow": "tls", "sni": "GITHUB.com.", "request": get}),
            "inspect grpc rule_allowed | allow grpc rule_allowed | true",
        ),
        (
            json!({"source": source, "connect": "github.com:443", "flow": "tls", "sni": "github.com"}),
            "inspect grpc rule_allowed | null | true",
        ),
        (
            json!({"source": source, "connect": "github.com:443", "flow": "tls", "request": get}),
            "fail - no_sni | null | false",
        ),
        (
            json!({"source": source, "connect": "github.com:443", "flow": "tls", "sni": "evil.example", "request": get}),
            "fail - host_mismatch | null | false",
        ),
        (
            json!({"source": source, "connect": "github.com:0443", "flow": "tls", "sni": "github.com"}),
            "deny - bad_authority | null | false",
        ),
    ] {
        assert_eq!(verdicts(&ask(&engine, question.clone())), expected, "{question}");
    }
}

#[test]
fn session_rules_decide_before_anything_is_read() {
    let engine = engine(
        json!([{"name": "s", "sessionMatcher": "destination.port == 22"}, {"name": "no", "basicProfile": "DENY"}]),
        json!({}),
    );
    for flow in ["tls", "http", "opaque"] {
        let question = |connect: &str| json!({"source": {"ip": "10.0.0.1", "port": 1}, "connect": connect, "flow": flow, "sni": "evil.example"});
        assert_eq!(verdicts(&ask(&engine, question("a.example:22"))), "tunnel s rule_allowed | null | false");
        assert_eq!(verdicts(&ask(&engine, question("a.example:23"))), "deny no rule_denied | null | false");
    }
}

#[test]
fn requests_that_cannot_be_read_one_way_are_denied_without_a_rule() {
    let all = engine(json!([{"name": "all", "tlsInspectionEnabled": true}]), json!({}));
    let allow =
        engine(json!([{"name": "all", "tlsInspectionEnabled": true}]), json!({"hostMismatch": "allow"}));
    let inside = |changes: Value| {
        let mut request = json!({"method": "GET", "scheme": "https", "authority": "a.example", "path": "/"});
        request.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        json!({"source": {"ip": "10.0.0.1", "port": 1}, "connect": "a.example:443", "flow": "tls", "sni": "a.example", "request": request})
    };
    for (changes, expected) in [
        (json!({}), "allow all rule_allowed"),
        (json!({"authority": "A.example.:443"}), "allow all rule_allowed"),
        (json!({"authority": "a.example:25"}), "deny - host_mismatch"),
        (json!({"authority": "b.example"}), "deny - host_mismatch"),
        (json!({"authority": "user@a.example"}), "deny - bad_authority"),
        (json!({"scheme": "http"}), "deny - scheme_mismatch"),
        (json!({"path": "/a/..%2fb"}), "deny - ambiguous_path"),
        (json!({"path": "a"}), "deny - bad_path"),
        (json!({"path": "*"}), "deny - bad_path"),
        (json!({"path": "*", "method": "OPTIONS"}), "allow all rule_allowed"),
    ] {
        let expected = format!("inspect all rule_allowed | {expected} | true");
        assert_eq!(verdicts(&ask(&all, inside(changes.clone()))), expected, "{changes}");
    }
    assert_eq!(
        verdicts(&ask(&allow, inside(json!({"authority": "b.example"})))),
        "inspect all rule_allowed | allow all rule_allowed | true"
    );
    for (request, expected) in [
        (json!({"authority": "a.example", "scheme": "https"}), "deny - scheme_mismatch"),
        (json!({"authority": "127.1"}), "deny - bad_authority"),
        (json!({"authority": "a.example", "path": "/%252e%252e/"}), "deny - ambiguous_path"),
        (json!({"authority": "a.example:8080"}), "allow all rule_allowed"),
    ] {
        let question = json!({"source": {"ip": "10.0.0.1"}, "flow": "direct", "request": request});
        let answer = ask(&all, question);
        assert_eq!(verdicts(&answer), format!("http - per_request | {expected} | false"), "{request}");
        assert_eq!(answer["trace"].as_array().unwrap().len(), 1);
    }
}

#[test]
fn details_name_the_part_that_decided_and_what_it_saw() {
    for (matcher, outcome, detail) in [
        ("host() == 'a' && true", "not-matched", "`host() == 'a'` is false: host() is \"b.example\""),
        (
            "host() == 'a' || host() == 'c'",
            "not-matched",
            "`host() == 'a'` is false: host() is \"b.example\"; `host() == 'c'` is false: host() is \"b.example\"",
        ),
        (
            "!(host() == 'b.example' && destination.port == 80)",
            "not-matched",
            "`host() == 'b.example'` is true: host() is \"b.example\"; `destination.port == 80` is true: destination.port is 80",
        ),
        (
            "source.matchTag('x')",
            "not-matched",
            "`source.matchTag('x')` is false: the source has the tags `t1`, `t2`",
        ),
        (
            "inIpRange(source.ip, '11.0.0.0/8')",
            "not-matched",
            "`inIpRange(source.ip, '11.0.0.0/8')` is false: source.ip is \"10.0.0.1\"",
        ),
        (
            "request.headers['x'] == 'y'",
            "error",
            "`request.headers['x'] == 'y'` failed: there is no header `x`",
        ),
        (
            "int(request.headers['n']) > 5",
            "error",
            "`int(request.headers['n']) > 5` failed: `abc` is no whole number",
        ),
        (
            "request.headers['n'].lower() in ['x',\n  'y']",
            "not-matched",
            "`request.headers['n'].lower() in ['x', 'y']` is false: header `n` is \"abc\"",
        ),
        ("false", "not-matched", "`false` is false"),
        ("has(request.headers.x)", "not-matched", "is false"),
        (
            "connection.sni == 'a' || false",
            "error",
            "`connection.sni == 'a'` failed: `connection.sni` is absent",
        ),
    ] {
        let engine =
            engine(json!([{"applicationMatcher": matcher, "tlsInspectionEnabled": true}]), json!({}));
        let answer = ask(
            &engine,
            json!({
                "source": {"ip": "10.0.0.1", "port": 1, "tags": ["t2", "t1"]}, "flow": "direct",
                "request": {"method": "GET", "authority": "b.example", "path": "/", "headers": {"N": "abc"}},
            }),
        );
        let step =
            answer["trace"].as_array().unwrap().iter().find(|step| step["stage"] == "application").unwrap();
        assert_eq!(step["outcome"], outcome, "{matcher}");
        assert!(step["detail"].as_str().unwrap().contains(detail), "{matcher}: {step}");
    }
}

#[test]
fn questions_must_be_of_the_form() {
    for (question, expected) in [
        (json!({"source": {"ip": "10.0.0.1"}, "flow": "tls"}), "connect: missing"),
        (json!({"source": {"ip": "10.0.0.1"}, "flow": "direct"}), "request: missing"),
        (
            json!({"source": {"ip": "10.0.0.1"}, "flow": "direct", "request": {}}),
            "request.authority: missing",
        ),
        (
            json!({"source": {"ip": "10.0.0.1"}, "flow": "direct", "connect": "a:1", "request": {"authority": "a"}}),
            "connect: there is none",
        ),
        (
            json!({"source": {"ip": "10.0.0.1"}, "flow": "tls", "connect": "a:1", "sny": "a"}),
            "unknown field `sny`",
        ),
        (
            json!({"source": {"ip": "10.0.0.1", "tag": []}, "flow": "tls", "connect": "a:1"}),
            "source.tag: unknown field `tag`",
        ),
        (json!({"source": {"ip": "x"}, "flow": "tls", "connect": "a:1"}), "source.ip: invalid IP address"),
        (
            json!({"source": {"ip": "10.0.0.1"}, "flow": "udp", "connect": "a:1"}),
            "flow: unknown variant `udp`",
        ),
        (json!({"flow": "tls", "connect": "a:1"}), "missing field `source`"),
        (json!([]), "question: "),
        (json!(5), "question: "),
    ] {
        let error = Question::from_value(question.clone()).unwrap_err().to_string();
        assert!(error.contains(expected), "{question}: {error}");
    }
}
