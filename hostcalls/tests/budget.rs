//! What the filter asks of Envoy for one exchange, counted on the module that ships (`make wasm` builds it).
//!
//! A call that returns data costs about a microsecond in Envoy, whatever it returns: the host calls back into the VM
//! to allocate. One that returns none costs a tenth to a third of that.

#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use outgate_hostcalls::{Action, Calls, Host, Map, Outgate};
use serde_json::{Value, json};

/// Envoy's V8 takes more than a second of CPU for each megabyte of module at the start.
const LARGEST_MODULE: u64 = 1_000_000;

/// The plugin configuration of all roots but `explicit`.
const FOLLOWS: &[u8] = br#"{"policy_of": "explicit"}"#;

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/outgate.wasm")
}

fn module() -> &'static Outgate {
    static MODULE: OnceLock<Outgate> = OnceLock::new();
    MODULE.get_or_init(|| Outgate::load(&path()).expect("target/outgate.wasm; `make wasm` builds it"))
}

fn rule(priority: u32, action: &str, session: &str, application: Option<&str>, inspects: bool) -> Value {
    let mut rule = json!({
        "name": format!("rule-{priority}"), "enabled": true, "priority": priority, "basicProfile": action,
        "sessionMatcher": session, "tlsInspectionEnabled": inspects,
    });
    if let Some(application) = application {
        rule["applicationMatcher"] = application.into();
    }
    rule
}

fn plugin(rules: &[Value], outgate: &Value) -> Value {
    json!({
        "policy": {
            "name": "egress", "rules": rules, "tlsInspectionPolicy": "default", "outgate": outgate,
            "tlsInspectionPolicies": [{"name": "default", "caPool": "main"}],
        },
        "log": {"allowances": 0.0},
    })
}

/// A browser's nine headers.
fn request(method: &str, scheme: &str, authority: &str, path: &str) -> Map {
    let headers = [
        (":authority", authority),
        (":path", path),
        (":method", method),
        (":scheme", scheme),
        ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
        ("accept", "text/html,application/xhtml+xml"),
        ("accept-language", "en"),
        ("accept-encoding", "gzip, deflate"),
        ("cookie", "session=0123456789abcdef"),
    ];
    headers.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec())).to_vec()
}

/// One exchange: what was asked in each phase, and the status if the filter answered.
struct Exchange {
    request: Calls,
    response: Calls,
    end: Calls,
    refused: Option<u32>,
}

impl Exchange {
    fn run(host: &mut Host, root: u32, request: Map) -> Self {
        host.state().request = request;
        host.state().answer = None;
        host.take_calls();
        let context = host.context(root).unwrap();
        let action = host.request_headers(context).unwrap();
        let request = host.take_calls();
        let refused = host.state().answer.as_ref().map(|answer| answer.status);
        let mut response = Calls::default();
        if action == Action::Continue {
            assert_eq!(refused, None, "an exchange that goes on has no answer");
            let answer = [":status", "content-type", "content-length", "date"];
            host.state().response = answer.map(|name| (name.to_owned(), b"200".to_vec())).to_vec();
            host.response_headers(context).unwrap();
            response = host.take_calls();
        }
        host.end(context).unwrap();
        Self { request, response, end: host.take_calls(), refused }
    }
}

struct Place {
    host: Host,
    root: u32,
}

impl Place {
    fn new(root_id: &str, plugin: &Value) -> Self {
        let mut host = module().start().unwrap();
        host.state().properties.insert("source.address".to_owned(), b"10.0.0.1:4711".to_vec());
        let root = host.root(root_id, plugin.to_string().as_bytes()).unwrap();
        let log = host.state().log.join("\n");
        let root = root.unwrap_or_else(|| panic!("refused: {log}"));
        Self { host, root }
    }

    /// Inside a tunnel to `destination` that the root `explicit` of the same VM opened.
    fn inside(root_id: &str, plugin: &Value, destination: &str) -> Self {
        let Self { mut host, root: explicit } = Self::new("explicit", plugin);
        host.state().request = request("CONNECT", "", destination, "");
        let connect = host.context(explicit).unwrap();
        host.request_headers(connect).unwrap();
        let session = host.state().request_header("x-outgate-session").expect("a session").to_vec();
        host.state().properties.insert("filter_state.outgate.session".to_owned(), session);
        let root = host.root(root_id, FOLLOWS).unwrap().expect("a root that follows");
        Self { host, root }
    }

    /// The request with what Envoy says before the filter: the session around it, and its cluster.
    fn by_early_mutation(&mut self, mut request: Map) -> Map {
        let header = |name: &str, value: Vec<u8>| (name.to_owned(), value);
        let session = self.host.state().properties["filter_state.outgate.session"].clone();
        let cluster = self.host.state().request_header("x-outgate-cluster").expect("a cluster");
        let route = [cluster, b"-tls"].concat();
        request.extend([header("x-outgate-session", session), header("x-outgate-route", route)]);
        request
    }

    /// The second of two alike: the first defines metrics.
    fn exchange(&mut self, request: &Map) -> Exchange {
        Exchange::run(&mut self.host, self.root, request.clone());
        Exchange::run(&mut self.host, self.root, request.clone())
    }
}

#[test]
fn the_module_does_not_grow_unnoticed() {
    let tool = path().with_file_name("wasm-opt");
    let fetched = std::fs::read_dir(tool).into_iter().flatten().flatten();
    if !fetched.into_iter().any(|entry| entry.file_name().as_encoded_bytes()[0].is_ascii_digit()) {
        println!("skipped: wasm-opt could not be fetched, so the module is larger than it ships");
        return;
    }
    let size = std::fs::metadata(path()).unwrap().len();
    println!("outgate.wasm has {size} bytes");
    assert!(size <= LARGEST_MODULE, "{size} bytes; the limit is {LARGEST_MODULE}");
}

/// What one exchange of a scenario may ask.
struct Budget {
    scenario: &'static str,
    place: Place,
    request: Map,
    /// Calls that return data while the request is judged.
    data: u32,
    /// All calls while the request is judged.
    all: u32,
}

/// Headers: one call. In a tunnel the session: one more. The client's address, if a rule asks for it: one more.
#[test]
fn an_allowed_exchange_asks_for_what_its_rules_need() {
    let by_header = plugin(
        &[rule(10, "ALLOW", "host() == 'a.example'", Some("request.method == 'GET'"), true)],
        &json!({}),
    );
    let by_source = plugin(
        &[rule(10, "ALLOW", "inIpRange(source.ip, '10.0.0.0/8')", Some("request.method == 'GET'"), true)],
        &json!({}),
    );
    let by_another_source = plugin(
        &[
            rule(10, "ALLOW", "host() == 'b.example' && inIpRange(source.ip, '10.0.0.0/8')", None, false),
            rule(20, "ALLOW", "host() == 'a.example'", Some("request.method == 'GET'"), true),
        ],
        &json!({}),
    );
    let logged = json!({"policy": by_header["policy"]});
    let clear = || request("GET", "http", "a.example", "/x");
    let decrypted = || request("GET", "https", "a.example", "/x");
    let inspected = |plugin| Place::inside("inspected", plugin, "a.example:443");
    let mut told = inspected(&by_header);
    let told_request = told.by_early_mutation(decrypted());
    for mut budget in [
        Budget {
            scenario: "in the clear, by headers",
            place: Place::new("explicit", &by_header),
            request: clear(),
            data: 1,
            all: 6,
        },
        Budget {
            scenario: "in the clear, by source",
            place: Place::new("explicit", &by_source),
            request: clear(),
            data: 2,
            all: 7,
        },
        Budget {
            scenario: "in the clear, by headers, where rules of other hosts ask for the source",
            place: Place::new("explicit", &by_another_source),
            request: clear(),
            data: 1,
            all: 6,
        },
        Budget {
            scenario: "in the clear, by headers, logged",
            place: Place::new("explicit", &logged),
            request: clear(),
            data: 2,
            all: 9,
        },
        Budget {
            scenario: "inspected, by headers, as rendered",
            place: told,
            request: told_request,
            data: 1,
            all: 2,
        },
        Budget {
            scenario: "inspected, by headers",
            place: inspected(&by_header),
            request: decrypted(),
            data: 2,
            all: 5,
        },
        Budget {
            scenario: "inspected, by source",
            place: inspected(&by_source),
            request: decrypted(),
            data: 2,
            all: 5,
        },
    ] {
        let exchange = budget.place.exchange(&budget.request);
        let calls: Vec<_> = exchange.request.iter().collect();
        println!("{}: {} return data, of {calls:?}", budget.scenario, exchange.request.returning_data());
        assert_eq!(exchange.refused, None, "{}", budget.scenario);
        assert!(exchange.request.returning_data() <= budget.data, "{}: {calls:?}", budget.scenario);
        assert!(
            calls.iter().map(|(_, count)| count).sum::<u32>() <= budget.all,
            "{}: {calls:?}",
            budget.scenario
        );
        assert_eq!(exchange.response, Calls::default(), "{}: an origin's answer", budget.scenario);
        let logs = exchange.request.of("proxy_log") > 0;
        assert_eq!(exchange.end == Calls::default(), !logs, "{}: {:?}", budget.scenario, exchange.end);
    }
}

/// The checks are on in what is counted here.
#[test]
fn what_does_not_agree_is_refused() {
    let plugin = plugin(&[rule(10, "ALLOW", "true", Some("request.method == 'GET'"), true)], &json!({}));
    let mut clear = Place::new("explicit", &plugin);
    let mut inspected = Place::inside("inspected", &plugin, "a.example:443");
    for (place, request, status) in [
        ("clear", request("GET", "http", "a.example", "/x"), None),
        ("clear", request("POST", "http", "a.example", "/x"), Some(403)),
        ("clear", request("GET", "https", "a.example", "/x"), Some(400)),
        ("clear", request("GET", "http", "user@a.example", "/x"), Some(400)),
        ("clear", request("GET", "http", "a.example:080", "/x"), Some(400)),
        ("clear", request("GET", "http", "127.0.0.1", "/x"), Some(403)),
        ("clear", request("GET", "http", "a.example", "/x#y"), Some(400)),
        ("clear", request("GET", "http", "a.example", "/x%2F..%2Fy"), Some(400)),
        ("inspected", request("GET", "https", "a.example", "/x"), None),
        ("inspected", request("POST", "https", "a.example", "/x"), Some(403)),
        ("inspected", request("GET", "https", "b.example", "/x"), Some(421)),
        ("inspected", request("GET", "https", "a.example:444", "/x"), Some(421)),
        ("inspected", request("GET", "http", "a.example", "/x"), Some(400)),
    ] {
        let place = if place == "clear" { &mut clear } else { &mut inspected };
        let exchange = Exchange::run(&mut place.host, place.root, request.clone());
        assert_eq!(exchange.refused, status, "{request:?}");
    }
}

#[test]
fn a_client_speaks_for_nobody_but_itself() {
    let plugin = plugin(
        &[rule(10, "ALLOW", "true", Some("!('x-outgate-session' in request.headers)"), true)],
        &json!({}),
    );
    let mut place = Place::new("explicit", &plugin);
    let mut spoofed = request("GET", "http", "a.example", "/x");
    for name in ["x-outgate-session", "x-envoy-retry-on", "proxy-authorization"] {
        spoofed.push((name.to_owned(), b"forged".to_vec()));
    }
    let exchange = Exchange::run(&mut place.host, place.root, spoofed);
    assert_eq!(exchange.refused, None);
    let left = place.host.state().request.iter().any(|(_, value)| value == b"forged");
    assert!(!left, "{:?}", place.host.state().request);
}

/// Where Envoy does not overwrite them, a client may have sent the headers that name the session and its cluster: then
/// filter state counts, and what the client sent goes nowhere.
#[test]
fn a_client_inside_a_tunnel_speaks_for_no_other_session() {
    let plugin = plugin(&[rule(10, "ALLOW", "true", Some("request.method == 'GET'"), true)], &json!({}));
    let forged = |headers: &[(&str, &[u8])]| {
        let mut request = request("GET", "https", "a.example", "/x");
        request.extend(headers.iter().map(|(name, value)| ((*name).to_owned(), value.to_vec())));
        request
    };
    let mut elsewhere = Place::inside("inspected", &plugin, "b.example:443");
    let another = elsewhere.host.state().properties["filter_state.outgate.session"].clone();
    let mut place = Place::inside("inspected", &plugin, "a.example:443");
    let own = place.host.state().properties["filter_state.outgate.session"].clone();
    let route = |place: &mut Place| place.host.state().request_header("x-outgate-route").map(<[u8]>::to_vec);
    let expected = {
        Exchange::run(&mut place.host, place.root, forged(&[]));
        route(&mut place).expect("a route")
    };
    for headers in [
        &[("x-outgate-session", &b"rubbish"[..])][..],
        &[("x-outgate-session", &another)],
        &[("x-outgate-session", &own), ("x-outgate-session", &another)],
        &[("x-outgate-session", &another), ("x-outgate-session", &own)],
        &[("x-outgate-route", b"shard-1-tls")],
        &[("x-outgate-route", &expected), ("x-outgate-route", b"shard-1-tls")],
        &[("x-outgate-route", b"shard-1-tls"), ("x-outgate-route", &expected)],
        &[("x-outgate-cluster", b"shard-1"), ("x-outgate-host", b"b.example")],
    ] {
        let exchange = Exchange::run(&mut place.host, place.root, forged(headers));
        assert_eq!(exchange.refused, None, "{headers:?}");
        let left: Map = place.host.state().request.clone();
        let ours: Vec<_> = left.iter().filter(|(name, _)| name.starts_with("x-outgate-")).collect();
        assert_eq!(ours, [&("x-outgate-route".to_owned(), expected.clone())], "{headers:?}");
    }
}

#[test]
fn a_session_without_its_client_or_its_state_goes_nowhere() {
    let sources = json!({"sources": [{"cidrs": ["10.0.0.0/8"], "tags": ["tagValues/1"]}]});
    let connect = || request("CONNECT", "", "a.example:443", "");
    let clear = || request("GET", "http", "a.example", "/x");
    for (matcher, outgate, request, refused) in [
        ("true", json!({}), connect(), Some(500)),
        ("true", json!({}), clear(), None),
        ("!inIpRange(source.ip, '10.0.0.0/8')", json!({}), clear(), Some(500)),
        ("!source.matchTag('tagValues/1')", sources, clear(), Some(500)),
    ] {
        let mut outside =
            Place::new("explicit", &plugin(&[rule(10, "ALLOW", matcher, None, false)], &outgate));
        outside.host.state().properties.remove("source.address");
        assert_eq!(Exchange::run(&mut outside.host, outside.root, request).refused, refused, "{matcher}");
    }
    let plugin = plugin(&[rule(10, "ALLOW", "true", None, false)], &json!({}));
    let mut inside = Place::new("inspected", &plugin);
    let request = request("GET", "https", "a.example", "/x");
    assert_eq!(Exchange::run(&mut inside.host, inside.root, request).refused, Some(500));
}

/// The policy of `explicit` counts for the others at once, also if Envoy goes on with an old root, and after a trap.
#[test]
fn roots_without_a_policy_follow_the_root_explicit() {
    let allows = |method: &str, generation: u32| {
        let mut plugin = plugin(
            &[rule(10, "ALLOW", "true", Some(&format!("request.method == '{method}'")), true)],
            &json!({}),
        );
        plugin["generation"] = generation.into();
        plugin.to_string().into_bytes()
    };
    let opened = |host: &mut Host, root: u32| {
        ["GET", "PUT"].map(|method| {
            Exchange::run(host, root, request(method, "https", "a.example", "/x")).refused.is_none()
        })
    };
    let first = serde_json::from_slice(&allows("GET", 0)).unwrap();
    let Place { mut host, root } = Place::inside("inspected", &first, "a.example:443");
    assert_eq!(opened(&mut host, root), [true, false]);
    host.root("explicit", &allows("PUT", 1)).unwrap().expect("a second policy");
    assert_eq!(opened(&mut host, root), [false, true]);
    assert_eq!(host.root("explicit", b"{}").unwrap(), None, "a third is refused");
    assert_eq!(opened(&mut host, root), [false, true], "and changes nothing");
    // Its context is its first, numbered 1.
    Exchange::run(&mut host, 1, request("GET", "http", "a.example", "/x"));
    assert_eq!(opened(&mut host, root), [true, false], "what `explicit` decides by counts");

    let shared = host.state().shared.clone();
    let session = host.state().properties.clone();
    for (shared, expected) in [(shared, [false, true]), (Default::default(), [false, false])] {
        let mut next = module().start().unwrap();
        next.state().shared = shared;
        next.state().properties = session.clone();
        let root = next.root("inspected", FOLLOWS).unwrap().expect("a root in a VM of its own");
        assert_eq!(opened(&mut next, root), expected);
    }
}

/// The number of headers is enough to know nearly all answers of origins, and tunnels that open, from Envoy's own.
#[test]
fn an_answer_of_an_origin_is_not_looked_at() {
    let plugin = plugin(&[rule(10, "ALLOW", "true", Some("true"), false)], &json!({}));
    let mut place = Place::new("explicit", &plugin);
    for (headers, asks) in [
        (&[":status"][..], 0),
        (&[":status", "content-type", "content-length"], 1),
        (&[":status", "content-type", "content-length", "date"], 0),
    ] {
        place.host.state().request = request("GET", "http", "a.example", "/x");
        let context = place.host.context(place.root).unwrap();
        assert_eq!(place.host.request_headers(context).unwrap(), Action::Continue);
        place.host.take_calls();
        place.host.state().response =
            headers.iter().map(|name| ((*name).to_owned(), b"200".to_vec())).collect();
        place.host.response_headers(context).unwrap();
        assert_eq!(place.host.take_calls().returning_data(), asks, "{headers:?}");
    }
}

/// What waits for cert-service goes on, or ends, by its word.
#[test]
fn a_tunnel_that_must_be_inspected_waits_for_its_grant() {
    let plugin = plugin(&[rule(10, "ALLOW", "true", None, true)], &json!({}));
    for (status, body, refused, counted) in [
        ("200", r#"{"expiresInSeconds":3600,"instance":"i"}"#, None, "granted"),
        ("200", "no JSON", Some(503), "refused"),
        ("403", r#"{"reason":"not_granted"}"#, Some(503), "refused"),
        ("503", "", Some(503), "refused"),
    ] {
        let mut place = Place::new("explicit", &plugin);
        place.host.state().request = request("CONNECT", "", "a.example:443", "");
        let context = place.host.context(place.root).unwrap();
        assert_eq!(place.host.request_headers(context).unwrap(), Action::Pause, "{status} {body}");
        assert_eq!(place.host.state().answer, None, "it waits");
        let [call] = place.host.state().http_calls.as_slice() else { panic!("one call is made") };
        let call = call.clone();
        assert_eq!(call.cluster, "cert-service");
        let asked: Value = serde_json::from_slice(&call.body).unwrap();
        assert_eq!(asked, json!({"pool": "main", "host": "a.example"}));
        place.host.take_calls();
        place.host.call_response(&call, status, body.as_bytes()).unwrap();
        let goes_on = place.host.take_calls().of("proxy_continue_stream") == 1;
        assert_eq!(goes_on, refused.is_none(), "{status} {body}");
        assert_eq!(
            place.host.state().answer.as_ref().map(|answer| answer.status),
            refused,
            "{status} {body}"
        );
        let metric = format!("outgate_grants_total.result={counted}");
        assert_eq!(place.host.state().metric(&metric), Some(1), "{status} {body}");
    }
}
