//! Three ways to one verdict: the indexed engine, the same engine asked rule by rule, and a reference that shares
//! nothing with either: an ordered walk, written down again from the documentation, over matchers that the `cel`
//! crate interprets. All must name the same rule and the same failures, whatever the policy and the request.
//!
//! `DIFFERENCE_CASES` says how many verdicts are compared (`make fuzz` never stops), `DIFFERENCE_SEED` where the
//! random numbers begin; a failure prints the seed of its policy.

use super::*;
use crate::walk::{Observer, Outcome, Stage, Walk};
use std::collections::HashMap;

use super::random::Random;
use super::reference::{Reference, World};

const HOSTS: [&str; 7] =
    ["a.example", "b.example", "www.a.example", "x.www.a.example", "test", "10.0.0.1", "[2001:db8::1]"];
const PORTS: [u16; 3] = [80, 443, 8443];
const PATHS: [&str; 12] =
    ["/", "/a", "/a/", "/a/b", "/ab", "/b", "/b/c?x=1", "/a//b", "/b/..;x/a", "/a%2Fb", "/%62", "/b;x/c"];
const IPS: [&str; 5] = ["10.0.0.1", "10.1.2.3", "192.0.2.7", "::ffff:10.0.0.1", "2001:db8::1"];
const RANGES: [&str; 7] =
    ["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.0.0.1/32", "10.1.2.3/24", "2001:db8::/32", "::/0"];
const TAGS: [&str; 3] = ["t1", "t2", "t3"];
const METHODS: [&str; 3] = ["GET", "POST", "get"];
const VALUES: [&str; 5] = ["a", "b", "1", "7", ""];
const HEADERS: [&str; 3] = ["team", "n", "user-agent"];
const SANS: [&str; 3] = ["a.example", "b.example", "spiffe://mesh/a"];
pub const LISTS: [(&str, &[&str]); 7] = [
    ("l0", &["a.example"]),
    ("l1", &["*.a.example", "b.example/b/*"]),
    ("l2", &["*a.example/a*", "10.0.0.1"]),
    ("l3", &["a.example/a/b", "a.example/a*", "*b.example/"]),
    ("l4", &["*a.example", "*b.example", "10.0.0.1/b"]),
    ("l5", &["*a.example", "b.example/a*"]),
    ("l6", &["*a.example/b", "*.www.a.example"]),
];

/// Rules and the matchers in them.
struct Rules<'r> {
    random: &'r mut Random,
    /// Whether only our own evaluator knows all the words.
    everything: bool,
}

impl Rules<'_> {
    fn policy(&mut self) -> Value {
        // Often so few words that many rules share them.
        let count = [1, 3, 9, 20, 40][self.random.below(5)];
        let rules: Vec<Value> = (0..count).map(|index| self.rule(index)).collect();
        let random = &mut *self.random;
        let outgate = json!({
            "afterInspection": random.pick(&["strict", "lenient"]),
            "errorsInDeny": random.pick(&["skip", "deny"]),
            "ambiguousPaths": random.pick(&["both", "sent"]),
            "tunnelSni": random.pick(&["ignore", "ignore", "verify"]),
        });
        let mut policy = policy(Value::Array(rules), outgate);
        policy["urlLists"] =
            LISTS.iter().map(|(name, values)| json!({"name": name, "values": values})).collect();
        policy
    }

    fn rule(&mut self, index: usize) -> Value {
        let (application, inspects) =
            [(false, false), (false, false), (true, false), (true, true), (false, true)]
                [self.random.below(5)];
        let mut rule = json!({
            "priority": index,
            "basicProfile": self.random.pick(&["ALLOW", "DENY"]),
            "sessionMatcher": self.matcher(false, inspects || !application),
            "tlsInspectionEnabled": inspects,
        });
        if application {
            rule["applicationMatcher"] = self.matcher(true, inspects).into();
        }
        if self.random.below(20) == 0 {
            rule["shadow"] = true.into();
        }
        rule
    }

    fn matcher(&mut self, request: bool, tls: bool) -> String {
        let depth = [0, 1, 1, 2, 2, 3][self.random.below(6)];
        self.condition(depth, request, tls)
    }

    fn condition(&mut self, depth: usize, request: bool, tls: bool) -> String {
        if depth == 0 {
            return self.atom(request, tls);
        }
        let mut part = || self.condition(depth - 1, request, tls);
        match [(); 8].map(|()| part()) {
            [a, b, c, d, e, f, ..] => match self.random.below(14) {
                0..=8 => format!("({a} && {b})"),
                9 => format!("({a} || {b})"),
                10 => format!("!({a})"),
                11 => format!("({a} ? {b} : {c})"),
                12 => format!("({a} || {b} || {c} || {d} && {e})"),
                _ => format!("(({a}) == ({f}))"),
            },
        }
    }

    fn list(&mut self, words: &[&str]) -> String {
        let count = 1 + self.random.below(3);
        let words: Vec<_> = (0..count).map(|_| format!("'{}'", self.random.pick(words))).collect();
        format!("[{}]", words.join(", "))
    }

    fn atom(&mut self, request: bool, tls: bool) -> String {
        let host = self.random.pick(&HOSTS);
        let path = self.random.pick(&["/", "/a", "/a/b", "/b", "/b/", "", "b", "/ab"]);
        let value = self.random.pick(&VALUES);
        let header = self.random.pick(&HEADERS);
        let choices = if request { 34 } else { 18 };
        match self.random.below(choices) {
            0 => "true".to_owned(),
            1 => self.random.pick(&["false", "1 / 0 == 1", "int(host()) == 1"]).to_owned(),
            2 => format!("host() == '{host}'"),
            3 => format!("'{host}' == host()"),
            4 => format!("host() != '{host}'"),
            5 => format!("host() in {}", self.list(&HOSTS)),
            6 => format!(
                "host().endsWith('{}')",
                self.random.pick(&["a.example", ".a.example", ".example", ""])
            ),
            7 => {
                format!("host().startsWith('{}')", self.random.pick(&["www.", "10.", "", "a.example", "[2"]))
            }
            8 => format!("host().lower() == '{host}'"),
            9 => format!("destination.port == {}", self.random.pick(&["80", "443", "1"])),
            10 => format!("destination.port in [{}, 443]", self.random.pick(&["80", "443", "1"])),
            11 => format!("inIpRange(source.ip, '{}')", self.random.pick(&RANGES)),
            12 => format!(
                "source.ip == '{}'",
                self.random.pick(&["10.0.0.1", "10.1.2.3", "::ffff:10.0.0.1", "x"])
            ),
            13 => format!("source.matchTag('{}')", self.random.pick(&TAGS)),
            14 => format!("inUrlList(host(), '{}')", self.random.pick(&LISTS.map(|(name, _)| name))),
            15 => {
                let guard = self.random.pick(&["source.mtls && ", "has(source.certificate.subject) && ", ""]);
                format!("({guard}source.certificate.subject == '{value}')")
            }
            16 => format!("'{}' in source.certificate.dnsSans", self.random.pick(&SANS)),
            17 if self.everything && tls => {
                let guard = self.random.pick(&["has(connection.sni) && ", "", ""]);
                format!("({guard}connection.sni == '{host}')")
            }
            17 => "source.mtls".to_owned(),
            18 => format!("request.path == '{path}'"),
            19 => format!("request.path.startsWith('{path}')"),
            20 => format!("request.path.endsWith('{path}')"),
            21 => format!("request.path in {}", self.list(&["/a", "/b", "/"])),
            22 => format!("request.method == '{}'", self.random.pick(&METHODS)),
            23 => format!("request.method in {}", self.list(&METHODS)),
            24 => format!("request.headers['{header}'] == '{value}'"),
            25 => format!("request.headers['{header}'] != '{value}'"),
            26 => format!("'{header}' in request.headers"),
            27 => format!(
                "(has(request.headers.{}) && request.headers['{header}'] == '{value}')",
                header.replace('-', "_")
            ),
            28 => format!(
                "('{header}' in request.headers && request.headers['{header}'] in {})",
                self.list(&VALUES)
            ),
            29 => format!("request.url() == '{host}{path}'"),
            30 => format!("request.url().startsWith('{host}{path}')"),
            31 => format!("request.url() in {}", self.list(&["a.example/", "a.example/a", "b.example/b"])),
            32 => format!("inUrlList(request.url(), '{}')", self.random.pick(&LISTS.map(|(name, _)| name))),
            _ => format!("int(request.headers['{header}']) > 3"),
        }
    }
}

fn case(random: &mut Random) -> Case {
    let destination = format!("{}:{}", random.pick(&HOSTS), PORTS[random.below(3)]);
    let certificate = (random.below(2) == 0).then(|| ClientCertificate {
        subject: random.pick(&VALUES).to_owned(),
        issuer: String::new(),
        serial: String::new(),
        sha256: String::new(),
        uri_sans: Vec::new(),
        dns_sans: SANS.iter().filter(|_| random.below(2) == 0).map(|san| (*san).to_owned()).collect(),
        not_after: OffsetDateTime::UNIX_EPOCH,
    });
    let connection = match random.below(3) {
        0 => None,
        1 => Some(Connection::default()),
        _ => Some(Connection { sni: Some(random.pick(&HOSTS)), ..Connection::default() }),
    };
    Case {
        ip: random.pick(&IPS),
        tags: TAGS.iter().filter(|_| random.below(3) == 0).map(|tag| (*tag).to_owned()).collect(),
        // There are few of them.
        destination: destination.leak(),
        certificate,
        connection,
        method: random.pick(&METHODS),
        path: std::iter::repeat_with(|| random.pick(&PATHS))
            .find(|path| RequestPath::parse(path).is_ok())
            .unwrap(),
        headers: HEADERS
            .iter()
            .map(|name| (random.below(2) == 0, *name, random.pick(&VALUES)))
            .filter(|(sent, ..)| *sent)
            .map(|(_, name, value)| (name, value))
            .collect(),
        ..Case::default()
    }
}

/// Wants to hear of every rule, so that none is left out.
struct Everything;

impl Observer for Everything {
    fn observe(&mut self, _: &Rule, _: Stage, _: Outcome, _: impl FnOnce() -> String) {}
}

impl Case {
    fn with_request<T>(&self, stage: RequestStage, ask: impl FnOnce(&Request<'_>) -> T) -> T {
        let path = RequestPath::parse(self.path).unwrap();
        let host = Destination::parse(self.destination).unwrap().host;
        let pairs = self.headers.iter().map(|(name, value)| (*name, value.as_bytes()));
        let headers = Headers::of_request(&host, pairs);
        ask(&Request { method: self.method, scheme: stage.scheme(), path: &path, headers: &headers })
    }

    /// All verdicts, by the index or without.
    fn verdicts<O: Observer>(&self, engine: &Engine, observer: impl Fn() -> O) -> Verdicts {
        let walk = || Walk::new(engine, observer());
        self.with_session(|session| Verdicts {
            connect: engine.connect_by(walk(), session),
            sniffed: engine.sniffed_by(walk(), session),
            requests: STAGES.map(|stage| {
                self.with_request(stage, |request| engine.request_by(walk(), session, request, stage))
            }),
        })
    }
}

const STAGES: [RequestStage; 2] = [RequestStage::Clear, RequestStage::Inspected];

#[derive(Debug, PartialEq)]
struct Verdicts {
    connect: ConnectDecision,
    sniffed: TlsDecision,
    requests: [RequestDecision; 2],
}

#[test]
fn the_index_our_walk_and_the_reference_agree() {
    const VERDICTS: usize = 4;
    let variable = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let wanted = variable("DIFFERENCE_CASES").unwrap_or(1_000_000);
    let mut seed = variable("DIFFERENCE_SEED").unwrap_or(1);
    let mut random = Random::new(0x5eed);
    let cases: Vec<Case> = (0..400).map(|_| case(&mut random)).collect();
    let worlds: Vec<World> = cases.iter().map(World::new).collect();
    let mut compared = 0;
    let mut outcomes = HashMap::<String, u64>::new();
    while compared < wanted {
        let mut random = Random::new(seed);
        let everything = random.below(2) == 0;
        let policy = Rules { random: &mut random, everything }.policy();
        let engine = Engine::from_value(&policy).unwrap_or_else(|errors| panic!("seed {seed}: {errors}"));
        let reference = (!everything).then(|| Reference::new(&policy));
        for _ in 0..100 {
            let index = random.below(cases.len());
            let (case, world) = (&cases[index], &worlds[index]);
            let asked = || format!("seed {seed}, case {index}: {policy:#}");
            let indexed = case.verdicts(&engine, || ());
            assert_eq!(indexed, case.verdicts(&engine, || Everything), "{}", asked());
            if let Some(reference) = &reference {
                let mut connect = reference.connect(case, world);
                assert_eq!(case.connect(&engine), connect, "{}", asked());
                assert_eq!(case.sniffed(&engine), reference.sniffed(world), "{}", asked());
                for stage in STAGES {
                    assert_eq!(case.request(&engine, stage), reference.request(world, stage), "{}", asked());
                }
                connect.truncate(connect.find([' ', ',']).unwrap_or(connect.len()));
                *outcomes.entry(connect).or_default() += 1;
            }
            compared += VERDICTS as u64;
        }
        seed += 1;
    }
    // Everything happens, and often.
    for outcome in ["tunnel", "sniff", "deny"] {
        assert!(outcomes[outcome] > compared / 100, "{outcomes:?}");
    }
}
