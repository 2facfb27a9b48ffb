//! Answers Envoy's questions for names, and refuses a name that leads to a refused address.
//!
//! A name is refused as a whole, for A and for AAAA, if any of its addresses is refused: Envoy would
//! judge the first one and fail over to the others. The answer is then REFUSED, which no name server
//! can cause otherwise: its own refusals become SERVFAIL.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use std::{io, pin};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::Name;
use outgate_policy::HostName;
use outgate_policy::address::{Cidr, is_refused};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::metrics::Counter;
use cache::Cache;
use hosts::{DNS_PORT, Hosts, SystemFile, parse_hosts, parse_name_servers};
use lookup::{End, Family, Lookup};
use question::{Question, Received, Transport};
use refusal::{Log, Refusals};
use server::Sockets;
use upstream::Upstreams;

mod cache;
mod hosts;
mod lookup;
mod question;
pub mod refusal;
mod self_test;
mod server;
#[cfg(test)]
mod tests;
mod upstream;

/// Answers kept, each family of a name being one.
const CACHE_CAPACITY: usize = 8192;

/// How long Envoy may keep what the hosts file says.
const HOSTS_TTL: u32 = 5;

/// How often the system's files are looked at.
const FILES_PERIOD: Duration = Duration::from_secs(1);

/// How often the resolver tests itself.
const SELF_TEST_PERIOD: Duration = Duration::from_secs(10);

/// How the resolver works.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where Envoy asks; a loopback address, UDP and TCP.
    pub listen: SocketAddr,
    /// The name servers to ask; none: those of `resolv.conf`.
    pub upstreams: Vec<SocketAddr>,
    /// The system's hosts file.
    pub hosts: PathBuf,
    /// The system's `resolv.conf`.
    pub resolv_conf: PathBuf,
    /// Ranges that names may lead to although they are refused otherwise.
    pub allowed: Vec<Cidr>,
    /// How long name servers may take.
    pub timeouts: Timeouts,
}

/// How long name servers may take.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For one question to one server over UDP, the first time; twice that over TCP or the second time.
    pub attempt: Duration,
    /// For all about one family of a name.
    pub total: Duration,
    /// For the family that was not asked for, once the other is known.
    pub sibling: Duration,
}

impl Default for Timeouts {
    /// All in less than the five seconds that Envoy waits.
    fn default() -> Timeouts {
        Timeouts {
            attempt: Duration::from_millis(1500),
            total: Duration::from_secs(4),
            sibling: Duration::from_secs(1),
        }
    }
}

/// Why the resolver did not start.
#[derive(Debug, thiserror::Error)]
pub enum ResolverError {
    /// It would answer everybody.
    #[error(
        "`{0}` is not a loopback address: the resolver is for the Envoy beside it; choose `127.0.0.1:PORT`"
    )]
    NotLoopback(SocketAddr),
    /// It would ask itself.
    #[error("the name server `{0}` is the resolver itself: name another with `--dns-upstream`")]
    OwnUpstream(SocketAddr),
    /// The address is taken or not ours.
    #[error(
        "cannot listen on `{address}` for DNS: {source}: end the program that listens there, or choose another `--dns-listen`"
    )]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// What the questions came to.
#[derive(Default)]
pub struct Answers {
    /// Addresses were given.
    pub answered: Counter,
    /// An address of the name is refused.
    pub refused: Counter,
    /// There is no such name, or it has no such address.
    pub negative: Counter,
    /// No name server answered in time, or there were too many questions.
    pub failed: Counter,
}

/// A resolver that serves until it is dropped.
pub struct Resolver {
    state: Arc<State>,
    address: SocketAddr,
    // Dropping it ends them.
    _tasks: JoinSet<()>,
}

impl Resolver {
    /// Listens and serves; each refused name, within limits, goes to `log`.
    pub async fn start(settings: Settings, log: Log) -> Result<Resolver, ResolverError> {
        if !settings.listen.ip().is_loopback() {
            return Err(ResolverError::NotLoopback(settings.listen));
        }
        let bind = |source| ResolverError::Bind { address: settings.listen, source };
        let sockets = Sockets::bind(settings.listen).await.map_err(bind)?;
        let address = sockets.address().map_err(bind)?;
        let state = Arc::new(State::new(settings, log));
        if let Some(own) = state.servers().iter().find(|server| **server == address) {
            return Err(ResolverError::OwnUpstream(*own));
        }
        let mut tasks = JoinSet::new();
        tasks.spawn(sockets.serve(state.clone()));
        tasks.spawn(follow_files(state.clone()));
        tasks.spawn(follow_self_test(state.clone(), address));
        Ok(Resolver { state, address, _tasks: tasks })
    }

    /// Where Envoy asks.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether a name is refused.
    pub async fn refuses(&self, host: &HostName) -> bool {
        let Ok(name) = Name::from_ascii(format!("{host}.")) else { return false };
        matches!(self.state.resolve(&name, Family::V4).await, Outcome::Refused(_))
    }

    /// Changes the ranges that names may lead to although they are refused otherwise.
    pub fn set_allowed(&self, allowed: Vec<Cidr>) {
        *self.state.allowed.write().unwrap_or_else(PoisonError::into_inner) = allowed.into();
    }

    /// Whether it has shown that it answers, and refuses what it must: the latch `resolver`.
    pub fn is_ready(&self) -> bool {
        self.state.ready.load(Ordering::Relaxed)
    }

    /// The counters.
    pub fn answers(&self) -> &Answers {
        self.state.answers()
    }

    /// The counters as Prometheus reads them.
    pub fn render_metrics(&self) -> String {
        let answers = self.answers();
        let mut page = "# HELP outgate_dns_answers_total Questions for names, by result.\n\
                        # TYPE outgate_dns_answers_total counter\n"
            .to_owned();
        for (result, counter) in [
            ("answered", &answers.answered),
            ("refused", &answers.refused),
            ("negative", &answers.negative),
            ("failed", &answers.failed),
        ] {
            page.push_str(&format!("outgate_dns_answers_total{{result=\"{result}\"}} {}\n", counter.get()));
        }
        page
    }
}

/// Reads `IP` or `IP:PORT` of a name server.
pub fn parse_upstream(text: &str) -> Result<SocketAddr, String> {
    text.parse().or_else(|_| text.parse().map(|ip| SocketAddr::new(ip, DNS_PORT))).map_err(|_| {
        format!("`{text}` is not the address of a name server; write it as `192.0.2.1` or `192.0.2.1:53`")
    })
}

/// What the tasks share.
struct State {
    fixed_servers: Vec<SocketAddr>,
    resolv_conf: SystemFile<Vec<SocketAddr>>,
    hosts: SystemFile<Hosts>,
    allowed: RwLock<Arc<[Cidr]>>,
    sibling_timeout: Duration,
    cache: Cache,
    upstreams: Upstreams,
    answers: Answers,
    refusals: Refusals,
    ready: AtomicBool,
}

/// What a question came to.
enum Outcome {
    Found(Arc<Lookup>),
    Refused(IpAddr),
}

impl State {
    fn new(settings: Settings, log: Log) -> State {
        State {
            fixed_servers: settings.upstreams,
            resolv_conf: SystemFile::new(&settings.resolv_conf, parse_name_servers),
            hosts: SystemFile::new(&settings.hosts, parse_hosts),
            allowed: RwLock::new(settings.allowed.into()),
            sibling_timeout: settings.timeouts.sibling,
            cache: Cache::new(CACHE_CAPACITY),
            upstreams: Upstreams::new(settings.timeouts),
            answers: Answers::default(),
            refusals: Refusals::new(log),
            ready: AtomicBool::new(false),
        }
    }

    /// Answers a message, if it is one that is answered.
    async fn respond(&self, message: &[u8], transport: Transport) -> Option<Vec<u8>> {
        match Received::read(message) {
            Received::Question(question) => self.answer(&question, transport).await,
            Received::Other(answer) => Some(answer),
            Received::Noise => None,
        }
    }

    async fn answer(&self, question: &Question, transport: Transport) -> Option<Vec<u8>> {
        let name = question.name();
        if let Some(addresses) = self_test::addresses(name, &self.allowed()) {
            let lookup = |family| Arc::new(Lookup::known(name, addresses.iter().copied(), family, 0));
            let (found, sibling) = (lookup(question.family()), lookup(question.family().other()));
            return reply(question, &self.judge(found, &sibling), transport);
        }
        let outcome = self.resolve(name, question.family()).await;
        let counter = match &outcome {
            Outcome::Refused(address) => {
                self.refusals.report(name, *address);
                &self.answers.refused
            }
            Outcome::Found(lookup) => match lookup.end() {
                End::Addresses { .. } => &self.answers.answered,
                End::Negative { .. } => &self.answers.negative,
                End::Failed => &self.answers.failed,
            },
        };
        counter.increment();
        reply(question, &outcome, transport)
    }

    /// Finds out both families, because Envoy asks for them apart and would take either.
    async fn resolve(&self, name: &Name, family: Family) -> Outcome {
        let mut sibling = pin::pin!(self.look_up(name, family.other()));
        let mut asked = pin::pin!(self.look_up(name, family));
        let (found, sibling) = tokio::select! {
            found = &mut asked => {
                // Servers that never answer one family are many; nothing of it is given to Envoy
                // before it was judged, by a question of its own.
                let sibling = timeout(self.sibling_timeout, sibling).await;
                (found, sibling.unwrap_or_else(|_| Arc::new(Lookup::failed())))
            }
            found = &mut sibling => (asked.await, found),
        };
        self.judge(found, &sibling)
    }

    fn judge(&self, found: Arc<Lookup>, sibling: &Lookup) -> Outcome {
        let allowed = self.allowed();
        let refused = found.addresses().chain(sibling.addresses()).find(|ip| is_refused(*ip, &allowed));
        refused.map_or(Outcome::Found(found), Outcome::Refused)
    }

    async fn look_up(&self, name: &Name, family: Family) -> Arc<Lookup> {
        if let Some(addresses) = self.hosts.current().get(name) {
            return Arc::new(Lookup::known(name, addresses.iter().copied(), family, HOSTS_TTL));
        }
        if name.iter().next_back().is_some_and(|label| label.eq_ignore_ascii_case(b"localhost")) {
            // RFC 6761: never asked for elsewhere.
            let addresses = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
            return Arc::new(Lookup::known(name, addresses, family, HOSTS_TTL));
        }
        let ask = || async { self.upstreams.look_up(&self.servers(), name, family).await };
        self.cache.get(name, family, ask).await
    }

    fn servers(&self) -> Arc<Vec<SocketAddr>> {
        if self.fixed_servers.is_empty() {
            self.resolv_conf.current()
        } else {
            Arc::new(self.fixed_servers.clone())
        }
    }

    fn allowed(&self) -> Arc<[Cidr]> {
        self.allowed.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn answers(&self) -> &Answers {
        &self.answers
    }
}

fn reply(question: &Question, outcome: &Outcome, transport: Transport) -> Option<Vec<u8>> {
    match outcome {
        Outcome::Refused(_) => question.answer(ResponseCode::Refused, None, transport),
        Outcome::Found(lookup) => {
            let code = match lookup.end() {
                End::Addresses { .. } => ResponseCode::NoError,
                End::Negative { code, .. } => *code,
                End::Failed => ResponseCode::ServFail,
            };
            question.answer(code, Some(lookup), transport)
        }
    }
}

async fn follow_files(state: Arc<State>) {
    loop {
        tokio::time::sleep(FILES_PERIOD).await;
        let state = state.clone();
        let refreshed = tokio::task::spawn_blocking(move || {
            state.hosts.refresh();
            state.resolv_conf.refresh();
        });
        // Only a panic of ours could fail it, and then the next round goes on.
        let _ = refreshed.await;
    }
}

async fn follow_self_test(state: Arc<State>, address: SocketAddr) {
    loop {
        let allowed = state.allowed();
        let passed = self_test::passes(address, &allowed).await;
        // A test that ran while the ranges changed says nothing.
        if Arc::ptr_eq(&allowed, &state.allowed()) {
            state.ready.store(passed, Ordering::Relaxed);
        }
        let pause = if passed { SELF_TEST_PERIOD } else { Duration::from_millis(200) };
        tokio::time::sleep(pause).await;
    }
}
