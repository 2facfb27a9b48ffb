//! Which failures have a line of their own: few enough for any log, and none that is news is missing.
//!
//! ```text
//! first of its (source, fingerprint, reason)?  at most 20 a second ----------------> line
//! else: among the first N of its (category, source) in this window, or the M-th since?
//!       and fewer than `lines_per_second` in this second? -------------------------> line
//! else -----------------------------------------------------> counted, told in the summary
//! ```
//!
//! All workers share one state, in cells that are changed by compare and swap: [`Store`]. What is remembered is
//! bounded by the number and size of the cells, whatever clients send.

use outgate_policy::document::reader::{Item, Reader};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::taxonomy::SubReason;

/// Lines a second of failures that are the first of their kind.
pub const FIRST_LINES_PER_SECOND: u64 = 20;
/// How many (source, fingerprint, reason) are remembered, all cells together.
pub const REMEMBERED: usize = CELLS as usize * REMEMBERED_IN_CELL;

/// Cells of each kind.
const CELLS: u64 = 64;
const REMEMBERED_IN_CELL: usize = 156;
/// (category, source) pairs that one cell counts.
const COUNTED_IN_CELL: usize = 64;

/// How lines are sampled.
#[derive(Clone, Copy, Debug, Serialize, PartialEq, Eq)]
pub struct Sampling {
    /// The most lines a second, of all workers together; those of first failures come on top.
    pub lines_per_second: u32,
    /// How many failures of one category and source have a line in a window; without it all have.
    pub first: Option<u32>,
    /// Of those after the first, one in how many has a line.
    pub then_one_in: u32,
}

impl Sampling {
    /// Reads the plugin JSON's key `sampling`.
    pub(crate) fn read(reader: &mut Reader, item: &Item<'_>) -> Self {
        let default = Self::default();
        let Some(object) = reader.object(item, &["lines_per_second", "first", "then_one_in"]) else {
            return default;
        };
        let any = 0..=u32::MAX.into();
        let first = object.get("first").and_then(|item| reader.number(&item, &any));
        Self {
            lines_per_second: reader.optional_number(
                &object,
                "lines_per_second",
                &any,
                default.lines_per_second,
            ),
            first: first.and_then(|first| u32::try_from(first).ok()),
            then_one_in: reader.optional_number(
                &object,
                "then_one_in",
                &(1..=u32::MAX.into()),
                default.then_one_in,
            ),
        }
    }
}

impl Default for Sampling {
    fn default() -> Self {
        Self { lines_per_second: 100, first: None, then_one_in: 100 }
    }
}

/// A failure, as far as sampling looks at it.
#[derive(Clone, Copy, Debug)]
pub struct Occurrence<'a> {
    /// When, in milliseconds since 1970.
    pub at: u64,
    /// The number of the window that it falls into.
    pub window: u64,
    /// Why.
    pub reason: SubReason,
    /// The client as an IPv4 /32 or IPv6 /64.
    pub source: &'a str,
    /// SHA-256 of the client's certificate; empty if it presented none.
    pub fingerprint: &'a str,
}

/// Whether a failure has a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It has.
    Line,
    /// It has not, though it is the first of its kind.
    FirstSuppressed,
    /// It has not.
    Suppressed,
}

/// A part of the state that is read and written as one.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub enum Cell {
    /// Hashes of what had its first line, oldest first.
    Seen(u64),
    /// Failures of a category and source: key, window, count.
    Counts(u64),
    /// This second: its number, its lines, its first lines.
    Pace,
}

impl Cell {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..CELLS).flat_map(|index| [Self::Seen(index), Self::Counts(index)]).chain([Self::Pace])
    }
}

/// Where the state lies.
pub trait Store {
    /// Changes a cell as if nobody else did at the same time; `change` may run more than once.
    fn update<T>(&self, cell: Cell, change: impl FnMut(&mut Vec<u64>) -> T) -> T;
    /// What is in a cell.
    fn read(&self, cell: Cell) -> Vec<u64>;
}

/// Whether a failure has a line.
pub fn admit(sampling: &Sampling, store: &impl Store, occurrence: &Occurrence<'_>) -> Admission {
    let second = occurrence.at / 1000;
    let identity = hash(&[occurrence.source, occurrence.fingerprint, occurrence.reason.as_str()]);
    let seen = Cell::Seen(identity % CELLS);
    let first = !store.read(seen).contains(&identity);
    // What finds no room among the first lines is not remembered: it is still to have its own.
    if first
        && store.update(Cell::Pace, |pace| take(pace, second, FIRST, FIRST_LINES_PER_SECOND))
        && store.update(seen, |seen| remember(seen, identity))
    {
        return Admission::Line;
    }
    let within = sampling.first.is_none_or(|first| {
        let key = hash(&[occurrence.reason.category().as_str(), occurrence.source]);
        let count = store.update(Cell::Counts(key % CELLS), |counts| {
            count(counts, key, occurrence.window, COUNTED_IN_CELL)
        });
        match count.checked_sub(u64::from(first)) {
            None | Some(0) => true,
            Some(after) => after % u64::from(sampling.then_one_in.max(1)) == 0,
        }
    });
    let limit = u64::from(sampling.lines_per_second);
    if within && store.update(Cell::Pace, |pace| take(pace, second, ANY, limit)) {
        Admission::Line
    } else if first {
        Admission::FirstSuppressed
    } else {
        Admission::Suppressed
    }
}

/// Where a second's lines are counted in its cell.
const ANY: usize = 1;
/// Where its first lines are.
const FIRST: usize = 2;

/// Takes one of the second's lines, if one is left.
fn take(pace: &mut Vec<u64>, second: u64, kind: usize, limit: u64) -> bool {
    // A worker whose clock reads a little behind counts with the others.
    if pace.first().is_none_or(|current| *current < second) {
        *pace = vec![second, 0, 0];
    }
    match pace.get_mut(kind) {
        Some(taken) if *taken < limit => {
            *taken += 1;
            true
        }
        _ => false,
    }
}

/// Adds a hash; false if somebody else just did.
fn remember(seen: &mut Vec<u64>, identity: u64) -> bool {
    if seen.contains(&identity) {
        return false;
    }
    if seen.len() >= REMEMBERED_IN_CELL {
        seen.remove(0);
    }
    seen.push(identity);
    true
}

/// Counts a failure of `key` in its window, and tells how many there have been.
fn count(counts: &mut Vec<u64>, key: u64, window: u64, room: usize) -> u64 {
    let mut entries: Vec<[u64; 3]> = counts.as_chunks().0.to_vec();
    entries.retain(|[_, of, _]| *of >= window);
    let place = entries.iter().position(|[known, ..]| *known == key);
    if place.is_none() && entries.len() >= room {
        // Whoever failed least is forgotten: it begins anew, under the limit of lines a second.
        let least = entries.iter().enumerate().min_by_key(|(_, [.., count])| *count);
        if let Some((index, _)) = least {
            entries.swap_remove(index);
        }
    }
    let mut entry = match place {
        Some(index) => entries.swap_remove(index),
        None => [key, window, 0],
    };
    entry[2] += 1;
    entries.push(entry);
    *counts = entries.as_flattened().to_vec();
    entry[2]
}

/// 64 bits of SHA-256: clients choose what goes in, and must not be able to choose what comes out.
fn hash(parts: &[&str]) -> u64 {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part.as_bytes());
        hasher.update([0]);
    }
    hasher.finalize().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests;
