//! Which hosts may have a certificate, and from which pool.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use outgate_policy::HostName;

/// How long filters may count on a grant; they renew theirs at half of it.
pub const LIFETIME: Duration = Duration::from_secs(600);

/// How long a grant is kept: a tunnel that was opened at its last moment has its handshake still to come.
const KEPT: Duration = LIFETIME.saturating_add(Duration::from_secs(30));

/// More hosts than any proxy meets in ten minutes; beyond it the oldest grants go.
const CAPACITY: usize = 200_000;

/// The name of a CA pool: letters, digits, `-` and `_`, at most 63.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PoolName(Arc<str>);

/// Why a text is no pool name.
#[derive(Debug, thiserror::Error)]
#[error("`{}` is not a pool name: it takes 1 to 63 letters, digits, `-` or `_`", .0.escape_debug())]
pub struct PoolNameError(String);

impl PoolName {
    /// Reads a pool name.
    pub fn parse(text: &str) -> Result<PoolName, PoolNameError> {
        let fits = (1..=63).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        if fits { Ok(PoolName(text.into())) } else { Err(PoolNameError(text.chars().take(64).collect())) }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for PoolName {
    type Err = PoolNameError;

    fn from_str(text: &str) -> Result<PoolName, PoolNameError> {
        PoolName::parse(text)
    }
}

impl fmt::Display for PoolName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// The grants in force, in memory only.
#[derive(Default)]
pub struct Grants {
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    hosts: HashMap<HostName, Vec<Grant>>,
    ends: BTreeSet<(Instant, HostName, PoolName)>,
}

struct Grant {
    pool: PoolName,
    end: Instant,
}

impl Grants {
    /// Grants a host for [`LIFETIME`], from now on if it was granted already.
    pub fn grant(&self, pool: &PoolName, host: &HostName, now: Instant) {
        let mut book = self.lock();
        let end = now + KEPT;
        book.remove(pool, host);
        // The last one asked for decides which pool signs.
        book.hosts.entry(host.clone()).or_default().push(Grant { pool: pool.clone(), end });
        book.ends.insert((end, host.clone(), pool.clone()));
        book.forget(now);
    }

    /// The pool that was granted last for a host.
    pub fn pool_of(&self, host: &HostName, now: Instant) -> Option<PoolName> {
        let book = self.lock();
        let grants = book.hosts.get(host)?;
        grants.iter().rev().find(|grant| grant.end > now).map(|grant| grant.pool.clone())
    }

    /// Takes back the grants of one host, or of all.
    pub fn withdraw(&self, host: Option<&HostName>) {
        let mut book = self.lock();
        let Some(host) = host else {
            *book = Book::default();
            return;
        };
        for grant in book.hosts.remove(host).unwrap_or_default() {
            book.ends.remove(&(grant.end, host.clone(), grant.pool));
        }
    }

    /// Takes back the grants of the hosts that are not to be kept.
    pub fn retain(&self, keep: impl Fn(&HostName) -> bool) {
        let hosts: Vec<HostName> = self.lock().hosts.keys().filter(|host| !keep(host)).cloned().collect();
        for host in &hosts {
            self.withdraw(Some(host));
        }
    }

    /// Forgets what has ended, so that a quiet service keeps nothing.
    pub fn forget_ended(&self, now: Instant) {
        self.lock().forget(now);
    }

    /// The hosts with a grant, ended ones that are not yet forgotten included.
    pub fn hosts(&self) -> usize {
        self.lock().hosts.len()
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    fn remove(&mut self, pool: &PoolName, host: &HostName) {
        let Some(grants) = self.hosts.get_mut(host) else { return };
        if let Some(place) = grants.iter().position(|grant| grant.pool == *pool) {
            let grant = grants.remove(place);
            self.ends.remove(&(grant.end, host.clone(), grant.pool));
        }
        if grants.is_empty() {
            self.hosts.remove(host);
        }
    }

    fn forget(&mut self, now: Instant) {
        while let Some((end, host, pool)) = self.ends.first().cloned()
            && (end <= now || self.ends.len() > CAPACITY)
        {
            self.remove(&pool, &host);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_is_for_one_host_and_a_little_more_than_ten_minutes() {
        let (grants, now) = (Grants::default(), Instant::now());
        grants.grant(&pool("main"), &host("a.example"), now);
        assert_eq!(grants.pool_of(&host("a.example"), now), Some(pool("main")));
        assert_eq!(grants.pool_of(&host("b.example"), now), None);
        let later = now + KEPT - Duration::from_millis(1);
        assert_eq!(grants.pool_of(&host("a.example"), later), Some(pool("main")));
        assert!(later > now + LIFETIME, "longer than the filters count on it");
        assert_eq!(grants.pool_of(&host("a.example"), now + KEPT), None);
        grants.forget_ended(now + KEPT);
        assert_eq!(grants.hosts(), 0);
    }

    #[test]
    fn a_renewed_grant_lasts_from_its_renewal() {
        let (grants, now) = (Grants::default(), Instant::now());
        grants.grant(&pool("main"), &host("a.example"), now);
        grants.grant(&pool("main"), &host("a.example"), now + KEPT / 2);
        grants.forget_ended(now + KEPT);
        assert_eq!(grants.pool_of(&host("a.example"), now + KEPT), Some(pool("main")));
    }

    #[test]
    fn the_pool_that_was_granted_last_signs() {
        let (grants, now) = (Grants::default(), Instant::now());
        grants.grant(&pool("main"), &host("a.example"), now);
        grants.grant(&pool("other"), &host("a.example"), now + Duration::from_secs(1));
        assert_eq!(grants.pool_of(&host("a.example"), now), Some(pool("other")));
        grants.grant(&pool("main"), &host("a.example"), now + Duration::from_secs(2));
        assert_eq!(grants.pool_of(&host("a.example"), now), Some(pool("main")));
    }

    #[test]
    fn a_withdrawn_grant_is_gone() {
        let (grants, now) = (Grants::default(), Instant::now());
        for name in ["a.example", "b.example", "c.example"] {
            grants.grant(&pool("main"), &host(name), now);
        }
        grants.withdraw(Some(&host("a.example")));
        assert_eq!(grants.pool_of(&host("a.example"), now), None);
        assert_eq!(grants.hosts(), 2);
        grants.withdraw(None);
        assert_eq!(grants.hosts(), 0);
    }

    #[test]
    fn memory_is_bounded_and_the_newest_grants_stay() {
        let (grants, now) = (Grants::default(), Instant::now());
        for number in 0..CAPACITY + 10 {
            grants.grant(
                &pool("main"),
                &host(&format!("h{number}.example")),
                now + Duration::from_nanos(number as u64),
            );
        }
        assert_eq!(grants.hosts(), CAPACITY);
        assert_eq!(grants.pool_of(&host("h9.example"), now), None);
        assert_eq!(grants.pool_of(&host("h10.example"), now), Some(pool("main")));
    }

    #[test]
    fn pool_names() {
        for good in ["main", "a", "A-1_b"] {
            assert_eq!(PoolName::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "a b", "a.b", "a:b", "a/b", "é", "\0", &"a".repeat(64)] {
            assert!(PoolName::parse(bad).is_err(), "{bad:?}");
        }
    }

    fn pool(name: &str) -> PoolName {
        PoolName::parse(name).unwrap()
    }

    fn host(name: &str) -> HostName {
        HostName::parse(name).unwrap()
    }
}
