//! The sockets that Envoy asks: UDP and TCP on one port.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use super::State;
use super::question::Transport;
use super::upstream::write_framed;

/// Questions that are worked on at once; beyond it they go unanswered, and Envoy asks again.
const MOST_QUESTIONS: usize = 8192;

/// TCP connections open at once.
const MOST_CONNECTIONS: usize = 64;

/// How long a connection may say nothing.
const IDLE: Duration = Duration::from_secs(10);

/// Answers that wait for a connection to take them.
const MOST_WAITING_ANSWERS: usize = 16;

/// After a failure of the system.
const PAUSE: Duration = Duration::from_millis(50);

/// A question is one name and a few options.
const LONGEST_QUESTION: usize = 1024;

/// How often another port is tried when any will do.
const PORT_ATTEMPTS: usize = 16;

/// The two sockets.
pub struct Sockets {
    /// For questions that fit.
    pub udp: Arc<UdpSocket>,
    /// For the others.
    pub tcp: TcpListener,
}

impl Sockets {
    /// Binds both to one address.
    pub async fn bind(address: SocketAddr) -> io::Result<Sockets> {
        let mut attempts = if address.port() == 0 { PORT_ATTEMPTS } else { 1 };
        loop {
            attempts -= 1;
            let tcp = TcpListener::bind(address).await?;
            match UdpSocket::bind(tcp.local_addr()?).await {
                Ok(udp) => return Ok(Sockets { udp: Arc::new(udp), tcp }),
                Err(error) if attempts == 0 => return Err(error),
                Err(_) => {}
            }
        }
    }

    /// Where they listen.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// Answers; never ends.
    pub async fn serve(self, state: Arc<State>) {
        let places = Arc::new(Semaphore::new(MOST_QUESTIONS));
        tokio::join!(serve_udp(self.udp, state.clone(), places.clone()), serve_tcp(self.tcp, state, places));
    }
}

async fn serve_udp(socket: Arc<UdpSocket>, state: Arc<State>, places: Arc<Semaphore>) {
    // One byte more shows what is too long.
    let mut buffer = [0; LONGEST_QUESTION + 1];
    loop {
        let Ok((length, asker)) = socket.recv_from(&mut buffer).await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let Some(question) = buffer.get(..length).filter(|question| question.len() <= LONGEST_QUESTION)
        else {
            continue;
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            state.answers().failed.increment();
            continue;
        };
        let (question, socket, state) = (question.to_vec(), socket.clone(), state.clone());
        tokio::spawn(async move {
            if let Some(answer) = state.respond(&question, Transport::Udp).await {
                // An asker that is gone needs no answer.
                let _ = socket.send_to(&answer, asker).await;
            }
            drop(place);
        });
    }
}

async fn serve_tcp(listener: TcpListener, state: Arc<State>, places: Arc<Semaphore>) {
    let connections = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of file descriptors, most likely: others may close some meanwhile.
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        // Closed at once: Envoy keeps its connections.
        let Ok(connection) = connections.clone().try_acquire_owned() else { continue };
        let (state, places) = (state.clone(), places.clone());
        tokio::spawn(async move {
            // The peer is gone, says nothing, or does not speak DNS.
            let _ = serve_connection(stream, state, places).await;
            drop(connection);
        });
    }
}

/// Questions overtake each other: one that takes long holds up nobody.
async fn serve_connection(stream: TcpStream, state: Arc<State>, places: Arc<Semaphore>) -> io::Result<()> {
    let (mut reader, mut writer) = stream.into_split();
    let (answers, mut answered) = mpsc::channel::<Vec<u8>>(MOST_WAITING_ANSWERS);
    let read = async move {
        // Ends with the peer, or with its silence; what it has asked is still answered.
        while let Ok(Ok(question)) = timeout(IDLE, read_question(&mut reader)).await {
            let place = places.clone().acquire_owned().await.map_err(io::Error::other)?;
            let (state, answers) = (state.clone(), answers.clone());
            tokio::spawn(async move {
                if let Some(answer) = state.respond(&question, Transport::Tcp).await {
                    // A connection that is gone needs no answer.
                    let _ = answers.send(answer).await;
                }
                drop(place);
            });
        }
        Ok(())
    };
    let write = async move {
        while let Some(answer) = answered.recv().await {
            timeout(IDLE, write_framed(&mut writer, &answer)).await??;
        }
        Ok(())
    };
    tokio::try_join!(read, write).map(|_| ())
}

async fn read_question(reader: &mut OwnedReadHalf) -> io::Result<Vec<u8>> {
    let length = usize::from(reader.read_u16().await?);
    if length > LONGEST_QUESTION {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut question = vec![0; length];
    reader.read_exact(&mut question).await?;
    Ok(question)
}
