//! One request and its answer over a connection that is kept.

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::floor::Header;

/// A small client's request.
pub fn request(target: &str, authority: &str, headers: &[Header]) -> Vec<u8> {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!(
        "GET {target} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: bench/1\r\nAccept: */*\r\n\
         Accept-Encoding: gzip\r\n{headers}\r\n"
    )
    .into_bytes()
}

/// Asks, and reads the whole answer; its status.
pub async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin + ?Sized), request: &[u8]) -> u16 {
    stream.write_all(request).await.unwrap();
    stream.flush().await.unwrap();
    let mut answer = Vec::with_capacity(4096);
    let head = loop {
        let read = stream.read_buf(&mut answer).await.unwrap();
        assert!(read > 0, "the connection ended: {}", String::from_utf8_lossy(&answer));
        if let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let text = std::str::from_utf8(&answer[..head]).unwrap();
    let status = text.split(' ').nth(1).unwrap().parse().unwrap();
    let body: usize = text
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok())
        .unwrap_or(0);
    while answer.len() < head + body {
        assert!(stream.read_buf(&mut answer).await.unwrap() > 0, "the connection ended within a body");
    }
    status
}
