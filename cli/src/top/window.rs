//! What the log told of the last minutes, in bounded memory.
//!
//! Lines may be sampled. The summary that ends each of Outgate's windows counts all, so it takes the place of the
//! lines of its window, wherever it has more.

use std::collections::{BTreeMap, VecDeque};

use time::OffsetDateTime;

use crate::explain_tls::line::{Alarm, FailedHandshake, Line, Summary};
use crate::explain_tls::totals::Tally;

/// A window has no more slices than this, of a second at least; each is dropped as a whole when its time has passed.
const SLICES: i64 = 512;
/// Keys of one kind that a slice tells apart.
const KEYS: usize = 500;
/// Alarms that are told.
const ALARMS: usize = 5;

/// The window.
#[derive(Debug)]
pub struct Window {
    /// 0 is all time.
    seconds: u32,
    slices: BTreeMap<(i64, String), Seen>,
    alarms: VecDeque<Alarm>,
}

/// Counts of what was seen.
#[derive(Clone, Debug)]
pub struct Seen {
    /// `category / reason` of lines.
    pub reasons: Tally,
    /// Categories of lines and of summaries.
    pub categories: Tally,
    /// By address or prefix.
    pub sources: Tally,
    /// By SHA-256.
    pub fingerprints: Tally,
    /// By SNI.
    pub server_names: Tally,
    /// The newest last.
    pub alarms: Vec<Alarm>,
}

impl Window {
    /// One of this length; 0 is all time.
    pub fn new(seconds: u32) -> Self {
        Self { seconds, slices: BTreeMap::new(), alarms: VecDeque::new() }
    }

    /// Its length; 0 is all time.
    pub fn seconds(&self) -> u32 {
        self.seconds
    }

    /// Counts what a line tells; one without a time is of now.
    pub fn add(&mut self, line: &Line, now: OffsetDateTime) {
        match line {
            Line::Failure(failed) => self.add_failure(failed, now),
            Line::Summary(summary) => self.add_summary(summary, now),
            Line::Alarm(alarm) => {
                if self.alarms.len() == ALARMS {
                    self.alarms.pop_front();
                }
                self.alarms.push_back(alarm.clone());
            }
            Line::Upstream | Line::Malformed | Line::Other => {}
        }
        self.forget(now);
    }

    /// All that is within the window.
    pub fn seen(&mut self, now: OffsetDateTime) -> Seen {
        self.forget(now);
        let mut all = Seen { alarms: self.alarms.iter().cloned().collect(), ..Seen::telling(50_000) };
        for seen in self.slices.values() {
            for (into, from) in all.tallies_mut().into_iter().zip(seen.tallies()) {
                into.merge(from);
            }
        }
        all
    }

    fn add_failure(&mut self, failed: &FailedHandshake, now: OffsetDateTime) {
        let about = &failed.about;
        let at = about.at.unwrap_or(now);
        let seen = self.slice(at, about.listener.as_deref());
        let category = failed.sub_reason.category();
        seen.reasons.add(&format!("{category} / {}", failed.sub_reason), 1);
        seen.categories.add(category.as_str(), 1);
        for (tally, key) in [
            (&mut seen.sources, &about.source),
            (&mut seen.fingerprints, &about.fingerprint),
            (&mut seen.server_names, &about.server_name),
        ] {
            if let Some(key) = key {
                tally.add(key, 1);
            }
        }
    }

    /// Lines of the summary's window become one slice, its last, and its counts win where they are higher.
    fn add_summary(&mut self, summary: &Summary, now: OffsetDateTime) {
        let end = summary.end.unwrap_or(now);
        let start = summary.start.unwrap_or(end);
        let listener = summary.listener.clone().unwrap_or_default();
        let (first, after) = (self.number(start), self.number(end).max(self.number(start) + 1));
        let of_window: Vec<_> = self
            .slices
            .keys()
            .filter(|(slice, known)| (first..after).contains(slice) && *known == listener)
            .cloned()
            .collect();
        let mut lines = Seen::telling(KEYS);
        for key in of_window {
            if let Some(seen) = self.slices.remove(&key) {
                for (into, from) in lines.tallies_mut().into_iter().zip(seen.tallies()) {
                    into.merge(from);
                }
            }
        }
        for (tally, counts) in [
            (&mut lines.sources, &summary.sources),
            (&mut lines.fingerprints, &summary.fingerprints),
            (&mut lines.server_names, &summary.server_names),
        ] {
            for (key, count) in counts {
                tally.raise(key, *count);
            }
        }
        for (category, count) in &summary.categories {
            lines.categories.raise(category, *count);
        }
        let into = self.slices.entry((after - 1, listener)).or_insert_with(Seen::new);
        for (into, from) in into.tallies_mut().into_iter().zip(lines.tallies()) {
            into.merge(from);
        }
    }

    fn slice(&mut self, at: OffsetDateTime, listener: Option<&str>) -> &mut Seen {
        self.slices
            .entry((self.number(at), listener.unwrap_or_default().to_owned()))
            .or_insert_with(Seen::new)
    }

    fn number(&self, at: OffsetDateTime) -> i64 {
        at.unix_timestamp() / self.slice_seconds()
    }

    fn slice_seconds(&self) -> i64 {
        (i64::from(self.seconds) / SLICES).max(1)
    }

    fn forget(&mut self, now: OffsetDateTime) {
        if self.seconds == 0 {
            // All time is one slice of each listener, lest there be one for each second.
            self.fold();
            return;
        }
        let oldest = self.number(now) - i64::from(self.seconds) / self.slice_seconds();
        self.slices.retain(|(slice, _), _| *slice >= oldest);
        let past = time::Duration::seconds(i64::from(self.seconds));
        self.alarms.retain(|alarm| alarm.at.is_none_or(|at| now - at <= past));
    }

    /// Joins the oldest slices, whose summaries must have come.
    fn fold(&mut self) {
        const OLD: i64 = i64::MIN;
        while i64::try_from(self.slices.len()).is_ok_and(|slices| slices > SLICES) {
            let oldest = self.slices.keys().find(|(slice, _)| *slice > OLD).cloned();
            let Some((key, seen)) = oldest.and_then(|key| self.slices.remove_entry(&key)) else { break };
            let into = self.slices.entry((OLD, key.1)).or_insert_with(Seen::new);
            for (into, from) in into.tallies_mut().into_iter().zip(seen.tallies()) {
                into.merge(from);
            }
        }
    }
}

impl Seen {
    fn new() -> Self {
        Self::telling(KEYS)
    }

    /// One that tells so many keys of each kind apart.
    pub fn telling(keys: usize) -> Self {
        let tally = || Tally::with_capacity(keys);
        Self {
            reasons: tally(),
            categories: tally(),
            sources: tally(),
            fingerprints: tally(),
            server_names: tally(),
            alarms: Vec::new(),
        }
    }

    /// Failures, those without a line included.
    pub fn failures(&self) -> u64 {
        self.categories.total()
    }

    fn tallies(&self) -> [&Tally; 5] {
        [&self.reasons, &self.categories, &self.sources, &self.fingerprints, &self.server_names]
    }

    fn tallies_mut(&mut self) -> [&mut Tally; 5] {
        [
            &mut self.reasons,
            &mut self.categories,
            &mut self.sources,
            &mut self.fingerprints,
            &mut self.server_names,
        ]
    }
}

#[cfg(test)]
mod tests;
