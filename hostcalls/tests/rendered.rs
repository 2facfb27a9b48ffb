//! What the module that ships leaves to `outgate render`: it has no compiler of regular expressions and searches with the
//! programs that it is given, and it has no tables of Unicode for hosts.

#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

use std::path::Path;

use outgate_hostcalls::{Action, Host, Map, Outgate};
use outgate_policy::Engine;
use serde_json::{Value, json};

fn start() -> Host {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/outgate.wasm");
    let module = Outgate::load(&path).expect("target/outgate.wasm; `make wasm` builds it");
    let mut host = module.start().unwrap();
    host.state().properties.insert("source.address".to_owned(), b"10.0.0.1:4711".to_vec());
    host
}

fn policy(pattern: &str) -> Value {
    json!({"name": "egress", "rules": [{
        "name": "by-path", "enabled": true, "priority": 1, "basicProfile": "ALLOW",
        "sessionMatcher": "true", "applicationMatcher": format!("request.path.matches(R'{pattern}')"),
    }]})
}

fn request(path: &str) -> Map {
    [(":authority", "a.example"), (":path", path), (":method", "GET"), (":scheme", "http")]
        .map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()))
        .to_vec()
}

/// The status of the filter's answer, if the request does not go on.
fn refused(host: &mut Host, root: u32, path: &str) -> Option<u32> {
    host.state().request = request(path);
    host.state().answer = None;
    let context = host.context(root).unwrap();
    let action = host.request_headers(context).unwrap();
    let status = host.state().answer.as_ref().map(|answer| answer.status);
    assert_eq!(action == Action::Continue, status.is_none(), "{path}");
    status
}

#[test]
fn the_module_searches_with_the_programs_that_come_with_the_policy() {
    for (pattern, matching, other) in [
        ("^/v[0-9]+/item7$", "/v12/item7", "/v12/item70"),
        (r"(?i)\bK\b", "/a-k-b", "/akb"),
        ("é|[^/a-z]{3}", "/123", "/12"),
    ] {
        let policy = policy(pattern);
        let programs = Engine::from_value(&policy).unwrap().programs().clone();
        let plugin = json!({"policy": policy, "patterns": programs}).to_string();
        let mut host = start();
        let root = host.root("explicit", plugin.as_bytes()).unwrap();
        let root = root.unwrap_or_else(|| panic!("{:?}", host.state().log));
        // Twice: what was learned of the pattern is used.
        for _ in 0..2 {
            assert_eq!(refused(&mut host, root, matching), None, "{pattern}");
            assert_eq!(refused(&mut host, root, other), Some(403), "{pattern}");
        }
    }
}

#[test]
fn a_pattern_without_a_whole_program_is_refused_with_the_remedy() {
    let policy = policy("^/a");
    for (patterns, expected) in [
        (json!({}), "the pattern `^/a` comes without its program; have `outgate render` write this plugin"),
        (json!({"^/a": "AQAB"}), "the program of the pattern `^/a` is damaged"),
    ] {
        let plugin = json!({"policy": policy, "patterns": patterns}).to_string();
        let mut host = start();
        assert_eq!(host.root("explicit", plugin.as_bytes()).unwrap(), None);
        let said = host.state().log.join("\n");
        for expected in [expected, "`by-path`", "applicationMatcher", "column 22"] {
            assert!(said.contains(expected), "{expected}: {said}");
        }
    }
}

/// It has no tables of Unicode either.
#[test]
fn a_host_that_is_not_ascii_is_refused_with_the_remedy() {
    let lists = json!([{"name": "listed", "values": ["bücher.example"]}]);
    let plugin = json!({"policy": {"name": "egress", "rules": [], "urlLists": lists}}).to_string();
    let mut host = start();
    assert_eq!(host.root("explicit", plugin.as_bytes()).unwrap(), None);
    let said = host.state().log.join("\n");
    for expected in
        ["urlLists[0].values[0]", "`bücher.example` is not ASCII; write its labels as DNS has them"]
    {
        assert!(said.contains(expected), "{expected}: {said}");
    }
}
