//! Free ranges of addresses, no two of which touch.

use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Default)]
pub(super) struct Holes {
    /// Length by start.
    lens: BTreeMap<usize, usize>,
    /// The same as `(length, start)`.
    by_len: BTreeSet<(usize, usize)>,
}

impl Holes {
    /// Start of a range of `len` that is no longer free: from the smallest hole that is large enough, the lowest of equals.
    pub(super) fn take(&mut self, len: usize) -> Option<usize> {
        let (hole, start) = *self.by_len.range((len, 0)..).next()?;
        self.remove(start, hole);
        if hole > len {
            self.insert(start + len, hole - len);
        }
        Some(start)
    }

    /// Frees a range, which becomes one with the holes beside it.
    pub(super) fn put_back(&mut self, start: usize, len: usize) {
        let (mut start, mut end) = (start, start + len);
        if let Some((before, before_len)) = self.lens.range(..start).next_back().map(|(start, len)| (*start, *len))
            && before + before_len == start
        {
            self.remove(before, before_len);
            start = before;
        }
        if let Some(after_len) = self.lens.get(&end).copied() {
            self.remove(end, after_len);
            end += after_len;
        }
        self.insert(start, end - start);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lens.len()
    }

    fn insert(&mut self, start: usize, len: usize) {
        self.lens.insert(start, len);
        self.by_len.insert((len, start));
    }

    fn remove(&mut self, start: usize, len: usize) {
        self.lens.remove(&start);
        self.by_len.remove(&(len, start));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_smallest_hole_that_is_large_enough_is_taken() {
        let mut holes = Holes::default();
        holes.put_back(0, 10);
        holes.put_back(20, 4);
        holes.put_back(30, 5);
        assert_eq!(holes.take(4), Some(20));
        assert_eq!(holes.take(4), Some(30));
        assert_eq!(holes.take(4), Some(0));
        assert_eq!(holes.take(7), None);
    }

    proptest! {
        /// A bit says for each address whether it is taken.
        #[test]
        fn no_address_is_taken_twice_and_all_come_back(steps in prop::collection::vec((any::<bool>(), 1..12_usize), 1..200)) {
            const SPACE: usize = 64;
            let mut holes = Holes::default();
            holes.put_back(0, SPACE);
            let (mut taken, mut live) = ([false; SPACE], Vec::new());
            for (takes, number) in steps {
                if takes {
                    let Some(start) = holes.take(number) else { continue };
                    prop_assert!(taken[start..start + number].iter().all(|bit| !bit));
                    taken[start..start + number].fill(true);
                    live.push((start, number));
                } else if !live.is_empty() {
                    let (start, len) = live.swap_remove(number % live.len());
                    taken[start..start + len].fill(false);
                    holes.put_back(start, len);
                }
                prop_assert_eq!(holes.lens.values().sum::<usize>(), taken.iter().filter(|bit| !*bit).count());
            }
            for (start, len) in live {
                holes.put_back(start, len);
            }
            prop_assert_eq!(holes.lens, BTreeMap::from([(0, SPACE)]));
            prop_assert_eq!(holes.by_len, BTreeSet::from([(SPACE, 0)]));
        }
    }
}
