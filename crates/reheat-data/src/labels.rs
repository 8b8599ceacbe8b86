//! What each token of a sequence is learned as, in little memory.

use std::ops::Range;

use crate::IGNORE_INDEX;

/// The labels of a sequence, held beside its ids.
///
/// A token that is learned nearly always has itself as its label. Then only the runs of such tokens are held, so that
/// a token of a dataset takes the four bytes of its id and not eight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Labels {
    /// Tokens in these runs are learned as themselves, others not at all. Ascending, not empty, apart from each other.
    Runs(Vec<Range<u32>>),
    /// Something else.
    Given(Vec<i32>),
}

impl Default for Labels {
    fn default() -> Self {
        Self::Runs(Vec::new())
    }
}

impl Labels {
    /// Every one of so many tokens is learned.
    pub(crate) fn all(len: usize) -> Self {
        let mut labels = Self::default();
        labels.learn(0..len);
        labels
    }

    /// The labels of these ids, in their shortest form.
    pub(crate) fn of(input_ids: &[u32], labels: Vec<i32>) -> Self {
        let is_own = |(id, label): (&u32, &i32)| *label == IGNORE_INDEX || *label == own_label(*id);
        if labels.len() != input_ids.len() || !input_ids.iter().zip(&labels).all(is_own) {
            return Self::Given(labels);
        }
        let mut runs = Self::default();
        for (index, _) in labels.iter().enumerate().filter(|(_, label)| **label != IGNORE_INDEX) {
            runs.learn(index..index + 1);
        }
        runs
    }

    /// Writes the labels of some of the tokens behind what is there.
    pub(crate) fn append_to(&self, input_ids: &[u32], tokens: Range<usize>, labels: &mut Vec<i32>) {
        match self {
            Self::Given(given) => labels.extend_from_slice(&given[tokens]),
            Self::Runs(_) => {
                let start = labels.len();
                labels.resize(start + tokens.len(), IGNORE_INDEX);
                for run in self.runs_in(&tokens) {
                    let place = start + run.start - tokens.start;
                    for (label, id) in labels[place..].iter_mut().zip(&input_ids[run]) {
                        *label = own_label(*id);
                    }
                }
            }
        }
    }

    /// Tokens among these that are learned.
    pub(crate) fn num_learned(&self, tokens: Range<usize>) -> usize {
        match self {
            Self::Given(given) => given[tokens].iter().filter(|label| **label != IGNORE_INDEX).count(),
            Self::Runs(_) => self.runs_in(&tokens).map(|run| run.len()).sum(),
        }
    }

    /// Keeps these tokens alone; `input_ids` are those that stay.
    pub(crate) fn keep(&mut self, tokens: Range<usize>, input_ids: &[u32]) {
        *self = match self {
            // What is left may have a shorter form.
            Self::Given(given) => Self::of(input_ids, given[tokens].to_vec()),
            Self::Runs(_) => {
                let mut kept = Self::default();
                self.runs_in(&tokens).for_each(|run| kept.learn(run.start - tokens.start..run.end - tokens.start));
                kept
            }
        };
        if let Self::Runs(runs) = self {
            runs.shrink_to_fit();
        }
    }

    /// Nothing is learned of the first tokens.
    pub(crate) fn forget_first(&mut self, tokens: usize) {
        match self {
            Self::Given(given) => given[..tokens].fill(IGNORE_INDEX),
            Self::Runs(_) => {
                let mut kept = Self::default();
                self.runs_in(&(tokens..usize::MAX)).for_each(|run| kept.learn(run));
                *self = kept;
            }
        }
    }

    /// Adds the labels of some tokens of another sequence behind those of all of this one's.
    pub(crate) fn extend(&mut self, own_ids: &[u32], other: &Self, other_ids: &[u32], tokens: Range<usize>) {
        let len = own_ids.len();
        if let (Self::Runs(_), Self::Runs(_)) = (&self, other) {
            let moved = |run: Range<usize>| run.start - tokens.start + len..run.end - tokens.start + len;
            other.runs_in(&tokens).for_each(|run| self.learn(moved(run)));
            return;
        }
        let mut labels = Vec::with_capacity(len + tokens.len());
        self.append_to(own_ids, 0..len, &mut labels);
        other.append_to(other_ids, tokens, &mut labels);
        *self = Self::Given(labels);
    }

    /// Adds a run behind the others.
    fn learn(&mut self, tokens: Range<usize>) {
        let Self::Runs(runs) = self else { unreachable!("only runs are added to") };
        // A sequence is shorter than 2^32 tokens: its ids are in memory.
        let (start, end) = (tokens.start as u32, tokens.end as u32);
        match runs.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ if start < end => runs.push(start..end),
            _ => {}
        }
    }

    /// The parts of the runs that lie within some tokens.
    fn runs_in(&self, tokens: &Range<usize>) -> impl Iterator<Item = Range<usize>> {
        let runs = match self {
            Self::Runs(runs) => runs.as_slice(),
            Self::Given(_) => &[],
        };
        let (start, end) = (tokens.start, tokens.end);
        let first = runs.partition_point(|run| run.end as usize <= start);
        let within = runs[first..].iter().take_while(move |run| (run.start as usize) < end);
        within.map(move |run| start.max(run.start as usize)..end.min(run.end as usize))
    }
}

/// The label of a token that is learned. Ids fit: the vocabulary of every tokenizer is below 2^31.
fn own_label(id: u32) -> i32 {
    id as i32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plain(labels: &Labels, input_ids: &[u32]) -> Vec<i32> {
        let mut plain = Vec::new();
        labels.append_to(input_ids, 0..input_ids.len(), &mut plain);
        plain
    }

    /// Ids, and for each whether it is learned; perhaps one that is learned as another id.
    fn sequence() -> impl Strategy<Value = (Vec<u32>, Vec<i32>)> {
        (prop::collection::vec((0..9_u32, any::<bool>()), 0..24), prop::option::of(any::<prop::sample::Index>()))
            .prop_map(|(tokens, odd)| {
                let input_ids: Vec<u32> = tokens.iter().map(|(id, _)| *id).collect();
                let label = |(id, learned): &(u32, bool)| if *learned { *id as i32 } else { IGNORE_INDEX };
                let mut labels: Vec<i32> = tokens.iter().map(label).collect();
                if let (Some(odd), false) = (odd, labels.is_empty()) {
                    let odd = odd.index(labels.len());
                    labels[odd] = 100;
                }
                (input_ids, labels)
            })
    }

    proptest! {
        /// However labels are held, they are those of a plain list.
        #[test]
        fn labels_are_those_of_a_list(
            (ids, labels) in sequence(),
            (other_ids, other_labels) in sequence(),
            (start, end) in (0..24_usize, 0..24_usize),
        ) {
            let end = end.min(ids.len());
            let start = start.min(end);
            let held = Labels::of(&ids, labels.clone());
            prop_assert_eq!(&plain(&held, &ids), &labels);
            prop_assert_eq!(held.num_learned(start..end), labels[start..end].iter().filter(|label| **label >= 0).count());

            let mut kept = held.clone();
            kept.keep(start..end, &ids[start..end]);
            prop_assert_eq!(&kept, &Labels::of(&ids[start..end], labels[start..end].to_vec()));

            let mut forgotten = held.clone();
            forgotten.forget_first(start);
            let expected = [vec![IGNORE_INDEX; start], labels[start..].to_vec()].concat();
            prop_assert_eq!(plain(&forgotten, &ids), expected);

            let mut longer = Labels::of(&other_ids, other_labels.clone());
            longer.extend(&other_ids, &held, &ids, start..end);
            let all_ids = [&other_ids, &ids[start..end]].concat();
            prop_assert_eq!(plain(&longer, &all_ids), [&other_labels, &labels[start..end]].concat());
        }
    }

    #[test]
    fn whole_documents_are_one_run() {
        assert_eq!(Labels::of(&[1, 2, 3], vec![1, 2, 3]), Labels::all(3));
        assert_eq!(Labels::all(3), Labels::Runs(std::iter::once(0..3).collect()));
        assert_eq!(Labels::all(0), Labels::default());
    }
}
