//! `outgate run` with CAs that an operator brings, and with pools that change while clients come.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cert_service::ca::Ca;
use outgate_tests::client::{self, Tls};
use outgate_tests::outgate::Options;
use outgate_tests::standalone;
use rustls_pki_types::CertificateDer;
use tokio::task::JoinSet;

use crate::leases::{handshakes, names};
use crate::setting::{INSPECT_ALL, Setting};

/// A CONNECT and a handshake, by a client that trusts these.
async fn handshake(proxy: SocketAddr, host: &str, roots: &[CertificateDer<'static>]) -> Result<(), String> {
    let stream = client::connect(proxy, &format!("{host}:443"))
        .await
        .map_err(|reply| format!("CONNECT {host}: {}", reply.status))?;
    Tls::new(host, roots.to_vec())
        .handshake(stream)
        .await
        .map(drop)
        .map_err(|error| format!("{host}: {error}"))
}

/// A new CA as `NAME/ca.pem` and `NAME/ca-key.pem`, and its root.
fn new_ca(folder: &Path, name: &str) -> CertificateDer<'static> {
    let ca = Ca::development(&folder.join(name), time::OffsetDateTime::now_utc()).unwrap();
    CertificateDer::from(ca.trust_der().to_vec())
}

/// Renames a configuration into place: the pool `main` with these CAs.
fn configure(folder: &Path, cas: &[(&str, &str)]) {
    let list: String = cas
        .iter()
        .map(|(name, state)| {
            format!("    - {{certificate: {name}/ca.pem, key: {name}/ca-key.pem, state: {state}}}\n")
        })
        .collect();
    std::fs::write(folder.join("pools.new"), format!("pools:\n  main:\n    cas:\n{list}")).unwrap();
    std::fs::rename(folder.join("pools.new"), folder.join("pools.yaml")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_from_files_signs_what_clients_see() {
    let folder = tempfile::tempdir().unwrap();
    let root = new_ca(folder.path(), "own");
    let file = |name: &str| folder.path().join("own").join(name).to_str().unwrap().to_owned();
    let options = Options::default().with(&["--ca", &file("ca.pem"), "--ca-key", &file("ca-key.pem")]);
    let setting = Setting::with_options(INSPECT_ALL, options).await;
    assert_eq!(setting.outgate.roots(), std::slice::from_ref(&root), "it is what clients are told to trust");
    handshake(setting.proxy(), "a.site.test", &[root]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_of_the_configuration_changes_the_ca_under_load_and_no_handshake_fails() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (new_ca(folder.path(), "old"), new_ca(folder.path(), "new"));
    configure(folder.path(), &[("old", "active"), ("new", "standby")]);
    let file = folder.path().join("pools.yaml");
    let options = Options::default().with(&["--cert-config", file.to_str().unwrap()]);
    let setting = Setting::with_options(INSPECT_ALL, options).await;
    let proxy = setting.proxy();
    let both = [old.clone(), new.clone()];
    assert_eq!(setting.outgate.roots(), both, "the next one is published before it signs");
    let hosts: Vec<String> = (0..50).map(|number| format!("h{number}.site.test")).collect();
    for host in &hosts {
        handshake(proxy, host, std::slice::from_ref(&old)).await.unwrap();
    }

    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for client in 0..2 {
        let (stop, roots, hosts) = (Arc::clone(&stop), both.to_vec(), hosts.clone());
        clients.spawn(async move {
            let mut count = 0;
            for host in hosts.iter().cycle().skip(client * 25) {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                handshake(proxy, host, &roots).await.unwrap_or_else(|error| panic!("{error}"));
                count += 1;
            }
            count
        });
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    // There and back again: what is drained may become active once more.
    for (states, only, other) in [
        ([("old", "draining"), ("new", "active")], &new, &old),
        ([("old", "active"), ("new", "draining")], &old, &new),
        ([("old", "draining"), ("new", "active")], &new, &old),
    ] {
        let start = Instant::now();
        configure(folder.path(), &states);
        while handshake(proxy, &hosts[0], std::slice::from_ref(only)).await.is_err() {
            assert!(start.elapsed() < Duration::from_secs(10), "clients still see the CA before");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        eprintln!("the other CA was seen by a client {:?} after the edit", start.elapsed());
        tokio::time::sleep(Duration::from_secs(1)).await;
        for host in &hosts {
            handshake(proxy, host, std::slice::from_ref(only)).await.unwrap();
        }
        assert!(handshake(proxy, &hosts[0], std::slice::from_ref(other)).await.is_err());
    }
    stop.store(true, Ordering::Relaxed);
    let count: usize = clients.join_all().await.into_iter().sum();
    assert!(count > 20, "there was a load of {count} handshakes");

    // Without the load: a pool that is not right changes nothing.
    let cert_http = setting.outgate.cert_http;
    std::fs::write(folder.path().join("pools.yaml"), "pools: {main: {cas: []}}").unwrap();
    let start = Instant::now();
    while standalone::metric(cert_http, "cert_service_reload_failed").await == 0.0 {
        assert!(start.elapsed() < Duration::from_secs(10), "the edit was not noticed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    handshake(proxy, &hosts[0], std::slice::from_ref(&new)).await.unwrap();
    handshake(proxy, "fresh.site.test", std::slice::from_ref(&new)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_leaf_of_a_removed_ca_is_in_use_a_second_later() {
    const LEASES: usize = 100;
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (new_ca(folder.path(), "old"), new_ca(folder.path(), "new"));
    configure(folder.path(), &[("old", "active")]);
    let file = folder.path().join("pools.yaml");
    let options = Options::default().with(&["--cert-config", file.to_str().unwrap()]);
    let setting = Setting::with_options(INSPECT_ALL, options).await;
    let (proxy, cert_http) = (setting.proxy(), setting.outgate.cert_http);
    let hosts = names("h", LEASES);
    assert_eq!(handshakes(proxy, hosts.clone(), std::slice::from_ref(&old), 8).await, Vec::<String>::new());
    assert_eq!(standalone::metric(cert_http, "cert_service_live_leases").await, LEASES as f64);
    configure(folder.path(), &[("old", "retired"), ("new", "active")]);
    let start = Instant::now();
    let withdrawn = "cert_service_leases_withdrawn_total{reason=\"ca_removed\"}";
    while standalone::metric(cert_http, withdrawn).await < LEASES as f64 {
        assert!(start.elapsed() < Duration::from_secs(10), "leases of the removed CA stay");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    eprintln!("{LEASES} leases were withdrawn {:?} after the edit", start.elapsed());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(handshakes(proxy, hosts, std::slice::from_ref(&new), 8).await, Vec::<String>::new());
    assert_eq!(setting.outgate.roots(), [new], "nor are clients told to trust it");
}
