//! Resource versions that prove themselves.
//!
//! A restarted service knows no grants, but Envoy still holds certificates and tells their versions
//! when it is back. A version carries a MAC over pool, name and times, by a key that only holders of the CA's private key
//! can derive. So what a CA has handed out once is known again, here or at another replica, and goes on without a
//! handshake failing.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError, RwLock};

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use time::OffsetDateTime;

use crate::ca::Ca;
use crate::grants::PoolName;
use crate::leaf::TTL_RANGE;
use crate::leases::CaId;
use outgate_policy::HostName;

/// What a version says of the leaf that has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// The pool that signed.
    pub pool: PoolName,
    /// The CA of the pool that signed.
    pub ca: CaId,
    /// When it was minted.
    pub at: OffsetDateTime,
    /// Its last second.
    pub not_after: OffsetDateTime,
}

/// Writes and checks versions.
#[derive(Default)]
pub struct Proofs {
    keys: RwLock<HashMap<CaId, hmac::Key>>,
    recalled: Mutex<Recalled>,
}

/// What an operator took back: versions of before then prove nothing any more.
#[derive(Default)]
struct Recalled {
    all: Option<OffsetDateTime>,
    hosts: HashMap<HostName, OffsetDateTime>,
}

impl Proofs {
    /// Recognises from now on what this CA issued.
    pub fn know(&self, ca: &Ca) {
        // The certificate too: a CA that was issued again has another chain to hand out.
        let mut purpose = b"resource version ".to_vec();
        purpose.extend_from_slice(ca.issuing_der());
        let key = ca.key().derive(&purpose);
        self.keys.write().unwrap_or_else(PoisonError::into_inner).insert(CaId::new(ca.id()), key);
    }

    /// Recognises nothing of this CA any more.
    pub fn forget(&self, ca: &CaId) {
        self.keys.write().unwrap_or_else(PoisonError::into_inner).remove(ca);
    }

    /// The version of a leaf with this serial number; one that proves nothing if its CA is not known.
    pub fn version(&self, host: &HostName, issued: &Issued, serial: &str) -> String {
        let claim = format!(
            "2:{}:{}:{}:{}:{serial}",
            issued.pool,
            issued.ca,
            issued.at.unix_timestamp(),
            issued.not_after.unix_timestamp()
        );
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let Some(key) = keys.get(&issued.ca) else { return claim };
        let tag = hmac::sign(key, message(host, &claim).as_bytes());
        format!("{claim}:{}", URL_SAFE_NO_PAD.encode(tag))
    }

    /// What a version says, if a CA that we know wrote it for this host and its leaf is still good.
    pub fn prove(&self, host: &HostName, version: &str, now: OffsetDateTime) -> Option<Issued> {
        let (claim, tag) = version.rsplit_once(':')?;
        let mut fields = claim.split(':');
        let ("2", pool, ca) = (fields.next()?, fields.next()?, CaId::new(fields.next()?)) else {
            return None;
        };
        let tag = URL_SAFE_NO_PAD.decode(tag).ok()?;
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        hmac::verify(keys.get(&ca)?, message(host, claim).as_bytes(), &tag).ok()?;
        let mut time = || OffsetDateTime::from_unix_timestamp(fields.next()?.parse().ok()?).ok();
        let issued = Issued { pool: PoolName::parse(pool).ok()?, ca, at: time()?, not_after: time()? };
        let good = now < issued.not_after && !self.is_recalled(host, issued.at);
        good.then_some(issued)
    }

    /// Takes back all that was issued until now, for these hosts or for all.
    pub fn recall(&self, hosts: Option<&[HostName]>, now: OffsetDateTime) {
        let mut recalled = self.recalled.lock().unwrap_or_else(PoisonError::into_inner);
        match hosts {
            Some(hosts) => {
                // Older leaves have ended.
                recalled.hosts.retain(|_, at| now - *at < *TTL_RANGE.end());
                recalled.hosts.extend(hosts.iter().map(|host| (host.clone(), now)));
            }
            None => *recalled = Recalled { all: Some(now), hosts: HashMap::new() },
        }
    }

    fn is_recalled(&self, host: &HostName, at: OffsetDateTime) -> bool {
        let recalled = self.recalled.lock().unwrap_or_else(PoisonError::into_inner);
        let until = recalled.hosts.get(host).copied().max(recalled.all);
        until.is_some_and(|until| at <= until)
    }
}

fn message(host: &HostName, claim: &str) -> String {
    // The claim has no line break, so the two cannot run into each other.
    format!("{host}\n{claim}")
}
