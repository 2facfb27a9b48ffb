//! Many lines: how many handshakes failed, why, and for whom.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::io::{self, BufRead};

use outgate_handshake::presented::timestamp;
use outgate_handshake::taxonomy::{Category, SubReason};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::line::{FailedHandshake, Line};
use super::pages;
use super::reading::{about, who, wrapped};

/// Longer lines are read up to here.
const MAXIMUM_LINE: u64 = 256 * 1024;
/// Sources, certificates and names that are told.
const TOLD: usize = 10;

/// What all lines come to.
#[derive(Debug, Default)]
pub struct Totals {
    lines: u64,
    failures: u64,
    /// Failures that Outgate counted and wrote no line for.
    suppressed: u64,
    alarms: u64,
    upstream: u64,
    malformed: u64,
    reasons: Vec<Reason>,
    sources: Tally,
    fingerprints: Tally,
    server_names: Tally,
    first: Option<OffsetDateTime>,
    last: Option<OffsetDateTime>,
}

#[derive(Debug)]
struct Reason {
    sub_reason: SubReason,
    failures: u64,
    sources: Tally,
    example: String,
}

/// Counts by key, in bounded memory: what is new once it is full is counted as `others`.
#[derive(Clone, Debug)]
pub struct Tally {
    counts: HashMap<String, u64>,
    capacity: usize,
    others: u64,
}

impl Default for Tally {
    fn default() -> Self {
        Self::with_capacity(Self::CAPACITY)
    }
}

impl Tally {
    /// Keys that are told apart, if nothing else is said.
    const CAPACITY: usize = 50_000;

    /// One that tells so many keys apart.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { counts: HashMap::new(), capacity, others: 0 }
    }

    /// Counts.
    pub fn add(&mut self, key: &str, count: u64) {
        if let Some(known) = self.counts.get_mut(key) {
            *known = known.saturating_add(count);
        } else if self.counts.len() < self.capacity {
            self.counts.insert(key.to_owned(), count);
        } else {
            self.others = self.others.saturating_add(count);
        }
    }

    /// Sees to it that a key has at least this count.
    pub fn raise(&mut self, key: &str, count: u64) {
        let known = self.get(key);
        if count > known {
            self.add(key, count - known);
        }
    }

    /// Adds all of another.
    pub fn merge(&mut self, other: &Self) {
        for (key, count) in &other.counts {
            self.add(key, *count);
        }
        self.others = self.others.saturating_add(other.others);
    }

    /// How often a key came.
    pub fn get(&self, key: &str) -> u64 {
        self.counts.get(key).copied().unwrap_or(0)
    }

    /// How often all came.
    pub fn total(&self) -> u64 {
        self.counts.values().sum::<u64>() + self.others
    }

    /// The ones that come most often, by name where they are equal.
    pub fn top(&self, most: usize) -> Vec<(&str, u64)> {
        let mut all: Vec<_> = self.counts.iter().map(|(key, count)| (key.as_str(), *count)).collect();
        all.sort_by(|one, other| other.1.cmp(&one.1).then(one.0.cmp(other.0)));
        all.truncate(most);
        all
    }
}

impl Totals {
    /// Reads every line; only reading itself can fail.
    pub fn read(&mut self, mut lines: impl BufRead) -> io::Result<()> {
        let mut line = Vec::new();
        while next_line(&mut lines, &mut line)? {
            if !line.trim_ascii().is_empty() {
                self.add(&Line::read(&line));
            }
        }
        Ok(())
    }

    fn add(&mut self, line: &Line) {
        self.lines += 1;
        match line {
            Line::Failure(failed) => self.count(failed),
            Line::Summary(summary) => self.suppressed = self.suppressed.saturating_add(summary.suppressed),
            Line::Alarm(_) => self.alarms += 1,
            Line::Upstream => self.upstream += 1,
            Line::Malformed => self.malformed += 1,
            Line::Other => {}
        }
    }

    fn count(&mut self, failed: &FailedHandshake) {
        self.failures += 1;
        let about = &failed.about;
        let index = self.reasons.iter().position(|reason| reason.sub_reason == failed.sub_reason);
        let index = index.unwrap_or_else(|| {
            let example = failed.words.clone();
            self.reasons.push(Reason {
                sub_reason: failed.sub_reason,
                failures: 0,
                sources: Tally::default(),
                example,
            });
            self.reasons.len() - 1
        });
        if let Some(reason) = self.reasons.get_mut(index) {
            reason.failures += 1;
            if let Some(source) = &about.source {
                reason.sources.add(source, 1);
            }
        }
        for (tally, key) in [
            (&mut self.sources, &about.source),
            (&mut self.fingerprints, &about.fingerprint),
            (&mut self.server_names, &about.server_name),
        ] {
            if let Some(key) = key {
                tally.add(key, 1);
            }
        }
        if let Some(at) = about.at {
            self.first = Some(self.first.map_or(at, |first| first.min(at)));
            self.last = Some(self.last.map_or(at, |last| last.max(at)));
        }
    }

    /// Whether any line told of a failure.
    pub fn recognised(&self) -> bool {
        self.failures + self.suppressed + self.upstream + self.alarms > 0
    }

    /// Lines that are not empty.
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// Lines that should be JSON and are not.
    pub fn malformed(&self) -> u64 {
        self.malformed
    }

    fn ordered(&self) -> Vec<&Reason> {
        let mut reasons: Vec<_> = self.reasons.iter().collect();
        reasons.sort_by_key(|reason| std::cmp::Reverse(reason.failures));
        reasons
    }

    /// Stable: members are added, never renamed.
    pub fn json(&self) -> Value {
        let top = |tally: &Tally| -> Vec<Value> {
            tally
                .top(TOLD)
                .into_iter()
                .map(|(key, failures)| json!({"key": key, "failures": failures}))
                .collect()
        };
        let mut categories: BTreeMap<&str, u64> = BTreeMap::new();
        for reason in &self.reasons {
            *categories.entry(reason.sub_reason.category().as_str()).or_default() += reason.failures;
        }
        let reasons: Vec<_> = self
            .ordered()
            .into_iter()
            .map(|reason| {
                let mut value = about(reason.sub_reason);
                if let Value::Object(members) = &mut value {
                    members.insert("failures".to_owned(), json!(reason.failures));
                    members.insert("example".to_owned(), json!(reason.example));
                    members.insert("sources".to_owned(), json!(top(&reason.sources)));
                }
                value
            })
            .collect();
        json!({
            "kind": "totals",
            "lines": self.lines,
            "failures": self.failures,
            "suppressed": self.suppressed,
            "alarms": self.alarms,
            "upstream": self.upstream,
            "malformed": self.malformed,
            "first": self.first.and_then(timestamp),
            "last": self.last.and_then(timestamp),
            "categories": categories,
            "reasons": reasons,
            "top": {
                "sources": top(&self.sources),
                "fingerprints": top(&self.fingerprints),
                "server_names": top(&self.server_names),
            },
        })
    }

    /// For a person.
    pub fn text(&self) -> String {
        let mut text = format!("{} failed handshakes in {} lines", self.failures, self.lines);
        if let Some((first, last)) = self.first.and_then(timestamp).zip(self.last.and_then(timestamp)) {
            let _infallible = write!(text, ", {first} to {last}");
        }
        text.push_str("\n\n");
        for reason in self.ordered() {
            let Reason { sub_reason, failures, sources, example } = reason;
            let share = permille(*failures, self.failures);
            let _infallible = writeln!(
                text,
                "{failures:>9}  {:>3}.{}%  {} / {sub_reason}",
                share / 10,
                share % 10,
                sub_reason.category()
            );
            if sub_reason.category() != Category::Unclassified {
                wrapped(&mut text, "who", who(sub_reason.blame()));
                wrapped(&mut text, "fix", sub_reason.remedy());
            }
            let from: Vec<_> =
                sources.top(3).into_iter().map(|(key, count)| format!("{key} ({count})")).collect();
            if !from.is_empty() {
                wrapped(&mut text, "from", &from.join(", "));
            }
            if !example.is_empty() {
                wrapped(&mut text, "e.g.", example);
            }
            wrapped(&mut text, "more", &pages::address(*sub_reason));
            text.push('\n');
        }
        for (title, tally) in [
            ("Top sources", &self.sources),
            ("Top certificates (SHA-256)", &self.fingerprints),
            ("Top server names", &self.server_names),
        ] {
            let top = tally.top(TOLD);
            if top.is_empty() {
                continue;
            }
            let _infallible = writeln!(text, "{title}");
            for (key, count) in top {
                let _infallible = writeln!(text, "{count:>9}  {key}");
            }
            if tally.others > 0 {
                let _infallible =
                    writeln!(text, "{:>9}  others, past the {} told apart", tally.others, Tally::CAPACITY);
            }
            text.push('\n');
        }
        for (count, what) in [
            (
                self.suppressed,
                "failures more that Outgate counted without a line each (its summaries say so)",
            ),
            (self.alarms, "alarms"),
            (self.upstream, "lines about TLS towards upstreams, not counted"),
            (self.malformed, "lines that begin as JSON and are none"),
        ] {
            if count > 0 {
                let _infallible = writeln!(text, "{count:>9}  {what}");
            }
        }
        text
    }
}

/// Thousandths, rounded down.
fn permille(part: u64, whole: u64) -> u64 {
    part.saturating_mul(1000).checked_div(whole).unwrap_or(0)
}

/// Reads a line without its end; what is longer than any line should be is skipped. False at the end.
pub fn next_line(lines: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    let read = io::Read::take(&mut *lines, MAXIMUM_LINE).read_until(b'\n', line)?;
    if read == 0 {
        return Ok(false);
    }
    if line.last() != Some(&b'\n') {
        // Either the end, or too long: then the rest goes.
        loop {
            let buffer = lines.fill_buf()?;
            let Some(newline) = buffer.iter().position(|byte| *byte == b'\n') else {
                let gone = buffer.len();
                if gone == 0 {
                    break;
                }
                lines.consume(gone);
                continue;
            };
            lines.consume(newline + 1);
            break;
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests;
