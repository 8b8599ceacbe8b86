//! Completions for a person.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One completion as it was judged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CompletionRecord {
    /// The optimizer step that was the first to be trained on it.
    pub step: u64,
    /// Text, or messages.
    pub prompt: Value,
    /// Its text, without special tokens.
    pub completion: String,
    /// What each reward gave, by name; null where it does not apply.
    pub rewards: Map<String, Value>,
    /// How much better it is than the others of its prompt.
    pub advantage: f64,
    /// Its tokens, the end token included.
    pub num_tokens: usize,
    /// Whether it was cut at the longest length.
    pub truncated: bool,
}

/// Is told the completions of every generation batch. An error stops the run.
pub type CompletionsFn = dyn FnMut(&[CompletionRecord]) -> Result<(), crate::TrainError> + Send;
