//! Pairs of answers, laid end to end: the better ones, then the worse.

use std::ops::Range;

use burn::tensor::{Device, Tensor, TensorData};
use reheat_data::{Batch, IGNORE_INDEX, PreferencePair, Sequence};

/// Log-probabilities of a pair's answers under the reference, in nats.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ReferenceLogprobs {
    /// Of the better answer.
    pub chosen: f32,
    /// Of the worse answer.
    pub rejected: f32,
}

/// Some pairs as one forward pass takes them.
#[derive(Debug, Clone)]
pub struct DpoBatch {
    /// The better answers of all pairs, each after its prompt, then the worse.
    pub(super) sequences: Batch,
    /// Of each answer the positions at which its tokens are predicted.
    answers: Vec<Range<usize>>,
    /// Tokens of each answer, at least 1.
    lens: Vec<f32>,
    /// Of each pair; empty until it is known.
    pub(super) reference: Vec<ReferenceLogprobs>,
    /// Pairs per token of the better answers in the whole step: turns a sum over tokens into the token mean of a loss
    /// that is otherwise a mean over pairs.
    pub(super) pairs_per_chosen_token: f64,
}

impl DpoBatch {
    /// Lays pairs end to end. No answer is empty.
    pub(super) fn new<'a>(pairs: impl Iterator<Item = &'a PreferencePair> + Clone) -> Self {
        let better = pairs.clone().map(|pair| (&pair.prompt_ids, &pair.chosen_ids));
        let worse = pairs.map(|pair| (&pair.prompt_ids, &pair.rejected_ids));
        let (mut sequences, mut answers, mut lens) = (Vec::new(), Vec::new(), Vec::new());
        let mut start = 0;
        for (prompt, answer) in better.chain(worse) {
            let end = start + prompt.len() + answer.len();
            // A token is predicted one position before its own; nothing predicts the first of a sequence.
            answers.push((start + prompt.len()).max(start + 1) - 1..end - 1);
            lens.push(answer.len() as f32);
            sequences.push(answer_after(prompt, answer));
            start = end;
        }
        Self {
            sequences: Batch::from_sequences(&sequences),
            answers,
            lens,
            reference: Vec::new(),
            pairs_per_chosen_token: 1.0,
        }
    }

    pub(super) fn num_pairs(&self) -> usize {
        self.answers.len() / 2
    }

    /// Predicted tokens of the better answers.
    pub(super) fn num_chosen_tokens(&self) -> usize {
        self.answers[..self.num_pairs()].iter().map(Range::len).sum()
    }

    /// Predicted tokens of the worse answers.
    pub(super) fn num_rejected_tokens(&self) -> usize {
        self.answers[self.num_pairs()..].iter().map(Range::len).sum()
    }

    /// Which tokens belong to which answer, `[2 * pairs, tokens]`: a product with it sums over answers.
    ///
    /// Holds 1, or `tail` for the tokens by which an answer is longer than the other of its pair.
    fn membership(&self, tail: f64, device: &Device) -> Tensor<2> {
        let (num_pairs, num_tokens) = (self.num_pairs(), self.sequences.num_tokens());
        let mut weights = vec![0.0f32; self.answers.len() * num_tokens];
        for (index, answer) in self.answers.iter().enumerate() {
            let other = &self.answers[(index + num_pairs) % self.answers.len()];
            let row = &mut weights[index * num_tokens..][..num_tokens];
            let (shared, longer) = row[answer.clone()].split_at_mut(answer.len().min(other.len()));
            shared.fill(1.0);
            longer.fill(tail as f32);
        }
        Tensor::from_data(TensorData::new(weights, [self.answers.len(), num_tokens]), device)
    }

    /// Sums of `values`, `[tokens]`, over the tokens of each answer, `[2 * pairs]`: the better answers, then the worse.
    ///
    /// With `ld_alpha` the tokens by which an answer is longer than the other weigh that much (Liu et al. 2024, LD-DPO,
    /// arXiv:2409.06411).
    pub(super) fn answer_sums(&self, values: Tensor<1>, ld_alpha: Option<f64>) -> Tensor<1> {
        let membership = self.membership(ld_alpha.unwrap_or(1.0), &values.device().inner());
        membership.matmul(values.unsqueeze_dim::<2>(1)).squeeze_dim::<1>(1)
    }

    /// Negative log-likelihood of each better answer, `[pairs]`.
    pub(super) fn chosen_nll(&self, logprobs: Tensor<1>) -> Tensor<1> {
        -self.answer_sums(logprobs, None).narrow(0, 0, self.num_pairs())
    }

    /// Sum of `values`, `[tokens]`, over the tokens of all better answers, `[1]`.
    pub(super) fn chosen_total(&self, values: Tensor<1>) -> Tensor<1> {
        // The better answers come first, and nothing is scored outside of answers.
        let len = self.answers[..self.num_pairs()].last().map_or(0, |last| last.end);
        values.narrow(0, 0, len).sum()
    }

    /// As [`Self::chosen_total`], of the worse answers.
    pub(super) fn rejected_total(&self, values: Tensor<1>) -> Tensor<1> {
        let start = self.answers[..self.num_pairs()].last().map_or(0, |last| last.end);
        let [len] = values.dims();
        values.narrow(0, start, len - start).sum()
    }

    /// Tokens of the better and of the worse answers, `[pairs]` each, at least 1.
    pub(super) fn answer_lens(&self, device: &Device) -> (Tensor<1>, Tensor<1>) {
        let (better, worse) = self.lens.split_at(self.num_pairs());
        (Tensor::from_data(better, device), Tensor::from_data(worse, device))
    }

    /// Predicted tokens of each answer, at least 1, `[2 * pairs]`.
    pub(super) fn predicted_lens(&self, device: &Device) -> Tensor<1> {
        let lens: Vec<f32> = self.answers.iter().map(|answer| answer.len().max(1) as f32).collect();
        Tensor::from_data(lens.as_slice(), device)
    }

    /// Log-probabilities under the reference of the better and of the worse answers, `[pairs]` each.
    pub(super) fn reference_tensors(&self, device: &Device) -> (Tensor<1>, Tensor<1>) {
        let of = |pick: fn(&ReferenceLogprobs) -> f32| {
            let values: Vec<f32> = self.reference.iter().map(pick).collect();
            Tensor::from_data(values.as_slice(), device)
        };
        (of(|reference| reference.chosen), of(|reference| reference.rejected))
    }
}

/// Prompt and answer, with the answer as labels.
fn answer_after(prompt_ids: &[u32], answer_ids: &[u32]) -> Sequence {
    let mut sequence = Sequence::new(prompt_ids.iter().chain(answer_ids).copied().collect());
    sequence.labels[..prompt_ids.len()].fill(IGNORE_INDEX);
    sequence
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Prompts `1 2` and none; answers of 3 and 1, and of 2 and 3 tokens. Laid end to end:
    /// `1 2 3 4 5 | 8 9 | 1 2 6 | 10 11 12`.
    #[test]
    fn answers_are_predicted_one_position_before_they_stand() {
        let pair = |prompt: &[u32], chosen: &[u32], rejected: &[u32]| PreferencePair {
            prompt_ids: prompt.to_vec(),
            chosen_ids: chosen.to_vec(),
            rejected_ids: rejected.to_vec(),
        };
        let pairs = [pair(&[1, 2], &[3, 4, 5], &[6]), pair(&[], &[8, 9], &[10, 11, 12])];
        let batch = DpoBatch::new(pairs.iter());
        assert_eq!(batch.sequences.input_ids, [1, 2, 3, 4, 5, 8, 9, 1, 2, 6, 10, 11, 12]);
        assert_eq!(batch.answers, [1..4, 5..6, 8..9, 10..12]);
        let labels = batch.answers.iter().map(|answer| batch.sequences.labels[answer.clone()].to_vec());
        assert_eq!(labels.collect::<Vec<_>>(), [vec![3, 4, 5], vec![9], vec![6], vec![11, 12]]);
        assert_eq!((batch.num_chosen_tokens(), batch.num_rejected_tokens(), batch.sequences.num_items()), (4, 3, 7));

        let membership = batch.membership(0.5, &Device::flex()).into_data().try_to_vec::<f32>().unwrap();
        assert_eq!(membership[..13], [0.0, 1.0, 0.5, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(membership[39..], [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.5, 0.0]);
    }
}
