//! Prometheus metrics, none of them by host.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use crate::leases::{CaId, Withdrawal};
use crate::pools::Pools;

/// What a request for a grant came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantResult {
    /// Granted.
    Granted,
    /// The request or the host cannot be read.
    BadRequest,
    /// No pool of this name.
    UnknownPool,
    /// The CA cannot sign now.
    CannotSign,
    /// An operator stopped all minting.
    Stopped,
    /// The allowlist does not have the host.
    NotAllowed,
}

/// Why a name that Envoy asked for got no certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DenialReason {
    /// Nothing granted it.
    NotGranted,
    /// It is no host name.
    BadName,
    /// Signing failed.
    CannotSign,
    /// An operator stopped all minting.
    Stopped,
    /// Its Envoy asked for too many new names at once.
    Throttled,
}

impl GrantResult {
    const ALL: [GrantResult; 6] = [
        GrantResult::Granted,
        GrantResult::BadRequest,
        GrantResult::UnknownPool,
        GrantResult::CannotSign,
        GrantResult::Stopped,
        GrantResult::NotAllowed,
    ];

    /// The stable name in metrics, lines and problem documents.
    pub fn as_str(self) -> &'static str {
        match self {
            GrantResult::Granted => "granted",
            GrantResult::BadRequest => "bad_request",
            GrantResult::UnknownPool => "unknown_pool",
            GrantResult::CannotSign => "cannot_sign",
            GrantResult::Stopped => "stopped",
            GrantResult::NotAllowed => "not_allowed",
        }
    }
}

impl DenialReason {
    const ALL: [DenialReason; 5] = [
        DenialReason::NotGranted,
        DenialReason::BadName,
        DenialReason::CannotSign,
        DenialReason::Stopped,
        DenialReason::Throttled,
    ];

    /// The stable name in metrics and lines.
    pub fn as_str(self) -> &'static str {
        match self {
            DenialReason::NotGranted => "not_granted",
            DenialReason::BadName => "bad_name",
            DenialReason::CannotSign => "cannot_sign",
            DenialReason::Stopped => "stopped",
            DenialReason::Throttled => "throttled",
        }
    }
}

/// Counters of the process.
#[derive(Default)]
pub struct Metrics {
    mints: RwLock<BTreeMap<CaId, Arc<Mints>>>,
    mint_seconds: Histogram,
    reloads_ok: Counter,
    reloads_failed: Counter,
    last_reload_failed: AtomicBool,
    grants: [Counter; 6],
    denials: [Counter; 5],
    withdrawn: [Counter; 8],
    /// Renewals pushed.
    pub renewals: Counter,
    /// Leaves replaced because another CA signs.
    pub rotations: Counter,
    /// Names that Envoy held from before and went on with.
    pub leases_kept: Counter,
    /// Clients of `--listen` that were turned away.
    pub peers_refused: Counter,
    /// NACKs.
    pub nacks: Counter,
    /// Streams ever opened.
    pub streams_opened: Counter,
    /// Streams ended.
    pub streams_closed: Counter,
}

/// What one CA minted.
#[derive(Default)]
struct Mints {
    ok: Counter,
    failed: Counter,
}

/// A number that only grows.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Adds any number.
    pub fn add(&self, number: u64) {
        self.0.fetch_add(number, Ordering::Relaxed);
    }

    /// The number now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper bounds of the time that a mint takes: a P-256 CA needs 60 µs, RSA and tokens milliseconds.
const MINT_TIMES: [Duration; 10] = [
    Duration::from_micros(50),
    Duration::from_micros(100),
    Duration::from_micros(250),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2_500),
    Duration::from_millis(10),
    Duration::from_millis(50),
    Duration::from_millis(250),
    Duration::from_secs(1),
];

/// How often something took how long.
#[derive(Default)]
struct Histogram {
    /// What took no longer than each of [`MINT_TIMES`], but longer than the one before.
    within: [Counter; MINT_TIMES.len()],
    /// What took longer than all of them.
    beyond: Counter,
    nanoseconds: Counter,
}

impl Histogram {
    fn observe(&self, took: Duration) {
        let within = MINT_TIMES.iter().zip(&self.within).find(|(bound, _)| took <= **bound);
        within.map_or(&self.beyond, |(_, bucket)| bucket).increment();
        self.nanoseconds.add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }
}

/// What is known elsewhere and shown with the counters.
pub struct Gauges<'a> {
    /// The pools in force.
    pub pools: &'a Pools,
    /// Names leased now, by the CA that signed.
    pub live_leases: BTreeMap<CaId, usize>,
    /// Hosts granted now.
    pub granted_hosts: usize,
    /// Whether the service is ready.
    pub ready: bool,
    /// Whether an operator stopped all minting.
    pub stopped: bool,
    /// Audit lines dropped.
    pub audit_lines_dropped: u64,
}

impl Metrics {
    /// Counts a mint.
    pub fn mint(&self, ca: &str, succeeded: bool, took: Duration) {
        let mints = self.mints_of(&CaId::new(ca));
        if succeeded { &mints.ok } else { &mints.failed }.increment();
        self.mint_seconds.observe(took);
    }

    fn mints_of(&self, ca: &CaId) -> Arc<Mints> {
        if let Some(known) = self.mints.read().unwrap_or_else(PoisonError::into_inner).get(ca) {
            return known.clone();
        }
        self.mints.write().unwrap_or_else(PoisonError::into_inner).entry(ca.clone()).or_default().clone()
    }

    /// Counts a reload.
    pub fn reload(&self, succeeded: bool) {
        if succeeded { &self.reloads_ok } else { &self.reloads_failed }.increment();
        self.last_reload_failed.store(!succeeded, Ordering::Relaxed);
    }

    /// Counts a request for a grant.
    pub fn grant(&self, result: GrantResult) {
        count(&GrantResult::ALL, &self.grants, &result);
    }

    /// Counts a name that got no certificate.
    pub fn denial(&self, reason: DenialReason) {
        count(&DenialReason::ALL, &self.denials, &reason);
    }

    /// Counts leases taken back.
    pub fn withdrawn(&self, reason: Withdrawal, leases: usize) {
        for (known, counter) in Withdrawal::ALL.iter().zip(&self.withdrawn) {
            if *known == reason {
                counter.add(u64::try_from(leases).unwrap_or(u64::MAX));
            }
        }
    }

    /// The page that Prometheus reads.
    pub fn render(&self, gauges: &Gauges<'_>) -> String {
        let mut page = Page::default();
        // Also those that have minted nothing yet, or are gone.
        let authorities = gauges.pools.authorities();
        for ca in authorities.keys() {
            self.mints_of(ca);
        }
        let mints = self.mints.read().unwrap_or_else(PoisonError::into_inner).clone();
        page.family("mints_total", "counter", "Leaf certificates minted, by CA and result.");
        for (ca, mints) in &mints {
            page.sample("mints_total", &[("ca", ca.as_str()), ("result", "ok")], mints.ok.get());
            page.sample("mints_total", &[("ca", ca.as_str()), ("result", "error")], mints.failed.get());
        }
        page.family("mint_seconds", "histogram", "Time that a mint took, key generation included.");
        page.histogram("mint_seconds", &self.mint_seconds);
        page.family("grants_total", "counter", "Requests for a grant, by result.");
        for (result, counter) in GrantResult::ALL.iter().zip(&self.grants) {
            page.sample("grants_total", &[("result", result.as_str())], counter.get());
        }
        page.family("denials_total", "counter", "Names that Envoy got no certificate for, by reason.");
        for (reason, counter) in DenialReason::ALL.iter().zip(&self.denials) {
            page.sample("denials_total", &[("reason", reason.as_str())], counter.get());
        }
        page.family("live_leases", "gauge", "Names that Envoys hold a certificate for.");
        page.sample("live_leases", &[], gauges.live_leases.values().sum::<usize>());
        page.family(
            "ca_leases",
            "gauge",
            "Names that Envoys hold a certificate for, by the CA that signed it.",
        );
        for (ca, leases) in &gauges.live_leases {
            page.sample("ca_leases", &[("ca", ca.as_str())], leases);
        }
        page.family("granted_hosts", "gauge", "Hosts with a grant.");
        page.sample("granted_hosts", &[], gauges.granted_hosts);
        page.family("leases_withdrawn_total", "counter", "Names taken back from an Envoy, by reason.");
        for (reason, counter) in Withdrawal::ALL.iter().zip(&self.withdrawn) {
            page.sample("leases_withdrawn_total", &[("reason", reason.as_str())], counter.get());
        }
        for (name, kind, help, value) in [
            ("lease_renewals_total", "counter", "Leaves replaced before their end.", self.renewals.get()),
            (
                "lease_rotations_total",
                "counter",
                "Leaves replaced because another CA signs.",
                self.rotations.get(),
            ),
            (
                "leases_kept_total",
                "counter",
                "Names that an Envoy held from before and went on with.",
                self.leases_kept.get(),
            ),
            (
                "peers_refused_total",
                "counter",
                "Clients over TCP that did not show an allowed name.",
                self.peers_refused.get(),
            ),
            ("nacks_total", "counter", "Responses that an Envoy did not accept.", self.nacks.get()),
            ("streams_total", "counter", "xDS streams opened.", self.streams_opened.get()),
            (
                "streams",
                "gauge",
                "xDS streams open.",
                self.streams_opened.get().saturating_sub(self.streams_closed.get()),
            ),
            (
                "audit_lines_dropped_total",
                "counter",
                "Audit lines lost because their reader stalled.",
                gauges.audit_lines_dropped,
            ),
            ("ready", "gauge", "1 if ready.", u64::from(gauges.ready)),
            ("stopped", "gauge", "1 if an operator stopped all minting.", u64::from(gauges.stopped)),
        ] {
            page.family(name, kind, help);
            page.sample(name, &[], value);
        }
        page.family("reloads_total", "counter", "Reloads of the CA pools, by result.");
        page.sample("reloads_total", &[("result", "ok")], self.reloads_ok.get());
        page.sample("reloads_total", &[("result", "error")], self.reloads_failed.get());
        page.family("reload_failed", "gauge", "1 if the last reload failed and older pools are in force.");
        page.sample("reload_failed", &[], u64::from(self.last_reload_failed.load(Ordering::Relaxed)));
        page.family("ca_not_after_seconds", "gauge", "The end of a CA's chain, in seconds since 1970.");
        for (id, ca) in &authorities {
            page.sample("ca_not_after_seconds", &[("ca", id.as_str())], ca.not_after().unix_timestamp());
        }
        page.family("ca_info", "gauge", "Always 1; the CAs of each pool, their states and fingerprints.");
        for (pool, members) in gauges.pools.all() {
            for member in members.members() {
                let (state, ca) = (member.state.as_str(), &member.ca);
                let labels =
                    [("pool", pool), ("ca", ca.id()), ("state", state), ("sha256", ca.fingerprint())];
                page.sample("ca_info", &labels, 1);
            }
        }
        page.family("build_info", "gauge", "Always 1.");
        page.sample("build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
        page.0
    }
}

fn count<T: PartialEq>(known: &[T], counters: &[Counter], one: &T) {
    for (known, counter) in known.iter().zip(counters) {
        if known == one {
            counter.increment();
        }
    }
}

#[derive(Default)]
struct Page(String);

impl Page {
    // Writing to a String cannot fail.
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP cert_service_{name} {help}\n# TYPE cert_service_{name} {kind}");
    }

    fn histogram(&mut self, name: &str, histogram: &Histogram) {
        let bucket = format!("{name}_bucket");
        let mut count = 0;
        for (bound, within) in MINT_TIMES.iter().zip(&histogram.within) {
            count += within.get();
            self.sample(&bucket, &[("le", &bound.as_secs_f64().to_string())], count);
        }
        count += histogram.beyond.get();
        self.sample(&bucket, &[("le", "+Inf")], count);
        let seconds = Duration::from_nanos(histogram.nanoseconds.get()).as_secs_f64();
        self.sample(&format!("{name}_sum"), &[], seconds);
        self.sample(&format!("{name}_count"), &[], count);
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.0, "cert_service_{name}{labels} {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_what_took_no_longer_than_each_bound() {
        let histogram = Histogram::default();
        for microseconds in [50, 60, 3_000, 2_000_000] {
            histogram.observe(Duration::from_micros(microseconds));
        }
        let mut page = Page::default();
        page.histogram("mint_seconds", &histogram);
        for (sample, value) in [
            ("bucket{le=\"0.00005\"}", "1"),
            ("bucket{le=\"0.0001\"}", "2"),
            ("bucket{le=\"0.0025\"}", "2"),
            ("bucket{le=\"0.01\"}", "3"),
            ("bucket{le=\"1\"}", "3"),
            ("bucket{le=\"+Inf\"}", "4"),
            ("sum", "2.00311"),
            ("count", "4"),
        ] {
            let name = format!("cert_service_mint_seconds_{sample} ");
            assert_eq!(page.0.lines().find_map(|line| line.strip_prefix(&name)), Some(value), "{sample}");
        }
    }
}
