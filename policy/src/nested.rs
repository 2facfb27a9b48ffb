//! Keys that can lie inside each other, such as path prefixes and address ranges: finds all that cover a value.

/// A tree of keys, kept as one sorted list: a key comes right after those that cover it.
#[derive(Clone, Debug)]
pub struct Nested<K, V>(Box<[Entry<K, V>]>);

#[derive(Clone, Debug)]
struct Entry<K, V> {
    key: K,
    /// The next larger key that covers this one; `NONE` if there is none.
    outer: u32,
    value: V,
}

const NONE: u32 = u32::MAX;

impl<K, V> Nested<K, V> {
    /// Of keys in ascending order, each once; `covers` says whether the first covers the second.
    pub fn new(ordered: impl IntoIterator<Item = (K, V)>, covers: impl Fn(&K, &K) -> bool) -> Self {
        let mut entries: Vec<Entry<K, V>> = Vec::new();
        for (key, value) in ordered {
            let mut outer = u32::try_from(entries.len()).map_or(NONE, |count| count.wrapping_sub(1));
            while let Some(entry) = at(&entries, outer)
                && !covers(&entry.key, &key)
            {
                outer = entry.outer;
            }
            entries.push(Entry { key, outer, value });
        }
        Self(entries.into())
    }

    /// The values of all keys that cover something, the smallest first. `not_after` says whether a key comes
    /// before that something, or is equal to it.
    pub fn covering<'n>(
        &'n self,
        not_after: impl Fn(&K) -> bool,
        covers: impl Fn(&K) -> bool + 'n,
    ) -> impl Iterator<Item = (&'n K, &'n V)> {
        let count = self.0.partition_point(|entry| not_after(&entry.key));
        let mut next = u32::try_from(count).map_or(NONE, |count| count.wrapping_sub(1));
        std::iter::from_fn(move || {
            loop {
                let entry = at(&self.0, next)?;
                next = entry.outer;
                if covers(&entry.key) {
                    return Some((&entry.key, &entry.value));
                }
            }
        })
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<V> Nested<Box<str>, V> {
    /// Of texts in ascending order, each of which covers what begins with it.
    pub fn of_prefixes(ordered: impl IntoIterator<Item = (Box<str>, V)>) -> Self {
        Self::new(ordered, |outer, inner| inner.starts_with(&**outer))
    }

    /// The values of all texts that this one begins with, the longest first.
    pub fn beginning<'n>(&'n self, text: &'n str) -> impl Iterator<Item = (&'n str, &'n V)> {
        self.covering(|key| **key <= *text, |key| text.starts_with(&**key))
            .map(|(key, value)| (&**key, value))
    }
}

fn at<K, V>(entries: &[Entry<K, V>], index: u32) -> Option<&Entry<K, V>> {
    entries.get(usize::try_from(index).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn all_prefixes_of_a_text_are_found() {
        let keys = ["", "/", "/a", "/a/", "/a/b", "/ab", "/b/c", "/b/c/d", "/é", "x"];
        let tree = Nested::of_prefixes(keys.iter().map(|key| (Box::from(*key), ())));
        for text in ["", "/", "/a", "/a/b/c", "/ab/", "/b/", "/b/cd", "/b/c/d/e", "/éa", "/e", "~", "xx"] {
            let found: BTreeSet<&str> = tree.beginning(text).map(|(key, ())| key).collect();
            let expected: BTreeSet<&str> = keys.into_iter().filter(|key| text.starts_with(key)).collect();
            assert_eq!(found, expected, "{text}");
        }
    }
}
