//! More than the proxy takes, slower than it waits.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use outgate_tests::client::{self, Ask};
use outgate_tests::origin::read_some;
use outgate_tests::outgate::Options;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::setting::{INSPECT_ALL, Setting};

/// What an ordinary client asks.
const GOOD: &[u8] = b"GET http://good.site.test/ HTTP/1.1\r\nHost: good.site.test\r\n\r\n";

/// A connection from another address of this host.
async fn connect_from(client: &str, proxy: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{client}:0").parse().unwrap()).unwrap();
    socket.connect(proxy).await
}

/// Whether the proxy ended a connection, within five seconds.
async fn is_ended(stream: &mut TcpStream) -> bool {
    let end = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut [0; 1])).await;
    matches!(end, Ok(Ok(0) | Err(_)))
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_limit_are_turned_away_and_the_others_are_served() {
    let setting =
        Setting::with_options(INSPECT_ALL, Options::default().with(&["--max-connections", "20"])).await;
    let mut open = Vec::new();
    for _ in 0..19 {
        open.push(TcpStream::connect(setting.proxy()).await.unwrap());
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(
        client::get(setting.proxy(), "http://good.site.test/").await.status,
        200,
        "the last that fits"
    );
    for _ in 0..5 {
        open.push(TcpStream::connect(setting.proxy()).await.unwrap());
    }
    let mut last = open.pop().unwrap();
    assert!(is_ended(&mut last).await, "turned away");
    let ready = client::in_the_clear(setting.outgate.admin, Ask::get("/ready").at("admin")).await;
    assert_eq!(ready.status, 200, "the admin interface is not counted");

    drop(open);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(client::get(setting.proxy(), "http://good.site.test/").await.status, 200, "room again");
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_thousand_idle_connections_of_one_client_leave_room_for_the_others() {
    const LIMIT: usize = 50;
    let options = Options::default().with(&["--max-connections-per-client", "50"]);
    let setting = Setting::with_options(INSPECT_ALL, options).await;
    let proxy = setting.proxy();
    let mut idle = Vec::new();
    for _ in 0..LIMIT {
        idle.push(connect_from("127.0.0.2", proxy).await.unwrap());
    }
    let mut attempts = JoinSet::new();
    for _ in 0..20 {
        attempts.spawn(async move {
            for _ in 0..1000 {
                let mut stream = connect_from("127.0.0.2", proxy).await.unwrap();
                assert!(is_ended(&mut stream).await, "turned away");
            }
        });
    }
    let mut served = 0;
    while !attempts.is_empty() {
        let good = client::get(proxy, "http://good.site.test/").await;
        assert_eq!(good.status, 200, "{good:?}");
        served += 1;
        while attempts.try_join_next().is_some_and(|attempt| attempt.is_ok()) {}
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(served > 10, "others were served meanwhile");
    let metrics = setting.metrics().await;
    assert!(metrics.contains("outgate_connections_turned_away_total{} 20000"), "{metrics}");

    drop(idle);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut again = connect_from("127.0.0.2", proxy).await.unwrap();
    again.write_all(GOOD).await.unwrap();
    assert!(read_some(&mut again).await.starts_with(b"HTTP/1.1 200"), "room again");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_dawdle_are_ended_and_the_others_are_served() {
    let setting = Setting::with(INSPECT_ALL).await;
    let proxy = setting.proxy();
    let mut slow_headers = Vec::new();
    let mut slow_hellos = Vec::new();
    for _ in 0..50 {
        let mut stream = TcpStream::connect(proxy).await.unwrap();
        stream.write_all(b"GET http://good.site.test/ HTTP/1.1\r\nHost: go").await.unwrap();
        slow_headers.push(stream);
        let mut stream = client::connect(proxy, "good.site.test:443").await.unwrap();
        stream.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01").await.unwrap();
        slow_hellos.push(stream);
    }
    let started = Instant::now();
    assert_eq!(setting.https("good.site.test", "/").await.0.status, 200);
    for mut stream in slow_hellos {
        assert!(is_ended(&mut stream).await, "half a ClientHello is nothing that could be read");
    }
    for mut stream in slow_headers {
        let answer = client::read_until_quiet(&mut stream).await;
        let answer = if answer.is_empty() {
            String::from_utf8_lossy(&read_some(&mut stream).await).into_owned()
        } else {
            answer
        };
        assert!(answer.starts_with("HTTP/1.1 408") || started.elapsed() > Duration::from_secs(9), "{answer}");
    }
    assert!(started.elapsed() < Duration::from_secs(30));
    assert_eq!(setting.https("good.site.test", "/").await.0.status, 200);
}

/// Clients that never read make Envoy hold what they asked for, until it has no more memory to give.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_never_read_cost_memory_up_to_the_limit_and_then_new_requests_wait() {
    let options = Options::default().with(&["--max-heap", "160"]);
    let setting = Setting::with_options(INSPECT_ALL, options).await;
    // Connected before memory is short.
    let mut regular = TcpStream::connect(setting.proxy()).await.unwrap();
    let mut never_read = Vec::new();
    let mut answer = String::new();
    while never_read.len() < 400 && !answer.starts_with("HTTP/1.1 503") {
        for _ in 0..10 {
            let mut stream = TcpStream::connect(setting.proxy()).await.unwrap();
            let ask = b"GET http://good.site.test/large HTTP/1.1\r\nHost: good.site.test\r\n\r\n";
            // A connection that is rejected at once tells by itself.
            let _rejected = stream.write_all(ask).await;
            never_read.push(stream);
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        regular.write_all(GOOD).await.unwrap();
        answer = String::from_utf8_lossy(&read_some(&mut regular).await).into_owned();
    }
    assert!(answer.contains("x-outgate-reason: overloaded"), "{answer}");
    assert!(answer.contains("application/problem+json"), "{answer}");
    let ready = client::in_the_clear(setting.outgate.admin, Ask::get("/ready").at("admin")).await;
    assert_eq!(ready.status, 200, "it lives");
    drop(never_read);
    for _ in 0..50 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let mut probe = TcpStream::connect(setting.proxy()).await.unwrap();
        let _rejected = probe.write_all(GOOD).await;
        if client::read_until_quiet(&mut probe).await.starts_with("HTTP/1.1 200") {
            return;
        }
    }
    panic!("nobody is served again: {}", setting.outgate.said());
}
