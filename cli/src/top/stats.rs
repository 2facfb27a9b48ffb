//! Envoy's counters of handshakes, from `/stats/prometheus`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// Handshake counters, summed over listeners where a table does not tell them apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// By category and reason.
    pub failures: BTreeMap<(String, String), u64>,
    /// By listener, then by outcome.
    pub outcomes: BTreeMap<String, BTreeMap<String, u64>>,
    /// Lines that were left out, by kind.
    pub suppressed: BTreeMap<String, u64>,
    /// Alarms.
    pub alarms: u64,
}

/// How many a second there were since the last frame.
#[derive(Clone, Debug, Default)]
pub struct Rates(BTreeMap<(String, String), f64>);

impl Stats {
    /// Asks Envoy's admin interface.
    pub fn ask(admin: SocketAddr) -> Result<Self, String> {
        const MAXIMUM_PAGE: u64 = 64 * 1024 * 1024;
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(2)))
            .proxy(None)
            .build()
            .into();
        // Envoy leaves out all that is not Outgate's: the page of a busy one is long.
        let address = format!("http://{admin}/stats/prometheus?filter=outgate_tls_");
        let mut response = agent.get(&address).call().map_err(|error| error.to_string())?;
        let page = response.body_mut().with_config().limit(MAXIMUM_PAGE).read_to_string();
        page.map(|page| Self::read(&page)).map_err(|error| error.to_string())
    }

    /// Reads Prometheus's text format; lines that it does not know are passed over.
    pub fn read(page: &str) -> Self {
        let mut stats = Self::default();
        for line in page.lines() {
            let Some(sample) = Sample::read(line) else { continue };
            let label = |name: &str| sample.label(name).unwrap_or_default().to_owned();
            let count = match sample.name {
                "outgate_tls_handshake_failures_total" => {
                    stats.failures.entry((label("category"), label("reason"))).or_default()
                }
                "outgate_tls_handshakes_total" => {
                    stats.outcomes.entry(label("listener")).or_default().entry(label("outcome")).or_default()
                }
                "outgate_tls_handshake_lines_suppressed_total" => {
                    stats.suppressed.entry(label("kind")).or_default()
                }
                "outgate_tls_handshake_alarms_total" => &mut stats.alarms,
                _ => continue,
            };
            *count = count.saturating_add(sample.value);
        }
        stats
    }
}

impl Rates {
    /// Since a moment ago.
    pub fn between(before: &Stats, now: &Stats, elapsed: Duration) -> Self {
        let seconds = elapsed.as_secs_f64().max(0.001);
        let rate = |(key, count): (&(String, String), &u64)| {
            // A counter that fell belongs to an Envoy that was started anew.
            let more = count.saturating_sub(before.failures.get(key).copied().unwrap_or(0));
            let more = u32::try_from(more).unwrap_or(u32::MAX);
            (key.clone(), f64::from(more) / seconds)
        };
        Self(now.failures.iter().map(rate).collect())
    }

    /// Of one category and reason.
    pub fn of(&self, key: &(String, String)) -> f64 {
        self.0.get(key).copied().unwrap_or(0.0)
    }
}

/// `name{label="value",…} 12`
struct Sample<'a> {
    name: &'a str,
    labels: &'a str,
    value: u64,
}

impl<'a> Sample<'a> {
    fn read(line: &'a str) -> Option<Self> {
        let (series, value) = line.rsplit_once(' ')?;
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        Some(Self { name, labels: labels.trim_end_matches('}'), value: value.parse().ok()? })
    }

    /// Outgate's label values are words: none has a comma or a quotation mark.
    fn label(&self, name: &str) -> Option<&'a str> {
        self.labels.split(',').find_map(|label| {
            let (known, value) = label.split_once('=')?;
            (known == name).then(|| value.trim_matches('"'))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "\
# TYPE outgate_tls_handshake_failures_total counter
outgate_tls_handshake_failures_total{listener=\"mtls\",category=\"not_tls\",reason=\"garbage\"} 3
outgate_tls_handshake_failures_total{listener=\"other\",category=\"not_tls\",reason=\"garbage\"} 2
outgate_tls_handshakes_total{listener=\"mtls\",outcome=\"finished\"} 7
outgate_tls_handshakes_total{listener=\"mtls\",outcome=\"failed\"} 3
outgate_tls_handshake_lines_suppressed_total{listener=\"mtls\",kind=\"sampled\"} 1
outgate_tls_handshake_alarms_total{listener=\"mtls\"} 1
outgate_tls_client_certificate_days_to_expiry_sum{listener=\"mtls\"} 1.5
envoy_server_live{} 1
nonsense
";

    #[test]
    fn a_page_is_summed_over_its_listeners() {
        let stats = Stats::read(PAGE);
        let garbage = ("not_tls".to_owned(), "garbage".to_owned());
        assert_eq!(stats.failures, BTreeMap::from([(garbage.clone(), 5)]));
        assert_eq!(
            stats.outcomes["mtls"],
            BTreeMap::from([("failed".to_owned(), 3), ("finished".to_owned(), 7)])
        );
        assert_eq!((stats.suppressed["sampled"], stats.alarms), (1, 1));

        let later = Stats::read(&PAGE.replace("garbage\"} 3", "garbage\"} 23"));
        let rates = Rates::between(&stats, &later, Duration::from_secs(2));
        assert!((rates.of(&garbage) - 10.0).abs() < 1e-9);
        // An Envoy that was started anew.
        assert!(Rates::between(&later, &stats, Duration::from_secs(1)).of(&garbage).abs() < 1e-9);
    }
}
