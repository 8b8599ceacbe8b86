//! Pairs of answers, laid end to end: the better ones, then the worse.

use burn::tensor::{Device, Tensor};
use reheat_data::PreferencePair;

use crate::answers::Answers;

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
    pub(super) answers: Answers,
    /// Tokens of each answer.
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
        let better = pairs.clone().map(|pair| (&*pair.prompt_ids, &*pair.chosen_ids));
        let worse = pairs.map(|pair| (&*pair.prompt_ids, &*pair.rejected_ids));
        let rows = better.chain(worse);
        Self {
            lens: rows.clone().map(|(_prompt, answer)| answer.len() as f32).collect(),
            answers: Answers::new(rows),
            reference: Vec::new(),
            pairs_per_chosen_token: 1.0,
        }
    }

    pub(super) fn num_pairs(&self) -> usize {
        self.lens.len() / 2
    }

    /// Predicted tokens of the better answers.
    pub(super) fn num_chosen_tokens(&self) -> usize {
        self.answers.num_tokens(0..self.num_pairs())
    }

    /// Predicted tokens of the worse answers.
    pub(super) fn num_rejected_tokens(&self) -> usize {
        self.answers.num_tokens(self.num_pairs()..self.lens.len())
    }

    /// Sums of `values`, `[tokens]`, over the tokens of each answer, `[2 * pairs]`: the better answers, then the worse.
    ///
    /// With `ld_alpha` the tokens by which an answer is longer than the other weigh that much (Liu et al. 2024, LD-DPO,
    /// arXiv:2409.06411).
    pub(super) fn answer_sums(&self, values: Tensor<1>, ld_alpha: Option<f64>) -> Tensor<1> {
        let spans = self.answers.spans();
        let other = |index: usize| spans[(index + self.num_pairs()) % spans.len()].len();
        self.answers.sums_with_tails(values, ld_alpha.unwrap_or(1.0), other)
    }

    /// Negative log-likelihood of each better answer, `[pairs]`.
    pub(super) fn chosen_nll(&self, logprobs: Tensor<1>) -> Tensor<1> {
        -self.answers.sums(logprobs).narrow(0, 0, self.num_pairs())
    }

    /// Sums of `values`, `[tokens]`, over the tokens of all better and of all worse answers, `[1]` each.
    pub(super) fn totals(&self, values: &Tensor<1>) -> [Tensor<1>; 2] {
        // The better answers come first, and nothing is scored outside of answers.
        let border = self.answers.spans()[..self.num_pairs()].last().map_or(0, |last| last.end);
        let [len] = values.dims();
        [values.clone().narrow(0, 0, border).sum(), values.clone().narrow(0, border, len - border).sum()]
    }

    /// Tokens of the better and of the worse answers, `[pairs]` each.
    pub(super) fn answer_lens(&self, device: &Device) -> (Tensor<1>, Tensor<1>) {
        let (better, worse) = self.lens.split_at(self.num_pairs());
        (Tensor::from_data(better, device), Tensor::from_data(worse, device))
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
