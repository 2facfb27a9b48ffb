use std::fs;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

use super::lookup::{self, Family, Said};
use super::refusal::Refusal;
use super::upstream::write_framed;
use super::{Resolver, Settings, Timeouts, parse_upstream};
use outgate_policy::address::Cidr;
use outgate_tests::name_server::NameServer;

mod envoy;

/// A resolver, the name server that it asks, and its log.
struct World {
    server: NameServer,
    resolver: Resolver,
    log: Arc<Mutex<Vec<Refusal>>>,
}

fn settings(upstreams: Vec<SocketAddr>) -> Settings {
    Settings {
        listen: "127.0.0.1:0".parse().unwrap(),
        upstreams,
        hosts: "/nowhere".into(),
        resolv_conf: "/nowhere".into(),
        allowed: Vec::new(),
        timeouts: Timeouts {
            attempt: Duration::from_millis(200),
            total: Duration::from_millis(1000),
            sibling: Duration::from_millis(200),
        },
    }
}

async fn world_with(zone: &str, change: impl FnOnce(&mut Settings)) -> World {
    let server = NameServer::start(zone).await;
    let mut settings = settings(vec![server.address]);
    change(&mut settings);
    let log = Arc::<Mutex<Vec<Refusal>>>::default();
    let lines = log.clone();
    let write = move |refusal: &Refusal| lines.lock().unwrap().push(refusal.clone());
    let resolver = Resolver::start(settings, Box::new(write)).await.unwrap();
    World { server, resolver, log }
}

async fn world(zone: &str) -> World {
    world_with(zone, |_| {}).await
}

fn question(name: &str, record_type: RecordType) -> Message {
    let mut question = Message::query();
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(Name::from_ascii(name).unwrap(), record_type));
    question.set_edns(Edns::new());
    question
}

impl World {
    async fn ask(&self, name: &str, record_type: RecordType) -> Message {
        self.exchange(&question(name, record_type)).await
    }

    async fn exchange(&self, question: &Message) -> Message {
        let answer = Message::from_vec(&self.send(&question.to_vec().unwrap()).await.unwrap()).unwrap();
        assert_eq!(answer.metadata.id, question.metadata.id);
        assert_eq!(answer.queries, question.queries);
        assert_eq!(answer.edns.is_some(), question.edns.is_some());
        answer
    }

    async fn send(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(self.resolver.address()).await.unwrap();
        socket.send(bytes).await.unwrap();
        let mut buffer = vec![0; 65535];
        let received = tokio::time::timeout(Duration::from_secs(3), socket.recv(&mut buffer)).await;
        buffer.truncate(received.ok()?.unwrap());
        Some(buffer)
    }

    /// The answer in one line: its code, then `alias`es and addresses.
    async fn says(&self, name: &str, record_type: RecordType) -> String {
        summary(&self.ask(name, record_type).await)
    }

    fn counts(&self) -> [u64; 4] {
        let answers = self.resolver.answers();
        [answers.answered.get(), answers.refused.get(), answers.negative.get(), answers.failed.get()]
    }

    async fn ready(&self) -> bool {
        for _ in 0..50 {
            if self.resolver.is_ready() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        false
    }
}

fn summary(answer: &Message) -> String {
    let mut words = vec![format!("{:?}", answer.metadata.response_code)];
    words.extend(answer.answers.iter().map(|record| match &record.data {
        RData::CNAME(target) => format!("alias {}", target.0),
        other => other.ip_addr().unwrap().to_string(),
    }));
    words.join(" ")
}

const A: RecordType = RecordType::A;
const AAAA: RecordType = RecordType::AAAA;

#[tokio::test]
async fn an_answer_with_a_refused_address_is_refused_as_a_whole() {
    let world = world(
        "public.test. 60 A 192.0.2.1\npublic.test. 60 A 192.0.2.2\npublic.test. 60 AAAA 2001:db8::1\n\
         first.test. 60 A 192.0.2.1\nfirst.test. 60 A 10.0.0.1\n\
         second.test. 60 A 10.0.0.1\nsecond.test. 60 A 192.0.2.1\n\
         private-v6.test. 60 A 192.0.2.1\nprivate-v6.test. 60 AAAA fd00::1\n\
         private-v4.test. 60 AAAA 2001:db8::1\nprivate-v4.test. 60 A 127.0.0.1\n\
         alias.test. 60 CNAME target.test.\ntarget.test. 60 A 192.168.1.1\n\
         chain.test. 60 CNAME chain2.test.\nchain2.test. 60 CNAME chain3.test.\nchain3.test. 60 A 192.0.2.3\n\
         zero.test. 60 A 0.0.0.0\nzero-v6.test. 60 AAAA ::\nloopback-v6.test. 60 AAAA ::1\n\
         mapped.test. 60 AAAA ::ffff:127.0.0.1\nnat64.test. 60 AAAA 64:ff9b::7f00:1\n6to4.test. 60 AAAA 2002:a00:1::\n\
         metadata.test. 60 A 169.254.169.254\nmulticast.test. 60 A 224.0.0.1\nlink.test. 60 AAAA fe80::1\n",
    )
    .await;
    for (name, a, aaaa) in [
        ("public.test.", "NoError 192.0.2.1 192.0.2.2", "NoError 2001:db8::1"),
        ("PUBLIC.test.", "NoError 192.0.2.1 192.0.2.2", "NoError 2001:db8::1"),
        (
            "chain.test.",
            "NoError alias chain2.test. alias chain3.test. 192.0.2.3",
            "NoError alias chain2.test. alias chain3.test.",
        ),
        ("first.test.", "Refused", "Refused"),
        ("second.test.", "Refused", "Refused"),
        ("private-v6.test.", "Refused", "Refused"),
        ("private-v4.test.", "Refused", "Refused"),
        ("alias.test.", "Refused", "Refused"),
        ("zero.test.", "Refused", "Refused"),
        ("zero-v6.test.", "Refused", "Refused"),
        ("loopback-v6.test.", "Refused", "Refused"),
        ("mapped.test.", "Refused", "Refused"),
        ("nat64.test.", "Refused", "Refused"),
        ("6to4.test.", "Refused", "Refused"),
        ("metadata.test.", "Refused", "Refused"),
        ("multicast.test.", "Refused", "Refused"),
        ("link.test.", "Refused", "Refused"),
        ("localhost.", "Refused", "Refused"),
        ("a.LOCALHOST.", "Refused", "Refused"),
    ] {
        assert_eq!(world.says(name, A).await, a, "{name} A");
        assert_eq!(world.says(name, AAAA).await, aaaa, "{name} AAAA");
    }
    assert_eq!(world.counts(), [5, 32, 1, 0]);
    let page = world.resolver.render_metrics();
    assert!(page.contains("\noutgate_dns_answers_total{result=\"refused\"} 32\n"), "{page}");
}

#[tokio::test]
async fn a_refusal_has_one_line_with_a_remedy() {
    let world = world("a.test. 60 A 192.0.2.1\na.test. 60 A 10.0.0.9\n").await;
    for record_type in [A, AAAA, A] {
        assert_eq!(world.says("a.test.", record_type).await, "Refused");
    }
    let lines = serde_json::to_value(&*world.log.lock().unwrap()).unwrap();
    let time = lines[0]["time"].as_str().unwrap();
    let remedy = "list `10.0.0.9/32` or a range around it under `destinations.allowPrivate` if this name may lead there";
    assert_eq!(
        lines,
        serde_json::json!([
            {"time": time, "event": "dns.refused", "name": "a.test", "address": "10.0.0.9", "remedy": remedy}
        ])
    );
}

#[tokio::test]
async fn allowed_ranges_may_change() {
    let world = world("a.test. 60 A 10.1.0.1\na.test. 60 AAAA 64:ff9b::a01:1\nb.test. 60 A 10.1.0.1\nb.test. 60 A 10.2.0.1\n").await;
    assert_eq!(world.says("a.test.", A).await, "Refused");
    world.resolver.set_allowed(vec![Cidr::parse("10.1.0.0/16").unwrap()]);
    assert_eq!(world.says("a.test.", A).await, "NoError 10.1.0.1");
    assert_eq!(world.says("b.test.", A).await, "Refused");
    world.resolver.set_allowed(Vec::new());
    assert_eq!(world.says("a.test.", A).await, "Refused");
    assert_eq!(world.server.asked("a.test.", A), 1, "what is cached is judged again");
}

#[tokio::test]
async fn a_name_that_is_rebound_is_refused_when_its_ttl_ends() {
    let world = world("a.test. 1 A 192.0.2.1\n").await;
    assert_eq!(world.says("a.test.", A).await, "NoError 192.0.2.1");
    world.server.set("a.test. 1 A 127.0.0.1\n");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(world.says("a.test.", A).await, "Refused");
}

#[tokio::test]
async fn ttls_are_kept() {
    let world = world("a.test. 100 CNAME b.test.\nb.test. 50 A 192.0.2.1\nzero.test. 0 A 192.0.2.1\nhuge.test. 4294967295 A 192.0.2.1\n").await;
    let ttls = |answer: Message| answer.answers.iter().map(|record| record.ttl).collect::<Vec<_>>();
    assert_eq!(ttls(world.ask("a.test.", A).await), [100, 50]);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(ttls(world.ask("a.test.", A).await), [99, 49]);
    assert_eq!(world.server.asked("a.test.", A), 1);
    assert_eq!(world.server.asked("a.test.", AAAA), 1);
    for (name, ttl) in [("zero.test.", 0), ("huge.test.", 0)] {
        assert_eq!(ttls(world.ask(name, A).await), [ttl]);
        assert_eq!(ttls(world.ask(name, A).await), [ttl]);
        assert_eq!(world.server.asked(name, A), 2, "{name}: nothing is kept beyond its TTL");
    }
}

#[tokio::test]
async fn negative_answers_are_passed_on() {
    let world = world("v4.test. 60 A 192.0.2.1\nalias.test. 60 CNAME nothing.test.\n").await;
    for (name, record_type, expected) in [
        ("nothing.test.", A, "NXDomain"),
        ("nothing.test.", AAAA, "NXDomain"),
        ("v4.test.", AAAA, "NoError"),
        ("alias.test.", A, "NXDomain alias nothing.test."),
    ] {
        for _ in 0..2 {
            let answer = world.ask(name, record_type).await;
            assert_eq!(summary(&answer), expected, "{name}");
            let [soa] = answer.authorities.as_slice() else { panic!("{name} has no SOA") };
            assert_eq!((soa.record_type(), soa.ttl), (RecordType::SOA, 30), "{name}");
        }
        assert_eq!(world.server.asked(name, record_type), 1, "{name}");
    }
    assert_eq!(world.counts(), [0, 0, 8, 0]);
}

#[tokio::test]
async fn servers_that_fail() {
    let world = world(
        "silent.test. silent\nbroken.test. code 2\nunwilling.test. code 5\nloop.test. 60 CNAME loop2.test.\nloop2.test. 60 CNAME loop.test.\n\
         half.test. 60 A 192.0.2.1\nhalf.test. silent AAAA\nforged.test. 60 A 192.0.2.1\nforged.test. forged\n\
         old.test. 60 A 192.0.2.1\nold.test. old\npartial.test. partial\npartial.test. 60 CNAME end.test.\nend.test. 60 A 192.0.2.4\n",
    )
    .await;
    for (name, expected) in [
        ("silent.test.", "ServFail"),
        ("broken.test.", "ServFail"),
        // REFUSED is ours alone.
        ("unwilling.test.", "ServFail"),
        ("loop.test.", "ServFail"),
        ("half.test.", "NoError 192.0.2.1"),
        ("forged.test.", "NoError 192.0.2.1"),
        ("old.test.", "NoError 192.0.2.1"),
        ("partial.test.", "NoError alias end.test. 192.0.2.4"),
    ] {
        let start = Instant::now();
        assert_eq!(world.says(name, A).await, expected, "{name}");
        assert!(start.elapsed() < Duration::from_millis(1500), "{name}");
    }
    assert_eq!(world.says("half.test.", AAAA).await, "ServFail");
    // A moment later too, without asking again.
    let asked = world.server.asked("broken.test.", A);
    world.says("broken.test.", A).await;
    assert_eq!(world.server.asked("broken.test.", A), asked);
}

#[tokio::test]
async fn another_server_is_asked_when_one_is_silent() {
    let silent = NameServer::start("a.test. silent\nb.test. silent\n").await;
    let world = world_with("a.test. 60 A 192.0.2.1\nb.test. 60 A 192.0.2.2\n", |settings| {
        settings.upstreams.insert(0, silent.address);
    })
    .await;
    assert_eq!(world.says("a.test.", A).await, "NoError 192.0.2.1");
    assert_eq!(world.says("b.test.", A).await, "NoError 192.0.2.2");
    assert_eq!(silent.asked("b.test.", A), 0, "the one that answered is asked first");
}

#[tokio::test]
async fn equal_questions_at_one_time_are_asked_once() {
    let world = world("a.test. 60 A 192.0.2.1\n").await;
    let answers = futures(20, || world.says("a.test.", A)).await;
    assert!(answers.iter().all(|answer| answer == "NoError 192.0.2.1"), "{answers:?}");
    assert_eq!(world.server.asked("a.test.", A), 1);
}

async fn futures<F: Future>(number: usize, make: impl Fn() -> F) -> Vec<F::Output> {
    let mut running: Vec<_> = (0..number).map(|_| Box::pin(make())).collect();
    let mut outputs = Vec::new();
    std::future::poll_fn(|context| {
        running.retain_mut(|future| match future.as_mut().poll(context) {
            std::task::Poll::Ready(output) => {
                outputs.push(output);
                false
            }
            std::task::Poll::Pending => true,
        });
        if running.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    outputs
}

#[tokio::test]
async fn what_does_not_fit_goes_over_tcp_on_both_sides() {
    let many: String = (0..100).map(|number| format!("many.test. 60 A 192.0.2.{number}\n")).collect();
    let world =
        world(&format!("{many}many.test. truncated\nbad.test. truncated\nbad.test. 60 A 10.0.0.1\n")).await;
    let mut asked = question("many.test.", A);
    asked.edns = None;
    let answer = world.exchange(&asked).await;
    assert!(answer.metadata.truncation);
    assert!(answer.answers.is_empty());
    assert!(world.server.over_tcp() > 0);
    // Envoy asks again over TCP; on one connection, with questions that overtake each other.
    let mut stream = TcpStream::connect(world.resolver.address()).await.unwrap();
    let other = question("bad.test.", A);
    for question in [&asked, &other] {
        write_framed(&mut stream, &question.to_vec().unwrap()).await.unwrap();
    }
    for _ in 0..2 {
        let length = stream.read_u16().await.unwrap();
        let mut bytes = vec![0; length.into()];
        stream.read_exact(&mut bytes).await.unwrap();
        let answer = Message::from_vec(&bytes).unwrap();
        if answer.metadata.id == asked.metadata.id {
            assert_eq!(answer.answers.len(), 100);
            assert!(!answer.metadata.truncation);
        } else {
            assert_eq!(summary(&answer), "Refused");
        }
    }
    // With room enough UDP will do.
    let mut roomy = question("many.test.", A);
    roomy.edns.as_mut().unwrap().set_max_payload(4096);
    assert_eq!(world.exchange(&roomy).await.answers.len(), 100);
}

#[tokio::test]
async fn the_hosts_file_counts_and_is_judged() {
    let path = std::env::temp_dir().join(format!("outgate-resolver-hosts-{}", std::process::id()));
    fs::write(&path, "192.0.2.7 listed.test\n10.0.0.5 db.test\n192.0.2.8 both.test\nfd00::1 both.test\n")
        .unwrap();
    let world = world_with("listed.test. 60 A 192.0.2.1\nlisted.test. 60 AAAA 2001:db8::1\n", |settings| {
        settings.hosts = path.clone();
    })
    .await;
    for (name, record_type, expected) in [
        ("listed.test.", A, "NoError 192.0.2.7"),
        ("LISTED.test.", AAAA, "NoError"),
        ("db.test.", A, "Refused"),
        ("both.test.", A, "Refused"),
    ] {
        assert_eq!(world.says(name, record_type).await, expected, "{name}");
    }
    world.resolver.set_allowed(vec![Cidr::parse("10.0.0.5/32").unwrap()]);
    assert_eq!(world.says("db.test.", A).await, "NoError 10.0.0.5");
    fs::write(&path, "192.0.2.9 listed.test\n# changed\n").unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(world.says("listed.test.", A).await, "NoError 192.0.2.9");
    fs::remove_file(&path).unwrap();
}

#[tokio::test]
async fn only_questions_for_addresses_have_answers() {
    let world = world("a.test. 60 A 192.0.2.1\n").await;
    for record_type in
        [RecordType::TXT, RecordType::ANY, RecordType::HTTPS, RecordType::CNAME, RecordType::AXFR]
    {
        assert_eq!(world.says("a.test.", record_type).await, "NoError", "{record_type}");
    }
    let mut other_operation = question("a.test.", A);
    other_operation.metadata.op_code = OpCode::Notify;
    let mut other_class = question("a.test.", A);
    other_class.queries[0].query_class = hickory_proto::rr::DNSClass::CH;
    for question in [other_operation, other_class] {
        let answer = Message::from_vec(&world.send(&question.to_vec().unwrap()).await.unwrap()).unwrap();
        assert_eq!(answer.metadata.response_code, ResponseCode::NotImp);
    }
    let mut two = question("a.test.", A);
    two.add_query(two.queries[0].clone());
    let answer = Message::from_vec(&world.send(&two.to_vec().unwrap()).await.unwrap()).unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::FormErr);
    assert_eq!(world.server.asked("a.test.", A), 0);
}

/// Packets that are random, cut or changed, from a seed.
struct Packets(u64);

impl Packets {
    fn random(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 8).unwrap() % below.max(1)
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.random(256)).unwrap()
    }

    fn next(&mut self, valid: &[u8]) -> Vec<u8> {
        let mut packet = match self.random(4) {
            0 => (0..self.random(600)).map(|_| self.byte()).collect(),
            1 => valid[..self.random(valid.len() + 1)].to_vec(),
            _ => valid.to_vec(),
        };
        for _ in 0..self.random(6) {
            let at = self.random(packet.len());
            let byte = self.byte();
            if let Some(place) = packet.get_mut(at) {
                *place = byte;
            }
        }
        packet
    }
}

#[test]
fn hostile_answers_harm_nothing() {
    let name = Name::from_ascii("a.test.").unwrap();
    let mut answer = question("a.test.", A).into_response();
    for (owner, data) in [
        ("a.test.", RData::try_from_str(RecordType::CNAME, "b.test.").unwrap()),
        ("b.test.", RData::try_from_str(RecordType::CNAME, "c.test.").unwrap()),
        ("c.test.", RData::try_from_str(A, "192.0.2.1").unwrap()),
    ] {
        answer.add_answer(Record::from_rdata(Name::from_ascii(owner).unwrap(), 60, data));
    }
    let valid = answer.to_vec().unwrap();
    let mut packets = Packets(0x9e37_79b9_7f4a_7c15);
    let mut read = 0;
    for _ in 0..100_000 {
        if let Ok(message) = Message::from_vec(&packets.next(&valid))
            && let Said::Complete(lookup) = lookup::read(&name, Family::V4, &message, Vec::new())
        {
            let (answers, _) = lookup.records();
            assert!(answers.len() <= 3);
            read += 1;
        }
    }
    assert!(read > 1000, "{read}");
}

#[tokio::test]
async fn hostile_packets_harm_nothing() {
    let world = world("a.test. 60 A 192.0.2.1\n").await;
    let mut packets = Packets(0x2545_f491_4f6c_dd1d);
    let valid = question("a.test.", A).to_vec().unwrap();
    // Most through the parser, some through the sockets.
    for _ in 0..100_000 {
        super::question::Received::read(&packets.next(&valid));
    }
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for _ in 0..2000 {
        socket.send_to(&packets.next(&valid), world.resolver.address()).await.unwrap();
    }
    socket.send_to(&[0; 9000], world.resolver.address()).await.unwrap();
    for _ in 0..100 {
        let mut stream = TcpStream::connect(world.resolver.address()).await.unwrap();
        // The other side may close at any time.
        let _ = stream.write_all(&packets.next(&valid)).await;
    }
    assert_eq!(world.says("a.test.", A).await, "NoError 192.0.2.1");
    assert!(world.ready().await);
}

#[tokio::test]
async fn connections_are_few_and_do_not_block_udp() {
    let world = world("a.test. 60 A 192.0.2.1\n").await;
    let mut connections = Vec::new();
    for _ in 0..100 {
        connections.push(TcpStream::connect(world.resolver.address()).await.unwrap());
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut closed = 0;
    for stream in &mut connections {
        let ended = tokio::time::timeout(Duration::from_millis(5), stream.read_u8()).await;
        closed += usize::from(ended.is_ok());
    }
    assert_eq!(closed, 36);
    assert_eq!(world.says("a.test.", A).await, "NoError 192.0.2.1");
}

#[tokio::test]
async fn it_is_ready_once_it_has_refused_what_it_must() {
    let range = |text: &str| Cidr::parse(text).unwrap();
    for allowed in [
        vec![],
        vec![range("127.0.0.0/8")],
        vec![range("127.0.0.0/8"), range("169.254.0.0/16"), range("10.0.0.0/8")],
        vec![range("0.0.0.0/0"), range("::/0")],
    ] {
        let world = world_with("", |settings| settings.allowed.clone_from(&allowed)).await;
        assert!(world.ready().await, "{allowed:?}");
        assert_eq!(world.counts(), [0; 4]);
        assert!(world.log.lock().unwrap().is_empty());
    }
}

#[tokio::test]
async fn what_cannot_work_is_refused_at_the_start() {
    let start = |listen: &str, upstreams: &[&str]| {
        let mut settings = settings(upstreams.iter().map(|server| parse_upstream(server).unwrap()).collect());
        settings.listen = listen.parse().unwrap();
        async move { Resolver::start(settings, Box::new(|_| {})).await.err().map(|error| error.to_string()) }
    };
    // Nobody else is there.
    let free = UdpSocket::bind("127.77.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let held = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let held_address = held.local_addr().unwrap().to_string();
    for (listen, upstreams, expected) in [
        ("0.0.0.0:0", &["192.0.2.1"][..], "`0.0.0.0:0` is not a loopback address"),
        (&held_address, &["192.0.2.1"], "cannot listen on"),
        (&free, &[&free], "is the resolver itself"),
    ] {
        let error = start(listen, upstreams).await.unwrap_or_default();
        assert!(error.contains(expected), "{listen}: {error}");
    }
    for (text, expected) in [("192.0.2.1", "192.0.2.1:53"), ("::1", "[::1]:53"), ("[::1]:5353", "[::1]:5353")]
    {
        assert_eq!(parse_upstream(text).unwrap().to_string(), expected);
    }
    assert!(parse_upstream("dns.example").unwrap_err().contains("`dns.example` is not the address"));
}
