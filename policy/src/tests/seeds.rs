//! The two policies of the document that started this, and the ways out that it recommends.

use super::*;

/// What a GET and a POST become, inside an inspected tunnel if there is one, else the tunnel itself.
fn https(engine: &Engine, case: &Case) -> String {
    match case.connect(engine).as_str() {
        verdict if verdict.contains(": inspect") => {
            let get = case.request(engine, RequestStage::Inspected);
            let post = Case {
                method: "POST",
                ..Case { tags: case.tags.clone(), path: case.path, ..Case::to(case.destination) }
            };
            format!("inspected, GET {get}, POST {}", post.request(engine, RequestStage::Inspected))
        }
        verdict => verdict.to_owned(),
    }
}

fn tagged(destination: &'static str) -> Case {
    Case { tags: vec!["tagValues/12345".to_owned()], ..Case::to(destination) }
}

fn no_posts(session_matcher: &str) -> Value {
    json!({
        "name": "no-posts", "description": "do not allow POST requests", "priority": 10, "basicProfile": "DENY",
        "sessionMatcher": session_matcher, "tlsInspectionEnabled": true, "applicationMatcher": "request.method == 'POST'",
    })
}

fn tcp(priority: i32) -> Value {
    json!({
        "name": "tcp", "description": "allow TCP proxying from tag 12345 to example.com", "priority": priority,
        "basicProfile": "ALLOW", "sessionMatcher": "source.matchTag('tagValues/12345') && host() == 'example.com'",
    })
}

#[test]
fn example_1_denies_what_its_second_rule_would_allow() {
    let engine = engine(json!([no_posts("true"), tcp(20)]), json!({}));
    assert_eq!(https(&engine, &tagged("example.com:443")), "inspected, GET deny, POST deny no-posts");
    assert_eq!(https(&engine, &Case::to("other.example:443")), "inspected, GET deny, POST deny no-posts");
}

#[test]
fn example_1_is_repaired_by_a_higher_priority() {
    let engine = engine(json!([no_posts("true"), tcp(5)]), json!({}));
    assert_eq!(https(&engine, &tagged("example.com:443")), "tunnel tcp");
    assert_eq!(https(&engine, &Case::to("example.com:443")), "inspected, GET deny, POST deny no-posts");
}

#[test]
fn example_1_is_repaired_by_a_narrower_rule() {
    let narrow = no_posts("!(source.matchTag('tagValues/12345') && host() == 'example.com')");
    let engine = engine(json!([narrow, tcp(20)]), json!({}));
    assert_eq!(https(&engine, &tagged("example.com:443")), "tunnel tcp");
    assert_eq!(https(&engine, &tagged("other.example:443")), "inspected, GET deny, POST deny no-posts");
}

#[test]
fn example_1_is_repaired_by_lenience() {
    let engine = engine(json!([no_posts("true"), tcp(20)]), json!({"afterInspection": "lenient"}));
    assert_eq!(https(&engine, &tagged("example.com:443")), "inspected, GET allow tcp, POST deny no-posts");
}

fn grpc(session_matcher: &str) -> Value {
    json!({
        "name": "grpc", "description": "allow to specific GitHub repository (TLS inspect to match specific path)",
        "priority": 10, "basicProfile": "ALLOW", "sessionMatcher": session_matcher, "tlsInspectionEnabled": true,
        "applicationMatcher": "request.url().startsWith('github.com/grpc/grpc')",
    })
}

fn bank(priority: i32) -> Value {
    json!({
        "name": "bank", "description": "allow TCP proxying to the bank", "priority": priority, "basicProfile": "ALLOW",
        "sessionMatcher": "host() == 'bankofamerica.com'",
    })
}

fn repository() -> Case {
    Case { path: "/grpc/grpc/tree", ..Case::to("github.com:443") }
}

#[test]
fn example_2_decrypts_the_bank() {
    let engine = engine(json!([grpc("true"), bank(20)]), json!({}));
    assert_eq!(https(&engine, &Case::to("bankofamerica.com:443")), "inspected, GET deny, POST deny");
    assert_eq!(https(&engine, &repository()), "inspected, GET allow grpc, POST allow grpc");
}

#[test]
fn example_2_is_repaired_by_a_higher_priority() {
    let engine = engine(json!([grpc("true"), bank(5)]), json!({}));
    assert_eq!(https(&engine, &Case::to("bankofamerica.com:443")), "tunnel bank");
    assert_eq!(https(&engine, &repository()), "inspected, GET allow grpc, POST allow grpc");
}

#[test]
fn example_2_is_repaired_by_a_narrower_rule() {
    let engine = engine(json!([grpc("host() == 'github.com'"), bank(20)]), json!({}));
    assert_eq!(https(&engine, &Case::to("bankofamerica.com:443")), "tunnel bank");
    assert_eq!(https(&engine, &repository()), "inspected, GET allow grpc, POST allow grpc");
    assert_eq!(https(&engine, &Case::to("github.com:443")), "inspected, GET deny, POST deny");
    assert_eq!(https(&engine, &Case::to("other.example:443")), "deny");
}

#[test]
fn the_examples_load_as_yaml() {
    let text = "\
name: projects/p/locations/l/gatewaySecurityPolicies/egress
tlsInspectionPolicy: projects/p/locations/l/tlsInspectionPolicies/default
rules:
- name: projects/p/locations/l/gatewaySecurityPolicies/egress/rules/rule-1
  description: do not allow POST requests
  enabled: true
  priority: 10
  basicProfile: DENY
  sessionMatcher: true
  tlsInspectionEnabled: true
  applicationMatcher: request.method == 'POST'
  createTime: '2026-01-01T00:00:00Z'
- name: rule-2
  description: allow TCP proxying from tag 12345 to example.com
  priority: 20
  basicProfile: ALLOW
  sessionMatcher: source.matchTag('tagValues/12345') && host() == 'example.com'
tlsInspectionPolicies:
- name: projects/p/locations/l/tlsInspectionPolicies/default
  caPool: projects/p/locations/l/caPools/main
";
    let engine = Engine::from_text(text).unwrap();
    assert_eq!(engine.document().name, "egress");
    assert_eq!(engine.document().tls_inspection.as_ref().unwrap().ca_pool, "main");
    let names: Vec<_> = engine.rules().iter().map(|rule| (rule.name.as_str(), rule.kind)).collect();
    assert_eq!(names, [("rule-1", RuleKind::Inspecting), ("rule-2", RuleKind::Session)]);
    assert_eq!(https(&engine, &tagged("example.com:443")), "inspected, GET deny, POST deny rule-1");
}
