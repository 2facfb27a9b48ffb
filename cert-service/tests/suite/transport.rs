//! Envoys on other machines: who gets in, and what can be asked there.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cert_service::health::{
    CHECK, HealthCheckRequest, HealthCheckResponse, NOT_SERVING, SERVICE_UNKNOWN, SERVING, WATCH,
};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use outgate_tests::certificates::{Authority, Identity, Profile};
use prost::Message as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::envoy::Running;
use crate::support::Directory;

struct Files {
    servers: Authority,
    clients: Authority,
    arguments: Vec<String>,
}

/// The files of a listener that lets `envoy.example` and a SPIFFE name in, and the options that name them.
fn files(directory: &Directory) -> Files {
    let (servers, clients) = (Authority::new("Servers"), Authority::new("Clients"));
    let server = servers.server(&["localhost"]);
    let file = |path: PathBuf| path.to_str().unwrap().to_owned();
    let arguments = [
        ("--listen", "127.0.0.1:0".to_owned()),
        ("--listen-cert", file(directory.write("tls.pem", &server.certificate_pem, 0o644))),
        ("--listen-key", file(directory.write("tls.key", &server.key_pem, 0o600))),
        ("--listen-client-ca", file(directory.write("clients.pem", clients.pem(), 0o644))),
        ("--allow-san", "Envoy.example".to_owned()),
        ("--allow-san", "spiffe://mesh/ns/edge".to_owned()),
    ];
    let arguments = arguments.into_iter().flat_map(|(option, value)| [option.to_owned(), value]).collect();
    Files { servers, clients, arguments }
}

impl Files {
    async fn start(&self, directory: &Directory) -> (Running, SocketAddr) {
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        let running = Running::start(directory, &arguments).await;
        let address = running.remote.unwrap();
        (running, address)
    }

    async fn connect(
        &self,
        address: SocketAddr,
        identity: Option<&Identity>,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.servers.der()).unwrap();
        let builder = ClientConfig::builder().with_root_certificates(roots);
        let mut configuration = match identity {
            Some(identity) => builder.with_client_auth_cert(identity.chain(), identity.key()).unwrap(),
            None => builder.with_no_client_auth(),
        };
        configuration.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TcpStream::connect(address).await?;
        TlsConnector::from(Arc::new(configuration)).connect(name, stream).await
    }
}

/// The status of a request over HTTP/1.1; an error if the connection was closed on us.
async fn post<S>(stream: S, path: &str, body: &str) -> Result<u16, String>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    tokio::spawn(connection);
    let request = hyper::Request::post(path)
        .header("host", "cert-service")
        .body(Full::new(Bytes::from(body.to_owned())))
        .unwrap();
    let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
    Ok(response.status().as_u16())
}

const GRANT: &str = r#"{"pool": "main", "host": "a.example"}"#;

#[tokio::test]
async fn only_who_shows_an_allowed_name_gets_in() {
    let directory = Directory::new();
    let files = files(&directory);
    let (running, address) = files.start(&directory).await;
    let stranger = Authority::new("Clients");
    for (case, identity, enters) in [
        ("DNS name", Some(files.clients.client("envoy.example")), true),
        ("SPIFFE", Some(files.clients.client("spiffe://mesh/ns/edge")), true),
        ("SPIFFE of another case", Some(files.clients.client("spiffe://mesh/ns/Edge")), false),
        ("another name", Some(files.clients.client("web.example")), false),
        ("a name below", Some(files.clients.client("x.envoy.example")), false),
        ("another CA of the same name", Some(stranger.client("envoy.example")), false),
        ("of a server", Some(files.clients.server(&["envoy.example"])), false),
        ("expired", Some(files.clients.issue(&["envoy.example"], &Profile::client().expired())), false),
        ("none", None, false),
    ] {
        let answer = match files.connect(address, identity.as_ref()).await {
            Ok(stream) => post(stream, "/v1/grants", GRANT).await,
            Err(error) => Err(error.to_string()),
        };
        assert_eq!(answer.as_ref().ok(), enters.then_some(&200), "{case}: {answer:?}");
    }
    // Nor without TLS.
    let plain = TcpStream::connect(address).await.unwrap();
    post(plain, "/v1/grants", GRANT).await.unwrap_err();
    assert_eq!(running.metric("cert_service_peers_refused_total").await, 8.0);
    let lines = running.log.events("peer_refused");
    assert!(
        lines
            .iter()
            .any(|line| line["message"].as_str().unwrap().contains("is for `web.example`: add one of")),
        "{lines:?}"
    );
    running.stop().await;
}

#[tokio::test]
async fn operators_orders_are_not_taken_from_other_machines() {
    let directory = Directory::new();
    let files = files(&directory);
    let (running, address) = files.start(&directory).await;
    let envoy = files.clients.client("envoy.example");
    for path in ["/v1/stop", "/v1/withdrawals", "/v1/reload", "/v1/policy"] {
        let stream = files.connect(address, Some(&envoy)).await.unwrap();
        assert_eq!(post(stream, path, "{}").await, Ok(404), "{path}");
        assert_ne!(running.post(path, "{}").await.0, 404, "{path} on the socket");
    }
    running.stop().await;
}

#[tokio::test]
async fn a_certificate_that_was_renewed_is_shown_and_a_broken_one_is_not() {
    let directory = Directory::new();
    let files = files(&directory);
    let (running, address) = files.start(&directory).await;
    let envoy = files.clients.client("envoy.example");
    let shown = async || {
        let stream = files.connect(address, Some(&envoy)).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].clone()
    };
    let first = shown().await;
    let renewed = files.servers.server(&["localhost"]);
    directory.write("tls.key", &renewed.key_pem, 0o600);
    assert_eq!(shown().await, first, "a key without its certificate");
    directory.write("tls.pem", &renewed.certificate_pem, 0o644);
    assert_eq!(shown().await, renewed.chain()[0]);
    running.stop().await;
}

#[tokio::test]
async fn health_over_grpc_says_what_readyz_says() {
    let directory = Directory::new();
    let files = files(&directory);
    let (running, address) = files.start(&directory).await;
    let envoy = files.clients.client("envoy.example");
    let ask = async |method: &str, service: &str| {
        let stream = files.connect(address, Some(&envoy)).await.unwrap();
        let (mut sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let message = HealthCheckRequest { service: service.to_owned() }.encode_to_vec();
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        let body = [&[0][..], &length, &message].concat();
        let request = hyper::Request::post(format!("https://localhost{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(Bytes::from(body)))
            .unwrap();
        sender.send_request(request).await.unwrap()
    };
    let status = |message: &[u8]| HealthCheckResponse::decode(&message[5..]).unwrap().status;
    let check = async |service: &str| {
        let response = ask(CHECK, service).await;
        let early = response.headers().get("grpc-status").map(|code| code.to_str().unwrap().to_owned());
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (early, (!body.is_empty()).then(|| status(&body)))
    };
    let next = async |watch: &mut hyper::body::Incoming| {
        let frame = tokio::time::timeout(Duration::from_secs(10), watch.frame()).await.unwrap()?;
        frame.unwrap().into_data().ok().map(|message| status(&message))
    };
    let mut watch = ask(WATCH, "").await.into_body();
    assert_eq!(next(&mut watch).await, Some(SERVING));
    let mut unknown = ask(WATCH, "nobody").await.into_body();
    assert_eq!(next(&mut unknown).await, Some(SERVICE_UNKNOWN));
    assert_eq!(check("").await, (None, Some(SERVING)));
    assert_eq!(check("nobody").await, (Some("5".to_owned()), None), "NOT_FOUND, as the protocol demands");
    running.service.set_socket_serves(false);
    assert_eq!(running.get("/readyz").await.0, 503);
    let ads = "envoy.service.discovery.v3.AggregatedDiscoveryService";
    assert_eq!(check(ads).await, (None, Some(NOT_SERVING)));
    assert_eq!(next(&mut watch).await, Some(NOT_SERVING), "who watches is told");
    running.service.set_socket_serves(true);
    assert_eq!(next(&mut watch).await, Some(SERVING));
    running.stop().await;
    assert_eq!(next(&mut watch).await, None, "the end");
}
