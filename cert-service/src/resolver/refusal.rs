//! The lines about refused names: few enough that a client cannot flood the log with them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_proto::rr::Name;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Lines per second.
const MOST_LINES: u32 = 10;

/// Envoy asks for both families, and again after a refusal: that is one line.
const REPEAT: Duration = Duration::from_secs(10);

/// A name that was refused, as its line says it.
#[derive(Clone, Debug, Serialize)]
pub struct Refusal {
    /// RFC 3339.
    pub time: String,
    /// `dns.refused`.
    pub event: &'static str,
    /// The name.
    pub name: String,
    /// The first of its addresses that is refused.
    pub address: IpAddr,
    /// What the operator can do.
    pub remedy: String,
    /// Refusals since the last line that got none.
    #[serde(skip_serializing_if = "is_zero")]
    pub unlogged: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Where the lines go.
pub type Log = Box<dyn Fn(&Refusal) + Send + Sync>;

/// Writes lines, but not too many.
pub struct Refusals {
    log: Log,
    limit: Mutex<Limit>,
}

struct Limit {
    second: Instant,
    lines: u32,
    unlogged: u64,
    recent: HashMap<Name, Instant>,
}

impl Refusals {
    /// Lines for this log.
    pub fn new(log: Log) -> Refusals {
        let limit = Limit { second: Instant::now(), lines: 0, unlogged: 0, recent: HashMap::new() };
        Refusals { log, limit: Mutex::new(limit) }
    }

    /// Writes a line, unless there were too many or it was written a moment ago.
    pub fn report(&self, name: &Name, address: IpAddr) {
        let Some(unlogged) =
            self.limit.lock().unwrap_or_else(PoisonError::into_inner).take(name, Instant::now())
        else {
            return;
        };
        let bits = if address.is_ipv4() { 32 } else { 128 };
        (self.log)(&Refusal {
            time: moment(),
            event: "dns.refused",
            name: name.to_ascii().trim_end_matches('.').to_owned(),
            address,
            remedy: format!(
                "list `{address}/{bits}` or a range around it under `destinations.allowPrivate` if this name may lead there"
            ),
            unlogged,
        });
    }
}

/// Now, to the millisecond.
fn moment() -> String {
    let now = OffsetDateTime::now_utc();
    now.replace_millisecond(now.millisecond()).unwrap_or(now).format(&Rfc3339).unwrap_or_default()
}

impl Limit {
    /// `None`, or how many were left out before this one.
    fn take(&mut self, name: &Name, now: Instant) -> Option<u64> {
        if now.duration_since(self.second) >= Duration::from_secs(1) {
            self.second = now;
            self.lines = 0;
            self.recent.retain(|_, at| now.duration_since(*at) < REPEAT);
        }
        if self.recent.get(name).is_some_and(|at| now.duration_since(*at) < REPEAT) {
            return None;
        }
        if self.lines >= MOST_LINES {
            self.unlogged = self.unlogged.saturating_add(1);
            return None;
        }
        self.lines += 1;
        // No more than the lines of ten seconds.
        self.recent.insert(name.clone(), now);
        Some(std::mem::take(&mut self.unlogged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_line_and_a_second_has_ten() {
        let mut limit = Limit { second: Instant::now(), lines: 0, unlogged: 0, recent: HashMap::new() };
        let start = Instant::now();
        let name = |number: usize| Name::from_ascii(format!("n{number}.example.")).unwrap();
        assert_eq!(limit.take(&name(0), start), Some(0));
        assert_eq!(limit.take(&name(0), start + Duration::from_secs(5)), None);
        let start = start + Duration::from_secs(10);
        assert_eq!(limit.take(&name(0), start), Some(0));
        let written = (1..100).filter(|number| limit.take(&name(*number), start).is_some()).count();
        assert_eq!(written, 9);
        assert_eq!(limit.take(&name(100), start + Duration::from_secs(1)), Some(90));
    }
}
