//! A hash that is the same in every build and on every worker.

/// 32 bits of FNV-1a; the high ones, which are the well mixed ones.
pub fn stable(text: &str) -> u32 {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    u32::try_from(hash >> 32).unwrap_or(0)
}
