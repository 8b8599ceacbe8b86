//! Tokenised sequences, and batches of them laid end to end.

use std::collections::BTreeSet;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::labels::Labels;

/// Label of a position without a target, as PyTorch's cross-entropy has it.
pub const IGNORE_INDEX: i32 = -100;

/// One tokenised training example: a document, or several that were [packed](crate::pack) into one row.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "Columns", into = "Columns")]
pub struct Sequence {
    /// Token ids.
    pub input_ids: Vec<u32>,
    labels: Labels,
    /// Tokens of each document, in order. Empty where the sequence is one document.
    ///
    /// Each document has positions of its own, from 0, and attends to itself alone.
    pub seq_lens: Vec<usize>,
}

/// A sequence as it is written.
#[derive(Serialize, Deserialize)]
struct Columns {
    input_ids: Vec<u32>,
    labels: Vec<i32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    seq_lens: Vec<usize>,
}

impl From<Sequence> for Columns {
    fn from(sequence: Sequence) -> Self {
        Self { labels: sequence.labels(), input_ids: sequence.input_ids, seq_lens: sequence.seq_lens }
    }
}

impl From<Columns> for Sequence {
    fn from(Columns { input_ids, labels, seq_lens }: Columns) -> Self {
        Self { seq_lens, ..Self::with_labels(input_ids, labels) }
    }
}

impl Sequence {
    /// A document that is learned from its second token on.
    pub fn new(input_ids: Vec<u32>) -> Self {
        Self { labels: Labels::all(input_ids.len()), input_ids, seq_lens: Vec::new() }
    }

    /// A document whose labels say what is learned: one per token, not shifted, [`IGNORE_INDEX`] where nothing is.
    pub fn with_labels(input_ids: Vec<u32>, labels: Vec<i32>) -> Self {
        Self { labels: Labels::of(&input_ids, labels), input_ids, seq_lens: Vec::new() }
    }

    /// As [`with_labels`](Self::with_labels), in the form in which labels are held.
    pub(crate) fn from_parts(input_ids: Vec<u32>, labels: Labels, seq_lens: Vec<usize>) -> Self {
        Self { input_ids, labels, seq_lens }
    }

    /// As Hugging Face has them: one per token, not shifted, [`IGNORE_INDEX`] where nothing is learned.
    #[must_use]
    pub fn labels(&self) -> Vec<i32> {
        let mut labels = Vec::with_capacity(self.input_ids.len());
        self.append_labels(0..self.input_ids.len(), &mut labels);
        labels
    }

    pub(crate) fn held_labels(&self) -> &Labels {
        &self.labels
    }

    fn append_labels(&self, tokens: Range<usize>, labels: &mut Vec<i32>) {
        self.labels.append_to(&self.input_ids, tokens, labels);
    }

    /// Nothing is learned of the first tokens: they are a prompt.
    #[must_use]
    pub fn learned_from(mut self, first: usize) -> Self {
        self.labels.forget_first(first);
        self
    }

    /// Keeps some tokens of a document and frees the memory of the others.
    pub(crate) fn keep(&mut self, tokens: Range<usize>) {
        self.input_ids.truncate(tokens.end);
        self.input_ids.drain(..tokens.start);
        // A long row would hold its memory after it is cut.
        self.input_ids.shrink_to_fit();
        self.labels.keep(tokens, &self.input_ids);
    }

    /// Adds some tokens of another sequence behind those of this one.
    pub(crate) fn extend_from(&mut self, other: &Self, tokens: Range<usize>) {
        self.labels.extend(&self.input_ids, &other.labels, &other.input_ids, tokens.clone());
        self.input_ids.extend_from_slice(&other.input_ids[tokens]);
    }

    /// The token positions of each document that isn't empty.
    pub fn documents(&self) -> impl Iterator<Item = Range<usize>> {
        let whole = self.seq_lens.is_empty().then_some(self.input_ids.len());
        let lens = self.seq_lens.iter().copied().chain(whole);
        let mut end = 0;
        let ranges = lens.map(move |len| {
            end += len;
            end - len..end
        });
        ranges.filter(|range| !range.is_empty())
    }

    /// Tokens whose prediction is learned. The first token of a document is never predicted.
    pub fn num_items(&self) -> usize {
        self.documents().map(|document| self.labels.num_learned(document.start + 1..document.end)).sum()
    }
}

/// Documents laid end to end, without padding: what one forward pass takes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    /// Ids of all documents, in order.
    pub input_ids: Vec<i32>,
    /// What each position has to predict: shifted by one within each document, [`IGNORE_INDEX`] at its end.
    pub labels: Vec<i32>,
    /// Length of each document, in tokens. Positions start again with each, and attention stays within it.
    pub seq_lens: Vec<usize>,
    /// For each document the index of an earlier one that it goes on after, if there is one: its positions continue
    /// that one's, and it attends to it too. Several may go on after the same, which goes on after none. Empty where no
    /// document has such a beginning.
    pub continues: Vec<Option<usize>>,
}

impl Batch {
    /// Lays the documents of sequences end to end. Empty ones vanish.
    ///
    /// ```
    /// use reheat_data::{Batch, IGNORE_INDEX, Sequence};
    ///
    /// let batch = Batch::from_sequences([&Sequence::new(vec![1, 2, 3]), &Sequence::new(vec![4, 5])]);
    /// assert_eq!(batch.input_ids, [1, 2, 3, 4, 5]);
    /// assert_eq!(batch.labels, [2, 3, IGNORE_INDEX, 5, IGNORE_INDEX]);
    /// assert_eq!(batch.seq_lens, [3, 2]);
    ///
    /// let mut packed = Sequence::new(vec![1, 2, 3, 4, 5]);
    /// packed.seq_lens = vec![3, 2];
    /// assert_eq!(Batch::from_sequences([&packed]), batch);
    /// ```
    pub fn from_sequences<'a>(sequences: impl IntoIterator<Item = &'a Sequence>) -> Self {
        let mut batch = Self::default();
        for sequence in sequences {
            for document in sequence.documents() {
                batch.seq_lens.push(document.len());
                // Ids fit: the vocabulary of every tokenizer is below 2^31.
                batch.input_ids.extend(sequence.input_ids[document.clone()].iter().map(|id| *id as i32));
                sequence.append_labels(document.start + 1..document.end, &mut batch.labels);
                batch.labels.push(IGNORE_INDEX);
            }
        }
        batch
    }

    /// Positions with a target.
    pub fn num_items(&self) -> usize {
        self.labels.iter().filter(|label| **label != IGNORE_INDEX).count()
    }

    /// Tokens of all documents, each with all that it goes on after: what there would be if nothing were shared.
    pub fn num_tokens(&self) -> usize {
        let beginnings = self.continues.iter().copied().flatten();
        let shared: usize = beginnings.clone().map(|index| self.seq_lens[index]).sum();
        let once: usize = beginnings.collect::<BTreeSet<_>>().into_iter().map(|index| self.seq_lens[index]).sum();
        self.input_ids.len() + shared - once
    }
}
