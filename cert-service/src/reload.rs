//! Reads the CA pools again: on an order, on a signal, and when a file of theirs is another.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use time::OffsetDateTime;

use crate::audit::Event;
use crate::pools::{Pools, PoolsError, Sight, Source};
use crate::service::{PoolsChange, Service};

/// How often the files are looked at: a change is in force, and clients see it, within a second.
const LOOK: Duration = Duration::from_millis(250);

/// What made us read the pools again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// SIGHUP.
    Signal,
    /// A file is another.
    File,
    /// `POST /v1/reload`.
    Order,
}

impl Cause {
    fn as_str(self) -> &'static str {
        match self {
            Cause::Signal => "signal",
            Cause::File => "file",
            Cause::Order => "order",
        }
    }
}

/// Where the pools are from, and how its files looked when they were read.
pub struct Reloader {
    source: Source,
    seen: Mutex<Vec<Sight>>,
}

impl Reloader {
    /// Loads the pools for the first time.
    pub fn load(source: Source, now: OffsetDateTime) -> Result<(Reloader, Pools), PoolsError> {
        let (seen, pools) = look_and_load(&source, now);
        Ok((Reloader { source, seen: Mutex::new(seen) }, pools?))
    }

    /// Where the pools are from.
    pub fn source(&self) -> &Source {
        &self.source
    }
}

/// Files that change while we read them are seen at the next look; a CA that the reading itself made is no change.
fn look_and_load(source: &Source, now: OffsetDateTime) -> (Vec<Sight>, Result<Pools, PoolsError>) {
    let before = source.look();
    let pools = source.load(now);
    let created = pools.as_ref().is_ok_and(|pools| pools.authorities().values().any(|ca| ca.created()));
    (if created { source.look() } else { before }, pools)
}

impl Service {
    /// Reads the pools again. They are probed before they are in force; if one is not right, those before go on.
    pub fn reload(&self, cause: Cause) -> Result<PoolsChange, PoolsError> {
        let reloader = self.reloader();
        // One at a time.
        let mut seen = reloader.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (found, loaded) = look_and_load(&reloader.source, OffsetDateTime::now_utc());
        *seen = found;
        let ready = loaded.and_then(|pools| {
            reloader.source.publish(&pools)?;
            Ok(pools)
        });
        // Counted before anybody can see what changed.
        self.metrics().reload(ready.is_ok());
        let done = ready.map(|pools| {
            for message in pools.warnings() {
                self.audit().log(&Event::Warning { message });
            }
            self.set_pools(pools)
        });
        let change = done.as_ref().copied().unwrap_or_default();
        self.audit().log(&Event::Reload {
            result: if done.is_ok() { "ok" } else { "error" },
            cause: cause.as_str(),
            error: done.as_ref().err().map(ToString::to_string).as_deref(),
            replaced: change.replaced.replaced,
            withdrawn: change.withdrawn + change.replaced.withdrawn,
        });
        done
    }

    fn reload_if_changed(&self) {
        let changed = {
            let seen = self.reloader().seen.lock().unwrap_or_else(PoisonError::into_inner);
            *seen != self.reloader().source.look()
        };
        if changed {
            // The audit log has said what is wrong.
            let _ = self.reload(Cause::File);
        }
    }
}

/// Looks at the files as long as the service lives.
pub fn watch(service: &Arc<Service>) {
    let service: Weak<Service> = Arc::downgrade(service);
    tokio::spawn(async move {
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let Some(service) = service.upgrade() else { return };
            // Files, and signatures of the probe: not among those who wait for Envoy.
            let _ = tokio::task::spawn_blocking(move || service.reload_if_changed()).await;
        }
    });
}
