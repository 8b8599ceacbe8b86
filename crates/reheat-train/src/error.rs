//! What can go wrong while training.

use std::io;
use std::path::PathBuf;

use reheat_generate::GenerateError;
use reheat_model::ModelError;
use reheat_tokenizer::TokenizerError;

use crate::{RewardError, ToolError};

/// Why training cannot start or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// Settings that cannot work; every fault is listed.
    #[error("{}", .0.join("; "))]
    Config(Vec<String>),
    /// There is nothing to train on.
    #[error("the dataset holds no sequence with a token to learn")]
    EmptyDataset,
    /// A sequence holds ids that the model does not have.
    #[error("sequence {index} holds token id {id}, but the model's vocabulary has {vocab_size}")]
    TokenOutsideVocabulary {
        /// Position in the dataset.
        index: usize,
        /// The id.
        id: u32,
        /// Rows of the embedding.
        vocab_size: usize,
    },
    /// An answer of a pair has no token.
    #[error("pair {index} has an answer without a token")]
    EmptyAnswer {
        /// Position in the dataset.
        index: usize,
    },
    /// The loss or the gradient is NaN or infinite.
    #[error(
        "{what} is {value} at step {step}, in the batch of rows {}; training stopped before the update",
        some_of(.rows)
    )]
    NotFinite {
        /// `loss` or `grad_norm`.
        what: &'static str,
        /// The value.
        value: f64,
        /// The optimizer step that was not taken.
        step: u64,
        /// Positions in the dataset of the rows of this step.
        rows: Vec<usize>,
    },
    /// A file of the run could not be written.
    #[error("cannot write `{}`", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file of an earlier run could not be read.
    #[error("cannot read `{}`", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A checkpoint is not what was written.
    #[error("the checkpoint `{}` is damaged: {reason}", .dir.display())]
    Damaged {
        /// The checkpoint.
        dir: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// There is nothing to resume from.
    #[error("`{}` holds no checkpoint to resume from{}", .dir.display(), listed(.damaged))]
    NoCheckpoint {
        /// The output directory.
        dir: PathBuf,
        /// What is wrong with those that are there.
        damaged: Vec<String>,
    },
    /// `metric_for_best_model` names nothing that is measured.
    #[error("metric_for_best_model is `{metric}`, but an evaluation measures {}", .known.join(", "))]
    UnknownMetric {
        /// The setting.
        metric: String,
        /// What there is.
        known: Vec<String>,
    },
    /// A callback could not go on.
    #[error("{0}")]
    Callback(String),
    /// A run cannot be continued with settings that decide which rows its steps have, or what is trained.
    #[error("the run to resume had other settings: {}", .0.join("; "))]
    Changed(Vec<String>),
    /// A prompt without a token, to which there is no completion.
    #[error("prompt {index} of the dataset has no token")]
    EmptyPrompt {
        /// Position in the dataset.
        index: usize,
    },
    /// A prompt that leaves no room for a completion.
    #[error("prompt {index} of the dataset has {tokens} tokens, and the model's context holds {context}")]
    PromptTooLong {
        /// Position in the dataset.
        index: usize,
        /// Its length.
        tokens: usize,
        /// The model's.
        context: usize,
    },
    /// Completions could not be drawn.
    #[error("cannot draw completions")]
    Generate(#[from] GenerateError),
    /// A function that writes completions did not do so.
    #[error("cannot draw completions: {0}")]
    Rollout(String),
    /// The text of a completion could not be told.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The model could not be saved.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Completions could not be judged.
    #[error(transparent)]
    Reward(#[from] RewardError),
    /// Tools cannot be called.
    #[error(transparent)]
    Tool(#[from] ToolError),
}

/// Rows that an error names; the others it counts.
const NAMED_ROWS: usize = 16;

fn some_of(rows: &[usize]) -> String {
    match rows.split_at_checked(NAMED_ROWS) {
        Some((named, others)) if !others.is_empty() => format!("{named:?} and {} others", others.len()),
        _ => format!("{rows:?}"),
    }
}

fn listed(damaged: &[String]) -> String {
    damaged.iter().map(|one| format!("; {one}")).collect()
}

impl TrainError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::EmptyDataset => Some(
                "look at what is trained on with `reheat data preview`; a longer --max-length may keep the answers"
                    .into(),
            ),
            Self::TokenOutsideVocabulary { .. } => Some("use the tokenizer that belongs to the model".into()),
            Self::NotFinite { .. } => {
                Some("lower --learning-rate; what was saved before this step is still in the output directory".into())
            }
            Self::Damaged { .. } => Some(
                "--resume-from-checkpoint true takes the newest intact checkpoint of --output-dir".into(),
            ),
            Self::NoCheckpoint { .. } => {
                Some("leave --resume-from-checkpoint out to start anew, or name a checkpoint's directory".into())
            }
            Self::Changed(_) => Some(
                "set them back to go on, or start anew from the checkpoint: --model CHECKPOINT with another --output-dir"
                    .into(),
            ),
            Self::PromptTooLong { context, .. } => {
                Some(format!("--max-prompt-length leaves such rows out, and counts them: less than {context}"))
            }
            Self::Model(error) => error.hint(),
            Self::Reward(error) => error.hint(),
            Self::Tool(error) => error.hint(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_few_rows_and_counts_the_others() {
        assert_eq!(some_of(&[3, 1]), "[3, 1]");
        let rows: Vec<usize> = (0..20).collect();
        assert_eq!(some_of(&rows), "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15] and 4 others");
    }
}
