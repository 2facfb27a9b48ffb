//! What Envoy brings for the same rules, and filters that have none.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Map, Value, json};

use crate::rules::{Fields, PREFIX, host, regex};
use crate::worker::target;

const RBAC: &str = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC";

/// A filter of the stock SDK; it reads two headers, or nothing.
pub fn stock_filter(reads: bool) -> Value {
    let configuration = if reads { "two_headers" } else { "nothing" };
    json!({"name": "stock", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
        "config": {
            "name": configuration,
            "root_id": configuration,
            "vm_config": {
                "vm_id": configuration,
                "runtime": "envoy.wasm.runtime.v8",
                "code": {"local": {"filename": target().join("stock-filter.wasm")}},
            },
            "configuration": {
                "@type": "type.googleapis.com/google.protobuf.StringValue",
                "value": configuration,
            },
        },
    }})
}

/// RBAC with an ordered list of CEL expressions: Envoy's own way to say what a policy of Outgate says.
pub fn rbac_cel(rules: usize, fields: Fields) -> Value {
    let matchers: Vec<Value> = (0..rules)
        .map(|rule| {
            json!({
                "predicate": {"single_predicate": {
                    "input": {"name": "attributes", "typed_config": {
                        "@type": "type.googleapis.com/xds.type.matcher.v3.HttpAttributesCelMatchInput",
                    }},
                    "custom_match": {"name": "cel", "typed_config": {
                        "@type": "type.googleapis.com/xds.type.matcher.v3.CelMatcher",
                        "expr_match": {"cel_expr_parsed": {"expr": cel(rule, fields)}},
                    }},
                }},
                "on_match": allow(),
            })
        })
        .collect();
    json!({"name": "rbac", "typed_config": {"@type": RBAC, "matcher": {"matcher_list": {"matchers": matchers}}}})
}

/// A rule as the tree that Envoy takes in place of CEL's text.
fn cel(rule: usize, fields: Fields) -> Value {
    let attribute = |of: &str, name: &str| json!({"select_expr": {"operand": {"ident_expr": {"name": of}}, "field": name}});
    let text = |value: &str| json!({"const_expr": {"string_value": value}});
    let call = |function: &str, arguments: Vec<Value>| json!({"call_expr": {"function": function, "args": arguments}});
    let method = |target: Value, function: &str, argument: Value| json!({"call_expr": {"target": target, "function": function, "args": [argument]}});
    let and = |left: Value, right: Value| call("_&&_", vec![left, right]);
    let headers = || {
        and(
            call("_==_", vec![attribute("request", "host"), text(&host(rule))]),
            method(attribute("request", "path"), "startsWith", text(PREFIX)),
        )
    };
    match fields {
        Fields::Headers => headers(),
        Fields::SourceIp => {
            and(headers(), method(attribute("source", "address"), "startsWith", text("127.")))
        }
        Fields::Regex => method(attribute("request", "path"), "matches", text(&regex(rule))),
    }
}

/// RBAC with a policy for each rule.
pub fn rbac_header(rules: usize, fields: Fields) -> Value {
    let policy = |rule: usize| {
        let on_path = |value: Value| json!({"url_path": {"path": value}});
        let permission = match fields {
            Fields::Regex => on_path(json!({"safe_regex": {"regex": regex(rule)}})),
            Fields::Headers | Fields::SourceIp => json!({"and_rules": {"rules": [
                {"header": {"name": ":authority", "string_match": {"exact": host(rule)}}},
                on_path(json!({"prefix": PREFIX})),
            ]}}),
        };
        let principal = match fields {
            Fields::SourceIp => json!({"direct_remote_ip": {"address_prefix": "127.0.0.0", "prefix_len": 8}}),
            Fields::Headers | Fields::Regex => json!({"any": true}),
        };
        json!({"permissions": [permission], "principals": [principal]})
    };
    // Envoy asks them in the order of their names.
    let policies: Map<String, Value> =
        (0..rules).map(|rule| (format!("rule-{rule:05}"), policy(rule))).collect();
    json!({"name": "rbac", "typed_config": {"@type": RBAC, "rules": {"action": "ALLOW", "policies": policies}}})
}

/// A hash map of hosts, each with its paths: no priorities, no expressions.
pub fn exact_match_map(rules: usize) -> Value {
    let input = |header: &str| {
        json!({"name": "header", "typed_config": {
            "@type": "type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput",
            "header_name": header,
        }})
    };
    let paths = json!({"matcher": {"matcher_tree": {
        "input": input(":path"),
        "prefix_match_map": {"map": {PREFIX: allow()}},
    }}});
    let hosts: Map<String, Value> = (0..rules).map(|rule| (host(rule), paths.clone())).collect();
    json!({"name": "rbac", "typed_config": {"@type": RBAC, "matcher": {"matcher_tree": {
        "input": input(":authority"),
        "exact_match_map": {"map": hosts},
    }}}})
}

fn allow() -> Value {
    json!({"action": {"name": "allow", "typed_config": {
        "@type": "type.googleapis.com/envoy.config.rbac.v3.Action", "name": "allow", "action": "ALLOW",
    }}})
}

/// A table of hosts in Lua.
pub fn lua_table(rules: usize) -> Value {
    let code = format!(
        "local prefixes = {{}}
for rule = 0, {rules} - 1 do prefixes['h' .. rule .. '.bench.test'] = '{PREFIX}' end
function envoy_on_request(handle)
  local headers = handle:headers()
  local prefix = prefixes[headers:get(':authority')]
  if prefix == nil or headers:get(':path'):sub(1, #prefix) ~= prefix then
    handle:respond({{[':status'] = '403'}}, 'denied')
  end
end"
    );
    json!({"name": "lua", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
        "default_source_code": {"inline_string": code},
    }})
}

/// Where Envoy looks for dynamic modules.
pub fn dynamic_modules() -> PathBuf {
    target().join("bench")
}

/// Compiles our dynamic module, or says why there is none.
pub fn compile_dynamic_module() -> Result<(), String> {
    let folder = dynamic_modules();
    fs::create_dir_all(&folder).unwrap();
    let source = target().join("../bench/dynamic_module.c");
    let mut compiler = Command::new("cc");
    compiler.args(["-O2", "-shared", "-fPIC", "-o"]).arg(folder.join("libhost_table.so")).arg(source);
    match compiler.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("the C compiler ended with {status}")),
        Err(error) => Err(format!("there is no C compiler `cc`: {error}")),
    }
}

/// A dynamic module with a hash table of hosts (`bench/dynamic_module.c`).
pub fn dynamic_module(rules: usize) -> Value {
    json!({"name": "dynamic_module", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilter",
        "dynamic_module_config": {"name": "host_table"},
        "filter_name": "host_table",
        "filter_config": {"@type": "type.googleapis.com/google.protobuf.StringValue", "value": rules.to_string()},
    }})
}

/// The cluster of the authorizer.
pub const AUTHORIZER: &str = "authorizer";

/// Asks a service over HTTP, which says yes at once: the least that any authorizer beside Envoy costs.
pub fn ext_authz(authorizer: SocketAddr) -> Value {
    json!({"name": "ext_authz", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
        "http_service": {"server_uri": {
            "uri": format!("http://{authorizer}"), "cluster": AUTHORIZER, "timeout": "5s",
        }},
    }})
}
