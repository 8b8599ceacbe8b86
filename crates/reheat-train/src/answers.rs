//! Prompts with answers, laid end to end, and sums over the tokens of each answer.

use std::ops::Range;

use burn::tensor::{Device, Tensor, TensorData};
use reheat_data::{Batch, Sequence};

/// Sequences of a prompt and an answer each; the answers' tokens alone are scored.
#[derive(Debug, Clone)]
pub(crate) struct Answers {
    /// What one forward pass takes.
    pub(crate) sequences: Batch,
    /// Of each answer the positions at which its tokens are predicted.
    spans: Vec<Range<usize>>,
}

impl Answers {
    /// Lays prompts and answers end to end. No answer is empty.
    pub(crate) fn new<'a>(rows: impl IntoIterator<Item = (&'a [u32], &'a [u32])>) -> Self {
        let (mut sequences, mut spans) = (Vec::new(), Vec::new());
        let mut start = 0;
        for (prompt, answer) in rows {
            let end = start + prompt.len() + answer.len();
            // A token is predicted one position before its own; nothing predicts the first of a sequence.
            spans.push((start + prompt.len()).max(start + 1) - 1..end - 1);
            sequences.push(answer_after(prompt, answer));
            start = end;
        }
        Self { sequences: Batch::from_sequences(&sequences), spans }
    }

    /// Of each answer the positions at which its tokens are predicted.
    pub(crate) fn spans(&self) -> &[Range<usize>] {
        &self.spans
    }

    /// Predicted tokens of the answers at `indices`.
    pub(crate) fn num_tokens(&self, indices: Range<usize>) -> usize {
        self.spans[indices].iter().map(Range::len).sum()
    }

    /// Sums of `values`, `[tokens]`, over the tokens of each answer, `[answers]`.
    pub(crate) fn sums(&self, values: Tensor<1>) -> Tensor<1> {
        self.sums_with_tails(values, 1.0, |index| self.spans[index].len())
    }

    /// As [`Self::sums`]; tokens of an answer from the position `shared` on weigh `tail`.
    pub(crate) fn sums_with_tails(&self, values: Tensor<1>, tail: f64, shared: impl Fn(usize) -> usize) -> Tensor<1> {
        let num_tokens = self.sequences.num_tokens();
        let mut weights = vec![0.0f32; self.spans.len() * num_tokens];
        for (index, span) in self.spans.iter().enumerate() {
            let row = &mut weights[index * num_tokens..][..num_tokens];
            let (head, rest) = row[span.clone()].split_at_mut(shared(index).min(span.len()));
            head.fill(1.0);
            rest.fill(tail as f32);
        }
        let weights = TensorData::new(weights, [self.spans.len(), num_tokens]);
        let weights = Tensor::<2>::from_data(weights, &values.device().inner());
        weights.matmul(values.unsqueeze_dim::<2>(1)).squeeze_dim::<1>(1)
    }

    /// Predicted tokens of each answer, at least 1, `[answers]`.
    pub(crate) fn lens(&self, device: &Device) -> Tensor<1> {
        let lens: Vec<f32> = self.spans.iter().map(|span| span.len().max(1) as f32).collect();
        Tensor::from_data(lens.as_slice(), device)
    }
}

/// Prompt and answer, with the answer as labels.
fn answer_after(prompt_ids: &[u32], answer_ids: &[u32]) -> Sequence {
    Sequence::new([prompt_ids, answer_ids].concat()).learned_from(prompt_ids.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `1 2 | 3 4 5`, no prompt `| 8 9`, `1 2 | 6`, laid end to end.
    #[test]
    fn answers_are_predicted_one_position_before_they_stand() {
        let rows: [(&[u32], &[u32]); 3] = [(&[1, 2], &[3, 4, 5]), (&[], &[8, 9]), (&[1, 2], &[6])];
        let answers = Answers::new(rows);
        assert_eq!(answers.sequences.input_ids, [1, 2, 3, 4, 5, 8, 9, 1, 2, 6]);
        assert_eq!(answers.spans(), [1..4, 5..6, 8..9]);
        let labels = answers.spans().iter().map(|span| answers.sequences.labels[span.clone()].to_vec());
        assert_eq!(labels.collect::<Vec<_>>(), [vec![3, 4, 5], vec![9], vec![6]]);
        assert_eq!((answers.num_tokens(0..2), answers.sequences.num_items()), (4, 5));

        let values = Tensor::<1>::from_data([9.0, 1.0, 2.0, 4.0, 9.0, 8.0, 9.0, 9.0, 16.0, 9.0], &Device::flex());
        let numbers = |tensor: Tensor<1>| tensor.into_data().try_to_vec::<f32>().unwrap();
        assert_eq!(numbers(answers.sums(values.clone())), [7.0, 8.0, 16.0]);
        assert_eq!(numbers(answers.sums_with_tails(values, 0.5, |_| 1)), [4.0, 8.0, 16.0]);
    }
}
