//! Which names each Envoy holds: a name handed out is a lease, to be renewed or withdrawn.

pub mod proof;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use time::OffsetDateTime;
use tokio::sync::Notify;

use crate::grants::PoolName;
use outgate_policy::HostName;

/// Spellings of one host (upper and lower case) that one Envoy may hold; clients choose them.
const SPELLINGS: usize = 4;

/// One stream of an Envoy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(u64);

/// What a lease is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The host, in its normal form.
    pub host: HostName,
    /// The pool that signs.
    pub pool: PoolName,
    /// True if it is never taken back: a listener of Envoy's own stands on it.
    pub pinned: bool,
    /// When its leaf is to be replaced; `None` if a new one would live no longer.
    pub renew_at: Option<OffsetDateTime>,
}

/// Why a lease was taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Withdrawal {
    /// There were more than `--max-leases`.
    Cap,
    /// One Envoy held too many spellings of one host.
    Spelling,
    /// An operator asked for it.
    Order,
    /// Envoy held it from before a restart and nothing says that it may.
    Unproven,
}

impl Withdrawal {
    /// All of them, in the order of their declaration.
    pub const ALL: [Withdrawal; 4] =
        [Withdrawal::Cap, Withdrawal::Spelling, Withdrawal::Order, Withdrawal::Unproven];

    /// The stable name in metrics and lines.
    pub fn as_str(self) -> &'static str {
        match self {
            Withdrawal::Cap => "cap",
            Withdrawal::Spelling => "spelling",
            Withdrawal::Order => "order",
            Withdrawal::Unproven => "unproven",
        }
    }
}

/// What a stream is to send next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Push {
    /// A new leaf for a name that is leased.
    Renew(Terms),
    /// The end of a name.
    Withdraw,
}

/// The book of leases.
pub struct Leases {
    cap: usize,
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    last_stream: u64,
    last_use: u64,
    streams: HashMap<StreamId, Stream>,
    leases: BTreeMap<Key, Lease>,
    by_host: HashMap<HostName, BTreeSet<Key>>,
    by_use: BTreeMap<u64, Key>,
    by_renewal: BTreeSet<(OffsetDateTime, Key)>,
}

type Key = (StreamId, Arc<str>);

struct Stream {
    wake: Arc<Notify>,
    pending: BTreeMap<Arc<str>, Push>,
}

struct Lease {
    terms: Terms,
    used: u64,
}

impl Leases {
    /// An empty book that holds at most `cap` leases.
    pub fn new(cap: usize) -> Leases {
        Leases { cap, book: Mutex::default() }
    }

    /// Opens a stream; the notification wakes it when there is something to push.
    pub fn open(&self) -> (StreamId, Arc<Notify>) {
        let mut book = self.lock();
        book.last_stream += 1;
        let (stream, wake) = (StreamId(book.last_stream), Arc::new(Notify::new()));
        book.streams.insert(stream, Stream { wake: wake.clone(), pending: BTreeMap::new() });
        (stream, wake)
    }

    /// Closes a stream and ends its leases: Envoy keeps the certificates and says so when it is back.
    pub fn close(&self, stream: StreamId) {
        let mut book = self.lock();
        book.streams.remove(&stream);
        let keys: Vec<Key> = book
            .leases
            .range((stream, Arc::from(""))..)
            .map(|(key, _)| key.clone())
            .take_while(|key| key.0 == stream)
            .collect();
        for key in keys {
            book.remove(&key);
        }
    }

    /// Leases a name to a stream; returns why others had to go for it.
    #[must_use]
    pub fn take(&self, stream: StreamId, name: &str, terms: Terms) -> Vec<Withdrawal> {
        let mut book = self.lock();
        let Some(entry) = book.streams.get_mut(&stream) else { return Vec::new() };
        // What was to be pushed for this name is out of date.
        entry.pending.remove(name);
        let key: Key = (stream, name.into());
        book.insert(key.clone(), terms);

        let mut reasons = Vec::new();
        if let Some(oldest) = book.oldest_spelling_beyond(SPELLINGS, &key) {
            book.withdraw(&oldest);
            reasons.push(Withdrawal::Spelling);
        }
        while book.leases.len() > self.cap
            && let Some(oldest) = book.oldest_but(&key)
        {
            book.withdraw(&oldest);
            reasons.push(Withdrawal::Cap);
        }
        reasons
    }

    /// Ends a lease that Envoy gave up.
    pub fn release(&self, stream: StreamId, name: &str) {
        let mut book = self.lock();
        if let Some(entry) = book.streams.get_mut(&stream) {
            entry.pending.remove(name);
        }
        book.remove(&(stream, name.into()));
    }

    /// Notes that a host was granted again, so that its leases are the last to go at the cap.
    pub fn touch(&self, host: &HostName) {
        let mut book = self.lock();
        let keys = book.by_host.get(host).cloned().unwrap_or_default();
        for key in keys {
            book.touch(&key);
        }
    }

    /// Puts off a renewal that failed.
    pub fn postpone(&self, stream: StreamId, name: &str, until: OffsetDateTime) {
        let mut book = self.lock();
        let key: Key = (stream, name.into());
        if let Some(terms) = book.leases.get(&key).map(|lease| lease.terms.clone()) {
            book.insert(key, Terms { renew_at: Some(until), ..terms });
        }
    }

    /// Wakes the streams whose leaves are due for renewal.
    pub fn renew_due(&self, now: OffsetDateTime) {
        let mut book = self.lock();
        while let Some((due, key)) = book.by_renewal.first().cloned()
            && due <= now
        {
            book.by_renewal.remove(&(due, key.clone()));
            if let Some(lease) = book.leases.get(&key) {
                let push = Push::Renew(lease.terms.clone());
                book.push(&key, push);
            }
        }
    }

    /// Takes back the leases of one host, or all of them; returns how many.
    pub fn withdraw(&self, host: Option<&HostName>) -> usize {
        let mut book = self.lock();
        let mut keys: Vec<Key> = match host {
            Some(host) => book.by_host.get(host).into_iter().flatten().cloned().collect(),
            None => book.leases.keys().cloned().collect(),
        };
        keys.retain(|key| book.leases.get(key).is_some_and(|lease| !lease.terms.pinned));
        for key in &keys {
            book.withdraw(key);
        }
        keys.len()
    }

    /// Up to `limit` things that a stream is to send.
    pub fn pending(&self, stream: StreamId, limit: usize) -> Vec<(Arc<str>, Push)> {
        let mut book = self.lock();
        let Some(entry) = book.streams.get_mut(&stream) else { return Vec::new() };
        std::iter::from_fn(|| entry.pending.pop_first()).take(limit).collect()
    }

    /// How many names are leased now.
    pub fn live(&self) -> usize {
        self.lock().leases.len()
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    fn insert(&mut self, key: Key, terms: Terms) {
        self.remove(&key);
        self.last_use += 1;
        let used = self.last_use;
        self.by_use.insert(used, key.clone());
        self.by_host.entry(terms.host.clone()).or_default().insert(key.clone());
        if let Some(renew_at) = terms.renew_at {
            self.by_renewal.insert((renew_at, key.clone()));
        }
        self.leases.insert(key, Lease { terms, used });
    }

    fn remove(&mut self, key: &Key) {
        let Some(lease) = self.leases.remove(key) else { return };
        self.by_use.remove(&lease.used);
        if let Some(renew_at) = lease.terms.renew_at {
            self.by_renewal.remove(&(renew_at, key.clone()));
        }
        if let Some(keys) = self.by_host.get_mut(&lease.terms.host) {
            keys.remove(key);
            if keys.is_empty() {
                self.by_host.remove(&lease.terms.host);
            }
        }
    }

    fn touch(&mut self, key: &Key) {
        let Some(lease) = self.leases.get_mut(key) else { return };
        self.last_use += 1;
        self.by_use.remove(&lease.used);
        lease.used = self.last_use;
        self.by_use.insert(lease.used, key.clone());
    }

    fn withdraw(&mut self, key: &Key) {
        self.remove(key);
        self.push(key, Push::Withdraw);
    }

    fn push(&mut self, key: &Key, push: Push) {
        if let Some(stream) = self.streams.get_mut(&key.0) {
            stream.pending.insert(key.1.clone(), push);
            stream.wake.notify_one();
        }
    }

    fn oldest_but(&self, key: &Key) -> Option<Key> {
        let goes =
            |other: &&Key| *other != key && self.leases.get(*other).is_some_and(|lease| !lease.terms.pinned);
        self.by_use.values().find(goes).cloned()
    }

    fn oldest_spelling_beyond(&self, limit: usize, key: &Key) -> Option<Key> {
        let host = &self.leases.get(key)?.terms.host;
        let spellings = || self.by_host.get(host).into_iter().flatten().filter(|one| one.0 == key.0);
        if spellings().count() <= limit {
            return None;
        }
        spellings().min_by_key(|one| self.leases.get(*one).map(|lease| lease.used)).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_the_cap_the_least_recently_granted_or_asked_for_goes() {
        let leases = Leases::new(3);
        let (stream, _) = leases.open();
        for name in ["a.example", "b.example", "c.example"] {
            assert_eq!(leases.take(stream, name, terms(name, None)), []);
        }
        leases.touch(&host("a.example"));
        assert_eq!(leases.take(stream, "b.example", terms("b.example", None)), []);
        assert_eq!(leases.take(stream, "d.example", terms("d.example", None)), [Withdrawal::Cap]);
        assert_eq!(leases.pending(stream, 10), [("c.example".into(), Push::Withdraw)]);
        assert_eq!(leases.live(), 3);
    }

    #[test]
    fn at_the_cap_another_stream_may_have_to_give() {
        let leases = Leases::new(1);
        let ((first, _), (second, _)) = (leases.open(), leases.open());
        let _ = leases.take(first, "a.example", terms("a.example", None));
        let _ = leases.take(second, "a.example", terms("a.example", None));
        assert_eq!(leases.pending(first, 10), [("a.example".into(), Push::Withdraw)]);
        assert_eq!(leases.pending(second, 10), []);
    }

    #[test]
    fn spellings_of_one_host_are_bounded() {
        let leases = Leases::new(100);
        let (stream, _) = leases.open();
        for name in ["aa.b", "Aa.b", "aA.b", "AA.b"] {
            assert_eq!(leases.take(stream, name, terms("aa.b", None)), []);
        }
        assert_eq!(leases.take(stream, "aa.B", terms("aa.b", None)), [Withdrawal::Spelling]);
        assert_eq!(leases.pending(stream, 10), [("aa.b".into(), Push::Withdraw)]);
        assert_eq!(leases.live(), 4);
    }

    #[test]
    fn a_name_asked_for_again_is_not_withdrawn() {
        let leases = Leases::new(100);
        let (stream, _) = leases.open();
        let _ = leases.take(stream, "a.example", terms("a.example", None));
        assert_eq!(leases.withdraw(None), 1);
        let _ = leases.take(stream, "a.example", terms("a.example", None));
        assert_eq!(leases.pending(stream, 10), []);
        assert_eq!(leases.live(), 1);
    }

    #[test]
    fn what_is_due_is_pushed_once() {
        let leases = Leases::new(100);
        let (stream, _) = leases.open();
        for (name, at) in [("a.example", 10), ("b.example", 20), ("c.example", 30)] {
            let _ = leases.take(stream, name, terms(name, Some(at)));
        }
        leases.release(stream, "a.example");
        leases.renew_due(at(20));
        let due = terms("b.example", Some(20));
        assert_eq!(leases.pending(stream, 10), [("b.example".into(), Push::Renew(due))]);
        leases.renew_due(at(29));
        assert_eq!(leases.pending(stream, 10), []);
        assert_eq!(leases.live(), 2);
    }

    #[test]
    fn a_postponed_renewal_comes_back() {
        let leases = Leases::new(100);
        let (stream, _) = leases.open();
        let _ = leases.take(stream, "a.example", terms("a.example", Some(10)));
        leases.renew_due(at(10));
        assert_eq!(leases.pending(stream, 10).len(), 1);
        leases.postpone(stream, "a.example", at(70));
        leases.renew_due(at(69));
        assert_eq!(leases.pending(stream, 10).len(), 0);
        leases.renew_due(at(70));
        assert_eq!(leases.pending(stream, 10).len(), 1);
    }

    #[test]
    fn one_host_is_withdrawn_in_all_spellings_and_streams() {
        let leases = Leases::new(100);
        let ((first, _), (second, _)) = (leases.open(), leases.open());
        let _ = leases.take(first, "a.example", terms("a.example", None));
        let _ = leases.take(first, "b.example", terms("b.example", None));
        let _ = leases.take(second, "A.example", terms("a.example", None));
        assert_eq!(leases.withdraw(Some(&host("a.example"))), 2);
        assert_eq!(leases.live(), 1);
        assert_eq!(leases.pending(second, 10), [("A.example".into(), Push::Withdraw)]);
    }

    #[test]
    fn a_pinned_name_is_never_taken_back() {
        let leases = Leases::new(1);
        let (stream, _) = leases.open();
        for name in ["pinned.example", "a.example", "b.example"] {
            let _ = leases.take(stream, name, terms(name, None));
        }
        assert_eq!(leases.pending(stream, 10), [("a.example".into(), Push::Withdraw)]);
        assert_eq!(leases.withdraw(None), 1);
        assert_eq!(leases.withdraw(Some(&host("pinned.example"))), 0);
        assert_eq!(leases.live(), 1);
    }

    #[test]
    fn a_closed_stream_leaves_nothing() {
        let leases = Leases::new(100);
        let (stream, _) = leases.open();
        let _ = leases.take(stream, "a.example", terms("a.example", Some(10)));
        leases.close(stream);
        let book = leases.lock();
        assert_eq!(book.leases.len() + book.by_host.len() + book.by_use.len(), 0);
        assert_eq!(book.by_renewal.len() + book.streams.len(), 0);
    }

    fn terms(name: &str, renew_at: Option<i64>) -> Terms {
        Terms {
            host: host(name),
            pool: PoolName::parse("main").unwrap(),
            pinned: name.starts_with("pinned"),
            renew_at: renew_at.map(at),
        }
    }

    fn host(name: &str) -> HostName {
        HostName::parse(name).unwrap()
    }

    fn at(seconds: i64) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(seconds).unwrap()
    }
}
