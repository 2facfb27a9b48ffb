//! Which names are minted for, and how fast: grants or a list, a limit for each Envoy, and the switch that stops it all.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use aws_lc_rs::rand;
use outgate_policy::{Engine, HostName};

use crate::certificate::hex;
use crate::leases::Caps;

/// The file in the state directory that keeps the switch off over restarts.
const STOP_FILE: &str = "stopped";

/// The part of the command line that is about admission.
#[derive(Clone, Debug, clap::Args)]
pub struct AdmissionOptions {
    /// A policy: every host that one of its rules may inspect needs no grant. For replicas behind one address, which
    /// do not know each other's grants; read again when it changes.
    #[arg(long, value_name = "POLICY")]
    pub allowlist: Option<PathBuf>,
    /// The most names that Envoys may hold a certificate for; each costs an Envoy about 32 KB.
    #[arg(long, value_name = "N", default_value_t = 5000, value_parser = at_least_one)]
    pub max_leases: usize,
    /// The same for one Envoy, by its node id [default: no such limit].
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub max_leases_per_envoy: Option<usize>,
    /// New names a second that one Envoy may ask for; more wait, and are refused after 1.5 s. A burst of twice as many
    /// is free.
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = at_least_one)]
    pub max_new_names: usize,
}

impl AdmissionOptions {
    /// How many leases there may be.
    pub fn caps(&self) -> Caps {
        Caps { total: self.max_leases, per_envoy: self.max_leases_per_envoy }
    }
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("at least one name must fit".to_owned()),
        Ok(number) => Ok(number),
        Err(error) => Err(format!("{error}")),
    }
}

/// Why admission does not work as it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum AdmissionError {
    /// The allowlist cannot be read.
    #[error("cannot read the allowlist `{}`: {source}: give `--allowlist` the policy that Envoy's filters have", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The allowlist is no policy.
    #[error("the allowlist `{}` is no policy: {detail}", path.display())]
    Policy {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// The order to stop cannot be kept.
    #[error("cannot keep the order in `{}`: {source}; it is in force until the next start", path.display())]
    Keep {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// What is admitted.
pub struct Admission {
    allowlist: Option<Allowlist>,
    rate: Rate,
    buckets: Mutex<HashMap<Arc<str>, Bucket>>,
    stop_file: PathBuf,
    stopped: AtomicBool,
    start: String,
    recalls: AtomicU64,
}

struct Allowlist {
    path: PathBuf,
    policy: RwLock<Arc<Engine>>,
    modified: Mutex<Option<SystemTime>>,
}

#[derive(Clone, Copy)]
struct Rate {
    per_second: f64,
    burst: f64,
}

/// The new names that an Envoy may ask for at once.
struct Bucket {
    names: f64,
    filled: Instant,
}

impl Admission {
    /// Admission by these options; the state directory tells whether minting was stopped.
    pub fn open(options: &AdmissionOptions, state: &Path) -> Result<Admission, AdmissionError> {
        let stop_file = state.join(STOP_FILE);
        let per_second = f64::from(u32::try_from(options.max_new_names).unwrap_or(u32::MAX));
        let mut start = [0; 8];
        // Without randomness nothing can be minted either.
        let _ = rand::fill(&mut start);
        Ok(Admission {
            allowlist: options.allowlist.as_deref().map(Allowlist::read).transpose()?,
            rate: Rate { per_second, burst: 2.0 * per_second },
            buckets: Mutex::default(),
            stopped: AtomicBool::new(stop_file.exists()),
            stop_file,
            start: hex(&start),
            recalls: AtomicU64::new(0),
        })
    }

    /// Whether the policy may inspect this host; none where grants decide.
    pub fn allows(&self, host: &HostName) -> Option<bool> {
        Some(self.policy()?.may_inspect(host))
    }

    /// The allowlist's policy.
    pub fn policy(&self) -> Option<Arc<Engine>> {
        self.allowlist.as_ref().map(Allowlist::policy)
    }

    /// The pool of the allowlist's policy.
    pub fn allowed_pool(&self) -> Option<String> {
        self.policy()?.document().tls_inspection.as_ref().map(|inspection| inspection.ca_pool.clone())
    }

    /// Takes one new name from an Envoy's allowance; `Err` says how long until there is one.
    pub fn admit(&self, envoy: &Arc<str>, now: Instant) -> Result<(), Duration> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = buckets.entry(envoy.clone()).or_insert(Bucket { names: self.rate.burst, filled: now });
        bucket.fill(self.rate, now);
        if bucket.names >= 1.0 {
            bucket.names -= 1.0;
            Ok(())
        } else {
            Err(Duration::from_secs_f64((1.0 - bucket.names) / self.rate.per_second))
        }
    }

    /// Forgets Envoys that asked for nothing lately, and reads a changed allowlist: `Some` if there was one.
    pub fn tick(&self, now: Instant) -> Option<Result<(), AdmissionError>> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        buckets.retain(|_, bucket| {
            bucket.fill(self.rate, now);
            bucket.names < self.rate.burst
        });
        drop(buckets);
        self.allowlist.as_ref()?.read_if_changed()
    }

    /// Whether an operator stopped all minting.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// Stops all minting, or lets it go on; an order that cannot be kept is in force nevertheless.
    pub fn set_stopped(&self, stopped: bool) -> Result<(), AdmissionError> {
        self.stopped.store(stopped, Ordering::SeqCst);
        let kept = if stopped { fs::write(&self.stop_file, "") } else { fs::remove_file(&self.stop_file) };
        match kept {
            Err(source) if stopped || source.kind() != std::io::ErrorKind::NotFound => {
                Err(AdmissionError::Keep { path: self.stop_file.clone(), source })
            }
            _ => Ok(()),
        }
    }

    /// Tells the filters that what was granted before must be asked for again.
    pub fn recall(&self) {
        self.recalls.fetch_add(1, Ordering::Relaxed);
    }

    /// Which grants count: those that were given under the same name. Changes when we start and when all is recalled;
    /// empty where grants do not count.
    pub fn instance(&self) -> String {
        if self.allowlist.is_some() && !self.is_stopped() {
            return String::new();
        }
        format!("{}-{}", self.start, self.recalls.load(Ordering::Relaxed))
    }
}

impl Bucket {
    fn fill(&mut self, rate: Rate, now: Instant) {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.names = (self.names + passed * rate.per_second).min(rate.burst);
        self.filled = now;
    }
}

impl Allowlist {
    fn read(path: &Path) -> Result<Allowlist, AdmissionError> {
        let modified = modified(path);
        let policy = RwLock::new(Arc::new(read_policy(path)?));
        Ok(Allowlist { path: path.to_owned(), policy, modified: Mutex::new(modified) })
    }

    fn policy(&self) -> Arc<Engine> {
        self.policy.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn read_if_changed(&self) -> Option<Result<(), AdmissionError>> {
        let now = modified(&self.path);
        let mut modified = self.modified.lock().unwrap_or_else(PoisonError::into_inner);
        if now.is_none() || *modified == now {
            return None;
        }
        *modified = now;
        Some(read_policy(&self.path).map(|policy| {
            *self.policy.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(policy);
        }))
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|found| found.modified()).ok()
}

fn read_policy(path: &Path) -> Result<Engine, AdmissionError> {
    let text =
        fs::read_to_string(path).map_err(|source| AdmissionError::Read { path: path.to_owned(), source })?;
    Engine::from_text(&text)
        .map_err(|errors| AdmissionError::Policy { path: path.to_owned(), detail: errors.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(max_new_names: usize) -> Admission {
        let options =
            AdmissionOptions { allowlist: None, max_leases: 1, max_leases_per_envoy: None, max_new_names };
        Admission::open(&options, Path::new("/nowhere")).unwrap()
    }

    #[test]
    fn a_thousand_new_names_a_second_are_never_held_up_by_default() {
        use clap::Parser as _;
        #[derive(clap::Parser)]
        struct Only {
            #[command(flatten)]
            admission: AdmissionOptions,
        }
        let options = Only::parse_from(["x"]).admission;
        let admission = Admission::open(&options, Path::new("/nowhere")).unwrap();
        let (envoy, start) = ("e".into(), Instant::now());
        for second in 0..60 {
            // All at the start of each second: the worst way to spread them.
            for _ in 0..1000 {
                assert_eq!(admission.admit(&envoy, start + Duration::from_secs(second)), Ok(()));
            }
        }
    }

    #[test]
    fn one_envoy_that_asks_too_much_waits_and_the_others_do_not() {
        let (admission, now) = (admission(10), Instant::now());
        let (greedy, modest) = ("greedy".into(), "modest".into());
        for _ in 0..20 {
            assert_eq!(admission.admit(&greedy, now), Ok(()));
        }
        assert_eq!(admission.admit(&greedy, now), Err(Duration::from_millis(100)));
        assert_eq!(admission.admit(&modest, now), Ok(()));
        assert_eq!(admission.admit(&greedy, now + Duration::from_millis(101)), Ok(()));
        assert!(admission.admit(&greedy, now + Duration::from_millis(102)).is_err());
    }

    #[test]
    fn quiet_envoys_are_forgotten() {
        let (admission, now) = (admission(10), Instant::now());
        for number in 0..100 {
            admission.admit(&format!("e{number}").into(), now).unwrap();
        }
        admission.tick(now);
        assert_eq!(admission.buckets.lock().unwrap().len(), 100);
        admission.tick(now + Duration::from_secs(2));
        assert_eq!(admission.buckets.lock().unwrap().len(), 0);
    }

    #[test]
    fn what_was_granted_before_a_start_or_a_recall_counts_no_more() {
        let (first, second) = (admission(1), admission(1));
        assert_ne!(first.instance(), second.instance());
        let before = first.instance();
        assert_eq!(first.instance(), before);
        first.recall();
        assert_ne!(first.instance(), before);
    }
}
