//! A service in this process, and an Envoy that speaks delta xDS to it over the Unix socket.

use std::path::PathBuf;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use cert_service::options::Options;
use cert_service::server::Server;
use cert_service::service::Service;
use cert_service::xds::messages::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, SECRET_TYPE, Secret};
use clap::Parser as _;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic_prost::ProstCodec;

use crate::support::{Directory, Log};

/// A service that runs until it is stopped.
pub struct Running {
    pub service: Arc<Service>,
    pub log: Log,
    pub http: std::net::SocketAddr,
    pub remote: Option<std::net::SocketAddr>,
    socket: PathBuf,
    stop: oneshot::Sender<()>,
    served: JoinHandle<()>,
}

impl Running {
    /// Starts one with its state in this directory.
    pub async fn start(directory: &Directory, more: &[&str]) -> Running {
        let (state, socket) = (directory.path("state"), directory.path("socket"));
        let mut arguments = vec!["cert-service", "--http", "127.0.0.1:0"];
        let (state, socket_text) = (state.to_str().unwrap(), socket.to_str().unwrap());
        arguments.extend(["--state", state, "--socket", socket_text]);
        arguments.extend(more);
        let options = Options::try_parse_from(arguments).unwrap();
        let log = Log::default();
        let server = Server::start(&options, log.clone()).await.unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let (service, http) = (server.service().clone(), server.http_address().unwrap());
        let remote = server.remote_address();
        let served = tokio::spawn(server.serve(async {
            let _ = stopped.await;
            "test"
        }));
        Running { service, log, http, remote, socket, stop, served }
    }

    /// Ends it as a signal would.
    pub async fn stop(self) {
        let _ = self.stop.send(());
        tokio::time::timeout(Duration::from_secs(5), self.served).await.unwrap().unwrap();
        assert!(!self.socket.exists(), "the socket is still there");
    }

    pub async fn grant(&self, pool: &str, host: &str) -> (u16, serde_json::Value) {
        let body = serde_json::json!({ "pool": pool, "host": host }).to_string();
        self.post("/v1/grants", &body).await
    }

    pub async fn post(&self, path: &str, body: &str) -> (u16, serde_json::Value) {
        let stream = UnixStream::connect(&self.socket).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = hyper::Request::post(path)
            .header("host", "cert-service")
            .body(Full::new(Bytes::from(body.to_owned())))
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    /// What the socket answers to a `GET`.
    pub async fn private(&self, path: &str) -> serde_json::Value {
        let stream = UnixStream::connect(&self.socket).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request =
            hyper::Request::get(path).header("host", "cert-service").body(Full::<Bytes>::default()).unwrap();
        let body =
            sender.send_request(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
        serde_json::from_slice(&body).unwrap()
    }

    pub async fn get(&self, path: &str) -> (u16, Option<String>, Bytes) {
        let stream = tokio::net::TcpStream::connect(self.http).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request =
            hyper::Request::get(path).header("host", "cert-service").body(Full::<Bytes>::default()).unwrap();
        let response = sender.send_request(request).await.unwrap();
        let status = response.status().as_u16();
        let kind = response.headers().get("content-type").map(|kind| kind.to_str().unwrap().to_owned());
        (status, kind, response.into_body().collect().await.unwrap().to_bytes())
    }

    /// The value of a metric, labels included in its name.
    pub async fn metric(&self, name: &str) -> f64 {
        let (_, _, page) = self.get("/metrics").await;
        let page = String::from_utf8(page.to_vec()).unwrap();
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {page}")).parse().unwrap()
    }

    /// Opens a stream as Envoy does.
    pub async fn envoy(&self, method: &'static str) -> Envoy {
        let (requests, responses) = self.stream(method).await;
        Envoy { requests, responses, begun: false, node: "test-envoy".to_owned() }
    }

    /// Opens a stream of any protocol.
    pub async fn stream<Q, A>(&self, method: &'static str) -> (mpsc::UnboundedSender<Q>, tonic::Streaming<A>)
    where
        Q: prost::Message + Default + 'static,
        A: prost::Message + Default + 'static,
    {
        let stream = UnixStream::connect(&self.socket).await.unwrap();
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let (requests, outgoing) = mpsc::unbounded_channel();
        let mut client = tonic::client::Grpc::new(Channel(sender));
        client.ready().await.unwrap();
        let codec = ProstCodec::<Q, A>::default();
        let response = client
            .streaming(
                tonic::Request::new(UnboundedReceiverStream::new(outgoing)),
                method.parse().unwrap(),
                codec,
            )
            .await
            .unwrap();
        (requests, response.into_inner())
    }
}

/// The other end of a stream.
pub struct Envoy {
    requests: mpsc::UnboundedSender<DeltaDiscoveryRequest>,
    responses: tonic::Streaming<DeltaDiscoveryResponse>,
    begun: bool,
    node: String,
}

impl Envoy {
    /// With another node id.
    pub fn named(self, node: &str) -> Envoy {
        Envoy { node: node.to_owned(), ..self }
    }

    pub fn send(&mut self, mut request: DeltaDiscoveryRequest) {
        if !self.begun {
            request.node = Some(Node { id: self.node.clone() });
            self.begun = true;
        }
        if request.type_url.is_empty() {
            request.type_url = SECRET_TYPE.to_owned();
        }
        self.requests.send(request).unwrap();
    }

    pub fn subscribe(&mut self, names: &[&str]) {
        self.send(DeltaDiscoveryRequest {
            resource_names_subscribe: names.iter().map(|&name| name.to_owned()).collect(),
            ..Default::default()
        });
    }

    pub fn unsubscribe(&mut self, names: &[&str]) {
        self.send(DeltaDiscoveryRequest {
            resource_names_unsubscribe: names.iter().map(|&name| name.to_owned()).collect(),
            ..Default::default()
        });
    }

    /// Names what is held from before, as an Envoy that is back does.
    pub fn resume(&mut self, held: &[(&str, &str)]) {
        self.send(DeltaDiscoveryRequest {
            resource_names_subscribe: held.iter().map(|(name, _)| (*name).to_owned()).collect(),
            initial_resource_versions: held
                .iter()
                .map(|(name, version)| ((*name).to_owned(), (*version).to_owned()))
                .collect(),
            ..Default::default()
        });
    }

    /// The next response, acknowledged.
    pub async fn next(&mut self) -> DeltaDiscoveryResponse {
        let response = tokio::time::timeout(Duration::from_secs(10), self.responses.message());
        let response = response.await.expect("no response").unwrap().expect("the stream ended");
        self.send(DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..Default::default()
        });
        response
    }

    /// Nothing comes for a while.
    pub async fn silence(&mut self) {
        let response = tokio::time::timeout(Duration::from_millis(300), self.responses.message());
        if let Ok(response) = response.await {
            panic!("unexpected: {response:?}");
        }
    }

    /// The stream ends without an error.
    pub async fn end(&mut self) {
        let end = tokio::time::timeout(Duration::from_secs(10), self.responses.message());
        assert!(end.await.expect("no end").unwrap().is_none());
    }
}

/// The secret of a response that has just one.
pub fn only_secret(response: &DeltaDiscoveryResponse) -> (String, String, Secret) {
    assert_eq!(response.removed_resources, Vec::<String>::new());
    assert_eq!(response.resources.len(), 1);
    let resource = &response.resources[0];
    let any = resource.resource.as_ref().unwrap();
    assert_eq!(any.type_url, SECRET_TYPE);
    let secret = Secret::decode(any.value.as_slice()).unwrap();
    assert_eq!(secret.name, resource.name);
    (resource.name.clone(), resource.version.clone(), secret)
}

/// The chain and the key of a secret, as PEM.
pub fn parts(secret: &Secret) -> (String, String) {
    let certificate = secret.tls_certificate.as_ref().unwrap();
    let text = |source: &Option<cert_service::xds::messages::DataSource>| {
        String::from_utf8(source.as_ref().unwrap().inline_bytes.clone()).unwrap()
    };
    (text(&certificate.certificate_chain), text(&certificate.private_key))
}

struct Channel(http2::SendRequest<tonic::body::Body>);

impl tonic::codegen::Service<hyper::Request<tonic::body::Body>> for Channel {
    type Response = hyper::Response<Incoming>;
    type Error = hyper::Error;
    type Future =
        std::pin::Pin<Box<dyn Future<Output = Result<hyper::Response<Incoming>, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, mut request: hyper::Request<tonic::body::Body>) -> Self::Future {
        let path = request.uri().path().to_owned();
        *request.uri_mut() = format!("http://cert-service{path}").parse().unwrap();
        Box::pin(self.0.send_request(request))
    }
}
