//! Prompts with answers, laid end to end, and sums over the tokens of each answer.

use std::collections::HashMap;
use std::ops::Range;

use burn::tensor::{Device, Tensor, TensorData};
use reheat_data::{Batch, Sequence};

/// Fewer tokens are sooner computed again than gathered.
const SHORTEST_SHARED: usize = 16;

/// Sequences of a prompt and an answer each; the answers' tokens alone are scored.
#[derive(Debug, Clone)]
pub(crate) struct Answers {
    /// What one forward pass takes.
    pub(crate) sequences: Batch,
    /// Of each answer the positions at which its tokens are predicted.
    spans: Vec<Range<usize>>,
}

impl Answers {
    /// Lays prompts and answers end to end. No answer is empty. A prompt of several answers is laid, and computed, once:
    /// all of it but the last token, which predicts the first of each answer and so begins each.
    pub(crate) fn new<'a>(rows: impl IntoIterator<Item = (&'a [u32], &'a [u32])>) -> Self {
        let rows: Vec<(&[u32], &[u32])> = rows.into_iter().collect();
        let mut num_answers: HashMap<&[u32], usize> = HashMap::new();
        rows.iter().for_each(|(prompt, _)| *num_answers.entry(prompt).or_default() += 1);

        let mut laid: HashMap<&[u32], usize> = HashMap::new();
        let (mut sequences, mut continues, mut spans) = (Vec::new(), Vec::new(), Vec::with_capacity(rows.len()));
        let mut start = 0;
        for (prompt, answer) in rows {
            let shared = if num_answers[prompt] > 1 { prompt.len().saturating_sub(1) } else { 0 };
            let (beginning, own) = prompt.split_at(if shared < SHORTEST_SHARED { 0 } else { shared });
            let before = (!beginning.is_empty()).then(|| {
                *laid.entry(beginning).or_insert_with(|| {
                    start += beginning.len();
                    sequences.push(Sequence::new(beginning.to_vec()).learned_from(beginning.len()));
                    continues.push(None);
                    sequences.len() - 1
                })
            });
            let end = start + own.len() + answer.len();
            // A token is predicted one position before its own; nothing predicts the first of a sequence.
            spans.push((start + own.len()).max(start + 1) - 1..end - 1);
            sequences.push(answer_after(own, answer));
            continues.push(before);
            start = end;
        }
        let mut sequences = Batch::from_sequences(&sequences);
        if !laid.is_empty() {
            sequences.continues = continues;
        }
        Self { sequences, spans }
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
        let num_tokens = self.sequences.input_ids.len();
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
    use reheat_model::{Qwen2, Qwen2Config};

    use super::*;
    use crate::{Checkpointing, Gradients, ModelPass, Objective};

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

    /// Three answers to one prompt of twenty tokens, one to another, laid with the prompt once and in a batch for each.
    #[test]
    fn a_prompt_of_several_answers_is_computed_once() {
        let prompt: Vec<u32> = (1..21).collect();
        let other: Vec<u32> = (20..60).collect();
        let rows: [(&[u32], &[u32]); 4] =
            [(&prompt, &[30, 31, 32]), (&other, &[33]), (&prompt, &[34, 35]), (&prompt, &[36])];
        let together = Answers::new(rows);
        assert_eq!(together.sequences.seq_lens, [19, 4, 41, 3, 2]);
        assert_eq!(together.sequences.continues, [None, Some(0), None, Some(0), Some(0)]);
        assert_eq!(together.sequences.num_tokens(), 23 + 41 + 22 + 21);

        let model = Qwen2::random(&Qwen2Config::tiny(64), 3, &Device::flex());
        let pass = |answers: &Answers, gradients: &mut Gradients| -> Vec<f32> {
            let objective = Objective::PerToken(Box::new(|_, logprobs| -logprobs));
            let pass = ModelPass::new(&model, Checkpointing::Recompute);
            let tokens = pass.forward_backward(&answers.sequences, &objective, gradients);
            let logprobs: Vec<f32> = tokens.logprobs.into_data().try_to_vec().unwrap();
            answers.spans().iter().flat_map(|span| logprobs[span.clone()].to_vec()).collect()
        };
        let (mut gradients, mut summed) = (Gradients::default(), Gradients::default());
        let logprobs = pass(&together, &mut gradients);
        let expected: Vec<f32> = rows.iter().flat_map(|row| pass(&Answers::new([*row]), &mut summed)).collect();
        // The order of sums within a row of a pass is one and the same: so are the bits.
        assert_eq!(logprobs, expected);
        let (found, summed) = (gradients.norm(), summed.norm());
        assert!((found - summed).abs() < 1e-4 * summed, "{found} {summed}");
    }
}
