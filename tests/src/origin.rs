//! Origin servers on loopback that remember what they received.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::certificates::Identity;

/// The body of `/large`.
static LARGE: [u8; 64 << 20] = [0; 64 << 20];

/// A server that answers every request with what it received, as JSON.
pub struct Origin {
    /// Where it listens.
    pub address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
    connections: Arc<AtomicUsize>,
    server: JoinHandle<()>,
}

/// A request as it reached the origin.
#[derive(Clone, Debug)]
pub struct Received {
    /// The method.
    pub method: String,
    /// The path with its query.
    pub target: String,
    /// `Host`, or `:authority`.
    pub authority: String,
    /// All other headers, in order.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Origin {
    /// HTTP/1.1 and HTTP/2 in the clear.
    pub async fn plain() -> Self {
        Self::start(None).await
    }

    /// The same at this address.
    pub async fn at(address: &str) -> Self {
        Self::listen(address, None).await
    }

    /// HTTP/1.1 and HTTP/2 over TLS.
    pub async fn tls(identity: &Identity) -> Self {
        let mut configuration = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(identity.chain(), identity.key())
            .unwrap();
        configuration.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Self::start(Some(TlsAcceptor::from(Arc::new(configuration)))).await
    }

    /// A server that speaks first, as SSH does, and then says back what it hears.
    pub async fn banner(banner: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let server = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(async move {
                    let _client_gone = stream.write_all(banner.as_bytes()).await;
                    let (mut read, mut write) = stream.split();
                    let _client_gone = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        Self { address, received: Arc::default(), connections, server }
    }

    /// All requests so far.
    pub fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The last request.
    pub fn last(&self) -> Received {
        self.received().pop().expect("the origin received a request")
    }

    /// How many connections were accepted.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    async fn start(tls: Option<TlsAcceptor>) -> Self {
        Self::listen("127.0.0.1:0", tls).await
    }

    async fn listen(address: &str, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let received: Arc<Mutex<Vec<Received>>> = Arc::default();
        let connections = Arc::new(AtomicUsize::new(0));
        let server = tokio::spawn(accept(listener, tls, Arc::clone(&received), Arc::clone(&connections)));
        Self { address, received, connections, server }
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Received {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

async fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    received: Arc<Mutex<Vec<Received>>>,
    connections: Arc<AtomicUsize>,
) {
    while let Ok((stream, _)) = listener.accept().await {
        connections.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(connection(stream, tls.clone(), Arc::clone(&received)));
    }
}

async fn connection(stream: TcpStream, tls: Option<TlsAcceptor>, received: Arc<Mutex<Vec<Received>>>) {
    match tls {
        None => serve(stream, received).await,
        Some(acceptor) => {
            // A client that trusts us not ends here.
            if let Ok(stream) = acceptor.accept(stream).await {
                serve(stream, received).await;
            }
        }
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    received: Arc<Mutex<Vec<Received>>>,
) {
    let service = service_fn(move |request| answer(request, Arc::clone(&received)));
    let _client_gone =
        auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}

/// Answers with what came; `/large` with 64 MiB; `/slow` takes a moment, so that others can happen meanwhile.
async fn answer(
    request: Request<Incoming>,
    received: Arc<Mutex<Vec<Received>>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let host = head.headers.get("host").and_then(|host| host.to_str().ok()).map(str::to_owned);
    let request = Received {
        method: head.method.to_string(),
        target: head.uri.path_and_query().map_or_else(|| head.uri.to_string(), ToString::to_string),
        authority: head.uri.authority().map(ToString::to_string).or(host).unwrap_or_default(),
        headers: head
            .headers
            .iter()
            .filter(|(name, _)| *name != "host")
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect(),
        body: body.collect().await.map(|body| body.to_bytes().to_vec()).unwrap_or_default(),
    };
    if request.target.starts_with("/large") {
        received.lock().unwrap_or_else(PoisonError::into_inner).push(request);
        return Ok(Response::new(Full::new(Bytes::from_static(&LARGE))));
    }
    if request.target.starts_with("/slow") {
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let said = json!({
        "method": request.method,
        "target": request.target,
        "authority": request.authority,
        "headers": request.headers,
        "body": String::from_utf8_lossy(&request.body),
    });
    received.lock().unwrap_or_else(PoisonError::into_inner).push(request);
    Ok(json_response(&said))
}

fn json_response(value: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{value}\n"))));
    response
        .headers_mut()
        .insert("content-type", hyper::header::HeaderValue::from_static("application/json"));
    response
}

/// Reads what is there within a moment.
pub async fn read_some(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut bytes = vec![0; 65_536];
    match tokio::time::timeout(Duration::from_secs(5), stream.read(&mut bytes)).await {
        Ok(Ok(count)) => {
            bytes.truncate(count);
            bytes
        }
        _ => Vec::new(),
    }
}
