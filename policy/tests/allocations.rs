//! A verdict allocates nothing where rules ask for what most rules ask for.

#![allow(clippy::panic, clippy::unwrap_used, reason = "tests fail by panicking")]

use std::net::SocketAddr;

use allocation_counter::measure;
use outgate_policy::{
    ConnectVerdict, Destination, Engine, Headers, Identity, Known, Request, RequestPath, RequestStage,
    RequestVerdict, Session,
};
use serde_json::json;

/// A policy in which the last rule alone matches, behind many others of its kind: `#` stands for another number in
/// each, `~` for another network.
fn engine(session: &str, application: Option<&str>) -> Engine {
    let rule = |priority: usize, number: &str, network: &str| {
        let filled = |text: &str| text.replace('#', number).replace('~', network);
        json!({
            "name": format!("r{number}"), "enabled": true, "priority": priority, "basicProfile": "ALLOW",
            "sessionMatcher": filled(session), "applicationMatcher": application.map(filled),
        })
    };
    let others = (1..=1_000).map(|number| {
        let network = format!("10.{}.{}.0/24", 1 + number / 200, number % 200);
        rule(number, &format!("6{number}"), &network)
    });
    let list =
        |number: &str| json!({"name": format!("l{number}"), "values": [format!("h{number}.example/a/*")]});
    let lists = (1..=1_000).map(|number| list(&format!("6{number}"))).chain([list("7")]);
    let policy = json!({
        "name": "test",
        "rules": others.chain([rule(2_000, "7", "10.0.7.0/24")]).collect::<Vec<_>>(),
        "urlLists": lists.collect::<Vec<_>>(),
    });
    Engine::from_value(&policy).unwrap_or_else(|errors| panic!("{errors}"))
}

#[test]
fn common_verdicts_allocate_nothing() {
    let destination = Destination::parse("h7.example:443").unwrap();
    let identity = Identity::new(vec!["tagValues/7".to_owned()], vec!["a7@x.example".to_owned()]);
    let circumstances =
        Known { client: SocketAddr::from(([10, 0, 7, 1], 50_000)), now: time::OffsetDateTime::UNIX_EPOCH };
    let session = Session {
        circumstances: &circumstances,
        identity: &identity,
        destination: &destination,
        certificate: None,
        connection: None,
    };
    let path = RequestPath::parse("/p7/x?y=1").unwrap();
    let sent: [(&str, &[u8]); 3] = [("user-agent", b"curl/8.5.0"), ("accept", b"*/*"), ("x-key", b"k7")];
    let headers = Headers::of_request(&destination.host, sent);
    let stage = RequestStage::Clear;
    let request = Request { method: "GET", scheme: stage.scheme(), path: &path, headers: &headers };
    for (matcher, application) in [
        ("host() == 'h#.example'", None),
        ("host().endsWith('#.example')", None),
        ("host() == 'h#.example' && inIpRange(source.ip, '~')", None),
        ("host() != 'h#' && inIpRange(source.ip, '~')", None),
        ("source.matchTag('tagValues/#')", None),
        ("source.matchServiceAccount('a#@x.example')", None),
        ("host() == 'h#.example'", Some("request.path.startsWith('/p#/')")),
        ("host() == 'h#.example'", Some("request.method == 'GET' && request.path == '/p#/x'")),
        ("true", Some("request.headers['x-key'] == 'k#'")),
        ("inUrlList(host(), 'l#')", None),
        ("host() == 'h#.example' || host() == 'g#.example'", Some("!request.path.startsWith('/q#/')")),
    ] {
        let engine = engine(matcher, application);
        let mut verdict = None;
        // The first time may fill what stays.
        for counted in [false, true] {
            let allocated = match application {
                None => measure(|| match engine.connect(&session).verdict {
                    ConnectVerdict::Tunnel(rule) => verdict = Some(rule),
                    other => panic!("{matcher}: {other:?}"),
                }),
                Some(_) => measure(|| match engine.request(&session, &request, stage).verdict {
                    RequestVerdict::Allow(rule) => verdict = Some(rule),
                    other => panic!("{matcher}: {other:?}"),
                }),
            };
            if counted {
                assert_eq!(allocated.count_total, 0, "{matcher}, {application:?}");
            }
        }
        let name = verdict.and_then(|rule| engine.rule(rule)).map(|rule| rule.name.as_str());
        assert_eq!(name, Some("r7"), "{matcher}, {application:?}");
    }
    // The count counts: a mapped text is a new one.
    let mapping = engine("host().upper() == 'H#.EXAMPLE'", None);
    assert_ne!(measure(|| drop(mapping.connect(&session))).count_total, 0);
}
