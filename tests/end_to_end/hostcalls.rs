//! What the filter asks of a real Envoy, by Envoy's own trace. The budgets are in `hostcalls/tests/budget.rs`; here Envoy
//! brings what they suppose.

use std::fs;

use outgate_tests::client::{self, Ask};
use outgate_tests::outgate::Options;

use crate::setting::{INSPECT_ALL, Setting};

/// The calls of one request, in order, without results.
fn calls(trace: &str) -> Vec<&str> {
    let call = |line| {
        let (_, call): (&str, &str) = str::split_once(line, "[vm->host] env.proxy_")?;
        call.split('(').next()
    };
    trace.lines().filter_map(call).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_inside_a_tunnel_brings_its_session_and_its_cluster() {
    let state = tempfile::tempdir().unwrap();
    let options = Options::default().state(state.path());
    let setting =
        Setting::with_options(&format!("{INSPECT_ALL}outgate: {{log: {{allowances: 0}}}}\n"), options).await;
    let ask = Ask::post("/logging?wasm=trace").at("admin");
    assert_eq!(client::in_the_clear(setting.outgate.admin, ask).await.status, 200);
    // The first defines a counter.
    for _ in 0..2 {
        assert_eq!(setting.https("good.site.test", "/").await.0.status, 200);
    }
    let stream = client::connect(setting.proxy(), "good.site.test:80").await.unwrap();
    assert_eq!(client::http1(stream, Ask::get("/").at("good.site.test")).await.unwrap().status, 200);

    let log = fs::read_to_string(state.path().join("envoy.log")).unwrap();
    let requests: Vec<_> = log
        .split("[host->vm] proxy_on_request_headers(")
        .skip(1)
        .map(|request| calls(request.split("proxy_on_request_headers return").next().unwrap()))
        .collect();
    let told = vec!["get_header_map_pairs", "increment_metric"];
    let [_, first, _, second, _, clear] = requests.as_slice() else { panic!("{requests:#?}") };
    assert_eq!(*first, ["get_header_map_pairs", "define_metric", "increment_metric"]);
    assert_eq!([second, clear], [&told, &told]);
}
