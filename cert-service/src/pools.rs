//! CA pools: which CA signs, which is to sign next, and which did until lately.

mod document;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use serde::Deserialize;
use time::OffsetDateTime;

use crate::ca::{self, Ca, CaError, CaFiles, KeyPlace};
use crate::grants::PoolName;
use crate::leases::CaId;
use document::Plan;

/// What a CA does for its pool.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub enum CaState {
    /// It is published, so that clients come to trust it, and signs nothing yet.
    Standby,
    /// It signs.
    Active,
    /// It signs no more; what it signed is replaced.
    Draining,
    /// It is not loaded; what it signed is taken back.
    Retired,
}

impl CaState {
    /// The name in files, metrics and lines.
    pub fn as_str(self) -> &'static str {
        match self {
            CaState::Standby => "standby",
            CaState::Active => "active",
            CaState::Draining => "draining",
            CaState::Retired => "retired",
        }
    }
}

impl fmt::Display for CaState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// Why pools cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum PoolsError {
    /// The configuration file cannot be read.
    #[error("cannot read `{}`: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The configuration file does not say what it should.
    #[error("`{}` is not right: {detail}", path.display())]
    Configuration {
        /// The file.
        path: PathBuf,
        /// The place, what is wrong there and what to do.
        detail: String,
    },
    /// A CA of the file cannot be used.
    #[error("pool `{pool}`, {state} CA: {source}")]
    Member {
        /// Its pool.
        pool: PoolName,
        /// What it was to do there.
        state: CaState,
        /// What is wrong.
        source: CaError,
    },
    /// The only CA cannot be used.
    #[error(transparent)]
    Ca(#[from] CaError),
}

/// Where pools come from; read again at each reload.
#[derive(Clone, Debug)]
pub struct Source {
    /// The CAs.
    pub authorities: Authorities,
    /// The pools that a single CA serves; empty: any.
    pub names: BTreeSet<PoolName>,
    /// The directory in which what clients must trust is published.
    pub state: PathBuf,
}

/// The CAs of a source.
#[derive(Clone, Debug)]
pub enum Authorities {
    /// The development CA of the state directory.
    Development,
    /// One CA.
    Files(CaFiles),
    /// The pools of a configuration file.
    Configuration(PathBuf),
}

/// The development CAs besides the one that signs.
const DEVELOPMENT: [(&str, CaState); 2] =
    [(ca::NEXT_KEY_FILE, CaState::Standby), (ca::DRAINING_KEY_FILE, CaState::Draining)];

/// A file as it was seen: device, inode, size and time of change; none if it is not there.
pub type Sight = (PathBuf, Option<(u64, u64, u64, SystemTime)>);

impl Source {
    /// Reads, checks and probes every CA.
    pub fn load(&self, now: OffsetDateTime) -> Result<Pools, PoolsError> {
        let single = |ca: Ca| Pools::of_one(ca, Vec::new(), &self.names);
        Ok(match &self.authorities {
            Authorities::Development => {
                let mut others = Vec::new();
                for (name, state) in DEVELOPMENT {
                    let path = self.state.join(name);
                    if path.exists() {
                        let files = CaFiles {
                            certificate: path.clone(),
                            key: KeyPlace::File(path),
                            passphrase: None,
                        };
                        others.push(Member { ca: Arc::new(Ca::open(&files, now)?), state });
                    }
                }
                Pools::of_one(Ca::development(&self.state, now)?, others, &self.names)
            }
            Authorities::Files(files) => single(Ca::open(files, now)?),
            Authorities::Configuration(path) => {
                let mut pools = Pools::default();
                for (name, members) in Plan::read(path)?.pools {
                    let pool = Pool::load(&name, &members, now, &mut pools.warnings)?;
                    pools.named.insert(name, pool);
                }
                pools
            }
        })
    }

    /// Writes what clients must trust where they, or who cares for them, find it.
    pub fn publish(&self, pools: &Pools) -> Result<(), CaError> {
        ca::publish(&self.state, &pools.trust_pem())
    }

    /// The files as they are now, to be compared with a later sight. Links are followed: a mounted Kubernetes secret
    /// changes by a link in its middle.
    pub fn look(&self) -> Vec<Sight> {
        let files = |files: &CaFiles| {
            let CaFiles { certificate, key, passphrase } = files.clone();
            let key = match key {
                KeyPlace::File(path) => Some(path),
                KeyPlace::Token(_) => None,
            };
            [Some(certificate), key, passphrase].into_iter().flatten().collect::<Vec<_>>()
        };
        let paths = match &self.authorities {
            Authorities::Development => {
                let names = DEVELOPMENT.map(|(name, _)| name);
                names.into_iter().chain([ca::KEY_FILE]).map(|name| self.state.join(name)).collect()
            }
            Authorities::Files(one) => files(one),
            Authorities::Configuration(path) => {
                let mut paths = vec![path.clone()];
                let pools = Plan::read(path).map(|plan| plan.pools).unwrap_or_default();
                paths.extend(pools.iter().flat_map(|(_, members)| members).flat_map(|(one, _)| files(one)));
                paths
            }
        };
        paths.iter().map(|path| sight(path)).collect()
    }
}

/// How a file looks now.
pub(crate) fn sight(path: &Path) -> Sight {
    use std::os::unix::fs::MetadataExt as _;
    let seen = std::fs::metadata(path)
        .and_then(|found| Ok((found.dev(), found.ino(), found.len(), found.modified()?)));
    (path.to_owned(), seen.ok())
}

/// A CA of a pool.
#[derive(Clone)]
pub struct Member {
    /// The CA.
    pub ca: Arc<Ca>,
    /// What it does there; never retired.
    pub state: CaState,
}

/// A pool: one CA that signs, and others.
#[derive(Clone)]
pub struct Pool {
    active: Arc<Ca>,
    others: Vec<Member>,
}

impl Pool {
    fn load(
        name: &PoolName,
        members: &[(CaFiles, CaState)],
        now: OffsetDateTime,
        warnings: &mut Vec<String>,
    ) -> Result<Pool, PoolsError> {
        let mut active = None;
        let mut others = Vec::new();
        for (files, state) in members {
            let state = *state;
            if state == CaState::Retired {
                continue;
            }
            let ca = match Ca::open(files, now) {
                Ok(ca) => Arc::new(ca),
                // It signs nothing, and what it signed ended with it.
                Err(error @ CaError::NotValidNow { .. }) if state == CaState::Draining => {
                    warnings.push(format!("pool `{name}`, draining CA, is left out: {error}"));
                    continue;
                }
                Err(source) => return Err(PoolsError::Member { pool: name.clone(), state, source }),
            };
            warnings.extend(ca.warnings().iter().map(|warning| format!("pool `{name}`: {warning}")));
            if state == CaState::Active { active = Some(ca) } else { others.push(Member { ca, state }) }
        }
        // The plan has one; without it there would be nothing to sign with.
        let active = active.ok_or_else(|| PoolsError::Configuration {
            path: PathBuf::new(),
            detail: format!("pools.{name}.cas: none is active"),
        })?;
        Ok(Pool::new(active, others))
    }

    /// A CA has one state in a pool, and the one that signs goes first.
    fn new(active: Arc<Ca>, mut others: Vec<Member>) -> Pool {
        let mut seen = BTreeSet::from([active.id().to_owned()]);
        others.retain(|member| seen.insert(member.ca.id().to_owned()));
        Pool { active, others }
    }

    /// The CA that signs.
    pub fn active(&self) -> &Arc<Ca> {
        &self.active
    }

    /// The CA that signs, then the others.
    pub fn members(&self) -> impl Iterator<Item = Member> {
        let active = Member { ca: self.active.clone(), state: CaState::Active };
        std::iter::once(active).chain(self.others.iter().cloned())
    }
}

/// All pools.
#[derive(Clone, Default)]
pub struct Pools {
    named: BTreeMap<PoolName, Pool>,
    /// What serves every other name.
    any: Option<Pool>,
    warnings: Vec<String>,
}

impl Pools {
    /// One CA that signs for these pools, or for any if there are no names.
    fn of_one(ca: Ca, others: Vec<Member>, names: &BTreeSet<PoolName>) -> Pools {
        let warnings = ca.warnings().to_vec();
        let pool = Pool::new(Arc::new(ca), others);
        let any = names.is_empty().then(|| pool.clone());
        Pools { named: names.iter().map(|name| (name.clone(), pool.clone())).collect(), any, warnings }
    }

    /// These pools with another CA that signs in each of them, the ones before draining.
    pub fn succeeded_by(&self, ca: Ca) -> Pools {
        let ca = Arc::new(ca);
        let succeed = |pool: &Pool| {
            let old = Member { ca: pool.active.clone(), state: CaState::Draining };
            Pool::new(ca.clone(), pool.others.iter().cloned().chain([old]).collect())
        };
        Pools {
            named: self.named.iter().map(|(name, pool)| (name.clone(), succeed(pool))).collect(),
            any: self.any.as_ref().map(succeed),
            warnings: ca.warnings().to_vec(),
        }
    }

    /// The first pool.
    pub fn first(&self) -> Option<&Pool> {
        self.named.values().next().or(self.any.as_ref())
    }

    /// The pool of this name.
    pub fn get(&self, name: &PoolName) -> Option<&Pool> {
        self.named.get(name).or(self.any.as_ref())
    }

    /// The name of the first pool, or `main` if any name will do.
    pub fn first_name(&self) -> Option<PoolName> {
        self.named.keys().next().cloned().or_else(|| PoolName::parse("main").ok())
    }

    /// Every pool with its name; `*` stands for any.
    pub fn all(&self) -> impl Iterator<Item = (&str, &Pool)> {
        let named = self.named.iter().map(|(name, pool)| (name.as_str(), pool));
        named.chain(self.any.iter().map(|pool| ("*", pool)))
    }

    /// Whether the pool has this CA.
    pub fn has(&self, name: &PoolName, ca: &CaId) -> bool {
        self.get(name).is_some_and(|pool| pool.members().any(|member| member.ca.id() == ca.as_str()))
    }

    /// Every CA once.
    pub fn authorities(&self) -> BTreeMap<CaId, Arc<Ca>> {
        let members = self.all().flat_map(|(_, pool)| pool.members());
        members.map(|member| (CaId::new(member.ca.id()), member.ca)).collect()
    }

    /// What each CA does in each pool.
    pub fn states(&self) -> BTreeMap<(String, CaId), CaState> {
        let state = |name: &str, member: Member| ((name.to_owned(), CaId::new(member.ca.id())), member.state);
        self.all().flat_map(|(name, pool)| pool.members().map(move |member| state(name, member))).collect()
    }

    /// What clients must trust: the certificates of all pools, those of the CAs that sign first.
    pub fn trust_pem(&self) -> String {
        let mut members: Vec<Member> = self.all().flat_map(|(_, pool)| pool.members()).collect();
        members.sort_by_key(|member| member.state != CaState::Active);
        let mut seen = BTreeSet::new();
        members.iter().map(|member| member.ca.trust_pem()).filter(|pem| seen.insert(*pem)).collect()
    }

    /// What an operator should know though it works.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}
