//! What a logged row holds, under TRL's names.

use serde::{Deserialize, Serialize};

/// One line of `metrics.jsonl` and one entry of `log_history`.
///
/// `loss`, `entropy` and `mean_token_accuracy` are means over all trained tokens since the last row. TRL 1.16 averages
/// the latter two over micro-batches instead, so that they depend on the batch size there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogRow {
    /// Optimizer step.
    pub step: u64,
    /// Mean of the steps' losses.
    pub loss: f64,
    /// L2 norm of the gradient before clipping, of the last step.
    pub grad_norm: f64,
    /// Learning rate of the last step.
    pub learning_rate: f64,
    /// Entropy of the predictions in nats, per trained token.
    pub entropy: f64,
    /// Share of trained tokens that were the most likely one.
    pub mean_token_accuracy: f64,
    /// Tokens seen since the start, prompts included.
    pub num_tokens: u64,
    /// Passes over the dataset, with the fraction of the current one.
    pub epoch: f64,
    /// Tokens per second of wall time since the last row.
    pub tokens_per_second: f64,
}

/// What training came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainSummary {
    /// Optimizer steps taken.
    pub global_step: u64,
    /// Mean loss over all steps.
    pub train_loss: f64,
    /// Wall time in seconds.
    pub train_runtime: f64,
    /// Sequences per second.
    pub train_samples_per_second: f64,
    /// Optimizer steps per second.
    pub train_steps_per_second: f64,
    /// Tokens seen.
    pub num_tokens: u64,
    /// Whether a callback stopped the run before its end.
    pub interrupted: bool,
}

/// Sums over tokens, from which a row's means are taken.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct TokenSums {
    /// Trained tokens.
    pub(crate) items: u64,
    /// Sum of the loss over trained tokens.
    pub(crate) loss: f64,
    /// Sum of the entropies.
    pub(crate) entropy: f64,
    /// Trained tokens that were predicted.
    pub(crate) hits: f64,
}

impl TokenSums {
    pub(crate) fn add(&mut self, other: Self) {
        self.items += other.items;
        self.loss += other.loss;
        self.entropy += other.entropy;
        self.hits += other.hits;
    }

    /// `sum` per trained token; 0 where there is none.
    pub(crate) fn mean(&self, sum: f64) -> f64 {
        sum / (self.items.max(1) as f64)
    }
}
