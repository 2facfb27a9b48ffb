use std::cell::RefCell;
use std::collections::HashMap;

use super::*;

#[derive(Default)]
struct Memory(RefCell<HashMap<Cell, Vec<u64>>>);

impl Store for Memory {
    fn update<T>(&self, cell: Cell, mut change: impl FnMut(&mut Vec<u64>) -> T) -> T {
        change(self.0.borrow_mut().entry(cell).or_default())
    }

    fn read(&self, cell: Cell) -> Vec<u64> {
        self.0.borrow().get(&cell).cloned().unwrap_or_default()
    }
}

impl Memory {
    fn words(&self) -> usize {
        self.0.borrow().values().map(Vec::len).sum()
    }
}

fn occurrence<'a>(at: u64, source: &'a str, fingerprint: &'a str) -> Occurrence<'a> {
    Occurrence { at, window: at / 60_000, reason: SubReason::Expired, source, fingerprint }
}

/// What becomes of `failures`: lines, first ones suppressed, others suppressed.
fn outcome<'a>(
    sampling: &Sampling,
    store: &Memory,
    failures: impl IntoIterator<Item = Occurrence<'a>>,
) -> [usize; 3] {
    let mut counts = [0; 3];
    for failure in failures {
        let index = match admit(sampling, store, &failure) {
            Admission::Line => 0,
            Admission::FirstSuppressed => 1,
            Admission::Suppressed => 2,
        };
        counts[index] += 1;
    }
    counts
}

#[test]
fn every_failure_has_a_line_up_to_the_limit_of_a_second() {
    let store = Memory::default();
    let one = |at| occurrence(at, "192.0.2.7/32", "AB");
    let sampling = Sampling::default();
    // The first is a first line, and does not count among the hundred.
    assert_eq!(outcome(&sampling, &store, (0..150).map(one)), [101, 0, 49]);
    assert_eq!(outcome(&sampling, &store, (1000..1050).map(one)), [50, 0, 0]);
}

#[test]
fn after_the_first_of_a_window_one_in_m_has_a_line() {
    let store = Memory::default();
    let sampling = Sampling { lines_per_second: 1000, first: Some(10), then_one_in: 50 };
    let a = |at| occurrence(at, "192.0.2.7/32", "AB");
    // The first line, ten by their number, and the 60th and 110th of the 149 counted ones.
    assert_eq!(outcome(&sampling, &store, (0..150).map(a)), [13, 0, 137]);
    // Another source has its own count.
    let b = |at| occurrence(at, "192.0.2.8/32", "AB");
    assert_eq!(outcome(&sampling, &store, (0..11).map(b)), [11, 0, 0]);
    // As has another window.
    assert_eq!(outcome(&sampling, &store, (60_000..60_010).map(a)), [10, 0, 0]);
}

#[test]
fn the_first_of_each_client_certificate_and_reason_always_has_a_line() {
    let store = Memory::default();
    let sampling = Sampling { lines_per_second: 0, first: Some(0), then_one_in: 1_000_000 };
    let mut failures = vec![
        occurrence(0, "192.0.2.7/32", "AB"),
        occurrence(0, "192.0.2.8/32", "AB"),
        occurrence(0, "192.0.2.7/32", "CD"),
        Occurrence { reason: SubReason::Revoked, ..occurrence(0, "192.0.2.7/32", "AB") },
    ];
    assert_eq!(outcome(&sampling, &store, failures.clone()), [4, 0, 0]);
    failures.iter_mut().for_each(|failure| failure.at += 3_600_000);
    assert_eq!(outcome(&sampling, &store, failures), [0, 0, 4], "an hour later they are no news");
}

#[test]
fn fresh_certificates_bound_neither_lines_nor_memory_away() {
    let store = Memory::default();
    let sampling = Sampling { lines_per_second: 5, first: Some(1), then_one_in: 1_000 };
    let names: Vec<String> = (0..50_000).map(|index| format!("{index:064X}")).collect();
    // 5,000 a second for ten seconds, each with a certificate of its own.
    let flood = (0_u64..).zip(&names).map(|(index, name)| occurrence(index / 5, "192.0.2.7/32", name));
    let [lines, first_suppressed, suppressed] = outcome(&sampling, &store, flood);
    assert!((200..=250).contains(&lines), "{lines}");
    assert_eq!((lines + first_suppressed, suppressed), (50_000, 0));
    // 600 seconds of twenty first lines each are more than is remembered.
    let slow =
        (0_u64..).zip(&names).map(|(index, name)| occurrence(20_000 + index * 50, "192.0.2.9/32", name));
    outcome(&sampling, &store, slow.take(20_000));
    let remembered: usize = (0..CELLS).map(|index| store.read(Cell::Seen(index)).len()).sum();
    assert_eq!((remembered, REMEMBERED <= 10_000), (REMEMBERED, true));
}

#[test]
fn many_sources_do_not_grow_the_counts() {
    let store = Memory::default();
    let sampling = Sampling { first: Some(1), ..Sampling::default() };
    let sources: Vec<String> = (0..30_000).map(|index| format!("2001:db8:0:{index:x}::/64")).collect();
    outcome(&sampling, &store, sources.iter().map(|source| occurrence(0, source, "")));
    assert!(store.words() <= 64 * (REMEMBERED_IN_CELL + 3 * COUNTED_IN_CELL) + 3, "{}", store.words());
}

#[test]
fn a_first_line_that_found_no_room_comes_later() {
    let store = Memory::default();
    let sampling = Sampling { lines_per_second: 0, ..Sampling::default() };
    let names: Vec<String> = (0..30).map(|index| index.to_string()).collect();
    let all = |at| names.iter().map(move |name| occurrence(at, "192.0.2.7/32", name));
    assert_eq!(outcome(&sampling, &store, all(0)), [20, 10, 0]);
    assert_eq!(outcome(&sampling, &store, all(1000)), [10, 0, 20]);
}

#[test]
fn a_clock_that_runs_behind_buys_no_lines() {
    let store = Memory::default();
    let sampling = Sampling { lines_per_second: 3, ..Sampling::default() };
    let times = [2000, 1999, 2001, 1999, 2000, 1500];
    assert_eq!(outcome(&sampling, &store, times.map(|at| occurrence(at, "192.0.2.7/32", ""))), [4, 0, 2]);
}
