//! What all parts share: the CA, the grants, the leases, and the minting itself.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use aws_lc_rs::rand;
use time::OffsetDateTime;

use crate::audit::{Audit, Event, excerpt};
use crate::ca::key::SignError;
use crate::ca::{Ca, timestamp};
use crate::grants::{Grants, PoolName};
use crate::leaf::{self, Leaf};
use crate::leases::proof::{Issued, Proofs};
use crate::leases::{Leases, Terms, Withdrawal};
use crate::metrics::{DenialReason, Gauges, GrantResult, Metrics};
use crate::resolver::refusal::Refusal;
use crate::resolver::{self, Resolver, ResolverError};
use outgate_policy::HostName;

/// How the service works, apart from where it listens.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The life of a leaf.
    pub leaf_ttl: Duration,
    /// The most names that Envoys may hold at once.
    pub max_leases: usize,
    /// The pools that the CA serves; empty: any.
    pub pools: BTreeSet<PoolName>,
    /// Hosts that need no grant.
    pub served: BTreeSet<HostName>,
}

/// The state of the process.
pub struct Service {
    ca: Ca,
    settings: Settings,
    grants: Grants,
    leases: Leases,
    proofs: Proofs,
    metrics: Metrics,
    audit: Audit,
    socket_serves: AtomicBool,
    resolver: OnceLock<Resolver>,
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
    /// `asked` or `renewal`.
    pub cause: &'a str,
}

/// Why there is no grant.
#[derive(Debug, thiserror::Error)]
pub enum GrantError {
    /// The pool is not served here.
    #[error("this service has no pool `{0}`: start it with `--pool {0}`, or name another pool")]
    UnknownPool(PoolName),
    /// The CA is not valid now.
    #[error("the CA cannot sign now: it is valid until {0}")]
    CannotSign(String),
}

impl GrantError {
    /// What it counts as.
    pub fn result(&self) -> GrantResult {
        match self {
            GrantError::UnknownPool(_) => GrantResult::UnknownPool,
            GrantError::CannotSign(_) => GrantResult::CannotSign,
        }
    }
}

impl Service {
    /// A service that signs with this CA.
    pub fn new(ca: Ca, settings: Settings, audit: Audit) -> Service {
        Service {
            proofs: Proofs::new(&ca),
            ca,
            grants: Grants::default(),
            leases: Leases::new(settings.max_leases),
            settings,
            metrics: Metrics::default(),
            audit,
            socket_serves: AtomicBool::new(false),
            resolver: OnceLock::new(),
        }
    }

    /// Grants a host in a pool.
    pub fn grant(&self, pool: &PoolName, host: &HostName) -> Result<(), GrantError> {
        if !self.settings.pools.is_empty() && !self.settings.pools.contains(pool) {
            return Err(GrantError::UnknownPool(pool.clone()));
        }
        if !self.ca.can_sign(OffsetDateTime::now_utc()) {
            return Err(GrantError::CannotSign(timestamp(self.ca.not_after())));
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
        let minted = if self.ca.can_sign(now) {
            leaf::mint(&self.ca, host, self.settings.leaf_ttl, now)
        } else {
            Err(SignError::CaEnded)
        };
        self.metrics.mint(minted.is_ok(), start.elapsed());
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
            ca: self.ca.id(),
            cause: asker.cause,
            node: asker.node,
        });
        let issued = Issued { pool: pool.clone(), at: now, not_after: leaf.not_after };
        Ok(Minted {
            version: self.proofs.version(host, &issued, &serial),
            terms: self.terms(host, &issued),
            leaf,
        })
    }

    /// The pool that signs for a name that Envoy asks for.
    pub fn granted_pool(&self, host: &HostName) -> Option<PoolName> {
        if self.settings.served.contains(host) {
            return self.settings.pools.first().cloned().or_else(|| PoolName::parse("main").ok());
        }
        self.grants.pool_of(host, Instant::now())
    }

    /// The terms of a name that Envoy holds from before, if its version proves that it may.
    pub fn recognise(&self, host: &HostName, version: &str, now: OffsetDateTime) -> Option<Terms> {
        let issued = self.proofs.prove(host, version, now)?;
        // The filters' grants for it may have begun just before we did.
        self.grants.grant(&issued.pool, host, Instant::now());
        self.metrics.leases_kept.increment();
        Some(self.terms(host, &issued))
    }

    /// Takes back the grants and leases of one host, or all; returns how many leases there were.
    pub fn withdraw(&self, host: Option<&HostName>) -> usize {
        self.grants.withdraw(host);
        self.proofs.recall(host, OffsetDateTime::now_utc());
        let leases = self.leases.withdraw(host);
        self.count_withdrawn(Withdrawal::Order, host, leases);
        leases
    }

    /// Counts leases taken back, and writes a line.
    pub fn count_withdrawn(&self, reason: Withdrawal, host: Option<&HostName>, leases: usize) {
        self.metrics.withdrawn(reason, leases);
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

    /// What is to be done again and again: renewals, and forgetting what has ended.
    pub fn tick(&self, now: OffsetDateTime) {
        self.leases.renew_due(now);
        self.grants.forget_ended(Instant::now());
    }

    /// When a leaf is to be replaced: at two thirds of its life, a tenth of that earlier or later.
    fn terms(&self, host: &HostName, issued: &Issued) -> Terms {
        let life = issued.not_after - issued.at;
        // A leaf that ends with the CA has no better successor.
        let renewable = issued.not_after < self.ca.not_after();
        let renew_at = renewable.then(|| issued.at.saturating_add(life * (2.0 / 3.0 * jitter())));
        Terms {
            host: host.clone(),
            pool: issued.pool.clone(),
            pinned: self.settings.served.contains(host),
            renew_at,
        }
    }

    /// The readiness latches by name.
    pub fn latches(&self) -> Vec<(&'static str, bool)> {
        let mut latches = vec![
            ("ca", self.ca.can_sign(OffsetDateTime::now_utc())),
            ("socket", self.socket_serves.load(Ordering::Relaxed)),
        ];
        latches.extend(self.resolver().map(|resolver| ("resolver", resolver.is_ready())));
        latches
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
            ca: self.ca.id(),
            ca_not_after: self.ca.not_after().unix_timestamp(),
            live_leases: self.leases.live(),
            granted_hosts: self.grants.hosts(),
            ready: self.latches().iter().all(|(_, open)| *open),
            audit_lines_dropped: self.audit.dropped(),
        });
        page.extend(self.resolver().map(Resolver::render_metrics));
        page
    }

    /// The CA.
    pub fn ca(&self) -> &Ca {
        &self.ca
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
