//! What happens when one of the processes stops, ends or comes back.

use std::time::Duration;

use outgate_tests::client::{self, Ask};
use outgate_tests::outgate::assert_gone;
use rustix::process::Signal;

use crate::setting::{INSPECT_ALL, Setting, assert_refused};

async fn connect_status(setting: &Setting, host: &str) -> u16 {
    match client::connect(setting.proxy(), &format!("{host}:443")).await {
        Ok(_) => 200,
        Err(reply) => {
            assert_refused(&reply, 503, "no_grant");
            503
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cert_service_stopped_granted_hosts_go_on_and_new_ones_wait_for_it() {
    let setting = Setting::with(INSPECT_ALL).await;
    assert_eq!(setting.https("known.site.test", "/").await.0.status, 200);

    setting.outgate.signal_child("cert-service", Signal::STOP);
    assert_eq!(setting.https("known.site.test", "/").await.0.status, 200, "granted hosts go on");
    assert_eq!(connect_status(&setting, "fresh.site.test").await, 503);

    setting.outgate.signal_child("cert-service", Signal::CONT);
    assert_eq!(setting.https("fresh.site.test", "/").await.0.status, 200, "all is well again");
}

/// Waits until `/ready` of the proxy says this.
async fn wait_for_readiness(setting: &Setting, status: u16) {
    for _ in 0..100 {
        let ready = client::in_the_clear(setting.outgate.admin, Ask::get("/ready").at("admin")).await;
        if ready.status == status {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("/ready never said {status}: {}", setting.outgate.said());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_is_not_ready_while_a_companion_is_down_and_ends_no_connection_for_it() {
    let setting = Setting::with(INSPECT_ALL).await;
    let stream = client::connect(setting.proxy(), "known.site.test:443").await.unwrap();
    let stream = setting.trusting("known.site.test").http1().handshake(stream).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut ask = async || {
        sender.ready().await.unwrap();
        let request = hyper::Request::get("/").header("host", "known.site.test");
        let request = request.body(http_body_util::Empty::<hyper::body::Bytes>::new()).unwrap();
        let response = sender.send_request(request).await.unwrap();
        let kept = response.headers().get("connection").is_none();
        let status = response.status().as_u16();
        http_body_util::BodyExt::collect(response.into_body()).await.unwrap();
        (status, kept)
    };
    wait_for_readiness(&setting, 200).await;
    assert_eq!(ask().await, (200, true));
    for (signal, over) in [(Signal::STOP, Signal::CONT), (Signal::KILL, Signal::KILL)] {
        setting.outgate.signal_child("cert-service", signal);
        wait_for_readiness(&setting, 503).await;
        assert_eq!(ask().await, (200, true), "on the same connection");
        if over == Signal::CONT {
            setting.outgate.signal_child("cert-service", over);
        }
        wait_for_readiness(&setting, 200).await;
        assert_eq!(ask().await, (200, true), "on the same connection");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cert_service_killed_is_started_again() {
    let mut setting = Setting::with(INSPECT_ALL).await;
    assert_eq!(setting.https("known.site.test", "/").await.0.status, 200);
    setting.outgate.signal_child("cert-service", Signal::KILL);
    assert_eq!(setting.https("known.site.test", "/").await.0.status, 200, "granted hosts go on");
    assert_eq!(connect_status(&setting, "fresh.site.test").await, 503);
    setting.outgate.wait_for("cert-service started again", Duration::from_secs(10));
    for _ in 0..100 {
        if connect_status(&setting, "fresh.site.test").await == 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Envoy's stream may need a moment to come back; then both names work.
    let tls = setting.trusting("fresh.site.test");
    for _ in 0..50 {
        let ask = Ask::get("/").at("fresh.site.test");
        if client::https(setting.proxy(), "fresh.site.test", &tls, ask).await.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(setting.https("fresh.site.test", "/").await.0.status, 200);
    assert_eq!(setting.https("known.site.test", "/").await.0.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_killed_ends_the_run_with_a_word_and_a_status() {
    let mut setting = Setting::with(INSPECT_ALL).await;
    let children = setting.outgate.children();
    setting.outgate.signal_child("envoy", Signal::KILL);
    assert_eq!(setting.outgate.wait(Duration::from_secs(10)), Some(1));
    assert!(setting.outgate.said().contains("envoy ended"), "{}", setting.outgate.said());
    assert_gone(&children);
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_ends_the_run_ends_its_children() {
    for (signal, status) in [(Signal::TERM, Some(0)), (Signal::INT, Some(0)), (Signal::KILL, None)] {
        let mut setting = Setting::with(INSPECT_ALL).await;
        let children = setting.outgate.children();
        assert_eq!(children.len(), 2, "{children:?}");
        setting.outgate.signal(signal);
        assert_eq!(setting.outgate.wait(Duration::from_secs(15)), status, "{signal:?}");
        assert_gone(&children);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_drains_and_sigusr1_starts_a_new_log() {
    let mut setting = Setting::with(INSPECT_ALL).await;
    assert_eq!(client::get(setting.proxy(), "http://first.site.test/").await.status, 200);
    setting.outgate.session_or_request("first.site.test").await;
    let log = setting.outgate.log_file();
    let old = log.with_extension("old");
    std::fs::rename(&log, &old).unwrap();
    setting.outgate.signal(Signal::USR1);
    for _ in 0..100 {
        if log.exists() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(client::get(setting.proxy(), "http://second.site.test/").await.status, 200);
    setting.outgate.session_or_request("second.site.test").await;
    assert!(std::fs::read_to_string(old).unwrap().contains("first.site.test"));

    // A request under way when SIGTERM comes is answered; the proxy says that it is not ready.
    let proxy = setting.proxy();
    let slow = tokio::spawn(async move { client::get(proxy, "http://slow.site.test/slow").await.status });
    tokio::time::sleep(Duration::from_millis(100)).await;
    setting.outgate.signal(Signal::TERM);
    setting.outgate.wait_for("draining", Duration::from_secs(5));
    let ready = client::in_the_clear(setting.outgate.admin, Ask::get("/ready").at("admin")).await;
    assert_eq!(ready.status, 503, "{ready:?}");
    assert_eq!(slow.await.unwrap(), 200);
    assert_eq!(setting.outgate.wait(Duration::from_secs(10)), Some(0));
}
