//! What can go wrong with a reward.

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
            _ => None,
        }
    }
}
