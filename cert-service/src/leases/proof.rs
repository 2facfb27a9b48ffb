//! Resource versions that prove themselves.
//!
//! A restarted service knows no grants, but Envoy still holds certificates and tells their versions
//! when it is back. A version carries a MAC by a key that only holders of the CA's private key can
//! derive, so what this CA has handed out once is known again and goes on without a new handshake
//! failing.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use time::OffsetDateTime;

use crate::ca::Ca;
use crate::grants::PoolName;
use outgate_policy::HostName;

/// What a version says of the leaf that has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// The pool that signed.
    pub pool: PoolName,
    /// When it was minted.
    pub at: OffsetDateTime,
    /// Its last second.
    pub not_after: OffsetDateTime,
}

/// Writes and checks versions.
pub struct Proofs {
    key: hmac::Key,
    recalled: Mutex<Recalled>,
}

/// What an operator took back: versions of before then prove nothing any more.
#[derive(Default)]
struct Recalled {
    all: Option<OffsetDateTime>,
    hosts: HashMap<HostName, OffsetDateTime>,
}

impl Proofs {
    /// Proofs of this CA.
    pub fn new(ca: &Ca) -> Proofs {
        // The certificate too: a CA that was issued again has another chain to hand out.
        let mut purpose = b"resource version ".to_vec();
        purpose.extend_from_slice(ca.issuing_der());
        Proofs { key: ca.key().derive(&purpose), recalled: Mutex::default() }
    }

    /// The version of a leaf with this serial number.
    pub fn version(&self, host: &HostName, issued: &Issued, serial: &str) -> String {
        let claim = format!(
            "1:{}:{}:{}:{serial}",
            issued.pool,
            issued.at.unix_timestamp(),
            issued.not_after.unix_timestamp()
        );
        let tag = hmac::sign(&self.key, message(host, &claim).as_bytes());
        format!("{claim}:{}", URL_SAFE_NO_PAD.encode(tag))
    }

    /// What a version says, if we wrote it for this host and its leaf is still good.
    pub fn prove(&self, host: &HostName, version: &str, now: OffsetDateTime) -> Option<Issued> {
        let (claim, tag) = version.rsplit_once(':')?;
        let tag = URL_SAFE_NO_PAD.decode(tag).ok()?;
        hmac::verify(&self.key, message(host, claim).as_bytes(), &tag).ok()?;
        let mut fields = claim.split(':');
        let ("1", pool, at, not_after) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?)
        else {
            return None;
        };
        let time = |text: &str| OffsetDateTime::from_unix_timestamp(text.parse().ok()?).ok();
        let issued = Issued { pool: PoolName::parse(pool).ok()?, at: time(at)?, not_after: time(not_after)? };
        let good = now < issued.not_after && !self.is_recalled(host, issued.at);
        good.then_some(issued)
    }

    /// Takes back all that was issued until now, for one host or for all.
    pub fn recall(&self, host: Option<&HostName>, now: OffsetDateTime) {
        let mut recalled = self.recalled.lock().unwrap_or_else(PoisonError::into_inner);
        match host {
            Some(host) => {
                recalled.hosts.insert(host.clone(), now);
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
