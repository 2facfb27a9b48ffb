//! A quick hash, for tables that only a policy's author fills: clients look things up in them, so they cannot
//! make keys collide.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

/// A map with the quick hash.
pub type QuickMap<K, V> = HashMap<K, V, BuildHasherDefault<QuickHasher>>;

/// A set with the quick hash.
pub type QuickSet<K> = HashSet<K, BuildHasherDefault<QuickHasher>>;

/// Odd, and as irregular as the digits of π.
const FACTOR: u64 = 0x2437_54a3_0885_a309;

/// Eight bytes at a time: mixed in, multiplied, folded.
#[derive(Clone, Copy, Debug, Default)]
pub struct QuickHasher(u64);

/// The hash of a text.
pub fn of_text(text: &str) -> u64 {
    let mut hasher = QuickHasher::default();
    hasher.write(text.as_bytes());
    hasher.write_usize(text.len());
    hasher.finish()
}

impl Hasher for QuickHasher {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.write_u64(u64::from_le_bytes(*word));
        }
        if !rest.is_empty() {
            let word = rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
            self.write_u64(word);
        }
    }

    fn write_u8(&mut self, number: u8) {
        self.write_u64(u64::from(number));
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        let mixed = (self.0.rotate_left(23) ^ number).wrapping_mul(FACTOR);
        self.0 = mixed ^ mixed >> 32;
    }

    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }

    fn finish(&self) -> u64 {
        self.0.wrapping_mul(FACTOR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn similar_texts_hash_apart_in_high_bits_and_low_bits() {
        let hashes: Vec<u64> =
            (0..100_000).map(|number| of_text(&format!("host-{number}.example"))).collect();
        for shift in [0, 44] {
            let distinct: HashSet<u64> = hashes.iter().map(|hash| hash >> shift & 0xf_ffff).collect();
            // As many as chance leaves distinct among 2^20.
            assert!(distinct.len() > 94_000, "{shift}: {}", distinct.len());
        }
        assert_ne!(of_text(""), of_text("\0"));
        assert_ne!(of_text("a"), of_text("a\0"));
        assert_eq!(hashes.iter().collect::<HashSet<_>>().len(), hashes.len());
    }
}
