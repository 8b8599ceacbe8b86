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
    /// Its text, without special tokens; what tools said stands in it.
    pub completion: String,
    /// What each reward gave, by name; null where it does not apply.
    pub rewards: Map<String, Value>,
    /// How much better it is than the others of its prompt.
    pub advantage: f64,
    /// Its tokens, the end token included, but not what tools wrote.
    pub num_tokens: usize,
    /// Whether it was cut at the longest length.
    pub truncated: bool,
    /// Calls of tools in it.
    #[serde(default, skip_serializing_if = "is_none")]
    pub tool_calls: usize,
    /// Those of them that gave no result.
    #[serde(default, skip_serializing_if = "is_none")]
    pub tool_failures: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_none(count: &usize) -> bool {
    *count == 0
}

/// Is told the completions of every generation batch. An error stops the run.
pub type CompletionsFn = dyn FnMut(&[CompletionRecord]) -> Result<(), crate::TrainError> + Send;
