//! Who a client is: by its certificate if that verified, by its address, never by what it says.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use outgate_tests::certificates::{Authority, Identity, Profile};
use outgate_tests::client::{self, Ask, Tls};
use outgate_tests::outgate::{Options, free_address};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::setting::{Setting, is_ours};

const BUILDER: &str = "spiffe://mesh/ns/build/sa/runner";

const POLICY: &str = "
name: identities
tlsInspectionPolicy: default
rules:
- {name: builders, priority: 10, basicProfile: ALLOW, sessionMatcher: \"source.matchTag('tagValues/777')\", applicationMatcher: \"source.mtls && source.certificate.spiffeId.startsWith('spiffe://mesh/')\", tlsInspectionEnabled: true}
- {name: laptops, priority: 20, basicProfile: ALLOW, sessionMatcher: \"source.matchTag('tagValues/888')\"}
tlsInspectionPolicies:
- {name: default, caPool: main}
outgate:
  sources:
  - {spiffeIds: ['spiffe://mesh/ns/build/*'], tags: [tagValues/777]}
  - {dnsNames: ['*.laptops.test'], tags: [tagValues/888]}
";

/// A proxy that takes connections over TLS, and knows the clients of one CA.
struct Secure {
    setting: Setting,
    address: SocketAddr,
    clients: Authority,
    _folder: tempfile::TempDir,
}

impl Secure {
    async fn start() -> Self {
        let clients = Authority::new("Clients CA");
        let folder = tempfile::tempdir().unwrap();
        let ca = folder.path().join("clients.pem");
        std::fs::write(&ca, clients.pem()).unwrap();
        let address = free_address();
        let options = Options::default().with(&[
            "--tls-listen",
            &address.to_string(),
            "--tls-client-ca",
            ca.to_str().unwrap(),
        ]);
        Self { setting: Setting::with_options(POLICY, options).await, address, clients, _folder: folder }
    }

    /// `CONNECT host:443` over TLS: the stream, or the status of the refusal.
    async fn connect(
        &self,
        identity: Option<Identity>,
        host: &str,
    ) -> io::Result<Result<TlsStream<TcpStream>, u16>> {
        let mut tls = Tls::new("localhost", self.setting.outgate.roots()).http1();
        tls.identity = identity.map(std::sync::Arc::new);
        let mut stream = tls.handshake(TcpStream::connect(self.address).await?).await?;
        stream
            .write_all(format!("CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\n\r\n").as_bytes())
            .await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let status = std::str::from_utf8(&head[9..12]).unwrap().parse().unwrap();
        Ok(if status == 200 { Ok(stream) } else { Err(status) })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verified_certificate_is_an_identity_and_no_other_is() {
    let secure = Secure::start().await;
    let client = Profile::client();

    // A SPIFFE id of a listed path: decrypted, and the rule sees the certificate inside too.
    let builder = secure.clients.issue(&[BUILDER], &client);
    let stream = secure.connect(Some(builder), "good.site.test").await.unwrap().unwrap();
    let stream = secure.setting.trusting("good.site.test").handshake(stream).await.unwrap();
    let (_, inner) = stream.get_ref();
    let seen = inner.peer_certificates().unwrap()[0].clone().into_owned();
    assert!(is_ours(&crate::setting::issuer(&seen)));
    let reply = client::over_tls(stream, Ask::get("/").at("good.site.test")).await.unwrap();
    assert_eq!(reply.status, 200, "{reply:?}");
    let line = secure.setting.outgate.session("good.site.test").await;
    assert_eq!(line["outgate"]["identity"]["tags"], json!(["tagValues/777"]), "{line}");

    // A DNS name.
    let laptop = secure.clients.issue(&["a.laptops.test"], &client);
    assert!(secure.connect(Some(laptop), "laptop.site.test").await.unwrap().is_ok());

    // Others of the same CA, and clients without a certificate, are nobody.
    for names in [
        &["spiffe://mesh/ns/build"][..],
        &["spiffe://other/ns/build/sa"],
        &["laptops.test"],
        &[BUILDER, "spiffe://mesh/x"],
    ] {
        let other = secure.clients.issue(names, &client);
        assert_eq!(
            secure.connect(Some(other), "good.site.test").await.unwrap().unwrap_err(),
            403,
            "{names:?}"
        );
    }
    assert_eq!(secure.connect(None, "good.site.test").await.unwrap().unwrap_err(), 403);

    // One that does not verify ends the handshake, whatever it says; the log tells why.
    let stranger = Authority::new("Stranger CA");
    for (bad, reason) in [
        (Identity::self_signed(&[BUILDER], &client), "self_signed"),
        (stranger.issue(&[BUILDER], &client), "unknown_issuer"),
        (secure.clients.issue(&[BUILDER], &client.clone().expired()), "expired"),
    ] {
        assert!(secure.connect(Some(bad), "good.site.test").await.is_err(), "{reason}");
        let line = secure.setting.outgate.line(|line| line["event"]["reason"] == reason).await;
        assert_eq!(line["event"]["action"], "tls.handshake.failure", "{line}");
    }
}

/// Sends a PROXY header that names 10.9.9.9, and asks for a tunnel.
async fn connect_through(proxy: SocketAddr, header: &[u8]) -> u16 {
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    stream.write_all(header).await.unwrap();
    stream.write_all(b"CONNECT any.site.test:80 HTTP/1.1\r\nHost: any.site.test:80\r\n\r\n").await.unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).await.unwrap();
    std::str::from_utf8(&status[9..]).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_protocol_counts_only_from_listed_peers() {
    let policy = "
name: proxy-protocol
rules:
- {name: branch, priority: 10, basicProfile: ALLOW, sessionMatcher: \"inIpRange(source.ip, '10.9.9.0/24')\"}
outgate: {proxyProtocol: {from: [FROM]}}
";
    let version_1 = b"PROXY TCP4 10.9.9.9 10.0.0.1 4711 3128\r\n".to_vec();
    let mut version_2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    version_2.extend(Ipv4Addr::new(10, 9, 9, 9).octets());
    version_2.extend(Ipv4Addr::new(10, 0, 0, 1).octets());
    version_2.extend([0x12, 0x67, 0x0c, 0x38]);
    for (from, status, client) in [("127.0.0.0/8", 200, "10.9.9.9"), ("192.0.2.0/24", 403, "127.0.0.1")] {
        let setting = Setting::with(&policy.replace("FROM", from)).await;
        for header in [&version_1, &version_2] {
            assert_eq!(connect_through(setting.proxy(), header).await, status, "from {from}");
        }
        assert_eq!(connect_through(setting.proxy(), b"").await, 403, "without a header");
        let line = setting.outgate.session("any.site.test").await;
        assert_eq!(line["client"]["ip"], client, "{line}");
    }
    // Where nobody is listed, the header is no request at all.
    let setting = Setting::with(&policy.replace("{proxyProtocol: {from: [FROM]}}", "{}")).await;
    assert_eq!(connect_through(setting.proxy(), &version_1).await, 400);
}
