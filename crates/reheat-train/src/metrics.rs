//! What a logged row holds, under TRL's names.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One line of `metrics.jsonl` and one entry of `log_history`.
///
/// `loss` is the mean of the steps' losses since the last row. A method's metrics are means over what they count since
/// then, mostly tokens; TRL 1.16 averages them over micro-batches instead, so that they depend on the batch size there.
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
    /// What the method measures, such as `entropy` in nats and `mean_token_accuracy`.
    #[serde(flatten)]
    pub metrics: BTreeMap<String, f64>,
    /// Tokens seen since the start, prompts included.
    pub num_tokens: u64,
    /// Passes over the dataset, with the fraction of the current one.
    pub epoch: f64,
    /// Tokens per second of wall time since the last row: with a machine's clock in it, the one number that differs
    /// between two runs of the same settings.
    pub tokens_per_second: f64,
}

impl LogRow {
    /// A metric of the method.
    pub fn metric(&self, name: &str) -> Option<f64> {
        self.metrics.get(name).copied()
    }
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
    /// Rows per second.
    pub train_samples_per_second: f64,
    /// Optimizer steps per second.
    pub train_steps_per_second: f64,
    /// Tokens seen.
    pub num_tokens: u64,
    /// Whether a callback stopped the run before its end.
    pub interrupted: bool,
}
