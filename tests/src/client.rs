//! A client of the proxy that does exactly what it is told, and shows what it sees.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{HeaderMap, Request};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, SupportedProtocolVersion};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::certificates::Identity;

/// An answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: String,
}

/// A request to send.
#[derive(Clone, Debug)]
pub struct Ask<'a> {
    /// The method.
    pub method: &'a str,
    /// The path with its query, or a whole URL.
    pub target: &'a str,
    /// `Host`, or `:authority`.
    pub authority: &'a str,
    /// More headers.
    pub headers: &'a [(&'a str, &'a str)],
    /// The body.
    pub body: &'a str,
}

/// Asks the proxy for a tunnel.
pub async fn connect(proxy: SocketAddr, authority: &str) -> Result<TcpStream, Reply> {
    connect_with(proxy, authority, &[]).await
}

/// Asks the proxy for a tunnel, with headers.
pub async fn connect_with(
    proxy: SocketAddr,
    authority: &str,
    headers: &[(&str, &str)],
) -> Result<TcpStream, Reply> {
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let head = read_head(&mut stream).await;
    let reply = parse_head(&head);
    if reply.status == 200 {
        return Ok(stream);
    }
    let mut body = Vec::new();
    let _closed = stream.read_to_end(&mut body).await;
    Err(Reply { body: String::from_utf8_lossy(&body).into_owned(), ..reply })
}

/// Sends a request in the clear to the proxy; the target is a whole URL.
pub async fn in_the_clear(proxy: SocketAddr, ask: Ask<'_>) -> Reply {
    let stream = TcpStream::connect(proxy).await.unwrap();
    http1(stream, ask).await.unwrap()
}

/// `GET` of a whole URL in the clear.
pub async fn get(proxy: SocketAddr, url: &str) -> Reply {
    let authority = url.trim_start_matches("http://").split('/').next().unwrap_or_default();
    in_the_clear(proxy, Ask { target: url, authority, ..Ask::get("/") }).await
}

/// The status of a `GET`; none if nobody answers.
pub async fn get_status(address: SocketAddr, path: &str) -> Option<u16> {
    let stream = TcpStream::connect(address).await.ok()?;
    http1(stream, Ask::get(path).at("status")).await.ok().map(|reply| reply.status)
}

/// Sends bytes as they are, and reads until the end or until nothing comes for a second.
pub async fn raw(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    read_until_quiet(&mut stream).await
}

/// Reads until the end or until nothing comes for a second.
pub async fn read_until_quiet(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut all = Vec::new();
    let mut buffer = [0; 16_384];
    while let Ok(Ok(count @ 1..)) =
        tokio::time::timeout(std::time::Duration::from_secs(1), stream.read(&mut buffer)).await
    {
        all.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8_lossy(&all).into_owned()
}

/// How a client does TLS.
#[derive(Clone, Debug)]
pub struct Tls {
    /// The server name that it sends; none sends none.
    pub server_name: Option<String>,
    /// What it trusts; nothing means everything.
    pub roots: Vec<CertificateDer<'static>>,
    /// The protocols that it offers.
    pub protocols: Vec<&'static str>,
    /// Its own certificate.
    pub identity: Option<Arc<Identity>>,
    /// The only version that it speaks, if it is one.
    pub version: Option<&'static SupportedProtocolVersion>,
}

impl Tls {
    /// Trusts `roots`, asks for `name`, offers HTTP/2 and HTTP/1.1.
    pub fn new(name: &str, roots: Vec<CertificateDer<'static>>) -> Self {
        Self {
            server_name: Some(name.to_owned()),
            roots,
            protocols: vec!["h2", "http/1.1"],
            identity: None,
            version: None,
        }
    }

    /// Shows this certificate.
    pub fn identity(self, identity: Identity) -> Self {
        Self { identity: Some(Arc::new(identity)), ..self }
    }

    /// Speaks this version alone.
    pub fn version(self, version: &'static SupportedProtocolVersion) -> Self {
        Self { version: Some(version), ..self }
    }

    /// Sends no server name.
    pub fn no_server_name(self) -> Self {
        Self { server_name: None, ..self }
    }

    /// Offers HTTP/1.1 alone.
    pub fn http1(self) -> Self {
        Self { protocols: vec!["http/1.1"], ..self }
    }

    /// The handshake.
    pub async fn handshake<S>(&self, stream: S) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
        let builder = match self.version {
            Some(version) => builder.with_protocol_versions(&[version]).unwrap(),
            None => builder.with_safe_default_protocol_versions().unwrap(),
        };
        let builder = if self.roots.is_empty() {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(TrustEverything(provider)))
        } else {
            let mut roots = rustls::RootCertStore::empty();
            for root in &self.roots {
                roots.add(root.clone()).unwrap();
            }
            builder.with_root_certificates(roots)
        };
        let mut configuration = match &self.identity {
            Some(identity) => builder.with_client_auth_cert(identity.chain(), identity.key()).unwrap(),
            None => builder.with_no_client_auth(),
        };
        configuration.alpn_protocols =
            self.protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        configuration.enable_sni = self.server_name.is_some();
        let name = self.server_name.clone().unwrap_or_else(|| "no.sni".to_owned());
        let name = ServerName::try_from(name).map_err(io::Error::other)?;
        TlsConnector::from(Arc::new(configuration)).connect(name, stream).await
    }
}

/// A CONNECT, a handshake and one request: the reply, and the certificate that the client saw.
pub async fn https(
    proxy: SocketAddr,
    host: &str,
    tls: &Tls,
    ask: Ask<'_>,
) -> io::Result<(Reply, CertificateDer<'static>)> {
    let stream = connect(proxy, &format!("{host}:443"))
        .await
        .map_err(|reply| io::Error::other(format!("CONNECT refused: {} {}", reply.status, reply.body)))?;
    let stream = tls.handshake(stream).await?;
    let seen = peer(&stream);
    Ok((over_tls(stream, ask).await?, seen))
}

/// The certificate that the peer showed.
pub fn peer<S>(stream: &TlsStream<S>) -> CertificateDer<'static> {
    let (_, session) = stream.get_ref();
    session.peer_certificates().unwrap().first().unwrap().clone().into_owned()
}

/// One request over TLS, in the protocol that was negotiated.
pub async fn over_tls<S>(stream: TlsStream<S>, ask: Ask<'_>) -> io::Result<Reply>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (_, session) = stream.get_ref();
    if session.alpn_protocol() == Some(b"h2") { http2(stream, ask).await } else { http1(stream, ask).await }
}

/// One request in HTTP/1.1.
pub async fn http1<S>(stream: S, ask: Ask<'_>) -> io::Result<Reply>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    tokio::spawn(connection);
    let request = ask.build(ask.target, true);
    read(sender.send_request(request).await.map_err(io::Error::other)?).await
}

/// One request in HTTP/2.
pub async fn http2<S>(stream: S, ask: Ask<'_>) -> io::Result<Reply>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
    tokio::spawn(connection);
    let target = format!("https://{}{}", ask.authority, ask.target);
    let request = ask.build(&target, false);
    read(sender.send_request(request).await.map_err(io::Error::other)?).await
}

impl<'a> Ask<'a> {
    /// `GET` of a path.
    pub fn get(target: &'a str) -> Self {
        Self { method: "GET", target, authority: "", headers: &[], body: "" }
    }

    /// `POST` to a path.
    pub fn post(target: &'a str) -> Self {
        Self { method: "POST", body: "x=1", ..Self::get(target) }
    }

    /// With this `Host` or `:authority`.
    pub fn at(self, authority: &'a str) -> Self {
        Self { authority, ..self }
    }

    /// With these headers.
    pub fn with(self, headers: &'a [(&'a str, &'a str)]) -> Self {
        Self { headers, ..self }
    }

    fn build(&self, target: &str, host: bool) -> Request<Full<Bytes>> {
        let mut request = Request::builder().method(self.method).uri(target);
        if host {
            request = request.header("host", self.authority);
        }
        for (name, value) in self.headers {
            request = request.header(*name, *value);
        }
        request.body(Full::new(Bytes::from(self.body.to_owned()))).unwrap()
    }
}

impl Reply {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The body, as JSON; null if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }

    /// The stable reason of a refusal.
    pub fn reason(&self) -> Option<String> {
        self.json().get("reason").and_then(Value::as_str).map(str::to_owned)
    }
}

async fn read(response: hyper::Response<hyper::body::Incoming>) -> io::Result<Reply> {
    let (head, body) = response.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    Ok(Reply {
        status: head.status.as_u16(),
        headers: head.headers,
        body: String::from_utf8_lossy(&body).into_owned(),
    })
}

async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match stream.read(&mut byte).await {
            Ok(1) => head.push(byte[0]),
            _ => break,
        }
    }
    String::from_utf8_lossy(&head).into_owned()
}

fn parse_head(head: &str) -> Reply {
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|status| status.parse().ok());
    let mut headers = HeaderMap::new();
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        let name: hyper::header::HeaderName = name.parse().unwrap();
        headers.append(name, value.parse().unwrap());
    }
    Reply { status: status.unwrap_or(0), headers, body: String::new() }
}

/// For looking at certificates that nobody should trust.
#[derive(Debug)]
struct TrustEverything(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustEverything {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
