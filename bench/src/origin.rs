//! Origins that answer every request with a kilobyte.

use std::sync::Arc;

use outgate_tests::certificates::Identity;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// Whether an origin keeps a connection after an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum After {
    /// For more requests.
    Keep,
    /// So that each request needs a handshake of its own.
    Close,
}

/// Starts one over TLS, or in the clear; its port.
pub async fn start(identity: Option<&Identity>, after: After) -> u16 {
    let acceptor = identity.map(|identity| {
        let mut configuration = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(identity.chain(), identity.key())
            .unwrap();
        configuration.alpn_protocols = vec![b"http/1.1".to_vec()];
        TlsAcceptor::from(Arc::new(configuration))
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _sooner = stream.set_nodelay(true);
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                match acceptor {
                    None => serve(stream, after).await,
                    Some(acceptor) => {
                        if let Ok(stream) = acceptor.accept(stream).await {
                            serve(stream, after).await;
                        }
                    }
                }
            });
        }
    });
    port
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, after: After) {
    let connection = if after == After::Close { "close" } else { "keep-alive" };
    let answer = format!(
        "HTTP/1.1 200 OK\r\ndate: Mon, 23 Nov 2026 12:00:00 GMT\r\nserver: origin\r\ncontent-type: text/plain\r\n\
         cache-control: no-cache\r\nconnection: {connection}\r\ncontent-length: 1024\r\n\r\n{}",
        "x".repeat(1024)
    );
    let mut request = Vec::new();
    while let Ok(1..) = stream.read_buf(&mut request).await {
        if !request.ends_with(b"\r\n\r\n") {
            continue;
        }
        request.clear();
        if stream.write_all(answer.as_bytes()).await.is_err() || after == After::Close {
            break;
        }
    }
    let _client_gone = stream.shutdown().await;
}
