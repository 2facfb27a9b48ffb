//! What explaining costs: Envoy's CPU time for each failed handshake, with and without the logger, side by side.
//!
//! `make bench-handshake` runs it; it asserts nothing about time.

use std::io::Write;
use std::net::SocketAddr;

use rustls::version::TLS13;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::handshake_setting::{Client, Envoy, Leaf, Pki, Starting, rustls};

const ROUNDS: usize = 5;
const CLIENTS: usize = 8;

/// One Envoy with three listeners: explained with every line, explained with lines sampled, and not explained.
const LISTENERS: [(&str, &str); 3] = [
    ("every line", "name: every\nlog: {alarm: 0, sampling: {lines_per_second: 1000000}}\n"),
    ("sampled, 100 lines a second", "name: sampled\nlog: {alarm: 0}\n"),
    ("no logger", "name: bare\nlog: {alarm: 0}\n"),
];

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a benchmark: make bench-handshake"]
async fn cost_of_an_explained_failure() {
    let pki = Pki::new();
    // The last listener loses its logger.
    let edit = |text: String| {
        let (before, last) = text.rsplit_once("\n    access_log:\n").unwrap();
        let (_logger, rest) = last.split_once("\n    filter_chains:\n").unwrap();
        format!("{before}\n    filter_chains:\n{rest}")
    };
    let settings = LISTENERS.map(|(_, settings)| settings);
    let envoy = Envoy::start_all(&pki, &settings, Starting { edit: Some(&edit), ..Starting::default() });
    let expired = pki.client(&pki.root, &Leaf::expired(), &[]);
    let mut out = std::io::stderr();
    writeln!(
        out,
        "Envoy's CPU time for each failed handshake, microseconds: median of {ROUNDS} rounds (least, most)"
    )
    .unwrap();
    for (kind, count, client) in
        [("plain HTTP", 4_000, None), ("TLS 1.3, certificate expired", 1_000, Some(&expired))]
    {
        let mut costs = vec![Vec::new(); LISTENERS.len()];
        // A round that does not count, then all listeners in turn, so that what else runs here meets all alike.
        for round in 0..=ROUNDS {
            for (address, costs) in envoy.listeners.iter().zip(&mut costs) {
                let before = envoy.processor_time();
                fail(*address, count, client).await;
                let cost = (envoy.processor_time() - before) / count as f64;
                if round > 0 {
                    costs.push(cost * 1e6);
                }
            }
        }
        for ((name, _), costs) in LISTENERS.iter().zip(&mut costs) {
            costs.sort_by(f64::total_cmp);
            let median = costs[costs.len() / 2];
            writeln!(
                out,
                "{kind:30} {name:30} {median:7.1} ({:.1}, {:.1})",
                costs[0],
                costs[costs.len() - 1]
            )
            .unwrap();
        }
    }
}

async fn fail(address: SocketAddr, count: usize, client: Option<&Client>) {
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let client = client.cloned();
            tokio::spawn(async move {
                for _ in 0..count / CLIENTS {
                    match &client {
                        Some(client) => assert!(rustls(address, Some(client), &TLS13).await.is_err()),
                        None => {
                            let mut stream = TcpStream::connect(address).await.unwrap();
                            stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
                            let _closed = stream.read_to_end(&mut Vec::new()).await;
                        }
                    }
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
}
