//! What failed in a window of time, all of it: totals, who failed most, and who failed too often.
//!
//! Each worker counts for itself and adds its counts to the shared window every second. Whoever adds to a window
//! that is over takes it away, begins the next, and writes the summary.

use std::net::{IpAddr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::sampling::Admission;
use crate::sketch::{Estimate, Sketch};
use crate::taxonomy::Category;

/// Sources that have an alarm in one window: more are no news.
const MAXIMUM_ALARMS: usize = 1000;

/// A window of time, or a worker's part of it.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct Window {
    /// When it began, in milliseconds since 1970; 0 of a worker's part.
    pub start: u64,
    /// All failures.
    pub failures: u64,
    /// Those without a line.
    pub suppressed: u64,
    /// Those without a line though they were the first of their kind.
    pub first_seen_suppressed: u64,
    /// All failures by category; exact, for there are fewer than a sketch has room for.
    pub categories: Sketch,
    /// Clients, as IPv4 /32 and IPv6 /64.
    pub sources: Sketch,
    /// SHA-256 of client certificates.
    pub fingerprints: Sketch,
    /// Server names that were asked for.
    pub server_names: Sketch,
    /// Sources that have had their alarm.
    alarmed: Vec<String>,
}

/// A source that failed too often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alarm {
    /// As in [`source`].
    pub source: String,
    /// How often it failed in this window so far, at least.
    pub failures: u64,
}

/// Whom a failure is counted for.
#[derive(Clone, Copy, Debug)]
pub struct Offender<'a> {
    /// As in [`source`].
    pub source: &'a str,
    /// SHA-256 of the client's certificate; empty if it presented none.
    pub fingerprint: &'a str,
    /// The SNI, bounded; empty if there was none.
    pub server_name: &'a str,
}

impl Window {
    /// The form in which workers share it.
    pub fn pack(&self) -> Vec<u8> {
        // Counts and texts always serialise.
        postcard::to_allocvec(self).unwrap_or_default()
    }

    /// Reads that form; a new window if it is none.
    pub fn unpack(packed: &[u8]) -> Self {
        postcard::from_bytes(packed).unwrap_or_default()
    }

    /// Counts one failure.
    pub fn record(&mut self, category: Category, offender: Offender<'_>, admission: Admission) {
        self.failures += 1;
        match admission {
            Admission::Line => {}
            Admission::Suppressed => self.suppressed += 1,
            Admission::FirstSuppressed => {
                self.suppressed += 1;
                self.first_seen_suppressed += 1;
            }
        }
        for (sketch, key) in [
            (&mut self.categories, category.as_str()),
            (&mut self.sources, offender.source),
            (&mut self.fingerprints, offender.fingerprint),
            (&mut self.server_names, offender.server_name),
        ] {
            if !key.is_empty() {
                sketch.add(key);
            }
        }
    }

    /// Adds a worker's part. If the window is over at `now`, the next begins, and the old one is returned: it is to be told.
    pub fn add(&mut self, part: Self, now: u64, length: u64) -> Option<Self> {
        let start = now - now % length.max(1);
        let over = (self.start < start).then(|| std::mem::take(self)).filter(|window| window.failures > 0);
        self.start = self.start.max(start);
        self.failures += part.failures;
        self.suppressed += part.suppressed;
        self.first_seen_suppressed += part.first_seen_suppressed;
        self.categories.merge(part.categories);
        self.sources.merge(part.sources);
        self.fingerprints.merge(part.fingerprints);
        self.server_names.merge(part.server_names);
        over
    }

    /// Sources that have failed `threshold` times for certain, each once in a window.
    pub fn alarms(&mut self, threshold: u64) -> Vec<Alarm> {
        let room = MAXIMUM_ALARMS.saturating_sub(self.alarmed.len());
        let due: Vec<Alarm> = self
            .sources
            .top(usize::MAX)
            .into_iter()
            .map(|(source, estimate): (&str, Estimate)| Alarm {
                source: source.to_owned(),
                failures: estimate.at_least(),
            })
            .filter(|alarm| alarm.failures >= threshold && !self.alarmed.contains(&alarm.source))
            .take(room)
            .collect();
        self.alarmed.extend(due.iter().map(|alarm| alarm.source.clone()));
        due
    }
}

/// A client as it is counted: IPv4 addresses one by one, IPv6 by their /64, of which one client may have all.
pub fn source(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => format!("{address}/32"),
        IpAddr::V6(address) => {
            let network = address.to_bits() & !u128::from(u64::MAX);
            format!("{}/64", Ipv6Addr::from_bits(network))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: u64 = 60_000;

    fn part(source: &str, failures: u64) -> Window {
        let mut window = Window::default();
        for index in 0..failures {
            let admission =
                [Admission::Line, Admission::Suppressed, Admission::FirstSuppressed][index as usize % 3];
            let offender = Offender { source, fingerprint: "AB", server_name: "" };
            window.record(Category::NotTls, offender, admission);
        }
        window
    }

    #[test]
    fn parts_of_workers_add_up_and_the_first_after_the_end_takes_the_whole() {
        let mut shared = Window::default();
        assert_eq!(shared.add(part("a/32", 30), 60_500, LENGTH), None);
        assert_eq!(shared.add(part("b/32", 3), 119_999, LENGTH), None);
        let told = shared.add(part("b/32", 6), 120_001, LENGTH).unwrap();
        assert_eq!(
            (told.start, told.failures, told.suppressed, told.first_seen_suppressed),
            (60_000, 33, 22, 11)
        );
        assert_eq!(told.categories.top(2), [("not_tls", Estimate { count: 33, error: 0 })]);
        assert_eq!(told.fingerprints.top(9), [("AB", Estimate { count: 33, error: 0 })]);
        assert_eq!(told.server_names.top(9), []);
        assert_eq!((shared.start, shared.failures), (120_000, 6), "what came late is in the next");
        // A quiet window has no summary.
        shared.add(Window::default(), 180_000, LENGTH).unwrap();
        assert_eq!(shared.add(Window::default(), 240_000, LENGTH), None);
        // A worker whose clock is behind does not bring an old window back.
        shared.add(part("a/32", 1), 239_999, LENGTH);
        assert_eq!(shared.start, 240_000);
    }

    #[test]
    fn a_source_has_one_alarm_in_a_window() {
        let mut shared = Window::default();
        shared.add(part("a/32", 99), 1, LENGTH);
        shared.add(part("b/32", 5), 1, LENGTH);
        assert_eq!(shared.alarms(100), []);
        shared.add(part("a/32", 2), 2, LENGTH);
        assert_eq!(shared.alarms(100), [Alarm { source: "a/32".to_owned(), failures: 101 }]);
        shared.add(part("a/32", 500), 3, LENGTH);
        assert_eq!(shared.alarms(100), []);
        shared.add(part("a/32", 100), LENGTH, LENGTH);
        assert_eq!(shared.alarms(100).len(), 1);
    }

    #[test]
    fn a_crowd_of_sources_raises_no_false_alarm() {
        let mut shared = Window::default();
        for index in 0..20_000 {
            shared.add(part(&format!("{index}/32"), 1), 1, LENGTH);
        }
        assert_eq!(shared.alarms(100), []);
    }

    #[test]
    fn clients_are_counted_by_what_they_cannot_change() {
        for (address, expected) in [
            ("192.0.2.7", "192.0.2.7/32"),
            ("::ffff:192.0.2.7", "192.0.2.7/32"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ] {
            assert_eq!(source(address.parse().unwrap()), expected);
        }
    }
}
