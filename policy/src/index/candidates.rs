//! Rules from several sorted lists, as one.

/// How many lists are merged as they are read; more are sorted at once.
const FEW: usize = 16;

/// Rules in ascending order, each once.
#[derive(Debug, Default)]
pub struct Candidates<'i> {
    lists: [&'i [u32]; FEW],
    count: usize,
    /// Everything, where there are many lists; in descending order once it is sorted.
    many: Vec<u32>,
}

impl<'i> Candidates<'i> {
    /// Of one list.
    pub fn of(list: &'i [u32]) -> Self {
        let mut candidates = Self::default();
        candidates.add(list);
        candidates
    }

    /// Adds a sorted list.
    pub fn add(&mut self, list: &'i [u32]) {
        if list.is_empty() {
            return;
        }
        match self.lists.get_mut(self.count) {
            Some(place) => {
                *place = list;
                self.count += 1;
            }
            None => {
                if self.many.is_empty() {
                    self.many.extend(self.lists.iter().copied().flatten());
                }
                self.many.extend(list);
            }
        }
    }

    /// Must be called after the last addition.
    pub fn sort(&mut self) {
        if !self.many.is_empty() {
            self.count = 0;
            self.many.sort_unstable_by(|left, right| right.cmp(left));
            self.many.dedup();
        }
    }
}

impl Iterator for Candidates<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let lists = self.lists.get_mut(..self.count).unwrap_or_default();
        let Some(first) = lists.iter().filter_map(|list| list.first()).copied().min() else {
            return self.many.pop();
        };
        for list in lists {
            if let [head, rest @ ..] = *list
                && *head == first
            {
                *list = rest;
            }
        }
        Some(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_lists_and_many_come_out_in_order_and_once() {
        for count in [0, 1, 2, FEW, FEW + 1, 100] {
            let lists: Vec<[u32; 3]> =
                (0..count).map(|list| (list as u32 * 7) % 50).map(|n| [n, n + 1, n + 60]).collect();
            let mut candidates = Candidates::default();
            lists.iter().for_each(|list| candidates.add(list));
            candidates.sort();
            let mut expected: Vec<u32> = lists.iter().flatten().copied().collect();
            expected.sort_unstable();
            expected.dedup();
            assert_eq!(candidates.collect::<Vec<_>>(), expected);
        }
    }
}
