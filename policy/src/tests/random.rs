//! Random numbers that are the same each time.

/// Xorshift.
pub struct Random(u64);

impl Random {
    /// From any seed; neighbours have nothing in common.
    pub fn new(seed: u64) -> Self {
        let mut random = Self((seed ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0x2545_f491_4f6c_dd1d) | 1);
        for _ in 0..4 {
            let _ = random.next();
        }
        random
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Less than the limit.
    pub fn below(&mut self, limit: usize) -> usize {
        usize::try_from((self.next() >> 11) % u64::try_from(limit).unwrap()).unwrap()
    }

    /// One of these.
    pub fn pick<'t>(&mut self, choices: &[&'t str]) -> &'t str {
        choices[self.below(choices.len())]
    }
}
