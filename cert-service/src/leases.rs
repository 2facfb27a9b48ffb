//! Which names each Envoy holds: a name handed out is a lease, to be replaced or withdrawn.

pub mod proof;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
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

/// The short id of a CA.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CaId(Arc<str>);

/// What a lease is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The host, in its normal form.
    pub host: HostName,
    /// The pool that signs.
    pub pool: PoolName,
    /// The CA of the pool that signed.
    pub ca: CaId,
    /// True if it is never taken back: a listener of Envoy's own stands on it.
    pub pinned: bool,
    /// When its leaf is to be replaced; `None` if a new one would live no longer.
    pub renew_at: Option<OffsetDateTime>,
}

/// How many leases there may be.
#[derive(Clone, Copy, Debug)]
pub struct Caps {
    /// In all.
    pub total: usize,
    /// For one Envoy, by its node id, if that is limited.
    pub per_envoy: Option<usize>,
}

/// Why a lease was taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Withdrawal {
    /// There were more than `--max-leases`.
    Cap,
    /// One Envoy had more than `--max-leases-per-envoy`.
    EnvoyCap,
    /// One Envoy held too many spellings of one host.
    Spelling,
    /// Its leaf was to be replaced, but nothing grants the name any more.
    Idle,
    /// Its CA was removed.
    CaRemoved,
    /// The policy no longer inspects its host.
    Policy,
    /// An operator asked for it.
    Order,
    /// Envoy held it from before a restart and nothing says that it may.
    Unproven,
}

impl Withdrawal {
    /// All of them, in the order of their declaration.
    pub const ALL: [Withdrawal; 8] = [
        Withdrawal::Cap,
        Withdrawal::EnvoyCap,
        Withdrawal::Spelling,
        Withdrawal::Idle,
        Withdrawal::CaRemoved,
        Withdrawal::Policy,
        Withdrawal::Order,
        Withdrawal::Unproven,
    ];

    /// The stable name in metrics and lines.
    pub fn as_str(self) -> &'static str {
        match self {
            Withdrawal::Cap => "cap",
            Withdrawal::EnvoyCap => "envoy_cap",
            Withdrawal::Spelling => "spelling",
            Withdrawal::Idle => "idle",
            Withdrawal::CaRemoved => "ca_removed",
            Withdrawal::Policy => "policy",
            Withdrawal::Order => "order",
            Withdrawal::Unproven => "unproven",
        }
    }
}

/// Why a lease gets a new leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replacement {
    /// The old one is two thirds through its life.
    Renewal,
    /// Another CA signs now.
    Rotation,
}

impl Replacement {
    /// The stable name in lines.
    pub fn as_str(self) -> &'static str {
        match self {
            Replacement::Renewal => "renewal",
            Replacement::Rotation => "rotation",
        }
    }
}

/// What a stream is to send next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Push {
    /// A new leaf for a name that is leased.
    Replace(Terms, Replacement),
    /// The end of a name.
    Withdraw,
}

/// What a change of CAs came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replaced {
    /// Leases that get a new leaf.
    pub replaced: usize,
    /// Leases that ended, because nothing grants their name any more.
    pub withdrawn: usize,
}

/// The book of leases.
pub struct Leases {
    caps: Caps,
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    last_stream: u64,
    last_use: u64,
    streams: HashMap<StreamId, Stream>,
    leases: BTreeMap<Key, Lease>,
    by_host: HashMap<HostName, BTreeSet<Key>>,
    /// Without the pinned ones, which never have to go.
    by_use: BTreeMap<u64, Key>,
    /// The same for each Envoy.
    by_envoy: HashMap<Arc<str>, BTreeMap<u64, Key>>,
    by_renewal: BTreeSet<(OffsetDateTime, Key)>,
    by_ca: BTreeMap<CaId, usize>,
}

type Key = (StreamId, Arc<str>);

struct Stream {
    envoy: Arc<str>,
    wake: Arc<Notify>,
    queue: Queue,
}

/// What a stream is to send, in order; a name has one place at most.
#[derive(Default)]
struct Queue {
    last: u64,
    pushes: BTreeMap<u64, (Arc<str>, Push)>,
    places: HashMap<Arc<str>, u64>,
}

struct Lease {
    terms: Terms,
    used: u64,
    envoy: Arc<str>,
}

impl CaId {
    /// The id that [`Ca::id`](crate::ca::Ca::id) tells.
    pub fn new(id: &str) -> CaId {
        CaId(id.into())
    }

    /// As a text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CaId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Leases {
    /// An empty book.
    pub fn new(caps: Caps) -> Leases {
        Leases { caps, book: Mutex::default() }
    }

    /// Opens a stream; the notification wakes it when there is something to push.
    pub fn open(&self) -> (StreamId, Arc<Notify>) {
        let mut book = self.lock();
        book.last_stream += 1;
        let (stream, wake) = (StreamId(book.last_stream), Arc::new(Notify::new()));
        let entry = Stream { envoy: "".into(), wake: wake.clone(), queue: Queue::default() };
        book.streams.insert(stream, entry);
        (stream, wake)
    }

    /// Says whose stream it is: Envoy tells with its first request.
    pub fn name(&self, stream: StreamId, envoy: &str) {
        if let Some(entry) = self.lock().streams.get_mut(&stream) {
            entry.envoy = envoy.into();
        }
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
        entry.queue.remove(name);
        let envoy = entry.envoy.clone();
        let key: Key = (stream, name.into());
        book.remove(&key);
        let used = book.next_use();
        book.insert(key.clone(), terms, envoy.clone(), used);

        let mut reasons = Vec::new();
        if let Some(oldest) = book.oldest_spelling_beyond(SPELLINGS, &key) {
            book.withdraw(&oldest);
            reasons.push(Withdrawal::Spelling);
        }
        while let Some(limit) = self.caps.per_envoy
            && let Some(oldest) = book.oldest_of_envoy_beyond(limit, &envoy, &key)
        {
            book.withdraw(&oldest);
            reasons.push(Withdrawal::EnvoyCap);
        }
        while book.leases.len() > self.caps.total
            && let Some(oldest) = oldest_but(&key, &book.by_use)
        {
            book.withdraw(&oldest);
            reasons.push(Withdrawal::Cap);
        }
        reasons
    }

    /// Puts a lease on new terms because its leaf was replaced; false if it ended meanwhile, so that nothing is to be
    /// sent.
    #[must_use]
    pub fn renew(&self, stream: StreamId, name: &str, terms: Terms) -> bool {
        let mut book = self.lock();
        let key: Key = (stream, name.into());
        let Some(lease) = book.leases.get(&key) else { return false };
        let (used, envoy) = (lease.used, lease.envoy.clone());
        book.remove(&key);
        // It was not asked for: it is no more recent than it was.
        book.insert(key, terms, envoy, used);
        true
    }

    /// Has one leaf replaced.
    pub fn replace(&self, stream: StreamId, name: &str) {
        let mut book = self.lock();
        book.replace(vec![(stream, name.into())], Replacement::Rotation, |_| true);
    }

    /// Ends a lease that Envoy gave up.
    pub fn release(&self, stream: StreamId, name: &str) {
        let mut book = self.lock();
        if let Some(entry) = book.streams.get_mut(&stream) {
            entry.queue.remove(name);
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

    /// Puts off a replacement that failed.
    pub fn postpone(&self, stream: StreamId, name: &str, until: OffsetDateTime) {
        let mut book = self.lock();
        let key: Key = (stream, name.into());
        let Some(lease) = book.leases.get_mut(&key) else { return };
        let before = lease.terms.renew_at.replace(until);
        if let Some(before) = before {
            book.by_renewal.remove(&(before, key.clone()));
        }
        book.by_renewal.insert((until, key));
    }

    /// Has the leaves that are due replaced, if their names are still wanted; returns how many are not, hence end.
    pub fn renew_due(&self, now: OffsetDateTime, wanted: impl Fn(&HostName) -> bool) -> usize {
        let mut book = self.lock();
        let mut due = Vec::new();
        while let Some((at, key)) = book.by_renewal.first().cloned()
            && at <= now
        {
            book.by_renewal.remove(&(at, key.clone()));
            due.push(key);
        }
        book.replace(due, Replacement::Renewal, wanted).withdrawn
    }

    /// Has all leaves of a CA replaced by ones that its pool's active CA signs, the most recently granted
    /// first; names that are not wanted any more end instead.
    pub fn replace_issued_by(&self, ca: &CaId, wanted: impl Fn(&HostName) -> bool) -> Replaced {
        self.replace_where(|terms| terms.ca == *ca, wanted)
    }

    /// Has all leaves replaced, the most recently granted first; names that are not wanted any more end instead.
    pub fn replace_all(&self, wanted: impl Fn(&HostName) -> bool) -> Replaced {
        self.replace_where(|_| true, wanted)
    }

    fn replace_where(&self, which: impl Fn(&Terms) -> bool, wanted: impl Fn(&HostName) -> bool) -> Replaced {
        let mut book = self.lock();
        let keys = book.keys(which);
        book.replace(keys, Replacement::Rotation, wanted)
    }

    /// Takes back the leases of a CA; those that are pinned are replaced. Returns how many ended,
    /// which `count` is told before any stream can tell.
    pub fn withdraw_issued_by(&self, ca: &CaId, count: impl FnOnce(usize)) -> usize {
        let mut book = self.lock();
        let keys = book.keys(|terms| terms.ca == *ca);
        let (pinned, others): (Vec<Key>, Vec<Key>) =
            keys.into_iter().partition(|key| book.leases.get(key).is_some_and(|lease| lease.terms.pinned));
        book.replace(pinned, Replacement::Rotation, |_| true);
        count(others.len());
        for key in &others {
            book.withdraw(key);
        }
        others.len()
    }

    /// Takes back the leases of the hosts that are not to be kept; returns these hosts.
    pub fn retain(&self, keep: impl Fn(&HostName) -> bool) -> Vec<HostName> {
        let mut book = self.lock();
        let hosts: Vec<HostName> = book.by_host.keys().filter(|host| !keep(host)).cloned().collect();
        hosts.into_iter().filter(|host| book.withdraw_host(host) > 0).collect()
    }

    /// Takes back the leases of one host, or all of them; returns how many.
    pub fn withdraw(&self, host: Option<&HostName>) -> usize {
        let mut book = self.lock();
        if let Some(host) = host {
            return book.withdraw_host(host);
        }
        let keys = book.keys(|terms| !terms.pinned);
        for key in &keys {
            book.withdraw(key);
        }
        keys.len()
    }

    /// Up to `limit` things that a stream is to send.
    pub fn pending(&self, stream: StreamId, limit: usize) -> Vec<(Arc<str>, Push)> {
        let mut book = self.lock();
        let Some(entry) = book.streams.get_mut(&stream) else { return Vec::new() };
        std::iter::from_fn(|| entry.queue.pop()).take(limit).collect()
    }

    /// How many names are leased now.
    pub fn live(&self) -> usize {
        self.lock().leases.len()
    }

    /// How many leaves of each CA are leased now, those included that are about to be replaced. A CA that had some
    /// stays, with zero.
    pub fn live_by_ca(&self) -> BTreeMap<CaId, usize> {
        self.lock().by_ca.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    fn next_use(&mut self) -> u64 {
        self.last_use += 1;
        self.last_use
    }

    fn insert(&mut self, key: Key, terms: Terms, envoy: Arc<str>, used: u64) {
        self.by_host.entry(terms.host.clone()).or_default().insert(key.clone());
        *self.by_ca.entry(terms.ca.clone()).or_default() += 1;
        if let Some(renew_at) = terms.renew_at {
            self.by_renewal.insert((renew_at, key.clone()));
        }
        if !terms.pinned {
            self.by_use.insert(used, key.clone());
            self.by_envoy.entry(envoy.clone()).or_default().insert(used, key.clone());
        }
        self.leases.insert(key, Lease { terms, used, envoy });
    }

    fn remove(&mut self, key: &Key) {
        let Some(lease) = self.leases.remove(key) else { return };
        self.by_use.remove(&lease.used);
        if let Some(uses) = self.by_envoy.get_mut(&lease.envoy) {
            uses.remove(&lease.used);
            if uses.is_empty() {
                self.by_envoy.remove(&lease.envoy);
            }
        }
        if let Some(renew_at) = lease.terms.renew_at {
            self.by_renewal.remove(&(renew_at, key.clone()));
        }
        if let Some(count) = self.by_ca.get_mut(&lease.terms.ca) {
            *count -= 1;
        }
        if let Some(keys) = self.by_host.get_mut(&lease.terms.host) {
            keys.remove(key);
            if keys.is_empty() {
                self.by_host.remove(&lease.terms.host);
            }
        }
    }

    fn touch(&mut self, key: &Key) {
        let used = self.next_use();
        let Some(lease) = self.leases.get_mut(key) else { return };
        if lease.terms.pinned {
            return;
        }
        let before = std::mem::replace(&mut lease.used, used);
        self.by_use.remove(&before);
        self.by_use.insert(used, key.clone());
        if let Some(uses) = self.by_envoy.get_mut(&lease.envoy) {
            uses.remove(&before);
            uses.insert(used, key.clone());
        }
    }

    fn keys(&self, which: impl Fn(&Terms) -> bool) -> Vec<Key> {
        let leases = self.leases.iter().filter(|(_, lease)| which(&lease.terms));
        leases.map(|(key, _)| key.clone()).collect()
    }

    /// Pushes new leaves for these names, the most recently granted first, or ends them.
    fn replace(
        &mut self,
        mut keys: Vec<Key>,
        cause: Replacement,
        wanted: impl Fn(&HostName) -> bool,
    ) -> Replaced {
        keys.sort_by_key(|key| std::cmp::Reverse(self.leases.get(key).map(|lease| lease.used)));
        let mut done = Replaced::default();
        for key in keys {
            let Some(lease) = self.leases.get(&key) else { continue };
            if lease.terms.pinned || wanted(&lease.terms.host) {
                let push = Push::Replace(lease.terms.clone(), cause);
                self.push(&key, push);
                done.replaced += 1;
            } else {
                self.withdraw(&key);
                done.withdrawn += 1;
            }
        }
        done
    }

    fn withdraw_host(&mut self, host: &HostName) -> usize {
        let mut keys: Vec<Key> = self.by_host.get(host).into_iter().flatten().cloned().collect();
        keys.retain(|key| self.leases.get(key).is_some_and(|lease| !lease.terms.pinned));
        for key in &keys {
            self.withdraw(key);
        }
        keys.len()
    }

    fn withdraw(&mut self, key: &Key) {
        self.remove(key);
        self.push(key, Push::Withdraw);
    }

    fn push(&mut self, key: &Key, push: Push) {
        if let Some(stream) = self.streams.get_mut(&key.0) {
            stream.queue.put(&key.1, push);
            stream.wake.notify_one();
        }
    }

    fn oldest_of_envoy_beyond(&self, limit: usize, envoy: &Arc<str>, key: &Key) -> Option<Key> {
        let uses = self.by_envoy.get(envoy)?;
        if uses.len() > limit { oldest_but(key, uses) } else { None }
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

fn oldest_but(key: &Key, uses: &BTreeMap<u64, Key>) -> Option<Key> {
    uses.values().find(|other| *other != key).cloned()
}

impl Queue {
    fn put(&mut self, name: &Arc<str>, push: Push) {
        self.remove(name);
        self.last += 1;
        self.pushes.insert(self.last, (name.clone(), push));
        self.places.insert(name.clone(), self.last);
    }

    fn remove(&mut self, name: &str) {
        if let Some(place) = self.places.remove(name) {
            self.pushes.remove(&place);
        }
    }

    fn pop(&mut self) -> Option<(Arc<str>, Push)> {
        let (_, (name, push)) = self.pushes.pop_first()?;
        self.places.remove(&name);
        Some((name, push))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_the_cap_the_least_recently_granted_or_asked_for_goes() {
        let leases = book(3);
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
        let leases = book(1);
        let ((first, _), (second, _)) = (leases.open(), leases.open());
        let _ = leases.take(first, "a.example", terms("a.example", None));
        let _ = leases.take(second, "a.example", terms("a.example", None));
        assert_eq!(leases.pending(first, 10), [("a.example".into(), Push::Withdraw)]);
        assert_eq!(leases.pending(second, 10), []);
    }

    #[test]
    fn spellings_of_one_host_are_bounded() {
        let leases = book(100);
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
        let leases = book(100);
        let (stream, _) = leases.open();
        let _ = leases.take(stream, "a.example", terms("a.example", None));
        assert_eq!(leases.withdraw(None), 1);
        let _ = leases.take(stream, "a.example", terms("a.example", None));
        assert_eq!(leases.pending(stream, 10), []);
        assert_eq!(leases.live(), 1);
    }

    #[test]
    fn what_is_due_is_pushed_once() {
        let leases = book(100);
        let (stream, _) = leases.open();
        for (name, at) in [("a.example", 10), ("b.example", 20), ("c.example", 30)] {
            let _ = leases.take(stream, name, terms(name, Some(at)));
        }
        leases.release(stream, "a.example");
        assert_eq!(leases.renew_due(at(20), |_| true), 0);
        let due = terms("b.example", Some(20));
        assert_eq!(
            leases.pending(stream, 10),
            [("b.example".into(), Push::Replace(due, Replacement::Renewal))]
        );
        leases.renew_due(at(29), |_| true);
        assert_eq!(leases.pending(stream, 10), []);
        assert_eq!(leases.live(), 2);
    }

    #[test]
    fn a_postponed_renewal_comes_back() {
        let leases = book(100);
        let (stream, _) = leases.open();
        let _ = leases.take(stream, "a.example", terms("a.example", Some(10)));
        leases.renew_due(at(10), |_| true);
        assert_eq!(leases.pending(stream, 10).len(), 1);
        leases.postpone(stream, "a.example", at(70));
        leases.renew_due(at(69), |_| true);
        assert_eq!(leases.pending(stream, 10).len(), 0);
        leases.renew_due(at(70), |_| true);
        assert_eq!(leases.pending(stream, 10).len(), 1);
    }

    #[test]
    fn one_host_is_withdrawn_in_all_spellings_and_streams() {
        let leases = book(100);
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
        let leases = book(1);
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
        let leases = book(100);
        let (stream, _) = leases.open();
        let _ = leases.take(stream, "a.example", terms("a.example", Some(10)));
        leases.close(stream);
        let book = leases.lock();
        assert_eq!(book.leases.len() + book.by_host.len() + book.by_use.len(), 0);
        assert_eq!(book.by_renewal.len() + book.streams.len() + book.by_envoy.len(), 0);
        assert_eq!(book.by_ca.values().sum::<usize>(), 0);
    }

    #[test]
    fn one_envoy_cannot_take_the_room_of_the_others() {
        let leases = Leases::new(Caps { total: 100, per_envoy: Some(2) });
        let ((first, _), (again, _), (second, _)) = (leases.open(), leases.open(), leases.open());
        leases.name(first, "greedy");
        leases.name(again, "greedy");
        leases.name(second, "modest");
        assert_eq!(leases.take(second, "a.example", terms("a.example", None)), []);
        assert_eq!(leases.take(first, "b.example", terms("b.example", None)), []);
        assert_eq!(leases.take(again, "c.example", terms("c.example", None)), []);
        assert_eq!(leases.take(again, "d.example", terms("d.example", None)), [Withdrawal::EnvoyCap]);
        assert_eq!(leases.pending(first, 10), [("b.example".into(), Push::Withdraw)]);
        assert_eq!((leases.pending(second, 10), leases.live()), (vec![], 3));
    }

    #[test]
    fn another_ca_replaces_what_the_old_one_signed_the_most_recently_granted_first() {
        let leases = book(100);
        let (stream, _) = leases.open();
        for name in ["a.example", "b.example", "c.example", "idle.example", "pinned.example"] {
            let _ = leases.take(stream, name, terms(name, None));
        }
        let _ = leases.take(stream, "new.example", signed_by("new", "new.example"));
        leases.touch(&host("b.example"));
        let wanted = |host: &HostName| host.as_str() != "idle.example";
        let expected = Replaced { replaced: 4, withdrawn: 1 };
        assert_eq!(leases.replace_issued_by(&CaId::new("old"), wanted), expected);
        let pushed = leases.pending(stream, 10);
        let order: Vec<(&str, bool)> =
            pushed.iter().map(|(name, push)| (&**name, *push == Push::Withdraw)).collect();
        let expected = [
            ("b.example", false),
            ("idle.example", true),
            ("c.example", false),
            ("a.example", false),
            ("pinned.example", false),
        ];
        assert_eq!(order.iter().collect::<std::collections::BTreeSet<_>>().len(), 5);
        assert_eq!(order.first(), Some(&expected[0]));
        for one in expected {
            assert!(order.contains(&one), "{one:?} in {order:?}");
        }
        // Each is counted as the old one's until its new leaf is there.
        assert_eq!(leases.live_by_ca(), [(CaId::new("new"), 1), (CaId::new("old"), 4)].into());
        assert!(leases.renew(stream, "b.example", signed_by("new", "b.example")));
        assert_eq!(leases.live_by_ca(), [(CaId::new("new"), 2), (CaId::new("old"), 3)].into());
    }

    #[test]
    fn a_new_leaf_makes_a_lease_no_more_recent() {
        let leases = book(2);
        let (stream, _) = leases.open();
        for name in ["a.example", "b.example"] {
            let _ = leases.take(stream, name, terms(name, None));
        }
        assert!(leases.renew(stream, "a.example", signed_by("new", "a.example")));
        let _ = leases.take(stream, "c.example", terms("c.example", None));
        assert_eq!(leases.pending(stream, 10), [("a.example".into(), Push::Withdraw)]);
    }

    #[test]
    fn what_was_withdrawn_while_its_new_leaf_was_made_stays_withdrawn() {
        let leases = book(2);
        let (stream, _) = leases.open();
        let _ = leases.take(stream, "a.example", terms("a.example", Some(10)));
        leases.renew_due(at(10), |_| true);
        assert_eq!(leases.pending(stream, 10).len(), 1);
        assert_eq!(leases.withdraw(None), 1);
        assert!(!leases.renew(stream, "a.example", terms("a.example", Some(20))));
        assert_eq!(leases.pending(stream, 10), [("a.example".into(), Push::Withdraw)]);
    }

    #[test]
    fn a_removed_ca_leaves_nothing_but_what_a_listener_stands_on() {
        let leases = book(100);
        let (stream, _) = leases.open();
        for name in ["a.example", "pinned.example"] {
            let _ = leases.take(stream, name, terms(name, None));
        }
        let _ = leases.take(stream, "new.example", signed_by("new", "new.example"));
        let mut counted = 0;
        assert_eq!(leases.withdraw_issued_by(&CaId::new("old"), |count| counted = count), 1);
        assert_eq!(counted, 1);
        let pinned = Push::Replace(terms("pinned.example", None), Replacement::Rotation);
        let pushed: BTreeMap<Arc<str>, Push> = leases.pending(stream, 10).into_iter().collect();
        assert_eq!(pushed, [("a.example".into(), Push::Withdraw), ("pinned.example".into(), pinned)].into());
    }

    #[test]
    fn leaves_that_are_due_but_not_wanted_end() {
        let leases = book(100);
        let (stream, _) = leases.open();
        let _ = leases.take(stream, "a.example", terms("a.example", Some(10)));
        assert_eq!(leases.renew_due(at(10), |_| false), 1);
        assert_eq!(leases.pending(stream, 10), [("a.example".into(), Push::Withdraw)]);
    }

    #[test]
    fn hosts_that_are_not_to_be_kept_are_named() {
        let leases = book(100);
        let (stream, _) = leases.open();
        for name in ["a.example", "b.example", "pinned.example"] {
            let _ = leases.take(stream, name, terms(name, None));
        }
        assert_eq!(leases.retain(|host| host.as_str() == "a.example"), [host("b.example")]);
        assert_eq!(leases.live(), 2);
    }

    fn book(total: usize) -> Leases {
        Leases::new(Caps { total, per_envoy: None })
    }

    fn signed_by(ca: &str, name: &str) -> Terms {
        Terms { ca: CaId::new(ca), ..terms(name, None) }
    }

    fn terms(name: &str, renew_at: Option<i64>) -> Terms {
        Terms {
            host: host(name),
            pool: PoolName::parse("main").unwrap(),
            ca: CaId::new("old"),
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
