//! Kept-alive clients that ask again and again.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Connections of one client, kept alive.
pub struct Clients {
    streams: Vec<TcpStream>,
    address: SocketAddr,
}

impl Clients {
    /// Opens connections.
    pub fn open(address: SocketAddr, count: usize) -> Self {
        Self { streams: (0..count).map(|_| connect(address)).collect(), address }
    }

    /// Asks on every connection at once, again and again until this time is over, at least once. All must be answered
    /// with this status; how many were.
    pub fn ask(&mut self, request: &[u8], status: u16, time: Duration) -> u64 {
        let deadline = Instant::now() + time;
        let mut count = 0;
        loop {
            for stream in &mut self.streams {
                stream.write_all(request).unwrap();
            }
            for stream in &mut self.streams {
                assert_eq!(answer(stream), status, "{}", String::from_utf8_lossy(request));
                count += 1;
            }
            if Instant::now() >= deadline {
                return count;
            }
        }
    }

    /// Asks once, on a connection of its own.
    pub fn expect(&self, request: &[u8], status: u16) {
        let mut stream = connect(self.address);
        stream.write_all(request).unwrap();
        assert_eq!(answer(&mut stream), status, "{}", String::from_utf8_lossy(request));
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

/// Reads an answer and its body; its status.
fn answer(stream: &mut TcpStream) -> u16 {
    let mut bytes = [0; 8192];
    let mut length = 0;
    let head = loop {
        let read = stream.read(&mut bytes[length..]).expect("an answer comes within half a minute");
        assert!(read > 0, "the connection ended: {}", String::from_utf8_lossy(&bytes[..length]));
        length += read;
        if let Some(end) = bytes[..length].windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let text = std::str::from_utf8(&bytes[..head]).unwrap();
    let status = text.split(' ').nth(1).unwrap().parse().unwrap();
    let body = text
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok())
        .unwrap_or(0);
    while length < head + body {
        let read = stream.read(&mut bytes[length..]).unwrap();
        assert!(read > 0, "the connection ended within a body");
        length += read;
    }
    status
}
