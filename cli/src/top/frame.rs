//! One frame, as lines of text.

use std::net::SocketAddr;
use std::path::PathBuf;

use outgate_handshake::presented::timestamp;
use time::OffsetDateTime;

use super::stats::{Rates, Stats};
use super::window::Seen;
use crate::explain_tls::totals::Tally;

/// What is known at one moment.
#[derive(Debug)]
pub struct Frame {
    /// When.
    pub at: OffsetDateTime,
    /// Envoy's counters, or why there are none.
    pub stats: Option<(SocketAddr, Result<Stats, String>)>,
    /// How fast they grow; not in the first frame.
    pub rates: Option<Rates>,
    /// What the log told, or why it told nothing.
    pub log: Option<(PathBuf, std::io::Result<Seen>)>,
    /// The log's window in seconds; 0 is all of it.
    pub window: u32,
    /// Rows of each table.
    pub rows: usize,
}

impl Frame {
    /// Whether nothing that was asked for could be read.
    pub fn is_blind(&self) -> bool {
        let stats = self.stats.as_ref().is_some_and(|(_, stats)| stats.is_ok());
        let log = self.log.as_ref().is_some_and(|(_, log)| log.is_ok());
        !stats && !log
    }

    /// The lines, each as long as it is.
    pub fn lines(&self) -> Vec<String> {
        let at = self.at.replace_nanosecond(0).ok().and_then(timestamp).unwrap_or_default();
        let mut lines = vec![format!("outgate top  {at}  failed handshakes")];
        match &self.stats {
            Some((admin, Ok(stats))) => self.counters(*admin, stats, &mut lines),
            Some((admin, Err(error))) => {
                lines.push(String::new());
                lines.push(format!(
                    "Envoy on {admin} does not answer: {error}; --admin says where its admin interface is"
                ));
            }
            None => {}
        }
        match &self.log {
            Some((path, Ok(seen))) => self.offenders(&path.display().to_string(), seen, &mut lines),
            Some((path, Err(error))) => {
                lines.push(String::new());
                lines.push(format!("cannot read `{}`: {error}", path.display()));
            }
            None => {
                lines.push(String::new());
                lines
                    .push("Sources, certificates and server names are in the log: add --log FILE".to_owned());
            }
        }
        lines
    }

    fn counters(&self, admin: SocketAddr, stats: &Stats, lines: &mut Vec<String>) {
        lines.push(String::new());
        lines.push(format!("Envoy on {admin}, since its start"));
        for (listener, outcomes) in &stats.outcomes {
            let outcomes: Vec<_> =
                outcomes.iter().map(|(outcome, count)| format!("{count} {outcome}")).collect();
            lines.push(format!("  listener {listener}: {}", outcomes.join(", ")));
        }
        if stats.failures.is_empty() {
            lines.push("  it has no counters of Outgate: does it run outgate.wasm?".to_owned());
            return;
        }
        let suppressed: Vec<_> =
            stats.suppressed.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        if !suppressed.is_empty() {
            lines.push(format!("  alarms: {}   lines suppressed: {}", stats.alarms, suppressed.join(", ")));
        }
        let mut failures: Vec<_> = stats.failures.iter().filter(|(_, count)| **count > 0).collect();
        failures.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        if failures.is_empty() {
            lines.push("  no handshake has failed".to_owned());
            return;
        }
        lines.push(format!("{:>10} {:>9}  {}", "FAILURES", "PER SEC", "CATEGORY / REASON"));
        let shown = failures.len().min(self.rows);
        for (key, count) in failures.iter().take(shown) {
            let rate = self.rates.as_ref().map_or("-".to_owned(), |rates| format!("{:.1}", rates.of(key)));
            lines.push(format!("{count:>10} {rate:>9}  {} / {}", key.0, key.1));
        }
        if failures.len() > shown {
            lines.push(format!("{:>20}  … {} reasons more", "", failures.len() - shown));
        }
    }

    fn offenders(&self, path: &str, seen: &Seen, lines: &mut Vec<String>) {
        let window =
            if self.window == 0 { "all of it".to_owned() } else { format!("last {} s", self.window) };
        lines.push(String::new());
        lines.push(format!("{path}, {window}: {} failures", seen.failures()));
        for (title, tally) in [
            ("SOURCE", &seen.sources),
            ("CERTIFICATE (SHA-256)", &seen.fingerprints),
            ("SERVER NAME", &seen.server_names),
            ("CATEGORY", &seen.categories),
            ("CATEGORY / REASON, of lines", &seen.reasons),
        ] {
            self.table(title, tally, lines);
        }
        if !seen.alarms.is_empty() {
            lines.push(String::new());
            lines.push(format!("{:>10}  ALARM", "FAILURES"));
        }
        for alarm in seen.alarms.iter().rev() {
            let at = alarm.at.and_then(timestamp).unwrap_or_default();
            lines.push(format!("{:>10}  {} at {at}", alarm.failures, alarm.source));
        }
    }

    fn table(&self, title: &str, tally: &Tally, lines: &mut Vec<String>) {
        let top = tally.top(self.rows);
        if top.is_empty() {
            return;
        }
        lines.push(String::new());
        lines.push(format!("{:>10}  {title}", "FAILURES"));
        lines.extend(top.into_iter().map(|(key, count)| format!("{count:>10}  {key}")));
    }
}

#[cfg(test)]
mod tests;
