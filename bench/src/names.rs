//! A name server for any number of names, all of which are this machine.

use std::net::{SocketAddr, UdpSocket};
use std::thread;

/// Starts one on loopback, over UDP, for as long as this process lives: each name's only address is 127.0.0.1.
pub fn start() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut query) {
            socket.send_to(&answer(&query[..length]), from).unwrap();
        }
    });
    address
}

/// RFC 1035, section 4.1: the question as it came, and a record if it asks for an IPv4 address.
fn answer(query: &[u8]) -> Vec<u8> {
    const HEADER: usize = 12;
    let name = query[HEADER..].iter().position(|&byte| byte == 0).unwrap() + 1;
    let question = &query[HEADER..HEADER + name + 4];
    let asks_for_ipv4 = question[name..] == [0, 1, 0, 1];
    let mut answer = query[..2].to_vec();
    answer.extend([0x81, 0x80, 0, 1, 0, u8::from(asks_for_ipv4), 0, 0, 0, 0]);
    answer.extend(question);
    if asks_for_ipv4 {
        // The name of the question, A, IN, an hour, four bytes.
        answer.extend([0xC0, 0x0C, 0, 1, 0, 1, 0, 0, 0x0E, 0x10, 0, 4, 127, 0, 0, 1]);
    }
    answer
}
