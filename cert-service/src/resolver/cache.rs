//! Answers for as long as their TTL allows; equal questions at one time are asked once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use hickory_proto::rr::Name;
use tokio::sync::OnceCell;

use super::lookup::{Family, Lookup};

/// Bounded: when one generation is full, it becomes the old one, and what was old and not asked for
/// since is forgotten.
pub struct Cache {
    generations: Mutex<Generations>,
    capacity: usize,
}

#[derive(Default)]
struct Generations {
    young: HashMap<Key, Slot>,
    old: HashMap<Key, Slot>,
}

type Key = (Name, Family);
type Slot = Arc<OnceCell<Arc<Lookup>>>;

impl Cache {
    /// A cache that holds up to this many answers.
    pub fn new(capacity: usize) -> Cache {
        Cache { generations: Mutex::default(), capacity }
    }

    /// What is known, or else what `ask` finds out.
    pub async fn get<F: Future<Output = Lookup>>(
        &self,
        name: &Name,
        family: Family,
        ask: impl FnOnce() -> F,
    ) -> Arc<Lookup> {
        let slot = self.slot((name.clone(), family));
        slot.get_or_init(|| async { Arc::new(ask().await) }).await.clone()
    }

    fn slot(&self, key: Key) -> Slot {
        let usable = |slot: &Slot| !slot.get().is_some_and(|lookup| lookup.is_over());
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = generations.young.get(&key).filter(|slot| usable(slot)) {
            return slot.clone();
        }
        let slot = generations.old.remove(&key).filter(usable).unwrap_or_default();
        if generations.young.len() >= self.capacity / 2 {
            generations.old = std::mem::take(&mut generations.young);
        }
        generations.young.insert(key, slot.clone());
        slot
    }

    /// How many answers it holds.
    #[cfg(test)]
    fn len(&self) -> usize {
        let generations = self.generations.lock().unwrap();
        generations.young.len() + generations.old.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_stays_small_and_keeps_what_is_used() {
        let cache = Cache::new(100);
        let name = |number: usize| Name::from_ascii(format!("n{number}.example.")).unwrap();
        let used = name(0);
        let lookup = || Lookup::known(&used, ["192.0.2.1".parse().unwrap()], Family::V4, 60);
        for number in 0..1000 {
            cache.get(&name(number), Family::V4, || async { lookup() }).await;
            cache.get(&used, Family::V4, || async { panic!("it was forgotten") }).await;
            assert!(cache.len() <= 100);
        }
    }
}
