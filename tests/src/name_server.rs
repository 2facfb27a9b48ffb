//! A name server for tests, with a zone in plain lines.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use hickory_proto::op::{Message, Metadata, ResponseCode};
use hickory_proto::rr::rdata::{CNAME, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

/// It serves until it is dropped.
pub struct NameServer {
    /// Where, over UDP and TCP.
    pub address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    _tasks: JoinSet<()>,
}

#[derive(Default)]
struct Zone {
    text: String,
    asked: Vec<(String, RecordType)>,
    over_tcp: usize,
}

/// Over which socket it was asked.
#[derive(Clone, Copy, PartialEq)]
enum Over {
    Udp,
    Tcp,
}

impl NameServer {
    /// Each line is a name, or `*.` and what names end in, a TTL, and a type with its value:
    /// `a.test. 60 A 192.0.2.1`; or a name and what
    /// happens to questions for it: `silent` (for one type, `silent AAAA`), `truncated`, `old` (refuses EDNS),
    /// `forged` (a wrong answer comes first), `code N`, `partial` (aliases are not followed).
    pub async fn start(zone: &str) -> NameServer {
        let (udp, tcp) = sockets().await;
        let address = udp.local_addr().unwrap();
        let zone = Arc::new(Mutex::new(Zone { text: zone.to_owned(), ..Zone::default() }));
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_udp(udp, zone.clone()));
        tasks.spawn(serve_tcp(tcp, zone.clone()));
        NameServer { address, zone, _tasks: tasks }
    }

    /// Changes what it says.
    pub fn set(&self, zone: &str) {
        self.zone.lock().unwrap().text = zone.to_owned();
    }

    /// How often it was asked for one type of a name.
    pub fn asked(&self, name: &str, record_type: RecordType) -> usize {
        self.zone
            .lock()
            .unwrap()
            .asked
            .iter()
            .filter(|asked| asked.0 == name && asked.1 == record_type)
            .count()
    }

    /// How often it was asked over TCP.
    pub fn over_tcp(&self) -> usize {
        self.zone.lock().unwrap().over_tcp
    }
}

/// Two of the same port.
async fn sockets() -> (UdpSocket, TcpListener) {
    loop {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
            return (udp, tcp);
        }
    }
}

async fn serve_udp(socket: UdpSocket, zone: Arc<Mutex<Zone>>) {
    let mut buffer = [0; 4096];
    loop {
        let (length, asker) = socket.recv_from(&mut buffer).await.unwrap();
        let answers = zone.lock().unwrap().answer(&buffer[..length], Over::Udp);
        for answer in answers {
            socket.send_to(&answer, asker).await.unwrap();
        }
    }
}

async fn serve_tcp(listener: TcpListener, zone: Arc<Mutex<Zone>>) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let length = stream.read_u16().await.unwrap();
        let mut question = vec![0; length.into()];
        stream.read_exact(&mut question).await.unwrap();
        let answers = zone.lock().unwrap().answer(&question, Over::Tcp);
        for answer in answers {
            stream.write_u16(answer.len().try_into().unwrap()).await.unwrap();
            stream.write_all(&answer).await.unwrap();
        }
    }
}

impl Zone {
    fn answer(&mut self, question: &[u8], over: Over) -> Vec<Vec<u8>> {
        let question = Message::from_vec(question).unwrap();
        let query = question.queries.first().unwrap();
        let name = query.name.to_ascii();
        self.asked.push((name.clone(), query.query_type));
        self.over_tcp += usize::from(over == Over::Tcp);
        let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
        answer.metadata = Metadata::response_from_request(&question.metadata);
        answer.add_query(query.clone());
        let does = |action: &str| self.lines().any(|line| line == [name.as_str(), action]);
        let silent = ["silent", query.query_type.into()];
        if does("silent") || self.lines().any(|line| line == [name.as_str(), silent[0], silent[1]]) {
            return Vec::new();
        }
        if does("truncated") && over == Over::Udp {
            answer.metadata.truncation = true;
            return vec![answer.to_vec().unwrap()];
        }
        if does("old") && question.edns.is_some() {
            answer.metadata.response_code = ResponseCode::FormErr;
            return vec![answer.to_vec().unwrap()];
        }
        if let Some(code) = self.lines().find(|line| line.len() == 3 && line[0] == name && line[1] == "code")
        {
            answer.metadata.response_code = ResponseCode::from(0, code[2].parse().unwrap());
            return vec![answer.to_vec().unwrap()];
        }
        let mut owner = query.name.clone();
        loop {
            let records: Vec<Record> = self.records(&owner).collect();
            let matching = |record: &&Record| record.record_type() == query.query_type;
            answer.add_answers(records.iter().filter(matching).cloned());
            let alias = records.iter().find_map(|record| match &record.data {
                RData::CNAME(CNAME(target)) => Some((record, target)),
                _ => None,
            });
            if let Some((record, target)) = alias {
                answer.add_answer(record.clone());
                owner = target.clone();
                if !does("partial") && answer.answers.len() < 50 {
                    continue;
                }
            } else if !records.iter().any(|record| matching(&record)) {
                let zone = Name::from_ascii("test.").unwrap();
                let soa = SOA::new(zone.clone(), zone.clone(), 1, 2, 3, 4, 30);
                answer.add_authority(Record::from_rdata(zone, 60, RData::SOA(soa)));
                if records.is_empty() {
                    answer.metadata.response_code = ResponseCode::NXDomain;
                }
            }
            break;
        }
        let mut answers = vec![answer.to_vec().unwrap()];
        if does("forged") && over == Over::Udp {
            let mut forged = answer.clone();
            forged.metadata.id ^= 1;
            let mut other = answer.clone();
            other.queries[0].name = Name::from_ascii("other.test.").unwrap();
            for wrong in [forged.to_vec().unwrap(), other.to_vec().unwrap(), b"noise".to_vec(), Vec::new()] {
                answers.insert(0, wrong);
            }
        }
        answers
    }

    fn lines(&self) -> impl Iterator<Item = Vec<&str>> {
        self.text.lines().map(|line| line.split_whitespace().collect())
    }

    fn records(&self, owner: &Name) -> impl Iterator<Item = Record> {
        let names = |line: &[&str]| match line[0].strip_prefix("*.") {
            Some(parent) => {
                let parent = Name::from_ascii(parent).unwrap();
                parent.zone_of(owner) && parent != *owner
            }
            None => Name::from_ascii(line[0]).unwrap() == *owner,
        };
        self.lines().filter(move |line| line.len() == 4 && names(line)).map(|line| {
            let data = RData::try_from_str(line[2].parse().unwrap(), line[3]).unwrap();
            Record::from_rdata(owner.clone(), line[1].parse().unwrap(), data)
        })
    }
}
