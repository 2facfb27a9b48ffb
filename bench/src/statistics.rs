//! Medians, and how far to trust them.

/// A median and its 95 % confidence interval.
#[derive(Clone, Copy, Debug)]
pub struct Estimate {
    /// The median.
    pub median: f64,
    /// The lower end of the interval.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

impl Estimate {
    /// Of samples: by order statistics, without assuming a distribution.
    pub fn of(mut samples: Vec<f64>) -> Self {
        assert!(!samples.is_empty(), "nothing was measured");
        samples.sort_unstable_by(f64::total_cmp);
        let count = samples.len() as f64;
        // The median lies between these ranks in 95 of 100 runs (normal approximation of the binomial distribution).
        let spread = 0.98 * count.sqrt();
        let at = |rank: f64| samples[(rank.max(0.0) as usize).min(samples.len() - 1)];
        let middle = samples.len() / 2;
        let median = if samples.len() % 2 == 1 {
            samples[middle]
        } else {
            f64::midpoint(samples[middle - 1], samples[middle])
        };
        Self { median, low: at((count / 2.0 - spread).floor()), high: at((count / 2.0 + spread).ceil()) }
    }

    /// Each of its figures, changed.
    pub fn map(self, change: impl Fn(f64) -> f64) -> Self {
        Self { median: change(self.median), low: change(self.low), high: change(self.high) }
    }
}

/// Another order of slices in each round, the same ones in each run.
pub struct Shuffle(u64);

impl Default for Shuffle {
    fn default() -> Self {
        Self(0x9E37_79B9_7F4A_7C15)
    }
}

impl Shuffle {
    /// Fisher and Yates, with Marsaglia's xorshift.
    pub fn apply<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            items.swap(last, (self.0 % (last as u64 + 1)) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_holds_the_median_and_narrows_with_more_samples() {
        let few = Estimate::of((1..=9).map(f64::from).collect());
        let many = Estimate::of((1..=900).map(|number| f64::from(number) / 100.0).collect());
        assert!((few.median - 5.0).abs() < f64::EPSILON);
        assert!(few.low < few.median && few.median < few.high);
        assert!(many.high - many.low < few.high - few.low);
    }
}
