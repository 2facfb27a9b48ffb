//! What all parts share: the CA, the grants, the leases, and the minting itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use aws_lc_rs::rand;
use time::OffsetDateTime;

use crate::admission::{Admission, AdmissionError};
use crate::audit::{Audit, Event, excerpt};
use crate::ca::key::SignError;
use crate::ca::{Ca, timestamp};
use crate::grants::{Grants, PoolName};
use crate::leaf::{self, Leaf};
use crate::leases::proof::{Issued, Proofs};
use crate::leases::{CaId, Caps, Leases, Replaced, Replacement, Terms, Withdrawal};
use crate::metrics::{DenialReason, Gauges, GrantResult, Metrics};
use crate::pools::{CaState, Pools};
use crate::reload::Reloader;
use crate::resolver::refusal::Refusal;
use crate::resolver::{self, Resolver, ResolverError};
use outgate_policy::{Engine, HostName};

/// How the service works, apart from where it listens.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The life of a leaf.
    pub leaf_ttl: Duration,
    /// How many names Envoys may hold at once.
    pub caps: Caps,
    /// Hosts that need no grant.
    pub served: BTreeSet<HostName>,
}

/// The state of the process.
pub struct Service {
    pools: RwLock<Arc<Pools>>,
    reloader: Reloader,
    settings: Settings,
    admission: Admission,
    grants: Grants,
    leases: Leases,
    proofs: Proofs,
    metrics: Metrics,
    audit: Audit,
    socket_serves: AtomicBool,
    resolver: OnceLock<Resolver>,
}

/// What a change of the pools did to the leases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolsChange {
    /// Those whose CA signs no more.
    pub replaced: Replaced,
    /// Those whose CA is gone.
    pub withdrawn: usize,
}

/// A leaf and the terms on which an Envoy gets it.
pub struct Minted {
    /// The leaf.
    pub leaf: Leaf,
    /// Its resource version.
    pub version: String,
    /// The lease.
    pub terms: Terms,
}

/// Who wants a leaf, for the audit line.
#[derive(Clone, Copy)]
pub struct Asker<'a> {
    /// The name as Envoy spells it.
    pub name: &'a str,
    /// Envoy's node id.
    pub node: &'a str,
    /// `asked`, `renewal` or `rotation`.
    pub cause: &'a str,
}

/// Why a name gets no certificate, or may have one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// This pool signs for it.
    By(PoolName),
    /// It gets none.
    No(DenialReason),
}

/// Why there is no grant.
#[derive(Debug, thiserror::Error)]
pub enum GrantError {
    /// The pool is not served here.
    #[error(
        "this service has no pool `{0}`: start it with `--pool {0}`, add it to the configuration file, or name another pool"
    )]
    UnknownPool(PoolName),
    /// The CA is not valid now.
    #[error("the CA cannot sign now: it is valid until {0}")]
    CannotSign(String),
    /// An operator stopped all minting.
    #[error("an operator stopped all minting: post `{{\"stopped\": false}}` to `/v1/stop` to let it go on")]
    Stopped,
    /// The allowlist does not have the host.
    #[error(
        "no rule of the allowlist inspects `{0}`: give `--allowlist` the policy that Envoy's filters have"
    )]
    NotAllowed(HostName),
}

impl GrantError {
    /// What it counts as.
    pub fn result(&self) -> GrantResult {
        match self {
            GrantError::UnknownPool(_) => GrantResult::UnknownPool,
            GrantError::CannotSign(_) => GrantResult::CannotSign,
            GrantError::Stopped => GrantResult::Stopped,
            GrantError::NotAllowed(_) => GrantResult::NotAllowed,
        }
    }
}

impl Service {
    /// A service that signs with the active CAs of these pools.
    pub fn new(
        reloader: Reloader,
        pools: Pools,
        settings: Settings,
        admission: Admission,
        audit: Audit,
    ) -> Service {
        let proofs = Proofs::default();
        for ca in pools.authorities().values() {
            proofs.know(ca);
        }
        Service {
            proofs,
            pools: RwLock::new(Arc::new(pools)),
            reloader,
            grants: Grants::default(),
            leases: Leases::new(settings.caps),
            settings,
            admission,
            metrics: Metrics::default(),
            audit,
            socket_serves: AtomicBool::new(false),
            resolver: OnceLock::new(),
        }
    }

    /// Grants a host in a pool.
    pub fn grant(&self, pool: &PoolName, host: &HostName) -> Result<(), GrantError> {
        let ca = self.active(pool).ok_or_else(|| GrantError::UnknownPool(pool.clone()))?;
        if !ca.can_sign(OffsetDateTime::now_utc()) {
            return Err(GrantError::CannotSign(timestamp(ca.not_after())));
        }
        if self.admission.is_stopped() {
            return Err(GrantError::Stopped);
        }
        if self.admission.allows(host) == Some(false) {
            return Err(GrantError::NotAllowed(host.clone()));
        }
        self.grants.grant(pool, host, Instant::now());
        self.leases.touch(host);
        Ok(())
    }

    /// Mints a leaf, counts it and writes its line.
    pub fn mint(
        &self,
        pool: &PoolName,
        host: &HostName,
        asker: Asker<'_>,
        now: OffsetDateTime,
    ) -> Result<Minted, SignError> {
        let start = Instant::now();
        let ca = self.active(pool).ok_or(SignError::NoPool)?;
        let minted = if ca.can_sign(now) {
            leaf::mint(&ca, host, self.settings.leaf_ttl, now)
        } else {
            Err(SignError::CaEnded)
        };
        self.metrics.mint(ca.id(), minted.is_ok(), start.elapsed());
        let leaf = minted?;
        let serial = leaf.serial.to_hex();
        self.audit.log(&Event::Mint {
            name: excerpt(asker.name),
            host: host.as_str(),
            pool: pool.as_str(),
            serial: &serial,
            sha256: &leaf.sha256(),
            not_before: &timestamp(leaf.not_before),
            not_after: &timestamp(leaf.not_after),
            ca: ca.id(),
            cause: asker.cause,
            node: asker.node,
        });
        let issued =
            Issued { pool: pool.clone(), ca: CaId::new(ca.id()), at: now, not_after: leaf.not_after };
        Ok(Minted {
            version: self.proofs.version(host, &issued, &serial),
            terms: self.terms(host, &issued),
            leaf,
        })
    }

    /// Whether a name that Envoy asks for gets a certificate, and from which pool.
    pub fn admits(&self, host: &HostName) -> Admitted {
        if self.settings.served.contains(host) {
            return self.pools().first_name().map_or(Admitted::No(DenialReason::NotGranted), Admitted::By);
        }
        if self.admission.is_stopped() {
            return Admitted::No(DenialReason::Stopped);
        }
        let pool = match self.admission.allows(host) {
            None => self.grants.pool_of(host, Instant::now()),
            Some(true) => self.admission.allowed_pool().and_then(|name| PoolName::parse(&name).ok()),
            Some(false) => None,
        };
        // A pool may be gone since it was granted.
        pool.filter(|pool| self.pools().get(pool).is_some())
            .map_or(Admitted::No(DenialReason::NotGranted), Admitted::By)
    }

    /// Whether a host that is leased may go on so.
    fn wants(&self, host: &HostName) -> bool {
        matches!(self.admits(host), Admitted::By(_))
    }

    /// The terms of a name that Envoy holds from before, if its version proves that it may.
    pub fn recognise(&self, host: &HostName, version: &str, now: OffsetDateTime) -> Option<Terms> {
        let issued = self.proofs.prove(host, version, now)?;
        let pinned = self.settings.served.contains(host);
        if !self.pools().has(&issued.pool, &issued.ca) {
            return None;
        }
        if self.admission.is_stopped() && !pinned || self.admission.allows(host) == Some(false) {
            return None;
        }
        // The filters' grants for it may have begun just before we did.
        self.grants.grant(&issued.pool, host, Instant::now());
        self.metrics.leases_kept.increment();
        Some(self.terms(host, &issued))
    }

    /// Takes back the grants and leases of one host, or all; returns how many leases there were.
    pub fn withdraw(&self, host: Option<&HostName>) -> usize {
        self.grants.withdraw(host);
        self.proofs.recall(host.map(std::slice::from_ref), OffsetDateTime::now_utc());
        if host.is_none() {
            self.admission.recall();
        }
        let leases = self.leases.withdraw(host);
        self.count_withdrawn(Withdrawal::Order, host, leases);
        leases
    }

    /// Takes back the grants and leases of the hosts that no rule of this policy inspects any more; returns how many
    /// hosts had leases.
    pub fn follow_policy(&self, policy: &Engine) -> usize {
        let keep = |host: &HostName| policy.may_inspect(host);
        self.grants.retain(keep);
        let withdrawn = self.leases.retain(keep);
        self.proofs.recall(Some(&withdrawn), OffsetDateTime::now_utc());
        if !withdrawn.is_empty() {
            self.count_withdrawn(Withdrawal::Policy, None, withdrawn.len());
        }
        withdrawn.len()
    }

    /// Stops all minting and takes back every lease, or lets minting go on; returns how many leases there were. An
    /// order that cannot be kept over a restart is in force nevertheless.
    pub fn set_stopped(&self, stopped: bool) -> (usize, Result<(), AdmissionError>) {
        let kept = self.admission.set_stopped(stopped);
        self.audit.log(&Event::Warning {
            message: if stopped { "minting was stopped by an order" } else { "minting goes on by an order" },
        });
        (if stopped { self.withdraw(None) } else { 0 }, kept)
    }

    /// Another CA signs now: every lease of the old one gets a new leaf, the most recently granted first.
    pub fn rotate_from(&self, old: &CaId) -> Replaced {
        self.count_replaced(self.leases.replace_issued_by(old, |host| self.wants(host)))
    }

    /// Every lease gets a new leaf.
    pub fn replace_all(&self) -> Replaced {
        self.count_replaced(self.leases.replace_all(|host| self.wants(host)))
    }

    /// A CA is not to be used any more: its leaves are taken back at once; returns how many.
    pub fn remove_ca(&self, ca: &CaId) -> usize {
        self.proofs.forget(ca);
        let reason = Withdrawal::CaRemoved;
        let leases = self.leases.withdraw_issued_by(ca, |leases| self.metrics.withdrawn(reason, leases));
        self.log_withdrawn(reason, None, leases);
        leases
    }

    /// The CA that signs for a pool now.
    pub fn signing_ca(&self, pool: &PoolName) -> Option<CaId> {
        Some(CaId::new(self.active(pool)?.id()))
    }

    fn active(&self, pool: &PoolName) -> Option<Arc<Ca>> {
        self.pools().get(pool).map(|pool| pool.active().clone())
    }

    /// Signs with another CA from now on in every pool, and replaces what the others signed.
    pub fn set_ca(&self, ca: Ca) -> Replaced {
        self.set_pools(self.pools().succeeded_by(ca)).replaced
    }

    /// These pools are in force from now on. What a CA signed that is gone is taken back; what one signed that does not
    /// sign any more, or whose chain is another, is replaced.
    pub fn set_pools(&self, pools: Pools) -> PoolsChange {
        let (after, new_states) = (pools.authorities(), pools.states());
        for ca in after.values() {
            self.proofs.know(ca);
        }
        let old = {
            let mut current = self.pools.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *current, Arc::new(pools))
        };
        let (before, old_states) = (old.authorities(), old.states());
        self.log_states(&old_states, &new_states, |id| after.get(id).or_else(|| before.get(id)).cloned());
        let mut change = PoolsChange::default();
        for (id, ca) in &before {
            let Some(now) = after.get(id) else {
                change.withdrawn += self.remove_ca(id);
                continue;
            };
            let signs_no_more = old_states.iter().any(|(place, state)| {
                place.1 == *id && *state == CaState::Active && new_states.get(place) != Some(&CaState::Active)
            });
            let left_a_pool =
                old_states.keys().any(|place| place.1 == *id && !new_states.contains_key(place));
            if signs_no_more || left_a_pool || now.chain_pem() != ca.chain_pem() {
                let done = self.rotate_from(id);
                change.replaced.replaced += done.replaced;
                change.replaced.withdrawn += done.withdrawn;
            }
        }
        change
    }

    /// Writes a line for each CA whose state in a pool is another now.
    fn log_states(
        &self,
        old: &BTreeMap<(String, CaId), CaState>,
        new: &BTreeMap<(String, CaId), CaState>,
        ca: impl Fn(&CaId) -> Option<Arc<Ca>>,
    ) {
        let places: BTreeSet<&(String, CaId)> = old.keys().chain(new.keys()).collect();
        for place in places {
            let (from, to) = (old.get(place).copied(), new.get(place).copied().unwrap_or(CaState::Retired));
            if from == Some(to) {
                continue;
            }
            self.audit.log(&Event::CaState {
                pool: &place.0,
                ca: place.1.as_str(),
                subject: ca(&place.1).as_deref().map_or("", Ca::subject_text),
                from: from.map(CaState::as_str),
                to: to.as_str(),
            });
        }
    }

    fn count_replaced(&self, done: Replaced) -> Replaced {
        if done.withdrawn > 0 {
            self.count_withdrawn(Withdrawal::Idle, None, done.withdrawn);
        }
        done
    }

    /// Counts a leaf that took another's place.
    pub fn count_replacement(&self, cause: Replacement) {
        match cause {
            Replacement::Renewal => self.metrics.renewals.increment(),
            Replacement::Rotation => self.metrics.rotations.increment(),
        }
    }

    /// Counts leases taken back, and writes a line.
    pub fn count_withdrawn(&self, reason: Withdrawal, host: Option<&HostName>, leases: usize) {
        self.metrics.withdrawn(reason, leases);
        self.log_withdrawn(reason, host, leases);
    }

    fn log_withdrawn(&self, reason: Withdrawal, host: Option<&HostName>, leases: usize) {
        self.audit.log(&Event::Withdrawn {
            reason: reason.as_str(),
            host: host.map(HostName::as_str),
            leases,
        });
    }

    /// Counts a name that gets no certificate, and writes its line.
    pub fn deny(&self, name: &str, reason: DenialReason, node: &str) {
        self.metrics.denial(reason);
        self.audit.log(&Event::Denial {
            name: excerpt(name),
            pool: None,
            reason: reason.as_str(),
            node: Some(node),
        });
    }

    /// Counts a client over TCP that was turned away, and writes its line.
    pub fn refuse_peer(&self, peer: &str, message: &str) {
        self.metrics.peers_refused.increment();
        self.audit.log(&Event::PeerRefused { peer, message: excerpt(message) });
    }

    /// What is to be done again and again: renewals, and forgetting what has ended.
    pub fn tick(&self, now: OffsetDateTime) {
        let idle = self.leases.renew_due(now, |host| self.wants(host));
        if idle > 0 {
            self.count_withdrawn(Withdrawal::Idle, None, idle);
        }
        self.grants.forget_ended(Instant::now());
        match self.admission.tick(Instant::now()) {
            Some(Ok(())) => {
                if let Some(policy) = self.admission.policy() {
                    self.follow_policy(&policy);
                }
            }
            Some(Err(error)) => self.audit.log(&Event::Warning { message: &error.to_string() }),
            None => {}
        }
    }

    /// When a leaf is to be replaced: at two thirds of its life, a tenth of that earlier or later.
    fn terms(&self, host: &HostName, issued: &Issued) -> Terms {
        let life = issued.not_after - issued.at;
        // A leaf that ends with the CA has no better successor.
        let renewable = self.active(&issued.pool).is_some_and(|ca| issued.not_after < ca.not_after());
        let renew_at = renewable.then(|| issued.at.saturating_add(life * (2.0 / 3.0 * jitter())));
        Terms {
            host: host.clone(),
            pool: issued.pool.clone(),
            ca: issued.ca.clone(),
            pinned: self.settings.served.contains(host),
            renew_at,
        }
    }

    /// The readiness latches by name.
    pub fn latches(&self) -> Vec<(&'static str, bool)> {
        let mut latches = vec![
            ("ca", self.can_sign(OffsetDateTime::now_utc())),
            ("socket", self.socket_serves.load(Ordering::Relaxed)),
        ];
        latches.extend(self.resolver().map(|resolver| ("resolver", resolver.is_ready())));
        latches
    }

    /// Whether every latch is open.
    pub fn is_ready(&self) -> bool {
        self.latches().iter().all(|(_, open)| *open)
    }

    /// The resolver, if there is one.
    pub fn resolver(&self) -> Option<&Resolver> {
        self.resolver.get()
    }

    /// Adds a resolver; only the first one counts.
    pub async fn start_resolver(self: &Arc<Self>, settings: resolver::Settings) -> Result<(), ResolverError> {
        let service = Arc::downgrade(self);
        let log = move |refusal: &Refusal| {
            if let Some(service) = service.upgrade() {
                service.audit.write(refusal);
            }
        };
        // A second one would end here, when it is dropped.
        let _ = self.resolver.set(Resolver::start(settings, Box::new(log)).await?);
        Ok(())
    }

    /// Whether a name leads to an address that nobody may reach; none without a resolver.
    pub async fn refuses(&self, host: &HostName) -> Option<bool> {
        Some(self.resolver.get()?.refuses(host).await)
    }

    /// Says whether the Unix socket serves.
    pub fn set_socket_serves(&self, serves: bool) {
        self.socket_serves.store(serves, Ordering::Relaxed);
    }

    /// The page that Prometheus reads.
    pub fn render_metrics(&self) -> String {
        let mut page = self.metrics.render(&Gauges {
            pools: &self.pools(),
            live_leases: self.leases.live_by_ca(),
            granted_hosts: self.grants.hosts(),
            ready: self.is_ready(),
            stopped: self.admission.is_stopped(),
            audit_lines_dropped: self.audit.dropped(),
        });
        page.extend(self.resolver().map(Resolver::render_metrics));
        page
    }

    /// Whether every pool has a CA that can sign.
    fn can_sign(&self, now: OffsetDateTime) -> bool {
        self.pools().all().all(|(_, pool)| pool.active().can_sign(now))
    }

    /// The pools in force.
    pub fn pools(&self) -> Arc<Pools> {
        self.pools.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The CA that signs for the first pool.
    pub fn ca(&self) -> Option<Arc<Ca>> {
        self.pools().first().map(|pool| pool.active().clone())
    }

    /// Where the pools are from.
    pub fn reloader(&self) -> &Reloader {
        &self.reloader
    }

    /// The grants.
    pub fn grants(&self) -> &Grants {
        &self.grants
    }

    /// Which names are minted for.
    pub fn admission(&self) -> &Admission {
        &self.admission
    }

    /// The leases.
    pub fn leases(&self) -> &Leases {
        &self.leases
    }

    /// The counters.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The audit log.
    pub fn audit(&self) -> &Audit {
        &self.audit
    }
}

/// A factor from 0.9 to 1.1, so that names handed out together are not renewed together.
fn jitter() -> f64 {
    let mut byte = [0; 1];
    // Without randomness nothing could be minted either.
    let _ = rand::fill(&mut byte);
    0.9 + 0.2 * f64::from(u8::from_be_bytes(byte)) / 255.0
}
