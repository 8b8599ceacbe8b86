//! Tokenised sequences, and batches of them laid end to end.

use serde::{Deserialize, Serialize};

/// Label of a position without a target, as PyTorch's cross-entropy has it.
pub const IGNORE_INDEX: i32 = -100;

/// One tokenised training example.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Sequence {
    /// Token ids.
    pub input_ids: Vec<u32>,
    /// As Hugging Face has them: one per token, not shifted, [`IGNORE_INDEX`] where nothing is learned.
    pub labels: Vec<i32>,
}

impl Sequence {
    /// A sequence that is learned from its second token on.
    pub fn new(input_ids: Vec<u32>) -> Self {
        let labels = input_ids.iter().map(|id| *id as i32).collect();
        Self { input_ids, labels }
    }

    /// Tokens whose prediction is learned. The first token is never predicted.
    pub fn num_items(&self) -> usize {
        self.labels.iter().skip(1).filter(|label| **label != IGNORE_INDEX).count()
    }
}

/// Sequences laid end to end, without padding: what one forward pass takes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    /// Ids of all sequences, in order.
    pub input_ids: Vec<i32>,
    /// What each position has to predict: shifted by one within each sequence, [`IGNORE_INDEX`] at its end.
    pub labels: Vec<i32>,
    /// Length of each sequence, in tokens.
    pub seq_lens: Vec<usize>,
}

impl Batch {
    /// Lays sequences end to end. Empty ones vanish.
    ///
    /// ```
    /// use reheat_data::{Batch, IGNORE_INDEX, Sequence};
    ///
    /// let batch = Batch::from_sequences([&Sequence::new(vec![1, 2, 3]), &Sequence::new(vec![4, 5])]);
    /// assert_eq!(batch.input_ids, [1, 2, 3, 4, 5]);
    /// assert_eq!(batch.labels, [2, 3, IGNORE_INDEX, 5, IGNORE_INDEX]);
    /// assert_eq!(batch.seq_lens, [3, 2]);
    /// ```
    pub fn from_sequences<'a>(sequences: impl IntoIterator<Item = &'a Sequence>) -> Self {
        let mut batch = Self::default();
        for sequence in sequences.into_iter().filter(|sequence| !sequence.input_ids.is_empty()) {
            // Ids fit: the vocabulary of every tokenizer is below 2^31.
            batch.input_ids.extend(sequence.input_ids.iter().map(|id| *id as i32));
            batch.labels.extend(&sequence.labels[1..]);
            batch.labels.push(IGNORE_INDEX);
            batch.seq_lens.push(sequence.input_ids.len());
        }
        batch
    }

    /// Positions with a target.
    pub fn num_items(&self) -> usize {
        self.labels.iter().filter(|label| **label != IGNORE_INDEX).count()
    }

    /// Tokens of all sequences.
    pub fn num_tokens(&self) -> usize {
        self.input_ids.len()
    }
}
