//! More than the proxy takes.

use std::time::Duration;

use outgate_tests::client::{self, Ask};
use outgate_tests::outgate::Options;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::setting::{INSPECT_ALL, Setting};

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
    let end = tokio::time::timeout(Duration::from_secs(5), last.read(&mut [0; 1])).await;
    assert!(matches!(end, Ok(Ok(0) | Err(_))), "turned away: {end:?}");
    let ready = client::in_the_clear(setting.outgate.admin, Ask::get("/ready").at("admin")).await;
    assert_eq!(ready.status, 200, "the admin interface is not counted");

    drop(open);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(client::get(setting.proxy(), "http://good.site.test/").await.status, 200, "room again");
}
