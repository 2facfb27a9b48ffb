//! Who comes most often, in bounded memory: the space-saving sketch (Metwally, Agrawal, El Abbadi 2005).
//!
//! A key that comes more often than total/capacity is always among the entries; its count is too high by `error`
//! at most. Sketches of several workers merge into one with the same promise.

use serde::{Deserialize, Serialize};

/// Entries of a sketch.
pub const CAPACITY: usize = 128;

/// Counts of the keys that come most often.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct Sketch {
    /// By key, in ascending order.
    entries: Vec<(String, Estimate)>,
}

/// How often a key came: at most `count`, at least `count - error`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct Estimate {
    /// Never too low.
    pub count: u64,
    /// By how much it may be too high.
    pub error: u64,
}

impl Estimate {
    /// Never too high.
    pub fn at_least(self) -> u64 {
        self.count.saturating_sub(self.error)
    }
}

impl Sketch {
    /// Counts one.
    pub fn add(&mut self, key: &str) {
        if let Ok(place) = self.place(key)
            && let Some((_, estimate)) = self.entries.get_mut(place)
        {
            estimate.count += 1;
            return;
        }
        // Whoever came least makes room, and leaves its count: the newcomer may have come as often unseen.
        let error = if self.entries.len() < CAPACITY { 0 } else { self.evict() };
        self.insert(key.to_owned(), Estimate { count: error + 1, error });
    }

    /// Counts all that another one did.
    pub fn merge(&mut self, other: Self) {
        let (ours, theirs) = (self.unseen(), other.unseen());
        for (key, estimate) in &mut self.entries {
            let more = other.get(key).unwrap_or(Estimate { count: theirs, error: theirs });
            estimate.count += more.count;
            estimate.error += more.error;
        }
        for (key, estimate) in other.entries {
            if self.place(&key).is_err() {
                self.insert(key, Estimate { count: estimate.count + ours, error: estimate.error + ours });
            }
        }
        while self.entries.len() > CAPACITY {
            self.evict();
        }
    }

    /// The `count` that come most often, most first.
    pub fn top(&self, count: usize) -> Vec<(&str, Estimate)> {
        let mut all: Vec<_> = self.entries.iter().map(|(key, estimate)| (key.as_str(), *estimate)).collect();
        all.sort_by_key(|(_, estimate)| std::cmp::Reverse(estimate.count));
        all.truncate(count);
        all
    }

    /// How often a key that is not here may have come.
    fn unseen(&self) -> u64 {
        if self.entries.len() < CAPACITY { 0 } else { self.least().map_or(0, |(_, count)| count) }
    }

    /// The place of the key that came least, and how often that was.
    fn least(&self) -> Option<(usize, u64)> {
        let counts = self.entries.iter().map(|(_, estimate)| estimate.count);
        counts.enumerate().min_by_key(|(_, count)| *count)
    }

    fn evict(&mut self) -> u64 {
        let Some((place, count)) = self.least() else { return 0 };
        self.entries.remove(place);
        count
    }

    /// Where a key is, or would be.
    fn place(&self, key: &str) -> Result<usize, usize> {
        self.entries.binary_search_by(|(other, _)| other.as_str().cmp(key))
    }

    fn get(&self, key: &str) -> Option<Estimate> {
        self.place(key).ok().and_then(|place| self.entries.get(place)).map(|(_, estimate)| *estimate)
    }

    fn insert(&mut self, key: String, estimate: Estimate) {
        let (Ok(place) | Err(place)) = self.place(&key);
        self.entries.insert(place, (key, estimate));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sketch(keys: impl IntoIterator<Item = usize>) -> Sketch {
        let mut sketch = Sketch::default();
        for key in keys {
            sketch.add(&key.to_string());
        }
        sketch
    }

    /// 4,000 keys that come once, and three that come often.
    fn crowd(seed: usize) -> impl Iterator<Item = usize> {
        (0..4_000).flat_map(move |index| {
            let often = match index % 10 {
                0..5 => Some(1),
                5..8 => Some(2),
                8 => Some(3),
                _ => None,
            };
            [Some(10_000 * seed + index), often].into_iter().flatten()
        })
    }

    #[test]
    fn few_keys_are_counted_exactly() {
        let sketch = sketch([7, 8, 7, 9, 7, 8]);
        let exact = |count| Estimate { count, error: 0 };
        assert_eq!(sketch.top(2), [("7", exact(3)), ("8", exact(2))]);
        assert_eq!(sketch.top(10).len(), 3);
    }

    #[test]
    fn who_comes_often_is_found_in_a_crowd_and_bounded_on_both_sides() {
        for (sketch, times) in [
            (sketch(crowd(1)), 1),
            (
                (2..5).fold(sketch(crowd(1)), |mut all, seed| {
                    all.merge(sketch(crowd(seed)));
                    all
                }),
                4,
            ),
        ] {
            let top = sketch.top(3);
            for ((key, estimate), (expected, truth)) in
                top.into_iter().zip([("1", 2000 * times), ("2", 1200 * times), ("3", 400 * times)])
            {
                assert_eq!(key, expected);
                assert!(estimate.at_least() <= truth && truth <= estimate.count, "{key}: {estimate:?}");
            }
            assert!(sketch.entries.len() <= CAPACITY);
        }
    }

    #[test]
    fn merging_small_sketches_loses_nothing() {
        let mut all = sketch([1, 1, 2]);
        all.merge(sketch([2, 2, 3]));
        let exact = |count| Estimate { count, error: 0 };
        assert_eq!(all.top(3), [("2", exact(3)), ("1", exact(2)), ("3", exact(1))]);
    }
}
