//! Who is told what while training runs.

use std::path::Path;

use crate::{LogRow, TrainError};

/// What is known before the first step.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct TrainStart {
    /// Optimizer steps that will be taken.
    pub total_steps: u64,
    /// Sequences in the dataset.
    pub num_sequences: usize,
    /// Tokens in the dataset, prompts included.
    pub num_tokens: u64,
}

impl TrainStart {
    pub(crate) fn new(total_steps: u64, num_sequences: usize, num_tokens: u64) -> Self {
        Self { total_steps, num_sequences, num_tokens }
    }
}

/// Whether to go on after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Control {
    /// On to the next step.
    #[default]
    Continue,
    /// Save a checkpoint and stop.
    Stop,
}

/// Observes a run. Every method does nothing unless it is overridden.
pub trait Callback {
    /// Before the first step.
    fn on_start(&mut self, _start: &TrainStart) {}

    /// After every optimizer step, with that step's own numbers.
    fn on_step(&mut self, _row: &LogRow) -> Control {
        Control::Continue
    }

    /// Every `logging_steps` steps and after the last.
    ///
    /// # Errors
    /// An error stops the run.
    fn on_log(&mut self, _row: &LogRow) -> Result<(), TrainError> {
        Ok(())
    }

    /// After a checkpoint is complete.
    fn on_save(&mut self, _dir: &Path) {}
}

/// Observes nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoCallback;

impl Callback for NoCallback {}
