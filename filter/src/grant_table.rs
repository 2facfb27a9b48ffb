//! Grants that cert-service gave, in Envoy's shared data.
//!
//! Shared data has no delete, so the table has a fixed number of slots, each with room for a few
//! grants: nothing that clients ask for makes it grow.

use crate::hash::stable;

/// How many slots there are.
const SLOTS: u32 = 4096;

/// How many grants fit in one.
const ROOM: usize = 4;

/// For whom: a pool and a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantKey(String);

/// How long a grant is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// For more than half of its time.
    Fresh,
    /// For less: ask again, in the background.
    Ageing,
    /// Another instance of cert-service gave it, or it is older than the policy: ask again first.
    Doubtful,
    /// There is none.
    None,
}

impl GrantKey {
    /// The key of `host` in `pool`.
    pub fn new(pool: &str, host: &str) -> Self {
        Self(format!("{pool}/{host}"))
    }

    /// The key of its slot in the shared data.
    pub fn slot(&self) -> String {
        format!("outgate.grants.{}", stable(&self.0) % SLOTS)
    }
}

/// What a slot says of `key` at `now` (milliseconds), if `instance` is what cert-service calls itself now, as far as that
/// is known, and the policy of now is in force since `since`: one in between may have had the grant taken back.
pub fn lookup(slot: &[u8], key: &GrantKey, now: u64, since: u64, instance: Option<&str>) -> Validity {
    match entries(slot).find(|entry| entry.key == key.0 && entry.until > now) {
        None => Validity::None,
        Some(entry) if instance.is_some_and(|instance| entry.instance != instance) => Validity::Doubtful,
        Some(entry) if entry.until.saturating_sub(entry.lifetime) < since => Validity::Doubtful,
        Some(entry) if entry.until.saturating_sub(now) * 2 > entry.lifetime => Validity::Fresh,
        Some(_) => Validity::Ageing,
    }
}

/// The slot with `key` granted by `instance` for `lifetime` milliseconds; the grant that ends first makes room.
pub fn insert(slot: &[u8], key: &GrantKey, now: u64, lifetime: u64, instance: &str) -> Vec<u8> {
    let mut kept: Vec<Entry<'_>> =
        entries(slot).filter(|entry| entry.key != key.0 && entry.until > now).collect();
    let until = now.saturating_add(lifetime);
    // They are in order: that which ends last is the first.
    let place = kept.partition_point(|entry| entry.until >= until);
    kept.insert(place, Entry { until, lifetime, instance, key: &key.0 });
    kept.truncate(ROOM);
    write(kept.into_iter())
}

/// The slot without `key`.
pub fn remove(slot: &[u8], key: &GrantKey) -> Vec<u8> {
    write(entries(slot).filter(|entry| entry.key != key.0))
}

struct Entry<'a> {
    until: u64,
    lifetime: u64,
    instance: &'a str,
    key: &'a str,
}

fn write<'a>(entries: impl Iterator<Item = Entry<'a>>) -> Vec<u8> {
    let lines: Vec<String> = entries
        .map(|entry| format!("{} {} {} {}", entry.until, entry.lifetime, entry.instance, entry.key))
        .collect();
    lines.join("\n").into_bytes()
}

fn entries(slot: &[u8]) -> impl Iterator<Item = Entry<'_>> {
    str::from_utf8(slot).unwrap_or_default().lines().filter_map(|line| {
        let mut parts = line.splitn(4, ' ');
        Some(Entry {
            until: parts.next()?.parse().ok()?,
            lifetime: parts.next()?.parse().ok()?,
            instance: parts.next()?,
            key: parts.next()?,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFETIME: u64 = 600_000;

    #[test]
    fn a_grant_is_fresh_then_ageing_then_gone() {
        let key = GrantKey::new("main", "a.example");
        let slot = insert(b"", &key, 1_000, LIFETIME, "i");
        for (now, validity) in [
            (1_000, Validity::Fresh),
            (300_000, Validity::Fresh),
            (301_001, Validity::Ageing),
            (600_999, Validity::Ageing),
            (601_000, Validity::None),
        ] {
            assert_eq!(lookup(&slot, &key, now, 0, Some("i")), validity, "{now}");
        }
        assert_eq!(lookup(&slot, &GrantKey::new("other", "a.example"), 1_000, 0, Some("i")), Validity::None);
        assert_eq!(lookup(&remove(&slot, &key), &key, 1_000, 0, Some("i")), Validity::None);
    }

    #[test]
    fn what_another_instance_granted_is_doubtful() {
        let key = GrantKey::new("main", "a.example");
        let slot = insert(b"", &key, 0, LIFETIME, "first");
        for (now, validity) in
            [(None, Validity::Fresh), (Some("first"), Validity::Fresh), (Some("second"), Validity::Doubtful)]
        {
            assert_eq!(lookup(&slot, &key, 1, 0, now), validity, "{now:?}");
        }
    }

    #[test]
    fn what_was_granted_under_an_older_policy_is_doubtful() {
        let key = GrantKey::new("main", "a.example");
        let slot = insert(b"", &key, 100, LIFETIME, "i");
        assert_eq!(lookup(&slot, &key, 200, 100, Some("i")), Validity::Fresh);
        assert_eq!(lookup(&slot, &key, 200, 101, Some("i")), Validity::Doubtful);
    }

    #[test]
    fn a_slot_never_outgrows_its_room() {
        let mut slot = Vec::new();
        for index in 0..100 {
            slot =
                insert(&slot, &GrantKey::new("main", &format!("host-{index}.example")), index, LIFETIME, "i");
        }
        assert_eq!(entries(&slot).count(), ROOM);
        assert_eq!(
            lookup(&slot, &GrantKey::new("main", "host-99.example"), 100, 0, Some("i")),
            Validity::Fresh
        );
        assert_eq!(
            lookup(&slot, &GrantKey::new("main", "host-0.example"), 100, 0, Some("i")),
            Validity::None
        );
    }

    #[test]
    fn rubbish_is_no_grant() {
        let key = GrantKey::new("main", "a.example");
        for slot in [&b"\xff\xfe"[..], b"x y i z", b"1", b"9999999999999999999999 1 i main/a.example"] {
            assert_eq!(lookup(slot, &key, 0, 0, Some("i")), Validity::None);
        }
    }
}
