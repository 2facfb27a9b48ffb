//! The tables of how a decision is made, row by row.

use super::*;

const HOST: &str = "host() == 'example.com'";

fn session_rule(action: &str) -> Value {
    json!({"name": "session", "basicProfile": action, "sessionMatcher": HOST})
}

fn application_rule(action: &str) -> Value {
    json!({"name": "application", "basicProfile": action, "sessionMatcher": HOST, "applicationMatcher": "request.path.startsWith('/a')"})
}

fn inspecting_rule(action: &str) -> Value {
    json!({"name": "inspecting", "basicProfile": action, "sessionMatcher": HOST, "applicationMatcher": "request.path.startsWith('/i')", "tlsInspectionEnabled": true})
}

#[test]
fn the_first_rule_decides_a_tunnel() {
    let example = Case::default();
    for (rules, expected) in [
        (json!([session_rule("ALLOW")]), "tunnel session"),
        (json!([session_rule("DENY")]), "deny session"),
        (json!([application_rule("ALLOW")]), "sniff application: deny"),
        (json!([application_rule("DENY")]), "sniff application: deny"),
        (json!([inspecting_rule("ALLOW")]), "sniff inspecting: inspect inspecting"),
        (json!([inspecting_rule("DENY")]), "sniff inspecting: inspect inspecting"),
        (
            json!([{"name": "all", "sessionMatcher": HOST, "tlsInspectionEnabled": true}]),
            "sniff all: inspect all",
        ),
        (json!([application_rule("ALLOW"), session_rule("ALLOW")]), "sniff application: tunnel session"),
        (json!([application_rule("ALLOW"), session_rule("DENY")]), "sniff application: deny session"),
        (
            json!([application_rule("ALLOW"), inspecting_rule("ALLOW")]),
            "sniff application: inspect inspecting",
        ),
        (json!([inspecting_rule("ALLOW"), session_rule("DENY")]), "sniff inspecting: inspect inspecting"),
        (json!([session_rule("ALLOW"), inspecting_rule("ALLOW")]), "tunnel session"),
        (json!([]), "deny"),
    ] {
        let engine = engine(rules.clone(), json!({}));
        assert_eq!(example.connect(&engine), expected, "{rules}");
        assert_eq!(Case::to("other.example:443").connect(&engine), "deny", "{rules}");
    }
}

#[test]
fn the_first_rule_by_both_matchers_decides_a_request_in_the_clear() {
    for (rules, path, expected) in [
        (json!([session_rule("ALLOW")]), "/", "allow session"),
        (json!([session_rule("DENY")]), "/", "deny session"),
        (json!([application_rule("ALLOW")]), "/a", "allow application"),
        (json!([application_rule("ALLOW")]), "/b", "deny"),
        (json!([application_rule("DENY"), session_rule("ALLOW")]), "/a", "deny application"),
        (json!([application_rule("DENY"), session_rule("ALLOW")]), "/b", "allow session"),
        (json!([inspecting_rule("ALLOW")]), "/i", "allow inspecting"),
        (json!([session_rule("ALLOW"), application_rule("DENY")]), "/a", "allow session"),
        (json!([]), "/", "deny"),
    ] {
        let engine = engine(rules.clone(), json!({}));
        let case = Case { path, ..Case::to("example.com:80") };
        assert_eq!(case.request(&engine, RequestStage::Clear), expected, "{rules} {path}");
    }
}

#[test]
fn fewer_rules_count_for_an_inspected_request() {
    for (rules, outgate, path, expected) in [
        (json!([inspecting_rule("ALLOW")]), json!({}), "/i", "allow inspecting"),
        (json!([inspecting_rule("DENY")]), json!({}), "/i", "deny inspecting"),
        (json!([inspecting_rule("ALLOW")]), json!({}), "/", "deny"),
        (json!([application_rule("ALLOW"), inspecting_rule("ALLOW")]), json!({}), "/a", "deny"),
        (json!([application_rule("DENY"), inspecting_rule("ALLOW")]), json!({}), "/a", "deny"),
        (json!([inspecting_rule("ALLOW"), session_rule("ALLOW")]), json!({}), "/", "deny"),
        (json!([inspecting_rule("ALLOW"), session_rule("DENY")]), json!({}), "/", "deny session"),
        (
            json!([inspecting_rule("ALLOW"), session_rule("ALLOW")]),
            json!({"afterInspection": "lenient"}),
            "/",
            "allow session",
        ),
        (
            json!([inspecting_rule("ALLOW"), application_rule("ALLOW")]),
            json!({"afterInspection": "lenient"}),
            "/a",
            "deny",
        ),
    ] {
        let engine = engine(rules.clone(), outgate);
        let case = Case { path, ..Case::default() };
        assert_eq!(case.request(&engine, RequestStage::Inspected), expected, "{rules} {path}");
    }
}

#[test]
fn priorities_count_and_not_the_order_of_the_file() {
    let rules = json!([
        {"name": "late", "priority": 2_000_000_000, "basicProfile": "DENY"},
        {"name": "off", "priority": 1, "enabled": false},
        {"name": "shadow", "priority": 2, "shadow": true},
        {"name": "early", "priority": -5},
    ]);
    let engine = engine(rules, json!({}));
    assert_eq!(Case::default().connect(&engine), "tunnel early");
    let names: Vec<_> = engine.rules().iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(names, ["early", "shadow", "late"]);
}

#[test]
fn a_matcher_that_fails_does_not_match() {
    const FAILS: &str = "request.headers['x-api'] != 'ok'";
    let rules = |action: &str| {
        json!([
            {"name": "fails", "basicProfile": action, "applicationMatcher": FAILS, "tlsInspectionEnabled": true},
            {"name": "rest", "tlsInspectionEnabled": true},
        ])
    };
    for (action, outgate, expected) in [
        ("DENY", json!({}), "allow rest, failed: fails"),
        ("ALLOW", json!({}), "allow rest, failed: fails"),
        ("DENY", json!({"errorsInDeny": "deny"}), "deny fails, failed: fails"),
        ("ALLOW", json!({"errorsInDeny": "deny"}), "allow rest, failed: fails"),
    ] {
        let engine = engine(rules(action), outgate);
        assert_eq!(Case::default().request(&engine, RequestStage::Inspected), expected, "{action}");
    }
    let session = json!([{"name": "fails", "basicProfile": "DENY", "sessionMatcher": "int(host()) == 1"}, {"name": "rest"}]);
    assert_eq!(Case::default().connect(&engine(session.clone(), json!({}))), "tunnel rest, failed: fails");
    assert_eq!(
        Case::default().connect(&engine(session, json!({"errorsInDeny": "deny"}))),
        "deny fails, failed: fails"
    );
}

#[test]
fn what_only_the_first_bytes_tell_has_the_tunnel_sniffed() {
    let sni = |name: &str| format!("{HOST} && connection.sni == '{name}'");
    let rules = json!([
        {"name": "evil", "basicProfile": "DENY", "sessionMatcher": sni("evil.example")},
        {"name": "good", "sessionMatcher": sni("example.com")},
        {"name": "port", "sessionMatcher": "destination.port == 22"},
        {"name": "inspect", "sessionMatcher": HOST, "tlsInspectionEnabled": true},
    ]);
    let engine = engine(rules, json!({}));
    // Where the rest of the matcher says no, nothing needs to be read.
    assert_eq!(Case::to("other.example:22").connect(&engine), "tunnel port");
    assert_eq!(Case::to("other.example:443").connect(&engine), "deny");
    assert_eq!(Case::default().connect(&engine), "sniff evil: unknown");
    for (sni, expected) in [
        (Some("evil.example"), "deny evil"),
        (Some("example.com"), "tunnel good"),
        (Some("third.example"), "inspect inspect"),
        (None, "inspect inspect, failed: evil good"),
    ] {
        let case = Case { connection: Some(Connection { sni, ..Connection::default() }), ..Case::default() };
        assert_eq!(case.sniffed(&engine), expected, "{sni:?}");
    }
    // In the clear there is no SNI.
    let clear = Case::to("example.com:22").request(&engine, RequestStage::Clear);
    assert_eq!(clear, "allow port, failed: evil good");
}

#[test]
fn server_names_of_tunnels_are_verified_on_demand() {
    let engine = engine(
        json!([session_rule("ALLOW"), {"name": "no", "basicProfile": "DENY"}]),
        json!({"tunnelSni": "verify"}),
    );
    assert_eq!(Case::default().connect(&engine), "sniff session: tunnel session");
    assert_eq!(Case::to("other.example:443").connect(&engine), "deny no");
}

#[test]
fn both_readings_of_a_path_must_be_allowed() {
    let deny_admin = json!([
        {"name": "no-admin", "basicProfile": "DENY", "applicationMatcher": "request.path.startsWith('/admin/')"},
        {"name": "rest"},
    ]);
    let only_ok = json!([{"name": "ok", "applicationMatcher": "request.path.startsWith('/ok/')"}]);
    for (rules, path, both, sent) in [
        (&deny_admin, "/admin/x", "deny no-admin", "deny no-admin"),
        (&deny_admin, "/x/../admin/x", "deny no-admin", "deny no-admin"),
        (&deny_admin, "/%61dmin/x", "deny no-admin", "deny no-admin"),
        (&deny_admin, "/admin%2Fx", "deny no-admin (folded)", "allow rest"),
        (&deny_admin, "//admin/x", "deny no-admin (folded)", "allow rest"),
        (&deny_admin, "/admin;x/y", "deny no-admin (folded)", "allow rest"),
        (&deny_admin, "/x//y", "allow rest", "allow rest"),
        (&only_ok, "/ok/a%2Fb", "allow ok", "allow ok"),
        (&only_ok, "/ok;x/a", "deny", "deny"),
        (&only_ok, "/ok%2Fa", "deny", "deny"),
        (&only_ok, "/ok/;/../a", "allow ok", "allow ok"),
    ] {
        let case = Case { path, ..Case::to("example.com:80") };
        assert_eq!(case.request(&engine(rules.clone(), json!({})), RequestStage::Clear), both, "{path}");
        let engine = engine(rules.clone(), json!({"ambiguousPaths": "sent"}));
        assert_eq!(case.request(&engine, RequestStage::Clear), sent, "{path}");
    }
    let path = RequestPath::parse("/admin%2Fx").unwrap();
    assert_eq!(Reading::Sent.explain(&path), None);
    let told = Reading::Folded.explain(&path).unwrap();
    assert!(told.contains("`/admin/x`") && told.contains("outgate.ambiguousPaths: sent"), "{told}");
}

#[test]
fn identities_come_from_sources() {
    let outgate = json!({"sources": [
        {"cidrs": ["10.1.0.0/16"], "tags": ["tagValues/1"]},
        {"cidrs": ["10.1.1.0/24"], "tags": ["tagValues/2"], "serviceAccount": "ci@p"},
    ]});
    let engine = engine(json!([]), outgate);
    for (ip, tags, accounts) in [
        ("10.1.1.1", &["tagValues/1", "tagValues/2"][..], &["ci@p"][..]),
        ("10.1.2.1", &["tagValues/1"], &[]),
        ("10.2.0.1", &[], &[]),
    ] {
        let identity =
            engine.identify(&Client { ip: ip.parse().unwrap(), port: 1, certificate: None, headers: None });
        assert_eq!(identity.tags(), tags, "{ip}");
        assert_eq!(identity.service_accounts(), accounts, "{ip}");
    }
}

#[test]
fn the_hash_is_that_of_what_the_policy_says() {
    let hash = |text: &str| Engine::from_text(text).unwrap().hash().to_owned();
    let first = hash(
        r#"{"name": "a", "rules": [{"name": "r", "priority": 1, "basicProfile": "ALLOW", "sessionMatcher": "true"}]}"#,
    );
    assert_eq!(first.len(), 16);
    assert_eq!(
        first,
        hash("rules:\n- sessionMatcher: 'true'\n  basicProfile: ALLOW\n  priority: 1\n  name: r\nname: a\n")
    );
    assert_ne!(first, hash("name: b"));
}

#[test]
fn a_host_that_no_session_can_have_inspected_is_known() {
    let inspect = |matcher: &str| json!({"sessionMatcher": matcher, "tlsInspectionEnabled": true});
    let tunnel = |matcher: &str| json!({"sessionMatcher": matcher});
    for (rules, expected) in [
        (json!([]), false),
        (json!([tunnel("true")]), false),
        (json!([inspect("true")]), true),
        (json!([inspect(HOST)]), true),
        (json!([inspect("host() == 'other.example'")]), false),
        (json!([inspect("host().endsWith('.com') && source.ip == '10.0.0.1'")]), true),
        (json!([inspect("host().endsWith('.org') && source.ip == '10.0.0.1'")]), false),
        (json!([inspect("source.matchTag('tagValues/1')")]), true),
        (json!([inspect("!source.mtls && connection.sni == 'a'")]), true),
        (json!([inspect("inIpRange(source.ip, '10.0.0.0/8')")]), true),
        (json!([inspect("inUrlList(host(), 'banks')")]), false),
        (json!([inspect("host().matches('^ex.*com$')")]), true),
        // A session rule that decides for everybody comes first, or one that does for some.
        (json!([tunnel(HOST), inspect("true")]), false),
        (json!([tunnel("host() == 'example.com' && source.port > 5"), inspect("true")]), true),
        (json!([{"basicProfile": "DENY", "sessionMatcher": HOST}, inspect("true")]), false),
        (json!([{"sessionMatcher": HOST, "applicationMatcher": "true"}, inspect("true")]), true),
        (json!([{"sessionMatcher": "true", "tlsInspectionEnabled": true, "enabled": false}]), false),
    ] {
        let engine = engine(rules.clone(), json!({}));
        let host = HostName::parse("example.com").unwrap();
        assert_eq!(engine.may_inspect(&host), expected, "{rules}");
    }
}
