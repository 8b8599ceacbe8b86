//! What can go wrong with a reward.

use crate::program::{ProgramFault, quoted};

/// Why completions cannot be judged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RewardError {
    /// The number of scores is not that of the completions.
    #[error("reward `{reward}` gave {got} scores for {expected} completions, expected one each")]
    Count {
        /// Its name.
        reward: String,
        /// Scores given.
        got: usize,
        /// Completions asked about.
        expected: usize,
    },
    /// A score is NaN or infinite.
    #[error(
        "reward `{reward}` is {value} for completion {index} of its batch, to the prompt `{prompt}`, expected a finite number"
    )]
    NotFinite {
        /// Its name.
        reward: String,
        /// The score.
        value: f64,
        /// Position of the completion in the batch.
        index: usize,
        /// The end of its prompt.
        prompt: String,
    },
    /// No row has a column that the reward reads.
    #[error(
        "reward `{reward}` needs the column `{column}`, but no row of the dataset has it; the first row has {}",
        listed(.known)
    )]
    MissingColumn {
        /// Its name.
        reward: String,
        /// The column.
        column: String,
        /// Columns of the first row.
        known: Vec<String>,
    },
    /// No reward has this name.
    #[error("reward `{name}` is unknown, expected one of {}", .known.join(", "))]
    Unknown {
        /// The name.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// The arguments of a built-in reward cannot work.
    #[error("reward `{spec}`: {reason}")]
    Spec {
        /// Name and arguments as they were given.
        spec: String,
        /// What is wrong.
        reason: String,
    },
    /// A row holds what a reward cannot use.
    #[error("reward `{reward}` cannot judge a completion of the prompt `{prompt}`: {reason}")]
    Row {
        /// Its name.
        reward: String,
        /// The end of the prompt.
        prompt: String,
        /// What is wrong with the row.
        reason: String,
    },
    /// A reward program did not answer as it should.
    #[error("reward program `{command}` {fault}{}", quoted(.last_words))]
    Program {
        /// The reward's name.
        reward: String,
        /// What was run.
        command: String,
        /// What it did.
        fault: ProgramFault,
        /// Its last lines on standard error.
        last_words: Vec<String>,
    },
    /// A reward model could not be loaded.
    #[error("reward model `{model}` cannot be loaded")]
    Model {
        /// Its path or name.
        model: String,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A model that was to judge is a language model.
    #[error("the model of reward `{reward}` has no head for scores")]
    NoScoreHead {
        /// The reward's name.
        reward: String,
    },
    /// A reward of the caller's own could not judge.
    #[error("reward `{reward}` failed: {reason}")]
    Failed {
        /// Its name.
        reward: String,
        /// Why, in its own words.
        reason: String,
    },
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

impl RewardError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotFinite { .. } => {
                Some("a reward that does not apply to a row is no number at all: None in Rust, null in JSON".into())
            }
            Self::MissingColumn { .. } => {
                Some("name another column after a colon, or see what there is with `reheat data inspect`".into())
            }
            Self::NoScoreHead { .. } => Some("train a reward model with `reheat reward`".into()),
            Self::Program { fault: ProgramFault::Garbage { .. } | ProgramFault::Unasked { .. }, .. } => Some(
                "each line of input is a list of completions and wants one line with a list of as many numbers; what is for people goes to standard error"
                    .into(),
            ),
            Self::Program { fault: ProgramFault::Silent { .. }, .. } => Some(
                "flush the output after each line (in Python, print(…, flush=True)), or allow more time: program:timeout_secs=600,COMMAND"
                    .into(),
            ),
            _ => None,
        }
    }
}
