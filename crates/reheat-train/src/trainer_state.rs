//! `trainer_state.json`, which the tools around transformers read.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::LogEntry;

/// The keys of transformers 5.23's `TrainerState`, in its order.
///
/// Reheat writes it and never reads it: what a run needs to go on is in `training_state.json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct TrainerState {
    /// Step of the best evaluation so far.
    pub best_global_step: Option<u64>,
    /// The metric of the best evaluation so far.
    pub best_metric: Option<f64>,
    /// Directory of the checkpoint with the best evaluation so far.
    pub best_model_checkpoint: Option<String>,
    /// Passes over the dataset.
    pub epoch: f64,
    /// Steps between evaluations.
    pub eval_steps: u64,
    /// Optimizer steps taken.
    pub global_step: u64,
    /// Never so.
    pub is_hyper_param_search: bool,
    /// Always so: there is one process.
    pub is_local_process_zero: bool,
    /// Always so: there is one process.
    pub is_world_process_zero: bool,
    /// Every row so far.
    pub log_history: Vec<LogEntry>,
    /// Steps between rows.
    pub logging_steps: u64,
    /// Optimizer steps of the whole run.
    pub max_steps: u64,
    /// Tokens seen, prompts included.
    pub num_input_tokens_seen: u64,
    /// Passes that the whole run makes, a started one included.
    pub num_train_epochs: u64,
    /// Steps between checkpoints.
    pub save_steps: u64,
    /// Empty: callbacks keep no state here.
    pub stateful_callbacks: Map<String, Value>,
    /// Not counted.
    pub total_flos: f64,
    /// Rows per forward pass.
    pub train_batch_size: usize,
    /// Never set.
    pub trial_name: Option<String>,
    /// Never set.
    pub trial_params: Option<Value>,
}
