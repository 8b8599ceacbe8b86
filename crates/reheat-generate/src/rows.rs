//! Which rows of the cache are free.

use std::ops::Range;

/// Gives out runs of rows and takes them back.
#[derive(Debug)]
pub(crate) struct RowAllocator {
    /// Ascending, with a taken row between any two.
    free: Vec<Range<usize>>,
}

impl RowAllocator {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { free: vec![Range { start: 0, end: capacity }] }
    }

    /// The first run of `count` rows, or `None` where no gap is large enough.
    pub(crate) fn take(&mut self, count: usize) -> Option<Range<usize>> {
        let index = self.free.iter().position(|gap| gap.len() >= count)?;
        let gap = &mut self.free[index];
        let rows = gap.start..gap.start + count;
        gap.start = rows.end;
        if gap.start == gap.end {
            self.free.remove(index);
        }
        Some(rows)
    }

    /// Takes back what [`Self::take`] gave.
    pub(crate) fn give_back(&mut self, rows: Range<usize>) {
        if rows.is_empty() {
            return;
        }
        let index = self.free.partition_point(|gap| gap.start < rows.start);
        self.free.insert(index, rows);
        if index + 1 < self.free.len() && self.free[index].end == self.free[index + 1].start {
            self.free[index].end = self.free.remove(index + 1).end;
        }
        if index > 0 && self.free[index - 1].end == self.free[index].start {
            self.free[index - 1].end = self.free.remove(index).end;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_row_has_two_owners_and_none_is_lost(steps in prop::collection::vec((1usize..20, any::<bool>()), 1..80)) {
            let mut rows = RowAllocator::new(64);
            let mut taken: Vec<Range<usize>> = Vec::new();
            for (count, gives) in steps {
                if gives && !taken.is_empty() {
                    rows.give_back(taken.swap_remove(count % taken.len()));
                } else if let Some(run) = rows.take(count) {
                    prop_assert!(run.len() == count && run.end <= 64);
                    prop_assert!(taken.iter().all(|other| run.end <= other.start || other.end <= run.start));
                    taken.push(run);
                }
            }
            taken.into_iter().for_each(|run| rows.give_back(run));
            prop_assert_eq!(rows.take(64), Some(0..64));
        }
    }
}
