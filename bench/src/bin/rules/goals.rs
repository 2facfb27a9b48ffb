//! What we want, held against what was measured.

use crate::Row;

/// The microseconds that a scenario adds, if it was measured.
fn added(rows: &[Row], scenario: &str, rules: usize, matching: &str, fields: &str) -> Option<f64> {
    rows.iter()
        .find(|row| {
            row.scenario == scenario
                && row.rules == rules
                && (row.matching == matching || row.matching == "any")
                && row.fields == fields
        })
        .map(|row| row.added.median)
}

/// Prints each goal as met or missed.
pub fn print(rows: &[Row]) {
    let last = |scenario: &str, rules| added(rows, scenario, rules, "last", "headers");
    let ratio = |one: Option<f64>, other: Option<f64>| Some(one? / other?);
    let cel = |rules| ratio(last("rbac_cel", rules), last("outgate", rules));
    let each = |scenario: &str| {
        let pattern = |rules| added(rows, scenario, rules, "last", "regex");
        Some((pattern(1_000)? - pattern(10)?) / 990.0)
    };
    println!("\n| goal (last rule, headers) | wanted | measured | |\n|---|---|---|---|");
    for (goal, most, measured) in [
        ("10,000 rules beside 10", 1.15, ratio(last("outgate", 10_000), last("outgate", 10))),
        (
            "10 rules beside a stock SDK filter that reads two headers",
            1.6,
            ratio(last("outgate", 10), last("sdk_two_headers", 10)),
        ),
        ("10 rules beside Envoy's ordered CEL", 1.0, ratio(last("outgate", 10), last("rbac_cel", 10))),
        ("µs for each rule with a pattern", 0.3, each("outgate")),
    ] {
        line(goal, &format!("≤ {most}"), measured, |measured| measured <= most);
    }
    for (rules, least) in [(100, 5.0), (1_000, 50.0), (10_000, 500.0)] {
        line(
            &format!("Envoy's ordered CEL beside us at {rules} rules"),
            &format!("≥ {least}"),
            cel(rules),
            |measured| measured >= least,
        );
    }
}

fn line(goal: &str, wanted: &str, measured: Option<f64>, met: impl Fn(f64) -> bool) {
    if let Some(measured) = measured {
        println!("| {goal} | {wanted} | {measured:.2} | {} |", if met(measured) { "met" } else { "missed" });
    }
}
