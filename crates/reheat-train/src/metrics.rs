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

/// What an evaluation came to: means over everything that was measured, whatever the batch size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvalRow {
    /// Optimizer steps taken before.
    pub step: u64,
    /// Passes over the dataset before.
    pub epoch: f64,
    /// Mean over everything that the loss counts: exact over tokens, where transformers averages batch means.
    #[serde(rename = "eval_loss")]
    pub loss: f64,
    /// Everything else by name, as in [`LogRow::metrics`], and `perplexity` where the loss is a likelihood's.
    #[serde(flatten, with = "prefixed")]
    pub metrics: BTreeMap<String, f64>,
    /// Wall time in seconds.
    #[serde(rename = "eval_runtime")]
    pub runtime: f64,
    /// Rows per second.
    #[serde(rename = "eval_samples_per_second")]
    pub samples_per_second: f64,
}

impl EvalRow {
    /// `loss` or another metric, with or without `eval_` before it.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let name = name.strip_prefix(PREFIX).unwrap_or(name);
        if name == "loss" { Some(self.loss) } else { self.metrics.get(name).copied() }
    }
}

/// Before the name of every metric of an evaluation.
const PREFIX: &str = "eval_";

/// Metrics by their own names here, with [`PREFIX`] in files.
mod prefixed {
    use std::collections::BTreeMap;

    use serde::{Deserialize as _, Deserializer, Serializer};

    use super::PREFIX;

    pub(super) fn serialize<S: Serializer>(metrics: &BTreeMap<String, f64>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(metrics.iter().map(|(name, value)| (format!("{PREFIX}{name}"), value)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, f64>, D::Error> {
        let read = BTreeMap::<String, f64>::deserialize(deserializer)?;
        Ok(read.into_iter().filter_map(|(name, value)| Some((name.strip_prefix(PREFIX)?.to_owned(), value))).collect())
    }
}

/// One line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum LogEntry {
    /// A row of training.
    Train(LogRow),
    /// An evaluation.
    Evaluation(EvalRow),
}

impl LogEntry {
    /// Optimizer steps taken before it was logged.
    pub fn step(&self) -> u64 {
        match self {
            Self::Train(row) => row.step,
            Self::Evaluation(row) => row.step,
        }
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
    /// The step whose weights the run ends with, where that is not the last.
    pub best_step: Option<u64>,
    /// Whether evaluations that were no longer better ended the run.
    pub stopped_early: bool,
    /// Whether a callback stopped the run before its end.
    pub interrupted: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_training_and_evaluation_are_told_apart() {
        let metrics = |value| [("entropy".to_owned(), value)].into_iter().collect();
        let train = LogRow {
            step: 2,
            loss: 1.5,
            grad_norm: 0.5,
            learning_rate: 0.25,
            metrics: metrics(3.5),
            num_tokens: 7,
            epoch: 0.5,
            tokens_per_second: 4.0,
        };
        let evaluation =
            EvalRow { step: 2, epoch: 0.5, loss: 1.25, metrics: metrics(2.5), runtime: 0.5, samples_per_second: 8.0 };
        let entries = [LogEntry::Train(train), LogEntry::Evaluation(evaluation.clone())];
        let text = serde_json::to_string(&entries).unwrap();
        assert!(text.contains(r#""eval_loss":1.25,"eval_entropy":2.5,"eval_runtime":0.5"#), "{text}");
        assert_eq!(serde_json::from_str::<Vec<LogEntry>>(&text).unwrap(), entries);
        assert_eq!((evaluation.metric("eval_loss"), evaluation.metric("entropy")), (Some(1.25), Some(2.5)));
    }
}
