//! Tokenised sequences, and batches of them laid end to end.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// Label of a position without a target, as PyTorch's cross-entropy has it.
pub const IGNORE_INDEX: i32 = -100;

/// One tokenised training example: a document, or several that were [packed](crate::pack) into one row.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Sequence {
    /// Token ids.
    pub input_ids: Vec<u32>,
    /// As Hugging Face has them: one per token, not shifted, [`IGNORE_INDEX`] where nothing is learned.
    pub labels: Vec<i32>,
    /// Tokens of each document, in order. Empty where the sequence is one document.
    ///
    /// Each document has positions of its own, from 0, and attends to itself alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub seq_lens: Vec<usize>,
}

impl Sequence {
    /// A document that is learned from its second token on.
    pub fn new(input_ids: Vec<u32>) -> Self {
        let labels = input_ids.iter().map(|id| *id as i32).collect();
        Self::with_labels(input_ids, labels)
    }

    /// A document whose labels say what is learned.
    pub fn with_labels(input_ids: Vec<u32>, labels: Vec<i32>) -> Self {
        Self { input_ids, labels, seq_lens: Vec::new() }
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
        let learned = |document: Range<usize>| {
            self.labels[document].iter().skip(1).filter(|label| **label != IGNORE_INDEX).count()
        };
        self.documents().map(learned).sum()
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
    /// let packed = Sequence { seq_lens: vec![3, 2], ..Sequence::new(vec![1, 2, 3, 4, 5]) };
    /// assert_eq!(Batch::from_sequences([&packed]), batch);
    /// ```
    pub fn from_sequences<'a>(sequences: impl IntoIterator<Item = &'a Sequence>) -> Self {
        let mut batch = Self::default();
        for sequence in sequences {
            for document in sequence.documents() {
                batch.seq_lens.push(document.len());
                // Ids fit: the vocabulary of every tokenizer is below 2^31.
                batch.input_ids.extend(sequence.input_ids[document.clone()].iter().map(|id| *id as i32));
                batch.labels.extend(&sequence.labels[document.start + 1..document.end]);
                batch.labels.push(IGNORE_INDEX);
            }
        }
        batch
    }

    /// Positions with a target.
    pub fn num_items(&self) -> usize {
        self.labels.iter().filter(|label| **label != IGNORE_INDEX).count()
    }

    /// Tokens of all documents.
    pub fn num_tokens(&self) -> usize {
        self.input_ids.len()
    }
}
