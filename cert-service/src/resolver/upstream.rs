//! Asks the name servers: over UDP, and over TCP what does not fit.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_proto::ProtoError;
use hickory_proto::op::{Edns, Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::Name;
use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::{error::Elapsed, timeout};

use super::Timeouts;
use super::lookup::{self, Family, Lookup, Said};

/// The largest message over UDP that no network fragments.
pub const SAFE_PAYLOAD: u16 = 1232;

/// Sockets open at once; half of what the process may have, if that is less: the others are for Envoy.
const MOST_SOCKETS: usize = 2048;

/// Questions to follow one chain of aliases.
const MOST_QUESTIONS: usize = 6;

/// How often all name servers are tried.
const ROUNDS: u32 = 2;

/// The name servers.
pub struct Upstreams {
    timeouts: Timeouts,
    sockets: Semaphore,
    /// The one that answered last: a dead first one does not slow every name down.
    preferred: AtomicUsize,
}

/// Why a name server did not answer.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("no answer in time")]
    Silent(#[from] Elapsed),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("no DNS message: {0}")]
    Message(#[from] ProtoError),
    #[error("an answer to another question")]
    OtherQuestion,
    #[error("the server answered {0}")]
    Code(ResponseCode),
}

impl Upstreams {
    /// Servers that may take this long.
    pub fn new(timeouts: Timeouts) -> Upstreams {
        Upstreams { timeouts, sockets: Semaphore::new(most_sockets()), preferred: AtomicUsize::new(0) }
    }

    /// Finds out all about one family of a name; fails in time.
    pub async fn look_up(&self, servers: &[SocketAddr], name: &Name, family: Family) -> Lookup {
        timeout(self.timeouts.total, self.follow(servers, name, family))
            .await
            .unwrap_or_else(|_| Lookup::failed())
    }

    async fn follow(&self, servers: &[SocketAddr], name: &Name, family: Family) -> Lookup {
        let mut aliases: Vec<lookup::Alias> = Vec::new();
        for _ in 0..MOST_QUESTIONS {
            let owner = aliases.last().map_or(name, lookup::Alias::target).clone();
            let Some(message) = self.ask(servers, &owner, family).await else { break };
            match lookup::read(&owner, family, &message, aliases) {
                Said::Complete(lookup) => return *lookup,
                Said::Aliases(longer) => aliases = longer,
            }
        }
        Lookup::failed()
    }

    /// The first usable answer of any server.
    async fn ask(&self, servers: &[SocketAddr], name: &Name, family: Family) -> Option<Message> {
        let first = self.preferred.load(Ordering::Relaxed);
        for round in 1..=ROUNDS {
            // A server that needs longer than the first time allows may have the answer by now, or nearly.
            let attempt = self.timeouts.attempt.saturating_mul(round);
            let mut silent = false;
            for index in (0..servers.len()).map(|index| (first + index) % servers.len()) {
                let server = *servers.get(index)?;
                // A semaphore that is never closed.
                let _socket = self.sockets.acquire().await.ok()?;
                match exchange(server, name, family, attempt).await {
                    Ok(message) => {
                        self.preferred.store(index, Ordering::Relaxed);
                        return Some(message);
                    }
                    Err(AskError::Code(_)) => {}
                    Err(_) => silent = true,
                }
            }
            // What a server says it will say again.
            if !silent {
                break;
            }
        }
        None
    }
}

fn most_sockets() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.and_then(|files| usize::try_from(files / 2).ok()).unwrap_or(MOST_SOCKETS).clamp(1, MOST_SOCKETS)
}

async fn exchange(
    server: SocketAddr,
    name: &Name,
    family: Family,
    attempt: Duration,
) -> Result<Message, AskError> {
    let mut question = Message::query();
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(name.clone(), family.record_type()));
    let mut edns = Edns::new();
    edns.set_max_payload(SAFE_PAYLOAD);
    question.set_edns(edns);
    let answer = match exchange_message(server, &question, attempt).await {
        // Servers from before EDNS.
        Ok(answer)
            if matches!(answer.metadata.response_code, ResponseCode::FormErr | ResponseCode::NotImp) =>
        {
            question.edns = None;
            exchange_message(server, &question, attempt).await?
        }
        answer => answer?,
    };
    match answer.metadata.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain => Ok(answer),
        code => Err(AskError::Code(code)),
    }
}

async fn exchange_message(
    server: SocketAddr,
    question: &Message,
    attempt: Duration,
) -> Result<Message, AskError> {
    let bytes = question.to_vec()?;
    match timeout(attempt, over_udp(server, question, &bytes)).await?? {
        Some(answer) => Ok(answer),
        None => timeout(attempt.saturating_mul(2), over_tcp(server, question, &bytes)).await?,
    }
}

/// `None`: the answer does not fit.
async fn over_udp(server: SocketAddr, question: &Message, bytes: &[u8]) -> Result<Option<Message>, AskError> {
    let unspecified =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    // A fresh socket has a fresh port, and a connected one hears nobody else.
    let socket = UdpSocket::bind(SocketAddr::new(unspecified, 0)).await?;
    socket.connect(server).await?;
    socket.send(bytes).await?;
    // Not in the future itself, of which there may be thousands.
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let received = buffer.get(..length).unwrap_or_default();
        if is_truncated_answer(received, question.metadata.id) {
            return Ok(None);
        }
        // What does not answer our question may be forged: the right answer may still come.
        if let Ok(answer) = Message::from_vec(received)
            && answers(&answer, question)
        {
            return Ok(Some(answer));
        }
    }
}

async fn over_tcp(server: SocketAddr, question: &Message, bytes: &[u8]) -> Result<Message, AskError> {
    let mut stream = TcpStream::connect(server).await?;
    write_framed(&mut stream, bytes).await?;
    let length = stream.read_u16().await?;
    let mut received = vec![0; length.into()];
    stream.read_exact(&mut received).await?;
    let answer = Message::from_vec(&received).map_err(ProtoError::from)?;
    if answers(&answer, question) { Ok(answer) } else { Err(AskError::OtherQuestion) }
}

/// Writes a message as DNS over TCP has it: with its length in front.
pub async fn write_framed(stream: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(message);
    stream.write_all(&framed).await
}

/// Read from the header alone: the records of such a message may end anywhere.
fn is_truncated_answer(message: &[u8], id: u16) -> bool {
    const ANSWER: u8 = 0x80;
    const TRUNCATED: u8 = 0x02;
    matches!(message, [high, low, flags, ..]
        if u16::from_be_bytes([*high, *low]) == id && flags & (ANSWER | TRUNCATED) == ANSWER | TRUNCATED)
}

fn answers(answer: &Message, question: &Message) -> bool {
    answer.metadata.id == question.metadata.id
        && answer.metadata.message_type == MessageType::Response
        && answer.metadata.op_code == question.metadata.op_code
        // Some servers leave the question out of an error.
        && (answer.queries == question.queries
            || (answer.queries.is_empty() && answer.metadata.response_code != ResponseCode::NoError))
}
