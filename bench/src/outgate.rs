//! The filter as the product renders it.

use std::fs;
use std::path::Path;
use std::process::Command;

use outgate_tests::outgate::executable;
use serde_json::{Value, json};

use crate::rules::{Fields, PREFIX, host, regex};
use crate::worker::target;

/// A policy of so many rules, as its file says it.
pub fn policy(rules: usize, fields: Fields) -> String {
    let rule = |number: usize| {
        let (session, application) = match fields {
            Fields::Headers => {
                (format!("host() == '{}'", host(number)), format!("request.path.startsWith('{PREFIX}')"))
            }
            Fields::SourceIp => (
                format!("host() == '{}' && inIpRange(source.ip, '127.0.0.0/8')", host(number)),
                format!("request.path.startsWith('{PREFIX}')"),
            ),
            Fields::Regex => ("true".to_owned(), format!("request.path.matches('{}')", regex(number))),
        };
        json!({
            "name": format!("rule-{number}"),
            "enabled": true,
            "priority": number + 1,
            "basicProfile": "ALLOW",
            "sessionMatcher": session,
            "applicationMatcher": application,
        })
    };
    let rules: Vec<Value> = (0..rules).map(rule).collect();
    // The peers write no line for a request that they allow.
    json!({"name": "bench", "rules": rules, "outgate": {"log": {"allowances": 0}}}).to_string()
}

/// The HTTP filter of the explicit listener, taken out of what `outgate render` prints for this policy.
pub fn explicit_filter(policy: &str, vm: &str, folder: &Path) -> Value {
    let file = folder.join("policy.json");
    fs::write(&file, policy).unwrap();
    let rendered = Command::new(executable())
        .args(["render", "--policy"])
        .arg(&file)
        .arg("--wasm")
        .arg(target().join("outgate.wasm"))
        .output()
        .unwrap();
    assert!(rendered.status.success(), "{}", String::from_utf8_lossy(&rendered.stderr));
    let mut filter = find(&yaml(&String::from_utf8(rendered.stdout).unwrap()), &|value| {
        value["typed_config"]["config"]["root_id"] == "explicit"
    })
    .expect("the rendered configuration has the filter");
    // Each policy in a VM of its own, as if it were the only one.
    filter["typed_config"]["config"]["vm_config"]["vm_id"] = vm.into();
    filter
}

/// Reads YAML that we wrote ourselves, whatever its size.
fn yaml(text: &str) -> Value {
    serde_saphyr::from_str_with_options(text, serde_saphyr::options! { budget: None }).unwrap()
}

/// The first value within this one that fits.
fn find(value: &Value, fits: &dyn Fn(&Value) -> bool) -> Option<Value> {
    if fits(value) {
        return Some(value.clone());
    }
    match value {
        Value::Array(values) => values.iter().find_map(|value| find(value, fits)),
        Value::Object(members) => members.values().find_map(|value| find(value, fits)),
        _ => None,
    }
}
