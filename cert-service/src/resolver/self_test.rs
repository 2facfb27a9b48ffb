//! Asks the resolver itself, through its sockets, whether it refuses what it must.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use outgate_policy::address::Cidr;
use tokio::net::UdpSocket;
use tokio::time::timeout;

/// Leads to a public address and a private one.
const REFUSED: &str = "refused.self-test.outgate.invalid.";

/// Leads to the public address alone.
const ANSWERED: &str = "answered.self-test.outgate.invalid.";

/// For documentation; nothing is there, and no range that is refused holds it.
const PUBLIC: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// One of them is not allowed, or nothing is refused at all.
const PRIVATE: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)),
    IpAddr::V4(Ipv4Addr::UNSPECIFIED),
];

/// A datagram may be lost when very many names are asked for at once.
const ATTEMPTS: usize = 3;

/// The addresses of a name that is there for the test.
pub fn addresses(name: &Name, allowed: &[Cidr]) -> Option<Vec<IpAddr>> {
    let is = |known: &str| Name::from_ascii(known).is_ok_and(|known| known == *name);
    if is(REFUSED) {
        return Some([PUBLIC].into_iter().chain(private(allowed)).collect());
    }
    is(ANSWERED).then(|| vec![PUBLIC])
}

/// Whether a refused address is refused, and no other.
pub async fn passes(resolver: SocketAddr, allowed: &[Cidr]) -> bool {
    let refused = private(allowed).map_or(ResponseCode::NoError, |_| ResponseCode::Refused);
    ask(resolver, REFUSED).await == Some(refused)
        && ask(resolver, ANSWERED).await == Some(ResponseCode::NoError)
}

fn private(allowed: &[Cidr]) -> Option<IpAddr> {
    PRIVATE.into_iter().find(|ip| !allowed.iter().any(|range| range.contains(*ip)))
}

async fn ask(resolver: SocketAddr, name: &str) -> Option<ResponseCode> {
    for _ in 0..ATTEMPTS {
        if let Ok(Some(code)) = timeout(Duration::from_secs(1), ask_once(resolver, name)).await {
            return Some(code);
        }
    }
    None
}

async fn ask_once(resolver: SocketAddr, name: &str) -> Option<ResponseCode> {
    let socket = UdpSocket::bind(SocketAddr::new(resolver.ip(), 0)).await.ok()?;
    socket.connect(resolver).await.ok()?;
    let mut question = Message::query();
    question.add_query(Query::query(Name::from_ascii(name).ok()?, RecordType::A));
    socket.send(&question.to_vec().ok()?).await.ok()?;
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer).await.ok()?;
    let answer = Message::from_vec(buffer.get(..length)?).ok()?;
    let code = answer.metadata.response_code;
    // A refusal names nothing.
    (answer.metadata.id == question.metadata.id
        && answer.answers.is_empty() == (code != ResponseCode::NoError))
        .then_some(code)
}
