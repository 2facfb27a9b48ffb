//! The ways out of one record: the filter's line, Envoy's own access logs, a collector; and its three shapes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};

use crate::handshake_setting::{Envoy, Leaf, Pki, Starting, minor_version, openssl};

/// Takes what is posted to it, and answers with a status.
struct Collector {
    address: SocketAddr,
    bodies: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Collector {
    fn start(status: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let bodies: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let taken = Arc::clone(&bodies);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let taken = Arc::clone(&taken);
                std::thread::spawn(move || serve(stream, status, &taken));
            }
        });
        Self { address, bodies }
    }

    /// All log records of all batches, and how many records each batch had.
    fn records(&self) -> (Vec<Value>, Vec<usize>) {
        let mut records = Vec::new();
        let mut batches = Vec::new();
        for body in self.bodies.lock().unwrap().iter() {
            let body: Value = serde_json::from_slice(body).unwrap();
            assert_eq!(body["resourceLogs"][0]["scopeLogs"][0]["scope"]["name"], "outgate.handshake");
            let batch = body["resourceLogs"][0]["scopeLogs"][0]["logRecords"].as_array().unwrap().clone();
            batches.push(batch.len());
            records.extend(batch);
        }
        (records, batches)
    }

    fn wait_for(&self, count: usize) -> (Vec<Value>, Vec<usize>) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let (records, batches) = self.records();
            if records.len() >= count {
                return (records, batches);
            }
            assert!(Instant::now() < deadline, "{count} records: {records:#?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn serve(mut stream: TcpStream, status: &str, taken: &Mutex<Vec<Vec<u8>>>) {
    let mut buffer = Vec::new();
    let mut chunk = [0; 65_536];
    while let Ok(count @ 1..) = stream.read(&mut chunk) {
        buffer.extend_from_slice(&chunk[..count]);
        while let Some(end) = buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let rest = &buffer[end + 4..];
            let length = match length {
                Some(length) => length.parse().unwrap(),
                // In chunks, which are kept as they are.
                None => {
                    rest.windows(5).position(|bytes| bytes == b"0\r\n\r\n").map_or(usize::MAX, |at| at + 5)
                }
            };
            if rest.len() < length {
                break;
            }
            taken.lock().unwrap().push(buffer[end + 4..end + 4 + length].to_vec());
            buffer.drain(..end + 4 + length);
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\n{{}}");
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }
}

/// Takes gRPC streams, and keeps the bytes of their messages.
async fn grpc_collector() -> (SocketAddr, Arc<Mutex<Vec<u8>>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let bytes: Arc<Mutex<Vec<u8>>> = Arc::default();
    let taken = Arc::clone(&bytes);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let taken = Arc::clone(&taken);
            let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                let taken = Arc::clone(&taken);
                async move {
                    let mut body = request.into_body();
                    while let Some(Ok(frame)) = body.frame().await {
                        taken.lock().unwrap().extend(frame.into_data().unwrap_or_default());
                    }
                    Ok::<_, std::convert::Infallible>(hyper::Response::new(Full::new(Bytes::new())))
                }
            });
            tokio::spawn(
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    (address, bytes)
}

/// The attributes of a log record by their names.
fn attributes(record: &Value) -> Value {
    let plain = |value: &Value| -> Value {
        match value.as_object().and_then(|value| value.iter().next()) {
            Some((kind, value)) if kind == "intValue" => {
                json!(value.as_str().unwrap().parse::<i64>().unwrap())
            }
            Some((_, value)) => value.clone(),
            None => Value::Null,
        }
    };
    let attributes = record["attributes"].as_array().unwrap();
    attributes.iter().map(|one| (one["key"].as_str().unwrap().to_owned(), plain(&one["value"]))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_gets_what_the_lines_say_in_batches() {
    let collector = Collector::start("200 OK");
    let pki = Pki::new();
    let settings = format!(
        "service: payments\ncollector: {}\nlog: {{service: payments, otlp: {{batch: 2}}}}\n",
        collector.address
    );
    let settings = settings.replace("service: payments\ncollector", "collector");
    let envoy = Envoy::start(&pki, &settings);
    let expired = pki.client(&pki.root, &Leaf::expired(), &[]);
    for _ in 0..5 {
        openssl(envoy.address(), Some(&expired), &[]);
    }
    let (records, batches) = collector.wait_for(5);
    assert!(batches.iter().all(|batch| *batch <= 2), "{batches:?}");
    for (record, index) in records.iter().zip(0..) {
        let line = envoy.failure(index);
        let told = attributes(record);
        assert_eq!(record["eventName"], "tls.handshake.failure");
        assert_eq!(record["severityText"], "WARN");
        assert_eq!(record["body"]["stringValue"], line["error"]["message"]);
        for (attribute, pointer) in [
            ("client.port", "/client/port"),
            ("error.type", "/error/type"),
            ("event.reason", "/event/reason"),
            ("server.address", "/tls/client/server_name"),
            ("tls.client.subject", "/tls/client/subject"),
            ("tls.client.hash.sha256", "/tls/client/hash/sha256"),
            ("mtls.remedy", "/mtls/remedy"),
            ("mtls.ja4", "/mtls/ja4"),
        ] {
            assert_eq!(told.get(attribute), line.pointer(pointer), "{attribute}: {record:#}");
        }
    }
    let body: Value = serde_json::from_slice(&collector.bodies.lock().unwrap()[0]).unwrap();
    assert_eq!(body["resourceLogs"][0]["resource"]["attributes"][0]["value"]["stringValue"], "payments");
    let sent = "outgate_tls_handshake_otlp_records_total{listener=\"mtls\",kind=\"sent\"}";
    assert_eq!(envoy.metric(sent).await, Some(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_fails_costs_records_that_are_counted_and_nothing_else() {
    let refuses = Collector::start("503 Service Unavailable");
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let pki = Pki::new();
    let settings =
        |name: &str, address| format!("name: {name}\ncollector: {address}\nlog: {{otlp: {{batch: 1}}}}\n");
    let both = [settings("refuses", refuses.address), settings("gone", gone)];
    let envoy = Envoy::start_all(&pki, &both.each_ref().map(String::as_str), Starting::default());
    for address in &envoy.listeners {
        for _ in 0..3 {
            openssl(*address, None, &[]);
        }
    }
    envoy.failure(5);
    for name in ["refuses", "gone"] {
        let dropped =
            format!("outgate_tls_handshake_otlp_records_total{{listener=\"{name}\",kind=\"dropped\"}}");
        let deadline = Instant::now() + Duration::from_secs(10);
        while envoy.metric(&dropped).await != Some(3) {
            assert!(Instant::now() < deadline, "{name}: {:?}", envoy.metric(&dropped).await);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    let sound = pki.sound();
    assert!(String::from_utf8_lossy(&openssl(envoy.address(), Some(&sound), &[]).stdout).contains("200 OK"));
}

#[tokio::test(flavor = "multi_thread")]
async fn envoys_own_access_logs_print_the_same() {
    if minor_version() < 37 {
        // Network filters do not see the reason there.
        return;
    }
    let collector = Collector::start("200 OK");
    let (grpc, streamed) = grpc_collector().await;
    let pki = Pki::new();
    // The file as it is rendered, and OpenTelemetry and gRPC as docs/mtls-listener.md has them.
    let edit = |text: String| {
        let open_telemetry = format!(
            "    access_log:
    - name: envoy.access_loggers.open_telemetry
      typed_config:
        \"@type\": type.googleapis.com/envoy.extensions.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig
        log_name: handshakes
        http_service: {{http_uri: {{uri: 'http://{0}/v1/logs', cluster: collector, timeout: 5s}}}}
        body: {{string_value: '%FILTER_STATE(wasm.outgate_tls:PLAIN)%'}}
        attributes: {{values: [{{key: category, value: {{string_value: '%FILTER_STATE(wasm.outgate_tls_category:PLAIN)%'}}}}]}}
    - name: envoy.access_loggers.tcp_grpc
      typed_config:
        \"@type\": type.googleapis.com/envoy.extensions.access_loggers.grpc.v3.TcpGrpcAccessLogConfig
        common_config:
          log_name: handshakes
          transport_api_version: V3
          filter_state_objects_to_log: [wasm.outgate_tls]
          grpc_service: {{envoy_grpc: {{cluster_name: grpc}}}}
",
            collector.address
        );
        let cluster = format!(
            "clusters:\n  - {{name: collector, load_assignment: {{cluster_name: collector, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}}}]}}]}}}}\n{}",
            collector.address.port(),
            format_args!(
                "  - name: grpc
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http2_protocol_options: {{}}}}
    load_assignment: {{cluster_name: grpc, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}}}]}}]}}
",
                grpc.port()
            ),
        );
        text.replacen("    access_log:\n", &open_telemetry, 1).replacen("clusters:\n  []\n", &cluster, 1)
    };
    let open_telemetry = minor_version() >= 39;
    let edit: &dyn Fn(String) -> String = if open_telemetry { &edit } else { &|text| text };
    let envoy = Envoy::start_all(
        &pki,
        &["access_log: access.jsonl\n"],
        Starting { edit: Some(edit), ..Starting::default() },
    );
    let expired = pki.client(&pki.root, &Leaf::expired(), &[]);
    openssl(envoy.address(), Some(&expired), &[]);
    openssl(envoy.address(), Some(&pki.sound()), &[]);
    drop(TcpStream::connect(envoy.address()).unwrap());
    openssl(envoy.address(), None, &[]);
    envoy.failure(2);
    let read = || std::fs::read_to_string(pki.path("access.jsonl")).unwrap_or_default();
    let deadline = Instant::now() + Duration::from_secs(5);
    while read().lines().count() < 2 {
        assert!(Instant::now() < deadline, "{}", read());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // A connection that ends before a filter chain takes it has no filter state: the filter's own line has it.
    let told: Vec<Value> = read().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let lines: Vec<Value> =
        envoy.failures().into_iter().filter(|line| line["error"]["type"] != "transport").collect();
    assert_eq!(told.len(), 2, "{told:#?}");
    for (told, line) in told.iter().zip(&lines) {
        // The two are made a moment apart.
        let timeless = |line: &Value| {
            let mut line = line.clone();
            line["@timestamp"] = Value::Null;
            line["event"]["duration"] = Value::Null;
            line
        };
        assert_eq!(timeless(told), timeless(line));
    }
    if !open_telemetry {
        return;
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    let has = |bytes: &[u8], text: &str| bytes.windows(text.len()).any(|bytes| bytes == text.as_bytes());
    loop {
        let both = [collector.bodies.lock().unwrap().concat(), streamed.lock().unwrap().clone()];
        let told = |bytes: &Vec<u8>| {
            has(bytes, "\"action\":\"tls.handshake.failure\"")
                && has(bytes, "\"type\":\"certificate_expired\"")
        };
        if both.iter().all(told) {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "{:?}",
            both.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_have_the_shape_and_the_fields_that_are_asked_for() {
    let pki = Pki::new();
    let envoy = Envoy::start_all(
        &pki,
        &[
            "name: otel\nlog: {shape: otel}\n",
            "name: ocsf\nlog: {shape: ocsf}\n",
            "name: private\nlog: {fields: {drop: [client.port, tls.client.x509], hash: [client.ip, tls.client.subject], key: 0123456789abcdef}}\n",
            "name: few\nlog: {fields: {include: [event.reason, client.ip]}}\n",
        ],
        Starting::default(),
    );
    let expired = pki.client(&pki.root, &Leaf::expired(), &[]);
    for address in &envoy.listeners {
        openssl(*address, Some(&expired), &[]);
    }
    let reason = if minor_version() < 37 { "unspecified" } else { "expired" };
    let deadline = Instant::now() + Duration::from_secs(5);
    while envoy.lines().len() < 4 {
        assert!(Instant::now() < deadline, "{:#?}", envoy.lines());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let lines = envoy.lines();
    let find = |fits: &dyn Fn(&Value) -> bool| {
        lines.iter().find(|line| fits(line)).unwrap_or_else(|| panic!("{lines:#?}"))
    };
    let otel = find(&|line| line["eventName"] == "tls.handshake.failure");
    assert_eq!(attributes(otel)["event.reason"], reason);
    let ocsf = find(&|line| line["class_uid"] == 4001);
    assert_eq!((&ocsf["status_detail"], &ocsf["src_endpoint"]["ip"]), (&json!(reason), &json!("127.0.0.1")));
    let private = find(&|line| line["observer"]["ingress"]["interface"]["name"] == "private");
    assert!(private["client"]["ip"].as_str().unwrap().starts_with("hmac:"), "{private:#}");
    assert!(private["tls"]["client"]["subject"].as_str().unwrap().starts_with("hmac:"));
    assert_eq!((private["client"].get("port"), private["tls"]["client"].get("x509")), (None, None));
    let few = find(&|line| line.as_object().is_some_and(|line| line.len() == 3));
    assert_eq!(few["event"], json!({"action": "tls.handshake.failure", "reason": reason}));
    assert_eq!(few["client"], json!({"ip": "127.0.0.1"}));
}
