//! What a training method is to the loop.

use std::collections::BTreeMap;

use burn::tensor::Tensor;
use reheat_data::Batch;
use reheat_kernels::{TokenDerivatives, TokenLogprobs};
use reheat_model::{Qwen2, Qwen2Config};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{TrainError, hash_of};

/// A way to train: rows, and an objective of the log-probabilities that the model gives to their tokens.
///
/// The loop ([`Trainer`](crate::Trainer)) draws rows, runs the model forward and backward, clips, updates, logs and
/// saves. A method says what a row becomes ([`batches`](Self::batches)), what is minimised
/// ([`objective`](Self::objective)) and what is told about it ([`measure`](Self::measure)).
/// It never sees a parameter or a gradient of one: whatever the model trains, all of it or adapters, learns.
///
/// `docs/examples/custom-method` is a method of a crate of its own, step by step.
pub trait Method {
    /// What one forward and backward pass is about.
    type Batch;

    /// Rows of the dataset: what an epoch visits and what a batch size counts.
    fn num_rows(&self) -> usize;

    /// The rows and the method's own settings, by name: what a run must have in common with one that it continues.
    ///
    /// Rows are best given as their number and a hash ([`hash_of`](crate::hash_of)).
    fn identity(&self) -> Map<String, Value>;

    /// Whether the rows suit the model, before anything is computed.
    ///
    /// # Errors
    /// If there is nothing to learn, or a token is outside the vocabulary.
    fn check(&self, model: &Qwen2Config) -> Result<(), TrainError>;

    /// The micro-batches of one optimizer step over the rows at `indices`, at most `micro_batch_size` rows in each.
    ///
    /// A method that needs the model before its loss, for log-probabilities of a reference or for completions to judge,
    /// runs it here, without gradients.
    ///
    /// # Errors
    /// Whatever keeps the step from being taken.
    fn batches(&mut self, indices: &[usize], context: &StepContext) -> Result<Vec<Self::Batch>, TrainError>;

    /// Positions in the dataset of what a step is about, for an error; `indices` are those that its batches were made of.
    fn dataset_rows(&self, _batches: &[Self::Batch], indices: &[usize]) -> Vec<usize> {
        indices.to_vec()
    }

    /// What logits are divided by before they become log-probabilities: that at which completions were drawn.
    fn temperature(&self) -> f64 {
        1.0
    }

    /// The sequences of a micro-batch, with the labels whose log-probabilities the objective is about.
    fn sequences<'a>(&self, batch: &'a Self::Batch) -> &'a Batch;

    /// How much of a micro-batch the loss is a mean over: trained tokens, pairs, …
    ///
    /// The sum over a whole step is the `num_items_in_batch` of [`objective`](Self::objective), so that it does not
    /// matter how a step is cut into micro-batches.
    fn num_items(&self, batch: &Self::Batch) -> u64;

    /// Derivative of the step's loss with respect to the log-probabilities of a micro-batch.
    fn objective<'a>(&'a self, batch: &'a Self::Batch, num_items_in_batch: u64) -> Objective<'a>;

    /// What the method carries from one step to the next beside its rows and settings: nothing, unless it says so.
    ///
    /// It becomes part of every checkpoint. Of the method that evaluates nothing is kept: see [`follow`](Self::follow).
    fn state(&self) -> MethodState {
        MethodState::default()
    }

    /// Takes up what [`state`](Self::state) gave when the checkpoint was saved; empty where it gave nothing.
    ///
    /// # Errors
    /// What is wrong with the state.
    fn restore(&mut self, _state: MethodState) -> Result<(), String> {
        Ok(())
    }

    /// Takes over what an evaluation shares with the training under way, such as a reference that follows the policy.
    ///
    /// Called before each evaluation on the method that has the rows to evaluate with; `training` has the others.
    fn follow(&mut self, _training: &Self)
    where
        Self: Sized,
    {
    }

    /// The perplexity that belongs to a loss, where the loss is a mean negative log-likelihood.
    fn perplexity(&self, _loss: f64) -> Option<f64> {
        None
    }

    /// The micro-batch's part of the step's loss, and metrics.
    ///
    /// Also called in evaluation, with `num_items_in_batch` 1: then the loss is a sum.
    fn measure(&self, batch: &Self::Batch, tokens: &TokenLogprobs, num_items_in_batch: u64) -> Measures;
}

/// Settings by name.
pub(crate) fn settings_of(settings: &impl Serialize) -> Map<String, Value> {
    match json!(settings) {
        Value::Object(settings) => settings,
        _ => unreachable!("settings are a struct"),
    }
}

/// What [`Method::identity`] gives for rows that these numbers tell from others.
pub(crate) fn identity_of(
    method: &str,
    mut settings: Map<String, Value>,
    num_rows: usize,
    rows: impl IntoIterator<Item = i32>,
) -> Map<String, Value> {
    settings.insert("method".into(), method.into());
    settings.insert("num_rows".into(), num_rows.into());
    settings.insert("rows_sha256".into(), hash_of(rows).into());
    settings
}

/// What a method carries from step to step. It comes back from a checkpoint bit for bit.
#[derive(Debug, Clone, Default)]
pub struct MethodState {
    /// Counters, token ids, settings that change: anything that is JSON. Numbers that may not be finite belong into
    /// tensors.
    pub values: Map<String, Value>,
    /// Tensors of f32, f16 or bf16 by name, flattened to `[elements]`; on the model's device when they come back.
    pub tensors: BTreeMap<String, Tensor<1>>,
}

impl MethodState {
    /// Whether there is nothing to keep.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty() && self.tensors.is_empty()
    }
}

/// What a method may know of the step whose batches it makes.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct StepContext<'a> {
    /// The model as it is before the step.
    pub model: &'a Qwen2,
    /// Rows per forward pass.
    pub micro_batch_size: usize,
    /// Optimizer steps taken so far.
    pub step: u64,
    /// Seed of the run. Randomness that depends on `seed`, `step` and row alone needs no state to be resumed.
    pub seed: u64,
}

impl<'a> StepContext<'a> {
    /// The context of the step after `step`.
    pub fn new(model: &'a Qwen2, micro_batch_size: usize, step: u64, seed: u64) -> Self {
        Self { model, micro_batch_size, step, seed }
    }
}

/// Gets the positions of some tokens in their batch and their log-probabilities `[chunk]`; gives the derivative of the
/// loss with respect to each, `[chunk]`.
pub type TokenGradient<'a> = dyn Fn(&[usize], Tensor<1>) -> Tensor<1> + 'a;

/// Gets what the head says about a whole micro-batch, `[tokens]`; gives the derivative of the loss with respect to each
/// log-probability, `[tokens]`. What it gives where there is no label is not used.
pub type BatchGradient<'a> = dyn Fn(&TokenLogprobs) -> Tensor<1> + 'a;

/// As [`BatchGradient`], for a loss that depends on the entropies too.
pub type EntropyGradient<'a> = dyn Fn(&TokenLogprobs) -> TokenDerivatives + 'a;

/// Gets the scores of a micro-batch, zero where there is no label; gives the derivative of the loss with respect to each.
/// What it gives where there is no label is not used.
pub type ScoreGradient<'a> = dyn Fn(&Tensor<1>) -> Tensor<1> + 'a;

/// A function from the log-probabilities of labels to the derivative of the loss with respect to each.
#[expect(missing_debug_implementations, reason = "functions have nothing to show")]
pub enum Objective<'a> {
    /// Each token's derivative depends on its own log-probability, so that tokens can be done in chunks.
    PerToken(Box<TokenGradient<'a>>),
    /// As [`PerToken`](Self::PerToken), of log-probabilities of which a share is spread over the vocabulary:
    /// `(1 - ε) log p(label) + ε mean log p`. The function is given the log-probabilities of the labels alone.
    Smoothed {
        /// ε
        label_smoothing: f64,
        /// The derivatives.
        gradient: Box<TokenGradient<'a>>,
    },
    /// The derivatives depend on the whole micro-batch, as where sums over sequences are compared. Costs one more
    /// product with the head.
    Whole(Box<BatchGradient<'a>>),
    /// As [`Self::Whole`], where the loss depends on the entropies of the tokens too.
    WithEntropy(Box<EntropyGradient<'a>>),
    /// For a reward model: the derivative of the loss with respect to the score at each labelled position, `[tokens]`,
    /// given the scores there, `[tokens]`. They are the `mean_logit` of what is measured.
    Scores(Box<ScoreGradient<'a>>),
}

/// What a micro-batch adds to the step's loss and metrics.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Measures {
    /// Part of the step's loss: over the micro-batches of a step these sum to it.
    pub loss: f64,
    /// Sums and weights of the metrics.
    means: BTreeMap<String, Mean>,
}

/// A weighted mean under way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Mean {
    sum: f64,
    weight: f64,
}

impl Measures {
    /// A loss without metrics.
    pub fn new(loss: f64) -> Self {
        Self { loss, means: BTreeMap::new() }
    }

    /// Adds a metric that is logged as the mean `Σ sum / Σ weight` over micro-batches and steps, under TRL's name where
    /// TRL has it. For a mean over tokens, `weight` is their number.
    pub fn with(mut self, name: impl Into<String>, sum: f64, weight: f64) -> Self {
        self.means.insert(name.into(), Mean { sum, weight });
        self
    }

    /// Adds those of another micro-batch or step.
    pub fn add(&mut self, other: &Self) {
        self.loss += other.loss;
        for (name, mean) in &other.means {
            let total = self.means.entry(name.clone()).or_default();
            total.sum += mean.sum;
            total.weight += mean.weight;
        }
    }

    /// The mean of each metric; 0 where nothing was weighed.
    pub fn metrics(&self) -> BTreeMap<String, f64> {
        let mean = |mean: &Mean| if mean.weight > 0.0 { mean.sum / mean.weight } else { 0.0 };
        self.means.iter().map(|(name, value)| (name.clone(), mean(value))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One token at 3 and three tokens at 1 are 1.5 on average, not 2.
    #[test]
    fn metrics_are_means_over_weights() {
        let mut total = Measures::new(0.5).with("entropy", 3.0, 1.0);
        total.add(&Measures::new(0.25).with("entropy", 3.0, 3.0).with("rewards/margins", 0.0, 0.0));
        assert_eq!(total.loss, 0.75);
        assert_eq!(
            total.metrics(),
            [("entropy".to_owned(), 1.5), ("rewards/margins".to_owned(), 0.0)].into_iter().collect()
        );
    }
}
