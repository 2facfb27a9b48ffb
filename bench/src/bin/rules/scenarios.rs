//! The scenarios: rules that allow a host each, in each way that Envoy can have them.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use outgate_bench::worker::target;
use serde_json::{Value, json};

/// What rules look at.
#[derive(Clone, Copy, PartialEq)]
pub enum Fields {
    /// The host and the method.
    Headers,
    /// The client's address.
    SourceIp,
    /// A pattern for the host, and the method.
    Regex,
}

impl Fields {
    pub fn name(self) -> &'static str {
        match self {
            Self::Headers => "headers",
            Self::SourceIp => "source_ip",
            Self::Regex => "regex",
        }
    }
}

/// A way to decide.
pub struct Scenario {
    pub name: &'static str,
    pub fields: Fields,
    /// Whether it refuses what no rule matches.
    pub decides: bool,
    /// More are not loaded.
    pub most_rules: usize,
    /// The HTTP filters of its listener.
    pub filters: fn(usize) -> Vec<Value>,
}

const ANY: usize = usize::MAX;

pub const SCENARIOS: [Scenario; 12] = [
    decides("outgate", Fields::Headers, ANY, |rules| vec![outgate(rules, Fields::Headers)]),
    Scenario { decides: false, ..decides("sdk_noop", Fields::Headers, ANY, |_| vec![stock("")]) },
    Scenario {
        decides: false,
        ..decides("sdk_two_headers", Fields::Headers, ANY, |_| vec![stock("two_headers")])
    },
    decides("rbac_cel", Fields::Headers, ANY, |rules| vec![rbac_cel(rules, Fields::Headers)]),
    decides("rbac_header", Fields::Headers, ANY, |rules| vec![rbac_header(rules)]),
    decides("exact_match_map", Fields::Headers, ANY, |rules| vec![exact_match_map(rules)]),
    decides("lua_table", Fields::Headers, ANY, |rules| vec![lua_table(rules)]),
    Scenario { decides: false, ..decides("ext_authz", Fields::Headers, ANY, |_| vec![ext_authz()]) },
    decides("outgate", Fields::SourceIp, ANY, |rules| vec![outgate(rules, Fields::SourceIp)]),
    decides("rbac_cel", Fields::SourceIp, ANY, |rules| vec![rbac_cel(rules, Fields::SourceIp)]),
    decides("outgate", Fields::Regex, 1_000, |rules| vec![outgate(rules, Fields::Regex)]),
    decides("rbac_cel", Fields::Regex, 1_000, |rules| vec![rbac_cel(rules, Fields::Regex)]),
];

const fn decides(
    name: &'static str,
    fields: Fields,
    most_rules: usize,
    filters: fn(usize) -> Vec<Value>,
) -> Scenario {
    Scenario { name, fields, decides: true, most_rules, filters }
}

/// The host that a rule is about.
pub fn host(rule: usize) -> String {
    format!("h{rule}.example.com")
}

/// The client that a rule is about: all of 127.0.0.0/8 is this machine.
pub fn source(rule: usize) -> Ipv4Addr {
    Ipv4Addr::from(0x7f01_0001 + u32::try_from(rule).unwrap())
}

fn outgate(rules: usize, fields: Fields) -> Value {
    let rules: Vec<Value> = (0..rules)
        .map(|rule| {
            let session = match fields {
                Fields::Headers => format!("host() == '{}'", host(rule)),
                Fields::SourceIp => format!("inIpRange(source.ip, '{}/32')", source(rule)),
                Fields::Regex => format!("host().matches('^h{rule}[.]ex.mple[.]com$')"),
            };
            let mut rule =
                json!({"name": format!("r{rule}"), "priority": rule, "basicProfile": "ALLOW", "sessionMatcher": session});
            if fields != Fields::SourceIp {
                rule["applicationMatcher"] = "request.method == 'GET'".into();
            }
            rule
        })
        .collect();
    let configuration = json!({
        "policy": {"name": "bench", "rules": rules},
        "grants": {"cluster": "authorizer"},
        "log": {"allowances": 0},
    });
    wasm("explicit", "outgate.wasm", &configuration.to_string())
}

fn stock(configuration: &str) -> Value {
    wasm(if configuration.is_empty() { "noop" } else { configuration }, "stock-filter.wasm", configuration)
}

fn wasm(root: &str, module: &str, configuration: &str) -> Value {
    json!({"name": "wasm", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
        "config": {
            "root_id": root,
            "vm_config": {
                // A VM for each listener: they keep their configuration in statics.
                "vm_id": format!("{root}-{:x}", configuration.len()),
                "runtime": "envoy.wasm.runtime.v8",
                "code": {"local": {"filename": target().join(module)}},
            },
            "configuration": {"@type": "type.googleapis.com/google.protobuf.StringValue", "value": configuration},
        },
    }})
}

fn rbac(rules: &Value) -> Value {
    let mut configuration =
        json!({"@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC"});
    configuration.as_object_mut().unwrap().extend(rules.as_object().unwrap().clone());
    json!({"name": "rbac", "typed_config": configuration})
}

fn allow() -> Value {
    json!({"action": {"name": "allow", "typed_config": {
        "@type": "type.googleapis.com/envoy.config.rbac.v3.Action", "name": "allow", "action": "ALLOW",
    }}})
}

fn rbac_cel(rules: usize, fields: Fields) -> Value {
    let text = |text: &str| json!({"const_expr": {"string_value": text}});
    let select = |object: &str, field: &str| json!({"select_expr": {"operand": {"ident_expr": {"name": object}}, "field": field}});
    let matchers: Vec<Value> = (0..rules)
        .map(|rule| {
            let object = match fields {
                Fields::Headers => call("_==_", vec![select("request", "host"), text(&host(rule))]),
                Fields::SourceIp => {
                    member("startsWith", select("source", "address"), text(&format!("{}:", source(rule))))
                }
                Fields::Regex => {
                    member("matches", select("request", "host"), text(&format!("^h{rule}[.]ex.mple[.]com$")))
                }
            };
            let expression = if fields == Fields::SourceIp {
                object
            } else {
                call("_&&_", vec![object, call("_==_", vec![select("request", "method"), text("GET")])])
            };
            json!({
                "predicate": {"single_predicate": {
                    "input": {"name": "request", "typed_config": {
                        "@type": "type.googleapis.com/xds.type.matcher.v3.HttpAttributesCelMatchInput",
                    }},
                    "custom_match": {"name": "cel", "typed_config": {
                        "@type": "type.googleapis.com/xds.type.matcher.v3.CelMatcher",
                        "expr_match": {"parsed_expr": {"expr": expression}},
                    }},
                }},
                "on_match": allow(),
            })
        })
        .collect();
    rbac(&json!({"matcher": {"matcher_list": {"matchers": matchers}}}))
}

fn call(function: &str, arguments: Vec<Value>) -> Value {
    json!({"call_expr": {"function": function, "args": arguments}})
}

fn member(function: &str, target: Value, argument: Value) -> Value {
    json!({"call_expr": {"function": function, "target": target, "args": [argument]}})
}

fn rbac_header(rules: usize) -> Value {
    let policies: serde_json::Map<String, Value> = (0..rules)
        .map(|rule| {
            let header =
                |name: &str, value: &str| json!({"header": {"name": name, "string_match": {"exact": value}}});
            let both = [header(":authority", &host(rule)), header(":method", "GET")];
            (
                format!("r{rule:05}"),
                json!({"permissions": [{"and_rules": {"rules": both}}], "principals": [{"any": true}]}),
            )
        })
        .collect();
    rbac(&json!({"rules": {"action": "ALLOW", "policies": policies}}))
}

fn exact_match_map(rules: usize) -> Value {
    let input = |header: &str| {
        json!({"name": "header", "typed_config": {
            "@type": "type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput", "header_name": header,
        }})
    };
    let method = json!({"matcher": {"matcher_tree": {
        "input": input(":method"), "exact_match_map": {"map": {"GET": allow()}},
    }}});
    let hosts: serde_json::Map<String, Value> = (0..rules).map(|rule| (host(rule), method.clone())).collect();
    rbac(
        &json!({"matcher": {"matcher_tree": {"input": input(":authority"), "exact_match_map": {"map": hosts}}}}),
    )
}

fn lua_table(rules: usize) -> Value {
    let mut code = String::new();
    write!(
        code,
        "local allowed = {{}}\n\
         for i = 0, {} do allowed['h' .. i .. '.example.com'] = true end\n\
         function envoy_on_request(handle)\n\
         local headers = handle:headers()\n\
         if not (allowed[headers:get(':authority')] and headers:get(':method') == 'GET') then\n\
         handle:respond({{[':status'] = '403'}}, 'denied')\nend\nend\n",
        rules - 1
    )
    .unwrap();
    json!({"name": "lua", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
        "default_source_code": {"inline_string": code},
    }})
}

fn ext_authz() -> Value {
    json!({"name": "ext_authz", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
        "http_service": {"server_uri": {"uri": "http://authorizer", "cluster": "authorizer", "timeout": "5s"}},
    }})
}

/// Answers yes at once to whatever it is asked.
pub fn authorizer() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || {
                let Ok(mut stream) = stream else { return };
                let mut bytes = [0; 8192];
                while let Ok(1..) = stream.read(&mut bytes) {
                    if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// A listener with these filters, before an answer of Envoy's own.
pub fn listener(address: SocketAddr, filters: Vec<Value>) -> Value {
    let mut filters = filters;
    filters.push(json!({"name": "router", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
    }}));
    json!({
        "name": address.to_string(),
        "address": {"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "bench",
            "generate_request_id": false,
            "use_remote_address": true,
            "skip_xff_append": true,
            "http_protocol_options": {"allow_absolute_url": true},
            "route_config": {"virtual_hosts": [{
                "name": "all", "domains": ["*"],
                "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": "ok"}}}],
                "response_headers_to_add": origin_headers(),
            }]},
            "http_filters": filters,
        }}]}],
    })
}

/// What most origins say besides.
fn origin_headers() -> Vec<Value> {
    [
        ("cache-control", "max-age=600"),
        ("etag", "\"5f3c-61a0\""),
        ("last-modified", "Mon, 16 Nov 2026 08:00:00 GMT"),
        ("strict-transport-security", "max-age=31536000"),
        ("vary", "Accept-Encoding"),
        ("x-content-type-options", "nosniff"),
    ]
    .iter()
    .map(|(key, value)| json!({"header": {"key": key, "value": value}}))
    .collect()
}

/// A configuration of Envoy.
pub fn bootstrap(admin: SocketAddr, listeners: Vec<Value>, authorizer: SocketAddr) -> Value {
    let socket = |address: SocketAddr| json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}});
    json!({
        "admin": {"address": socket(admin)},
        "static_resources": {
            "listeners": listeners,
            "clusters": [{
                "name": "authorizer",
                "load_assignment": {"cluster_name": "authorizer", "endpoints": [{"lb_endpoints": [{
                    "endpoint": {"address": socket(authorizer)},
                }]}]},
            }],
        },
    })
}
