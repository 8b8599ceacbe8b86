//! What can go wrong while training.

use std::io;
use std::path::PathBuf;

use reheat_model::ModelError;

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
    #[error("{what} is {value} at step {step}, in the batch of rows {rows:?}; training stopped before the update")]
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
    /// The model could not be saved.
    #[error(transparent)]
    Model(#[from] ModelError),
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
            Self::Model(error) => error.hint(),
            _ => None,
        }
    }
}
